"""Drawing step by step, and what every own family must pass, whatever its steps are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from impasto.models import load_generator
from impasto.sample.protocol import Cost, Request, Sampling, generate
from impasto.search import Draw, TTSVar
from impasto.spec import Item, Spec
from tests.fakes import FakeSecond

DOG = "a photo of a dog"


def requests(*prompts):
    return [Request.of(prompt) for prompt in prompts]


def start(pipe, prompts=(DOG,), seeds=None, **settings):
    return pipe.start(requests(*prompts), seeds or list(range(len(prompts))), Sampling(**settings))


def through(pipe, state, steps=None):
    for _ in range(state.steps - state.step if steps is None else steps):
        state = pipe.advance(state)
    return state


def drawn_in_any_batch(pipe, prompts, settings: Sampling) -> tuple[Tensor, Cost]:
    """Four prompts' pictures, all different, and their cost; some of them alone are the same."""
    whole, cost = generate(pipe, requests(*prompts), [5, 6, 7, 8], settings)
    assert len({picture.numpy().tobytes() for picture in whole}) == 4
    for rows in ([1], [3, 0]):
        part, _ = generate(pipe, requests(*[prompts[i] for i in rows]), [5 + i for i in rows],
                           settings)  # fmt: skip
        assert torch.equal(part, whole[rows])
    assert cost.images == 4
    return whole, cost


def selected_as_drawn(pipe, prompts, steps, fields=("f_hat",)):
    """Rows 2, 0, 2 of three, from after `steps` to the end, are what their prompts and seeds give
    by themselves; the two states, done."""
    a, _, c = prompts
    state = through(pipe, start(pipe, prompts, [7, 8, 9]), steps)
    kept = pipe.select(state, [2, 0, 2])
    assert kept.seeds == (9, 7, 9) and kept.prompt_of == (2, 0, 2)
    assert kept.costs == tuple(state.costs[i] for i in (2, 0, 2))
    direct = through(pipe, start(pipe, [c, a, c], [9, 7, 9]), steps)
    while not direct.done:
        assert all(torch.equal(getattr(kept, name), getattr(direct, name)) for name in fields)
        caches = (getattr(state, "cache", None) or () for state in (kept, direct))
        for x, y in zip(*caches, strict=True):
            assert torch.equal(x[0], y[0]) and torch.equal(x[1], y[1])
        kept, direct = pipe.advance(kept), pipe.advance(direct)
    assert torch.equal(pipe.finish(kept), pipe.finish(direct))
    return kept, direct


def twins_part(pipe, steps):
    """Two of one row go on alike, and apart when one is given another seed: of scales."""
    state = pipe.select(through(pipe, start(pipe, seeds=[1]), steps), [0, 0])
    twins = through(pipe, state)
    assert torch.equal(twins.f_hat[0], twins.f_hat[1])
    parted = through(pipe, replace(state, seeds=(1, 99)))
    assert torch.equal(parted.f_hat[0], twins.f_hat[0])
    assert not torch.equal(parted.f_hat[1], twins.f_hat[1])


def states_are_values(pipe, steps, fields=("f_hat",)):
    """What goes on from a state, one way and another, does not change it: of scales."""
    state = through(pipe, start(pipe), steps)
    held, keys = [getattr(state, name).clone() for name in fields], state.cache[0][0].clone()
    other, first = pipe.advance(replace(state, seeds=(50,))), pipe.advance(state)
    pipe.preview(first)
    for name, was in zip(fields, held, strict=True):
        assert torch.equal(getattr(state, name), was)
    assert torch.equal(state.cache[0][0], keys)
    assert torch.equal(pipe.advance(state).f_hat, first.f_hat)
    assert not torch.equal(other.f_hat, first.f_hat)


def previews_are_partial_sums(pipe, scales, side):
    state = start(pipe)
    with pytest.raises(ValueError, match=f"0 of {scales} scales are drawn; call preview"):
        pipe.finish(state)
    state = pipe.advance(state)
    with torch.no_grad():
        assert torch.equal(pipe.preview(state), pipe.vae.decode(state.f_hat))
    assert pipe.preview(state).shape == (1, 3, side, side)
    state = through(pipe, state)
    assert (pipe.preview(state) - pipe.finish(state)).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(ValueError, match=f"all {scales} scales are drawn"):
        pipe.advance(state)


def searched_among_others(pipe):
    """TTS-VAR's two results over a model of three scales; each is what it is alone."""
    specs = [Spec(tag="single_object", include=(Item(cls=name),), prompt=f"a photo of a {name}")
             for name in ("dog", "cat")]  # fmt: skip
    search = TTSVar(2, FakeSecond(), schedule=(2, 1, 1), cluster=(), resample=(1,))
    draws = [Draw(spec, 7, 0) for spec in specs]
    found = search.draw(pipe, draws, Sampling(), 64)
    alone = [search.draw(pipe, [draw], Sampling(), 64)[0] for draw in draws]
    for one, same in zip(found, alone, strict=True):
        assert torch.equal(one.image, same.image) and one.cost == same.cost
        assert one.cost.row_steps == 4 + 4 + 2
    return found


def folder_is_refused(pipe, folder: Path, file, change, message):
    """The model's folder with a JSON file changed."""
    pipe.save_pretrained(folder)
    values = json.loads((folder / file).read_text()) | change
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        load_generator(folder)
