"""The published CLIP architectures, and what tells another model from them.

    name       values         vision: width, layers, heads, patch    text: width, layers, heads
    ViT-B/32     151,277,313    768, 12, 12, 32                      512, 12,  8
    ViT-L/14     427,616,513   1024, 24, 16, 14                      768, 12, 12
    ViT-H/14     986,109,441   1280, 32, 16, 14                     1024, 24, 16

All look at 224 px and read 77 of 49,408 tokens. OpenAI's weights (B/32, L/14) compute QuickGELU,
x sigmoid(1.702 x); LAION's H/14 and what is trained on from it exact GELU. The tensors' names and
shapes are the same either way, and so they are whatever the number of heads: only config.json
tells. Sources: Radford et al. 2021, table 20; open_clip, `model_configs/ViT-H-14.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

__all__ = ["ARCHITECTURES", "SENTENCE", "Architecture", "check_architecture", "clip_config_of"]


SENTENCE = "a photo of a cat"
"""What tokenizers are told apart by; the ids of CLIP's are those of open_clip's own."""


class Architecture(NamedTuple):
    """A CLIP's sizes. activation: transformers' name of it. sentence: ids of `SENTENCE`."""

    vision: tuple[int, int, int, int]
    text: tuple[int, int, int]
    features: int
    activation: str
    size: int = 224
    length: int = 77
    vocabulary: int = 49408
    sentence: tuple[int, ...] = (49406, 320, 1125, 539, 320, 2368, 49407)


ARCHITECTURES = {
    "ViT-B/32": Architecture((768, 12, 12, 32), (512, 12, 8), 512, "quick_gelu"),
    "ViT-L/14": Architecture((1024, 24, 16, 14), (768, 12, 12), 768, "quick_gelu"),
    "ViT-H/14": Architecture((1280, 32, 16, 14), (1024, 24, 16), 1024, "gelu"),
}
TOWER = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
         "hidden_act", "layer_norm_eps")  # fmt: skip
LOOKED_AT = {"vision": (*TOWER, "patch_size", "image_size"),
             "text": (*TOWER, "max_position_embeddings", "vocab_size")}  # fmt: skip
"""Settings of each tower that change what is computed."""


def clip_config_of(name: str) -> CLIPConfig:
    """transformers' config of one of `ARCHITECTURES`."""
    one = ARCHITECTURES[name]
    width, depth, heads, patch = one.vision
    text, text_depth, text_heads = one.text
    end = one.vocabulary - 1
    return CLIPConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=width, intermediate_size=4 * width, num_hidden_layers=depth,
            num_attention_heads=heads, patch_size=patch, image_size=one.size,
            hidden_act=one.activation, projection_dim=one.features,
        ).to_dict(),
        text_config=CLIPTextConfig(
            hidden_size=text, intermediate_size=4 * text, num_hidden_layers=text_depth,
            num_attention_heads=text_heads, max_position_embeddings=one.length,
            vocab_size=one.vocabulary, hidden_act=one.activation, projection_dim=one.features,
            bos_token_id=end - 1, eos_token_id=end, pad_token_id=end,
        ).to_dict(),
        projection_dim=one.features,
    )  # fmt: skip


def _differences(config: Any, wanted: Any) -> Iterator[str]:
    for tower, keys in LOOKED_AT.items():
        own, other = (getattr(c, f"{tower}_config") for c in (config, wanted))
        yield from (f"{tower} {key} {getattr(own, key)}, not {getattr(other, key)}"
                    for key in keys if getattr(own, key) != getattr(other, key))  # fmt: skip
    if config.projection_dim != wanted.projection_dim:
        yield f"projection_dim {config.projection_dim}, not {wanted.projection_dim}"


def check_architecture(config: CLIPConfig, name: str, where: object,
                       example: Mapping[str, str]) -> None:  # fmt: skip
    """Raises ValueError for a config that is not that of `ARCHITECTURES[name]`.

    example: architecture -> hub id whose config is right, for the error.
    """
    found = list(_differences(config, clip_config_of(name)))
    if not found:
        return
    use = f"; use {example[name]}" if name in example else ""
    if all("hidden_act" in one for one in found):
        raise ValueError(f"CLIP in {where} computes another activation than its weights were "
                         f"trained with ({'; '.join(found)}): same tensors, other scores{use}"
                         )  # fmt: skip
    raise ValueError(f"CLIP in {where} is not {name}: {'; '.join(found[:4])}{use}")
