"""The engine: who lives, what is drawn, decoded and asked, and that nothing is drawn twice."""

import json
import math
from dataclasses import replace

import pytest
import torch

from impasto.images import read_image
from impasto.models.infinity.schedules import schedule as token_maps
from impasto.run.evaluate import evaluate
from impasto.sample.protocol import Cost, Sampling, copy_seed, generate
from impasto.score.base import Score
from impasto.score.features.patches import Patches
from impasto.search import BestOfN, Draw, Importance, NoSearch, RewardBroken, TTSVar
from impasto.search.engine import PREVIEW, preview_size
from impasto.search.schedule import plan
from impasto.zoo.registry import PATCHES, SCORERS, SEARCHES
from tests import tiny, tiny_infinity, tiny_mmdit
from tests.fakes import FakeGenerator, FakeSecond, Walker
from tests.tiny import SPECS

THIRTEEN = Sampling(steps=13)
SEVEN = Sampling(steps=7)
DRAWS = [Draw(spec, 7, sample) for spec in SPECS[:3] for sample in range(2)]
ROWS = [8, 8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1]  # sheet: measured on the official loop


class Grid(Patches):
    """Features of 16 places: their colours. Remembers how many pictures it saw."""

    name = "grid"

    def __init__(self):
        self.seen = 0

    def __call__(self, images):
        self.seen += len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(2).mT

    def flops(self, height, width):
        return 5.0

    def provenance(self):
        return {"name": self.name}


class Mean(FakeSecond):
    """Mean brightness, a hundred times; counts pictures."""

    def __init__(self):
        self.seen = 0

    def score(self, images, specs):
        self.seen += len(images)
        return [Score(value=100 * one.value) for one in super().score(images, specs)]

    def flops(self, height, width):
        return 3.0


def tts(n=1, **changes):
    return TTSVar(n, Mean(), **{"features": Grid(), **changes})


def ran(search, draws=DRAWS, steps=13, size=10_000, generator=None):
    generator = generator or Walker()
    drawn = search.draw(generator, draws, Sampling(steps=steps), size)
    return generator, drawn


# ------------------------------------------------------------------------------ rows and calls


@pytest.mark.parametrize("n", [1, 3])
def test_rows_calls_decodes_and_asking(n):
    search = tts(n)
    walker, drawn = ran(search)
    d = len(DRAWS)
    assert walker.rows == [(step, d * n * rows) for step, rows in enumerate(ROWS)]
    assert walker.decoded == [(2, 8 * n * d), (5, 6 * n * d), (6, 4 * n * d), (9, 2 * n * d),
                              (12, n * d)]  # fmt: skip
    assert walker.batches == [8 * n * d]
    assert search.final.reward.scorer.seen == (4 + 2 + 1) * n * d
    assert search.selectors["cluster"].patches.seen == (8 + 6) * n * d
    for one in drawn:
        assert one.cost == Cost(
            flops=10.0 * n * sum(ROWS) + 20 * n, images=n, row_steps=n * sum(ROWS),
            decodes=21 * n, reward_calls=7 * n, feature_calls=14 * n,
            reward_flops=3.0 * 7 * n + 5.0 * 14 * n,
        )  # fmt: skip
        assert [(s.step, s.kind, len(s.previews), len(s.kept)) for s in one.trace] == [
            (2, "cluster", 8 * n, 6 * n), (5, "cluster", 6 * n, 4 * n),
            (6, "resample", 4 * n, 2 * n), (9, "resample", 2 * n, n), (12, "final", n, 1)]


def test_the_last_choice_is_the_best():
    for one in ran(tts(4))[1]:
        values = [c.value for c in one.candidates]
        assert one.chosen == values.index(max(values)) and len(values) == 4
        assert one.trace[-1].kept == (one.chosen,) and list(one.trace[-1].values) == values
        assert 100 * float(one.image.double().mean()) == max(values)


class Tracked(Walker):
    """Keeps every state that goes into a step."""

    def __init__(self):
        super().__init__()
        self.states = []

    def advance(self, state):
        self.states.append(state)
        return super().advance(state)


