"""Steps side by side: what does not need one another is done at once, by several processes.

Small networks leave most of a GPU idle, and a stack of forty trainings and a hundred runs takes
hours one after the other. Each job is a step, or a share of one (`Step.shares`: a run of one model
and seed), done by the step itself into its own folder, where the stack then finds it: this is only
work done before its turn, and what it leaves is what the steps alone would leave.

    OUT/jobs/NAME.log       what a job printed
"""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from importlib import import_module
from math import ceil
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from impasto.stack.base import Done, Step, Tools
from impasto.stack.drawing import slug
from impasto.train import processes

__all__ = ["Job", "do_ahead", "jobs_of"]


@dataclass
class Job:
    """name: of the step, with which share of it. needs: jobs that go before it. ways: how many
    jobs follow it, one after the other."""

    name: str
    step: Step
    needs: tuple[str, ...]
    ways: int = 0


@dataclass(frozen=True)
class _Place:
    """What a process builds its `Tools` from."""

    build: str
    out: Path
    device: str
    batch_size: int
    jobs: int


def jobs_of(steps: tuple[Step, ...]) -> dict[str, Job]:
    """Name -> job, in the recipe's order; of a step that others need the last one, after its
    shares, has the step's name and makes what is used of it."""
    needed = {name for step in steps for name in step.uses}
    found: dict[str, Job] = {}
    for step in steps:
        if not step.ahead or any(name not in found for name in step.uses):
            continue
        shares = {f"{step.name}: {share}" if share else step.name: one
                  for share, one in step.shares().items()}  # fmt: skip
        found |= {name: Job(name, one, tuple(one.uses)) for name, one in shares.items()}
        if step.name in needed and step.name not in shares:
            found[step.name] = Job(step.name, step, (*step.uses, *shares))
    for job in reversed(found.values()):
        for name in job.needs:
            found[name].ways = max(found[name].ways, 1 + job.ways)
    return found


def do_ahead(steps: tuple[Step, ...], tools: Tools, jobs: int) -> None:
    """Do what can be done before its turn, `jobs` at once, each on the GPU with fewest of them.

    A job that finds a GPU's memory taken by the others is done again with half as many at once.
    Raises ValueError together with workers; the first error of a job, once all that does not need
    that job is done; RuntimeError where a process was killed. The same call again goes on.
    """
    if not isinstance(tools.build, ModuleType):
        raise ValueError("jobs are other processes, which build by a module's names; give Tools "
                         "impasto.cli.build, or jobs: 1")  # fmt: skip
    if tools.workers > 1:
        raise ValueError(f"jobs are processes that each draw by themselves; give jobs or workers, "
                         f"not both ({jobs} and {tools.workers})")  # fmt: skip
    todo = jobs_of(steps)
    (tools.out / "jobs").mkdir(parents=True, exist_ok=True)
    devices = _devices(tools.device)
    with contextlib.ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(
            ceil(jobs / len(devices)), mp_context=get_context("spawn"), initializer=_begin,
            initargs=(_Place(tools.build.__name__, tools.out, device, tools.batch_size, jobs),)))
            for device in devices]  # fmt: skip
        _run(todo, pools, tools, jobs)


def _run(
    todo: dict[str, Job], pools: Sequence[ProcessPoolExecutor], tools: Tools, jobs: int
) -> None:
    """pools: one of each GPU."""
    # What nobody waits for and is finished is looked at once, in its turn.
    done = {name: Done() for name, job in todo.items()
            if not job.ways and job.step.finished(tools.out)}  # fmt: skip
    waiting = {name: job for name, job in todo.items() if name not in done}
    failed, error = set[str](), None
    # Its name, how many there might be at once, which pool it is in.
    going: dict[Future[Done], tuple[str, int, int]] = {}
    while waiting or going:
        ready = [job for job in waiting.values() if all(name in done for name in job.needs)]
        # No more than there are processes, so that what has most behind it is always next.
        for job in sorted(ready, key=lambda job: -job.ways)[: max(jobs - len(going), 0)]:
            given = {name: done[name] for name in job.step.uses}
            beside = [sum(i == place for *_, place in going.values()) for i in range(len(pools))]
            free = beside.index(min(beside))
            going[pools[free].submit(_do, job, given)] = job.name, jobs, free
            del waiting[job.name]
        tools.progress("jobs", len(done), len(todo))
        if not going:
            break  # the others need what failed
        for future in wait(going, return_when=FIRST_COMPLETED).done:
            name, might, _ = going.pop(future)
            try:
                done[name] = future.result()
            except Exception as problem:
                if isinstance(problem, torch.OutOfMemoryError) and might > 1:
                    jobs, waiting[name] = min(jobs, might // 2), todo[name]
                    continue
                failed.add(name)
                error = error or problem
    tools.progress("jobs", len(done), len(todo))
    if error is not None:
        names = ", ".join(sorted(failed))
        error.add_note(f"in {names}; {tools.out / 'jobs'} has what each printed; the same command "
                       f"goes on with what is left")  # fmt: skip
        raise error


def _devices(device: str) -> tuple[str, ...]:
    if device != "cuda":
        return (device,)
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


# ------------------------------------------------------------------ in a process


WORKER: dict[str, Tools] = {}
"""The process's own tools."""


def _begin(place: _Place) -> None:
    if place.device.startswith("cuda:"):
        torch.cuda.set_device(place.device)
    build: Any = import_module(place.build)
    processes.share_cores(place.jobs)
    WORKER["tools"] = Tools(place.out, build, place.device, place.batch_size)


def _do(job: Job, given: Mapping[str, Done]) -> Done:
    tools = WORKER["tools"]
    tools.done |= given
    _release(tools)  # what the error of a job that failed here still held
    try:
        with _printing_to(tools.out / "jobs" / f"{slug(job.name)}.log"):
            return replace(job.step.run(tools), table=None)
    finally:
        _release(tools)


def _release(tools: Tools) -> None:
    """Leave the memory that nothing is in to the other processes of this GPU."""
    tools.forget_model()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    with open(path, "a", encoding="utf-8") as log:
        print(f"process {os.getpid()}", file=log)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                yield
            except BaseException:
                traceback.print_exc(file=log)
                raise
