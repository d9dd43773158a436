"""Run by test_run_evaluate.py and test_stack.py: kill at random moments, then finish.

    python -m tests.kill_and_resume FOLDER KILLS [stack]

Forks from one process without threads, so that a run starts in milliseconds. Prints how many of
the runs were really killed on their way.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from impasto.cli import build
from impasto.run.evaluate import evaluate
from impasto.search import NoSearch
from impasto.stack import Tools, load_stack, run_stack
from tests import tiny, tiny_stack
from tests.fakes import FakeGenerator


def run(folder: Path) -> None:
    evaluate(tiny.settings(samples=3), FakeGenerator(), NoSearch(), folder, batch_size=2)


def stack(folder: Path) -> None:
    recipe = load_stack(folder.parent / "recipe.yaml", {"limit": 1, "seeds": [0]})
    run_stack(recipe, Tools(folder, build, batch_size=2))


def prepared(folder: Path) -> None:
    """The stack's recipe, and its fakes by name; before a fork, so that no child does it again."""
    for registry, name, factory in tiny_stack.FACTORIES:
        registry._factories[name] = factory
    (folder / "recipe.yaml").write_text(tiny_stack.RECIPE)
    build.model = lambda text, device: FakeGenerator()  # no import of the real ones
    os.fsync = lambda handle: None  # a killed process takes no written page with it


def forked(work: Callable[[Path], None], folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(folder)
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    torch.set_num_threads(1)
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    work = stack if sys.argv[3:] == ["stack"] else run
    if work is stack:
        prepared(folder)
    start = time.perf_counter()
    assert os.waitpid(forked(work, folder / "whole"), 0)[1] == 0
    whole = time.perf_counter() - start
    rng = random.Random(0)
    killed = 0
    for _ in range(kills):
        child = forked(work, folder / "killed")
        time.sleep(rng.random() * whole / 3)
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    assert os.waitpid(forked(work, folder / "killed"), 0)[1] == 0
    print(killed)


if __name__ == "__main__":
    main()
