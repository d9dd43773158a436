"""Does this picture show this prompt? An image-text matching network, as BLIP has it.

    e     = V(picture)                     ViT, (L, D): 64 patches of 16 px and a class token
    h     = T([ENC] prompt, e)[ENC]        BERT with cross-attention to e in each layer
    value = (log p(match) - log p(no match)) / u = (z_1 - z_0) / u,    z = W h + b  (matching head)

The prompt's words look at the picture's patches, so unlike a CLIP's cosine the value does not have
to go through one vector a picture. Trained on the sticker world's own truth (`train.match`),
beside and apart from the networks that judge. transformers' `BlipForImageTextRetrieval`; its two
projections for cosines are not used here and have one column.

The value has no bounds. Its unit is what log-odds differ by between pictures that a model draws
of one prompt (u, `UNIT`), as ImageReward's is, so a search's lam means as much with either:
exp(lam * value) with lam = u weighs candidates by their odds p / (1 - p).
Source: Li et al. 2022 (BLIP), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BlipConfig, BlipForImageTextRetrieval, BlipTextConfig, BlipVisionConfig
from transformers import PreTrainedTokenizerFast as TokenizerClass

from impasto.files import sha256_file
from impasto.sample.flops import count_flops
from impasto.score.clip import Normalisation, token_ids
from impasto.score.preference.base import PreferenceScorer
from impasto.score.self_test import check_captions, check_pairs
from impasto.zoo.weights import load_weights, save_weights

__all__ = ["MatchScorer", "load_match", "marked_ids", "match_config", "matched", "patches",
           "save_match"]  # fmt: skip

WEIGHTS = "model.safetensors"
NORMALISATION = Normalisation()
TOKENS = 40
"""Of a prompt; the mark before it makes one more."""
UNIT = 5.4
"""Standard deviation of the log-odds of six pictures of a prompt by sticker-infinity, mean over 40
of GenEval's prompts: 5.43."""
SPREAD = 0.05
"""Standard deviation of new weights: BERT's 0.02 is for layers of 768, these are narrow."""
MARK = "<null>"
"""The tokenizer's word that no text has, in the place of BLIP's [ENC]."""


def match_config(name: str = "sticker", vocab_size: int = 1024) -> BlipConfig:
    """Presets: "sticker" (128 px, patches of 16; 3.8 M values), "tiny" for tests.

    vocab_size: of the tokenizer. Raises ValueError for another name.
    """
    sizes = {"sticker": (16, 192, 6, 6, 128, 3, 4), "tiny": (32, 16, 1, 1, 16, 1, 1)}
    if name not in sizes:
        raise ValueError(f"unknown matching preset {name!r}; allowed: {', '.join(sizes)}")
    patch, width, depth, heads, text, text_depth, text_heads = sizes[name]
    vision = BlipVisionConfig(
        image_size=128, patch_size=patch, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=depth, num_attention_heads=heads, initializer_range=SPREAD,
    )  # fmt: skip
    words = BlipTextConfig(
        vocab_size=vocab_size, hidden_size=text, intermediate_size=4 * text,
        num_hidden_layers=text_depth, num_attention_heads=text_heads,
        max_position_embeddings=TOKENS + 1, encoder_hidden_size=width, pad_token_id=0,
        initializer_range=SPREAD,
        # In transformers a layer attends to pictures where it is a "decoder"; called without
        # is_decoder=True, its attention to the text is not causal, as BLIP's encoder.
        is_decoder=True, attn_implementation="eager",
        bos_token_id=2, eos_token_id=1, sep_token_id=1,  # of generation: not looked at here
    )  # fmt: skip
    return BlipConfig(vision_config=vision.to_dict(), text_config=words.to_dict(),
                      image_text_hidden_size=1, initializer_range=SPREAD)  # fmt: skip


def marked_ids(tokenizer: TokenizerClass, texts: Sequence[str]) -> Tensor:
    """Token ids (B, L) of the mark, then the text, padded to `TOKENS` + 1.

    A longer text is cut, with a warning that says how much is lost.
    """
    ids = token_ids(tokenizer, texts, TOKENS)
    mark = tokenizer.convert_tokens_to_ids(MARK)
    return torch.cat([torch.full_like(ids[:, :1], mark), ids], 1)


def patches(model: BlipForImageTextRetrieval, pixels: Tensor) -> Tensor:
    """(B, 1 + P, D) states of pictures (B, 3, 128, 128) in [0, 1]: class token, then patches."""
    return model.vision_model(pixel_values=NORMALISATION(pixels)).last_hidden_state


