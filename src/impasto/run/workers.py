"""The work of a run shared out among processes by Ray Data, a GPU each where there are several.

    jobs -> Ray Data, a pool of `count` actors -> (peak memory, result) in any order

A job is a batch of rows; what comes of a row depends on nothing but the row, so the files are the
same for any number of workers. Workers write pictures themselves, whole or not at all; verdicts
come back and the parent writes them in order. A worker that dies is started anew and its job done
again, which finds the pictures that were finished; after `RETRIES` deaths in a row the run stops,
and the same command goes on. On several hosts the run's folder must be on a shared file system.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from impasto.run.cost import Meter, peak_memory

__all__ = ["Parts", "Task", "Workers"]

RETRIES = 3

Parts = Callable[[str], Any]
"""Builds, in a worker, the objects of a role: "makers" is (generator, search), "judges" is
(scorer, second scorer)."""
Task = Callable[[Any, Any], Any]
"""(what `Parts` built, a job) -> its result; both ways by pickle."""


@dataclass(frozen=True)
class Workers:
    """How many processes draw and judge; 1 is the caller's own.

    make: builds what is needed in each worker; None sends the caller's own objects there. gpus:
    how many GPUs to share out. Raises ValueError for a count below 1, or above when Ray is not
    installed.
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

    def each(
        self, role: str, task: Task, jobs: Sequence[Any], own: Any, meter: Meter
    ) -> Iterator[Any]:
        """The results of `jobs`, as they come. own: the role's objects, for want of `make`.

        Raises what the task raised, and ChildProcessError when workers keep dying.
        """
        ray = _started(self.count)
        rows = [{"job": pickle.dumps(job)} for job in jobs]
        size = min(self.count, len(rows))
        make = partial(self.make, role) if self.make else partial(_same, own)
        data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            _Worker, fn_constructor_args=(make, task, torch.get_num_threads()),
            compute=ray.data.ActorPoolStrategy(size=size), num_cpus=1,
            num_gpus=min(1.0, self.gpus / self.count),
            ray_remote_args_fn=_bounded,
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


@dataclass(frozen=True)
class _Failure:
    """An exception on its way home."""

    error: Exception


class _Worker:
    """An actor of Ray Data: builds its parts at its first job."""

    def __init__(self, make: Callable[[], Any], task: Task, threads: int) -> None:
        torch.set_num_threads(threads)  # the bytes of a CPU are those of a number of threads
        self.make, self.task, self.parts = make, task, None

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            if self.parts is None:
                self.parts = self.make()
            result = self.task(self.parts, pickle.loads(row["job"]))
        except Exception as error:
            result = _Failure(error)
        return {"result": pickle.dumps((peak_memory(), result))}


def _bounded() -> dict[str, Any]:
    """Ray Data's own default is to start a worker anew for ever."""
    return {"max_restarts": RETRIES, "max_task_retries": RETRIES}


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
