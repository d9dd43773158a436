"""Stacks: recipes refused before anything runs, pools that are what they stand for, resumes."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from impasto.bench import read_results
from impasto.cli import app, build
from impasto.images import read_image
from impasto.report.sheets import Sheet
from impasto.report.stack import markdown, terminal, write_stack_page
from impasto.run import seeds
from impasto.run.directory import RunDirectory
from impasto.run.evaluate import evaluate
from impasto.run.pool import FromPool, Pool
from impasto.run.provenance import SettingsDiffer
from impasto.sample.protocol import Sampling
from impasto.search import BestOfN, Candidates, Importance, NoSearch, TTSVar
from impasto.stack import STEPS, Tools, load_stack, run_stack
from impasto.stack.compared import _at_pool, equal_flops
from impasto.zoo.registry import SEARCHES
from tests import tiny, tiny_infinity
from tests.fakes import FakeGenerator, FakeSecond
from tests.tiny_stack import FACTORIES, RECIPE, Noisy


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Noisy, "drawn", 0)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    Path("recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first finished stack is kept for the tests that begin with one."""
    return tmp_path_factory.mktemp("kept") / "out"


@pytest.fixture
def made(here, kept):
    """The recipe, run into the folder out, and what it drew."""
    if not kept.exists():
        done = call("-o", "out")
        assert done.exit_code == 0, done.output
        assert Noisy.drawn == 2 * 4 * 2, "the pool, and nothing else"
        shutil.copytree("out", kept)
    else:
        shutil.copytree(kept, "out")
    Noisy.drawn = 0
    return here


def call(*arguments):
    return CliRunner().invoke(app, ["run", "recipe.yaml", *map(str, arguments)])


def run(out="out", **overrides):
    return run_stack(load_stack("recipe.yaml", overrides), Tools(Path(out), build))


def write(old, new):
    assert old in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(old, new))


# What a run gives


def test_run_writes_tables_and_pages(made):
    done = call("-o", "out")
    assert done.exit_code == 0, done.output
    (table,) = json.loads(Path("out/table.json").read_text())["tables"]
    assert [row["name"] for row in table["rows"]] == [
        "none", "best of 2", "best of 4", "drawn of 2", "drawn of 4"]  # fmt: skip
    shown = Path("out/table.md").read_text()
    score = table["rows"][2]["score"]
    assert f"{score[0]:.3f} [{score[1]:.3f}, {score[2]:.3f}]" in shown
    assert f"{score[0]:.3f} [{score[1]:.3f}, {score[2]:.3f}]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert "best of 4 − best of 2" in shown and "at equal FLOPs" in shown
    assert ("Not independent: best of 2, best of 4, drawn of 2, drawn of 4 chose its pictures by "
            "fake-second, which also is the second scorer.") in shown  # fmt: skip
    assert "its FLOPs" in shown and "fake on " in shown
    assert '<a href="compare/report.html">' in Path("out/report.html").read_text()
    assert Path("out/compare/report.html").is_file()


def test_the_page_escapes_what_recipes_say(tmp_path):
    sheet = Sheet("<b>", ("<i>", "x"), (("<script>", "-1"), ("z", "-1 [-2, <q>]")), ("<a>",))
    page = write_stack_page("<u>", [sheet], {"<q>": tmp_path / "a/b.html"}, tmp_path / "p.html")
    text = page.read_text()
    assert not any(f"<{tag}>" in text for tag in ("b", "i", "script", "a", "u", "q"))
    assert "&lt;script&gt;" in text and 'href="a/b.html"' in text and "<td>−1</td>" in text
    assert "<td>−1 <wbr><span>[−2, &lt;q&gt;]</span></td>" in text
    assert "| <script> | -1 |" in markdown([sheet]) and "<script>" in terminal([sheet])


def test_the_default_folder_is_named_after_the_recipe(here):
    done = call("--set", "limit=1", "--set", "seeds=[0]", "--set", "compare.page=[]", "--json")
    assert done.exit_code == 0 and done.stderr == ""
    values = json.loads(done.stdout)
    assert values["page"] == "runs/recipe/report.html"
    assert values["tables"] == json.loads(Path("runs/recipe/table.json").read_text())["tables"]


