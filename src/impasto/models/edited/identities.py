"""What stands in the place of what was removed (HierarchicalPrune, arXiv 2508.04663): a module
that is called as the removed one was and answers in the same form, without parameters.

With x the image's stream (or the text's, for *_context), LN a LayerNorm without weights
(eps 1e-6), and shift, scale, gate those of the block's modulation:

    all              block            x, and its text, as they came
    attn             attention        its inputs: x += gate (LN(x) (1 + scale) + shift), not + 0;
                                      a dual-attention block's second attention too
    ff, ff_context   MLP              the same within its branch; nothing where there is none
    w_norm1 (...)    modulation       LN(x), shift 0, scale 0, gates 1, for MLP and attention;
                                      where it gives a second input and gate (dual attention) the
                                      same again; where it gives no gates (a last block's text)
                                      LN(x)
    norm1 (...)                       as that, with x in place of LN(x): for analysis only
    w_norm           of FLUX single   LN(x), gate 1
    proj_mlp_out     of FLUX single   x += gate attn: the MLP's input layer gives no features and
                                      the layer behind it passes on those of the attention, which
                                      is the released code's cut of the joined features to the
                                      first D, without computing the others

`remove` is the record's edit of that name: {"edit": "remove", "removed": {"13": ["ff"]}}; where a
block is to stand in for those behind it that are removed (PPCL) with "intervals": [[first, end]].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from impasto.models.edited.hosts import Host, host_of

__all__ = ["IdentityAttention", "IdentityBlock", "NoFeatures", "PlainNorm", "identities",
           "is_removed", "remove"]  # fmt: skip

OUTPUTS = {"AdaLayerNormZero": 5, "SD35AdaLayerNormZeroX": 7, "AdaLayerNormContinuous": 1,
           "AdaLayerNormZeroSingle": 2}  # fmt: skip
"""diffusers' modulation -> how many tensors it gives: x, then gates, shifts and scales."""
ONES = {5: (1, 0, 0, 1), 7: (1, 0, 0, 1, None, 1), 2: (1,), 1: ()}
"""What follows x; None for a second x."""


class _Embedder(nn.Module):
    """A DiT's time and label embedding under the name that the output looks for."""

    def __init__(self, emb: nn.Module) -> None:
        super().__init__()
        self.emb = emb


class IdentityBlock(nn.Module):
    """Tokens (B, N, D) as they came, and with them the text's (B, L, D) where `kind` has any."""

    def __init__(self, kind: str, block: nn.Module, embedder: nn.Module | None = None) -> None:
        super().__init__()
        self.kind = kind
        if hasattr(block, "context_pre_only"):  # which control networks ask for
            self.context_pre_only = block.context_pre_only
        if embedder is not None:
            self.norm1 = _Embedder(embedder)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any,
        **__: Any,
    ) -> Any:  # fmt: skip
        if self.kind == "image":
            return hidden_states
        return encoder_hidden_states, hidden_states


class IdentityAttention(nn.Module):
    """Gives what it is given: tokens (B, N, D), with the text's (B, L, D) where it gets them."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Any:
        if encoder_hidden_states is None:
            return hidden_states
        return hidden_states, encoder_hidden_states


class PlainNorm(nn.Module):
    """A modulation's place with nothing to modulate by. width: D. outputs: how many tensors it
    gives. norm: whether x (B, N, D) is normalised; gates and the like are (B, 1)."""

    def __init__(
        self, width: int, outputs: int, norm: bool = True, embedder: nn.Module | None = None
    ) -> None:
        super().__init__()
        normed = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm: nn.Module = normed if norm else nn.Identity()
        self.outputs, self.emb = outputs, embedder

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        normed = self.norm(x)
        if self.outputs == 1:
            return normed
        size = (len(x), 1)
        return normed, *(normed if value is None else x.new_full(size, value)
                         for value in ONES[self.outputs])  # fmt: skip


class NoFeatures(nn.Module):
    """(B, N, D) to (B, N, 0): nothing for the layer behind to join."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :0]


