"""What the service takes: numbers, each refused above by name."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """body: bytes of a request. pictures: in a request. pixels: of a request's pictures together.

    queue: requests that wait for the scorer. batch: pictures that it is given at once, at most,
    and more only where one request holds more. waiting: bytes of all requests in the service.
    seconds: until a request's body has arrived. Raises ValueError for one below 1.
    """

    body: int = 32 * 2**20
    pictures: int = 64
    pixels: int = 64 * 1024**2
    queue: int = 256
    batch: int = 64
    waiting: int = 512 * 2**20
    seconds: int = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            if (value := getattr(self, field.name)) < 1:
                raise ValueError(f"limit {field.name} is {value}; allowed: from 1 on")
        if self.waiting < self.body:
            raise ValueError(f"limit waiting, {self.waiting:,} bytes, is below body, "
                             f"{self.body:,}: no request would fit")  # fmt: skip
