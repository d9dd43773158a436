"""The sampling protocol: every generator draws in visible steps that anyone can hold.

    start(requests, seeds, sampling) -> state     one row per (request, seed)
    advance(state)                   -> state     one step: denoise, next scale, next masked set
    preview(state)                   -> images    best current estimate, when the family has one
    select(state, rows)              -> state     re-index every cache; rows may repeat
    finish(state)                    -> images

States are values: no method changes the state it is given. `generate` is start, advance until
done, finish; nothing else samples. Row i depends on its request, its seed and the settings alone:
never on the batch, its order or the other rows.

Pictures are one thing everywhere: float32 tensors (B, 3, H, W), RGB, in [0, 1]; what `finish`
returns lies on the 8-bit grid k/255, so saving as PNG loses nothing.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Cost", "Generator", "Part", "Request", "Sampling", "State", "generate", "one_text",
           "row_seed"]  # fmt: skip


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
    """What was spent: network FLOPs (2 per multiply-add), images decoded, row-steps."""

    flops: float = 0.0
    images: int = 0
    row_steps: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.images + other.images,
                    self.row_steps + other.row_steps)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class State:
    """A batch of unfinished drawings. Families add their own fields.

    step: steps done, of `steps`. seeds: one per row. cost: spent so far by these rows.
    """

    step: int
    steps: int
    seeds: tuple[int, ...]
    cost: Cost = Cost()

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def with_cost(self, extra: Cost) -> State:
        return replace(self, cost=self.cost + extra)


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
