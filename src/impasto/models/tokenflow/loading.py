"""TokenFlow by name: saved in one folder, or put together of a transformer, a tokenizer, words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from impasto.models.bound import folder_or_parts
from impasto.models.storage import network_from
from impasto.models.tokenflow.model import TokenFlowTransformer
from impasto.models.tokenflow.pipeline import TokenFlowGenerator
from impasto.models.tokenflow.sampler import DEFECTS, STRATEGIES, Defaults
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.zoo.hub import model_folder
from impasto.zoo.registry import MODELS, numbers
from impasto.zoo.weights import as_dtype

__all__ = ["tokenflow"]

Numbers = str | float | None
"""One number, or several with / between them; None for not given."""


@MODELS.register("tokenflow", published=True, trained=("tokenflow",))
def tokenflow(
    *, folder: str | None = None, transformer: str | None = None, vae: str | None = None,
    words: str | None = None, passes: int | None = None, top_k: Numbers = None,
    top_p: Numbers = None, guidance: Numbers = None, negative: str | None = None,
    tokens: str | None = None, torch_dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> TokenFlowGenerator:  # fmt: skip
    """TokenFlow over its tokenizer: folder=DIR, or transformer=, vae=, words=; passes=1, 2 or 3.

    folder: as saved or trained. In parts as published, after impasto convert, words being the
    folder or hub id of Llama-2's tokenizer. What is not given is the folder's own, or as
    published:

    passes: 1, 2 or 3, how often a scale is drawn, truncated as published for 32,768 codes. top_k,
    top_p: of each pass, 150/12/1; 0 for all. guidance: the published `cfg` and 1; or one a scale,
    1/2/4. negative: what not to draw, in parentheses where it has commas; () for the empty text.
    tokens: the tokenizer's digest, where it is known. Raises ValueError for parts that do not
    belong together, and for settings that cannot be.
    """
    folder_or_parts("tokenflow", folder, {"transformer": transformer, "vae": vae, "words": words})
    changes = _truncation(passes, top_k, top_p)
    if guidance is not None:
        weights = numbers("guidance", guidance, float)
        changes["guidance"] = weights[0] if len(weights) == 1 else weights
    if negative is not None:
        changes["negative"] = str(negative)
    if tokens is not None:
        changes["tokens"] = tokens
    if folder is not None:
        return TokenFlowGenerator.from_pretrained(model_folder(folder, "folder"), defaults=changes,
                                                  torch_dtype=torch_dtype, device=device
                                                  )  # fmt: skip
    dtype = as_dtype(torch_dtype)
    networks: dict[str, Any] = {
        "transformer": network_from(TokenFlowTransformer,
                                    model_folder(str(transformer), "transformer")).eval(),
        "vae": network_from(TokenFlowTokenizer, model_folder(str(vae), "vae")).eval(),
    }  # fmt: skip
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folder(str(words), "words",
                                                                     weights=False))  # fmt: skip
    made = TokenFlowGenerator(**networks, tokenizer=tokenizer,
                              defaults=replace(Defaults(negative=DEFECTS), **changes)
                              )  # fmt: skip
    return made.cast_to(dtype, device)


def _truncation(passes: int | None, top_k: Numbers, top_p: Numbers) -> dict[str, Any]:
    """Fields of `Defaults` that are given. Raises ValueError for another number of passes than
    there are of top-k and top-p."""
    found: dict[str, Any] = {}
    if passes is not None:
        if passes not in STRATEGIES:
            raise ValueError(f"passes must be one of {', '.join(map(str, STRATEGIES))}, given "
                             f"{passes!r}")  # fmt: skip
        found["top_k"], found["top_p"] = STRATEGIES[passes]
    if top_k is not None:
        found["top_k"] = numbers("top_k", top_k, int)
    if top_p is not None:
        found["top_p"] = numbers("top_p", top_p, float)
    for key in ("top_k", "top_p"):
        if passes is not None and len(found[key]) != passes:
            raise ValueError(f"{key} must have one number for each of {passes} passes, given "
                             f"{found[key]!r}")  # fmt: skip
    return found
