"""The names of Mask2Former's tensors: mmdetection 2.x, 3.x, and transformers' on the model hub.

One row here is one mmdetection 2.x tensor and the transformers tensor or tensors that hold it,
under the names of the model hub (`save_pretrained` of transformers 4 and 5 writes these).
mmdetection 3.x holds the same tensors and renames attentions and feed-forward layers.

Sources: `mmdet/models` of mmdetection 2.28 and 3.3; `models/swin`, `models/mask2former` of
transformers 4.57 and 5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from transformers import Mask2FormerConfig

from impasto.zoo.convert import named

__all__ = ["HEAD", "INDEX", "OFFICIAL_FILES", "PIXELS", "UNUSED", "Row", "old_names", "rows"]

OFFICIAL_FILES = {
    "2.x": "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth",
    "3.x": "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth",
}
"""OpenMMLab's files. The last eight characters are the first of the file's sha256."""
PIXELS = "model.pixel_level_module."
E, D, T = f"{PIXELS}encoder.", f"{PIXELS}decoder.", "model.transformer_module."
HEAD = "panoptic_head."
UNUSED = frozenset({"criterion.empty_weight", *(
    f"{E}{swin}layernorm.{part}" for swin in ("", "swin.") for part in ("weight", "bias")
)})  # fmt: skip
"""transformers' tensors that play no part in finding objects, which mmdetection has not got."""
INDEX = ".attn.w_msa.relative_position_index"
"""End of the names of mmdetection's constant buffers, which have no row."""
NEW_NAMES = (
    (r"(pixel_decoder\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0."),
    (r"(transformer_decoder\.layers\.\d+)\.cross_attn\.attn\.", r"\1.attentions.0.attn."),
    (r"(transformer_decoder\.layers\.\d+)\.self_attn\.attn\.", r"\1.attentions.1.attn."),
    (r"(panoptic_head\..*layers\.\d+)\.ffn\.layers\.", r"\1.ffns.0.layers."),
)
"""3.x -> 2.x."""
OLD_NAME = re.compile(r"panoptic_head\..*layers\.\d+\.(attentions|ffns)\.")


class Row(NamedTuple):
    """One tensor in mmdetection 2.x and where it lies in transformers. merged: permuted."""

    source: str
    targets: tuple[str, ...]
    merged: bool = False


def _both(source: str, *targets: str, merged: bool = False) -> Iterator[Row]:
    """Weight and bias of a layer."""
    for part in ("weight", "bias"):
        yield Row(f"{source}.{part}", tuple(f"{one}.{part}" for one in targets), merged)


def _block(source: str, target: str) -> Iterator[Row]:
    """A Swin block."""
    own, table = f"{target}.attention.self", "relative_position_bias_table"
    yield Row(f"{source}.attn.w_msa.{table}", (f"{own}.{table}",))
    yield from _both(f"{source}.attn.w_msa.qkv", f"{own}.query", f"{own}.key", f"{own}.value")
    for old, new in (("norm1", "layernorm_before"), ("norm2", "layernorm_after"),
                     ("attn.w_msa.proj", "attention.output.dense"),
                     ("ffn.layers.0.0", "intermediate.dense"),
                     ("ffn.layers.1", "output.dense")):  # fmt: skip
        yield from _both(f"{source}.{old}", f"{target}.{new}")


def _backbone(depths: list[int]) -> Iterator[Row]:
    embed = "backbone.patch_embed"
    yield from _both(f"{embed}.projection", f"{E}embeddings.patch_embeddings.projection")
    yield from _both(f"{embed}.norm", f"{E}embeddings.norm")
    for i, depth in enumerate(depths):
        source, target = f"backbone.stages.{i}", f"{E}encoder.layers.{i}"
        for j in range(depth):
            yield from _block(f"{source}.blocks.{j}", f"{target}.blocks.{j}")
        if i < len(depths) - 1:
            merge = "downsample.reduction.weight"
            yield Row(f"{source}.{merge}", (f"{target}.{merge}",), merged=True)
            yield from _both(f"{source}.downsample.norm", f"{target}.downsample.norm", merged=True)
        yield from _both(f"backbone.norm{i}", f"{E}hidden_states_norms.stage{i + 1}")


