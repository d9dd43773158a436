"""The work of a run shared out among processes by Ray Data, and the GPUs among the processes.

    jobs -> Ray Data, a pool of `count` actors -> (peak memory, result) in any order
    a worker's part of a GPU = 1 / ceil(count / GPUs), at most a whole one

A job is a batch of rows; what comes of a row depends on nothing but the row, so the files are the
same for any number of workers. Workers write pictures themselves, whole or not at all; verdicts
come back and the parent writes them in order. A worker that dies is started anew and its job done
again, which finds the pictures that were finished; a job that `RETRIES` more workers died of stops
the run, and the same command goes on. On several hosts the run's folder must be on a shared file
system.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from impasto.run.cost import Meter, peak_memory

__all__ = ["Parts", "Task", "Workers"]

RETRIES = 3
PARTS = 10_000
"""Ray counts ten-thousandths of a GPU."""

Parts = Callable[[str], Any]
"""Builds, in a worker, the objects of a role: "makers" is (generator, search), "judges" is
(scorer, second scorer)."""
Task = Callable[[Any, Any], Any]
"""(what `Parts` built, a job) -> its result; both ways by pickle."""


@dataclass(frozen=True)
class Workers:
    """How many processes draw and judge; 1 is the caller's own.

    make: builds what is needed in each worker; None sends the caller's own objects there. gpus:
    how many GPUs to share out; with more workers than GPUs several share one, and its memory: all
    their models must fit there beside each other. Raises ValueError for a count below 1, or above
    when Ray is not installed.
    """

    count: int = 1
    make: Parts | None = None
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"the number of workers must be at least 1, got {self.count}")
        if self.several and importlib.util.find_spec("ray") is None:
            raise ValueError(f"{self.count} workers need Ray: pip install 'impasto[ray]', or "
                             f"leave the number of workers at 1")  # fmt: skip

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def gpu_share(self) -> float:
        """A worker's part of a GPU, such that all find their place: 3 on 2 GPUs get a half each,
        not two thirds, of which one would never fit."""
        if self.gpus == 0:
            return 0.0
        return PARTS // math.ceil(self.count / self.gpus) / PARTS

    def each(
        self, role: str, task: Task, jobs: Sequence[Any], own: Any, meter: Meter
    ) -> Iterator[Any]:
        """The results of `jobs`, as they come. own: the role's objects, for want of `make`.

        Raises what the task raised, and ChildProcessError when workers keep dying.
        """
        ray = _started(self.count)
        self._check(ray.cluster_resources())
        rows = [{"number": i, "job": pickle.dumps(job)} for i, job in enumerate(jobs)]
        size = min(self.count, len(rows))
        make = partial(self.make, role) if self.make else partial(_same, own)
        tally = ray.remote(num_cpus=0)(_Tally).remote()
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker, fn_constructor_args=(make, task, tally, torch.get_num_threads()),
            compute=ray.data.ActorPoolStrategy(size=size), num_cpus=1, num_gpus=self.gpu_share,
        )  # fmt: skip
        try:
            for row in data.iter_rows():
                peak, result = pickle.loads(row["result"])
                meter.seen(peak)
                yield _raised(result)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise ChildProcessError(f"workers died, again and again ({reason}); run the same "
                                    f"command again to go on") from error  # fmt: skip


    def _check(self, there: Mapping[str, float]) -> None:
        """Raises ValueError for a cluster where some worker would wait for ever."""
        for what, needed in (("CPU", self.count), ("GPU", self.gpus)):
            if there.get(what, 0) < needed:
                raise ValueError(f"{self.count} workers need {needed} {what}s, the Ray cluster "
                                 f"has {there.get(what, 0):g}; give fewer workers, or start it "
                                 f"with more")  # fmt: skip


class _Tally:
    """How often each job was begun; an actor, so that it outlives the workers."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, job: int) -> int:
        self.begun[job] += 1
        return self.begun[job]


@dataclass(frozen=True)
class _Failure:
    """An exception on its way home."""

    error: Exception


class _Worker:
    """An actor of Ray Data: builds its parts at its first job.

    Ray Data starts a worker that died anew, and its job, for ever; the tally bounds it.
    """

    def __init__(self, make: Callable[[], Any], task: Task, tally: Any, threads: int) -> None:
        torch.set_num_threads(threads)  # the bytes of a CPU are those of a number of threads
        self.make, self.task, self.tally, self.parts = make, task, tally, None

    def __call__(self, row: dict[str, Any]) -> dict[str, bytes]:
        import ray

        try:
            if ray.get(self.tally.begin.remote(int(row["number"]))) > RETRIES + 1:
                raise ChildProcessError(f"{RETRIES + 1} workers died of the same job; run the "
                                        f"same command again to go on")  # fmt: skip
            if self.parts is None:
                self.parts = self.make()
            result = self.task(self.parts, pickle.loads(row["job"]))
        except Exception as error:
            result = _Failure(error)
        return {"result": pickle.dumps((peak_memory(), result))}


def _same(parts: Any) -> Any:
    return parts


def _raised(result: Any) -> Any:
    if isinstance(result, _Failure):
        raise result.error
    return result


def _started(count: int) -> Any:
    """Ray, running: the cluster of RAY_ADDRESS where there is one, else one of our own."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        own: dict[str, Any] = {}
        if "RAY_ADDRESS" not in os.environ:
            own = {"num_cpus": max(count + 1, os.cpu_count() or 1), "include_dashboard": False}
        with _own_sigterm():
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **own)
    return ray


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the caller's way to end on SIGTERM: `ray.init` puts its own in its place."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, ours)
