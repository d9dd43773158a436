"""Generators whose transformer belongs to one tokenizer of codes: its digest is in their config.

The digest is of the numbers as they are on disk, so a folder is read in full before it is cast,
and what is recorded at writing is what was written, rounding included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from impasto.models import storage
from impasto.models.networks import NetworkGenerator
from impasto.zoo.weights import as_dtype

__all__ = ["BoundGenerator", "folder_or_parts"]


class BoundGenerator(NetworkGenerator):
    """`vae` is a `discrete.DiscreteTokenizer`, `defaults.tokens` its digest. Subclasses call
    `discrete.check_digest` when they are made."""

    vae: Any

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, torch_dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu", defaults: Mapping[str, Any] | None = None,
    ) -> Self:  # fmt: skip
        """See `NetworkGenerator`. The tokenizer is recognised before it is cast."""
        dtype = as_dtype(torch_dtype)
        return super().from_pretrained(name_or_path, defaults=defaults).cast_to(dtype, device)

    def cast_to(self, dtype: torch.dtype, device: torch.device | str) -> Self:
        """The networks with other numbers and elsewhere; returns the generator itself."""
        for network in self.networks.values():
            nn.Module.to(network, device=device, dtype=dtype)
        return self

    def save_pretrained(
        self, folder: str | Path, formats: Mapping[str, str] | str = "bfloat16"
    ) -> None:
        """See `NetworkGenerator`. What is recorded is the tokenizer as it was written."""
        given = formats if isinstance(formats, str) else formats["vae"]
        storage.save_network(self.vae, Path(folder) / "vae", given)
        written: Any = storage.network_from(type(self.vae), Path(folder) / "vae")
        before = self.defaults
        self.defaults = replace(before, tokens=written.token_digest())
        try:
            super().save_pretrained(folder, formats)
        finally:
            self.defaults = before


def folder_or_parts(name: str, folder: str | None, parts: Mapping[str, str | None]) -> None:
    """Raises ValueError unless the model called `name` is given by its folder or else by all of
    its parts."""
    given = [key for key, value in parts.items() if value is not None]
    if given if folder is not None else len(given) < len(parts):
        words = ", ".join([*(["folder"] if folder is not None else []), *given]) or "none of them"
        raise ValueError(f"give {name}:folder=DIR, of a saved model, or "
                         f"{name}:{','.join(f'{key}=…' for key in parts)}, of one in parts; given "
                         f"{words}")  # fmt: skip
