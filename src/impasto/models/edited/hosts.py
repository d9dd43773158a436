"""Where a diffusion transformer of diffusers has its blocks and their parts.

    family    class                      blocks                                          kind
    SD3       SD3Transformer2DModel      transformer_blocks                              joint
    FLUX      FluxTransformer2DModel     transformer_blocks, single_transformer_blocks   double,
                                                                                         single
    PixArt    PixArtTransformer2DModel   transformer_blocks                              image
    DiT       DiTTransformer2DModel      transformer_blocks                              image
    SANA      SanaTransformer2DModel     transformer_blocks                              image

A model is recognised by the modules that it has, whatever its class is called, and refused where
one is missing or where it has blocks besides these. Blocks that were edited count as theirs.

Components of a block are those whose removal HierarchicalPrune (arXiv 2508.04663) defines. For
"image" blocks, which it does not treat, they are the same parts: self-attention, MLP and, where a
block has a modulation of its own (DiT), that.

diffusers' DiT is not the official one parameter by parameter: each of its blocks has a copy of the
time and label embedding (2,777,472 numbers in XL/2), which is one in the official model, and its
position embedding is a buffer. XL/2 with 8 output channels has 749,826,464 parameters here;
less 27 copies and with 294,912 positions they are the official 675,129,632. The output layer reads
the copy in block 0, so that one stays when block 0 is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["FAMILIES", "Family", "Host", "host_of", "parameters"]

KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "joint": {"w_norm1": ("norm1",), "w_norm1_context": ("norm1_context",),
              "attn": ("attn", "attn2"), "ff": ("ff",), "ff_context": ("ff_context",)},
    "single": {"w_norm": ("norm",), "attn": ("attn",), "proj_mlp_out": ("proj_mlp", "proj_out")},
    "image": {"w_norm1": ("norm1",), "attn": ("attn1",), "ff": ("ff",)},
}  # fmt: skip
"""Kind of block -> component -> its modules in the block."""
KINDS["double"] = KINDS["joint"]
OPERATORS = {"attention": {"joint": "attn", "double": "attn", "single": "attn", "image": "attn1"},
             "mlp": {"joint": "ff", "double": "ff", "image": "ff"}}  # fmt: skip
EDITED = "impasto.models.edited"


@dataclass(frozen=True)
class Family:
    """blocks: list of blocks -> kind of its blocks. parts: what else a model must have. own: what
    its blocks must have besides what their kind has. modulated: whether blocks have modulations of
    their own, which can be removed."""

    name: str
    blocks: Mapping[str, str]
    parts: tuple[str, ...]
    own: tuple[str, ...] = ()
    modulated: bool = True


FAMILIES = (
    Family("SD3", {"transformer_blocks": "joint"},
           ("pos_embed.proj", "time_text_embed", "context_embedder", "norm_out", "proj_out")),
    Family("FLUX", {"transformer_blocks": "double", "single_transformer_blocks": "single"},
           ("x_embedder", "time_text_embed", "context_embedder", "norm_out", "proj_out")),
    Family("PixArt", {"transformer_blocks": "image"},
           ("pos_embed.proj", "adaln_single", "scale_shift_table", "proj_out"),
           ("scale_shift_table",), modulated=False),
    Family("DiT", {"transformer_blocks": "image"},
           ("pos_embed.proj", "norm_out", "proj_out_1", "proj_out_2")),
    Family("SANA", {"transformer_blocks": "image"},
           ("patch_embed.proj", "time_embed", "caption_norm", "scale_shift_table", "proj_out"),
           ("scale_shift_table",), modulated=False),
)  # fmt: skip


def parameters(module: nn.Module | None) -> int:
    """How many numbers a module's parameters hold."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


