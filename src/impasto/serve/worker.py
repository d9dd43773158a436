"""One thread that owns the scorer: it takes what waits, up to a batch, and rates it at once.

Pictures are decoded here and not before, so that only one batch of them is ever in memory.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from impasto.images import MAX_PIXELS, ImageError, decode_image
from impasto.rewards.source import Rewarder
from impasto.score.reward import Reward
from impasto.serve.limits import Limits
from impasto.serve.metrics import Metrics
from impasto.spec import Spec

__all__ = ["Full", "Job", "Stopped", "Worker"]


class Full(Exception):
    """The queue holds as many requests as it may."""


class Stopped(Exception):
    """The service is ending."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One request: its files as they came, and where its rewards go."""

    files: Sequence[bytes]
    specs: Sequence[Spec]
    as_published: bool
    future: Future[list[Reward]] = field(default_factory=Future)


def _decoded(job: Job, pixels: int) -> list[Tensor]:
    """The job's pictures, of at most `pixels` together. Raises ImageError."""
    pictures: list[Tensor] = []
    for i, data in enumerate(job.files):
        picture = decode_image(data, f"picture {i}", min(pixels, MAX_PIXELS))
        pixels -= picture.shape[1] * picture.shape[2]
        pictures.append(picture)
        if pixels < 1 and i + 1 < len(job.files):
            raise ImageError(f"picture {i + 1}: the ones before it have all the pixels that a "
                             f"request may")  # fmt: skip
    return pictures


class Worker:
    """Rates jobs in the order of their coming; runs from its making until `stop`, and again from
    `start`."""

    def __init__(self, source: Rewarder, limits: Limits, metrics: Metrics) -> None:
        self.source, self.limits, self.metrics = source, limits, metrics
        self._jobs: queue.Queue[Job | None] = queue.Queue(limits.queue)
        self._thread = threading.Thread()
        self.start()

    def start(self) -> None:
        """Start the thread, where it does not run."""
        if not self.alive:
            self._thread = threading.Thread(target=self._run, name="impasto-scorer", daemon=True)
            self._thread.start()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> Future[list[Reward]]:
        """Queue a job. Raises Full, and Stopped."""
        if not self.alive:
            raise Stopped
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise Full from None
        return job.future

    def stop(self) -> None:
        """End after the jobs that are queued now."""
        if self.alive:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            batch: list[tuple[Job, list[Tensor]]] = []
            started = 0.0
            while going and not self._filled(batch):
                try:
                    job = self._jobs.get(block=not batch)
                except queue.Empty:
                    break
                started = started or time.perf_counter()
                going = job is not None
                if job is not None and (pictures := self._open(job)) is not None:
                    batch.append((job, pictures))
            self._rate(batch)
            del batch
            self.metrics.add("impasto_scoring_seconds_total", time.perf_counter() - started)

    def _filled(self, batch: Sequence[tuple[Job, list[Tensor]]]) -> bool:
        pictures = [picture for _, some in batch for picture in some]
        pixels = sum(picture.shape[1] * picture.shape[2] for picture in pictures)
        return len(pictures) >= self.limits.batch or pixels >= self.limits.pixels

    def _open(self, job: Job) -> list[Tensor] | None:
        """The job's pictures; None, and the job is told, where they cannot be read."""
        if not job.future.set_running_or_notify_cancel():
            return None
        try:
            return _decoded(job, self.limits.pixels)
        except Exception as error:
            job.future.set_exception(error)
            return None

    def _rate(self, batch: Sequence[tuple[Job, list[Tensor]]]) -> None:
        for published in (False, True):
            rows = [row for row in batch if row[0].as_published == published]
            if rows and not self._together(rows, published):
                for row in rows:  # one of them is at fault: the others get their answers
                    self._together([row], published)

    def _together(self, rows: Sequence[tuple[Job, list[Tensor]]], published: bool) -> bool:
        """Rate jobs in one call; False when it failed and there is more than one to blame."""
        pictures = [picture for _, some in rows for picture in some]
        specs = [spec for job, _ in rows for spec in job.specs]
        self.metrics.add("impasto_batches_total")
        try:
            rewards = iter(self.source.rate(pictures, specs, as_published=published))
            answers = [[next(rewards) for _ in job.specs] for job, _ in rows]
        except Exception as error:
            if len(rows) > 1:
                return False
            self._failed(rows[0][0], error)
            return True
        self.metrics.add("impasto_pictures_total", len(pictures))
        for (job, _), answer in zip(rows, answers, strict=True):
            job.future.set_result(answer)
        return True

    def _failed(self, job: Job, error: Exception) -> None:
        self.metrics.add("impasto_failures_total")
        if not isinstance(error, ValueError):  # no fault of the request: for the operator to see
            traceback.print_exception(error, file=sys.stderr)
        job.future.set_exception(error)
