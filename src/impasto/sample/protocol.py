"""The sampling protocol: every generator draws in visible steps that anyone can hold.

    start(requests, seeds, sampling) -> state     one row per (request, seed)
    advance(state)                   -> state     one step: denoise, next scale, next masked set
    preview(state)                   -> images    best current estimate, when the family has one
    preview_cost(state)              -> cost      what `preview` spends on one row
    select(state, rows)              -> state     re-index every cache; rows may repeat
    finish(state)                    -> images

States are values: no method changes the state it is given. `generate` is start, advance until
done, finish; only a search does more (`impasto.search.engine`). Row i depends on its request, its
seed and the settings alone: never on the batch, its order or the other rows. So does what it cost.

Pictures are one thing everywhere: float32 tensors (B, 3, H, W), RGB, in [0, 1]; what `finish`
returns lies on the 8-bit grid k/255, so saving as PNG loses nothing.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from impasto.sample.seeds import derived_seed

__all__ = ["Cost", "Generator", "Part", "Request", "Sampling", "State", "copy_seed",
           "generate", "one_text", "row_seed"]  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One part of a request or a result: a text, or a picture (3, H, W)."""

    text: str | None = None
    image: Tensor | None = None

    @property
    def kind(self) -> str:
        return "text" if self.text is not None else "image"


@dataclass(frozen=True)
class Request:
    """What to draw: a list of parts. Most families take exactly one text."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, prompt: str) -> Request:
        return cls((Part(text=prompt),))

    @property
    def prompt(self) -> str:
        """All text parts joined by a space."""
        return " ".join(part.text for part in self.parts if part.text is not None)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of one draw; None means the model's own default.

    steps: network steps (>= 1). guidance: classifier-free guidance scale; 1 leaves the
    unconditional branch out, 0 draws without the prompt. height, width: pixels.
    """

    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Cost:
    """What was spent.

    flops: of the networks that draw, 2 per multiply-add, decoding included. images: pictures
    finished. row_steps: steps, of each row. tokens: put through the network, of each row and
    without its unconditional twin; 0 in a family without. decodes: pictures decoded, previews and
    finished ones. reward_calls, feature_calls: pictures that a search's reward, its features were
    asked of; reward_flops: of both, None where somebody did not count.
    """

    flops: float = 0.0
    images: int = 0
    row_steps: int = 0
    tokens: int = 0
    decodes: int = 0
    reward_calls: int = 0
    feature_calls: int = 0
    reward_flops: float | None = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost.total((self, other))

    @classmethod
    def total(cls, costs: Iterable[Cost]) -> Cost:
        """Their sum, in whatever order."""
        rows = [cls(), *costs]
        columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(cls)}
        return cls(**{name: _sum(column) for name, column in columns.items()})


def _sum(numbers: Sequence[Any]) -> Any:
    """Exact before it is rounded, so that the order does not matter; None where one is None."""
    if None in numbers:
        return None
    return math.fsum(numbers) if any(isinstance(x, float) for x in numbers) else sum(numbers)


@dataclass(frozen=True, kw_only=True)
class State:
    """A batch of unfinished drawings. Families add their own fields.

    step: steps done, of `steps`. seeds: one per row. costs: what each row has spent so far, its
    ancestors' steps before a `select` included; by default nothing.
    """

    step: int
    steps: int
    seeds: tuple[int, ...]
    costs: tuple[Cost, ...] = ()

    def __post_init__(self) -> None:
        if not self.costs:
            object.__setattr__(self, "costs", (Cost(),) * len(self.seeds))

    @property
    def cost(self) -> Cost:
        """Of these rows, each with all that led to it."""
        return Cost.total(self.costs)

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def charged(self, extra: Sequence[Cost]) -> tuple[Cost, ...]:
        """`costs` with what each row has spent since."""
        return tuple(a + b for a, b in zip(self.costs, extra, strict=True))


def one_text(requests: Sequence[Request], seeds: Sequence[int]) -> tuple[str, ...]:
    """The one text of each request. Raises ValueError for anything else."""
    if not requests or len(requests) != len(seeds):
        raise ValueError(f"there must be as many seeds as requests, and at least one: given "
                         f"{len(requests)} requests and {len(seeds)} seeds")  # fmt: skip
    for request in requests:
        if [part.kind for part in request.parts] != ["text"]:
            kinds = ", ".join(part.kind for part in request.parts) or "nothing"
            raise ValueError(f"this model draws from exactly one text, given: {kinds}")
    return tuple(request.prompt for request in requests)


class Generator(ABC):
    """A model that draws by the protocol. Subclasses register in `impasto.zoo.registry.MODELS`."""

    takes: ClassVar[tuple[str, ...]] = ("text",)
    """Kinds of parts that a request may hold."""
    has_preview: ClassVar[bool] = True
    """Whether `preview` gives an estimate before the last step."""

    @abstractmethod
    def start(self, requests: Sequence[Request], seeds: Sequence[int], sampling: Sampling) -> Any:
        """Encode each distinct request once and draw each row's noise from its own seed."""

    @abstractmethod
    def advance(self, state: Any) -> Any:
        """One step for all rows."""

    @abstractmethod
    def preview(self, state: Any) -> Tensor:
        """Best current estimate of the pictures, (B, 3, H, W)."""

    @abstractmethod
    def preview_cost(self, state: Any) -> Cost:
        """What `preview` spends on one row."""

    @abstractmethod
    def select(self, state: Any, rows: Sequence[int]) -> Any:
        """The state whose row i is row `rows[i]` of `state`; rows may repeat."""

    @abstractmethod
    def finish(self, state: Any) -> Tensor:
        """The pictures (B, 3, H, W), on the 8-bit grid."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Id, sha256 of the weights, dtype, device, defaults: stored with every result."""


@torch.inference_mode()
def generate(
    generator: Generator,
    requests: Sequence[Request],
    seeds: Sequence[int],
    sampling: Sampling | None = None,
    on_step: Callable[[State], None] | None = None,
) -> tuple[Tensor, Cost]:
    """Draw one picture per (request, seed): (B, 3, H, W) and what it cost.

    `on_step` is called after every step (progress bars). Raises ValueError when the numbers of
    requests and seeds differ.
    """
    state = generator.start(requests, seeds, sampling or Sampling())
    while not state.done:
        state = generator.advance(state)
        if on_step is not None:
            on_step(state)
    return generator.finish(state), state.cost + Cost(images=len(state.seeds))


def row_seed(seed: int, prompt: str, sample: int, candidate: int = 0) -> int:
    """The seed of one row: a hash, so it depends on neither batch nor order nor file position.

    Candidate 0 is what a run without search draws; a wider search adds candidates and keeps it.
    """
    key = f"{seed}\0{sample}\0{candidate}\0{prompt}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1


def copy_seed(seed: int, step: int, copy: int) -> int:
    """The seed of the `copy`-th copy (1, 2, …) of a row that was kept more than once after `step`.

    The row itself goes on with its own seed, so that it draws what it would have drawn alone.
    """
    return derived_seed(seed, "copy", step, copy)
