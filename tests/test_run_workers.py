"""Rows shared out among processes: the same bytes for any number, also when one is killed.

Ray starts a process with torch in it for every worker, so all but the most telling test are slow.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from impasto.run import workers as module
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.workers import Workers
from impasto.sample.protocol import Sampling
from impasto.search import NoSearch, TTSVar
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

NAMES = {"model": "fake", "scorer": "fake", "second": "fake"}


class Mortal(FakeGenerator):
    """A fake that kills its process with SIGKILL: once, in the middle of the third prompt, or
    always, at its first."""

    def __init__(self, grave, always=False):
        super().__init__()
        self.grave, self.always = Path(grave), always

    def finish(self, state):
        if self.always or (len(self.batches) >= 2 and not self.grave.exists()):
            self.grave.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().finish(state)


class MortalScorer(FakeScorer):
    """The same of a judge, at its first picture."""

    def __init__(self, grave):
        super().__init__()
        self.grave = Path(grave)

    def score(self, images, specs):
        if not self.grave.exists():
            self.grave.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().score(images, specs)


class Refusing(FakeGenerator):
    def start(self, requests, seeds, sampling):
        raise ValueError("height must be a multiple of 8")


def run(out, generator=None, search=None, workers=None, **changes):
    settings = tiny.settings(samples=3, names=NAMES | {"search": "x"}, **changes)
    return evaluate(settings, generator or FakeGenerator(), search or NoSearch(), out,
                    batch_size=2, workers=workers or Workers())  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process alone writes."""
    return tiny.tree(run(tmp_path_factory.mktemp("whole") / "run").path)


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path, whole):
    done = run(tmp_path / "two", workers=Workers(2))
    assert tiny.tree(done.path) == whole
    cost = json.loads(done.cost.read_text())
    assert cost["images"] == 18 and cost["peak_memory_bytes"]["host"] > 0


def test_killed_workers_lose_nothing(tmp_path, whole):
    from ray.util.annotations import RayDeprecationWarning

    graves = tmp_path / "drawing", tmp_path / "judging"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RayDeprecationWarning)
        done = run(tmp_path / "run", Mortal(graves[0]), workers=Workers(2),
                   scorer=MortalScorer(graves[1]))  # fmt: skip
    dead = {int(grave.read_text()) for grave in graves}
    assert len(dead) == 2 and os.getpid() not in dead
    assert tiny.tree(done.path) == whole


@pytest.mark.slow
def test_workers_that_keep_dying_end_the_run_which_can_go_on(tmp_path, whole):
    with pytest.raises(ChildProcessError, match="4 workers died of the same job; run the same c"):
        run(tmp_path / "run", Mortal(tmp_path / "grave", always=True), workers=Workers(2))
    assert tiny.tree(run(tmp_path / "run").path) == whole


@pytest.mark.parametrize("count, gpus, share", [
    (2, 0, 0), (2, 2, 1), (2, 8, 1), (4, 2, 0.5), (3, 2, 0.5), (7, 1, 0.1428), (5, 2, 0.3333),
])  # fmt: skip
def test_every_worker_finds_its_part_of_a_gpu(count, gpus, share):
    """By hand: on each GPU as many parts as it is given workers, never more than a whole."""
    assert Workers(count, gpus=gpus).gpu_share == share
    if gpus:
        assert int(1 / share) * gpus >= count


SHARED = """
import ray, sys, torch
from collections import Counter
from pathlib import Path
from impasto.run.cost import Meter
from impasto.run.directory import RunDirectory
from impasto.run.workers import Workers

class Where:
    def __call__(self, parts, job):
        import time
        time.sleep(0.5)
        return ray.get_runtime_context().get_actor_id(), ray.get_gpu_ids()

ray.init(num_cpus=6, num_gpus=2, include_dashboard=False, log_to_driver=False)
meter = Meter(RunDirectory(sys.argv[1]))
where = dict(map(lambda found: (found[0], tuple(found[1])),
                 Workers(5, gpus=2).each("x", Where(), list(range(40)), None, meter)))
print(sorted(Counter(gpu for gpus in where.values() for gpu in gpus).values()))
try:
    list(Workers(7, gpus=2).each("x", Where(), [1], None, meter))
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_five_workers_share_two_gpus(tmp_path):
    """GPUs that Ray believes in are enough to see who is put where; and nobody waits for ever."""
    done = subprocess.run([sys.executable, "-c", SHARED, tmp_path], capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    shared, refused = done.stdout.splitlines()[-2:]
    assert shared == "[2, 3]", done.stderr
    assert refused.startswith("7 workers need 7 CPUs, the Ray cluster has 6; give fewer workers")


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_and_a_search(tmp_path):
    best = TTSVar(1, FakeSecond(), schedule=(4, 3, 2, 2), cluster=(1,), resample=(2,))
    settings = {"search": best, "sampling": Sampling(steps=4)}
    alone = run(tmp_path / "alone", **settings)
    shared = run(tmp_path / "shared", **settings)
    for path in sorted(shared.images.rglob("*.png"))[3:15]:
        path.unlink()
    shared.results.unlink()
    run(tmp_path / "shared", **settings, workers=Workers(3))
    assert len(list((alone.path / "search").rglob("*.webp"))) == 18
    assert tiny.tree(alone.path) == tiny.tree(shared.path)


@pytest.mark.slow
def test_a_workers_error_is_the_callers(tmp_path):
    with pytest.raises(ValueError, match="height must be a multiple of 8"):
        run(tmp_path / "run", Refusing(), workers=Workers(2))
    assert not (tmp_path / "run/run.json").exists()


@pytest.mark.slow
def test_pictures_from_elsewhere_are_judged_by_workers(tmp_path):
    drawn = run(tmp_path / "drawn")
    damaged = drawn.image(1, 1)
    damaged.write_bytes(b"GIF89a")
    files = []
    for count in (1, 2):
        with pytest.warns(UserWarning, match="left out"):
            done = evaluate_images(tiny.settings(samples=3, names=NAMES), drawn.images,
                                   tmp_path / str(count), batch_size=4, allow_incomplete=True,
                                   workers=Workers(count))  # fmt: skip
        files.append(tiny.tree(done.path))
    assert files[0] == files[1]


@pytest.mark.slow
def test_the_command_lines_workers_build_their_models_from_names(tmp_path):
    command = [sys.executable, "-m", "impasto", "eval", "geneval", "--limit", "2", "--samples",
               "1", "--steps", "1", "--batch-size", "1", "--model", "sticker-mmdit", "--json"]
    for count in ("1", "2"):
        subprocess.run([*command, "--workers", count, "--out", tmp_path / count], check=True)
    assert tiny.tree(tmp_path / "1") == tiny.tree(tmp_path / "2")


@pytest.mark.slow
def test_sigterm_stays_the_callers(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path / "run", workers=Workers(2))
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_ray_one_worker_does_and_more_say_what_to_install(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert tiny.tree(run(tmp_path / "run", workers=Workers(1)).path) == whole
    with pytest.raises(ValueError, match=r"2 workers need Ray: pip install 'impasto\[ray\]'"):
        Workers(2)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Workers(0)
