"""Steps side by side: who waits for whom, and that nothing comes out otherwise than one by one."""

import os
from concurrent.futures import Future
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from impasto.cli import build
from impasto.stack import Tools, load_stack, run_stack
from impasto.stack.ahead import WORKER, Job, _begin, _do, _Place, _run, jobs_of
from impasto.stack.base import Done
from impasto.train import processes
from tests import tiny_mmdit

RECIPE = """\
bench: geneval
second: none
limit: 2
sampling: {steps: 1}
steps:
  - contributions: {name: blocks, model: host, units: blocks, by: similarity}
  - contributions: {name: parts, model: host, units: blocks}
  - prune: {name: least, model: host, scores: "step:parts", budget: 0.8, order: score, identities: true}
  - prune: {name: fewer, model: host, scores: "step:blocks", budget: 0.9, order: score, identities: true}
  - graft: {name: other, model: host, operator: hyena-x, blocks: [1]}
  - graft: {name: both, model: "step:fewer", operator: "mlp:ratio=2", blocks: [1]}
"""  # noqa: E501
DRAWN = RECIPE + """\
  - eval: {seeds: [0, 1], models: {host: host, fewer: "step:fewer", other: "step:other"}}
  - compare: {base: host}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_mmdit.tiny().save_pretrained("host", "float32")
    return tmp_path


def run(out, jobs, text=RECIPE):
    Path("recipe.yaml").write_text(text)
    return run_stack(load_stack("recipe.yaml", {}), Tools(Path(out), build), jobs)


def tree(out):
    """File -> bytes, of all that does not tell of time."""
    return {path.relative_to(out): path.read_bytes() for path in Path(out).rglob("*")
            if path.is_file() and path.name != "cost.json" and "jobs" not in path.parts}


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_side_by_side_all_is_as_one_by_one(here):
    run("many", 2)
    logs = {path.name: path.read_text() for path in Path("many/jobs").iterdir()}
    parts = [f"parts-{i}-of-6.log" for i in range(1, 7)]
    assert sorted(logs) == ["blocks.log", "both.log", "fewer.log", "least.log", "other.log",
                            *parts, "parts.log"]  # fmt: skip
    assert len({text.split()[1] for text in logs.values()}) == 2, "processes"
    run("one", 1)
    assert tree("many") == tree("one")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_runs_side_by_side_are_found_by_what_compares_them(here):
    done, alone = run("many", 2, DRAWN), run("one", 1, DRAWN)
    logs = {path.name for path in Path("many/jobs").iterdir()}
    assert {f"eval-{name}-seed-{seed}.log" for name in ("host", "fewer", "other")
            for seed in (0, 1)} < logs  # fmt: skip
    rows = [{row["name"]: row["score"] for row in one["compare"].table["rows"]}
            for one in (done, alone)]  # fmt: skip
    assert rows[0] == rows[1] and len(rows[0]) == 3
    for path, text in tree("one").items():
        if path.suffix in (".png", ".jsonl") or path.name == "summary.json":
            assert tree("many")[path] == text, path


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_what_fails_stops_what_needs_it_alone(here):
    text = RECIPE.replace("budget: 0.9", "budget: 0.01")
    with pytest.raises(ValueError, match="the budget is less than") as caught:
        run("out", 2, text)
    (note,) = caught.value.__notes__
    assert "in fewer; " in note and "goes on with what is left" in note
    assert "budget" in Path("out/jobs/fewer.log").read_text()
    made = {path.name for path in Path("out").iterdir() if path.is_dir()}
    assert made == {"jobs", "blocks", "least", "other", "parts"}


class Crowded:
    """A pool whose GPU has room for `room` jobs at once."""

    def __init__(self, room):
        self.room, self.at_once, self.going, self.names = room, [], 0, []

    def submit(self, do, job, given):
        future = Future()
        self.going += 1
        self.at_once.append(self.going)
        self.names.append(job.name)
        if self.going > self.room:
            future.set_exception(torch.OutOfMemoryError("CUDA out of memory."))
        else:
            future.set_result(Done())
        result = future.result

        def taken(*given):
            self.going -= 1
            return result(*given)

        future.result = taken
        return future


def test_what_finds_no_memory_beside_others_is_done_with_fewer_at_once(tmp_path):
    todo = jobs_of(load_stack("recipes/surgery/sticker.yaml", {}).steps)
    tools, pool = Tools(tmp_path, build), Crowded(room=2)
    _run(dict(todo), [pool], tools, 8)
    assert max(pool.at_once) > 2 and len(pool.at_once) > len(todo)
    assert max(pool.at_once[-len(todo) // 2 :]) <= 2, "as many as there is room for"
    with pytest.raises(torch.OutOfMemoryError) as caught:
        _run(dict(todo), [Crowded(room=0)], tools, 8)
    assert caught.value.__notes__[0].startswith("in graft")


class Gpu:
    """A pool whose job `long` ends when `six` is there, every other at once."""

    def __init__(self, number, log):
        self.number, self.log = number, log

    def submit(self, do, job, given):
        self.log[job.name] = self.number, Future()
        for name, (_, future) in self.log.items():
            if not future.done() and (name != "long" or "six" in self.log):
                future.set_result(Done())
        return self.log[job.name][1]


def test_a_job_goes_to_the_gpu_with_fewest(tmp_path):
    class Idle:
        uses = ()

        def finished(self, out):
            return False

    names = ["long", "two", "three", "four", "five", "six"]
    todo = {name: Job(name, Idle(), (), ways=len(names) - i) for i, name in enumerate(names)}
    log = {}
    _run(todo, [Gpu(i, log) for i in range(2)], Tools(tmp_path, build), 2)
    assert {name: number for name, (number, _) in log.items()} == {
        "long": 0, **dict.fromkeys(names[1:], 1)}  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_leaves_the_memory_that_it_had(tmp_path, monkeypatch, fails):
    tools, emptied = Tools(tmp_path, build), []
    (tmp_path / "jobs").mkdir()
    monkeypatch.setitem(WORKER, "tools", tools)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(tools._model))

    class Drawing:
        def run(self, tools):
            assert emptied == [None], "before it"
            tools._model = "host", object()
            if fails:
                raise KeyError("failed")
            return Done()

    with pytest.raises(KeyError) if fails else nullcontext():
        _do(Job("one", Drawing(), ()), {})
    assert emptied == [None, None] and tools._model is None


def test_a_job_lays_out_scenes_on_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setitem(WORKER, "tools", None)
    monkeypatch.setitem(processes.BESIDE, "jobs", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)), raising=False)
    _begin(_Place("impasto.cli.build", tmp_path, "cpu", 1, 3))
    assert processes.cores() == 4


def test_shares_of_finished_contributions_need_no_model(tmp_path):
    steps = load_stack("recipes/surgery/sticker.yaml", {}).steps
    (units,) = (step for step in steps if step.name == "units")
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "contributions.json").touch()
    for share in units.shares().values():
        assert share.run(Tools(tmp_path, None)) == Done()


def test_runs_that_are_finished_are_left_to_their_turn(tmp_path):
    todo = jobs_of(load_stack("recipes/surgery/sticker.yaml", {}).steps)
    for name in ("host", "graft"):
        (tmp_path / "models" / name / "seed-1").mkdir(parents=True)
        (tmp_path / "models" / name / "seed-1" / "summary.json").touch()
    pool = Crowded(room=9)
    _run(dict(todo), [pool], Tools(tmp_path, build), 8)
    left = set(todo) - set(pool.names)
    assert left == {"models: host, seed 1", "models: graft, seed 1"}


def test_a_job_waits_for_what_it_needs_and_long_ways_go_first():
    jobs = jobs_of(load_stack("recipes/surgery/sticker.yaml", {}).steps)
    assert jobs["graft"].needs == () and jobs["graft 1"].needs == ("graft",)
    assert jobs["graft"].ways > jobs["graft 1"].ways > jobs["prune 2"].ways > 0
    assert jobs["models: host, seed 0"].needs == () and jobs["models: host, seed 0"].ways == 0
    assert jobs["models: graft + prune + NF4, seed 1"].needs == ("nf4",)
    assert jobs["searches: graft + prune + NF4, best of 8, seed 0"].needs == ("nf4",)
    # What is used of a step is there once all its shares are.
    parts = tuple(f"units: {i} of 6" for i in range(1, 7))
    assert jobs["units"].needs == ("graft 2", *parts) and jobs["prune"].needs[-1] == "units"
    assert {jobs[name].needs for name in parts} == {("graft 2",)}
    assert not [name for name in jobs if name.startswith(("compare", "costs"))]
    pooled = jobs_of(load_stack("recipes/tts-var/sticker.yaml", {}).steps)
    assert {"pool: seed 0", "pool: seed 1"} < set(pooled["pool"].needs)
    assert any(job.needs == ("pool",) for job in pooled.values())


def test_what_no_other_process_can_do_is_refused(here):

    class Own:
        def __getattr__(self, name):
            return getattr(build, name)

    Path("recipe.yaml").write_text(RECIPE)
    with pytest.raises(ValueError, match="give Tools impasto"):
        run_stack(load_stack("recipe.yaml", {}), Tools(Path("out"), Own()), 2)
    with pytest.raises(ValueError, match="give jobs or workers, not both"):
        run_stack(load_stack("recipe.yaml", {}), Tools(Path("out"), build, workers=2), 2)
