"""The Inception of FID: TensorFlow's graph of 2015-12-05 in PyTorch.

Inception-v3 (Szegedy et al. 2016) with what that graph has otherwise: padded zeros do not count in
the mean pools, the last block pools by maximum, and there are 1,008 classes. Names of tensors are
those of `pt_inception-2015-12-05-6726825d.pth`, the port that pytorch-fid and torch-fidelity use.

    299 x 299 in [-1, 1]  ->  pool (2048)            pool_3, mean over 8 x 8
                              logits (1008)          without the bias, as scores are computed
                              spatial (17 * 17 * 7)  mixed_6/conv, its first seven channels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CLASSES", "SIDE", "SPATIAL", "WIDTH", "Inception", "Seen", "load_inception"]

SIDE = 299
WIDTH, CLASSES = 2048, 1008
CHANNELS = 7
SPATIAL = 17 * 17 * CHANNELS

Seen = dict[str, Tensor]
"""Stream -> (B, D)."""
Size = int | tuple[int, int]
Step = str | tuple[str, ...]
"""A convolution, or several side by side."""


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, inside: int, outside: int, kernel: Size, stride: int = 1, padding: Size = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def _mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _peak(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def _shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


class _Block(nn.Module):
    """Branches side by side, their channels joined in this order.

    convs: name -> arguments of `_Conv`. chains: each branch's convolutions, one after another.
    pool: of the last branch, before its convolution if there is one ("branch_pool").
    """

    def __init__(
        self, convs: Mapping[str, tuple[int, int, Size, int, Size]],
        chains: Sequence[Sequence[Step]], pool: str,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, arguments in convs.items():
            self.add_module(name, _Conv(*arguments))
        self.chains, self.pool = chains, {"mean": _mean, "peak": _peak, "shrink": _shrink}[pool]

    def forward(self, x: Tensor) -> Tensor:
        branches = [self._chain(x, chain) for chain in self.chains]
        last = self.pool(x)
        if hasattr(self, "branch_pool"):
            last = self.get_submodule("branch_pool")(last)
        return torch.cat([*branches, last], 1)

    def _chain(self, x: Tensor, chain: Sequence[Step]) -> Tensor:
        for step in chain:
            if isinstance(step, str):
                x = self.get_submodule(step)(x)
            else:
                x = torch.cat([self.get_submodule(name)(x) for name in step], 1)
        return x


def _a(n: int, pool: int) -> _Block:
    """35 x 35."""
    return _Block({
        "branch1x1": (n, 64, 1, 1, 0),
        "branch5x5_1": (n, 48, 1, 1, 0), "branch5x5_2": (48, 64, 5, 1, 2),
        "branch3x3dbl_1": (n, 64, 1, 1, 0), "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 1, 1),
        "branch_pool": (n, pool, 1, 1, 0),
    }, [["branch1x1"], ["branch5x5_1", "branch5x5_2"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]], "mean")  # fmt: skip


def _b(n: int) -> _Block:
    """35 x 35 to 17 x 17."""
    return _Block({
        "branch3x3": (n, 384, 3, 2, 0),
        "branch3x3dbl_1": (n, 64, 1, 1, 0), "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 2, 0),
    }, [["branch3x3"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]],
        "shrink")  # fmt: skip


def _c(n: int, c: int) -> _Block:
    """17 x 17."""
    row: tuple[Size, int, Size] = ((1, 7), 1, (0, 3))
    column: tuple[Size, int, Size] = ((7, 1), 1, (3, 0))
    return _Block({
        "branch1x1": (n, 192, 1, 1, 0),
        "branch7x7_1": (n, c, 1, 1, 0), "branch7x7_2": (c, c, *row),
        "branch7x7_3": (c, 192, *column),
        "branch7x7dbl_1": (n, c, 1, 1, 0), "branch7x7dbl_2": (c, c, *column),
        "branch7x7dbl_3": (c, c, *row), "branch7x7dbl_4": (c, c, *column),
        "branch7x7dbl_5": (c, 192, *row),
        "branch_pool": (n, 192, 1, 1, 0),
    }, [["branch1x1"], [f"branch7x7_{i}" for i in range(1, 4)],
        [f"branch7x7dbl_{i}" for i in range(1, 6)]], "mean")  # fmt: skip


def _d(n: int) -> _Block:
    """17 x 17 to 8 x 8."""
    return _Block({
        "branch3x3_1": (n, 192, 1, 1, 0), "branch3x3_2": (192, 320, 3, 2, 0),
        "branch7x7x3_1": (n, 192, 1, 1, 0), "branch7x7x3_2": (192, 192, (1, 7), 1, (0, 3)),
        "branch7x7x3_3": (192, 192, (7, 1), 1, (3, 0)), "branch7x7x3_4": (192, 192, 3, 2, 0),
    }, [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in range(1, 5)]],
        "shrink")  # fmt: skip


def _e(n: int, pool: str) -> _Block:
    """8 x 8; branches that fork."""
    row: tuple[Size, int, Size] = ((1, 3), 1, (0, 1))
    column: tuple[Size, int, Size] = ((3, 1), 1, (1, 0))
    return _Block({
        "branch1x1": (n, 320, 1, 1, 0),
        "branch3x3_1": (n, 384, 1, 1, 0), "branch3x3_2a": (384, 384, *row),
        "branch3x3_2b": (384, 384, *column),
        "branch3x3dbl_1": (n, 448, 1, 1, 0), "branch3x3dbl_2": (448, 384, 3, 1, 1),
        "branch3x3dbl_3a": (384, 384, *row), "branch3x3dbl_3b": (384, 384, *column),
        "branch_pool": (n, 192, 1, 1, 0),
    }, [["branch1x1"], ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")]],
        pool)  # fmt: skip


class Inception(nn.Module):
    """The network, with whatever weights it is made with."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c = _c(768, 128), _c(768, 160)
        self.Mixed_6d, self.Mixed_6e = _c(768, 160), _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "mean"), _e(2048, "peak")
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Seen:
        """Pool, logits and spatial of x (B, 3, 299, 299) in [-1, 1]."""
        x = _shrink(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = _shrink(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        # Channels last, as the graph has them: published moments are in this order.
        spatial = self.Mixed_6d.get_submodule("branch1x1")(x)[:, :CHANNELS].permute(0, 2, 3, 1)
        x = self.Mixed_6e(self.Mixed_6d(x))
        pool = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))
        return {"pool": pool, "logits": pool @ self.fc.weight.T, "spatial": spatial.flatten(1)}


def load_inception(tensors: Mapping[str, Tensor], where: str) -> Inception:
    """The network with these weights, in evaluation mode.

    Raises ValueError, naming `where`, for keys that are missing or left over or of another shape.
    """
    with torch.device("meta"):
        model = Inception()
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    # Counters of training steps: older files have none.
    counters = {key for key in [*wanted, *tensors] if key.endswith("num_batches_tracked")}
    wrong = sorted((set(wanted) ^ set(tensors)) - counters)
    wrong += [key for key in sorted(set(wanted) & set(tensors) - counters)
              if tensors[key].shape != wanted[key]]  # fmt: skip
    if wrong:
        raise ValueError(f"{where} is no FID Inception: {len(wrong)} tensors are missing, left "
                         f"over or of another shape, such as {', '.join(wrong[:3])}")  # fmt: skip
    state = {key: torch.zeros(()) if key in counters else tensors[key].float() for key in wanted}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
