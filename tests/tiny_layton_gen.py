"""LaytonGen with random weights in which everything matters."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace

import torch

from impasto.models.layton import GENERATORS, Defaults, LaytonGenerator, LaytonTransformer
from impasto.models.mmdit import train_tokenizer
from tests import tiny_vq

CONFIG = GENERATORS["tiny"]()
SIDE, TEXT = 4, 16
CAPTIONS = ("a photo of a dog", "two red cups", "a cat beside a blue bench", "three small birds")


@functools.cache
def words(most: int = TEXT):
    return train_tokenizer(CAPTIONS * 4, vocab_size=320, max_tokens=most)


@torch.no_grad()
def enliven(model: LaytonTransformer, seed: int = 1) -> LaytonTransformer:
    """All weights at random, large enough for every term to be seen; norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1
                        else noise * parameter.shape[-1] ** -0.5)  # fmt: skip
        if "uncond" in name or "tok_embeddings" in name:
            parameter.copy_(noise)
    return model


def transformer(seed: int = 1, **changes) -> LaytonTransformer:
    sizes = asdict(CONFIG.transformer) | {"side": SIDE} | changes
    with torch.random.fork_rng():
        return enliven(LaytonTransformer(**sizes), seed).eval()


def generator(vae=None, **defaults) -> LaytonGenerator:
    """Tiny, over 4 x 4 ids; by default much is left to chance."""
    made = LaytonGenerator.from_config(CONFIG_4, vae or tiny_vq.tokenizer(), words())
    enliven(made.transformer)
    with torch.no_grad():
        made.text_encoder.shared.weight.normal_(generator=torch.Generator().manual_seed(3))
    settings = {"guidance": 3.0, "temperature": 1.0, "top_k": 20, "top_p": 0.9, "clean": False}
    return changed(made, **settings | defaults)


CONFIG_4 = replace(CONFIG, transformer=replace(CONFIG.transformer, side=SIDE))


def changed(pipe: LaytonGenerator, **changes) -> LaytonGenerator:
    """The same networks with other defaults."""
    kept: Defaults = replace(pipe.defaults, **changes)
    return LaytonGenerator(**pipe.components, defaults=kept)
