"""DiT with random weights in which everything matters."""

from __future__ import annotations

from dataclasses import replace

import torch

from impasto.models.dit import PRESETS, DiTGenerator


@torch.no_grad()
def enliven(transformer, seed: int = 1):
    """Fill the zeros that training starts from, so that class, time and noise all matter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in transformer.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    for name, parameter in transformer.named_parameters():
        if name.endswith("embedding_table.weight"):
            parameter.mul_(50)
    return transformer


def generator(seed: int = 0, **defaults) -> DiTGenerator:
    config = PRESETS["tiny"]()
    made = DiTGenerator.from_config(replace(config, defaults=replace(config.defaults, **defaults)),
                                    seed)  # fmt: skip
    enliven(made.transformer)
    return made
