"""Keys and values in buffers that are written in place: states stay values all the same."""

import gc
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from impasto.models.infinity.costs import scale_flops
from impasto.models.next_scale import network
from impasto.models.next_scale.cache import GROWTH, Buffers, Cache
from impasto.models.next_scale.graphs import Captured, Recycled
from impasto.sample.protocol import Request, Sampling, generate
from tests import tiny_infinity, tiny_var

DEPTH, ROWS, HEADS, WIDTH = 2, 3, 2, 4


def cache(length, most=100):
    """`length` places, each filled with its number plus 100 times its row."""
    made = Cache.empty(DEPTH, ROWS, HEADS, WIDTH, torch.zeros(())).extended(length, most)
    fill(made, 0)
    return made


def fill(made, start, add=0):
    rows = 100 * torch.arange(made.buffers.keys.shape[1])[:, None, None]
    for k, v in made:
        k[:, :, start:] = (rows + torch.arange(start, made.length) + add)[..., None]
        v[:, :, start:] = -k[:, :, start:]


def seen(made):
    return torch.stack([made[1][0][..., 0], made[1][1][..., 0]])  # (2, rows, heads, length)


def start(pipe, seeds=(1, 2), **settings):
    return pipe.start([Request.of("a red dog")] * len(seeds), seeds, Sampling(**settings))


def through(pipe, state, steps):
    for _ in range(steps):
        state = pipe.advance(state)
    return state


# ------------------------------------------------------------------------------ the cache


def test_going_on_is_in_place_and_changes_nothing_before():
    first = cache(3)
    before = seen(first).clone()
    second = first.extended(2, 100)
    fill(second, 3)
    assert second.buffers is first.buffers and second.buffers.room == GROWTH * 3
    assert torch.equal(seen(first), before) and seen(second).shape == (2, ROWS, HEADS, 5)
    assert seen(second)[0, 2, 0].tolist() == [200, 201, 202, 203, 204]


def test_two_that_go_on_from_one_place_do_not_meet():
    first = cache(3)
    one, other = first.extended(2, 100), first.extended(2, 100)
    assert one.buffers is first.buffers and other.buffers is not one.buffers
    fill(one, 3, add=0.25)
    fill(other, 3, add=0.5)
    assert seen(one)[0, 0, 0].tolist() == [0, 1, 2, 3.25, 4.25]
    assert seen(other)[0, 0, 0].tolist() == [0, 1, 2, 3.5, 4.5]
    # A third from the second's place, and one from the first's, which somebody left.
    assert one.extended(1, 100).buffers is one.buffers
    assert first.extended(1, 100).buffers is not first.buffers


def test_room_is_made_fourfold_and_never_beyond_the_schedule():
    rooms, made = [], Cache.empty(DEPTH, ROWS, HEADS, WIDTH, torch.zeros(()))
    for new in (1, 3, 5, 20, 30):
        made = made.extended(new, 59)
        rooms.append(made.buffers.room)
    assert rooms == [4, 4, 36, 36, 59] and made.length == 59
    assert made.extended(9, 59).buffers.room == 68  # asked for all the same


def test_selected_rows_are_copies_and_leave_the_tail():
    first = cache(3)
    kept = first.extended(4, 100)
    fill(kept, 3)
    chosen = first.selected(torch.tensor([2, 0, 2]))
    assert torch.equal(seen(chosen), seen(first)[:, [2, 0, 2]])
    assert chosen.buffers.room == chosen.length == 3
    fill(chosen, 0, add=7)
    assert seen(first)[0, 2, 0].tolist() == [200, 201, 202]


def test_a_part_is_the_same_memory():
    whole = cache(2)
    fill(whole.part(slice(1, 3)), 0, add=0.5)
    assert seen(whole)[0, :, 0].tolist() == [[0, 1], [0.5, 1.5], [100.5, 101.5]]


def test_recycled_buffers_are_never_those_of_someone():
    take, like = Recycled(), torch.zeros(())
    a, b = take((1, 2, 3, 1, 4), like), take((1, 2, 3, 1, 4), like)
    where = a.keys.data_ptr()
    assert b.keys.data_ptr() != where
    del a
    gc.collect()
    assert take((1, 2, 4, 1, 4), like).keys.data_ptr() != where  # another shape
    again = take((1, 2, 3, 1, 4), like)
    assert again.keys.data_ptr() == where and again.written == 0


