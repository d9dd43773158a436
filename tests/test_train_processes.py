"""Several processes train as one: the same steps, the same weights, the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing
from torch.nn import functional as F

from impasto.models.mmdit import PRESETS, MMDiTGenerator
from impasto.train import data, processes
from impasto.train.data import chunks, laid_out
from impasto.train.loop import Loop
from tests import tiny_mmdit

ROWS, STEPS = 8, 5


def problem() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.GELU(), torch.nn.Linear(6, 2))
    return (model, torch.randn(STEPS, ROWS, 4, generator=generator),
            torch.randn(STEPS, ROWS, 2, generator=generator))  # fmt: skip


def fit(rows: slice) -> dict[str, torch.Tensor]:
    model, x, y = problem()
    loop = Loop(model, STEPS, 0.05)
    while loop.running:
        at = loop.step
        loop.update(F.mse_loss(model(x[at, rows]), y[at, rows]))
    return {name: value.clone() for name, value in model.state_dict().items()}


def in_group(rank: int, rendezvous: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    half = ROWS // 2
    weights = fit(slice(rank * half, (rank + 1) * half))
    model, x, _ = problem()
    time.sleep(0.3 * rank)
    loop = Loop(model, 10**6, 0.01, minutes=0.005)
    while loop.running:
        time.sleep(0.001 * (1 + rank))
        loop.update(model(x[0]).square().mean())
    torch.save({"weights": weights, "timed": model.state_dict(), "steps": loop.step,
                "shared": processes.shared(f"of {rank}"), "first": processes.first()},
               f"{out}/{rank}.pt")  # fmt: skip
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("group")
    multiprocessing.spawn(in_group, (f"file://{folder}/meet", str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_halves_of_a_batch_train_like_the_whole(group: list[dict]) -> None:
    alone = fit(slice(None))
    for one in group:
        torch.testing.assert_close(one["weights"], alone, rtol=1e-5, atol=1e-6)


def test_processes_of_unlike_speed_make_the_same_timed_steps(group: list[dict]) -> None:
    assert group[0]["steps"] == group[1]["steps"] > 0
    torch.testing.assert_close(group[0]["timed"], group[1]["timed"], rtol=0, atol=0)


def test_one_process_is_first_and_its_values_are_everybodys(group: list[dict]) -> None:
    assert [one["shared"] for one in group] == ["of 0", "of 0"]
    assert [one["first"] for one in group] == [True, False]


def test_shares_of_scenes_follow_each_other() -> None:
    whole = list(chunks(2000, 5, workers=1))
    (second,) = chunks(1000, 5, workers=1, start=1000)
    assert second.captions == whole[1].captions != whole[0].captions
    with pytest.raises(ValueError, match="start must be a multiple of 1000, not 500"):
        next(chunks(1000, 5, start=500))


def test_cores_are_shared_with_what_runs_beside(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    assert processes.cores() == 12
    monkeypatch.setitem(processes.BESIDE, "jobs", 1)
    processes.share_cores(3)
    assert processes.cores() == 4
    monkeypatch.setattr(processes, "count", lambda: 4)  # two of them on this host
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.cores() == 2
    processes.share_cores(100)
    assert processes.cores() == 1


def test_scenes_are_laid_out_on_the_cores_of_this_process(monkeypatch) -> None:
    asked = []

    class Pool:
        def __init__(self, workers, **_):
            asked.append(workers)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, make, indices):
            return [make(i) for i in indices]

    monkeypatch.setattr(data, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(processes, "cores", lambda: 7)
    for workers in (None, 3, 1, 0):
        assert list(laid_out(lambda i: i + 1, range(4), workers)) == [1, 2, 3, 4]
    assert asked == [7, 3]


@pytest.mark.slow
def test_torchrun_trains_a_generator(tmp_path: Path) -> None:
    tiny = MMDiTGenerator.from_config(PRESETS["tiny"](), tiny_mmdit.tokenizer())
    tiny.save_pretrained(tmp_path / "start")
    sets = {"preset": "tiny", "scenes": 2000, "batch": 4, "steps": 2, "compiled": "false",
            "workers": 1, "autoencoder": "null", "initial": tmp_path / "start"}  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", "-m", "impasto", "train", "recipes/sticker/mmdit.yaml",
               "--device", "cpu", "--out", str(tmp_path / "out"),
               *(word for k, v in sets.items() for word in ("--set", f"{k}={v}"))]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["steps"], record["images"], record["device"]) == (2, 8, "2 x cpu")
    MMDiTGenerator.from_pretrained(tmp_path / "out")
    bad = [word.replace("batch=4", "batch=3") for word in command]
    failed = subprocess.run(bad, env=env, capture_output=True, text=True, check=False)
    assert failed.returncode != 0
    assert "2 processes cannot share 2000 scenes and a batch of 3" in failed.stderr
