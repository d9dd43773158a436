"""Foreign checkpoints as tensors: torch's pickles read without running them, and safetensors.

A pickle is a program; torch.load runs it. Here a separate process (`impasto.zoo.unpickle`) reads
it with an unpickler that knows tensors, dicts, OrderedDict, numbers and strings, and hands the
tensors back as a safetensors file. Anything else in the pickle is refused by its name. There is
no other way of loading to fall back to.

Bounds: bytes of the file, of the tensors (views of one storage may be many times as large as the
file), of the process's memory, and seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from impasto.zoo.weights import load_state

__all__ = ["MAX_BYTES", "read_tensors"]

MAX_BYTES = 2**35
"""32 GiB: larger checkpoints come in shards."""
SECONDS = 900
MASKS = ("attn_bias_for_masking",)
"""Additive masks that published files keep beside the weights: -infinity hides."""
WORKER = Path(__file__).with_name("unpickle.py")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
STRANGERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it (git lfs pull)",
    b"<": "a web page, not a checkpoint; the download went wrong",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"\x89HDF": "an HDF5 file, which is not read",
    b"GGUF": "a GGUF file, which is not read",
}
"""First bytes -> what a file is that people give by mistake."""


def read_tensors(
    path: str | Path, max_bytes: int = MAX_BYTES, part: str | None = None
) -> dict[str, Tensor]:
    """The named tensors of a checkpoint: .pth or .bin of torch.save, or safetensors.

    Of a checkpoint with more in it (optimizer, settings), the model's: its dict of tensors, or
    that under "state_dict"; of one that holds several networks, that under `part`. The file's
    content decides about its format, not its name. Raises FileNotFoundError; ValueError, naming
    the file, when it is something else, damaged, too large, holds NaN, or asks for anything that
    tensors do not need.
    """
    path = Path(path)
    if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f"{path} has {size:,} bytes, over the limit of {max_bytes:,}")
    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith((ZIP, PICKLE)):
        return _unpickled(path, max_bytes, part)
    for start, what in STRANGERS.items():
        if head.startswith(start):
            raise ValueError(f"{path} is {what}")
    if head[8:9] != b"{":
        raise ValueError(f"{path} is neither a checkpoint of torch.save nor safetensors: it "
                         f"starts with {head[:16]!r}")  # fmt: skip
    return load_state(path, MASKS)


def _unpickled(path: Path, max_bytes: int, part: str | None) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="impasto-") as folder:
        out = Path(folder) / "tensors.safetensors"
        _run(path, out, max_bytes, part)
        try:
            return load_state(out, MASKS)
        except ValueError as error:
            raise ValueError(str(error).replace(str(out), str(path))) from error


def _run(path: Path, out: Path, max_bytes: int, part: str | None) -> None:
    """Let the other process write `out`. Raises ValueError with what it says."""
    # -I: neither the current folder nor the environment decides what it imports.
    command = [sys.executable, "-I", str(WORKER), str(path.resolve()), str(out), str(max_bytes),
               part or ""]  # fmt: skip
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False,
                              env=os.environ | threads)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path} was not read within {SECONDS} s; it is damaged or hostile"
                         ) from error  # fmt: skip
    try:
        answer: dict[str, str] = json.loads(done.stdout)
    except ValueError:
        answer = {"damaged": f"reading it ended with exit code {done.returncode}"}
    if "refused" in answer:
        raise ValueError(f"{path} is refused: {answer['refused']}")
    if "damaged" in answer:
        raise ValueError(f"{path} is damaged, truncated or no checkpoint: {answer['damaged']}")
