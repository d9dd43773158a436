"""What `impasto prune`, `graft` and `quantize` do to a transformer, asked for by options.

Each is called with a transformer, changes it in place and tells what was done, JSON-ready;
`models.edited.folder.edited_folder` makes folders with them. Options that do not belong together
are refused at once, those that do not fit a transformer when it is there. `spell` writes an
option's name in messages, as whoever asks spells it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from impasto.models.edited.grafts import checked_graft, inherit_, operator_path
from impasto.models.edited.hosts import Host, host_of, parameters
from impasto.models.edited.operators import OPERATORS, PLACES
from impasto.models.edited.pairs import pairs_of
from impasto.models.edited.quantisation import Quantisation
from impasto.models.edited.quantised import is_quantised, memory
from impasto.models.edited.record import apply, edits_of
from impasto.models.edited.stock import misfit, restock
from impasto.surgery.choose import Plan, at_random, by_score, greedy, hpp
from impasto.surgery.contribution import Unit, read_contributions
from impasto.surgery.costs import graft_delta
from impasto.surgery.patterns import PATTERNS, select_blocks
from impasto.surgery.presets import PRESETS, Removed, parse_blocks, parse_components, removal
from impasto.surgery.redundancy import Interval, intervals, probes_of
from impasto.zoo.registry import nearest, parse_options

__all__ = ["Grafting", "Pruning", "Spell", "quantising"]

Spell = Callable[[str], str]
UNSAID = {"key": False}
"""Of a field that is no key of a recipe's."""
ORDERS = ("hpp", "printed", "score", "random", "intervals")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Remove blocks, or parts of them: by `preset`, by `blocks` ("25-29,31") and `components`
    ("13:ff+ff_context"), or by `scores` (a file of `surgery.contribution`) until less than
    `budget` of the parameters is left, in an order of `ORDERS`; by intervals (PPCL) from a file
    that has probes. seed: of a random order of the file's units. eligible, exclude: as of
    `surgery.choose.greedy`. identities: blocks keep their numbers. renumber: remove nothing more.
    Raises ValueError for what does not go together."""

    preset: str | None = None
    blocks: str | None = None
    components: str | None = None
    scores: str | Path | None = None
    budget: float | None = None
    order: str | None = None
    base_score: float | None = None
    eligible: str | None = None
    exclude: Sequence[str] | None = None
    seed: int | None = None
    identities: bool = False
    renumber: bool = False
    spell: Spell = field(default=str, repr=False, metadata=UNSAID)

    def __post_init__(self) -> None:
        spell = self.spell
        if self.renumber and self.identities:
            raise ValueError(f"{spell('renumber')} and {spell('identities')} are opposites; give "
                             f"one of them")  # fmt: skip
        named = f"{spell('blocks')} or {spell('components')}"
        ways = {spell("preset"): self.preset, spell("scores"): self.scores,
                named: self.components if self.blocks is None else self.blocks,
                spell("renumber"): self.renumber or None}  # fmt: skip
        given = [name for name, value in ways.items() if value is not None]
        if not given:
            raise ValueError(f"nothing says what to remove; give {', '.join(ways)}")
        for alone in (spell("preset"), spell("renumber")):
            if alone in given and len(given) > 1:
                other = next(name for name in given if name != alone)
                raise ValueError(f"{alone} says all by itself; give it without {other}")
        self._check_scores()
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"unknown preset {self.preset!r}: "
                             f"{nearest(self.preset, list(PRESETS))}")  # fmt: skip
        _ = self._named()

    def _check_scores(self) -> None:
        spell = self.spell
        of_scores = ("budget", "order", "base_score", "eligible", "exclude", "seed")
        others = [key for key in of_scores if getattr(self, key) is not None]
        if self.scores is None and others:
            raise ValueError(f"{spell(others[0])} is about {spell('scores')}; give "
                             f"{spell('scores')} FILE with it")  # fmt: skip
        if self.scores is not None and self.budget is None:
            raise ValueError(f"{spell('scores')} needs {spell('budget')}, the share of the "
                             f"parameters to be left")  # fmt: skip
        if self.order not in (None, *ORDERS):
            raise ValueError(f"{spell('order')} must be one of {', '.join(ORDERS)}, given "
                             f"{self.order!r}")  # fmt: skip
        if self.order == "intervals":
            alone = ("eligible", "exclude", "blocks", "components", "base_score")
            if given := [key for key in alone if getattr(self, key) is not None]:
                raise ValueError(f"{spell('order')} intervals chooses among all blocks; give it "
                                 f"without {spell(given[0])}")  # fmt: skip
        if self.seed is not None and self.order != "random":
            raise ValueError(f"{spell('seed')} is about {spell('order')} random; give that, or "
                             f"leave it out")  # fmt: skip

    def _named(self) -> dict[int, tuple[str, ...]]:
        whole = parse_blocks(self.blocks) if self.blocks is not None else ()
        parts = parse_components(self.components) if self.components is not None else {}
        if both := sorted({*whole} & {*parts}):
            raise ValueError(f"block {both[0]} is in {self.spell('blocks')} and in "
                             f"{self.spell('components')}; give it once")  # fmt: skip
        return dict.fromkeys(whole, ("all",)) | parts

    def plan(self, host: Host) -> tuple[Plan, Sequence[Interval]]:
        """What is removed of a host, and intervals that one block is to stand in for. Raises
        ValueError for what does not fit the host, or its scores."""
        if self.order == "intervals" and self.budget is not None:
            found, plan = intervals(host, probes_of(str(self.scores), host.depth), self.budget)
            return plan, found
        return self._planned(host), ()

    def _planned(self, host: Host) -> Plan:
        if self.preset is not None:
            PRESETS[self.preset].check(host, self.preset)
            return Plan.of(host, PRESETS[self.preset].removed)
        named: Removed = {} if self.renumber else self._named()
        if self.scores is None or self.budget is None:
            return Plan.of(host, named)
        eligible = None if self.eligible is None else parse_blocks(self.eligible)
        return greedy(host, self._ranking(Path(self.scores), host), self.budget, first=named,
                      exclude=self.exclude or (), eligible=eligible)  # fmt: skip

    def _ranking(self, path: Path, host: Host) -> list[Unit]:
        found, order = read_contributions(path, self.base_score), self.order or ORDERS[0]
        if order == "score":
            return by_score(found)
        if order == "random":
            return at_random(found.scores, self.seed or 0)
        if found.base is None:
            raise ValueError(f"{path} does not have the whole model's score; give it as "
                             f"{self.spell('base_score')}, or take the released code's "
                             f"{self.spell('order')} score")  # fmt: skip
        return hpp(found, host.depth, {"hpp": "late", "printed": "printed"}[order])

    def __call__(self, transformer: nn.Module) -> dict[str, Any]:
        if is_quantised(transformer):
            raise ValueError("this transformer is quantised; prune what it was made of, and "
                             "quantise the result")  # fmt: skip
        host = host_of(transformer)
        (plan, kept), depth = self.plan(host), host.depth
        if plan.removed:
            apply(transformer, removal(plan.removed, kept))
        if self.renumber and not edits_of(transformer):
            raise ValueError(f"nothing was removed here, or blocks were numbered anew already; "
                             f"{self.spell('renumber')} is for a model of "
                             f"{self.spell('identities')}")  # fmt: skip
        reason = self.spell("identities") if self.identities else misfit(transformer)
        if reason is None or not plan.removed:
            restock(transformer)  # of what has no such form it says why
        return {"family": host.family.name, "blocks": depth,
                **{key: value for key, value in removal(plan.removed, kept).items()
                   if key != "edit"}, "parameters_before": plan.before,
                "parameters_after": plan.after if reason else parameters(transformer),
                "stock": reason is None, "not_stock_because": reason}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Grafting:
    """Put an `operator` ("mlp:ratio=3") in the `place` of others in some `blocks` (a pattern or
    numbers), or blocks side by side (`pairs`). locality: file of a pattern by it. copy: begin with
    the host's weights; else with those of `seed`. Raises ValueError for what does not go together.
    """

    operator: str | None = None
    place: str | None = None
    pairs: bool = False
    blocks: str | None = None
    ratio: float | None = None
    locality: Path | None = None
    copy: bool = False
    seed: int = 0
    spell: Spell = field(default=str, repr=False, metadata=UNSAID)

    def __post_init__(self) -> None:
        spell = self.spell
        others = {"operator": self.operator, "place": self.place, "ratio": self.ratio,
                  "locality": self.locality, "copy": self.copy or None}  # fmt: skip
        if self.pairs:
            if given := [key for key, value in others.items() if value is not None]:
                raise ValueError(f"{spell('pairs')} grafts no operator; give it without "
                                 f"{spell(given[0])}")  # fmt: skip
        elif self.operator is None:
            raise ValueError(f"nothing says what to graft; give {spell('operator')}, or "
                             f"{spell('pairs')}")  # fmt: skip
        else:
            OPERATORS.factory(self.operator.partition(":")[0])
            self._check_blocks(spell)

    def _check_blocks(self, spell: Spell) -> None:
        text = self.blocks or "interleaved"
        if text[:1].isdecimal():
            parse_blocks(text)
            if self.ratio is not None or self.locality is not None:
                other = spell("locality" if self.ratio is None else "ratio")
                raise ValueError(f"{other} is about a pattern; {spell('blocks')} {text} says all "
                                 f"by itself")  # fmt: skip
        elif self.locality is not None and not text.endswith("-local"):
            raise ValueError(f"{spell('locality')} is about top-local and low-local, given "
                             f"{spell('blocks')} {text}")  # fmt: skip
        elif text not in PATTERNS:
            raise ValueError(f"{spell('blocks')} is a pattern ({', '.join(PATTERNS)}) or numbers "
                             f"such as 1,3,8-12, given {text!r}")  # fmt: skip

    def change(self, host: Host) -> dict[str, Any]:
        """The edit of a host. Raises ValueError for what does not fit it."""
        if self.operator is None:
            if self.blocks is None:
                return {"edit": "pairs", "pairs": pairs_of(host)}
            given = list(parse_blocks(self.blocks))
            pairs = [given[i : i + 2] for i in range(0, len(given), 2)]
            return {"edit": "pairs", "pairs": pairs}
        name, _, rest = self.operator.partition(":")
        place = self.place or next(key for key, names in PLACES.items() if name in names)
        text = self.blocks or "interleaved"
        blocks = list(parse_blocks(text)) if text[:1].isdecimal() else select_blocks(
            text, host.depth, ratio=self.ratio, locality=_measured(self.locality))  # fmt: skip
        return {"edit": "graft", "operator": name, "blocks": blocks, "place": place,
                "options": parse_options(rest, f"operator {name!r}")}  # fmt: skip

    def __call__(self, transformer: nn.Module) -> dict[str, Any]:
        host, before = host_of(transformer), parameters(transformer)
        change = self.change(host)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            done = change if self.operator is None else self._grafted(host, change)
            if self.operator is None:
                apply(transformer, change)
        return {"family": host.family.name, "depth": host.depth, **done,
                "parameters_before": before,
                "parameters_after": parameters(transformer)}  # fmt: skip

    def _grafted(self, host: Host, change: dict[str, Any]) -> dict[str, Any]:
        """Graft, and say what changed."""
        place, operator, _, blocks = checked_graft(change)
        delta = graft_delta(host.model, change)
        old = {path: host.model.get_submodule(path)
               for path in (operator_path(host, i, place) for i in blocks)}  # fmt: skip
        apply(host.model, change)
        if self.copy and not all([inherit_(host.model.get_submodule(path), was)
                                  for path, was in old.items()]):  # fmt: skip
            raise ValueError(f"{self.spell('copy')}: {operator} is not of the kind and size of "
                             f"what it replaces; leave it out, for fresh weights")  # fmt: skip
        return {**change, "copied": self.copy, "delta_percent": delta.to_dict()}


def _measured(path: Path | None) -> list[float] | None:
    if path is None:
        return None
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
        raise ValueError(f"{path} must hold a JSON list of numbers, one a block")
    return values


def quantising(how: Quantisation) -> Callable[[nn.Module], Mapping[str, Any]]:
    """Quantise a transformer's linear layers."""
    def edit(transformer: nn.Module) -> dict[str, Any]:
        before = memory(transformer).total
        apply(transformer, how.to_edit())
        after = memory(transformer)
        return {"weights": after.weights, "bytes_before": before, "bytes_after": after.total,
                "bytes_not_quantised": after.rest, "bits_a_weight": after.bits}  # fmt: skip

    return edit
