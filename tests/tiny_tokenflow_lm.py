"""TokenFlow's generator with random weights in which everything matters."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace

import torch

from impasto.models.tokenflow import PRESETS, Defaults, TokenFlowGenerator, train_words
from impasto.models.tokenflow.model import TokenFlowTransformer
from tests import tiny_tokenflow

CONFIG = PRESETS["tiny"]()
SIZES = ((1, 1), (2, 2), (4, 4))
CAPTIONS = ("a photo of a dog", "two red cups", "a cat beside a blue bench", "three small birds")


@functools.cache
def words():
    """322 or 323 words, the last two `<img>` and `</img>`."""
    return train_words(CAPTIONS * 4, vocab_size=320)


@torch.no_grad()
def enliven(model: TokenFlowTransformer, seed: int = 1) -> TokenFlowTransformer:
    """All weights at random, large enough for every term to be seen; norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name and parameter.ndim == 1
        parameter.copy_(1 + 0.3 * noise if norm else noise * parameter.shape[-1] ** -0.5)
        if "lvl_embed" in name or "pos_1LC" in name or "embed_tokens" in name:
            parameter.copy_(0.7 * noise)
    return model


def transformer(seed: int = 1, **changes) -> TokenFlowTransformer:
    with torch.random.fork_rng():
        made = TokenFlowTransformer(**asdict(CONFIG.transformer) | changes)
        return enliven(made, seed).eval()


def generator(passes: int = 3, **defaults) -> TokenFlowGenerator:
    """Tiny; by default three passes, of which the first two leave much to chance."""
    ways = {1: ((0,), (0.0,)), 2: ((20, 1), (0.9, 0.0)), 3: ((20, 5, 1), (0.9, 0.8, 0.0))}
    top_k, top_p = ways[passes]
    settings = {"top_k": top_k, "top_p": top_p, "negative": "blurry", "guidance": 4.0} | defaults
    return TokenFlowGenerator(transformer=transformer(), vae=tiny_tokenflow.tokenizer(),
                              tokenizer=words(), defaults=Defaults(**settings))  # fmt: skip


def changed(pipe: TokenFlowGenerator, **changes) -> TokenFlowGenerator:
    """The same networks with other defaults."""
    return TokenFlowGenerator(**pipe.components, defaults=replace(pipe.defaults, **changes))
