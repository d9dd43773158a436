"""How fast a tokenizer is, on a GPU: pictures a second there and back again.

Absolute times mean something on a GPU only; on a processor nothing is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from impasto.models.autoencoders import Autoencoder
from impasto.run.cost import device_name

__all__ = ["pictures_per_second"]

WARM, TIMED = 3, 10
"""Calls before the clock starts, and calls timed."""


def _rate(call: Callable[[], object], pictures: int) -> float:
    for _ in range(WARM):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(TIMED):
        call()
    end.record()
    torch.cuda.synchronize()
    return TIMED * pictures / (start.elapsed_time(end) / 1000)


@torch.inference_mode()
def pictures_per_second(model: Autoencoder, images: Tensor) -> dict[str, Any] | None:
    """{"encode", "decode", "batch", "size", "dtype", "device"}; None off a GPU.

    images: (B, 3, H, W) in [0, 1], encoded and decoded together.
    """
    if model.device.type != "cuda":
        return None
    x, (height, width) = images.to(model.device), images.shape[-2:]
    code = model.encode(x)
    return {"encode": round(_rate(lambda: model.encode(x), len(x)), 1),
            "decode": round(_rate(lambda: model.decode(code, height, width), len(x)), 1),
            "batch": len(x), "size": [height, width], "dtype": "float32",
            "device": device_name()}  # fmt: skip
