"""Steps that make cheaper models, as `impasto prune`, `graft` and `quantize` do, and the one that
says what a model's units contribute.

    OUT/STEP/…                       the model's folder; it appears whole or not at all
    OUT/STEP/contributions.json      of `contributions`, with scores/ of every unit
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from impasto.models.edited.folder import edited_folder, planned, stored_dtype
from impasto.models.edited.hosts import host_of
from impasto.models.edited.quantisation import Quantisation
from impasto.sample.protocol import Request, Sampling, row_seed
from impasto.stack.base import OF_STEP, STEPS, Done, Step, Tools, of_step
from impasto.stack.drawing import Judging, whole
from impasto.stack.trained import Train
from impasto.surgery.contribution import WHOLE, Unit, contributions, scores_without, units
from impasto.surgery.contribution import Contributions as Found
from impasto.surgery.edits import Grafting, Pruning, quantising
from impasto.surgery.redundancy import probe_cka, similarities, tokens

__all__ = ["Contribution", "Graft", "Making", "Prune", "Quantise"]

SHARES = 6
"""Jobs that measure a model's units side by side."""
KEEPS = ("graft-regression", "finetune", "prune-distillation")
"""Trainings whose model has the structure of their `initial`."""


@dataclass(frozen=True, kw_only=True)
class Making(Step):
    """Makes a folder of a model's with its transformer edited. model: a name of weights that ship,
    a folder, or step:NAME."""

    model: str
    makes: ClassVar[str] = "model"
    ahead: ClassVar[bool] = True

    @property
    def uses(self) -> Mapping[str, str]:
        return of_step(self.model)

    @abstractmethod
    def edit(self, network: nn.Module) -> Any:
        """Change a transformer in place. Raises ValueError where this does not fit it."""

    def dtype(self, model: str) -> torch.dtype:
        """Of what is read and written."""
        return stored_dtype(model)

    def ready(self, tools: Tools) -> Making:
        """The step with files for the names of earlier steps."""
        return self

    def structure(self, earlier: Sequence[Step]) -> nn.Module | None:
        """The transformer that will be there, without weights; None where what decides it is made
        by earlier steps, or it is quantised."""
        network = _structure(self.model, earlier)
        if network is not None:
            try:
                self.edit(network)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from error
        return network

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        if of_step(self.model) and not OF_STEP.fullmatch(self.model):
            raise ValueError(f"{self.name}: model is a name, a folder or step:NAME, given "
                             f"{self.model!r}")  # fmt: skip
        self.structure(earlier)

    def run(self, tools: Tools) -> Done:
        folder, model = tools.out / self.name, tools.model_name(self.model)
        if not (folder.is_dir() and any(folder.iterdir())):
            edited_folder(model, folder, self.dtype(model), self.ready(tools).edit)
        return Done(model=folder)


def _structure(model: str, earlier: Sequence[Step]) -> nn.Module | None:
    """`Making.structure` of a model's name."""
    found = OF_STEP.fullmatch(model)
    if found is None:
        return planned(model)
    at = next(i for i, step in enumerate(earlier) if step.name == found[1])
    step = earlier[at]
    if isinstance(step, Making):
        return step.structure(earlier[:at])
    if isinstance(step, Train):
        recipe = step.read()
        if recipe.kind in KEEPS and recipe.initial:
            return _structure(recipe.initial, earlier[:at]) if (
                of_step(recipe.initial) or Path(recipe.initial).is_dir()) else None  # fmt: skip
    return None


def _text(value: Any) -> Any:
    """Blocks as a text: YAML reads 3 as a number, and [1, 3] may be meant."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@STEPS.register("prune")
@dataclass(frozen=True, kw_only=True)
class Prune(Pruning, Making):
    """A model without some of its blocks, or parts of them: keys as `impasto prune`'s options.
    scores: a file, or the step that measures them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", _text(self.blocks))
        object.__setattr__(self, "eligible", _text(self.eligible))
        if isinstance(self.exclude, str):
            raise ValueError(f"exclude is a list of components, given {self.exclude!r}")
        super().__post_init__()

    @property
    def uses(self) -> Mapping[str, str]:
        return {**of_step(self.model), **of_step(self.scores, "scores")}

    def edit(self, network: nn.Module) -> Any:
        return self(network)

    def ready(self, tools: Tools) -> Making:
        return replace(self, scores=tools.named(self.scores))

    def structure(self, earlier: Sequence[Step]) -> nn.Module | None:
        return None if of_step(self.scores) else super().structure(earlier)

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        if self.scores and not of_step(self.scores) and not Path(self.scores).is_file():
            raise FileNotFoundError(f"{self.name}: there is no file of scores {self.scores}")
        super().check(tools, earlier)


@STEPS.register("graft")
@dataclass(frozen=True, kw_only=True)
class Graft(Grafting, Making):
    """A model with other operators, or blocks side by side: keys as `impasto graft`'s options."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", _text(self.blocks))
        super().__post_init__()

    def edit(self, network: nn.Module) -> Any:
        return self(network)


@STEPS.register("quantise")
@dataclass(frozen=True, kw_only=True)
class Quantise(Making):
    """A model with its weights in 4 or 8 bits: keys as `impasto quantize`'s options; group:
    INT4's."""

    format: str
    compute: str = "bfloat16"
    double: bool | None = None
    group: int | None = None
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        _ = self.how

    @property
    def how(self) -> Quantisation:
        return Quantisation(self.format, self.compute, self.double, self.group, tuple(self.skip))

    def edit(self, network: nn.Module) -> Any:
        return quantising(self.how)(network)

    def dtype(self, model: str) -> torch.dtype:
        return self.how.dtype


