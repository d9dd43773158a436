"""Contribution analysis: what a score loses when a unit of the network is an identity.

HierarchicalPrune (Kwon et al. 2025, arXiv 2508.04663): for block i and component c,

    P(i, c)  = mean score of pictures drawn without (i, c)
    dP(i, c) = P(i, c) - P_orig

Published: HPSv2 x 100 over 20 prompts a style for components and 100 for blocks, 4 steps, guidance
0, seed 0. Here one model stays in memory; a unit is taken out and put back. Texts are encoded once
for all units: a generator's `start` makes states that nothing changes, and all units go on from
them. Every unit's score is on disk as soon as it is known, and not made again.

    OUT/measured.json               what they are measured by; a resume must match it
    OUT/scores/013-ff.json          {"score", "values": one a picture}; of nothing: whole.json
    OUT/contributions.json          {"base", "scores": {"13<tab>ff": 30.659, ...}, "measured"}

The released files are the inner object alone, highest score first, the key's tab spelled out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from impasto import files
from impasto.models.edited.hosts import host_of
from impasto.models.edited.identities import remove as remove_edit
from impasto.sample.protocol import Generator, Request, Sampling, row_seed
from impasto.score.base import Scorer
from impasto.spec import Spec

__all__ = ["WHOLE", "Contributions", "Unit", "contributions", "read_contributions",
           "scores_without", "undone", "units", "without"]  # fmt: skip

Unit = tuple[int, str]
"""A block's number and a component of it, or "all"."""
WHOLE = None
"""Of nothing taken out: stands for a unit where scores are measured."""
Remove = Callable[[nn.Module, int, str], None]
"""Puts an identity in the place of a unit."""
TAB = "<tab>"


@dataclass(frozen=True)
class Contributions:
    """scores: unit -> P, highest first. base: P of the whole network; None where a released file
    does not say. measured: by what."""

    scores: Mapping[Unit, float]
    base: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = sorted(self.scores.items(), key=lambda item: (-item[1], item[0]))
        object.__setattr__(self, "scores", dict(ordered))

    @property
    def drops(self) -> dict[Unit, float]:
        """dP. Raises ValueError where the base is not known."""
        if self.base is None:
            raise ValueError("these scores say nothing of the whole network's; give its score on "
                             "the same pictures as base")  # fmt: skip
        return {unit: score - self.base for unit, score in self.scores.items()}

    @property
    def released(self) -> dict[str, float]:
        """As the official code writes and reads them."""
        return {f"{block}{TAB}{component}": score
                for (block, component), score in self.scores.items()}  # fmt: skip

    def save(self, path: str | Path, *, released: bool = False) -> None:
        """Write all, or (released) what the official code reads."""
        whole = {"base": self.base, "scores": self.released, "measured": dict(self.measured)}
        files.write_json(path, self.released if released else whole)


def _unit(path: Path, key: str, score: Any) -> tuple[Unit, float]:
    block, tab, component = key.partition(TAB)
    if not (block.isdecimal() and tab and component) or isinstance(score, bool) or not (
        isinstance(score, int | float) and math.isfinite(score)
    ):
        raise ValueError(f"{path}: {key!r}: {score!r} is no score of a unit; a line is "
                         f'"13{TAB}ff": 30.659')  # fmt: skip
    return (int(block), component), float(score)


def read_contributions(path: str | Path, base: float | None = None) -> Contributions:
    """Those that `save` or the official code wrote. base: the whole network's score, where the
    file has none. Raises FileNotFoundError, ValueError for another file."""
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object of scores, not {type(values).__name__}")
    own = isinstance(values.get("scores"), dict)
    scores = dict(_unit(path, key, score)
                  for key, score in (values["scores"] if own else values).items())  # fmt: skip
    known = values.get("base") if own else None
    return Contributions(scores, base if known is None else known,
                         values.get("measured", {}) if own else {})  # fmt: skip


def units(model: nn.Module, whole: bool = False) -> list[Unit]:
    """Every component of every block of a host, or (whole) every block."""
    host = host_of(model)
    return [(i, component) for i in range(host.depth)
            for component in (("all",) if whole else host.components(i))]  # fmt: skip


def without(model: nn.Module, block: int, component: str) -> None:
    """Put the published identity in the place of a unit, for good."""
    remove_edit(model, {"removed": {block: [component]}})


@contextlib.contextmanager
def undone(model: nn.Module) -> Iterator[None]:
    """Whatever modules are exchanged in `model` within it, it has its own again afterwards."""
    held = ("_modules", "_parameters", "_buffers")
    kept = [(module, type(module), {key: dict(value) if key in held else value
                                    for key, value in vars(module).items()})
            for module in model.modules()]  # fmt: skip
    try:
        yield
    finally:
        for module, kind, values in kept:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(values)


# ---------------------------------------------------------------------- measuring


