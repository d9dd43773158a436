"""FLOPs of a call into code that is not ours, 2 per multiply-add.

Counted while it runs, by torch's `FlopCounterMode`; the one attention kernel that the counter does
not know, a processor's, is added here, so that the figure is the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["counted"]


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """q k^T and the weights times v, for shapes (B, H, L, D), (B, H, S, D) and (B, H, S, E)."""
    (b, h, n, d), s, e = query, key[-2], value[-1]
    return 2 * b * h * n * s * (d + e)


KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def counted(run: Callable[[], object]) -> float:
    """The FLOPs of `run()`: matrix products, convolutions and attention."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        run()
    return float(counter.get_total_flops())
