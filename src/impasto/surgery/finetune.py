"""Stage 2 of grafting: the whole edited network learns again, lightly, by the diffusion loss.

    L = mean |v_theta(x_t, t, c) - v|^2        over all parameters, or

    W x + (alpha / r) B A x                    over A and B of the linear layers named (LoRA, Hu et
                                               al. 2021), alpha = r, merged into W at the end

As published (Chandrasegaran et al. 2025, arXiv 2506.05340): AdamW at 1e-4 without decay, linear
warm-up, gradients clipped at 10, moving average 0.9999; LoRA of rank 64 for a text-to-image host.
The text encoder stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from impasto.surgery.noised import Noised, output_of
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.loop import Loop, mixed, warmed

__all__ = ["finetune", "low_rank"]


def _linears(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Paths of the linear layers that are named in `targets`, or are below what is."""
    found = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)
             and any(f".{target}." in f".{name}." for target in targets)]  # fmt: skip
    if not found:
        raise ValueError(f"no linear layer is at or below {', '.join(targets) or 'no targets'}; "
                         f"name parts of its blocks, such as attn or ff")  # fmt: skip
    return found


@contextlib.contextmanager
def low_rank(model: nn.Module, rank: int, targets: Sequence[str]) -> Iterator[None]:
    """Within it only low-rank additions to the linear layers below `targets` learn; what they have
    learnt is in the layers' own weights afterwards, and the model has the modules that it had.

    Raises ValueError for a rank below 1 or targets that hold no linear layer.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds of imports, for this alone

    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"the rank of low-rank additions must be an integer >= 1, given {rank!r}")
    names = _linears(model, targets)
    learnt = {name: p.requires_grad for name, p in model.named_parameters()}
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=names)
    inject_adapter_in_model(config, model)
    try:
        yield
    finally:
        for name in names:
            layer: Any = model.get_submodule(name)
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
        for name, param in model.named_parameters():
            param.requires_grad_(learnt[name])


def finetune(
    model: nn.Module, batches: Callable[[], Noised], *, steps: int, lr: float = 1e-4,
    rank: int | None = None, targets: Sequence[str] = ("attn", "ff"), weight_decay: float = 0.0,
    clip: float = 10.0, ema: float = 0.9999, schedule: Callable[[float], float] = warmed,
    minutes: float | None = None, seed: int = 0, compile: bool = False,
    checkpoint: Checkpoint | None = None,
) -> Loop:  # fmt: skip
    """Train `model` on what `batches` draws; all of it, or (rank) by `low_rank`. The moving
    average is what is kept. Raises ValueError, NonFiniteLoss."""
    torch.manual_seed(seed + processes.rank())
    model.requires_grad_(True).eval()
    with contextlib.ExitStack() as stack:
        if rank is not None:
            stack.enter_context(low_rank(model, rank, targets))
        loop = Loop(model, steps, lr, weight_decay=weight_decay, betas=(0.9, 0.999),
                    ema_decay=ema, minutes=minutes, name="fine-tuning", checkpoint=checkpoint,
                    schedule=schedule, clip=clip)  # fmt: skip
        run: Any = torch.compile(model) if compile else model
        while loop.running:
            batch = batches()
            with mixed(batch.x_t.device):
                loss = batch.error(output_of(run, batch.given))
            loop.update(loss)
        loop.load_average()
    model.eval()
    return loop