def ancestry(drawn, draw, n):
    """Of each survivor the (step, seed) from which on it has a seed, by the trace alone."""
    paths = [[(0, draw.row_seed(c))] for c in range(8 * n)]
    for one in drawn.trace[:-1]:
        kept, copies = [], {}
        for i in one.kept:
            path = paths[i]
            if copies.setdefault(i, 0):
                path = [*path, (one.step + 1, copy_seed(path[-1][1], one.step, copies[i]))]
            copies[i] += 1
            kept.append(path)
        paths = kept
    return paths


def replayed(generator, draw, path, sampling):
    """A row drawn by itself from the start, with the seeds of its ancestors."""
    seeds = dict(path)
    state = generator.start([draw.request], [path[0][1]], sampling)
    while not state.done:
        state = replace(state, seeds=(seeds.get(state.step, state.seeds[0]),))
        yield state
        state = generator.advance(state)
    yield state


def test_survivors_are_what_their_paths_draw_from_the_start():
    """Reward in proportion to brightness, so that one row is copied."""
    search = tts(2)
    walker, drawn = ran(search)
    copied = 0
    for draw, one in zip(DRAWS, drawn, strict=True):
        paths = ancestry(one, draw, 2)
        copied += sum(len(path) > 1 for path in paths)
        for path, candidate in zip(paths, one.candidates, strict=True):
            *_, state = replayed(walker, draw, path, THIRTEEN)
            image = walker.finish(state)[0]
            assert candidate.seed == path[-1][1]
            assert 100 * float(image.double().mean()) == candidate.value
        *_, state = replayed(walker, draw, paths[one.chosen], THIRTEEN)
        assert torch.equal(walker.finish(state)[0], one.image)
    assert copied, "no row was kept twice: the test has shown nothing"


def test_a_living_row_goes_the_way_it_would_go_alone():
    """Many draws: where a draw's rows become copies of one, none of them may keep its seed, and
    which rows go on hangs on the last bits of features, which differ among processors."""
    draws = [Draw(spec, 7, sample) for spec in SPECS[:3] for sample in range(12)]
    base = ran(BestOfN(16, Mean()), draws)[1]
    lived = 0
    for alone, searched, draw in zip(base, ran(tts(2), draws)[1], draws, strict=True):
        values = {c.seed: c.value for c in alone.candidates}
        for candidate in searched.candidates:
            if candidate.seed in values:
                lived += 1
                assert candidate.value == values[candidate.seed]
        assert draw.row_seed() in values
    assert lived


def test_infinity_survivors_have_the_caches_of_their_prefix():
    """Both halves of every block's cache, the sum of codes and the next bits, against drawing the
    survivor's ancestors alone; two prompts of different lengths in one batch."""
    pipe, draws = tiny_infinity.generator(scales=7), [Draw(SPECS[0], 7, 0), Draw(SPECS[4], 7, 0)]
    held = []
    advance = pipe.advance
    pipe.advance = lambda state: held.append(state) or advance(state)
    search = tts(1, lam=0.5)
    drawn = search.draw(pipe, draws, Sampling(), 16)
    pipe.advance = advance
    assert [len(state.seeds) for state in held] == [16, 16, 12, 12, 8, 4, 2]
    last, copied = held[-1], 0
    for d, (draw, one) in enumerate(zip(draws, drawn, strict=True)):
        (path,) = ancestry(one, draw, 1)
        copied += len(path) > 1
        *_, alone, done = replayed(pipe, draw, path, Sampling())
        assert alone.step == last.step == 6 and alone.seeds == last.seeds[d : d + 1]
        assert torch.equal(alone.f_hat[0], last.f_hat[d])
        for mine, own in zip(last.cache, alone.cache, strict=True):
            for kind in range(2):
                assert torch.equal(mine[kind][2 * d : 2 * d + 2], own[kind])
        assert torch.equal(pipe.finish(done)[0], one.image)
    assert copied


def test_infinity_costs_are_a_rows_own():
    """Prompts of different lengths cost differently, and a draw's cost is its own rows'."""
    pipe = tiny_infinity.generator()
    draws = [Draw(SPECS[0], 7, 0), Draw(SPECS[3], 7, 0)]
    for search in (NoSearch(), tts(1, schedule=(2, 1, 1, 1), cluster=(1,), resample=())):
        together = search.draw(pipe, draws, Sampling(), 64)
        alone = [search.draw(pipe, [draw], Sampling(), 64)[0] for draw in draws]
        assert [one.cost for one in together] == [one.cost for one in alone]
        assert together[0].cost.flops != together[1].cost.flops
    _, spent = generate(pipe, [draws[0].request], [draws[0].row_seed()])
    assert NoSearch().draw(pipe, draws, Sampling(), 2)[0].cost == spent
    assert (spent.tokens, spent.row_steps, spent.decodes) == (57, 4, 1)
    assert together[0].cost.tokens == 1 + 57 + 4 and together[0].cost.decodes == 2 + 1


