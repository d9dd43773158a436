"""What a step of a stack is: settings in, a folder and maybe a table out.

A kind of step is a frozen dataclass, registered by decorator; its fields are the keys that a
recipe may give it. Steps see what earlier ones made by their names, and nothing else.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from impasto.bench import Bench
from impasto.run.pool import Pool
from impasto.run.workers import Workers
from impasto.sample.protocol import Generator
from impasto.score.base import Scorer
from impasto.search.base import Search
from impasto.zoo.registry import Registry, nearest

if TYPE_CHECKING:
    from impasto.score.features import Extractor, Patches

__all__ = ["STEPS", "Builder", "Done", "Step", "Tools", "as_option", "fields_of", "filled_in",
           "keys_of", "of_step"]  # fmt: skip

T = TypeVar("T")
STEPS: Registry[Any] = Registry("step")
OF_STEP = re.compile(r"(?<![^=(])step:([^,()]*)")
"""The name of a model that an earlier step made: a whole text, or the value of an option in it."""


class Builder(Protocol):
    """How names become objects."""

    def filled(self, kind: str) -> Registry[Any]: ...
    def bench(self, text: str) -> Bench: ...
    def model(self, text: str, device: str) -> Generator: ...
    def workers(self, count: int, device: str, **names: Any) -> Workers: ...
    def judges_of(
        self, bench: Bench, scorer: str | None, second: str | None
    ) -> tuple[str, str | None]: ...


@dataclass(frozen=True)
class Done:
    """What a step made. model: a model's folder. scores: a file of those of a model's units. runs:
    name of a search -> a run folder for each seed. pool: a run folder of candidates for each seed.
    table: what there is to show, JSON-ready, with the step's "kind"."""

    model: Path | None = None
    scores: Path | None = None
    runs: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    pool: Sequence[Path] = ()
    table: Mapping[str, Any] | None = None


@dataclass
class Tools:
    """What steps work with. out: the stack's folder. done: what earlier steps made.

    Objects are built once a name; of models, the last one is kept.
    """

    out: Path
    build: Builder
    device: str = "cpu"
    batch_size: int = 8
    workers: int = 1
    progress: Callable[[str, int, int], None] = lambda what, done, total: None
    done: dict[str, Done] = field(default_factory=dict)
    _built: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False)
    _model: tuple[str, Generator] | None = field(default=None, repr=False)

    def _once(self, kind: str, text: str, make: Callable[[], T]) -> T:
        if (kind, text) not in self._built:
            self._built[kind, text] = make()
        made: T = self._built[kind, text]
        return made

    def bench(self, text: str) -> Bench:
        return self._once("bench", text, lambda: self.build.bench(text))

    def scorer(self, text: str) -> Scorer:
        return self._once("scorer", text, lambda: self.build.filled("scorers").create(
            text, device=self.device))  # fmt: skip

    def search(self, text: str) -> Search:
        return self._once("search", text, lambda: self.build.filled("searches").create(
            text, scorers=self.scorer, patches=self.patches))  # fmt: skip

    def patches(self, text: str) -> Patches:
        return self._once("patches", text, lambda: self.build.filled("patches").create(
            text, device=self.device))  # fmt: skip

    def features(self, text: str) -> Extractor:
        return self._once("features", text, lambda: self.build.filled("features").create(
            text, device=self.device))  # fmt: skip

    def pool(self, path: Path) -> Pool:
        """The pool in a folder; read once it is finished."""
        return self._once("pool", str(path), lambda: Pool.at(path))

    def model_name(self, text: str) -> str:
        """A model's name, with the folders that earlier steps made models in."""
        def folder(found: re.Match[str]) -> str:
            done = self.done[found[1]]
            made = str(done.scores if done.model is None else done.model)
            return made if found[0] == text else as_option(made)

        return OF_STEP.sub(folder, text)

    def check_name(self, kind: str, text: str, *context: str) -> None:
        """Raises ValueError, before there is what earlier steps make, for a name that they are an
        option of and that cannot be. kind: of names. context: keys that are no options."""
        registry = self.build.filled(kind)
        known = text.partition(":")[0] in registry
        if not OF_STEP.fullmatch(text) and (known or of_step(text)):
            registry.parsed(text, context)

    def named(self, value: T) -> T:
        """`model_name` of every text in a value of YAML."""
        made: Any = value
        if isinstance(value, str):
            made = self.model_name(value)
        elif isinstance(value, Mapping):
            made = {key: self.named(inner) for key, inner in value.items()}
        elif isinstance(value, list | tuple):
            made = [self.named(inner) for inner in value]
        return made

    def model(self, text: str) -> Generator:
        name = self.model_name(text)
        if self._model is None or self._model[0] != name:
            self._model = None  # before the next is loaded: both may not fit
            self._model = name, self.build.model(name, self.device)
        return self._model[1]

    def forget_model(self) -> None:
        self._model = None


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """One step. name: of its folder, and what later steps call it by."""

    name: str
    kept: ClassVar[bool] = True
    """Whether its folder holds work that other settings may not go on with; else it is made anew
    each time, from what earlier steps made."""
    makes: ClassVar[str] = ""
    """What later steps can use: "model", "scores", "runs" or "pool"."""
    ahead: ClassVar[bool] = False
    """Whether it needs what `uses` names and nothing else, and so may be done before its turn."""

    @property
    def uses(self) -> Mapping[str, str]:
        """Names of earlier steps -> what of each is used, of several things "a or b"."""
        return {}

    @property
    def settings(self) -> dict[str, Any]:
        """What its folder is kept by: the fields that decide what is in it."""
        return {key: getattr(self, key) for key in _keys(self)}

    def finished(self, out: Path) -> bool:
        """Whether all of its work is in the stack's folder, and only to be found again."""
        return False

    def shares(self) -> Mapping[str, Step]:
        """Parts of its work that do not need one another, each by itself a step into the same
        folder: name -> step."""
        return {"": self}

    @abstractmethod
    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        """Raises ValueError or FileNotFoundError for settings that cannot be met; makes nothing.
        earlier: the steps before this one."""

    @abstractmethod
    def run(self, tools: Tools) -> Done:
        """Do what is not done yet. Errors: of the library functions called."""