@dataclass
class _Drawn:
    """Begun states of all pictures, and their scores for the network as it is now."""

    generator: Generator
    scorer: Scorer
    specs: Sequence[Spec]
    states: Sequence[Any]
    scale: float

    def values(self) -> list[float | None]:
        """Of every picture; None where the scorer could not say."""
        found: list[float | None] = []
        for begun in self.states:
            state = begun
            with torch.inference_mode():
                while not state.done:
                    state = self.generator.advance(state)
                images = self.generator.finish(state)
            own = self.specs[len(found) : len(found) + len(images)]
            found += [None if math.isnan(score.value) else self.scale * score.value
                      for score in self.scorer.score(images, own)]  # fmt: skip
        return found


def _of(path: Path, draw: Callable[[], list[float | None]]) -> float:
    """The score that is at `path`, or is now drawn and put there."""
    if not path.is_file():
        values = draw()
        read = [value for value in values if value is not None]
        if not read or not all(map(math.isfinite, read)):
            raise ValueError(f"{path.stem}: the scorer gives no finite number for any picture, or "
                             f"an infinite one: {values[:4]}")  # fmt: skip
        files.write_json(path, {"score": math.fsum(read) / len(read), "values": values})
    return json.loads(path.read_text())["score"]


def _record(path: Path, record: Mapping[str, Any]) -> None:
    """Raises ValueError where something else was measured there."""
    record = json.loads(files.json_text(dict(record)))
    if not path.is_file():
        files.write_json(path, record)
    before = json.loads(path.read_text())
    if other := [key for key in record if before.get(key) != record[key]]:
        raise ValueError(f"{path.parent} holds scores by another {' and '.join(other)}; give "
                         f"another folder, or what they were made with")  # fmt: skip


def scores_without(
    generator: Generator, parts: Iterable[Unit | None], specs: Sequence[Spec], scorer: Scorer,
    out: str | Path, *, remove: Remove = without, samples: int = 1, seed: int = 0,
    sampling: Sampling | None = None, batch_size: int = 32, scale: float = 1.0,
    names: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> dict[Unit | None, float]:  # fmt: skip
    """P of each of `parts`, which may be some of a model's, `WHOLE` among them; into `out`, where
    other processes may measure others at the same time. Otherwise as `contributions`."""
    model: Any = getattr(generator, "transformer", None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{type(generator).__name__} has no transformer to take units out of; "
                         f"give a generator with one, such as sticker-mmdit")  # fmt: skip
    scorer.self_test()
    out, sampling, every = Path(out), sampling or Sampling(), list(dict.fromkeys(parts))
    rows = [(spec, sample) for spec in specs for sample in range(samples)]
    texts = "\n".join(spec.to_json() for spec in specs)
    record = {**(names or {}), "model": generator.provenance(), "scorer": scorer.provenance(),
              "specs_sha256": hashlib.sha256(texts.encode()).hexdigest(), "prompts": len(specs),
              "samples": samples, "seed": seed, "sampling": vars(sampling), "scale": scale
              }  # fmt: skip
    _record(out / "measured.json", record)
    states = [generator.start([Request.of(spec.prompt) for spec, _ in some],
                              [row_seed(seed, spec.prompt, sample) for spec, sample in some],
                              sampling)
              for some in (rows[i : i + batch_size] for i in range(0, len(rows), batch_size))
              ]  # fmt: skip
    generator.preview_cost(states[0])  # costs that it counts once are those of the whole network
    drawn = _Drawn(generator, scorer, [spec for spec, _ in rows], states, scale)
    found: dict[Unit | None, float] = {}
    for done, unit in enumerate(every):
        progress("removing", done, len(every))

        def draw(unit: Unit | None = unit) -> list[float | None]:
            with undone(model):
                if unit is not WHOLE:
                    remove(model, *unit)
                return drawn.values()

        name = "whole" if unit is WHOLE else f"{unit[0]:03d}-{unit[1]}"
        found[unit] = _of(out / "scores" / f"{name}.json", draw)
    progress("removing", len(every), len(every))
    return found


def contributions(
    generator: Generator, parts: Iterable[Unit], specs: Sequence[Spec], scorer: Scorer,
    out: str | Path, **given: Any,
) -> Contributions:  # fmt: skip
    """Score the pictures of `specs` (`Bench.stratified` makes subsets) without each unit of
    `generator.transformer` in turn, and keep all in `out`; the same call goes on where one was
    broken off.

    parts: `units` gives all. given: as `scores_without` takes it. remove: replaces one in place;
    the model is as it was afterwards. samples: pictures a prompt, whose seeds are a run's
    (`row_seed`). scale: of the values, 100 for HPS. names: more to record, such as the bench's
    name. Raises ValueError for scores of another measurement in `out`, ScorerBroken.
    """
    found = scores_without(generator, [WHOLE, *parts], specs, scorer, out, **given)
    base = found.pop(WHOLE)
    made = Contributions({unit: score for unit, score in found.items() if unit is not WHOLE},
                         base, json.loads((Path(out) / "measured.json").read_text()))  # fmt: skip
    made.save(Path(out) / "contributions.json")
    return made
