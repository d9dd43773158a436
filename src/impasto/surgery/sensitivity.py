"""What of a pruned network learns, and how fast (HierarchicalPrune, arXiv 2508.04663).

PWP (positional weight preservation): all before the first removed unit is frozen. SGDistill, where
a quarter or more is gone: a unit's learning rate is multiplied by

    m(i, c) = clip(kappa / |dP(i, c)|, 0, 1), and 0 below a cut-off

with dP what the score loses without the unit; the released code's index range is the special case
of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from impasto.train.loop import within

__all__ = ["R_THRES", "TAIL", "binary_multipliers", "compression", "preserve", "scale_updates",
           "sensitivity_multipliers"]  # fmt: skip

R_THRES = 0.25
"""Share of the parameters removed from which on SGDistill is used."""
TAIL = ("norm_out", "proj_out", "scale_shift_table")
"""How the names of a diffusion transformer's parts behind its blocks begin."""


def compression(student: nn.Module, teacher: nn.Module) -> float:
    """Share of the teacher's parameters that the student has not."""
    own, other = (sum(p.numel() for p in model.parameters()) for model in (student, teacher))
    return 1 - own / other


def _place(path: str, model: nn.Module, blocks: Sequence[str]) -> tuple[int, int]:
    """(block, child in it) of a removed unit; a whole block is behind its last child."""
    for i, block in enumerate(blocks):
        if within(path, block):
            children = [name for name, _ in model.get_submodule(block).named_children()]
            name = path[len(block) + 1 :].partition(".")[0]
            if name and name not in children:
                raise ValueError(f"{block} has no part {name!r}; it has {', '.join(children)}")
            return (i, children.index(name)) if name else (i, len(children))
    raise ValueError(f"{path!r} is in none of the blocks {blocks[0]} to {blocks[-1]}")


def preserve(model: nn.Module, blocks: Sequence[str], removed: Collection[str]) -> int:
    """PWP: let learn only what comes after the first removed unit, in the order of definition,
    and what is behind all blocks (`TAIL`). Gives the number of parameters that learn.

    blocks: dotted paths in their order; removed: of blocks or of parts of them. Raises ValueError
    where nothing is removed, or outside the blocks.
    """
    if not removed:
        raise ValueError("nothing is removed, so there is no first removed unit to learn behind")
    first, child = min(_place(path, model, blocks) for path in removed)
    later = [f"{blocks[first]}.{name}" for name, _ in
             list(model.get_submodule(blocks[first]).named_children())[child + 1 :]]  # fmt: skip
    later += blocks[first + 1 :]
    for name, param in model.named_parameters():
        param.requires_grad_(name.startswith(TAIL) or any(within(name, path) for path in later))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def sensitivity_multipliers(
    drops: Mapping[str, float], kappa: float, cut_off: float = 0.0
) -> dict[str, float]:
    """m of every unit, of its dP. cut_off: what is below becomes 0, which freezes it."""
    if not kappa > 0 or not 0 <= cut_off <= 1:
        raise ValueError(f"kappa must be > 0 and cut_off from 0 to 1, given {kappa!r} and "
                         f"{cut_off!r}")  # fmt: skip
    found = {unit: min(kappa / abs(drop), 1.0) if drop else 1.0 for unit, drop in drops.items()}
    return {unit: m if m >= cut_off else 0.0 for unit, m in found.items()}


def binary_multipliers(blocks: Sequence[str], first: int, end: int) -> dict[str, float]:
    """As released: 1 for blocks `first` to `end` - 1, 0 for all others. Raises ValueError for a
    range that holds none of them."""
    if not 0 <= first < end <= len(blocks):
        raise ValueError(f"the range {first}-{end} (its end is left out) must lie within 0-"
                         f"{len(blocks)} and hold a block")  # fmt: skip
    return {path: float(first <= i < end) for i, path in enumerate(blocks)}


def scale_updates(
    model: nn.Module, blocks: Sequence[str], multipliers: Mapping[str, float]
) -> dict[str, float]:
    """SGDistill: freeze units whose multiplier is 0; gives the others', for `Loop.factors`.

    multipliers: dotted path of a block or a part of one -> m; what is named by none of them learns
    as it did. `TAIL` follows the last block, with the largest m in it.
    """
    last = [m for path, m in multipliers.items() if within(path, blocks[-1])]
    behind = [*model.named_children(), *model.named_parameters(recurse=False)]
    tail = {name: max(last) for name, _ in behind if last and name.startswith(TAIL)}
    every = {**multipliers, **tail}
    for name, param in model.named_parameters():
        path = max((path for path in every if within(name, path)), key=len, default=None)
        if path is not None and every[path] == 0:
            param.requires_grad_(False)
    return {path: m for path, m in every.items() if m > 0}
