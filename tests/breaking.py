"""Trainings that are broken off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from impasto.train.loop import Loop


class Broken(Exception):
    """Stands for whatever ends a process."""


@contextmanager
def broken_off(after: int = 3) -> Iterator[None]:
    """A training in the block breaks within its step `after`, its weights already changed; one
    that does not fails the test."""
    apply = Loop.apply

    def until(loop: Loop, *arguments) -> None:
        apply(loop, *arguments)
        if loop.step == after:
            raise Broken

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Broken):
        patch.setattr(Loop, "apply", until)
        yield
