"""What a result must be stored with: the part of a run that decides its pictures and scores.

The record goes into `run.json`, has the same bytes for the same settings, and a resume must match
it key by key. What differs from one execution to the next (seconds, memory) is in `cost.json`.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from impasto.sample.protocol import Sampling

__all__ = ["SettingsDiffer", "check_same", "default_folder", "differing", "normal", "resolved",
           "settings_hash", "versions"]  # fmt: skip

LIBRARIES = ("impasto", "torch", "diffusers", "transformers", "numpy", "pillow")


class SettingsDiffer(ValueError):
    """A folder holds a run with other settings than those asked for."""


def versions() -> dict[str, str]:
    """Version of Python and of each library that can change a picture or a score."""
    return {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES}


def _version(name: str) -> str:
    """A library's version; a source tree that is used without being installed has none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def normal(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it reads back from its file: tuples as lists. Raises ValueError for NaN."""
    return json.loads(json.dumps(record, allow_nan=False))


def resolved(sampling: Sampling, model: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a draw with the model's defaults filled in; None where it tells none.

    Raises ValueError for a setting that is NaN or infinite.
    """
    settings = asdict(sampling)
    for key, value in settings.items():
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{key} must be a finite number, got {value}")
    defaults = model.get("defaults", {})
    return {key: defaults.get(key) if value is None else value for key, value in settings.items()}


def settings_hash(record: Mapping[str, Any]) -> str:
    """Eight hex digits that name a record: the same settings always get the same folder."""
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def default_folder(kind: str, record: Mapping[str, Any]) -> Path:
    """Where a run goes unless told: the same settings always find their own folder again."""
    return Path("runs") / f"{kind}-{settings_hash(record)}"


def differing(
    old: Any, new: Any, key: str = "", skip: frozenset[str] = frozenset()
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) for every leaf that differs; None where absent."""
    if key in skip:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            yield from differing(old.get(name), new.get(name), inner, skip)
    elif old != new:
        yield key, old, new


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: object) -> None:
    """Raises SettingsDiffer naming each differing key with both values."""
    found = list(differing(old, new))
    if not found:
        return
    lines = [f"  {key}: {_short(a)} in the folder, {_short(b)} now" for key, a, b in found[:8]]
    if len(found) > 8:
        lines.append(f"  and {len(found) - 8} more")
    raise SettingsDiffer(f"{folder} holds a run with other settings; choose another folder, "
                         "delete this one, or repeat its own settings to resume it:\n"
                         + "\n".join(lines))  # fmt: skip


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"
