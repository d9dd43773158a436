"""Several processes that train one model, one GPU each, as torchrun starts them:

    torchrun --nproc-per-node 2 -m impasto train recipes/sticker/mmdit.yaml --device cuda

Each draws its own share of the scenes and of the batch; gradients are averaged after every step
(data parallelism), so the weights stay the same everywhere. Process 0 writes. Without torchrun
there is one process and every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["average_gradients", "cores", "count", "first", "rank", "share_cores", "shared",
           "together", "wait"]  # fmt: skip

T = TypeVar("T")
BESIDE = {"jobs": 1}
"""How many jobs of a stack there are at once, this one too."""


def count() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def share_cores(jobs: int) -> None:
    """Say that this process is one of `jobs` that do different things at once."""
    BESIDE["jobs"] = jobs


def cores() -> int:
    """How many of this machine's cores are this process's to lay out scenes on: its share of those
    that it may use, beside the others of torchrun on this host and a stack's other jobs."""
    usable = getattr(os, "sched_getaffinity", None)  # not everywhere
    most = len(usable(0)) if usable else os.cpu_count() or 1
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if count() > 1 else 1
    return max(1, most // (here * BESIDE["jobs"]))


@contextmanager
def together(device: str) -> Iterator[torch.device]:
    """Join the other processes, when torchrun started this one; gives the device to train on.

    "cuda" becomes this process's own card. Waits for the others before it leaves them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield torch.device(device)
        return
    own = torch.device(device)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield own
        dist.barrier()
    finally:
        dist.destroy_process_group()


def shared(value: T) -> T:
    """Process 0's value, in every process; any object that can be pickled."""
    if count() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def wait() -> None:
    """Until all processes have come here."""
    if count() > 1:
        dist.barrier()


@torch.no_grad()
def average_gradients(params: Sequence[Tensor]) -> None:
    """Put the mean over the processes into every gradient, in one message."""
    if count() == 1:
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    flat /= count()
    parts = flat.split([grad.numel() for grad in grads])
    torch._foreach_copy_(grads, [part.view_as(g) for part, g in zip(parts, grads, strict=True)])
