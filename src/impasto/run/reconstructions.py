"""Reconstruction runs as they are read again, and their differences, picture by picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from impasto.bench.base import IncompleteError
from impasto.bench.reconstruction_summary import MEANS, mean_interval
from impasto.run.directory import RunDirectory, read_json

__all__ = ["KIND", "Reconstructed", "differences", "read_reconstructions"]

KIND = "reconstruction"
"""What run.json calls such a run."""
SAME = ("pictures", "frame", "ssim")
"""What two runs must share for a difference to be the tokenizers'."""


@dataclass(frozen=True)
class Reconstructed:
    """One finished run. label: its name beside the others. record, summary, cost: its `run.json`,
    `summary.json` and `cost.json`. lines: pictures.jsonl. shown: why pictures are on the page ->
    their places. codes: codes.json, None without ids."""

    folder: RunDirectory
    label: str
    record: dict[str, Any]
    summary: dict[str, Any]
    cost: dict[str, Any]
    lines: tuple[dict[str, Any], ...]
    shown: dict[str, list[int]]
    codes: dict[str, Any] | None


def _labels(folders: Sequence[RunDirectory]) -> list[str]:
    """The tokenizers' names; where one is there twice, with the folder's."""
    names = [str(folder.record["model"]["name"]) for folder in folders]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} · {folder.path.resolve().name}"
            for name, folder in zip(names, folders, strict=True)]  # fmt: skip


def _read(folder: RunDirectory, label: str) -> Reconstructed:
    path = folder.path
    if not folder.summary.is_file():
        raise IncompleteError(0, 1, [str(folder.summary)], what=f"summary of {path}")
    if not (path / "shown.json").is_file():
        raise ValueError(f"{path} is from before there was a page of reconstructions; measure "
                         f"again into another folder")  # fmt: skip
    text = (path / "pictures.jsonl").read_text(encoding="utf-8")
    codes = path / "codes.json"
    return Reconstructed(
        folder, label, folder.record, read_json(folder.summary), read_json(folder.cost),
        tuple(json.loads(line) for line in text.splitlines()), read_json(path / "shown.json"),
        read_json(codes) if codes.is_file() else None,
    )  # fmt: skip


def read_reconstructions(
    paths: Sequence[Path], labels: Sequence[str] | None = None
) -> list[Reconstructed]:
    """The runs, the first the base. labels: what they are called; default their tokenizers' names.

    Raises ValueError for folders that are no reconstruction runs and for runs of other pictures
    than the first, IncompleteError for unfinished ones.
    """
    folders = [RunDirectory.existing(path) for path in paths]
    for folder in folders:
        if (kind := folder.record.get("kind")) != KIND:
            raise ValueError(f"{folder.path} holds a run of kind {kind!r}, not {KIND!r}; compare "
                             f"runs of one kind")  # fmt: skip
    base = folders[0].record
    for folder in folders[1:]:
        if differ := [key for key in SAME if folder.record.get(key) != base.get(key)]:
            raise ValueError(f"{folder.path} and {folders[0].path} differ in "
                             f"{', '.join(differ)}; compare runs of the same pictures, cut and "
                             f"measured alike")  # fmt: skip
    labels = _labels(folders) if labels is None else labels
    return [_read(folder, label) for folder, label in zip(folders, labels, strict=True)]


def _values(run: Reconstructed, key: str) -> list[float | None]:
    """A measure of each picture; None of one that has no number. "kept": of a verdict that was
    right, whether it still is."""
    if key == "kept":
        return [float(line["after"]) if line["before"] else None for line in run.lines]
    return [line[key] for line in run.lines]


def differences(base: Reconstructed, run: Reconstructed) -> Mapping[str, dict[str, float]]:
    """Measure -> {"value", "low", "high"} of run minus base, mean over the pictures that both
    have a number of, 95 % by bootstrap over pictures; one picture alone has no interval."""
    keys = [key for key in base.lines[0] if key == "psnr" or key.startswith(MEANS)]
    if "before" in base.lines[0] and base.record["scorer"] == run.record["scorer"]:
        keys.append("kept")
    found = {}
    for key in keys:
        if key != "kept" and key not in run.lines[0]:
            continue
        pairs = [(a, b) for a, b in zip(_values(base, key), _values(run, key), strict=True)
                 if a is not None and b is not None]  # fmt: skip
        if pairs:
            found[key] = mean_interval(torch.tensor([b - a for a, b in pairs]))
    return found