@dataclass(frozen=True)
class Host:
    """A transformer and its family. Blocks have one number each, through all lists; numbers out
    of range are refused with ValueError."""

    model: Any
    family: Family

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.model.get_submodule(path) for path in self._paths)

    @property
    def depth(self) -> int:
        return len(self._paths)

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.model.config["attention_head_dim"]

    @property
    def heads(self) -> int:
        return self.model.config["num_attention_heads"]

    @property
    def _paths(self) -> list[str]:
        return [f"{name}.{i}" for name in self.family.blocks
                for i in range(len(getattr(self.model, name)))]  # fmt: skip

    def path(self, i: int) -> str:
        """Dotted path of block i, as "single_transformer_blocks.3"."""
        if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < self.depth:
            raise ValueError(f"there is no block {i!r}: this {self.family.name} transformer has "
                             f"blocks 0 to {self.depth - 1}")  # fmt: skip
        return self._paths[i]

    def block(self, i: int) -> nn.Module:
        return self.model.get_submodule(self.path(i))

    def kind(self, i: int) -> str:
        """joint, double, single or image."""
        return self.family.blocks[self.path(i).partition(".")[0]]

    def components(self, i: int) -> tuple[str, ...]:
        """What can be removed of block i by itself; all of them together are the whole block.

        A last block of SD3 has no "ff_context": its text goes nowhere.
        """
        ends = getattr(self.block(i), "context_pre_only", False)
        return tuple(name for name in KINDS[self.kind(i)]
                     if (self.family.modulated or name != "w_norm1")
                     and not (ends and name == "ff_context"))  # fmt: skip

    def modules(self, i: int, component: str) -> dict[str, nn.Module]:
        """Dotted path -> module of what a component, or "all", consists of, as far as it is there.

        "norm1" and "norm1_context" are the modules of their "w_" variants.
        """
        if component == "all":
            return {self.path(i): self.block(i)}
        parts = KINDS[self.kind(i)]
        names = parts.get(component) or parts.get(f"w_{component}")
        if names is None:
            raise ValueError(f"block {i} ({self.kind(i)}) has no component {component!r}; "
                             f"allowed: all, {', '.join(self.components(i))}")  # fmt: skip
        there = ((name, getattr(self.block(i), name, None)) for name in names)
        return {f"{self.path(i)}.{name}": module for name, module in there if module is not None}

    def count(self, i: int, component: str) -> int:
        """Parameters that the removal of a component, or of "all", takes away."""
        whole = sum(map(parameters, self.modules(i, component).values()))
        kept = component in ("all", "w_norm1", "norm1") and self.embedder(i) is not None
        return whole - kept * parameters(self.embedder(i))

    def embedder(self, i: int) -> nn.Module | None:
        """The time and label embedding in block 0 of a DiT, which the output needs."""
        return getattr(getattr(self.block(i), "norm1", None), "emb", None) if i == 0 else None

    def operator(self, i: int, place: str) -> str:
        """Dotted path of the image's self-attention (place "attention") or MLP ("mlp")."""
        if place not in OPERATORS:
            raise ValueError(f"place must be attention or mlp, given {place!r}")
        path, kind = self.path(i), self.kind(i)
        if kind not in OPERATORS[place]:
            raise ValueError(f"block {i} has no MLP of its own: single blocks of FLUX join it "
                             f"with the attention; allowed: blocks before it")  # fmt: skip
        return f"{path}.{OPERATORS[place][kind]}"


def host_of(model: nn.Module) -> Host:
    """The host of a transformer, recognised by its modules.

    Raises ValueError for any other model, with what is missing to the family that is nearest.
    """
    found = {family.name: _wrong(model, family) for family in FAMILIES}
    best = min(FAMILIES, key=lambda family: len(found[family.name]))
    if wrong := found[best.name]:
        known = ", ".join(family.name for family in FAMILIES)
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(f"{type(model).__name__} is no transformer that can be edited ({known} "
                         f"of diffusers); nearest is {best.name}, where it has "
                         f"{', '.join(wrong[:6])}{more}")  # fmt: skip
    return Host(model, best)


def _wrong(model: nn.Module, family: Family) -> list[str]:
    """What a model lacks to be of a family, and the blocks that it has besides."""
    wrong = [f"no {name}" for name in family.parts if not _has(model, name)]
    lists = {name: child for name, child in model.named_children()
             if isinstance(child, nn.ModuleList) and name.endswith("blocks")}  # fmt: skip
    for name, kind in family.blocks.items():
        parts = {parts[0] for component, parts in KINDS[kind].items()
                 if family.modulated or component != "w_norm1"}  # fmt: skip
        # A modulation that gets its numbers from elsewhere (Chroma) has no linear layer. The last
        # block of SD3 has no ff_context.
        wanted = {*family.own, *(f"{part}.linear" if "norm" in part else part for part in parts)}
        wanted -= {"ff_context"}
        wrong += [f"no {name}.{i}.{part}" for i, block in enumerate(lists.get(name, ()))
                  for part in sorted(wanted) if not _has(block, part)]  # fmt: skip
        wrong += [] if name in lists else [f"no {name}"]
    return wrong + [f"also {name}" for name in sorted(set(lists) - set(family.blocks))]


def _has(module: Any, name: str) -> bool:
    for part in name.split("."):
        if type(module).__module__.startswith(EDITED):
            return True  # what is in its place has parts of its own
        module = getattr(module, part, None)
        if module is None:
            return False
    return True
