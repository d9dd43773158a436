"""Official DiT checkpoints, grafted ones too <-> folders of diffusers' DiT with edits.

    official                                  diffusers' DiTTransformer2DModel
    x_embedder.proj                           pos_embed.proj
    pos_embed                                 a buffer there, made of sizes; compared, not kept
    t_embedder.mlp.{0,2}                      transformer_blocks.*.norm1.emb.timestep_embedder.
                                                linear_{1,2}: a copy in every block
    y_embedder.embedding_table                …norm1.emb.class_embedder.embedding_table: the same
    blocks.i.adaLN_modulation.1               transformer_blocks.i.norm1.linear
    blocks.i.attn.{qkv,proj}                  …attn1.{to_q,to_k,to_v},  …attn1.to_out.0
    blocks.i.mlp.{fc1,fc2}                    …ff.{net.0.proj,net.2}
    final_layer.adaLN_modulation.1, .linear   proj_out_1, proj_out_2

What was grafted where is found from the names in blocks.i.attn and .mlp (checkpoints `grafting/
dit-xl2-…`, arXiv 2506.05340) and its sizes from the shapes:

    in_proj, out_proj, short_filter, inner_filter   Hyena-SE; -X, -Y without inner_, short_filter
    Wqkv, out_proj                                  sliding window; w = 4, which no shape tells
    in_proj, conv1d, A_log, D, dt_bias, norm, …     Mamba-2
    mlp: fc1, fc2 of another width than 4 D         MLP of that ratio
    mlp: in_proj, out_proj, short_filter            MLP-Hyena-X

The official norms have eps 1e-6 throughout and its time other frequencies than diffusers'
(`timesteps`); both are set. Heads are not in the shapes: of 72 features at D = 1152 and 64 else,
as in all official sizes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from impasto.models.conversion import shape_of, write_built
from impasto.models.edited.hosts import host_of
from impasto.models.edited.record import apply, edits_of
from impasto.models.edited.timesteps import OFFICIAL
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["grafting", "grafts_in", "official_dit", "transformer_sizes"]

SOURCE = "DiT's official code, and grafting's"
PARTS["grafting"] = "ema"
POSITIONS = "pos_embed"
NAMES = (
    (r"pos_embed\.proj\.", "x_embedder.proj."),
    (r"proj_out_1\.", "final_layer.adaLN_modulation.1."),
    (r"proj_out_2\.", "final_layer.linear."),
    (r"transformer_blocks\.\d+\.norm1\.emb\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"transformer_blocks\.\d+\.norm1\.emb\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"transformer_blocks\.\d+\.norm1\.emb\.class_embedder\.", "y_embedder."),
    (r"transformer_blocks\.(\d+)\.norm1\.linear\.", r"blocks.\1.adaLN_modulation.1."),
    (r"transformer_blocks\.(\d+)\.attn1\.to_[qkv]\.", r"blocks.\1.attn.qkv."),
    (r"transformer_blocks\.(\d+)\.attn1\.to_out\.0\.", r"blocks.\1.attn.proj."),
    (r"transformer_blocks\.(\d+)\.attn1\.operator\.to_[qkv]\.", r"blocks.\1.attn.Wqkv."),
    (r"transformer_blocks\.(\d+)\.attn1\.operator\.to_out\.0\.", r"blocks.\1.attn.out_proj."),
    (r"transformer_blocks\.(\d+)\.attn1\.operator\.", r"blocks.\1.attn."),
    (r"transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.", r"blocks.\1.mlp.fc1."),
    (r"transformer_blocks\.(\d+)\.ff\.net\.2\.", r"blocks.\1.mlp.fc2."),
    (r"transformer_blocks\.(\d+)\.ff\.", r"blocks.\1.mlp."),
)  # fmt: skip
"""Start of our key -> of the official one; the first that fits. Keys with one official name are
parts of it (qkv) or copies (embedders)."""


def transformer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration of diffusers' class, from the shapes. Raises ValueError for another
    model's tensors."""
    width, channels, patch, _ = shape_of(tensors, "x_embedder.proj.weight")
    tokens, head = shape_of(tensors, POSITIONS)[1], 72 if width == 1152 else 64
    blocks = {int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))}
    side = math.isqrt(tokens)
    if width % head or side**2 != tokens or blocks != set(range(len(blocks))) or not blocks:
        raise ValueError(f"its width {width}, {tokens} positions and blocks {sorted(blocks)} are "
                         f"none of a DiT")  # fmt: skip
    return {
        "num_attention_heads": width // head, "attention_head_dim": head,
        "in_channels": channels, "sample_size": side * patch, "patch_size": patch,
        "out_channels": shape_of(tensors, "final_layer.linear.weight")[0] // patch**2,
        "num_layers": len(blocks), "norm_eps": 1e-6,
        "num_embeds_ada_norm": shape_of(tensors, "y_embedder.embedding_table.weight")[0] - 1,
    }  # fmt: skip


def _grafted_attention(own: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]] | None:
    """Operator and options of one block's attention, by names within it; None for the host's."""
    if "qkv.weight" in own:
        return None
    if "Wqkv.weight" in own:
        return "sliding-window", {"window": 4}
    if "A_log" in own:
        heads, inside = len(own["A_log"]), shape_of(own, "norm.weight")[0]
        rows, width = shape_of(own, "in_proj.weight")
        return "mamba-2", {"state": (rows - 2 * inside - heads) // 2, "expand": inside // width,
                           "head": inside // heads,
                           "taps": shape_of(own, "conv1d.weight")[-1]}  # fmt: skip
    filters = tuple(name for name in ("short", "inner") if f"{name}_filter.weight" in own)
    names = {("short", "inner"): "hyena-se", ("short",): "hyena-x", ("inner",): "hyena-y"}
    if filters not in names:
        raise ValueError(f"an attention with {', '.join(sorted(own)) or 'no tensors'} is of no "
                         f"known operator")  # fmt: skip
    return names[filters], {"taps": own[f"{filters[0]}_filter.weight"].shape[-1]}


