"""Searches: pairing with the base, independence of batches, ties, and rewards that fail."""

import math
from dataclasses import replace

import pytest
import torch

from impasto.sample.protocol import Sampling, row_seed
from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.search import BestOfN, Draw, NoSearch
from impasto.zoo.registry import SEARCHES
from tests import tiny_mmdit
from tests.fakes import FakeGenerator, FakeSecond, Walker
from tests.tiny import SPECS

SAMPLING = Sampling(steps=2)
SEVEN = Sampling(steps=7)
DRAWS = [Draw(spec, 7, sample) for spec in SPECS[:3] for sample in range(2)]


class Reward(FakeSecond):
    """A reward by a function of (picture, spec); remembers what it was asked."""

    def __init__(self, fn):
        self.fn = fn
        self.calls = []

    def score(self, images, specs):
        self.calls.append(len(images))
        return [Score(value=self.fn(image, spec))
                for image, spec in zip(images, specs, strict=True)]  # fmt: skip


def brightness(image, spec):
    return float(image.double().mean())


def build(name):
    reward = Reward(brightness)
    return SEARCHES.create(name, scorers=lambda asked: reward)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_every_search_is_independent_of_the_batch_and_of_the_other_draws(name):
    def facts(drawn):
        return [(d.image.numpy().tobytes(), d.candidates, d.chosen, d.cost,
                 [(s.to_dict(), s.previews.numpy().tobytes()) for s in d.trace])
                for d in drawn]  # fmt: skip

    search = build(name)
    whole = facts(search.draw(Walker(), DRAWS, SEVEN, 100))
    for size in (1, 3, 8):
        assert facts(search.draw(Walker(), DRAWS, SEVEN, size)) == whole
    assert facts(search.draw(Walker(), DRAWS[::-1], SEVEN, 4)) == whole[::-1]


@pytest.mark.parametrize("name", list(SEARCHES))
def test_every_search_says_what_it_is_and_refuses_a_batch_of_none(name):
    search = build(name)
    assert isinstance(search.provenance(), dict) and SEARCHES.describe(name)
    with pytest.raises(ValueError, match="batch size must be at least 1"):
        search.draw(FakeGenerator(), DRAWS, SAMPLING, 0)
    assert search.draw(FakeGenerator(), [], SAMPLING, 4) == []


def test_candidate_0_is_the_picture_without_a_search():
    base = NoSearch().draw(FakeGenerator(), DRAWS, SAMPLING, 4)
    seeds = {id(d): row_seed(7, d.spec.prompt, d.sample) for d in DRAWS}
    for n in (1, 4):
        # The reward knows the base's pictures and likes them best.
        known = {d.image.numpy().tobytes() for d in base}
        reward = Reward(lambda image, spec, known=known: float(image.numpy().tobytes() in known))
        found = BestOfN(n, reward).draw(FakeGenerator(), DRAWS, SAMPLING, 5)
        for draw, a, b in zip(DRAWS, base, found, strict=True):
            assert torch.equal(a.image, b.image) and b.chosen == 0
            assert a.candidates[0].seed == b.candidates[0].seed == seeds[id(draw)]
            assert a.candidates[0].value is None and b.candidates[0].value == 1.0


def test_one_candidate_costs_what_none_costs():
    base = NoSearch().draw(FakeGenerator(), DRAWS, SAMPLING, 4)
    one = BestOfN(1, Reward(brightness)).draw(FakeGenerator(), DRAWS, SAMPLING, 4)
    four = BestOfN(4, Reward(brightness)).draw(FakeGenerator(), DRAWS, SAMPLING, 4)
    for a, b, c in zip(base, one, four, strict=True):
        assert b.cost == replace(a.cost, reward_calls=1, reward_flops=None)
        assert torch.equal(a.image, b.image)
        assert (c.cost.flops, c.cost.images, c.cost.row_steps) == (4 * a.cost.flops, 4, 8)
        assert (c.cost.decodes, c.cost.reward_calls, a.cost.reward_calls) == (4, 4, 0)


def test_the_best_is_kept():
    found = BestOfN(5, Reward(brightness)).draw(FakeGenerator(), DRAWS, SAMPLING, 8)
    assert {d.chosen for d in found} != {0}
    for drawn in found:
        values = [c.value for c in drawn.candidates]
        assert len(values) == 5 and values[drawn.chosen] == max(values)
        assert brightness(drawn.image, None) == max(values)
        assert len({c.seed for c in drawn.candidates}) == 5


def test_ties_go_to_the_lowest_candidate():
    found = BestOfN(4, Reward(lambda image, spec: 1.0)).draw(FakeGenerator(), DRAWS, SAMPLING, 4)
    assert [d.chosen for d in found] == [0] * len(DRAWS)


