"""`impasto serve`: the library over HTTP."""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded

__all__ = ["serve"]

NEEDED = ("fastapi", "uvicorn", "python_multipart")


@guarded
def serve(
    *,
    rewards: Annotated[
        bool, typer.Option("--rewards", help="Serve GenEval's reward of pictures, for trainers.")
    ] = False,
    scorer: Annotated[str, typer.Option(help="Scorer that judges by GenEval's rule.")] = "sticker",
    device: options.Device = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="IMPASTO_TOKEN", help="Ask this of every request (Authorization: "
                                                  "Bearer TOKEN); needed on other hosts than "
                                                  "127.0.0.1."),
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 32 * 2**20,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures in a request.")] = 64,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels of a request's pictures together.")
    ] = 64 * 1024**2,
    max_queue: Annotated[
        int, typer.Option(min=1, help="Requests that wait; more are told 503.")
    ] = 256,
) -> None:  # fmt: skip
    """Answer over HTTP until interrupted; the scorer is self-tested first."""
    if not rewards:
        raise ValueError("nothing to serve; give --rewards")
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ValueError(f"impasto serve needs {', '.join(missing)}: pip install 'impasto[serve]'")
    from impasto.rewards.source import LocalReward
    from impasto.serve.limits import Limits
    from impasto.serve.run import check_address, run

    check_address(host, token)
    limits = Limits(body=max_bytes, waiting=max(16 * max_bytes, 512 * 2**20), queue=max_queue,
                    pictures=max_pictures, pixels=max_pixels)  # fmt: skip
    at = build.device_of(device)
    source = LocalReward(build.scorer(scorer, at))  # type: ignore[arg-type]
    print(f"rewards by {scorer} on {at}: http://{host}:{port}/v1/rewards", file=sys.stderr)
    run(source, host=host, port=port, token=token, limits=limits)