def _grafted_mlp(own: Mapping[str, Tensor], width: int) -> tuple[str, dict[str, Any]] | None:
    if "short_filter.weight" in own:
        inside = shape_of(own, "out_proj.weight")[1]
        return "mlp-hyena-x", {"ratio": inside // width,
                               "taps": own["short_filter.weight"].shape[-1]}  # fmt: skip
    inside = shape_of(own, "fc1.weight")[0]
    if inside == 4 * width:
        return None
    return "mlp", {"ratio": inside // width if inside % width == 0 else inside / width}


def grafts_in(tensors: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """The edits that give a DiT the structure of these official tensors, those of one operator
    and size together. Raises ValueError for an operator that is not known."""
    width, edits = shape_of(tensors, "x_embedder.proj.weight")[0], list[dict[str, Any]]()
    for i in range(transformer_sizes(tensors)["num_layers"]):
        parts = {name: {key.removeprefix(start): tensor for key, tensor in tensors.items()
                        if key.startswith(start := f"blocks.{i}.{name}.")}
                 for name in ("attn", "mlp")}  # fmt: skip
        try:
            found = {"attention": _grafted_attention(parts["attn"]),
                     "mlp": _grafted_mlp(parts["mlp"], width)}  # fmt: skip
        except ValueError as error:
            raise ValueError(f"block {i}: {error}") from None
        for place, graft in found.items():
            if graft is not None:
                _add(edits, place, *graft, i)
    return edits


def _add(
    edits: list[dict[str, Any]], place: str, operator: str, options: dict[str, Any], block: int
) -> None:
    same = {"edit": "graft", "place": place, "operator": operator, "options": options}
    for edit in edits:
        if {**edit, "blocks": None} == {**same, "blocks": None}:
            edit["blocks"].append(block)
            return
    edits.append(same | {"blocks": [block]})


def _official(ours: str) -> str:
    for pattern, theirs in NAMES:
        if re.match(pattern, ours):
            return re.sub(pattern, theirs, ours, count=1)
    raise ValueError(f"tensor {ours!r} has no official name: the official code knows no such part")


def _groups(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Official key -> ours: one, the three of a joined tensor, or a copy in every block."""
    found: dict[str, tuple[str, ...]] = {}
    for ours in model.state_dict():
        theirs = _official(ours)
        found[theirs] = (*found.get(theirs, ()), ours)
    return found


def _check_positions(model: Any, tensors: Mapping[str, Tensor]) -> None:
    theirs, ours = tensors[POSITIONS].float(), model.pos_embed.pos_embed
    if not torch.allclose(theirs, ours, atol=1e-4):
        raise ValueError(f"its {POSITIONS!r} is not the sine and cosine table of its size, which "
                         f"diffusers' class computes and cannot be given")  # fmt: skip


@CONVERTERS.register("grafting")
def grafting(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """An official DiT, as it is or grafted. Raises ValueError for another model's tensors."""
    sizes = transformer_sizes(tensors)
    _check_positions(DiTTransformer2DModel(**sizes | {"num_layers": 0}), tensors)
    with torch.device("meta"):
        network: Any = DiTTransformer2DModel(**sizes)
    for edit in [OFFICIAL, *grafts_in(tensors)]:
        apply(network, edit)
    groups, state = _groups(network), dict[str, Tensor]()
    for key, tensor in tensors.items():
        ours = groups.get(key, (key,))
        parts = tensor.chunk(3) if "qkv." in key else [tensor.clone() for _ in ours]
        state |= zip(ours, parts, strict=True)
    del state[POSITIONS]
    names = {key: groups.get(key, (key,)) for key in tensors if key != POSITIONS}
    return write_built(
        network, state, folder, source=SOURCE, dropped=[POSITIONS],
        names={key: ours[0] for key, ours in names.items() if len(ours) == 1},
        split={key: ours for key, ours in names.items() if len(ours) > 1})  # fmt: skip


def official_dit(model: nn.Module) -> dict[str, Tensor]:
    """The official tensors of a DiT of diffusers with or without grafts: the way back.

    Raises ValueError for another host, for other edits, for blocks whose copies of the embeddings
    are not one any more, and for time in diffusers' frequencies.
    """
    host, state = host_of(model), model.state_dict()
    wrong = {edit["edit"] for edit in edits_of(model)} - {"graft", "timesteps"}
    if host.family.name != "DiT" or wrong:
        raise ValueError(f"official checkpoints are of DiTs with grafts, not of a "
                         f"{host.family.name} with {', '.join(sorted(wrong)) or 'none'}"
                         )  # fmt: skip
    times: Any = host.block(0)
    if times.norm1.emb.time_proj.downscale_freq_shift != 0:
        raise ValueError("its time is in diffusers' frequencies, which the official code has not; "
                         "a model that was trained so has no official form")  # fmt: skip
    embedding: Any = model.pos_embed
    official = {POSITIONS: embedding.pos_embed.clone()}
    for theirs, ours in _groups(model).items():
        tensors = [state[key] for key in ours]
        if "qkv." in theirs:
            official[theirs] = torch.cat(tensors)
        elif all(torch.equal(tensor, tensors[0]) for tensor in tensors):
            official[theirs] = tensors[0]
        else:
            raise ValueError(f"blocks have different {theirs}, of which the official model has "
                             f"one: they were trained apart")  # fmt: skip
    return official
