"""impasto.files: whole or absent, and one writer at a time."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from impasto import files


def names(folder):
    return sorted(p.name for p in folder.rglob("*"))


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.txt"
    files.write_text(path, "one\r\n")
    files.write_text(path, "two\r\n")
    assert path.read_bytes() == b"two\r\n"
    assert names(tmp_path) == ["a", "b.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_json_is_readable_and_refuses_nan(tmp_path):
    files.write_json(tmp_path / "x.json", {"prompt": "two äpples", "n": 1.5})
    assert "äpples" in (tmp_path / "x.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "y.json", {"n": float("nan")})
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("code, word", [(errno.ENOSPC, "full"), (errno.EROFS, "read-only"),
                                        (errno.EDQUOT, "quota"), (errno.EIO, "put/output")])
def test_failed_write_explains_and_keeps_the_old_file(tmp_path, monkeypatch, code, word):
    path = tmp_path / "x.txt"
    files.write_text(path, "old")

    def fail(handle):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(files.StorageError, match=word) as caught:
        files.write_text(path, "new")
    assert str(path) in str(caught.value)
    assert path.read_text() == "old" and names(tmp_path) == ["x.txt"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == []


def test_a_really_full_disk(tmp_path):
    """RLIMIT_FSIZE stops a real write in the middle, as a full disk does."""
    code = """
import resource, signal, sys
from impasto import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.write_bytes(sys.argv[1], b"x" * 5000)
except files.StorageError as error:
    print(error)
"""
    target = tmp_path / "big.bin"
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert f"cannot write {target}" in done.stdout
    assert names(tmp_path) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(files.StorageError, match="is a file, not a folder"):
        files.write_text(tmp_path / "runs" / "x" / "y.txt", "")


def test_an_error_of_the_writer_itself_is_not_renamed(tmp_path):
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_sweep_removes_leftovers_only(tmp_path):
    for name in (".x.png.abc123.tmp", "x.png", ".hidden", "y.tmp"):
        (tmp_path / name).write_text("")
    files.sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "x.png", "y.tmp"]


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")


HOLD = """
import sys, time
from impasto import files
with files.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)],
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_second_writer_is_refused_then_inherits(tmp_path, holder):
    with pytest.raises(files.LockedError, match=f"process {holder.pid} on "), files.lock(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists(), "a killed holder cannot tidy up"
    with files.lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert names(tmp_path) == []


def test_two_locks_in_one_process_exclude_each_other(tmp_path):
    with (files.lock(tmp_path), pytest.raises(files.LockedError), files.lock(tmp_path)):
        pass
    with files.lock(tmp_path):
        pass


def test_lock_torn_or_of_a_living_stranger_is_taken_over(tmp_path):
    for text in ("", "{", '{"pid": 1, "host": "elsewhere"}'):
        (tmp_path / ".lock").write_text(text)
        with files.lock(tmp_path):
            pass


def test_lock_never_has_two_holders(tmp_path):
    inside, worst = [0], [0]

    def work(_):
        try:
            with files.lock(tmp_path):
                inside[0] += 1
                worst[0] = max(worst[0], inside[0])
                time.sleep(0.0005)
                inside[0] -= 1
                return True
        except files.LockedError:
            return False

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(work, range(300)))
    assert worst[0] == 1 and any(won) and not all(won)