def of_step(value: Any, what: str = "model") -> dict[str, str]:
    """`Step.uses` of a step that takes the models (or `what` it takes) that `value` names: a text,
    or lists and mappings of some."""
    if isinstance(value, str):
        return dict.fromkeys(OF_STEP.findall(value), what)
    inner = value.values() if isinstance(value, Mapping) else value
    found = (of_step(one, what)
             for one in (inner if isinstance(value, Mapping | list | tuple) else ()))
    return {name: what for each in found for name, what in each.items()}


def as_option(text: str) -> str:
    """A name as the value of another name's option: in parentheses where it has commas."""
    return f"({text})" if "," in text else text


def filled_in(
    texts: Sequence[str], grid: Mapping[str, Sequence[Any]], where: str
) -> Iterator[tuple[str, ...]]:
    """`texts` with each {key} replaced by a value of grid's, for every combination of values.

    Only the keys that the texts mention count, the first varies slowest. Raises ValueError for a
    key that is not in the grid, or one that is no list; where: begins the message.
    """
    keys = dict.fromkeys(key for text in texts for key in re.findall(r"\{(\w+)\}", text))
    for key in keys:
        if key not in grid:
            raise ValueError(f"{where}: {{{key}}} is not in the grid: {nearest(key, list(grid))}")
        if not isinstance(grid[key], list | tuple) or not grid[key]:
            raise ValueError(f"{where}: grid's {key} must be a list of values, given "
                             f"{grid[key]!r}")  # fmt: skip
    for values in product(*(grid[key] for key in keys)):
        chosen = dict(zip(keys, values, strict=True))
        yield tuple(re.sub(r"\{(\w+)\}", partial(_value, chosen), text) for text in texts)


def _value(chosen: Mapping[str, Any], found: re.Match[str]) -> str:
    return str(chosen[found[1]])


def _keys(step: Any) -> list[str]:
    return [found.name for found in fields(step) if found.metadata.get("key", True)]


def keys_of(kind: str) -> list[str]:
    """The keys that a recipe may give a step of this kind."""
    return [found.name for found in fields_of(kind)]


def fields_of(kind: str) -> tuple[Field[Any], ...]:
    """The fields of a registered kind of step that are a recipe's to give."""
    step: Any = STEPS.factory(kind)
    return tuple(found for found in fields(step) if found.name in _keys(step))
