"""CLIP-type scores: cosine of a picture and its prompt, by transformers' CLIP class.

    value = 100 * <f(picture), g(prompt)>        f, g: the projected features, L2-normalised

(Hessel et al. 2021, CLIPScore, without its clipping at 0.) The whole picture is resized to the
model's square, bilinear and antialiased as in the sticker CLIP's training.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
from transformers import PreTrainedTokenizerFast as TokenizerClass

from impasto.files import sha256_file
from impasto.sample.flops import count_flops
from impasto.score.base import Score, Scorer
from impasto.score.self_test import check_captions
from impasto.score.trained import check_keys
from impasto.spec import Spec
from impasto.zoo.weights import holds_int8, load_weights, without_bars

__all__ = [
    "BATCH",
    "OPENAI",
    "ClipScorer",
    "Normalisation",
    "clip_config",
    "image_features",
    "load_clip",
    "load_clip_model",
    "text_features",
    "token_ids",
]

BATCH = 256
"""Pictures or crops in one pass, at most."""


class Normalisation(NamedTuple):
    """Pixels x in [0, 1] to network input (x - mean) / std, per channel. Default: 2 x - 1."""

    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], normalised."""
        return (pixels - pixels.new_tensor(self.mean)[:, None, None]) / pixels.new_tensor(
            self.std
        )[:, None, None]


OPENAI = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Of OpenAI's CLIP (Radford et al. 2021, `clip/clip.py`)."""


def clip_config(name: str = "sticker", vocab_size: int = 1024, eos: int = 1, pad: int = 0
                ) -> CLIPConfig:  # fmt: skip
    """Presets: "sticker" (96 px, patches of 12), "patches" (128 px, patches of 8: one that is to
    tell places apart, as a tokenizer's teacher), "tiny" for tests.

    vocab_size, eos, pad: of the tokenizer. Raises ValueError for another name.
    """
    sizes = {"sticker": (96, 12, 128, 6, 128, 4, 40), "patches": (128, 8, 192, 6, 128, 4, 40),
             "tiny": (96, 12, 16, 1, 16, 1, 40)}  # fmt: skip
    if name not in sizes:
        raise ValueError(f"unknown CLIP preset {name!r}; allowed: {', '.join(sizes)}")
    image, patch, vision, depth, text, text_depth, length = sizes[name]
    return CLIPConfig(
        vision_config=CLIPVisionConfig(
            image_size=image, patch_size=patch, hidden_size=vision, intermediate_size=4 * vision,
            num_hidden_layers=depth, num_attention_heads=max(1, vision // 32), projection_dim=128,
        ).to_dict(),
        text_config=CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=text, intermediate_size=4 * text,
            num_hidden_layers=text_depth, num_attention_heads=max(1, text // 32),
            max_position_embeddings=length, projection_dim=128,
            pad_token_id=pad, bos_token_id=eos, eos_token_id=eos,
        ).to_dict(),
        projection_dim=128,
    )  # fmt: skip


def load_clip_model(folder: str | Path, device: str | torch.device = "cpu"
                    ) -> tuple[CLIPModel, str]:  # fmt: skip
    """Model in float32 and sha256 of the weights of a `save_pretrained` folder, or of one whose
    weights are int8 (`zoo.weights`).

    Raises FileNotFoundError when the folder has no `model.safetensors`, ValueError when it is
    damaged, lacks weights of the model, which transformers would fill with random ones, or holds
    others.
    """
    weights = Path(folder) / "model.safetensors"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing; give a folder that CLIPModel's "
                                f"save_pretrained wrote, with its tokenizer")  # fmt: skip
    if holds_int8(weights):
        model = CLIPModel(CLIPConfig.from_pretrained(folder, local_files_only=True))
        load_weights(model, weights)
        return model.to(device).eval(), sha256_file(weights)
    with without_bars():
        model, found = CLIPModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    check_keys(found, weights, harmless=lambda key: key.endswith(".position_ids"))
    return model.to(device).eval(), sha256_file(weights)


def load_clip(
    folder: str | Path, device: str | torch.device = "cpu", words: str | Path | None = None
) -> tuple[CLIPModel, TokenizerClass, str]:
    """`load_clip_model` with the tokenizer between model and sha256.

    words: folder of the tokenizer, where it is another one.
    """
    model, sha256 = load_clip_model(folder, device)
    tokenizer = TokenizerClass.from_pretrained(words or folder, local_files_only=True)
    return model, tokenizer, sha256


