"""Rows of other people's files: columns that are asked for, and pictures when they are needed.

    FILE.jsonl             an object a line; a picture is the name of a file below the same folder
    FILE.parquet, FOLDER   as the hub keeps data sets; a picture is {"bytes": …}   extra `data`
    OWNER/NAME             such a data set on the hub, fetched once to its cache

Nothing is unpickled and no code of a data set runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor

from impasto.images import decode_image, read_image
from impasto.zoo.hub import fetched

__all__ = ["Row", "Table", "below", "read_rows"]

Row = Mapping[str, Any]


def below(folder: Path, name: str, where: str) -> Path:
    """`folder`/`name`. Raises ValueError for a name that leads out of the folder."""
    pure = PurePosixPath(name)
    foreign = "\\" in name or "\0" in name or PureWindowsPath(name).drive or not name
    if pure.is_absolute() or ".." in pure.parts or foreign:
        raise ValueError(f"{where}: {name!r} is not the name of a file below {folder}")
    return folder / pure


@dataclass
class Table:
    """rows: in the file's order, without their pictures. picture: the column that holds them."""

    rows: list[Row]
    _places: list[tuple[Path, int, str]]
    """Per row the file of its picture, and where in it."""
    picture: str = ""
    _group: tuple[Path, int] | None = field(default=None, init=False)
    _held: list[Any] = field(default_factory=list, init=False)

    def image(self, row: int) -> Tensor:
        """The picture of row number `row`, (3, H, W). Raises ImageError for a damaged one."""
        path, number, name = self._places[row]
        if path.suffix != ".parquet":
            return read_image(path)
        group, place = map(int, name.split("/"))
        if self._group != (path, group):
            column = _parquet(path).read_row_group(group, columns=[self.picture])
            self._held, self._group = column[self.picture].to_pylist(), (path, group)
        held = self._held[place]
        data = held.get("bytes") if isinstance(held, dict) else held
        if not isinstance(data, bytes):
            raise ValueError(f"{path}, row {number}: {self.picture!r} holds no picture's bytes")
        return decode_image(data, f"{path}, row {number}")


def _parquet(path: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError("parquet files need pyarrow: pip install 'impasto[data]'") from error
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are of either kind
        raise ValueError(f"{path} is no parquet file ({error})") from error


def _of_parquet(path: Path, columns: Sequence[str], picture: str
                ) -> Iterator[tuple[Row, tuple[Path, int, str]]]:  # fmt: skip
    file, number = _parquet(path), 0
    _need(file.schema_arrow.names, [*columns, *([picture] if picture else [])], str(path))
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=list(columns)).to_pylist()
        for place, row in enumerate(rows):
            yield row, (path, number, f"{group}/{place}")
            number += 1


def _of_lines(path: Path, columns: Sequence[str], picture: str
              ) -> Iterator[tuple[Row, tuple[Path, int, str]]]:  # fmt: skip
    text = path.read_text(encoding="utf-8").replace("\r\n", "\n").removesuffix("\n")
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where} must be a JSON object, not {line[:40]!r}")
        _need(row, [*columns, *([picture] if picture else [])], where)
        file = below(path.parent, str(row[picture]), where) if picture else path
        yield {key: row[key] for key in columns}, (file, number, "")


def _need(there: Any, wanted: Sequence[str], where: str) -> None:
    if lacking := [key for key in wanted if key not in there]:
        raise ValueError(f"{where} lacks {', '.join(lacking)}; it needs {', '.join(wanted)}")


def read_rows(path: str | Path, columns: Sequence[str], picture: str = "", what: str = "data"
              ) -> Table:  # fmt: skip
    """The columns of a file, of a folder's parquet files, or of a data set on the hub.

    picture: the column of pictures, read one by one when asked for; "" for none. Raises ValueError
    that says what is missing or wrong, FileNotFoundError for no such file.
    """
    found = [pair for file in _files(path, what)
             for pair in (_of_parquet if file.suffix == ".parquet" else _of_lines)(
                 file, columns, picture)]  # fmt: skip
    if not found:
        raise ValueError(f"{path} holds no rows of {what}")
    return Table([row for row, _ in found], [place for _, place in found], picture)


def _files(path: str | Path, what: str) -> list[Path]:
    root = Path(path)
    if not root.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not root.suffix:
        root = fetched(str(path), ["*.parquet"], f"{path} is neither a file or folder here nor "
                       f"{what} to be had from the hub", data=True)  # fmt: skip
    if root.is_dir():
        files = sorted(root.rglob("*.parquet"))
        if not files:
            raise ValueError(f"{root} holds no *.parquet; give the folder, or the file, of {what}")
        return files
    if not root.is_file():
        raise FileNotFoundError(f"{path} is not there; give a .jsonl, a .parquet or a folder of "
                                f"them with {what}, or its id on the hub")  # fmt: skip
    if root.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"{path} is neither .jsonl nor .parquet")
    return [root]
