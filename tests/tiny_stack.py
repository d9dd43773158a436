"""A stack of fakes: its recipe, and the names that it uses."""

from __future__ import annotations

from impasto.zoo.registry import BENCHES, MODELS, SCORERS
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

RECIPE = """\
# A stack of fakes.
model: fake
bench: fake
scorer: fake
second: fake-second
reward: fake-second
seeds: [0, 1]
grid: {n: [2, 4]}
limit: 2
steps:
  - pool: {n: 4}
  - eval:
      name: chosen
      pool: pool
      searches:
        none: none
        best of {n}: "best-of-n:n={n},reward={reward}"
        drawn of {n}: "importance:n={n},lam=1,reward={reward}"
  - compare: {base: none, pool: pool, pairs: [[best of 4, best of 2]], page: [best of 4]}
"""


class Noisy(FakeGenerator):
    """Counts pictures, so that what is drawn twice is seen."""

    drawn = 0

    def finish(self, state):
        Noisy.drawn += len(state.seeds)
        return super().finish(state)


FACTORIES = (
    (MODELS, "fake", lambda name="fake", **_: Noisy(name=name)),
    (SCORERS, "fake", lambda device, threshold=0.5: FakeScorer(threshold=threshold)),
    (SCORERS, "fake-second", lambda device: FakeSecond()),
    (BENCHES, "fake", lambda: tiny.BENCH),
)
