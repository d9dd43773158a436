"""The adversary of a tokenizer's decoder: a discriminator of patches, by hinge losses.

    L_D = (E max(0, 1 - D(x)) + E max(0, 1 + D(y))) / 2          L_G = -E D(y)

D: 4 x 4 convolutions that halve, BatchNorm, LeakyReLU of slope 0.2; one logit a patch. Both losses
are off before the start. L_G's weight is fixed, or the published adaptive one,

    w = |d L_rec / d W| / (|d L_G / d W| + 1e-4),  W: the decoder's last layer

Sources: Isola et al. 2017 (arXiv 1611.07004), appendix 6.1.2; Esser et al. 2021 (arXiv
2012.09841), equations 5 to 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.train import processes
from impasto.train.checkpoint import load_optimizer
from impasto.train.loop import mixed

__all__ = ["Adversary", "Discriminator", "adaptive_weight", "hinge"]


class Discriminator(nn.Sequential):
    """Pictures (B, 3, H, W) in [-1, 1] -> logits (B, 1, h, w). filters: of the first layer.
    layers: that halve; published: 64 and 3."""

    def __init__(self, filters: int = 64, layers: int = 3) -> None:
        parts: list[nn.Module] = [nn.Conv2d(3, filters, 4, 2, 1), nn.LeakyReLU(0.2)]
        inside = filters
        for i in range(1, layers + 1):
            width = filters * min(2**i, 8)
            # The last of them keeps its size. BatchNorm has its own bias.
            stride = 2 if i < layers else 1
            parts += [nn.Conv2d(inside, width, 4, stride, 1, bias=False), nn.BatchNorm2d(width),
                      nn.LeakyReLU(0.2)]  # fmt: skip
            inside = width
        super().__init__(*parts, nn.Conv2d(inside, 1, 4, 1, 1))
        for part in self:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, 0.0, 0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """L_D of logits."""
    return (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """w, from 0 to 10,000, without a gradient."""
    [of_picture] = torch.autograd.grad(reconstruction, last, retain_graph=True)
    [of_adversary] = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (of_picture.norm() / (of_adversary.norm() + 1e-4)).clamp(0, 1e4).detach()


class Adversary:
    """A discriminator with its optimiser: `generator_loss`, then, after the generator's step,
    `learn`."""

    def __init__(
        self, filters: int, layers: int, lr: float, betas: tuple[float, float],
        device: torch.device, *, seed: int = 0,
    ) -> None:  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # several processes begin alike; nothing else is drawn anew
            self.model = Discriminator(filters, layers).to(device)
        self.params = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.params, lr=lr, betas=betas)
        self.lr = lr

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])

    def generator_loss(self, y: Tensor) -> Tensor:
        """L_G of pictures (B, 3, H, W) in [-1, 1]."""
        self.model.requires_grad_(False)
        return -self.model(y).mean()

    def learn(self, x: Tensor, y: Tensor, factor: float) -> Tensor:
        """One step; x: true pictures, y: made ones. factor: of the learning rate. Gives L_D."""
        self.model.requires_grad_(True)
        with mixed(x.device):
            loss = hinge(self.model(x.detach()).float(), self.model(y.detach()).float())
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(self.params)
        self.optimizer.step()
        return loss.detach()
