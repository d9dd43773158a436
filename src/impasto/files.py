"""Files that are whole or absent: atomic writes, hashes, and a lock against a second writer.

    temporary sibling -> write -> fsync -> rename -> fsync of the folder

A crash, a kill, Ctrl-C or a full disk leaves either the old file or the new one under the final
name. Leftover temporary files are named `.NAME.RANDOM.tmp`; `sweep` removes them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "LockedError",
    "StorageError",
    "json_text",
    "lock",
    "new_folder",
    "publish",
    "replacing",
    "sha256_file",
    "sweep",
    "write_bytes",
    "write_json",
    "write_text",
]

ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the file system; choose a shorter one",
}
"""What to do about the failures that a user can mend."""


class StorageError(OSError):
    """A file could not be written; the message names it and says what to do."""


class LockedError(StorageError):
    """Another process writes to the folder."""


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise StorageError(f"cannot write {path}: {advice}") from error


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable (POSIX: the entry is the folder's data)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; it becomes `path` when the block ends without error.

    Missing parent folders are made. Raises StorageError with the path and what to do (disk full,
    read-only, no permission); then, as after any exception, what was under `path` is untouched.
    """
    path = Path(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb") as file:
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _fsync_folder(path.parent)


def publish(temporary: str | Path, path: str | Path) -> None:
    """Rename a folder of files that are whole to `path`, for good; both in one folder.

    Raises StorageError, also where a folder with something in it is at `path`.
    """
    with _explained(Path(path)):
        _fsync_folder(Path(temporary))
        os.replace(temporary, path)
        _fsync_folder(Path(path).parent)


@contextlib.contextmanager
def new_folder(out: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling to fill; it becomes `out` when the block ends without error.

    Raises ValueError where something is at `out` already, other than an empty folder.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and not an empty folder; give a new one")
    with _explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        yield folder
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        publish(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` under `path`, whole or not at all. Errors: see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` in UTF-8, line ends as given."""
    write_bytes(path, text.encode())


def json_text(value: Any) -> str:
    """Indented JSON with a final newline. Raises ValueError for NaN and infinities."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` of `json_text(value)`."""
    write_text(path, json_text(value))


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: str | Path) -> None:
    """Remove what a killed writer left: temporary files below `folder`. Hold its lock first."""
    for path in sorted(Path(folder).rglob(".*.tmp")):
        path.unlink(missing_ok=True)


def _holder(path: Path) -> str:
    """Who wrote the lock file, in words."""
    try:
        values = json.loads(path.read_text())
        return f"process {values['pid']} on {values['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it holds the lock but has not yet written who it is


def _acquire(path: Path) -> int:
    """Open and lock `path`: the file descriptor, which holds the lock until closed.

    The kernel drops the lock when its process ends, however it ends: a lock file left by a dead
    process is simply taken over, also when its process id lives again as something else.
    """
    import fcntl  # POSIX only; imported here so that the rest of the module works everywhere

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if not isinstance(error, BlockingIOError):
                raise
            raise LockedError(f"{path.parent} is being written by {_holder(path)}; wait for it "
                              f"to end or choose another folder") from None  # fmt: skip
        if os.fstat(handle).st_nlink > 0:
            return handle
        os.close(handle)  # the last holder removed the file between our open and our lock


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold `folder`/.lock for the block; it tells process id and host of the one writer.

    Raises LockedError when a living process holds it. A dead process's lock is taken over.
    """
    path = Path(folder) / ".lock"
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _acquire(path)
    try:
        who = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(handle, 0)
        os.pwrite(handle, who.encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