# ------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("size", [1, 5, 16, 33])
def test_parts_of_a_draw_do_not_matter(size):
    def facts(drawn):
        return [(d.image, d.candidates, d.chosen, d.cost, [s.to_dict() for s in d.trace])
                for d in drawn]  # fmt: skip

    whole, parts = facts(ran(tts(2))[1]), facts(ran(tts(2), size=size)[1])
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a[0], b[0]) and a[1:] == b[1:]


@pytest.mark.parametrize("size", [1, 3, 16, 40])
def test_progress_ends_with_all_rows(size):
    """Also where a part has lost all its rows on the way."""
    seen = []
    tts(1).draw(Walker(), DRAWS[:3], THIRTEEN, size, lambda *pair: seen.append(pair))
    assert seen[-1] == (24, 24) and seen == sorted(seen)


def test_no_batch_is_larger_than_was_allowed():
    walker, _ = ran(tts(2), size=20)
    assert max(rows for _, rows in walker.rows) == 16  # a draw at a time, whole
    walker, _ = ran(tts(2), size=5)
    assert max(rows for _, rows in walker.rows) == 5


def test_finished_rows_make_room(monkeypatch):
    """Of a search without choices on the way one part is done before the next goes on."""
    walker, _ = ran(BestOfN(6, Mean()), DRAWS[:1], 3, 3)
    assert walker.rows == [(0, 3), (1, 3), (2, 3)] * 2


# ------------------------------------------------------------------------------ who shares what


def test_importance_draws_by_reward():
    """At lam = 0 any candidate, at a large one the best; each from the draw's own seed."""
    draws = [Draw(SPECS[0], 7, sample) for sample in range(60)]
    best = [d.chosen for d in ran(BestOfN(3, Mean()), draws, 2)[1]]
    assert [d.chosen for d in ran(Importance(3, Mean(), lam=1e6), draws, 2)[1]] == best
    evenly = [d.chosen for d in ran(Importance(3, Mean(), lam=0), draws, 2)[1]]
    assert all(10 <= evenly.count(i) <= 30 for i in range(3))
    some = ran(Importance(3, Mean(), lam=1.0), draws, 2)[1]
    expected = sum(math.exp(c[0].value) / sum(math.exp(x.value) for x in c)
                   for c in (d.candidates for d in some))  # fmt: skip
    assert abs([d.chosen for d in some].count(0) - expected) < 12  # 3.3 standard deviations
    assert ran(Importance(3, Mean(), lam=1.0), draws[7:8], 2)[1][0].chosen == some[7].chosen
    assert not Importance.independent and BestOfN.independent and not TTSVar.independent


@pytest.mark.parametrize("sets, rows", [
    ({"cluster": ()}, [8] * 7 + [2] * 3 + [1] * 3),
    ({"resample": ()}, [8] * 3 + [6] * 3 + [4] * 7),
])  # fmt: skip
def test_one_kind_of_choice_alone(sets, rows):
    walker, drawn = ran(tts(2, **sets), DRAWS[:1])
    assert [n for _, n in walker.rows] == [2 * n for n in rows]
    assert len(drawn[0].candidates) == 2 * rows[-1]


@pytest.mark.parametrize("potential", ["value", "diff", "max", "sum"])
def test_potentials_follow_their_rows(potential):
    """Of three resamplings, by hand from the trace: each row's history is its ancestors'."""
    search = tts(2, schedule=(8, 6, 4, 2, 2), cluster=(), resample=(1, 2, 3),
                 potential=potential, lam=0.3)  # fmt: skip
    by_hand = {"value": lambda h: h[-1], "max": max, "sum": sum,
               "diff": lambda h: h[-1] - h[-2] if len(h) > 1 else h[-1]}[potential]  # fmt: skip
    for one in ran(search, steps=5)[1]:
        histories = [[]] * 16
        for choice in one.trace[:-1]:
            histories = [[*h, v] for h, v in zip(histories, choice.values, strict=True)]
            assert choice.potentials == pytest.approx([by_hand(h) for h in histories])
            histories = [histories[i] for i in choice.kept]
        assert one.trace[-1].potentials is None