# ------------------------------------------------------------------------------ states


@pytest.fixture(scope="module")
def pipe():
    return tiny_infinity.generator()


def test_a_state_may_be_continued_twice(pipe):
    """By other seeds, in turns: both as if they were alone."""
    state = through(pipe, start(pipe), 2)
    other = replace(state, seeds=(8, 9))
    alone = [through(pipe, replace(through(pipe, start(pipe), 2), seeds=seeds), 2).f_hat
             for seeds in ((1, 2), (8, 9))]  # fmt: skip
    a, b = pipe.advance(state), pipe.advance(other)
    assert a.cache.buffers is not b.cache.buffers
    for got, want in zip((pipe.advance(a).f_hat, pipe.advance(b).f_hat), alone, strict=True):
        assert torch.equal(got, want)
    assert not torch.equal(*alone)


def test_a_selection_and_its_origin_go_on_apart(pipe):
    state = through(pipe, start(pipe), 2)
    kept = pipe.advance(pipe.select(state, [1, 1]))
    want = pipe.advance(through(pipe, start(pipe), 2)).cache
    assert all(torch.equal(k[:2], w[2:]) and torch.equal(k[2:], w[2:])
               for pair, wanted in zip(kept.cache, want, strict=True)
               for k, w in zip(pair, wanted, strict=True))  # fmt: skip
    after = pipe.advance(state).cache
    assert all(torch.equal(k, w) for pair, wanted in zip(after, want, strict=True)
               for k, w in zip(pair, wanted, strict=True))  # fmt: skip


def test_the_unconditional_half_ends_with_the_last_guided_scale(pipe, monkeypatch):
    """The same picture as when it is run to the end, and half the rows from there."""
    lists = {"guidance": (3.0, 3.0, 1.0, 1.0)}
    short = type(pipe)(**pipe.components, defaults=replace(pipe.defaults, **lists))
    calls, forward = [], short.transformer.forward
    monkeypatch.setattr(short.transformer, "forward",
                        lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k))
    state = through(short, start(short), 2)
    assert not state.paired and len(state.cache[0][0]) == 2
    swapped = short.select(state, [1, 0])
    got = through(short, state, 2)
    assert calls == [2] * 4 + [1] * 4  # row by row on a CPU
    whole = through(pipe, start(pipe), 2)  # guided at every scale, so both halves are there
    held = replace(whole, guidance=(3.0, 3.0, 1.0, 1.0), cache=whole.cache.selected(
        torch.tensor([0, 2])))  # fmt: skip
    assert torch.equal(through(pipe, held, 2).f_hat, got.f_hat)
    assert torch.equal(through(short, swapped, 2).f_hat, got.f_hat[[1, 0]])
    # As much again as the rows of the last two scales is saved.
    both = through(pipe, whole, 2)
    saved = sum(scale_flops(pipe.transformer, got.sizes, k, got.lengths[0]) for k in (2, 3))
    assert both.cost.flops - got.cost.flops == pytest.approx(2 * saved)


# ------------------------------------------------------------------------------ graphs


class Replayed:
    """In place of a CUDA graph: the recorded call anew, on the recorded places and caches."""

    def __init__(self, call, places, result):
        self.call, self.places, self.result = call, places, result

    def replay(self):
        self.result.copy_(self.call(*self.places))


class Reads(TorchDispatchMode):
    """Where the memory lies that operations in the block read and none of them made."""

    def __init__(self):
        super().__init__()
        self.found, self.made = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found |= addresses((args, kwargs)) - self.made
        result = func(*args, **(kwargs or {}))
        self.made |= addresses(result) - self.found
        return result


def addresses(tree):
    return {x.untyped_storage().data_ptr() for x in tree_leaves(tree) if torch.is_tensor(x)} - {0}


class Recorder(Captured):
    """`Captured` off a GPU. keys: of what was recorded; reads: what lay outside of it."""

    def __init__(self):
        super().__init__()
        self.keys, self.reads = [], []

    def __call__(self, key, call, inputs):
        self.key = key
        return super().__call__(key, call, inputs)

    def _recorded(self, call, places):
        self.keys.append(self.key)
        with Reads() as reads:
            result = torch.empty_like(call(*places))
        self.reads.append(reads.found)
        return Replayed(call, places, result), result