def _pixel_decoder(layers: int) -> Iterator[Row]:
    source = f"{HEAD}pixel_decoder"
    for k in range(3):
        yield from _both(f"{source}.input_convs.{k}.conv", f"{D}input_projections.{k}.0")
        yield from _both(f"{source}.input_convs.{k}.gn", f"{D}input_projections.{k}.1")
    for k in range(layers):
        old, new = f"{source}.encoder.layers.{k}", f"{D}encoder.layers.{k}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            yield from _both(f"{old}.attentions.0.{part}", f"{new}.self_attn.{part}")
        yield from _feed_forward(old, new)
        yield from _both(f"{old}.norms.0", f"{new}.self_attn_layer_norm")
        yield from _both(f"{old}.norms.1", f"{new}.final_layer_norm")
    yield Row(f"{source}.level_encoding.weight", (f"{D}level_embed",))
    for old, new in (("lateral_convs.0", "adapter_1"), ("output_convs.0", "layer_1")):
        yield Row(f"{source}.{old}.conv.weight", (f"{D}{new}.0.weight",))
        yield from _both(f"{source}.{old}.gn", f"{D}{new}.1")
    yield from _both(f"{source}.mask_feature", f"{D}mask_projection")


def _feed_forward(source: str, target: str) -> Iterator[Row]:
    yield from _both(f"{source}.ffns.0.layers.0.0", f"{target}.fc1")
    yield from _both(f"{source}.ffns.0.layers.1", f"{target}.fc2")


def _decoder(layers: int) -> Iterator[Row]:
    for k in range(layers):
        old, new = f"{HEAD}transformer_decoder.layers.{k}", f"{T}decoder.layers.{k}"
        across, own = f"{old}.attentions.0.attn", f"{old}.attentions.1.attn"
        for part in ("weight", "bias"):
            yield Row(f"{across}.in_proj_{part}", (f"{new}.cross_attn.in_proj_{part}",))
            yield Row(f"{own}.in_proj_{part}",
                      tuple(f"{new}.self_attn.{one}_proj.{part}" for one in "qkv"))  # fmt: skip
        yield from _both(f"{across}.out_proj", f"{new}.cross_attn.out_proj")
        yield from _both(f"{own}.out_proj", f"{new}.self_attn.out_proj")
        for i, norm in enumerate(("cross_attn", "self_attn", "final")):
            yield from _both(f"{old}.norms.{i}", f"{new}.{norm}_layer_norm")
        yield from _feed_forward(old, new)
    yield from _both(f"{HEAD}transformer_decoder.post_norm", f"{T}decoder.layernorm")


def rows(config: Mask2FormerConfig) -> list[Row]:
    """All tensors of a detector of this config but the index buffers."""
    heads = [Row(f"{HEAD}{old}.weight", (f"{T}{new}.weight",)) for old, new in (
        ("query_embed", "queries_embedder"), ("query_feat", "queries_features"),
        ("level_embed", "level_embed"))]  # fmt: skip
    embedder = f"{T}decoder.mask_predictor.mask_embedder"
    for k in range(3):
        heads += _both(f"{HEAD}mask_embed.{2 * k}", f"{embedder}.{k}.0")
    heads += _both(f"{HEAD}cls_embed", "class_predictor")
    return [*_backbone(config.backbone_config.depths), *_pixel_decoder(config.encoder_layers),
            *_decoder(config.decoder_layers - 1), *heads]  # fmt: skip


def old_names(keys: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Whose names these are, "2.x" or "3.x", and each key as 2.x calls it.

    Raises ValueError for a mixture.
    """
    renamed = {}
    for key in keys:
        renamed[key] = key
        for new, old in NEW_NAMES:
            renamed[key] = re.sub(new, old, renamed[key])
    new_keys = sorted(key for key, old in renamed.items() if key != old)
    old_keys = sorted(key for key in keys if OLD_NAME.match(key))
    if new_keys and old_keys:
        raise ValueError(f"it mixes names of mmdetection 3.x ({named(new_keys, 2)}) and 2.x "
                         f"({named(old_keys, 2)}): two checkpoints in one; give "
                         f"{' or '.join(OFFICIAL_FILES.values())}")  # fmt: skip
    return "3.x" if new_keys else "2.x", renamed
