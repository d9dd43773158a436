"""`impasto doctor`: is this installation whole, and what is on this machine."""

from __future__ import annotations

import json
import platform
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded

__all__ = ["doctor"]

NEEDED_DISK = 2**30
"""Bytes that a run of all 553 x 4 small pictures and its report cannot exceed."""

Check = tuple[str, Callable[[], str]]


@guarded
def doctor(
    *,
    scorer: Annotated[str, typer.Option(help="Scorer whose self-test is run.")] = "sticker",
    as_json: options.Json = False,
) -> None:
    """Check versions, device, weights, drawings, scorer and disk; exit code 1 on any fault."""
    rows = []
    for name, check in _checks(scorer):
        try:
            row = {"check": name, "ok": True, "detail": check()}
        # A doctor reports whatever goes wrong in a check, and goes on with the next one.
        except Exception as error:
            row = {"check": name, "ok": False, "detail": str(error) or type(error).__name__}
        rows.append(row)
        if not as_json:
            print(f"{'ok   ' if row['ok'] else 'FAULT'}  {name}: {row['detail']}", flush=True)
    whole = all(row["ok"] for row in rows)
    if as_json:
        print(json.dumps({"ok": whole, "checks": rows}, indent=2, ensure_ascii=False))
    if not whole:
        raise typer.Exit(1)


def _checks(scorer: str) -> Iterator[Check]:
    yield "python", _python
    for text in requires("impasto") or ():
        if "extra ==" not in text:
            yield text.split(">")[0], partial(_library, text)
    yield from _extras()
    yield "device", _device
    yield from _weights()
    yield "drawings", _drawings
    yield f"scorer {scorer}", partial(_self_test, scorer)
    yield "disk", _disk


def _python() -> str:
    return platform.python_version()


def _extras() -> Iterator[Check]:
    """What an extra brings is no fault where it is not there; an old version is."""
    for text in requires("impasto") or ():
        requirement, _, extra = text.partition("; extra == ")
        extra = extra.strip("\"'")
        if extra and extra != "test":
            yield re.split(r"[\[>=<]", requirement)[0], partial(_optional, requirement, extra)


def _optional(text: str, extra: str) -> str:
    try:
        return f"{_library(text)} ({extra})"
    except PackageNotFoundError:
        return f"not installed; pip install 'impasto[{extra}]'"


def _library(text: str) -> str:
    """The installed version of a requirement such as "torch>=2.10"."""
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    there = version(requirement.name)
    if not requirement.specifier.contains(there, prereleases=True):
        raise RuntimeError(f"{there} does not meet {requirement.specifier}: pip install "
                           f"'{requirement}'")  # fmt: skip
    return there


def _device() -> str:
    import torch

    from impasto.report.words import size

    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU, {size(torch.get_num_threads(), 'thread')}"


def _weights() -> Iterator[Check]:
    import impasto
    from impasto.files import sha256_file

    folder = Path(impasto.__path__[0]) / "weights"
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        yield "weights", partial(_missing, folder)
    for path in files:
        yield f"weights {path.relative_to(folder)}", partial(sha256_file, path)


def _missing(folder: Path) -> str:
    raise FileNotFoundError(f"no weights in {folder}; reinstall impasto")


def _drawings() -> str:
    from impasto.world import Sprites

    Sprites.load()
    return "all drawn"


def _self_test(name: str) -> str:
    build.scorer(name, "cpu").self_test()
    return "self-test passed"


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free
    if free < NEEDED_DISK:
        raise RuntimeError(f"only {free / 2**30:.1f} GiB free in {Path.cwd()}")
    return f"{free / 2**30:.1f} GiB free in {Path.cwd()}"
