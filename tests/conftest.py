"""Fixtures that several test files share."""

from __future__ import annotations

import signal

import numpy as np
import pytest

from impasto.world import Sprites

pytest.register_assert_rewrite("tests.converted", "tests.drawing")

# A suite that a shell started in the background ignores SIGINT, and so would all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    """OpenMoji's drawings and the project's own, built once and cached on disk."""
    return Sprites.load()


@pytest.fixture(scope="session")
def rng_of():
    """A random state from a number."""
    return lambda i: np.random.default_rng([20260101, i])
