"""The requests and answers, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from impasto.spec import CLASSES, COLORS, RELATIONS

__all__ = ["LINES", "Line", "ManyRewards", "OneReward", "Problem", "Question"]

MOST_LINES = 4096
"""No request holds more, whatever the service's own limit."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Position = Annotated[tuple[Literal[RELATIONS], Annotated[int, Field(ge=0)]],  # type: ignore[valid-type]
                     Field(strict=False)]  # fmt: skip


class Demand(_Strict):
    """Objects that a picture should show."""

    cls: Literal[CLASSES] = Field(alias="class")  # type: ignore[valid-type]
    count: int = Field(ge=1, le=100)
    color: Literal[COLORS] | None = None  # type: ignore[valid-type]
    position: Position | None = Field(
        None, description="[relation, index into include of an earlier item]"
    )


class Ban(_Strict):
    """Objects that a picture should show fewer of."""

    cls: Literal[CLASSES] = Field(alias="class")  # type: ignore[valid-type]
    count: int = Field(ge=1, le=100)


class Line(_Strict):
    """A line of GenEval's metadata."""

    tag: str = Field(max_length=100)
    include: list[Demand] = Field(min_length=1, max_length=20)
    exclude: list[Ban] = Field(default=[], max_length=20)
    prompt: str = Field("", max_length=10_000)

    def values(self) -> dict[str, Any]:
        """As `Spec.from_dict` takes them."""
        return self.model_dump(by_alias=True, exclude_none=True)


LINES = TypeAdapter(Annotated[list[Line], Field(min_length=1, max_length=MOST_LINES)])


class Question(_Strict):
    """Pictures to rate. metadata: a line for each."""

    images: list[str] = Field(
        min_length=1, max_length=MOST_LINES, description="base64 of a PNG, JPEG or WebP file each"
    )
    metadata: list[Line] = Field(min_length=1, max_length=MOST_LINES)
    as_published: bool = Field(
        False, description="a failed place adds a 1 beside its 0, as flow_grpo's reward does"
    )


class OneReward(BaseModel):
    """A picture's rewards."""

    accuracy: float
    strict_accuracy: float
    score: float
    reason: str


class ManyRewards(BaseModel):
    """Of each picture, in order."""

    rewards: list[OneReward]


class Problem(BaseModel):
    """Why there is no answer."""

    error: str
    given: str
    allowed: str
    todo: str
