"""Make text-to-image models draw what the prompt says: measure, search, train.

    from impasto import MMDiTGenerator
    pipe = MMDiTGenerator.from_pretrained("sticker-mmdit")
    pipe("a photo of a red apple and a blue dog", seeds=[0]).images[0].save("apple.png")
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impasto.models import MMDiTGenerator, load_generator
    from impasto.sample.protocol import Generator, Request, Sampling, generate
    from impasto.score.base import Score, Scorer
    from impasto.spec import Item, Spec

__all__ = ["Generator", "Item", "MMDiTGenerator", "Request", "Sampling", "Score", "Scorer", "Spec",
           "generate", "load_generator"]  # fmt: skip

_HOME = {
    "Generator": "impasto.sample.protocol", "Request": "impasto.sample.protocol",
    "Sampling": "impasto.sample.protocol", "generate": "impasto.sample.protocol",
    "MMDiTGenerator": "impasto.models", "load_generator": "impasto.models",
    "Score": "impasto.score.base", "Scorer": "impasto.score.base",
    "Item": "impasto.spec", "Spec": "impasto.spec",
}  # fmt: skip

_TALKATIVE = {
    "torchao": "Failed to load ", "torch.utils._pytree": "%s is an Enum subclass",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}  # fmt: skip
"""Logger -> how what it says begins whenever diffusers is imported beside torchao or, on some
processors, bitsandbytes: of kernels that are not needed and of torchao's own past. All else that
they say is heard."""


def _silence(name: str, start: str) -> None:
    logging.getLogger(name).addFilter(lambda record: not str(record.msg).startswith(start))


for _each in _TALKATIVE.items():
    _silence(*_each)


def __getattr__(name: str) -> Any:
    """The names of `__all__`, imported on first use: `impasto --help` needs no network library."""
    if name not in _HOME:
        raise AttributeError(f"module 'impasto' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
