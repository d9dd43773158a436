"""An OpenAI-compatible image API as a `Generator`: POST {base_url}/images/generations.

    openai-images:base_url=http://localhost:8000/v1,model=sd3.5

Pictures come as base64 only; an address in an answer is never fetched. The key is read from the
environment variable OPENAI_API_KEY when a request is sent and is kept nowhere. One picture a
request, several requests at a time; a server that is busy or gone is asked again a few times.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor

from impasto.images import decode_image
from impasto.sample.opaque import OpaqueGenerator
from impasto.sample.protocol import Sampling
from impasto.zoo.registry import MODELS

__all__ = ["ImageAPI", "ServerError", "openai_images"]

BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Answers after which the same request may succeed."""
LONGEST_WAIT = 30.0
SEEDS = 2**31
"""Seeds are sent modulo this: the range that every server takes."""


class ServerError(ValueError):
    """The server refused, or did not answer as the API says."""


class ImageAPI(OpaqueGenerator):
    """Pictures from a server. A request's settings are its size, and its seed where it takes one.

    seeded: send each row's seed; with a server that refuses seeds give False, and the record says
    that the pictures cannot be drawn again. ask_base64: send response_format, which some servers
    that give nothing but base64 refuse. concurrency: requests at a time. tries: of a request,
    waiting `pause` seconds before the second and twice as long before each further one, or as the
    server says. timeout: seconds for an answer.
    """

    def __init__(
        self, base_url: str, model: str, *, seeded: bool = True, ask_base64: bool = True,
        concurrency: int = 4, tries: int = 4, pause: float = 1.0, timeout: float = 300.0,
    ) -> None:  # fmt: skip
        _check_url(base_url)
        if concurrency < 1 or tries < 1:
            raise ValueError(f"concurrency and tries must be at least 1, given {concurrency} and "
                             f"{tries}")  # fmt: skip
        self.base_url, self.model = base_url.rstrip("/"), model
        self.seeded, self.ask_base64 = seeded, ask_base64
        self.concurrency, self.tries, self.pause, self.timeout = concurrency, tries, pause, timeout
        self.name = f"{model!r} at {self.base_url}"

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError: the API knows a size and nothing else of ours."""
        for key in ("steps", "guidance"):
            if getattr(sampling, key) is not None:
                raise ValueError(f"{self.name}: the image API has no setting {key}")
        if (sampling.height is None) != (sampling.width is None):
            raise ValueError(f"{self.name}: give height and width together, or neither")

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> tuple[Tensor, float]:
        """The pictures; what they cost the server in FLOPs is not known, and counts as 0."""
        bodies = [self._body(p, s, sampling) for p, s in zip(prompts, seeds, strict=True)]
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:
            images = list(pool.map(partial(self._picture, client), bodies))
        sizes = {tuple(image.shape[1:]) for image in images}
        if len(sizes) > 1:
            raise ServerError(f"{self.name} gave pictures of several sizes, {sorted(sizes)}; ask "
                              f"for one with height and width")  # fmt: skip
        return torch.stack(images), 0.0

    def _body(self, prompt: str, seed: int, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "prompt": prompt, "n": 1}
        if self.ask_base64:
            body["response_format"] = "b64_json"
        if sampling.height is not None:
            body["size"] = f"{sampling.width}x{sampling.height}"
        if self.seeded:
            body["seed"] = seed % SEEDS
        return body

    def _client(self) -> Any:
        try:
            import httpx
        except ImportError as error:
            raise ValueError("an image API needs httpx: pip install 'impasto[api]'") from error
        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(headers=headers, timeout=self.timeout, follow_redirects=False)

    def _picture(self, client: Any, body: dict[str, Any]) -> Tensor:
        """One picture, (3, H, W)."""
        answer = self._answer(client, body)
        try:
            data = base64.b64decode(answer.json()["data"][0]["b64_json"], validate=True)
        except (ValueError, KeyError, IndexError, TypeError, binascii.Error) as error:
            raise ServerError(f"{self.name} answered without a picture in data[0].b64_json: "
                              f"{answer.text[:200]!r}") from error  # fmt: skip
        return decode_image(data, f"the answer of {self.name} to {body['prompt']!r}")

    def _answer(self, client: Any, body: dict[str, Any]) -> Any:
        """The first good answer. Raises ServerError for a refusal, or after the last try."""
        import httpx

        said = ""
        for number in range(self.tries):
            wait = self.pause * 2**number
            try:
                answer = client.post(f"{self.base_url}/images/generations", json=body)
            except httpx.TransportError as error:
                said = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code == 200:
                    return answer
                said = f"status {answer.status_code}: {answer.text[:200]}"
                if answer.status_code not in BUSY:
                    raise ServerError(f"{self.name} refused {body['prompt']!r}, {said}"
                                      f"{self._advice(answer.text)}")  # fmt: skip
                wait = _retry_after(answer.headers.get("retry-after"), wait)
            if number + 1 < self.tries:
                time.sleep(min(wait, LONGEST_WAIT))
        raise ServerError(f"{self.name} failed {self.tries} times, last with {said}; run the same "
                          f"command again to go on")  # fmt: skip

    def _advice(self, text: str) -> str:
        if self.ask_base64 and "response_format" in text:
            return "; give ask_base64=false"
        if self.seeded and "seed" in text.lower():
            return "; give seeded=false, and the record says that nothing can be drawn again"
        return ""

    def provenance(self) -> dict[str, Any]:
        """Address, model and whether seeds were sent; the weights are the server's secret."""
        return {"id": self.model, "base_url": self.base_url, "sha256": None, "sampler": None,
                "dtype": None, "device": "server", "seeded": self.seeded,
                "seed_modulus": SEEDS if self.seeded else None, "preview": False,
                "flops_known": False, "defaults": {}}  # fmt: skip


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be http://HOST/v1 or https://HOST/v1, given {url!r}")
    if parts.username or parts.password or parts.query:
        raise ValueError("base_url is written into records: it may hold no user, password or "
                         "query; the key comes from OPENAI_API_KEY")  # fmt: skip


def _retry_after(header: str | None, otherwise: float) -> float:
    """The seconds that a server asks for."""
    return float(header) if header is not None and header.isdecimal() else otherwise


@MODELS.register("openai-images")
def openai_images(
    *, base_url: str, model: str, seeded: bool = True, ask_base64: bool = True,
    concurrency: int = 4,
    torch_dtype: torch.dtype | str = torch.float32, device: torch.device | str = "cpu",
) -> ImageAPI:  # fmt: skip
    """An OpenAI-compatible image API; base_url=…, model=…, seeded=false where it takes no seed."""
    return ImageAPI(str(base_url), str(model), seeded=seeded, ask_base64=ask_base64,
                    concurrency=concurrency)  # fmt: skip
