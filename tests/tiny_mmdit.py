"""Generators with random weights: tiny ones, and one of the sticker's size."""

from __future__ import annotations

import functools

import torch

from impasto.models.mmdit import PRESETS, MMDiTGenerator, train_tokenizer

CAPTIONS = (
    "a photo of a red apple left of a blue dog",
    "four purple cats and a green bus",
    "a bench above a white kite",
    "a photo of two toothbrushes",
)


@functools.cache
def tokenizer(max_tokens: int = 16):
    return train_tokenizer(CAPTIONS * 3, vocab_size=300, max_tokens=max_tokens)


@torch.no_grad()
def enliven(generator: MMDiTGenerator) -> MMDiTGenerator:
    """Fill the zeros that training starts from, so that prompt, time and noise all matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in generator.transformer.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return generator


def tiny(seed: int = 0) -> MMDiTGenerator:
    return enliven(MMDiTGenerator.from_config(PRESETS["tiny"](), tokenizer(), seed))


def sticker() -> MMDiTGenerator:
    config = PRESETS["sticker"]()
    return enliven(MMDiTGenerator.from_config(config, tokenizer(config.max_tokens)))
