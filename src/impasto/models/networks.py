"""What the own families share: a generator made of networks that lie in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from impasto.models import storage
from impasto.sample.pictures import Pipeline
from impasto.zoo.weights import as_dtype, shipped_folder, weights_digest

__all__ = ["NetworkGenerator"]


class NetworkGenerator(Pipeline):
    """Networks, and a tokenizer where `LAYOUT` has one, each an attribute by its folder's name."""

    LAYOUT: ClassVar[storage.Layout]
    DEFAULTS: ClassVar[Any]
    """Class of `self.defaults`, with `from_dict` and `to_dict`."""
    sampler: str
    """What the provenance calls the way of drawing."""
    transformer: Any
    tokenizer: PreTrainedTokenizerFast
    defaults: Any

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, torch_dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu", defaults: Mapping[str, Any] | None = None,
    ) -> Self:  # fmt: skip
        """Load a folder that `save_pretrained` wrote, or the model that ships under this name.

        torch_dtype: float32, bfloat16 or float16. defaults: fields of `DEFAULTS` that are to be
        others than the folder's. Raises FileNotFoundError for what is missing, ValueError for a
        file that does not fit.
        """
        dtype, path = as_dtype(torch_dtype), Path(name_or_path)
        folder = path if path.is_dir() else shipped_folder(str(name_or_path))
        components, values = storage.load_components(folder, cls.LAYOUT, dtype, device)
        own = cls.DEFAULTS.from_dict(values)
        return cls(**components | {"defaults": replace(own, **(defaults or {}))})

    def save_pretrained(
        self, folder: str | Path, formats: Mapping[str, str] | str = "bfloat16"
    ) -> None:
        """Write the model's folder. formats: one of "float32", "bfloat16", "int8" for all, or per
        network, as {"transformer": "int8", "vae": "bfloat16", "text_encoder": "int8"}.
        """
        if isinstance(formats, str):
            formats = dict.fromkeys(self.LAYOUT.networks, formats)
        storage.save_components(Path(folder), self.LAYOUT, self.components,
                                defaults=self.defaults.to_dict(), formats=formats)  # fmt: skip

    @property
    def networks(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.LAYOUT.networks}

    @property
    def components(self) -> dict[str, Any]:
        words = {"tokenizer": self.tokenizer} if self.LAYOUT.tokenizer else {}
        return {**self.networks, **words}

    @property
    def device(self) -> torch.device:
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        return self.transformer.dtype

    @property
    def rows_at_once(self) -> int | None:
        """Rows per call of what is called row by row on a CPU; None for all."""
        return 1 if self.device.type == "cpu" else None

    def to(self, device: torch.device | str) -> Self:
        """Move the networks, as torch's modules do; returns the generator itself."""
        for network in self.networks.values():
            nn.Module.to(network, device)
        return self

    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels of a draw that names none."""
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        """Id, sha256 over names and values of all tensors, sampler, dtype, device, defaults."""
        height, width = self.default_size()
        return {
            "id": type(self).__name__,
            "sha256": weights_digest(self.networks),
            "sampler": self.sampler,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": self.device.type,  # any of several draws the same
            "defaults": self.defaults.to_dict() | {"height": height, "width": width},
        }
