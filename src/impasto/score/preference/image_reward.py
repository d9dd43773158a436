"""ImageReward v1.0 by transformers' BLIP modules: a text encoder that looks at the picture.

    e     = V(picture)                     BLIP-large's ViT, (L, 1024), L = 197
    h     = T(prompt, e)[CLS]              BERT with cross-attention to e in each layer
    value = (head(h) - mean) / std         head: five linear layers, `aesthetic.LinearHead`

The prompt begins with [CLS], not BLIP's [ENC], and is padded and cut to 35 tokens. In BLIP's ViT
layer norms have eps 1e-6, which transformers' own default is not. Source: Xu et al. 2023,
`ImageReward/ImageReward.py`, `models/BLIP`, `med_config.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from impasto.score.clip import OPENAI, token_ids
from impasto.score.preference.aesthetic import LinearHead
from impasto.score.preference.base import PreferenceScorer
from impasto.score.preference.pictures import SQUARES

__all__ = ["MEAN", "SIZES", "STD", "TOKENS", "ImageRewardNetwork", "ImageRewardScorer", "Sizes",
           "read_sizes", "write_sizes"]  # fmt: skip

MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35

Sizes = Mapping[str, int]
"""Name -> size of what can differ between networks of this kind."""

SIZES: Sizes = {
    "size": 224, "patch": 16, "width": 1024, "depth": 24, "heads": 16, "text_width": 768,
    "text_depth": 12, "text_heads": 12, "vocabulary": 30524, "positions": 512,
}  # fmt: skip
"""The published network: 446,206,689 values, 446,665,953 with the two projections of its file that
it leaves unused."""
CONFIG = "config.json"


def _configs(n: Sizes) -> tuple[BlipVisionConfig, BlipTextConfig]:
    vision = BlipVisionConfig(
        image_size=n["size"], patch_size=n["patch"], hidden_size=n["width"],
        intermediate_size=4 * n["width"], num_hidden_layers=n["depth"],
        num_attention_heads=n["heads"], hidden_act="gelu", layer_norm_eps=1e-6,
    )  # fmt: skip
    text = BlipTextConfig(
        vocab_size=n["vocabulary"], hidden_size=n["text_width"],
        intermediate_size=4 * n["text_width"], num_hidden_layers=n["text_depth"],
        num_attention_heads=n["text_heads"], max_position_embeddings=n["positions"],
        encoder_hidden_size=n["width"], hidden_act="gelu", layer_norm_eps=1e-12, pad_token_id=0,
        # In transformers a layer attends to pictures where it is a "decoder"; called without
        # is_decoder=True, its attention to the text is not causal, as BLIP's encoder.
        is_decoder=True, attn_implementation="eager",
        bos_token_id=1, eos_token_id=2, sep_token_id=2,  # of generation: not looked at here
    )  # fmt: skip
    return vision, text


class ImageRewardNetwork(nn.Module):
    """The three parts. sizes: such as `SIZES`."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        vision, text = _configs(sizes)
        self.sizes = dict(sizes)
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = LinearHead(sizes["text_width"])

    def pictures(self, inputs: Tensor) -> Tensor:
        """(B, L, W) of normalised pictures (B, 3, S, S)."""
        return self.vision(pixel_values=inputs).last_hidden_state

    def rewards(self, seen: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B,) rewards of what `pictures` gave, by token ids (B, T); mask: 1 where no padding."""
        out = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen)
        return (self.head(out.last_hidden_state[:, 0])[:, 0] - MEAN) / STD


def write_sizes(folder: Path, sizes: Sizes) -> None:
    """`config.json` of a folder with an `ImageRewardNetwork`'s weights."""
    text = json.dumps({"model": "image-reward"} | dict(sizes), indent=2)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def read_sizes(folder: Path) -> Sizes:
    """What `write_sizes` wrote. Raises ValueError for anything else."""
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("model") == "image-reward" and found.keys() == SIZES.keys():
            return found
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    raise ValueError(f"{path} is not that of an ImageReward folder; make one by 'impasto convert "
                     f"ImageReward.pt --kind image-reward --out FOLDER'")  # fmt: skip


class ImageRewardScorer(PreferenceScorer):
    """ImageReward's value of picture and prompt."""

    model: ImageRewardNetwork

    def __init__(self, model: ImageRewardNetwork, tokenizer: Tokenizer, *,
                 name: str = "image-reward-v1.0", record: Mapping[str, Any] | None = None
                 ) -> None:  # fmt: skip
        super().__init__(model, name=name, record=record)
        self.tokenizer = tokenizer
        self.size = model.sizes["size"]

    def look(self, images: Sequence[Tensor]) -> Tensor:
        """(B, L, W) of pictures, on the model's device."""
        def features(rows: slice) -> Tensor:
            squares = [SQUARES["torchvision"](one.cpu().float(), self.size)
                       for one in images[rows]]  # fmt: skip
            return self.model.pictures(OPENAI(torch.stack(squares)).to(self.device))

        return self.in_rows(features, len(images))

    def rate(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) rewards."""
        ids = token_ids(self.tokenizer, prompts, TOKENS).to(self.device)
        mask = (ids != self.tokenizer.pad_token_id).long()
        return self.in_rows(
            lambda rows: self.model.rewards(seen[rows], ids[rows], mask[rows]).cpu(), len(seen)
        )

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {
            "value": "(head(CLS) - mean) / std", "mean": MEAN, "std": STD,
            "preprocessing": {"square": "torchvision", "size": self.size, "tokens": TOKENS,
                              "mean": list(OPENAI.mean), "std": list(OPENAI.std)},
        }  # fmt: skip