def test_diffusion_resamples_on_previews():
    """Copies of a deterministic family stay the same; the rest is as everywhere."""
    pipe = tiny_mmdit.tiny()
    search = tts(1, schedule=(4, 4, 2, 2), cluster=(), resample=(2,), lam=1.0)
    drawn = search.draw(pipe, DRAWS[:2], Sampling(steps=4), 8)
    again = [search.draw(pipe, [draw], Sampling(steps=4), 3)[0] for draw in DRAWS[:2]]
    for draw, one, other in zip(DRAWS, drawn, again, strict=False):
        assert torch.equal(one.image, other.image) and one.cost == other.cost
        assert one.cost.row_steps == 4 * 3 + 2 and one.cost.decodes == 4 + 2
        origin = one.trace[0].kept[one.chosen]
        alone, spent = generate(pipe, [draw.request], [draw.row_seed(origin)], Sampling(steps=4))
        assert torch.equal(one.image, alone[0])
        decoder = pipe.preview_cost(pipe.start([draw.request], [0], Sampling(steps=4))).flops
        step = (spent.flops - decoder) / 4
        assert one.cost.flops == 14 * step + 6 * decoder


# ------------------------------------------------------------------------------ the trace


def test_previews_of_the_trace_are_the_rows_before():
    walker = Tracked()
    _, drawn = ran(tts(1), DRAWS[:2], generator=walker)
    after = {state.step - 1: state for state in walker.states}  # what goes into the next step
    for d, one in enumerate(drawn):
        choice = one.trace[0]
        kept = after[2].images[6 * d : 6 * d + 6] / 4 + 0.5
        shown = choice.previews[list(choice.kept)]
        assert (shown - kept.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert NoSearch().draw(Walker(), DRAWS[:1], SEVEN, 1)[0].trace == ()


@pytest.mark.parametrize("size, small", [((1024, 512), (64, 32)), ((16, 16), (16, 16)),
                                         ((1000, 3), (64, 1))])  # fmt: skip
def test_size_of_previews(size, small):
    assert preview_size(*size) == small and PREVIEW == 64


# ------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("steps, schedule, cluster, resample", [
    (13, (8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1), (2, 5), (6, 9)),
    (7, (8, 6, 6, 4, 2, 1, 1), (1, 3), (4, 5)),
])  # fmt: skip
def test_defaults_are_the_published_schedules(steps, schedule, cluster, resample):
    assert plan(steps, 2) == plan(steps, 2, schedule, cluster, resample)
    assert plan(steps, 2).start == 16


def test_token_rows_of_the_published_schedule():
    """14,656 N at 1024 px, 1.393 N pictures' worth (own count over the published sizes)."""
    sizes = [h * w for h, w in token_maps(1.0, 13).sizes]
    found, alive = plan(13, 1), []
    for step in range(13):
        alive.append(([found.start, *(keep for s, (_, keep) in found.stops.items() if s < step)]
                      )[-1])  # fmt: skip
    assert alive == ROWS and sum(sizes) == 10_521
    assert sum(rows * size for rows, size in zip(alive, sizes, strict=True)) == 14_656


@pytest.mark.parametrize("steps", [6, 8, 9, 12, 28, 50])
def test_other_numbers_of_steps_have_a_default_too(steps):
    found = plan(steps, 1)
    assert [keep for _, keep in found.stops.values()] == [6, 4, 2, 1]
    assert max(found.stops) <= steps - 2 and min(found.stops) >= 1
    kinds = [kind for kind, _ in found.stops.values()]
    assert kinds == ["cluster", "cluster", "resample", "resample"]