def is_removed(block: nn.Module) -> bool:
    """Whether a whole block is gone."""
    return isinstance(block, IdentityBlock)


def identities(host: Host, i: int, component: str) -> dict[str, nn.Module]:
    """Dotted path -> what stands in for the modules of a component of block i, or of "all".

    Empty where the block has no such part. Raises ValueError for what no block of its kind has,
    and for what is removed already.
    """
    there = host.modules(i, component)
    gone = (IdentityBlock, IdentityAttention, PlainNorm, NoFeatures, nn.Identity)
    for path, module in {host.path(i): host.block(i), **there}.items():
        if isinstance(module, gone):
            raise ValueError(f"{path} is removed already")
    return {path: _identity(host, i, component, module) for path, module in there.items()}


def _identity(host: Host, i: int, component: str, module: nn.Module) -> nn.Module:
    if component == "all":
        return IdentityBlock(host.kind(i), module, host.embedder(i))
    if component == "attn":
        return IdentityAttention()
    if component == "proj_mlp_out" and module is getattr(host.block(i), "proj_mlp", None):
        return NoFeatures()
    if "norm" not in component:
        return nn.Identity()
    outputs = OUTPUTS.get(type(module).__name__)
    if outputs is None:
        raise ValueError(f"block {i}: {component!r} is a {type(module).__name__}; allowed: "
                         f"{', '.join(OUTPUTS)}")  # fmt: skip
    return PlainNorm(host.width, outputs, component.startswith("w_"), host.embedder(i))


@torch.no_grad()
def remove(model: nn.Module, edit: Mapping[str, Any]) -> None:
    """Replace blocks and parts of them by identities, in place.

    edit: {"removed": {block number: [components]}}; numbers may be text, as in JSON. "intervals"
    changes nothing here: it is what a training reads. Raises ValueError for a block or component
    that there is not, one that is removed already or twice, an interval whose other blocks are not
    removed, or when no block would be left; then nothing is changed.
    """
    host, new = host_of(model), dict[str, nn.Module]()
    removed = edit.get("removed")
    allowed = {"edit", "removed", "intervals"}
    if not isinstance(removed, Mapping) or not removed or set(edit) - allowed:
        raise ValueError(f"an edit 'remove' has 'removed': {{block: [components]}} and maybe "
                         f"'intervals': [[first, end]], given {dict(edit)!r}")  # fmt: skip
    whole = {int(key) for key, components in removed.items() if "all" in components}
    for first, end in edit.get("intervals") or ():
        if first in whole or not set(range(first + 1, end)) <= whole or end < first + 2:
            raise ValueError(f"of an interval the first block stays and the others are removed "
                             f"whole; given [{first}, {end}], removed {dict(removed)!r}"
                             )  # fmt: skip
    for i, component in _each(host, removed):
        parts = identities(host, i, component)
        if twice := sorted(set(parts) & set(new)):
            raise ValueError(f"{twice[0]} is to be removed twice")
        new |= parts
    gone = {path for path, module in new.items() if is_removed(module)}
    if all(is_removed(block) or host.path(i) in gone for i, block in enumerate(host.blocks)):
        raise ValueError(f"all {host.depth} blocks would be removed; leave at least one")
    for path, module in new.items():
        module.train(model.training)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, module)


def _each(host: Host, removed: Mapping[Any, Any]) -> Iterator[tuple[int, str]]:
    for key, components in removed.items():
        if not isinstance(key, int) and not str(key).isdecimal():
            raise ValueError(f"a block is a number, given {key!r}")
        host.path(i := int(key))
        if not isinstance(components, (list, tuple)) or not components:
            raise ValueError(f"block {i}: what is removed must be a list of components, given "
                             f"{components!r}; allowed: all, {', '.join(host.components(i))}"
                             )  # fmt: skip
        if "all" in components and len(components) > 1:
            raise ValueError(f"block {i}: 'all' leaves no other component to remove, given "
                             f"{list(components)}")  # fmt: skip
        yield from ((i, component) for component in components)
