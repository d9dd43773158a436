"""Rows over several copies of a generator: nothing but the place changes."""

import pytest
import torch

from impasto.models.spread import Spread
from impasto.sample.protocol import Request, Sampling, generate
from impasto.search import Draw, TTSVar
from tests import tiny_infinity, tiny_mmdit
from tests.fakes import FakeSecond
from tests.tiny import SPECS


@pytest.fixture(scope="module")
def pipes():
    return [tiny_infinity.generator() for _ in range(3)]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_rows_draw_what_they_draw_alone(pipes, n):
    requests = [Request.of(f"a red {what}") for what in "abcdefg"[:n]]
    spread = Spread(pipes)
    state = spread.start(requests, list(range(n)), Sampling())
    homes = [copy for copy, _ in state.places]
    assert len(set(homes)) == min(n, 3) and homes == sorted(homes)
    assert max(homes.count(i) for i in homes) <= -(-n // 3)
    images, cost = generate(spread, requests, list(range(n)))
    alone, spent = generate(pipes[0], requests, list(range(n)))
    assert torch.equal(images, alone) and cost == spent


def test_a_search_over_copies_is_the_search_on_one(pipes):
    """Candidates of one prompt at three places, and one of these left without rows."""
    search = TTSVar(1, FakeSecond(), schedule=(5, 4, 2, 2), cluster=(1,), resample=(2,), lam=40.0)
    draws = [Draw(SPECS[0], 7, sample) for sample in range(3)]
    spread, homes = Spread(pipes), []
    advance = spread.advance
    spread.advance = lambda state: homes.append(state.places) or advance(state)
    together = search.draw(spread, draws, Sampling(), 5)
    alone = search.draw(pipes[0], draws, Sampling(), 5)
    assert any(len({copy for copy, _ in places}) == 3 for places in homes)
    assert any(len({copy for copy, _ in places}) < 3 for places in homes)
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.image, b.image) and a.cost == b.cost
        assert a.candidates == b.candidates
        assert [s.to_dict() for s in a.trace] == [s.to_dict() for s in b.trace]


def test_only_copies_go_together(pipes):
    assert Spread(pipes).provenance()["device"] == "cpu, cpu, cpu"
    for wrong in ([], [pipes[0], tiny_infinity.generator(guidance=1.0)],
                  [pipes[0], tiny_mmdit.tiny()]):  # fmt: skip
        with pytest.raises(ValueError, match="must be copies of one"):
            Spread(wrong)
