"""No search: the picture that the model draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from impasto.score.base import Scorer
from impasto.search.engine import TreeSearch
from impasto.search.selectors import Only
from impasto.zoo.registry import SEARCHES

if TYPE_CHECKING:
    from impasto.score.features.patches import Patches

__all__ = ["NoSearch"]


class NoSearch(TreeSearch):
    """One picture per draw, as the model draws it."""

    independent = True
    final = Only()

    def provenance(self) -> dict[str, Any]:
        return {}


@SEARCHES.register("none")
def none(
    *, scorers: Callable[[str], Scorer] | None = None,
    patches: Callable[[str], Patches] | None = None,
) -> NoSearch:  # fmt: skip
    """One picture per draw, as the model draws it."""
    return NoSearch()