def test_rows_of_all_draws_share_batches_and_candidates_are_scored_together():
    generator, reward = FakeGenerator(), Reward(brightness)
    BestOfN(4, reward).draw(generator, DRAWS, SAMPLING, 9)
    assert generator.batches == [8, 8, 8] and reward.calls == [4] * 6


def test_progress_counts_candidates():
    seen = []
    BestOfN(3, Reward(brightness)).draw(FakeGenerator(), DRAWS, SAMPLING, 10,
                                        lambda done, total: seen.append((done, total)))
    assert seen == [(9, 18), (18, 18)]


def test_a_real_generator_draws_the_same_in_any_batch():
    pipe = tiny_mmdit.tiny()
    search = BestOfN(2, Reward(brightness))
    a, b = (search.draw(pipe, DRAWS[:3], SAMPLING, size) for size in (1, 5))
    assert all(torch.equal(x.image, y.image) and x.cost == y.cost and x.candidates == y.candidates
               for x, y in zip(a, b, strict=True))  # fmt: skip


# ------------------------------------------------------------------------------ bad rewards


def third_of_the_cat(value):
    """`value()` for candidate 2 of the second prompt's first picture, brightness otherwise."""
    draw = DRAWS[2]
    images = [d.image for d in BestOfN(4, Reward(brightness)).draw(
        FakeGenerator(), [draw], SAMPLING, 4)]  # fmt: skip
    assert images
    seed = draw.row_seed(2)
    target = FakeGenerator._noise(f"fake\0{draw.spec.prompt}\0{seed}\0None")

    def fn(image, spec):
        return value() if (image - target).abs().max() < 0.01 else brightness(image, spec)

    return Reward(fn)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_prompt_and_candidate(value):
    search = BestOfN(4, third_of_the_cat(lambda: value))
    with pytest.raises(ScorerBroken, match=r"candidate 2 of 'a photo of a cat and a bus'"):
        search.draw(FakeGenerator(), DRAWS, SAMPLING, 5)


def test_a_reward_that_raises_names_prompt_and_candidate():
    def fail():
        raise KeyError("no such class")

    search = BestOfN(4, third_of_the_cat(fail))
    with pytest.raises(ScorerBroken, match=r"candidate 2 of 'a photo of a cat and a bus': "
                                           r"KeyError: 'no such class'"):  # fmt: skip
        search.draw(FakeGenerator(), DRAWS, SAMPLING, 5)


def test_a_reward_that_raises_only_on_several_and_one_that_forgets():
    class Several(FakeSecond):
        def score(self, images, specs):
            if len(images) > 1:
                raise ValueError("one at a time")
            return super().score(images, specs)

    class Forgets(FakeSecond):
        def score(self, images, specs):
            return super().score(images, specs)[1:]

    for reward, message in ((Several(), "the 4 candidates together of 'a photo of a dog'"),
                            (Forgets(), "3 scores for 4 candidates")):  # fmt: skip
        with pytest.raises(ScorerBroken, match=message):
            BestOfN(4, reward).draw(FakeGenerator(), DRAWS, SAMPLING, 4)


def test_out_of_memory_in_a_reward_reaches_the_caller():
    def fail(image, spec):
        raise torch.OutOfMemoryError("reward")

    with pytest.raises(torch.OutOfMemoryError):
        BestOfN(2, Reward(fail)).draw(FakeGenerator(), DRAWS, SAMPLING, 4)


def test_options_of_best_of_n():
    asked = []

    def scorers(name):
        asked.append(name)
        return FakeSecond()

    search = SEARCHES.create("best-of-n:n=3,reward=some-clip", scorers=scorers)
    assert asked == ["some-clip"]
    assert search.provenance() == {"n": 3, "reward": {
        "name": "some-clip", "id": "fake-second", "sha256": "2" * 64}}  # fmt: skip
    for n in ("0", "-1", "2.5", "yes"):
        with pytest.raises(ValueError, match="n must be an integer >= 1"):
            SEARCHES.create(f"best-of-n:n={n}", scorers=scorers)
    with pytest.raises(ValueError, match="unknown key 'm'"):
        SEARCHES.create("best-of-n:m=3", scorers=scorers)


def test_a_broken_reward_draws_nothing():
    class Broken(FakeSecond):
        def self_test(self):
            raise ScorerBroken("weights are noise")

    assert issubclass(Broken, Scorer)
    with pytest.raises(ScorerBroken, match="weights are noise"):
        BestOfN(2, Broken())
