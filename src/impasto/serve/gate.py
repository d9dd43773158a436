"""The gate before everything else: who asks, and how much. A body is read only within limits."""

from __future__ import annotations

import asyncio
import hmac
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from impasto.serve.limits import Limits
from impasto.serve.metrics import Metrics
from impasto.serve.refusal import Refusal

__all__ = ["OPEN", "Gate", "busy"]

OPEN = ("/healthz",)
"""Paths that need no token."""


def busy(what: str, allowed: str) -> Refusal:
    """503, with the time after which to try again."""
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "the service is busy", given=what,
                   allowed=allowed, todo="try again after the seconds of Retry-After",
                   headers={"Retry-After": "1"})  # fmt: skip


class _Gone(Exception):
    """The client left before its body had arrived."""


class Gate:
    """ASGI middleware that checks the token and reads the body, or refuses."""

    def __init__(self, app: ASGIApp, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.secret = f"Bearer {token}".encode() if token else None
        self.held = 0
        """Bytes of the bodies of all requests that are being answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = bytearray()
        send = self._counted(scope, send)
        try:
            self._check(scope["path"], Headers(scope=scope))
            await self._read(receive, body)
            await self.app(scope, _replay(bytes(body), receive), send)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        except _Gone:
            pass
        finally:
            self.held -= len(body)

    def _counted(self, scope: Scope, send: Send) -> Send:
        """`send`, which also counts the answer."""

        async def count(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", "other")
                self.metrics.add("impasto_requests_total", path=path, status=message["status"])
            await send(message)

        return count

    def _check(self, path: str, headers: Headers) -> None:
        """Raises Refusal for a wrong token, or a body that says that it is too long."""
        given = headers.get("authorization", "").encode()
        if self.secret and path not in OPEN and not hmac.compare_digest(given, self.secret):
            raise Refusal(HTTPStatus.UNAUTHORIZED, "no token, or a wrong one",
                          given="a wrong Authorization" if given else "no Authorization",
                          allowed="Authorization: Bearer TOKEN",
                          todo="give the token that the service was started with",
                          headers={"WWW-Authenticate": "Bearer"})  # fmt: skip
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.limits.body:
            raise self._too_long(f"{int(length):,}")

    async def _read(self, receive: Receive, body: bytearray) -> None:
        """Read the body within the limits. Raises Refusal, and _Gone."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                while self._more(await receive(), body):
                    pass
        except TimeoutError:
            raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time",
                          given=f"{len(body):,} bytes", allowed=f"{self.limits.seconds} seconds",
                          todo="send fewer pictures in a request") from None  # fmt: skip

    def _more(self, message: Message, body: bytearray) -> bool:
        """Add a part of the body; whether there is more to come."""
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > self.limits.body:
            raise self._too_long(f"more than {len(body):,}")
        if self.held + len(chunk) > self.limits.waiting:
            raise busy(f"{self.held:,} bytes are waiting", f"{self.limits.waiting:,} bytes")
        body += chunk
        self.held += len(chunk)
        return message.get("more_body", False)

    def _too_long(self, given: str) -> Refusal:
        return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large",
                       given=f"{given} bytes", allowed=f"{self.limits.body:,} bytes",
                       todo="send fewer pictures in a request")  # fmt: skip


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever the server says (that the client left)."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again
