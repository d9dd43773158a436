"""TokenFlow put together of what lies in different places: a transformer, a tokenizer, words."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from impasto.models.storage import as_dtype, network_from
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.pipeline import TokenFlowGenerator
from impasto.models.tokenflow.sampler import DEFECTS, STRATEGIES, Defaults
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS

__all__ = ["tokenflow"]


@MODELS.register("tokenflow")
def tokenflow(
    *, transformer: str, vae: str, words: str, passes: int = 3, guidance: float = 8.5,
    negative: str = DEFECTS, tokens: str | None = None,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> TokenFlowGenerator:  # fmt: skip
    """Published TokenFlow: tokenflow:transformer=DIR,vae=DIR (impasto convert),words=DIR.

    words: folder or hub id of Llama-2's tokenizer. passes: 1, 2 or 3, how often a scale is drawn.
    guidance: the published `cfg` and 1. negative: what not to draw, in parentheses where it has
    commas; () for the empty text. tokens: the tokenizer's digest, where it is known. Raises
    ValueError for parts that do not belong together.
    """
    if passes not in STRATEGIES:
        raise ValueError(f"passes must be one of {', '.join(map(str, STRATEGIES))}, given "
                         f"{passes!r}")  # fmt: skip
    dtype, (top_k, top_p) = as_dtype(torch_dtype), STRATEGIES[passes]
    networks: dict[str, Any] = {
        "transformer": network_from(TokenFlowTransformer,
                                    model_folder(transformer, "transformer")).eval(),
        "vae": network_from(TokenFlowTokenizer, model_folder(vae, "vae")).eval(),
    }  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder(words, "words",
                                                                     weights=False))  # fmt: skip
    defaults = Defaults(negative=str(negative), guidance=guidance, top_k=top_k, top_p=top_p,
                        tokens=tokens)  # fmt: skip
    made = TokenFlowGenerator(**networks, tokenizer=tokenizer, defaults=defaults)
    return made.cast_to(dtype, device)