def test_figures_are_those_of_all_seeds_together(made):
    done = run()
    row = done["compare"].table["rows"][1]
    runs = {name: [RunDirectory(path) for path in done["chosen"].runs[name]]
            for name in ("none", "best of 2")}  # fmt: skip
    verdicts = {name: [r.correct for one in of for r in read_results(one.results)]
                for name, of in runs.items()}  # fmt: skip
    assert len(verdicts["none"]) == 4, "two prompts, two seeds, one picture each"
    assert row["score"][0] == pytest.approx(sum(verdicts["best of 2"]) / 4)
    differences = sum(verdicts["best of 2"]) - sum(verdicts["none"])
    assert row["difference"][0] == pytest.approx(differences / 4)
    assert row["relative"][0] == pytest.approx(differences / sum(verdicts["none"]))
    assert row["cost"]["flops"] == 40 and row["cost"]["images"] == 2
    assert row["difference"][1] <= row["difference"][0] <= row["difference"][2]


def test_seeds_are_not_one_seed_twice(made):
    a, b = (RunDirectory(f"out/chosen/none/seed-{seed}") for seed in (0, 1))
    assert (a.record["seed"], b.record["seed"]) == (0, 1)
    assert a.sample(0, 0)["seed"] != b.sample(0, 0)["seed"]
    with pytest.raises(ValueError, match="2 and 1 runs cannot be paired"):
        seeds.difference([a, b], [a])
    with pytest.raises(SettingsDiffer):
        seeds.difference([a, b], [b, a])


# Pools


def alone(out, search, name, seed=0):
    """The run of a search that draws for itself."""
    names = {"model": "fake", "search": name, "scorer": "fake", "second": "fake-second"}
    settings = tiny.settings(seed=seed, samples=1, limit=2, names=names)
    return evaluate(settings, FakeGenerator(), search, out).path


def test_what_is_chosen_from_a_pool_is_what_the_search_draws(made):
    """Same bytes: pictures, records, rewards, verdicts, and chance where a search draws lots."""
    for seed, folder, text in ((0, "best-of-2", "best-of-n:n=2,reward=fake-second"),
                               (1, "best-of-4", "best-of-n:n=4,reward=fake-second"),
                               (1, "drawn-of-4", "importance:n=4,lam=1,reward=fake-second")):
        search = SEARCHES.create(text, scorers=lambda _: FakeSecond())
        own = alone(f"own-{folder}", search, text, seed)
        assert tiny.tree(Path(f"out/chosen/{folder}/seed-{seed}")) == tiny.tree(own)
    own = alone("own", NoSearch(), "none")
    assert tiny.tree(Path("out/chosen/none/seed-0")) == tiny.tree(own)


def pooled(out, n=4, reward=None, samples=1, **settings):
    names = {"model": "m", "search": "candidates"}
    made = tiny.settings(samples=n * samples, names=names, **settings)
    return Pool(evaluate(made, FakeGenerator(), Candidates(n, reward), out))


def test_best_of_k_by_the_pools_rewards_is_the_search(tmp_path):
    pool = pooled(tmp_path / "pool", reward=FakeSecond(), samples=2, limit=3)
    for k in (1, 3, 4):
        path = evaluate(tiny.settings(limit=3), FakeGenerator(), BestOfN(k, FakeSecond()),
                        tmp_path / str(k)).path  # fmt: skip
        expected = seeds.over_seeds([RunDirectory(path)])
        assert pool.best(k) == expected
        assert pool.flops(k) == 20.0 * k
    with pytest.raises(ValueError, match="holds 4 candidates a picture, not 5"):
        pool.best(5)


def test_a_pool_of_a_real_family_gives_the_same_bytes(tmp_path):
    """Pictures, chance, FLOPs, tokens and decodes, of prompts of different lengths."""
    generator = tiny_infinity.generator()
    settings = tiny.settings(samples=2, limit=2, names={"model": "m"})
    many = tiny.settings(samples=6, limit=2)
    pool = Pool(evaluate(many, generator, Candidates(3, FakeSecond()), tmp_path / "pool"))
    assert pool.steps == 4
    for search in (NoSearch(), BestOfN(3, FakeSecond()), Importance(2, FakeSecond(), lam=50)):
        name = type(search).__name__
        own = evaluate(settings, generator, search, tmp_path / name)
        held = evaluate(settings, FromPool(generator, pool), search, tmp_path / f"{name}-pool")
        assert tiny.tree(own.path) == tiny.tree(held.path)
        assert seeds.cost_of([own]) == seeds.cost_of([held])
    assert pool.best(3) == seeds.over_seeds([RunDirectory(tmp_path / "BestOfN")])


