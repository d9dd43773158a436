"""A training that was broken off and goes on ends with the very bits of one that was not."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.nn import functional as F

from impasto.models import infinity
from impasto.models.mmdit import PRESETS
from impasto.train import checkpoint as checkpoints
from impasto.train import codebooks, tokenizers
from impasto.train.autoencoder import train_autoencoder
from impasto.train.checkpoint import Checkpoint, load_optimizer, packed, unpacked
from impasto.train.data import PictureCache
from impasto.train.infinity import train_tokenizer as train_infinity_tokenizer
from impasto.train.loop import Loop, NonFiniteLoss
from impasto.train.tokenizers import Objective
from impasto.train.var import cache_tokens, train_var, train_var_tokenizer
from tests import tiny_tokenflow, tiny_var, tiny_vq
from tests.breaking import Broken, broken_off

AGAINST = Objective(adversarial_weight=0.1, adversarial_start=0.3, adaptive=True, filters=4,
                    layers=1)  # fmt: skip
STEPS = 10


def cache(count: int = 5, side: int = 32) -> PictureCache:
    images = (255 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(7)))
    zeros = torch.zeros(count, side, side, dtype=torch.uint8)
    return PictureCache(images.byte(), zeros, torch.zeros(count, 2, dtype=torch.long),
                        torch.zeros(count, 2, dtype=torch.long))  # fmt: skip


def vq(**numbers) -> nn.Module:
    model = tiny_vq.tokenizer()
    codebooks.train_vq(model, cache(), **numbers)
    return model


def tokenflow(**numbers) -> nn.Module:
    model = tiny_tokenflow.tokenizer()
    codebooks.train_tokenflow(model, None, cache(side=model.image), **numbers)
    return model


def var(**numbers) -> nn.Module:
    model = tiny_var.tokenizer()
    train_var_tokenizer(model, cache(), tiny_var.SIZES, **numbers)
    return model


def bits(**numbers) -> nn.Module:
    torch.manual_seed(0)
    config = infinity.PRESETS["tiny"]()
    model = infinity.InfinityTokenizer(**asdict(config.tokenizer))
    sizes = config.schedule.sizes
    train_infinity_tokenizer(model, cache(side=sizes[-1][0] * model.stride), sizes,
                             drop_scales=0.5, **numbers)  # fmt: skip
    return model


def kl(**numbers) -> nn.Module:
    torch.manual_seed(0)
    model = PRESETS["tiny"]().build_vae()
    train_autoencoder(model, cache(), **numbers)
    return model


FAMILIES = {"vq": vq, "tokenflow": tokenflow, "var": var, "infinity": bits, "kl": kl}


def transformer(**numbers) -> nn.Module:
    pipe = tiny_var.generator()
    tokens = cache_tokens(pipe, cache())
    known = ("steps", "batch", "lr", "checkpoint")
    train_var(pipe, tokens, **{key: numbers[key] for key in known if key in numbers})
    return pipe.transformer


def same(one: nn.Module, other: nn.Module) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[k], there[k]) for k in here)


@pytest.mark.parametrize("family", [*FAMILIES, "transformer"])
@pytest.mark.parametrize("broken", [4, 8])
def test_what_was_broken_off_goes_on_to_the_same_bits(tmp_path, monkeypatch, family, broken):
    """The checkpoints: of step 3, before the encoder is frozen, and 6, after; both with the
    adversary at work."""
    monkeypatch.setattr("impasto.train.var.RESTART_EVERY", 2)
    monkeypatch.setattr(tokenizers, "LOOK_EVERY", 4)
    train: Callable[..., nn.Module] = FAMILIES.get(family, transformer)
    frozen = []
    numbers = {"steps": STEPS, "batch": 2, "lr": 3e-3, "seed": 1, "objective": AGAINST,
               "freeze_encoder": 0.5, "on_freeze": lambda: frozen.append(1)}  # fmt: skip
    whole = train(**numbers)
    frozen.clear()
    settings = {"lr": 3e-3}
    with broken_off(broken), Checkpoint(tmp_path, settings, every=3) as checkpoint:
        train(**numbers, checkpoint=checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == [f"{broken // 3 * 3:08d}"]
    torch.manual_seed(99)
    with Checkpoint(tmp_path, settings, every=3) as checkpoint:
        resumed = train(**numbers, checkpoint=checkpoint)
        assert same(resumed, whole)
        checkpoint.remove()
    assert not tmp_path.exists()
    if family != "transformer":
        # What was frozen before the checkpoint is not frozen again: `on_freeze` would overwrite.
        assert len(frozen) == 1


def test_checkpoints_change_nothing(tmp_path):
    with Checkpoint(tmp_path, {}, every=1) as checkpoint:
        assert same(vq(steps=3, batch=2, checkpoint=checkpoint), vq(steps=3, batch=2))


# ------------------------------------------------------------------------------ what is refused


def squares(_: Loop, model: nn.Module) -> torch.Tensor:
    return model(torch.randn(4, 3)).square().mean()


def fit(
    checkpoint: Checkpoint, steps: int = 6, width: int = 3, loss: Callable = squares, **numbers
) -> Loop:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    loop = Loop(model, steps, 0.1, checkpoint=checkpoint, name="fit", **numbers)
    while loop.running:
        loop.update(loss(loop, model))
    return loop


def stopped(folder: Path, **settings) -> None:
    """Leaves a checkpoint of step 4 behind."""
    with Checkpoint(folder, {"lr": 0.1} | settings, every=4) as checkpoint:
        fit(checkpoint)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"lr": 0.2}, "of another training: lr is 0.1 there and 0.2 here; go on .* or remove"),
     ({"batch": 3}, "batch is None there and 3 here")],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused_by_what_differs(tmp_path, change, words):
    stopped(tmp_path)
    checkpoint = Checkpoint(tmp_path, {"lr": 0.1} | change)
    with pytest.raises(ValueError, match=words):
        fit(checkpoint)
    assert checkpoint.latest() is not None


def test_a_checkpoint_of_another_network_or_with_other_things_carried_is_refused(tmp_path):
    stopped(tmp_path)
    for numbers, words in (({"width": 4}, "does not fit this version's network"),
                           ({"carried": {"plan": torch.zeros(())}}, r"carries \[\], .*'plan'")):
        with pytest.raises(ValueError, match=words):
            fit(Checkpoint(tmp_path, {"lr": 0.1}), **numbers)


def test_checkpoints_are_at_least_a_step_apart(tmp_path):
    with pytest.raises(ValueError, match="at least 1, given 0"):
        Checkpoint(tmp_path, {}, every=0)


# ------------------------------------------------------------------------------ files


def dying(real: Callable) -> Callable:
    """`real`, which breaks at its second call."""
    calls = []

    def once(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Broken
        return real(*arguments)

    return once


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    with Checkpoint(tmp_path / "whole", {}, every=2) as checkpoint:
        whole = fit(checkpoint)
    for owner, victim in ((checkpoints, "save_file"), (checkpoints.files, "publish")):
        folder = tmp_path / victim
        with monkeypatch.context() as patch, Checkpoint(folder, {}, every=2) as checkpoint:
            patch.setattr(owner, victim, dying(getattr(owner, victim)))
            with pytest.raises(Broken):
                fit(checkpoint)
        assert sorted(path.name for path in folder.iterdir()) == [".00000004.tmp", "00000002"]
        with Checkpoint(folder, {}, every=2) as checkpoint:
            assert same(fit(checkpoint).model, whole.model)
        assert [path.name for path in folder.iterdir()] == ["00000006"]


def test_a_kill_before_the_old_one_is_dropped_goes_on_from_the_new(tmp_path):
    stopped(tmp_path)
    shutil.copytree(tmp_path / "00000004", tmp_path / "00000002")
    with Checkpoint(tmp_path, {"lr": 0.1}, every=6) as checkpoint:
        fit(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["00000006"]


def test_states_come_back_as_they_were():
    twice = torch.arange(3.0)
    state = {"a": {0: twice, 1: twice}, "b": [(0.1, None), True], "c": torch.tensor(7), "d": ()}
    tensors: dict = {}
    back = unpacked(packed(state, tensors), tensors)
    assert sorted(tensors) == ["a/0", "a/1", "c"]
    assert back["b"] == [(0.1, None), True] and back["d"] == () and list(back["a"]) == [0, 1]
    assert torch.equal(back["a"][1], twice) and back["c"] == 7
    with pytest.raises(TypeError, match="a/x is set, which no checkpoint can hold"):
        packed({"a": {"x": {1}}}, {})


def test_moments_lie_in_memory_as_their_parameters_do():
    weight = nn.Parameter(torch.rand(4, 3, 2, 2).to(memory_format=torch.channels_last))
    adam = torch.optim.Adam([weight])
    weight.square().sum().backward()
    adam.step()
    tensors: dict = {}
    state = unpacked(packed(adam.state_dict(), tensors), tensors)
    other = torch.optim.Adam([weight])
    load_optimizer(other, state)
    for key in ("exp_avg", "exp_avg_sq"):
        assert other.state[weight][key].stride() == weight.stride()
        assert torch.equal(other.state[weight][key], adam.state[weight][key])


# ------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt),
                                               (signal.SIGTERM, SystemExit)])  # fmt: skip
def test_a_signal_ends_the_training_after_its_step_with_a_checkpoint(tmp_path, number, error):
    before, steps = signal.getsignal(number), []

    def loss(loop, model):
        steps.append(loop.step)
        if loop.step == 2 and len(steps) == 3:
            os.kill(os.getpid(), number)
        return squares(loop, model)

    with pytest.raises(error), Checkpoint(tmp_path, {}, every=100) as checkpoint:
        fit(checkpoint, loss=loss)
    assert signal.getsignal(number) == before
    assert [path.name for path in tmp_path.iterdir()] == ["00000003"]
    with Checkpoint(tmp_path, {}, every=100) as checkpoint:
        resumed = fit(checkpoint, loss=loss)
    with Checkpoint(tmp_path / "other", {}, every=100) as checkpoint:
        assert same(resumed.model, fit(checkpoint).model)
    assert steps == [0, 1, 2, 3, 4, 5]


def test_a_signal_acts_at_once_outside_the_steps_and_the_second_time(tmp_path):
    def twice(loop, model):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")

    with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path, {}):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")
    with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path, {}) as checkpoint:
        fit(checkpoint, loss=twice)
    with pytest.raises(KeyboardInterrupt), Checkpoint(tmp_path, {}) as checkpoint:
        fit(checkpoint)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")


def test_what_is_not_finite_is_not_written_and_the_last_good_checkpoint_is_named(tmp_path):
    def loss(loop, model):
        if loop.step == 4:
            with torch.no_grad():
                model[2].weight.fill_(torch.nan)
        return squares(loop, model)

    words = rf"not finite at step 6; the last good checkpoint is {tmp_path}/00000003, of step 3"
    for _ in ("from the start", "from the checkpoint"):
        with pytest.raises(NonFiniteLoss, match=words):
            fit(Checkpoint(tmp_path, {}, every=3), steps=9, loss=loss)
        assert [path.name for path in tmp_path.iterdir()] == ["00000003"]


def test_the_clock_of_a_timed_training_goes_on(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("impasto.train.loop.time.monotonic", lambda: now[0])

    def loss(loop, model):
        now[0] += 6
        return squares(loop, model)

    def broken(loop, model):
        if loop.step == 4:
            raise Broken
        return loss(loop, model)

    with pytest.raises(Broken), Checkpoint(tmp_path, {}, every=2) as checkpoint:
        fit(checkpoint, minutes=1.0, loss=broken)
    now[0] += 10**6
    with Checkpoint(tmp_path, {}, every=2) as checkpoint:
        assert fit(checkpoint, minutes=1.0, loss=loss).steps == 10


# ------------------------------------------------------------------------------ processes


def fit_half(folder: str, broken: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(dist.get_rank())  # its own pictures, as in every training here
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.3)
    plan = torch.Generator().manual_seed(dist.get_rank())
    checkpoint = Checkpoint(folder, {}, every=2)
    loop = Loop(model, 6, 0.1, checkpoint=checkpoint, carried={"plan": plan})
    while loop.running:
        x = torch.randn(4, 3) + torch.randn(4, 3, generator=plan)
        loop.update(F.mse_loss(model(x), x[:, :1]))
        if loop.step == broken:
            break
    return model.state_dict()


def in_group(rank: int, rendezvous: str, folder: str) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    whole = fit_half(f"{folder}/whole")
    fit_half(f"{folder}/broken", 5)
    torch.save([whole, fit_half(f"{folder}/broken")], f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes_go_on_together(tmp_path):
    multiprocessing.spawn(in_group, (f"file://{tmp_path}/meet", str(tmp_path)), nprocs=2)
    [left] = (tmp_path / "broken").iterdir()
    assert sorted(path.name for path in left.iterdir()) == [
        f"process-{rank}.{kind}" for rank in (0, 1) for kind in ("json", "safetensors")]
    for rank in (0, 1):
        whole, resumed = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    with pytest.raises(ValueError, match="processes is 2 there and 1 here"):
        fit(Checkpoint(tmp_path / "broken", {}))
