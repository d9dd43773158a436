"""Where the tensors of published checkpoints lie in transformers' modules.

open_clip's CLIP (`open_clip/transformer.py`):

    resblocks.i.attn.in_proj_*         (3 d, ...) rows, split into q_proj, k_proj, v_proj
    visual.proj, text_projection       (d, D), transposed: nn.Linear holds (D, d)

BLIP of 2022 in ImageReward (`ImageReward/models/BLIP`):

    blip.visual_encoder.*              other names; query, key and value in one, as in transformers
    blip.text_encoder.*, mlp.*         the same names
    blip.vision_proj, .text_proj       of BLIP's contrastive loss, of no use to the reward
    ....embeddings.position_ids        0, 1, 2, ...: a constant
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from transformers import CLIPConfig

from impasto.score.preference.image_reward import Sizes

__all__ = ["IMAGE_REWARD_UNUSED", "Row", "clip_rows", "image_reward_rows"]


class Row(NamedTuple):
    """A published tensor, and the tensor or tensors (equal shares of its rows) that hold it."""

    source: str
    targets: tuple[str, ...]
    transposed: bool = False


def _both(source: str, *targets: str) -> Iterator[Row]:
    """Weight and bias of a layer."""
    for part in ("weight", "bias"):
        yield Row(f"{source}.{part}", tuple(f"{one}.{part}" for one in targets))


def _resblocks(source: str, target: str, depth: int) -> Iterator[Row]:
    for i in range(depth):
        old, new = f"{source}transformer.resblocks.{i}", f"{target}encoder.layers.{i}"
        for part in ("weight", "bias"):
            yield Row(f"{old}.attn.in_proj_{part}",
                      tuple(f"{new}.self_attn.{one}_proj.{part}" for one in "qkv"))  # fmt: skip
        for a, b in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                     ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"),
                     ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
            yield from _both(f"{old}.{a}", f"{new}.{b}")


def clip_rows(config: CLIPConfig) -> Iterator[Row]:
    """All tensors of an open_clip CLIP of this config."""
    see, read = "vision_model.", "text_model."
    yield Row("logit_scale", ("logit_scale",))
    yield Row("visual.class_embedding", (f"{see}embeddings.class_embedding",))
    yield Row("visual.positional_embedding", (f"{see}embeddings.position_embedding.weight",))
    yield Row("visual.conv1.weight", (f"{see}embeddings.patch_embedding.weight",))
    yield Row("visual.proj", ("visual_projection.weight",), transposed=True)
    yield from _both("visual.ln_pre", f"{see}pre_layrnorm")  # transformers' own spelling
    yield from _both("visual.ln_post", f"{see}post_layernorm")
    yield from _resblocks("visual.", see, config.vision_config.num_hidden_layers)
    yield Row("positional_embedding", (f"{read}embeddings.position_embedding.weight",))
    yield Row("token_embedding.weight", (f"{read}embeddings.token_embedding.weight",))
    yield Row("text_projection", ("text_projection.weight",), transposed=True)
    yield from _both("ln_final", f"{read}final_layer_norm")
    yield from _resblocks("", read, config.text_config.num_hidden_layers)


IMAGE_REWARD_UNUSED = frozenset({
    "blip.text_encoder.embeddings.position_ids",
    *(f"blip.{one}_proj.{part}" for one in ("vision", "text") for part in ("weight", "bias")),
})  # fmt: skip


def image_reward_rows(sizes: Sizes) -> Iterator[Row]:
    """All tensors of ImageReward that its value depends on."""
    see, own = "blip.visual_encoder", "vision"
    yield Row(f"{see}.cls_token", (f"{own}.embeddings.class_embedding",))
    yield Row(f"{see}.pos_embed", (f"{own}.embeddings.position_embedding",))
    yield from _both(f"{see}.patch_embed.proj", f"{own}.embeddings.patch_embedding")
    yield from _both(f"{see}.norm", f"{own}.post_layernorm")
    for i in range(sizes["depth"]):
        old, new = f"{see}.blocks.{i}", f"{own}.encoder.layers.{i}"
        for a, b in (("norm1", "layer_norm1"), ("norm2", "layer_norm2"),
                     ("attn.qkv", "self_attn.qkv"), ("attn.proj", "self_attn.projection"),
                     ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):  # fmt: skip
            yield from _both(f"{old}.{a}", f"{new}.{b}")
    read = "blip.text_encoder"
    for part in ("word_embeddings.weight", "position_embeddings.weight"):
        yield Row(f"{read}.embeddings.{part}", (f"text.embeddings.{part}",))
    yield from _both(f"{read}.embeddings.LayerNorm", "text.embeddings.LayerNorm")
    for i in range(sizes["text_depth"]):
        layer = f"encoder.layer.{i}"
        parts = ["intermediate.dense", "output.dense", "output.LayerNorm"]
        parts += [f"{one}.{part}" for one in ("attention", "crossattention")
                  for part in ("self.query", "self.key", "self.value", "output.dense",
                               "output.LayerNorm")]  # fmt: skip
        for part in parts:
            yield from _both(f"{read}.{layer}.{part}", f"text.{layer}.{part}")
    for i in (0, 2, 4, 6, 7):
        yield from _both(f"mlp.layers.{i}", f"head.layers.{i}")