def token_ids(
    tokenizer: TokenizerClass, texts: Sequence[str], length: int | None = None
) -> Tensor:
    """Token ids (B, L), padded to `length`, by default the tokenizer's; the last token is <eos>.

    A longer text is cut, with a warning that says how much is lost.
    """
    length, pad = length or tokenizer.model_max_length, tokenizer.pad_token_id
    rows = []
    every = tokenizer(list(texts), truncation=False, verbose=False).input_ids
    for text, ids in zip(texts, every, strict=True):
        if len(ids) > length:
            warnings.warn(f"a text of {len(ids) - 1} tokens is scored by its first {length - 1}: "
                          f"{text[:60]!r}...", stacklevel=3)  # fmt: skip
        kept = [*ids[: length - 1], ids[-1]] if len(ids) > length else ids
        rows.append(kept + [pad] * (length - len(kept)))
    return torch.tensor(rows)


@torch.inference_mode()
def image_features(model: CLIPModel, inputs: Tensor) -> Tensor:
    """(B, D) L2-normalised features of normalised pictures (B, 3, S, S), on the CPU."""
    parts = []
    for chunk in inputs.split(BATCH):
        pooled = model.vision_model(pixel_values=chunk.to(model.device)).pooler_output
        parts.append(F.normalize(model.visual_projection(pooled).float(), dim=-1).cpu())
    return torch.cat(parts)


def patch_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """(B, N, D) of the patches of pixel values (B, 3, H, W), in the space shared with texts: what
    the class token goes through, norm and projection, as LSeg and MaskCLIP take them."""
    states = model.vision_model(pixel_values=pixels).last_hidden_state[:, 1:]
    return model.visual_projection(model.vision_model.post_layernorm(states))


@torch.inference_mode()
def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """(B, D) L2-normalised features of token ids (B, L), on the CPU."""
    pooled = model.text_model(input_ids=ids.to(model.device)).pooler_output
    return F.normalize(model.text_projection(pooled).float(), dim=-1).cpu()


class ClipScorer(Scorer):
    """100 times the cosine of the whole picture and the spec's prompt; no verdict.

    name, sha256: for the record. normalisation: of the model's training.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: TokenizerClass, *, name: str = "clip",
        sha256: str = "", normalisation: Normalisation | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model.eval(), tokenizer
        self.name, self.sha256 = name, sha256
        self.normalisation = normalisation or Normalisation()
        self.size: int = model.config.vision_config.image_size
        self._flops: float | None = None

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, name: str = "clip", device: str | torch.device = "cpu"
    ) -> ClipScorer:
        """From what CLIPModel's and its tokenizer's `save_pretrained` wrote."""
        model, tokenizer, sha256 = load_clip(folder, device)
        return cls(model, tokenizer, name=name, sha256=sha256)

    def score(self, images: Tensor, specs: Sequence[Spec]) -> list[Score]:
        """100 cos of picture i, (B, 3, H, W) in [0, 1], and the prompt of spec i.

        A prompt longer than the model's text is cut, with a warning. Raises ValueError when
        pictures and specs differ in number.
        """
        if len(images) != len(specs):
            raise ValueError(f"{len(images)} pictures for {len(specs)} specs; give one for each")
        if not specs:
            return []
        small = F.interpolate(images.float(), size=(self.size, self.size), mode="bilinear",
                              antialias=True)  # fmt: skip
        seen = image_features(self.model, self.normalisation(small))
        meant = text_features(self.model, token_ids(self.tokenizer, [s.prompt for s in specs]))
        return [Score(value=float(v)) for v in 100 * (seen * meant).sum(-1)]

    def flops(self, height: int, width: int) -> float:
        """Of both towers: the prompt is read anew for every picture."""
        if self._flops is None:
            model, length = self.model, self.tokenizer.model_max_length
            pixels = torch.empty(1, 3, self.size, self.size, device="meta", dtype=model.dtype)
            ids = torch.empty(1, length, device="meta", dtype=torch.long)
            self._flops = float(count_flops(model, input_ids=ids, pixel_values=pixels))
        return self._flops

    def self_test(self) -> None:
        """A true caption must beat another scene's. Raises ScorerBroken."""
        check_captions(self)

    def provenance(self) -> dict[str, Any]:
        return {"id": self.name, "sha256": self.sha256, "value": "100 * cosine",
                "preprocessing": {"resize": [self.size, self.size],
                                  "interpolation": "bilinear, antialiased",
                                  "mean": list(self.normalisation.mean),
                                  "std": list(self.normalisation.std)}}  # fmt: skip
