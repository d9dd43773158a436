"""What there is to search among: rewards on the way, diversity, and what a choice keeps of it."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

from impasto.cli import app
from impasto.models.infinity.config import PRESETS
from impasto.run.diversity import (
    candidates_kept,
    kept,
    kinds_of_random,
    outcome,
    pool_diversity,
    spread,
)
from impasto.run.evaluate import evaluate
from impasto.run.pool import Pool
from impasto.run.reliability import looked_at, reliability, spearman
from impasto.sample.protocol import Request, Sampling, generate
from impasto.score.base import Score
from impasto.score.features import Extractor
from impasto.search import Candidates, Draw
from impasto.stack import load_stack
from impasto.zoo.registry import BENCHES, FEATURES, MODELS, PATCHES, SCORERS, SEARCHES
from tests import tiny, tiny_infinity
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond, Walker

SPECS = tiny.SPECS[:3]


class Counted(FakeScorer):
    """Finds as many objects as the picture has bright corners, and likes an even number."""

    def score(self, images, specs):
        counts = [sum(float(image[0, y, x]) > 0.5 for y in (0, -1) for x in (0, -1))
                  for image in images]  # fmt: skip
        return [Score(value=float(n % 2 == 0), correct=n % 2 == 0, reason="odd" if n % 2 else "",
                      details={"dog": [[0, 0, 1, 1, 0.9]] * n}) for n in counts]  # fmt: skip


class Mean(Extractor):
    """One feature: the mean of the picture, in levels."""

    def __init__(self):
        super().__init__("mean", {"fd": {}}, {"pool": 1}, None)

    def __call__(self, images):
        return {"pool": 255 * images.mean((2, 3)).mean(1, keepdim=True)}

    def provenance(self):
        return self.record("0" * 64, "none")


class Corners:
    """Patch features of four places, for clusters."""

    name, places = "corners", True

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(2).mT

    def flops(self, height, width):
        return None

    def provenance(self):
        return {"name": self.name}


def nothing(done, total):
    pass


# When the reward knows


def test_spearman_is_scipys_and_nothing_of_constants():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (2, 5, 9)).astype(float)
    for row in range(5):
        assert spearman(a, b)[row] == pytest.approx(spearmanr(a[row], b[row]).statistic)
    assert np.isnan(spearman(np.ones(3), np.arange(3.0)))


def test_between_prompts_and_within_them_are_told_apart():
    """Step 0 tells the prompts apart and no more, step 1 only candidates, step 2 is the end."""
    rng = np.random.default_rng(1)
    final = 10.0 * np.arange(40)[:, None] + rng.random((40, 8))
    rewards = np.stack([final.round(-1) + rng.random((40, 8)), -(final % 10), final, final], 2)
    verdict = (final % 10 > 0.5).astype(float)
    found = reliability(torch.tensor(rewards), torch.tensor(verdict), draws=200)
    coarse, fine, end = found["with_reward"]
    assert coarse["all"][0] > 0.95 and abs(coarse["within"][0]) < 0.2
    assert coarse["within"][1] < 0 < coarse["within"][2]
    assert fine["within"] == [-1, -1, -1] and end["all"] == [1, 1, 1]
    assert found["with_value"][2]["within"][0] > 0.7
    assert found["with_value"][0]["within"][0] < 0.3
    assert (found["prompts"], found["candidates"], found["steps"]) == (40, 8, 3)


def test_potentials_are_of_the_rewards_so_far():
    """Rewards that jump back and forth: only their sum, or their highest, tells the end."""
    rng = np.random.default_rng(2)
    final, jump = rng.random((30, 6)), 5 * rng.random((30, 6))
    rewards = torch.tensor(np.stack([final + jump, final - jump, final], 2))
    found = reliability(rewards, torch.ones(30, 6), draws=50)
    after = {name: steps[1]["within"][0] for name, steps in found["potentials"].items()}
    assert set(after) == {"diff", "max", "sum"}
    assert after["sum"] == pytest.approx(1)
    assert found["with_reward"][1]["within"][0] < 0.7 and after["max"] < 0.7
    assert abs(after["diff"]) < 0.3
    first = [steps[0]["within"] for steps in found["potentials"].values()]
    assert first == [found["with_reward"][0]["within"]] * 3, "at first all are the reward"


def test_prompts_without_spread_do_not_count():
    rewards = torch.rand(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rewards[:2] = 1.0
    found = reliability(rewards, torch.ones(4, 5), draws=50)
    assert found["with_reward"][0]["prompts"] == 2
    assert found["with_value"][0] == {"all": None, "within": None, "prompts": 0}


def look(folder, generator, batch_size=5, n=3):
    return looked_at(folder, generator, SPECS, n=n, seed=7, sampling=Sampling(),
                     reward=FakeSecond(), scorer=FakeScorer(), batch_size=batch_size,
                     progress=nothing)  # fmt: skip


def test_rewards_on_the_way_are_of_the_pictures_that_a_search_would_see(tmp_path):
    generator = tiny_infinity.generator()
    found = look(tmp_path / "a", generator)
    assert found["rewards"].shape == (3, 3, 4 + 1) and found["value"].shape == (3, 3)
    draw = Draw(SPECS[1], 7, 0)
    image, _ = generate(generator, [Request.of(SPECS[1].prompt)], [draw.row_seed(2)])
    assert found["rewards"][1, 2, -1] == FakeSecond().score(image, SPECS[1:2])[0].value
    assert found["value"][1, 2] == FakeScorer().score(image, SPECS[1:2])[0].value
    # The last preview is the picture before it is rounded to 8 bits.
    assert torch.allclose(found["rewards"][..., -2], found["rewards"][..., -1], atol=1 / 255)
    assert not torch.allclose(found["rewards"][..., 0], found["rewards"][..., -1], atol=1e-3)
    other = look(tmp_path / "b", generator, batch_size=2)
    assert all(torch.equal(found[key], other[key]) for key in found)


def test_what_was_looked_at_is_not_drawn_again(tmp_path):
    walker = Walker()
    first = look(tmp_path, walker)
    drawn = len(walker.rows)
    again = look(tmp_path, walker)
    assert len(walker.rows) == drawn and torch.equal(first["rewards"], again["rewards"])


def test_a_model_that_draws_in_one_go_has_nothing_to_look_at(tmp_path):
    walker = Walker()
    walker.has_preview = False
    with pytest.raises(ValueError, match="draws in one go"):
        look(tmp_path, walker)


# What a choice keeps


def test_random_subsets_are_all_of_them():
    """The expectations in closed form, against every subset there is."""
    points = torch.rand(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    distances, outcomes = torch.cdist(points, points), [0, 0, 0, 1, 1, 2]
    for k in (2, 3, 4):
        subsets = list(combinations(range(6), k))
        assert spread(distances) == pytest.approx(np.mean([spread(distances, s) for s in subsets]))
        kinds = np.mean([len({outcomes[i] for i in s}) for s in subsets])
        assert kinds_of_random(outcomes, k) == pytest.approx(kinds)
    assert spread(distances, [3]) == 0


def test_outcomes_are_numbers_of_objects_by_class():
    box = [0, 0, 1, 1, 0.9]
    assert outcome({"dog": [box], "cat": [box, box]}) == outcome({"cat": [box] * 2, "dog": [box]})
    assert outcome({"dog": [box]}) != outcome({"dog": [box] * 2})
    assert outcome({"dog": []}) == outcome({})


def apart(images, k):
    """Greedily the furthest by the mean: the most diverse subset of a line."""
    order = images.mean((1, 2, 3)).argsort().tolist()
    return [order[0], order[-1], *order[1 : k - 1]]


def alike(images, k):
    return images.mean((1, 2, 3)).argsort().tolist()[:k]


def choose(folder, generator, choosers, k=2, step=1, **changes):
    return candidates_kept(folder, generator, SPECS, n=6, k=k, step=step, seed=3,
                           sampling=Sampling(), choosers=choosers, extractor=Mean(),
                           scorer=Counted(), progress=nothing, **changes)  # fmt: skip


def test_choosers_are_measured_on_what_they_saw_and_on_what_came_of_it(tmp_path):
    generator = tiny_infinity.generator()
    found = choose(tmp_path, generator, {"apart": apart, "alike": alike})
    table = kept(found, [spec.tag for spec in SPECS])
    seen = table["measures"]["seen"]
    assert seen["alike"]["value"][0] < seen["random"]["value"][0] < seen["apart"]["value"][0]
    assert seen["apart"]["difference"][0] == pytest.approx(
        seen["apart"]["value"][0] - seen["random"]["value"][0])  # fmt: skip
    # What was chosen are rows of these previews; what came of them are the seeds' own pictures.
    draw = Draw(SPECS[0], 3, 0)
    state = generator.start([draw.request] * 6, [draw.row_seed(i) for i in range(6)], Sampling())
    state = generator.advance(generator.advance(state))
    assert sorted(apart(generator.preview(state), 2)) == found["chosen.apart"][0].tolist()
    images, _ = generate(generator, [draw.request] * 6, [draw.row_seed(i) for i in range(6)])
    means = 255 * images.mean((1, 2, 3)).double()
    assert found["finished"][0, 0, 5] == pytest.approx(abs(float(means[0] - means[5])), rel=1e-3)
    counts = [len(score.details["dog"]) for score in Counted().score(images, None)]
    assert len(set(found["outcome"][0].tolist())) == len(set(counts))
    chosen = {counts[i] for i in found["chosen.apart"][0].tolist()}
    assert len({int(found["outcome"][0, i]) for i in found["chosen.apart"][0]}) == len(chosen)


@pytest.mark.parametrize("rows, k", [([0, 0], 2), ([0], 2), ([0, 6], 2)])
def test_a_chooser_that_does_not_choose_is_refused(tmp_path, rows, k):
    with pytest.raises(ValueError, match="it must choose 2 different"):
        choose(tmp_path, Walker(), {"mine": lambda images, k: rows}, k)


def test_steps_and_numbers_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="step must be 0 to 6, of 7 steps, given 7"):
        choose(tmp_path, Walker(), {"alike": alike}, step=7)
    with pytest.raises(ValueError, match="k must be 1 to n = 6, given 7"):
        choose(tmp_path, Walker(), {"alike": alike}, k=7)


# How much a pool's pictures differ


class Stubborn(FakeGenerator):
    """Draws one picture a prompt, whatever the seed."""

    def start(self, requests, seeds, sampling):
        state = super().start(requests, seeds, sampling)
        images = [self._noise(request.prompt) for request in requests]
        return type(state)(**vars(state) | {"images": torch.stack(images)})


def pool_of(folder, generator, n=4):
    names = {"model": "m", "search": "candidates"}
    settings = tiny.settings(samples=2 * n, scorer=Counted(), names=names)
    pool = Pool(evaluate(settings, generator, Candidates(n), folder / "pool"))
    return pool, pool_diversity(pool, folder / "parts", Mean(), batch_size=5, progress=nothing)


def test_diversity_of_a_pool(tmp_path):
    pool, found = pool_of(tmp_path, FakeGenerator())
    values = [choice.values for choice in pool.choices]
    assert len(values) == 12 and found["prompts"] == 6
    assert found["mean"][0] == pytest.approx(np.mean(values))
    assert found["any"][0] == pytest.approx(np.mean([max(v) for v in values]))
    assert found["mixed"][0] == pytest.approx(np.mean([0 < sum(v) < 4 for v in values]))
    assert found["mixed"][0] > 0 and found["identical"] == 0
    assert 0.5 < found["within"][0] / found["between"][0] < 2, "noise knows no prompt"
    assert found["kinds"][0] > 1


def test_candidates_that_are_all_the_same_are_seen_to_be(tmp_path):
    _, found = pool_of(tmp_path, Stubborn())
    assert found["within"][0] == 0 and found["between"][0] > 1
    assert found["kinds"][0] == 1 and found["mixed"][0] == 0
    assert found["identical"] == 12 * 6 and found["any"][0] == found["mean"][0]


# As steps


RECIPE = """\
model: walker
bench: fake
scorer: counted
second: fake-second
reward: fake-second
distance: mean
seeds: [0]
limit: 3
steps:
  - pool: {n: 4}
  - diversity: {pool: pool}
  - reliability: {n: 3, limit: 2}
  - subsets: {n: 5, k: 2, step: 1, features: corners, projections: [pca, pool]}