@STEPS.register("contributions")
@dataclass(frozen=True, kw_only=True)
class Contribution(Judging):
    """What a model's score loses without each of its units, for `prune` and for distillation.

    units: "components", or "blocks" whole. by: "score", or "similarity", where a block's score is
    the cosine of its input and output (KOALA's; of blocks only), or "probes", where it is how well
    a linear layer could stand in for it, and how well for every sequence of blocks is kept with it
    (PPCL's; of blocks only; for `prune` with order: intervals). samples: pictures a prompt.
    scale: of the scores. Goes on where it was interrupted.
    """

    units: str = "components"
    by: str = "score"
    samples: int = 1
    seed: int = 0
    scale: float = 1.0
    makes: ClassVar[str] = "scores"
    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, allowed in (("units", ("components", "blocks")),
                             ("by", ("score", "similarity", "probes"))):  # fmt: skip
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key} must be {' or '.join(allowed)}, given "
                                 f"{getattr(self, key)!r}")  # fmt: skip
        if self.by != "score" and self.units != "blocks":
            raise ValueError(f"{self.by} is of whole blocks: give units: blocks")
        whole("samples", self.samples)

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        if self.check_drawing(tools) is not None:
            host_of(_transformer(tools, self.model))

    def shares(self) -> Mapping[str, Step]:
        if self.by != "score":
            return {"": self}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return {f"{i + 1} of {SHARES}": _Share(**own, at=i) for i in range(SHARES)}

    def run(self, tools: Tools) -> Done:
        path = self._path(tools)
        if not path.is_file():
            settings = self.planned(tools, "none", self.seed, self.samples)
            if self.by == "score":
                self._scored(contributions, tools, settings, self._units(tools))
            else:
                self._watched(tools, settings, path.parent)
        return Done(scores=path)

    def _path(self, tools: Tools) -> Path:
        return tools.out / self.name / "contributions.json"

    def _units(self, tools: Tools) -> list[Unit]:
        return units(_transformer(tools, self.model), self.units == "blocks")

    def _scored(
        self, measure: Callable[..., Any], tools: Tools, settings: Any,
        parts: Sequence[Unit | None],
    ) -> None:  # fmt: skip
        measure(
            tools.model(self.model), parts, settings.bench_part.specs, settings.scorer,
            tools.out / self.name, samples=self.samples, seed=self.seed,
            sampling=settings.sampling, scale=self.scale, batch_size=tools.batch_size,
            names={"bench": self.bench} | settings.names,
            progress=lambda what, *at: tools.progress(f"{self.name}: {what}", *at),
        )  # fmt: skip

    def _watched(self, tools: Tools, settings: Any, folder: Path) -> None:
        generator, sampling = tools.model(self.model), Sampling(**self.sampling)
        rows = [(spec.prompt, sample) for spec in settings.bench_part.specs
                for sample in range(self.samples)]  # fmt: skip

        def draw() -> None:
            for i in range(0, len(rows), tools.batch_size):
                some = rows[i : i + tools.batch_size]
                tools.progress(f"{self.name}: drawing", i, len(rows))
                state = generator.start([Request.of(prompt) for prompt, _ in some],
                                        [row_seed(self.seed, *row) for row in some], sampling)
                while not state.done:
                    state = generator.advance(state)

        # Costs are counted once, on a copy of the network, which must not be watched.
        generator.preview_cost(generator.start([Request.of(rows[0][0])], [0], sampling))
        host, cka = host_of(_transformer(tools, self.model)), None
        if self.by == "similarity":
            values = similarities(host, draw)
        else:
            cka = probe_cka(tokens(host, draw, seed=self.seed))
            values = cka.diagonal(1).tolist()
        measured = {"bench": self.bench, "by": self.by, "model": generator.provenance(),
                    "prompts": len(settings.bench_part.specs), "samples": self.samples,
                    "seed": self.seed, "sampling": vars(sampling)}  # fmt: skip
        if cka is not None:
            measured["cka"] = [[value if i <= j else None for j, value in enumerate(row)]
                               for i, row in enumerate(cka.tolist())]  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        Found({(i, "all"): value for i, value in enumerate(values)}, None, measured).save(
            folder / "contributions.json")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Share(Contribution):
    """The scores of every SHARES-th unit from the at-th on; what is whole is none of them."""

    at: int

    def run(self, tools: Tools) -> Done:
        if self._path(tools).is_file():
            return Done()
        parts = [WHOLE, *self._units(tools)][self.at :: SHARES]
        if parts:
            settings = self.planned(tools, "none", self.seed, self.samples)
            self._scored(scores_without, tools, settings, parts)
        return Done()


def _transformer(tools: Tools, model: str) -> nn.Module:
    found = getattr(tools.model(model), "transformer", None)
    if not isinstance(found, nn.Module):
        raise ValueError(f"{model} has no transformer whose units could be taken out; give a "
                         f"model with one, such as sticker-mmdit")  # fmt: skip
    return found
