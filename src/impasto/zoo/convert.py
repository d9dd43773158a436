"""Foreign checkpoints into folders of ours: what went where is written beside the result.

A converter takes named tensors and a folder, writes a model there and returns the report of its
keys. A key that is missing or left over is refused, except those that the converter itself names
as harmless. OUT appears whole, with `conversion.json`, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.files import new_folder, sha256_file, write_json
from impasto.zoo.cards import hashes
from impasto.zoo.pickles import read_tensors
from impasto.zoo.registry import Registry

__all__ = ["CONVERTERS", "PARTS", "RECORD", "ConversionReport", "Converter", "convert",
           "named"]  # fmt: skip

RECORD = "conversion.json"


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What became of every key.

    source: whose names the file has. loaded: keys of the result that were filled. renamed, split:
    source key -> its key or keys in the result; permuted: source keys whose values changed order.
    dropped: source keys that the result has no use for. missing: keys of the result that nothing
    filled; unexpected: source keys that belong nowhere. allowed: those of them that do not matter.
    """

    source: str
    loaded: tuple[str, ...]
    renamed: Mapping[str, str]
    split: Mapping[str, tuple[str, ...]]
    permuted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    allowed: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raises ValueError that names the keys which are missing or left over."""
        for kind in ("missing", "unexpected"):
            keys = [key for key in getattr(self, kind) if key not in self.allowed]
            if keys:
                raise ValueError(f"{len(keys)} {kind} keys: {named(keys)}; the file is not what "
                                 f"this conversion is for, or not whole")  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"allowed": sorted(self.allowed)}


Converter = Callable[[Mapping[str, Tensor], Path], ConversionReport]
"""(named tensors, folder) -> report; writes the model. Raises ValueError for another's tensors."""

CONVERTERS: Registry[ConversionReport] = Registry("kind of checkpoint")
PARTS: dict[str, str] = {}
"""Kind -> the key of its tensors in a checkpoint that holds those of several networks."""


def named(keys: list[str], most: int = 4) -> str:
    """The first few keys in words."""
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(map(repr, keys[:most])) + rest


def convert(foreign: str | Path, kind: str, out: str | Path) -> ConversionReport:
    """Convert the checkpoint `foreign` by `CONVERTERS[kind]` into the new folder `out`.

    Raises ValueError for an unknown kind, a file that is damaged, hostile or of another model,
    or a folder that is not empty.
    """
    foreign, out = Path(foreign), Path(out)
    converter = CONVERTERS.factory(kind)
    with new_folder(out) as folder:
        tensors = read_tensors(foreign, part=PARTS.get(kind))
        report = _converted(converter, tensors, folder, foreign)
        _write_record(folder, foreign, kind, report)
    return report


def _converted(
    converter: Converter, tensors: Mapping[str, Tensor], folder: Path, foreign: Path
) -> ConversionReport:
    try:
        report = converter(tensors, folder)
        report.check()
    except ValueError as error:
        raise ValueError(f"{foreign}: {error}") from error
    return report


def _write_record(folder: Path, foreign: Path, kind: str, report: ConversionReport) -> None:
    """`conversion.json`: hashes of source and result, library versions, and the keys."""
    write_json(folder / RECORD, {
        "kind": kind, "source": {"name": foreign.name, "sha256": sha256_file(foreign)},
        "result": hashes(folder),
        "versions": {name: version(name) for name in ("impasto", "transformers", "torch")},
        "report": report.to_dict(),
    })  # fmt: skip