"""
FACTORIES = (
    (MODELS, "walker", lambda **_: Walker()), (BENCHES, "fake", lambda: tiny.BENCH),
    (SCORERS, "counted", lambda device: Counted()), (FEATURES, "mean", lambda device: Mean()),
    (SCORERS, "fake-second", lambda device: FakeSecond()),
    (PATCHES, "corners", lambda device: Corners()),
)  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    Path("recipe.yaml").write_text(RECIPE)


def call(*arguments):
    return CliRunner().invoke(app, ["run", "recipe.yaml", "-o", "out", *arguments])


def test_studies_are_steps(here, monkeypatch):
    done = call()
    assert done.exit_code == 0, done.output
    tables = {table["kind"]: table
              for table in json.loads(Path("out/table.json").read_text())["tables"]}
    assert set(tables) == {"diversity", "reliability", "subsets"}
    assert tables["reliability"]["steps"] == 7 and tables["reliability"]["prompts"] == 2
    assert set(tables["subsets"]["measures"]["kinds"]) == {"random", "pca", "pool"}
    shown = Path("out/table.md").read_text()
    for words in ("when fake-second knows", "potentials after each step", "| finished |",
                  "2 of 5 candidates after step 1", "distance, finished: pca",
                  "4 finished candidates differ"):
        assert words in shown and words.strip("| ") in done.stdout
    before, runs = tiny.tree(Path("out")), Walker.advance
    monkeypatch.setattr(Walker, "advance", None)  # nothing is drawn again
    assert call().exit_code == 0 and tiny.tree(Path("out")) == before
    monkeypatch.setattr(Walker, "advance", runs)
    done = call("--set", "subsets.k=3")
    assert done.exit_code == 2 and "subsets.k: 2 in the folder, 3 now" in done.stderr


@pytest.mark.parametrize("text, message", [
    ("subsets.k=6", "k must be at most n = 5, given 6"),
    ("subsets.step=-1", "step must be a whole number >= 0"),
    ("subsets.step=7", "subsets: step must be 0 to 6, since walker draws in 7 steps; given 7"),
    ("subsets.features=cornerz", "cornerz"),
    ("subsets.projections=[pc]", "unknown projection 'pc'"),
    ("reliability.n=1", "n must be a whole number >= 2"),
    ("reliability.reward=fale", "unknown scorer 'fale'"),
    ("diversity.pool=reliability", "diversity uses the pool of a step 'reliability'"),
    ("diversity.distance=meen", "unknown feature extractor 'meen': did you mean 'mean'"),
])  # fmt: skip
def test_studies_that_cannot_be_are_refused_before_anything_runs(here, text, message):
    done = call("--set", text)
    assert done.exit_code == 2 and message in done.stderr, done.stderr
    assert not Path("out").exists()


# The recipe that ships


RECIPES = Path(__file__).parent.parent / "recipes"


def test_the_evidence_for_search_is_a_stack_of_searches_that_exist():
    """Every search of it can be made, and fits the model's scales."""
    scales = PRESETS["sticker"]().scales
    stack = load_stack(RECIPES / "tts-var" / "sticker.yaml")
    by_name = {step.name: step for step in stack.steps}
    named = {name: text for step in stack.steps if hasattr(step, "named")
             for name, text in step.named.items()}  # fmt: skip
    for text in named.values():
        search = SEARCHES.create(text, scorers=lambda _: FakeSecond(), patches=lambda _: Corners())
        search.stops(scales)
        assert search.width <= by_name["pool"].n or search.needs_previews
    base = by_name["searches"]
    assert base.base == "none" and set(base.named_runs) == {
        f"{kind} {n}" for kind in ("importance", "best of", "TTS-VAR", "TTS-VAR early")
        for n in (2, 4, 8)
    } | {"TTS-VAR 1", "TTS-VAR early 1"}
    compared = {base.base, *base.named_runs, by_name["ablations"].base,
                *by_name["ablations"].named_runs}  # fmt: skip
    assert compared == set(named), "what is drawn is shown"
    assert len(by_name["pictures"].seeds) == 3 and by_name["pictures"].limit is None
    assert by_name["reliability"].limit >= 64
