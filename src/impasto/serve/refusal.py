"""Refusals: what was given, what is allowed, what to do; as JSON, never a traceback."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

__all__ = ["Refusal", "on_http", "on_invalid", "on_refusal", "on_unknown"]

LONGEST = 300
"""Characters of an error that come from the request."""


class Refusal(Exception):
    """A request that is not answered. Its four texts are the answer's body; headers go along."""

    def __init__(
        self, status: int, error: str, *, given: str, allowed: str, todo: str,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(error)
        self.status, self.headers = status, headers or {}
        self.body = {"error": error, "given": given[:LONGEST], "allowed": allowed, "todo": todo}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, self.headers)


def on_refusal(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


def on_invalid(request: Request, error: Exception) -> JSONResponse:
    """A body that does not fit the document."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "the request does not fit",
                   given="; ".join(found), allowed="what /openapi.json describes",
                   todo="mend the fields that are named").response()  # fmt: skip


def on_http(request: Request, error: Exception) -> JSONResponse:
    """Starlette's own refusals: no such path, no such method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    return Refusal(error.status_code, str(error.detail),
                   given=f"{request.method} {request.url.path}",
                   allowed="what /openapi.json describes", todo="see /openapi.json",
                   headers=dict(error.headers or {})).response()  # fmt: skip


def on_unknown(request: Request, error: Exception) -> JSONResponse:
    return Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "the service failed",
                   given=f"{request.method} {request.url.path}", allowed="",
                   todo="see the service's own output; trying again may fail again").response()
