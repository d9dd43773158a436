"""Published TokenFlow checkpoints <-> folders of ours.

Pixel side: LlamaGen's names (`models.llamagen`). Semantic tower:

    tokenflow_clipb_…    OpenAI's names of CLIP's tower; in_proj is split into q, k, v
    tokenflow_siglip_…   transformers' own, under vision_model

Dropped, and made again on the way back:

    quantize.codebook_used (131072)     ids lately used, of the training
    scaling_layer.{shift, scale}        the tower's mean and deviation

The transformer's names are ours; dropped of it are image_token_start and image_token_end, the ends
of the pictures' ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig

from impasto.models.conversion import shape_of, write_network
from impasto.models.llamagen import from_llamagen, llamagen_sizes, to_llamagen
from impasto.models.tokenflow.config import TOKENIZERS, TRANSFORMERS, TokenizerConfig
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.score.preference.names import Row, clip_rows
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["official_tokenizer", "official_transformer", "ours_of", "tokenflow_t2i",
           "tokenflow_tokenizer", "tokenizer_sizes", "transformer_sizes"]  # fmt: skip

SOURCE = "TokenFlow's official code"
USED, USED_LENGTH = "quantize.codebook_used", 131072
SCALING = ("scaling_layer.shift", "scaling_layer.scale")
TOWER = "encoder_vqkd."
FIRST, LAST = "image_token_start", "image_token_end"
LAYER = "model.layers."
PARTS |= {"tokenflow-tokenizer": "ema"}


def _tower_rows(depth: int) -> Iterator[Row]:
    """CLIP's tower: OpenAI's names and ours."""
    config = CLIPConfig(vision_config={"num_hidden_layers": depth},
                        text_config={"num_hidden_layers": 0})  # fmt: skip
    for row in clip_rows(config):
        if row.source.startswith("visual.") and row.source != "visual.proj":
            ours = tuple(name.replace("vision_model.", f"{TOWER}vision.") for name in row.targets)
            yield Row(row.source.replace("visual.", TOWER), ours)


def _depth(keys: Mapping[str, Tensor], stem: str) -> int:
    numbers = [int(key.removeprefix(stem).partition(".")[0]) for key in keys
               if key.startswith(stem)]  # fmt: skip
    return 1 + max(numbers, default=-1)


def _tower(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tower's tensors under our names, and official key -> (the first of) ours."""
    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for row in _tower_rows(_depth(tensors, f"{TOWER}transformer.resblocks.")):
        if row.source in tensors:
            names[row.source] = row.targets[0]
            ours |= zip(row.targets, tensors[row.source].chunk(len(row.targets)), strict=True)
    for key in tensors:
        if key not in names:
            names[key] = key.replace(f"{TOWER}vision_model.", f"{TOWER}vision.")
            ours[names[key]] = tensors[key]
    return ours, names


def ours_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors under our names, official key -> ours), of what is kept."""
    state, first = from_llamagen(tensors)
    state, second = _tower(state)
    return state, {key: second.get(ours, ours) for key, ours in first.items()}


def _known(tensors: Mapping[str, Tensor]) -> TokenizerConfig:
    """The published model whose tower these tensors have; its other sizes are read off them."""
    return TOKENIZERS["xl" if f"{TOWER}vision.head.probe" in tensors else "b"]()


def _grid(ours: Mapping[str, Tensor], known: TokenizerConfig) -> dict[str, Any]:
    """Of the places: the table of the semantic decoder tells how many there are."""
    side = math.isqrt(shape_of(ours, "decoder_vqkd.pos_embed")[1] - 1)
    patch = shape_of(ours, f"{TOWER}vision.embeddings.patch_embedding.weight")[-1]
    if side == known.tower_side and patch == known.vision["patch_size"]:
        return {"image": known.image, "scales": known.scales, "tower_side": side}
    scales = tuple(scale for scale in known.scales if scale <= side)
    if scales[-1] != side:
        raise ValueError(f"it has {side} x {side} places, and scales of such are not known; "
                         f"known: {', '.join(map(str, known.scales))}")  # fmt: skip
    return {"image": side * patch, "scales": scales, "tower_side": side}


def _vision(ours: Mapping[str, Tensor], known: TokenizerConfig) -> dict[str, Any]:
    """The tower's config."""
    own = f"{TOWER}vision."
    return dict(known.vision) | {
        "hidden_size": shape_of(ours, "encode_task_layer.0.weight")[0],
        "num_hidden_layers": _depth(ours, f"{own}encoder.layers."),
        "intermediate_size": shape_of(ours, f"{own}encoder.layers.0.mlp.fc1.weight")[0],
        "patch_size": shape_of(ours, f"{own}embeddings.patch_embedding.weight")[-1],
    }  # fmt: skip