def test_a_pool_refuses_what_it_cannot_give(tmp_path):
    pool = pooled(tmp_path / "pool", limit=2)
    held = FromPool(FakeGenerator(), pool)
    draws = tiny.settings(samples=1, limit=2)
    with pytest.raises(ValueError, match="does not hold the picture of seed"):
        evaluate(draws, held, BestOfN(5, FakeSecond()), tmp_path / "wide")
    with pytest.raises(ValueError, match="in one go and has no preview"):
        evaluate(draws, held, TTSVar(1, FakeSecond(), schedule=(2, 1, 1), cluster=(),
                                     resample=(1,)), tmp_path / "tts")  # fmt: skip
    with pytest.raises(ValueError, match="holds finished pictures"):
        held.preview(None)
    with pytest.raises(ValueError, match="kept no rewards"):
        pool.best(2)
    other = dict(pool.record, sampling={"steps": 9})
    with pytest.raises(SettingsDiffer, match=r"sampling.steps: 2 in the folder, 9 now"):
        held.check(other)
    base = evaluate(tiny.settings(), FakeGenerator(), NoSearch(), tmp_path / "base")
    with pytest.raises(ValueError, match="is no pool"):
        Pool.at(base.path)


def test_equal_flops_are_of_the_most_candidates_that_they_pay_for(made):
    done = run(**{"compare.runs": ["best of 4"]})
    one, best = done["compare"].table["equal_flops"]
    assert (one["run"], one["k"], best["k"], best["enough"]) == ("none", 1, 4, True)
    assert one["difference"] == [0, *one["difference"][1:]] and best["difference"][0] == 0
    assert best["flops"] == best["best_flops"] == 80


def test_flops_beyond_the_pool_are_said_to_be(tmp_path):
    pool = pooled(tmp_path / "pool", reward=FakeSecond(), limit=2)
    settings = tiny.settings(samples=1, limit=2)
    runs = [evaluate(settings, FakeGenerator(), BestOfN(3, FakeSecond()), tmp_path / "three")]
    found = equal_flops([pool], runs, 75.0)
    assert (found["k"], found["enough"], found["difference"][0]) == (3, True, 0)
    assert equal_flops([pool], runs, 1000.0)["k"] == 4
    assert equal_flops([pool], runs, 1000.0)["enough"] is False
    assert equal_flops([pool], runs, 10.0)["best"] is None


class Counted(FakeSecond):
    def flops(self, height, width):
        return 5.0


def test_rewards_that_count_their_flops_are_counted_on_both_sides(tmp_path):
    """A picture is 20 FLOPs and a look 5: best of 3 costs 75 all in, best of one needs no look."""
    pool = pooled(tmp_path / "pool", reward=Counted(), limit=2)
    assert pool.counts_rewards and [pool.flops(k, True) for k in (1, 2, 3)] == [20, 50, 75]
    runs = [evaluate(tiny.settings(samples=1, limit=2), FakeGenerator(), BestOfN(3, Counted()),
                     tmp_path / "three")]  # fmt: skip
    spent = seeds.cost_of(runs)
    assert (spent["flops"], spent["reward_flops"], spent["reward_calls"]) == (60, 15, 3)
    (row,) = _at_pool([pool], {"best of 3": runs})
    assert (row["flops"], row["k"], row["rewards"]) == (75, 3, True) and row["difference"][0] == 0
    plain = pooled(tmp_path / "plain", reward=FakeSecond(), limit=2)
    (row,) = _at_pool([plain], {"best of 3": runs})
    assert (row["flops"], row["k"], row["rewards"]) == (60, 3, False)


# Resuming


def test_again_draws_nothing_and_ends_with_the_same_bytes(made):
    before = tiny.tree(made / "out")
    assert call("-o", "out").exit_code == 0
    assert tiny.tree(made / "out") == before and Noisy.drawn == 0