@pytest.mark.parametrize("given, message", [
    ({"n": 0}, "n must be an integer >= 1, given 0"),
    ({"n": 1.5}, "n must be an integer >= 1"),
    ({"schedule": (4, 6, 2, 1), "cluster": (), "resample": (2,)}, "4/6/2/1 grows at step 1"),
    ({"schedule": (4, 2, 1), "cluster": (), "resample": (2,)}, "step 2 is out of range: of 3 ste"),
    ({"schedule": (4, 2, 1), "cluster": (0,), "resample": ()}, "cluster step 0 is out of range"),
    ({"schedule": (4, 2, 1), "cluster": (1,), "resample": ()}, "drops from 2 to 1 at step 2"),
    ({"schedule": (4, 4, 4), "cluster": (1,), "resample": ()}, "keep 4 of 4 rows.*clusters"),
    ({"schedule": (4, 2, 2), "cluster": (1,), "resample": (1,)}, "cannot be both"),
    ({"schedule": (4, 2, 2), "cluster": (1, 1), "resample": ()}, "repeat"),
    ({"schedule": (4, 4, 4), "cluster": (), "resample": ()}, "take best-of-n"),
    ({"schedule": (4, 0, 0), "cluster": (1,), "resample": ()}, "0 is not a number of rows"),
    ({"schedule": (4, 2, 2)}, "no default schedule for 3 steps"),
    ({"potential": "mean"}, "unknown potential 'mean'"),
    ({"lam": math.inf}, "lam must be a finite number >= 0"),
    ({"copies": "perhaps"}, "copies must be true or false"),
    ({"lam": -1}, "lam must be a finite number >= 0"),
    ({"projection": "tsne"}, "unknown projection 'tsne'"),
    ({"resample": (), "lam": 3.0}, "are of resampling, and there is none"),
    ({"cluster": (), "projection": "pool"}, "is of clusters, and there are none"),
    ({"timeout": 0}, "timeout must be a positive number"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_before_anything_is_drawn(given, message):
    with pytest.raises(ValueError, match=message):
        tts(**given)


def test_a_schedule_of_another_length_than_the_drawing():
    search = tts(1, schedule=(8, 6, 6, 4, 2, 1, 1))
    with pytest.raises(ValueError, match="7 entries for a drawing of 13 steps"):
        ran(search)
    with pytest.raises(ValueError, match="no default schedule for 2 steps"):
        ran(tts(1), steps=2)
    with pytest.raises(ValueError, match="no default schedule for cluster steps 2 and resample"):
        ran(tts(1, cluster=(2,)))


def test_a_family_without_previews_is_refused_by_name():
    class Opaque(Walker):
        has_preview = False

    with pytest.raises(ValueError, match=r"walker draws in one go and has no preview.*best-of-n"):
        ran(tts(1), generator=Opaque())
    assert len(ran(BestOfN(2, Mean()), generator=Opaque())[1]) == len(DRAWS)
    assert len(ran(Importance(2, Mean()), generator=Opaque())[1]) == len(DRAWS)


def test_the_text_form():
    text = ("tts-var:n=2,schedule=8/6/6/4/2/1/1,cluster=1/3,resample=4/5,potential=max,lam=5,"
            "copies=false,features=f,projection=pool,reward=r,timeout=9")  # fmt: skip
    asked = []
    found = SEARCHES.create(text, scorers=lambda name: asked.append(name) or Mean(),
                            patches=lambda name: asked.append(name) or Grid())  # fmt: skip
    assert asked == ["r", "f"] and found.width == 16 and found.final.reward.timeout == 9
    assert found.provenance() == {
        "n": 2, "schedule": [8, 6, 6, 4, 2, 1, 1], "cluster": [1, 3], "resample": [4, 5],
        "potential": "max", "lam": 5.0, "copies": False,
        "reward": {"name": "r", "id": "fake-second", "sha256": "2" * 64},
        "features": {"name": "grid"}, "projection": "pool"}  # fmt: skip
    alone = SEARCHES.create("tts-var:cluster=none", scorers=lambda name: Mean(), patches=None)
    assert alone.steps == (None, (), None) and "features" not in alone.provenance()
    for text in ("schedule=8/x", "schedule=8.5", "cluster=a", "resample=yes"):
        with pytest.raises(ValueError, match="must be integers with / between them"):
            SEARCHES.create(f"tts-var:{text}", scorers=lambda name: Mean())
    one = SEARCHES.create("importance:n=3,lam=2,reward=r", scorers=lambda name: Mean())
    assert one.provenance() == {"n": 3, "lam": 2.0,
                                "reward": {"name": "r", "id": "fake-second", "sha256": "2" * 64}}


# ------------------------------------------------------------------------------ runs


def run(out, search, **changes):
    settings = tiny.settings(sampling=SEVEN, names={"search": "tts"}, **changes)
    return evaluate(settings, Walker(), search, out, batch_size=32)


def test_a_run_keeps_the_tree_of_every_sample(tmp_path):
    done = run(tmp_path / "run", tts(1))
    record, kept = done.sample(2, 1), done.record["search"]
    assert [s["rows"] for s in record["trace"]] == [8, 6, 4, 2, 1]
    assert record["trace"][2]["values"] and record["trace"][0]["values"] is None
    assert record["decodes"] == 21 and record["reward_flops"] == 3.0 * 7 + 5.0 * 14
    sheet = read_image(done.tree("images/00002/samples/00001.png"))
    assert sheet.shape == (3, 2 * 16, 16 * 16)  # 21 tiles in two lines of 16
    assert kept["independent"] is False and kept["features"] == {"name": "grid"}
    cost = json.loads((done.path / "cost.json").read_text())
    assert cost["images"] == 12 and cost["decodes"] == 12 * 21 and cost["feature_calls"] == 12 * 14
    again = run(tmp_path / "again", tts(1))
    assert tiny.tree(done.path) == tiny.tree(again.path)
    assert not (run(tmp_path / "base", NoSearch()).path / "search").exists()


def test_a_run_whose_reward_breaks_goes_on_by_the_same_command(tmp_path):
    """RewardBroken, as of best-of-n; what was drawn stays, and a whole reward ends the same."""
    class Breaks(Mean):
        def score(self, images, specs):
            if specs[0] == SPECS[4]:
                raise OSError("gone")
            return super().score(images, specs)

    whole = run(tmp_path / "whole", tts(1))
    with pytest.raises(RewardBroken, match=r"candidate 0 of 'a photo of a cow above a bed' after"):
        run(tmp_path / "run", TTSVar(1, Breaks(), features=Grid()))
    drawn = len(list((tmp_path / "run").rglob("*.png")))
    assert drawn == 8
    record = json.loads((tmp_path / "run/run.json").read_text())
    record["search"]["reward"]["name"] = "Mean"
    (tmp_path / "run/run.json").write_text(json.dumps(record, indent=2) + "\n")
    ended = run(tmp_path / "run", tts(1))
    assert {k: v for k, v in tiny.tree(ended.path).items() if k != "run.json"} == {
        k: v for k, v in tiny.tree(whole.path).items() if k != "run.json"}


def test_settings_that_no_drawing_fits_claim_no_folder(tmp_path):
    with pytest.raises(ValueError, match="5 entries for a drawing of 7"):
        run(tmp_path / "run", tts(1, schedule=(4, 3, 2, 1, 1), cluster=(1,), resample=(2, 3)))
    assert not list((tmp_path / "run").glob("*.json"))


def test_a_run_out_of_memory_goes_on_in_parts(tmp_path):
    """A draw of 8 rows where 5 fit: the same files as with room for all."""
    small = tts(1, schedule=(8, 6, 4, 4), cluster=(1,), resample=(2,))
    settings = tiny.settings(sampling=Sampling(steps=4), names={"search": "tts"})
    whole = evaluate(settings, FakeGenerator(), small, tmp_path / "whole", batch_size=16)
    with pytest.warns(UserWarning, match="going on with 4"):
        parts = evaluate(settings, FakeGenerator(memory=5), small, tmp_path / "parts",
                         batch_size=16)  # fmt: skip
    assert tiny.tree(whole.path) == tiny.tree(parts.path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    """All rows in one call a step; reward and features on the device."""
    pipe, draws = tiny_infinity.generator(scales=7).to("cuda"), DRAWS[:2]
    search = SEARCHES.create(
        "tts-var:n=2,lam=1", scorers=lambda name: SCORERS.create(name, device="cuda"),
        patches=lambda name: PATCHES.create(name, device="cuda"))  # fmt: skip
    steps, advance = [], pipe.advance
    pipe.advance = lambda state: steps.append(len(state.seeds)) or advance(state)
    together = search.draw(pipe, draws, Sampling(), 32)
    assert steps == [32, 32, 24, 24, 16, 8, 4]
    for one in together:
        assert one.image.device.type == "cuda" and torch.isfinite(one.image).all()
        assert one.cost.decodes == 42 and one.cost.reward_flops > 0
        values = [c.value for c in one.candidates]
        assert values[one.chosen] == max(values)
