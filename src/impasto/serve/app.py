"""The service: three ways to look at it, two to ask it.

    GET  /healthz            is it working; needs no token
    GET  /metrics            counters
    GET  /openapi.json       this, for programs
    POST /v1/rewards         JSON, pictures in base64
    POST /v1/rewards/files   multipart, pictures as files
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib.metadata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Form, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from impasto.rewards.source import LocalReward
from impasto.score.reward import check_reward_spec
from impasto.serve import refusal
from impasto.serve.gate import Gate, busy
from impasto.serve.limits import Limits
from impasto.serve.metrics import Metrics
from impasto.serve.refusal import Refusal
from impasto.serve.schema import LINES, Line, ManyRewards, OneReward, Problem, Question
from impasto.serve.worker import Full, Job, Stopped, Worker
from impasto.spec import Spec

__all__ = ["make_app"]

UNFIT = HTTPStatus.UNPROCESSABLE_ENTITY
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 408, 413, 415, 422, 500, 503)
}


def _unfit(error: str, given: object, allowed: str, todo: str) -> Refusal:
    return Refusal(UNFIT, error, given=str(given), allowed=allowed, todo=todo)


def _specs(lines: Sequence[Line], pictures: int, limits: Limits) -> list[Spec]:
    """A spec for each picture. Raises Refusal."""
    if pictures > limits.pictures:
        raise _unfit("too many pictures", pictures, f"{limits.pictures} in a request",
                     "split the request")  # fmt: skip
    if pictures != len(lines):
        raise _unfit("pictures and metadata differ in number",
                     f"{pictures} pictures, {len(lines)} lines", "as many lines as pictures",
                     "give a line for each picture")  # fmt: skip
    specs = [Spec.from_dict(line.values()) for line in lines]
    for i, spec in enumerate(specs):
        try:
            check_reward_spec(spec)
        except ValueError as error:
            raise _unfit("metadata without a reward", f"line {i}: {error}",
                         "lines of GenEval's metadata", "mend the line") from error  # fmt: skip
    return specs


def _bytes(texts: Sequence[str]) -> list[bytes]:
    """The files that base64 texts hold. Raises Refusal."""
    files = []
    for i, text in enumerate(texts):
        try:
            files.append(base64.b64decode(text, validate=True))
        except (binascii.Error, ValueError) as error:
            raise _unfit("not base64", f"picture {i}: {error}", "standard base64, no prefix",
                         "encode the file's bytes") from error  # fmt: skip
    return files


async def _answer(worker: Worker, job: Job) -> ManyRewards:
    """Wait for the job's rewards. Raises Refusal."""
    try:
        rewards = await asyncio.wrap_future(worker.submit(job))
    except Full:
        queue = worker.limits.queue
        raise busy(f"{queue} requests are waiting", f"{queue} requests") from None
    except Stopped:
        raise busy("the service is ending", "requests before that") from None
    except ValueError as error:  # ImageError, and what a scorer says of pictures
        raise _unfit("a picture cannot be rated", error, "PNG, JPEG or WebP that is whole and has "
                     f"a size that the scorer takes; of a request together at most "
                     f"{worker.limits.pixels:,} pixels", "mend or leave out the picture"
                     ) from error  # fmt: skip
    return ManyRewards(rewards=[OneReward(**vars(one)) for one in rewards])


def make_app(source: LocalReward, limits: Limits | None = None, token: str | None = None) -> Any:
    """The service as an ASGI application. `source` has passed its scorer's self-test.

    token: asked of every request but /healthz; None for none.
    """
    limits, metrics = limits or Limits(), Metrics()
    worker = Worker(source, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="impasto rewards", version=importlib.metadata.version("impasto"),
                  summary="GenEval's reward of pictures", docs_url=None, redoc_url=None,
                  lifespan=lifespan)  # fmt: skip
    app.state.worker, app.state.metrics = worker, metrics
    for kind, handler in ((Refusal, refusal.on_refusal), (HTTPException, refusal.on_http),
                          (RequestValidationError, refusal.on_invalid),
                          (Exception, refusal.on_unknown)):  # fmt: skip
        app.add_exception_handler(kind, handler)
    # The gate looks at the token; this is what the document says of it.
    guarded = [Security(HTTPBearer(auto_error=False))] if token else []
    _watch(app, source, guarded)
    _ask(app, limits, guarded)
    app.add_middleware(Gate, limits=limits, token=token, metrics=metrics)
    return app


def _watch(app: FastAPI, source: LocalReward, guarded: list[Any]) -> None:
    """The paths that look at the service."""
    worker, metrics, who = app.state.worker, app.state.metrics, source.provenance()["id"]
    as_json = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    problems: dict[int | str, dict[str, Any]] = {
        status: {"content": as_json, "description": HTTPStatus(status).phrase}
        for status in (401, 408, 413, 503)
    }

    @app.get("/healthz", responses={503: {"description": "the scorer's thread has ended"}})
    async def health() -> JSONResponse:
        """Whether rewards are given: the scorer passed its self-test, its thread runs."""
        body = {"ok": worker.alive, "scorer": who, "self_test": "passed",
                "waiting": worker.waiting}  # fmt: skip
        return JSONResponse(body, 200 if worker.alive else 503)

    @app.get("/metrics", response_class=PlainTextResponse, responses=problems,
             dependencies=guarded)  # fmt: skip
    async def counters() -> str:
        """Counters in Prometheus's text format."""
        return metrics.text(impasto_requests_waiting=worker.waiting)


def _ask(app: FastAPI, limits: Limits, guarded: list[Any]) -> None:
    """The paths that give rewards."""
    worker = app.state.worker

    @app.post("/v1/rewards", responses=PROBLEMS, dependencies=guarded)
    async def rewards(question: Question) -> ManyRewards:
        """Rewards of pictures in base64."""
        specs = _specs(question.metadata, len(question.images), limits)
        job = Job(files=_bytes(question.images), specs=specs, as_published=question.as_published)
        return await _answer(worker, job)

    @app.post("/v1/rewards/files", responses=PROBLEMS, dependencies=guarded)
    async def rewards_of_files(
        images: Annotated[list[UploadFile], Form(min_length=1)],
        metadata: Annotated[str, Form(description="a JSON list of GenEval's metadata, a line "
                                                  "for each picture")],
        as_published: Annotated[bool, Form()] = False,
    ) -> ManyRewards:  # fmt: skip
        """Rewards of pictures as files; their names are not looked at."""
        try:
            lines = LINES.validate_json(metadata)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False)) from error
        specs = _specs(lines, len(images), limits)
        files = [await image.read() for image in images]
        return await _answer(worker, Job(files=files, specs=specs, as_published=as_published))