@pytest.mark.parametrize("after", [9, 22])
def test_interrupted_and_run_again_ends_with_the_same_bytes(made, monkeypatch, after):
    whole = tiny.tree(made / "out")
    shutil.rmtree("out")
    saves, save = 0, RunDirectory.save

    def interrupted(self, *arguments, **sheet):
        nonlocal saves
        saves += 1
        if saves == after:
            raise KeyboardInterrupt
        save(self, *arguments, **sheet)

    monkeypatch.setattr(RunDirectory, "save", interrupted)
    done = call("-o", "out")
    assert done.exit_code == 130 and "run the same command again" in done.stderr
    monkeypatch.setattr(RunDirectory, "save", save)
    assert call("-o", "out").exit_code == 0 and tiny.tree(made / "out") == whole


def test_killed_at_random_moments_and_finished(tmp_path):
    """SIGKILL; in a process of its own, which forks quickly."""
    done = subprocess.run([sys.executable, "-m", "tests.kill_and_resume", str(tmp_path), "3",
                           "stack"], capture_output=True, text=True, check=True)  # fmt: skip
    assert int(done.stdout) >= 2
    assert tiny.tree(tmp_path / "whole") == tiny.tree(tmp_path / "killed")


@pytest.mark.parametrize("old, new, message", [
    ("n: 4", "n: 5", "pool.n: 4 in the folder, 5 now"),
    ("limit: 2", "limit: 3", "pool.limit: 2 in the folder, 3 now"),
    ("none: none", "none: 'best-of-n:n=1,reward=fake-second'", 'chosen.search none: "none"'),
    ("scorer: fake\n", "scorer: fake:threshold=0.4\n", "pool.scorer"),
])  # fmt: skip
def test_a_recipe_that_changed_in_what_it_made_is_refused(made, old, new, message):
    before = tiny.tree(made / "out")
    write(old, new)
    done = call("-o", "out")
    assert done.exit_code == 2 and "recipe has changed since" in done.stderr
    assert message in done.stderr, done.stderr
    assert tiny.tree(made / "out") == before and Noisy.drawn == 0


def test_seeds_drawn_by_themselves_are_found_by_all_together(made):
    """So several processes can share a stack: one seed each, then a last one with all."""
    whole = tiny.tree(made / "out")
    shutil.rmtree("out")
    for seeds_now in ("[1]", "[0]"):
        done = call("-o", "out", "--set", f"seeds={seeds_now}")
        assert done.exit_code == 0, done.output
    assert Noisy.drawn == 2 * 4 * 2
    assert call("-o", "out").exit_code == 0 and tiny.tree(made / "out") == whole
    assert Noisy.drawn == 2 * 4 * 2


def test_a_search_more_is_drawn_beside_the_others(made):
    Path("recipe.yaml").write_text(RECIPE.replace("{n: [2, 4]}", "{n: [2, 3, 4]}"))
    done = run()
    assert [row["name"] for row in done["compare"].table["rows"]] == [
        "none", "best of 2", "best of 3", "best of 4", "drawn of 2", "drawn of 3",
        "drawn of 4"]  # fmt: skip


# Recipes