def matched(model: BlipForImageTextRetrieval, seen: Tensor, ids: Tensor
            ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(B,) log p(match) - log p(no match) of what `patches` gave and `marked_ids` (B, L), and
    the states (B, L, D) before the text encoder's last layer."""
    mask = (ids != model.config.text_config.pad_token_id).long()
    out = model.text_encoder(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen,
                             output_hidden_states=True)  # fmt: skip
    logits = model.itm_head(out.last_hidden_state[:, 0]).float()
    return logits[:, 1] - logits[:, 0], out.hidden_states[-2]


def save_match(model: BlipForImageTextRetrieval, tokenizer: TokenizerClass, folder: str | Path
               ) -> None:  # fmt: skip
    """Config, int8 weights (`zoo.weights`) and tokenizer."""
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_weights(Path(folder) / WEIGHTS, model.state_dict(), "int8")


def load_match(folder: str | Path, device: str | torch.device = "cpu"
               ) -> tuple[BlipForImageTextRetrieval, TokenizerClass, str]:  # fmt: skip
    """What `save_match` wrote: model in float32, tokenizer, sha256 of the weights.

    Raises FileNotFoundError when a file is missing, ValueError when the weights are damaged or
    do not fit the config.
    """
    weights = Path(folder) / WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; give a folder that 'impasto train' wrote "
                                f"by a recipe of kind match")  # fmt: skip
    config = BlipConfig.from_pretrained(folder, local_files_only=True)
    model = BlipForImageTextRetrieval(config)
    load_weights(model, weights)
    tokenizer = TokenizerClass.from_pretrained(folder, local_files_only=True)
    return model.to(device).eval(), tokenizer, sha256_file(weights)


class MatchScorer(PreferenceScorer):
    """The log-odds that a picture shows its prompt, in units of `UNIT`; no verdict.

    Rows do not depend on their batch. record: for the provenance.
    """

    model: BlipForImageTextRetrieval

    def __init__(
        self, model: BlipForImageTextRetrieval, tokenizer: TokenizerClass, *,
        name: str = "match", record: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, name=name, record=record)
        self.tokenizer = tokenizer
        self.size: int = model.config.vision_config.image_size
        self._flops: float | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, *, name: str = "match",
                    device: str | torch.device = "cpu") -> MatchScorer:  # fmt: skip
        """From what `save_match` wrote. Raises as `load_match`."""
        model, tokenizer, sha256 = load_match(folder, device)
        return cls(model, tokenizer, name=name, record={"sha256": sha256})

    def look(self, images: Sequence[Tensor]) -> Tensor:
        """(B, 1 + P, D) of pictures, on the model's device."""
        def states(rows: slice) -> Tensor:
            squares = [F.interpolate(one[None].float(), size=(self.size, self.size),
                                     mode="bilinear", antialias=True) for one in images[rows]]
            return patches(self.model, torch.cat(squares).to(self.device))  # fmt: skip

        return self.in_rows(states, len(images))

    def rate(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(B,) log-odds / UNIT."""
        ids = marked_ids(self.tokenizer, prompts).to(self.device)
        return self.in_rows(lambda rows: matched(self.model, seen[rows], ids[rows])[0].cpu(),
                            len(seen)) / UNIT  # fmt: skip

    def flops(self, height: int, width: int) -> float:
        """Of both networks: every picture has its prompt."""
        if self._flops is None:
            pixels = torch.empty(1, 3, self.size, self.size, device="meta")
            seen = torch.empty(1, self.model.vision_model.embeddings.position_embedding.shape[1],
                               self.model.config.vision_config.hidden_size, device="meta")
            ids = torch.empty(1, TOKENS + 1, device="meta", dtype=torch.long)
            picture = count_flops(self.model.vision_model, pixel_values=pixels)
            self._flops = float(picture + count_flops(
                self.model.text_encoder, input_ids=ids, encoder_hidden_states=seen))
        return self._flops

    def self_test(self) -> None:
        """A true caption must beat another scene's, and a true picture one with a fact altered.

        Raises ScorerBroken.
        """
        check_captions(self)
        check_pairs(self)

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {
            "value": f"(log p(match) - log p(no match)) / {UNIT:g}",
            "preprocessing": {"resize": [self.size, self.size],
                              "interpolation": "bilinear, antialiased", "tokens": TOKENS,
                              "mean": list(NORMALISATION.mean),
                              "std": list(NORMALISATION.std)},
        }  # fmt: skip
