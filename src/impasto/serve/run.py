"""From the command line's values to a running service."""

from __future__ import annotations

import ipaddress

import uvicorn

from impasto.rewards.source import LocalReward
from impasto.serve.app import make_app
from impasto.serve.limits import Limits

__all__ = ["check_address", "run"]

CONNECTIONS = 1024
"""More at once are told 503."""


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, token: str | None) -> None:
    """Raises ValueError for a service that others can reach and nobody guards."""
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ValueError("the token is empty or holds characters that no header may; give one of "
                         "printable ASCII")  # fmt: skip
    if token is None and not _local(host):
        raise ValueError(f"--host {host} can be reached from other machines; give --token (or "
                         f"IMPASTO_TOKEN) as well, or keep to 127.0.0.1")  # fmt: skip


def run(source: LocalReward, *, host: str, port: int, token: str | None, limits: Limits) -> None:
    """Serve until interrupted; requests that wait are answered before the end.

    Raises OSError where the address is taken: uvicorn itself would only log it.
    """
    config = uvicorn.Config(make_app(source, limits, token), host=host, port=port,
                            log_level="warning", access_log=False, server_header=False,
                            limit_concurrency=CONNECTIONS)  # fmt: skip
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit as end:
        if not server.started:
            raise OSError(f"cannot listen on {host}:{port}; give another --port") from end
        raise