@pytest.mark.parametrize("old, new, message", [
    ("model: fake", "modell: fake", "line 2: no step here has a key 'modell': did you mean "
                                    "'model'"),
    ("  - pool: {n: 4}", "  - pol: {n: 4}", "line 11: unknown step 'pol': did you mean 'pool'"),
    ("pool: {n: 4}", "pool: {m: 4}", "line 11: pool has no key 'm': did you mean 'name'"),
    ("      pool: pool\n", "      pol: pool\n", "line 14: eval has no key 'pol'"),
    ("pool: {n: 4}", "pool: {}", "line 11: pool needs n"),
    ("pool: {n: 4}", "pool: {n: 0}", "n must be a whole number >= 1, given 0"),
    ("pool: {n: 4}", "pool: {n: 3}", "best of 4 chooses among 4 pictures, but pool has 3"),
    ("pool: pool\n", "pool: chosen\n", "chosen uses the pool of a step 'chosen', and no step"),
    ("  - pool: {n: 4}\n", "", "chosen uses the pool of a step 'pool', and no step before it"),
    ("      name: chosen", "      name: pool", "a step before this one is called 'pool' too"),
    ("      name: chosen", "      name: jobs", "line 12: a step cannot be called 'jobs'"),
    ("      name: chosen", "      name: ../up", "line 12: a step cannot be called '../up'"),
    ("base: none", "base: nine", "has a run 'nine': did you mean 'none'"),
    ("best of 4, best", "best of 5, best", "has a run 'best of 5'"),
    ("best of {n}:", "best of {m}:", "{m} is not in the grid"),
    ("{n: [2, 4]}", "{n: 2}", "grid's n must be a list of values, given 2"),
    ("best of {n}:", "best:", "searches are called the same, best"),
    ('"best-of-n:n={n},', '"best-of-m:n={n},', "unknown search 'best-of-m'"),
    ('"best-of-n:n={n},', '"best-of-n:k={n},', "unknown key 'k' for search 'best-of-n'"),
    ("scorer: fake\n", "scorer: fale\n", "unknown scorer 'fale'"),
    ("model: fake", "model: fale", "unknown model 'fale'"),
    ("base: none", 'base: none, runs: [best of 8]', "has a run 'best of 8'"),
    ("none: none", 'none: "tts-var:cluster=none,schedule=2/1/1,resample=1,reward=fake-second"',
     "chosen: none: the schedule has 3 entries for a drawing of 2 steps"),
    ("limit: 2", "limit: 2\nsampling: {steps: 3}", "chosen: early looks at unfinished pictures"),
    ("model: fake", "model: step:tuned", "pool uses the model of a step 'tuned'"),
    ("bench: fake", "bench: fale", "unknown bench 'fale'"),
    ("seeds: [0, 1]", "seeds: 2", "seeds must be a list of different whole numbers, given 2"),
    ("seeds: [0, 1]", "seeds: [0, 0]", "seeds must be a list of different whole numbers"),
    ("limit: 2", "limit: 7", "limit is 7; tiny has 6 prompts"),
    ("seeds: [0, 1]", "seeds: [0, 1]\nsampling: {step: 1}", "sampling has no 'step': did you "
                                                            "mean 'steps'"),
    ("  - compare", "  - train: {recipe: no.yaml}\n  - compare", "there is no recipe no.yaml"),
    ("[[best of 4, best of 2]]", "[[best of 4]]", "pairs holds [run, compared with]"),
    ("steps:", "stepz:", "a stack needs steps"),
    ("steps:", "kind: clip\nstepz:", "a recipe with a kind is one of impasto train"),
    ("{n: 4}", "{n: 4", "is not YAML"),
])  # fmt: skip
def test_bad_recipes_are_refused_before_anything_runs(here, old, new, message):
    write(old, new)
    if "early" in message:  # a search that only fits three steps, in a step with a pool
        text = Path("recipe.yaml").read_text().replace(
            "none: none", 'none: none\n        early: "tts-var:schedule=2/1/1,cluster=none,'
                          'resample=1,reward=fake-second"')  # fmt: skip
        Path("recipe.yaml").write_text(text)
    done = call("-o", "out")
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert message in done.stderr, done.stderr
    assert not Path("out").exists() and Noisy.drawn == 0


@pytest.mark.parametrize("text, message", [
    ("limmit=2", "no step here has a key 'limmit': did you mean 'limit'"),
    ("pol.n=2", "has no step 'pol': did you mean 'pool'"),
    ("pool.m=2", "pool has no key 'm' to set"),
    ("pool.n", "--set takes KEY=VALUE"),
])  # fmt: skip
def test_overrides_that_fit_nothing_are_refused(here, text, message):
    done = call("-o", "out", "--set", text)
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert not Path("out").exists()


def test_a_reward_with_options_of_its_own_goes_into_parentheses(here):
    stack = load_stack("recipe.yaml", {"reward": "geneval:detector=a,clip=b", "grid.n": [2]})
    pool, chosen, _ = stack.steps
    assert pool.search == "candidates:n=4,reward=(geneval:detector=a,clip=b)"
    assert chosen.named["best of 2"] == "best-of-n:n=2,reward=(geneval:detector=a,clip=b)"


