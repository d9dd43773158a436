"""Any OpenAI-compatible server as a judge: vLLM, SGLang, transformers serve, or a provider.

Pictures go as data URLs, PNG or JPEG (quality 75, as GenEval++ and Imagine-Bench send them),
before the text or, where the question says so, after it. Temperature 0. Failures of the network
are tried again a bounded number of times by the client. Probabilities come from the 20 most likely
first tokens; what is below them counts as 0, so p is a lower bound (at most the mass outside the
20 too low).
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from impasto.images import to_pil
from impasto.score.judges.base import Judge, NoProbabilities, Question, Unanswered
from impasto.score.judges.prompts import defused

__all__ = ["EndpointJudge", "data_url"]

TOP = 20
"""The protocol's most."""
FORMATS: dict[str, dict[str, Any]] = {"png": {"format": "PNG"},
                                      "jpeg": {"format": "JPEG", "quality": 75}}  # fmt: skip


def data_url(image: Tensor, form: str = "png") -> str:
    """A picture (3, H, W) as "data:image/png;base64,…". form: "png" or "jpeg"."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, **FORMATS[form])
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"


class EndpointJudge(Judge):
    """url: up to and with "/v1". model: as the server calls it. form: of pictures.

    The key is the environment's OPENAI_API_KEY where `key` is not given. retries: further tries
    after a network failure or a 429 or 5xx answer. Raises ValueError without the extra `judge`,
    and for another form.
    """

    def __init__(self, url: str, model: str, *, key: str | None = None, form: str = "png",
                 retries: int = 3, timeout: float = 120.0) -> None:  # fmt: skip
        if form not in FORMATS:
            raise ValueError(f"pictures can be sent as {', '.join(FORMATS)}, not {form!r}")
        try:
            import openai
        except ImportError as error:
            raise ValueError("a judge behind a server needs the openai client: "
                             "pip install 'impasto[judge]'") from error  # fmt: skip
        self.url, self.model, self.form = url, model, form
        self._openai = openai
        self._client = openai.OpenAI(base_url=url, api_key=key or _key(), max_retries=retries,
                                     timeout=timeout)  # fmt: skip

    def _turns(self, question: Question) -> Any:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(image, self.form)}}
            for image in question.images
        ]
        place = 0 if question.text_first else len(content)
        content.insert(place, {"type": "text", "text": defused(question.text)})
        system = [{"role": "system", "content": defused(question.system)}]
        return [*(system if question.system else []), {"role": "user", "content": content}]

    def _choice(self, question: Question, **options: Any) -> Any:
        try:
            reply = self._client.chat.completions.create(
                model=self.model, messages=self._turns(question), temperature=0, **options
            )
        except self._openai.OpenAIError as error:
            raise Unanswered(f"{self.model} at {self.url}: {error}") from error
        if not reply.choices:
            raise Unanswered(f"{self.model} at {self.url} sent no answer")
        return reply.choices[0]

    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        text = self._choice(question, max_tokens=max_tokens).message.content
        if not isinstance(text, str):
            raise Unanswered(f"{self.model} at {self.url} answered without words")
        return text

    def probability(
        self, question: Question, variants: Sequence[str], deduplicate: bool = True
    ) -> float:
        """The sum over those of the 20 tokens that are a variant; each token counts once.

        Raises NoProbabilities where the server gives none, or for deduplicate=False.
        """
        if not deduplicate:
            raise NoProbabilities("a server's tokens cannot be counted twice; official Soft-TIFA "
                                  "sums need a local judge")  # fmt: skip
        choice = self._choice(question, max_tokens=1, logprobs=True, top_logprobs=TOP)
        found = getattr(choice.logprobs, "content", None)
        if not found or not found[0].top_logprobs:
            raise NoProbabilities(f"{self.model} at {self.url} gives no log-probabilities; ask it "
                                  f"for words, or take a server that does")  # fmt: skip
        top = {one.token: one.logprob for one in found[0].top_logprobs}
        return sum(math.exp(top[v]) for v in dict.fromkeys(variants) if v in top)

    def provenance(self) -> dict[str, Any]:
        return {"id": self.model, "sha256": None, "kind": "endpoint", "url": self.url,
                "decoding": "temperature 0", "pictures": FORMATS[self.form]}  # fmt: skip


def _key() -> str:
    import os

    return os.environ.get("OPENAI_API_KEY", "none")