def on_recorder(made, monkeypatch):
    """A generator over the same networks as on a GPU, and what records there."""
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(type(made), "rows_at_once", None)
    own, recorder = type(made)(**made.components, defaults=made.defaults), Recorder()
    own._scale._captured, own._scale._recycled = recorder, Recycled()
    return own, recorder


@pytest.fixture
def recorded(pipe, monkeypatch):
    own, recorder = on_recorder(pipe, monkeypatch)
    return own, recorder.keys


@pytest.mark.parametrize("family, text", [(tiny_infinity, "a red dog"), (tiny_var, "dog")])
def test_a_graph_reads_nothing_that_is_freed_after_it(family, text, monkeypatch):
    """Weights, inputs' places, recycled caches: all else is made inside. In half precision, where
    a weight in float32 is a tensor of its own."""
    made = family.generator()
    for part in made.networks.values():
        part.bfloat16()
    own, recorder = on_recorder(made, monkeypatch)
    for seeds in ([1, 2], [3, 4]):
        generate(own, [Request.of(text)] * 2, seeds)
    weights = [[*x.parameters(), *x.buffers()] for x in own.networks.values()]
    caches = [pair[:2] for given in own._scale._recycled._given.values() for pair in given]
    kept = addresses([weights, caches, recorder._places])
    assert len(recorder.reads) == own.start([Request.of(text)], [1], Sampling()).steps
    assert all(reads and reads <= kept for reads in recorder.reads)


def test_a_graph_is_of_its_keys_and_of_its_values(pipe, recorded):
    """A selection before the last scale is no recycled cache: keys may come to lie where others
    lay, and values elsewhere."""
    own, keys = recorded
    state = through(own, start(own), 3)
    through(own, state, 1), through(own, state, 1)
    held = state.cache.buffers
    other = Cache(Buffers(held.keys, -held.values, held.written), state.cache.length)
    for _ in range(3):
        got = own.advance(replace(state, cache=other)).f_hat
        torch.testing.assert_close(got, pipe.advance(replace(state, cache=other)).f_hat)
    assert not torch.equal(got, own.advance(state).f_hat) and len(keys) == 2


def test_graphs_are_recorded_once_and_see_the_present_inputs(pipe, recorded):
    """Recorded with the second picture; then the same addresses come again, so that prompts of
    the same length and other seeds find what was recorded."""
    own, keys = recorded
    texts = ["x y", "y x", "a red dog", "x y"]
    assert len({len(pipe.tokenizer(text).input_ids) for text in texts[:2]}) == 1
    counts = []
    for i, text in enumerate([*texts, *texts]):
        requests = [Request.of(text)] * 2
        got, _ = generate(own, requests, [i, i + 1])
        want, _ = generate(pipe, requests, [i, i + 1])
        torch.testing.assert_close(got, want)
        counts.append(len(keys))
    assert counts == [0, 4, 4, 4, 4, 4, 8, 8]


def test_two_drawings_at_once_do_not_share_what_is_recorded(pipe, recorded):
    own, keys = recorded
    for _ in range(3):
        through(own, start(own), 4)
    assert len(keys) == 4
    a, b = start(own), start(own, seeds=(5, 6))
    for _ in range(4):
        a, b = own.advance(a), own.advance(b)
    for state, seeds in ((a, (1, 2)), (b, (5, 6))):
        torch.testing.assert_close(state.f_hat, through(pipe, start(pipe, seeds), 4).f_hat)


def test_large_scales_are_not_recorded(recorded, monkeypatch):
    own, keys = recorded
    monkeypatch.setattr(network, "LAUNCH_BOUND", 2 * 2 * 16)  # under the third scale's tokens
    for _ in range(3):
        through(own, start(own), 4)
    assert [key[1] for key in keys] == [0, 1]


def test_the_longest_unused_goes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    calls = Captured(most=2)
    ran = []
    for key in "abc" + "a":
        calls(key, lambda x, key=key: ran.append(key) or x, [torch.zeros(1)])
    assert ran == ["a", "b", "c", "a"]  # "a" was forgotten, so it ran plainly again
