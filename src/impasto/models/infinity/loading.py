"""Infinity put together of what lies in different places: a transformer, a tokenizer, a T5."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.pipeline import InfinityGenerator
from impasto.models.infinity.sampler import Defaults
from impasto.models.infinity.tokenizer import InfinityTokenizer
from impasto.models.storage import network_from
from impasto.score.trained import check_keys
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS
from impasto.zoo.weights import as_dtype, without_bars

__all__ = ["infinity", "t5_encoder"]

MOST_TOKENS = 512
"""Of a prompt, in the published models' training."""
DECODERS = ("decoder.", "lm_head.")
"""What a whole T5 has beside its encoder."""


def t5_encoder(text: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """A T5's encoder, float32, and its words, by folder or hub id. Raises ValueError."""
    folder = model_folder(text, "text")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with without_bars():
        encoder, found = T5EncoderModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    check_keys(found, folder, harmless=lambda key: key.startswith(DECODERS))
    return encoder, tokenizer


@MODELS.register("infinity", published=True)
def infinity(
    *, transformer: str, vae: str, text: str, scales: int = 13, guidance: float = 3.0,
    temperature: float = 0.5, guidance_layer: int = 0, top_p: float = 0.97,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> InfinityGenerator:  # fmt: skip
    """Published Infinity: infinity:transformer=DIR,vae=DIR (impasto convert),text=DIR_OR_HUB_ID.

    scales: 7, 10, 12 or 13 for 0.06M, 0.25M, 0.60M or 1M pixels. text: the T5 encoder and its
    tokenizer, google/flan-t5-xl for the published models. Raises ValueError for parts that do not
    belong together.
    """
    dtype = as_dtype(torch_dtype)
    encoder, tokenizer = t5_encoder(text)
    networks: dict[str, Any] = {
        "transformer": network_from(InfinityTransformer, model_folder(transformer, "transformer")),
        "vae": network_from(InfinityTokenizer, model_folder(vae, "vae")),
        "text_encoder": encoder,
    }
    rows = networks["transformer"].config["null_rows"]
    tokenizer.model_max_length = min(tokenizer.model_max_length, MOST_TOKENS, rows)
    for network in networks.values():
        nn.Module.to(network, device=device, dtype=dtype).eval()
    defaults = Defaults(scales=scales, guidance=guidance, temperature=temperature,
                        guidance_layer=guidance_layer, top_p=top_p)  # fmt: skip
    return InfinityGenerator(**networks, tokenizer=tokenizer, defaults=defaults)