def tokenizer_sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values for tensors under our names: what shapes do not tell (heads,
    GroupNorm's groups) is the published model's of that tower.

    Raises ValueError for another model's tensors.
    """
    known = _known(ours)
    grid, vision = _grid(ours, known), _vision(ours, known)
    if grid["image"] != known.image:
        vision["image_size"] = grid["image"]
    vocabulary, semantic = shape_of(ours, "quantize.embedding_vqkd.weight")
    pixel = shape_of(ours, "quantize.embedding_vqgan.weight")[1]
    encoder, decoder = (llamagen_sizes(ours, part) for part in ("encoder", "decoder"))
    other = {} if encoder == decoder else {"decoder_widths": decoder["widths"],
                                           "decoder_blocks": decoder["blocks"]}  # fmt: skip
    return asdict(known) | encoder | other | grid | {
        "vision": vision, "tower_width": vision["hidden_size"], "vocabulary": vocabulary,
        "semantic_channels": semantic, "pixel_channels": pixel,
        "z": shape_of(ours, "quant_conv.weight")[1],
        "target": shape_of(ours, "decode_task_layer.2.weight")[0],
        "semantic_blocks": _depth(ours, "decoder_vqkd.blocks."),
    }  # fmt: skip


def official_tokenizer(model: TokenFlowTokenizer) -> dict[str, Tensor]:
    """The published file's tensors, no ids counted as used: the way back."""
    state, out = to_llamagen(model.state_dict()), {}
    tower, own = model.config["tower"], f"{TOWER}vision."
    if tower == "clip":
        for row in _tower_rows(_depth(state, f"{own}encoder.layers.")):
            out[row.source] = torch.cat([state.pop(name) for name in row.targets])
    out |= {key.replace(own, f"{TOWER}vision_model." if tower == "siglip" else TOWER): tensor
            for key, tensor in state.items()}  # fmt: skip
    out[USED] = torch.zeros(USED_LENGTH, device=model.device)
    if tower != "clip":
        out |= {name: torch.tensor(model.config[key], device=model.device)[None, :, None, None]
                for name, key in zip(SCALING, ("mean", "std"), strict=True)}  # fmt: skip
    return out


def _check_scaling(tensors: Mapping[str, Tensor], sizes: Mapping[str, Any]) -> None:
    for name, key in zip(SCALING, ("mean", "std"), strict=True):
        if name in tensors and not torch.allclose(tensors[name].flatten().float(),
                                                  torch.tensor(sizes[key])):  # fmt: skip
            raise ValueError(f"its {name!r} is {tensors[name].flatten().tolist()}, and this "
                             f"tower's {key} {list(sizes[key])}")  # fmt: skip


@CONVERTERS.register("tokenflow-tokenizer")
def tokenflow_tokenizer(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """TokenFlow's tokenizer, B or XL. Raises ValueError for another model's tensors."""
    dropped = [key for key in (USED, *SCALING) if key in tensors]
    kept = {key: x for key, x in tensors.items() if key not in dropped}
    state, names = ours_of(kept)
    sizes = tokenizer_sizes(state)
    _check_scaling(tensors, sizes)
    return write_network(TokenFlowTokenizer, sizes, state, folder, source=SOURCE, names=names,
                         dropped=dropped)  # fmt: skip


# ---------------------------------------------------------------- what draws


def _patches(tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Sides of the maps, of a known tokenizer with as many scales and places."""
    scales = shape_of(tensors, "model.lvl_embed.weight")[0] - 1
    places = shape_of(tensors, "model.pos_1LC")[0]
    known = {(len(c.scales), sum(side**2 for side in c.scales)): c.scales
             for c in (make() for make in TOKENIZERS.values())}  # fmt: skip
    if (scales, places) not in known:
        raise ValueError(f"it has {scales} scales of {places} places together, and no tokenizer "
                         f"here has such")  # fmt: skip
    return known[scales, places]


def _vocabularies(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """(words, codes): pictures' ids come last; of the published number where none is told."""
    every = shape_of(tensors, "lm_head.weight")[0]
    words = int(tensors[FIRST]) if FIRST in tensors else every - TRANSFORMERS["7b"]().vocabulary
    last = int(tensors[LAST]) if LAST in tensors else every - 1
    if words < 1 or last != every - 1:
        raise ValueError(f"its head has {every} rows, and its pictures' ids are {words} to {last};"
                         f" they must be the last")  # fmt: skip
    return words, every - words


def transformer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TransformerConfig`'s values: what shapes do not tell (slots, eps, theta) is the published
    model's. Raises ValueError for another model's tensors."""
    words, codes = _vocabularies(tensors)
    width, channels = shape_of(tensors, "model.mm_projector.0.weight")
    embedded = shape_of(tensors, "model.embed_tokens.weight")[0]
    return asdict(TRANSFORMERS["7b"]()) | {
        "depth": _depth(tensors, LAYER), "width": width,
        "heads": width // shape_of(tensors, f"{LAYER}0.self_attn.qknorm.query_norm.weight")[0],
        "inside": shape_of(tensors, f"{LAYER}0.mlp.gate_proj.weight")[0],
        "text_vocabulary": words, "vocabulary": codes, "channels": channels,
        "patches": _patches(tensors), "embedded": None if embedded == words + codes else embedded,
    }  # fmt: skip


def official_transformer(model: TokenFlowTransformer) -> dict[str, Tensor]:
    """The published file's tensors, and the ends of the pictures' ids: the way back."""
    ends = {FIRST: model.words, LAST: model.words + model.config["vocabulary"] - 1}
    return {**model.state_dict(), **{key: torch.tensor(value) for key, value in ends.items()}}


@CONVERTERS.register("tokenflow-t2i")
def tokenflow_t2i(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """TokenFlow's text-to-image model. Raises ValueError for another model's tensors."""
    dropped = [key for key in (FIRST, LAST) if key in tensors]
    state = {key: tensor for key, tensor in tensors.items() if key not in dropped}
    return write_network(TokenFlowTransformer, transformer_sizes(tensors), state, folder,
                         source=SOURCE, names={key: key for key in state}, dropped=dropped
                         )  # fmt: skip
