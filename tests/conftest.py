"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from impasto.world import Sprites


@pytest.fixture(scope="session")
def sprites() -> Sprites:
    """OpenMoji's drawings and the project's own, built once and cached on disk."""
    return Sprites.load()
