"""The client of `impasto serve --rewards`: PNG in JSON, bounded retries, no pickle."""

from __future__ import annotations

import base64
import http.client
import json
import math
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from impasto.images import png_bytes
from impasto.score.reward import Reward
from impasto.spec import Spec

__all__ = ["RemoteReward", "ServerError"]

BUSY = (429, 503)
LONGEST_PAUSE = 30.0


class ServerError(RuntimeError):
    """The reward service refused, failed or cannot be reached; no reward is made up instead."""


class RemoteReward:
    """Rewards from the service at `url` ("http://127.0.0.1:8000").

    token: the service's. timeout: seconds for one answer. tries: of a request that finds the
    service busy or away, with pauses that double. batch: pictures in a request.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout: float = 120.0, tries: int = 5,
        batch: int = 32,
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url {url!r} is no address of a service; give one like "
                             f"http://127.0.0.1:8000")  # fmt: skip
        if tries < 1 or batch < 1:
            raise ValueError(f"tries {tries} and batch {batch} are numbers from 1 on")
        self.url, self._parts = url, parts
        self.timeout, self.tries, self.batch = timeout, tries, batch
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def rate(
        self, images: Sequence[Tensor], specs: Sequence[Spec], *, as_published: bool = False
    ) -> list[Reward]:
        """The rewards of picture i by spec i. Raises ServerError."""
        if len(images) != len(specs):
            raise ValueError(f"{len(images)} pictures for {len(specs)} specs; give one for each")
        rewards: list[Reward] = []
        for start in range(0, len(images), self.batch):
            rows = slice(start, start + self.batch)
            body = {"images": [base64.b64encode(png_bytes(i)).decode() for i in images[rows]],
                    "metadata": [spec.to_dict() for spec in specs[rows]],
                    "as_published": as_published}  # fmt: skip
            rewards += self._read(self._ask(json.dumps(body).encode()), len(specs[rows]))
        return rewards

    def _read(self, text: str, number: int) -> list[Reward]:
        """The rewards that an answer holds. Raises ServerError for another number of them, or
        anything that is none: a reward is never invented."""
        try:
            rewards = [Reward(**one) for one in json.loads(text)["rewards"]]
            numbers = [(one.score, one.accuracy, one.strict_accuracy) for one in rewards]
            fits = len(rewards) == number and all(map(math.isfinite, chain(*numbers)))
        except (ValueError, KeyError, TypeError):
            fits = False
        if not fits:
            raise ServerError(f"the reward service {self.url} answered without {number} rewards: "
                              f"{text[:200]!r}")  # fmt: skip
        return rewards

    def _ask(self, body: bytes) -> str:
        """The first good answer."""
        pause = 0.5
        for left in reversed(range(self.tries)):
            try:
                status, headers, text = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                why, wait = f"cannot be reached ({error or type(error).__name__})", pause
            else:
                if status == http.HTTPStatus.OK:
                    return text
                why, wait = f"answered {status}: {text[:500]}", _seconds(headers, pause)
                if status not in BUSY:
                    break
            if left:
                time.sleep(min(wait, LONGEST_PAUSE))
                pause *= 2
        raise ServerError(f"the reward service {self.url} {why}")

    def _post(self, body: bytes) -> tuple[int, Any, str]:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.timeout)
        try:
            path = self._parts.path.rstrip("/") + "/v1/rewards"
            connection.request("POST", path, body, self._headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode(errors="replace")
        finally:
            connection.close()


def _seconds(headers: Any, default: float) -> float:
    """How long the service asks to wait."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else default