def test_overrides(here):
    stack = load_stack("recipe.yaml", {"limit": 3, "pool.n": 8, "grid.n": [1]})
    pool, chosen, compare = stack.steps
    assert pool.limit == chosen.limit == 3 and pool.n == 8 and chosen.named == {
        "none": "none", "best of 1": "best-of-n:n=1,reward=fake-second",
        "drawn of 1": "importance:n=1,lam=1,reward=fake-second"}  # fmt: skip
    assert compare.base == "none"


def test_a_folder_that_is_something_else_is_refused(here):
    Path("out/pool/seed-0").mkdir(parents=True)
    Path("out/pool/seed-0/notes.txt").touch()
    done = call("-o", "out")
    assert done.exit_code == 2 and "is not empty and is not a run" in done.stderr
    Path("file").touch()
    done = call("-o", "file")
    assert done.exit_code == 2 and "file is a file" in done.stderr


def test_runs_that_cannot_be_paired_are_refused_at_once(here):
    write("  - compare", "  - eval: {name: more, searches: {other: none}, seeds: [0]}\n"
                         "  - compare")  # fmt: skip
    done = call("-o", "out")
    assert done.exit_code == 2 and "chosen and more differ in seeds" in done.stderr
    assert Noisy.drawn == 0


def test_a_trained_model_is_drawn_with(here, monkeypatch):
    """The training itself is `impasto train`'s; here, that its folder is used and kept."""
    trained = []

    def train(path, out, device, overrides):
        from impasto.run.provenance import normal
        from impasto.train.run import load_recipe

        trained.append(dict(overrides))
        Path(out).mkdir(parents=True)
        recipe = normal(vars(load_recipe(path, overrides)))
        Path(out, "training.json").write_text(json.dumps({"recipe": recipe}))

    monkeypatch.setattr("impasto.train.run.run_recipe", train)
    monkeypatch.setattr("impasto.cli.build.model",
                        lambda text, device: FakeGenerator(name=text))  # fmt: skip
    Path("clip.yaml").write_text("kind: clip\nscenes: 1000\nsteps: 2\nbatch: 4\nlr: 0.1\n")
    write("model: fake\n", "model: step:tuned\n")
    text = Path("recipe.yaml").read_text().replace(
        "  - pool: {n: 4}", "  - train: {name: tuned, recipe: clip.yaml, set: {steps: 3}}\n"
                            "  - pool: {n: 4}")  # fmt: skip
    Path("recipe.yaml").write_text(text)
    for _ in range(2):
        done = call("-o", "out")
        assert done.exit_code == 0, done.output
    assert trained == [{"steps": 3}]
    assert RunDirectory("out/pool/seed-0").record["model"]["name"] == "out/tuned"
    Path("clip.yaml").write_text("kind: clip\nscenes: 1000\nsteps: 2\nbatch: 4\nlr: 0.2\n")
    done = call("-o", "out")
    assert done.exit_code == 2 and "tuned.recipe.lr: 0.1 in the folder, 0.2 now" in done.stderr


def test_a_worker_draws_from_the_pool_too(tmp_path):
    """What `--workers` builds in a process: the parts by their names, the pool before them."""
    from impasto.stack.drawing import pooled_parts

    pool = pooled(tmp_path / "pool", limit=1)
    make = partial(pooled_parts, _parts, pool.run.path)
    held, search = pickle.loads(pickle.dumps(make))("makers")
    assert isinstance(held, FromPool) and search == "search"
    seed = next(iter(pool.drawn))
    assert torch.equal(held.start([None], [seed], Sampling()).images[0],
                       read_image(pool.drawn[seed][0]))  # fmt: skip
    assert make("judges") == ("judges", "search")


def _parts(role):
    return (FakeGenerator() if role == "makers" else role), "search"


def test_every_step_says_what_it_is():
    assert {"train", "eval", "pool", "compare", "reliability", "diversity"} <= set(STEPS)
    shown = CliRunner().invoke(app, ["run", "--help"]).output
    for kind in STEPS:
        assert kind in shown
        assert STEPS.describe(kind) and not STEPS.describe(kind).startswith(kind)
    with pytest.raises(ValueError, match="registered twice"):
        STEPS.register("eval")(replace)
