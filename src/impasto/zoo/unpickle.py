"""The separate process of `impasto.zoo.pickles`: a torch checkpoint in, safetensors out.

Run by path with `python -I`, never imported by the library; needs numpy and nothing of torch. A
pickle is a program that may call whatever it can name. Here it can name the dozen things in
`NAMES`, which are stand-ins without side effects; any other name ends the process. Storages are
not read while the pickle runs: tensors are records of where their bytes lie.

Two formats of torch.save: a zip of uncompressed records NAME/data.pkl, NAME/data/KEY; and the
older stream of pickles (magic number, protocol, system, object, storage keys) with each storage's
length and bytes behind. Source: torch/serialization.py, torch 0.4 to 2.13.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_PROGRAM = 2**28
"""Bytes of the pickle itself; those of real checkpoints have some 100 per tensor."""
SPARE_MEMORY = 2**31
MEANT = ("state_dict", "vae", "gpt_fsdp")
"""Keys of the model itself, where a checkpoint has other sets of tensors (averages, optimisers).
The last two are Infinity's tokenizer and its training's transformer."""


class Refused(Exception):
    """What is wrong with the file, in words for its user."""


class Kind(NamedTuple):
    """An element type: safetensors' name, and bytes per element."""

    name: str
    size: int


class Storage(NamedTuple):
    """Elements of a kind that lie in the file under a key."""

    key: str
    kind: Kind
    length: int


class Strided(NamedTuple):
    """A tensor: a view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def elements(self) -> int:
        return math.prod(self.shape)

    def nbytes(self) -> int:
        return self.elements() * self.storage.kind.size


class Stand:
    """A callable stand-in that a pickle cannot change."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise Refused("it tries to change what reads it")


def _naturals(values: Any, what: str) -> tuple[int, ...]:
    if not isinstance(values, tuple) or any(type(v) is not int or v < 0 for v in values):
        raise Refused(f"a tensor's {what} is {str(values)[:60]}, not whole numbers from 0 on")
    return values


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Strided:
    """torch._utils._rebuild_tensor, _v2: refused when it would leave its storage."""
    if not isinstance(storage, Storage):
        raise Refused("a tensor has no storage")
    (first,) = _naturals((offset,), "offset")
    one = Strided(storage, first, _naturals(shape, "shape"), _naturals(stride, "stride"))
    if len(one.shape) != len(one.stride):
        raise Refused(f"a tensor of shape {one.shape} has strides {one.stride}")
    last = first + sum((n - 1) * step for n, step in zip(one.shape, one.stride, strict=True))
    if one.elements() and last >= storage.length:
        raise Refused(f"a tensor of shape {one.shape} reaches beyond its storage of "
                      f"{storage.length} elements")  # fmt: skip
    return one


def _parameter(data: Any, *_: Any) -> Any:
    return data


class Inert:
    """A NumPy number among the settings, or a training's settings themselves: read over, and of no
    use to a tensor."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        """Whatever it is made of."""

    def __setstate__(self, state: Any) -> None:
        """Whatever it is set to."""


KINDS = {
    "DoubleStorage": Kind("F64", 8), "FloatStorage": Kind("F32", 4), "HalfStorage": Kind("F16", 2),
    "BFloat16Storage": Kind("BF16", 2), "LongStorage": Kind("I64", 8),
    "IntStorage": Kind("I32", 4), "ShortStorage": Kind("I16", 2), "CharStorage": Kind("I8", 1),
    "ByteStorage": Kind("U8", 1), "BoolStorage": Kind("BOOL", 1),
}  # fmt: skip
NAMES: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): Stand(tuple),
    ("torch._utils", "_rebuild_tensor"): Stand(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Stand(_tensor),
    ("torch._utils", "_rebuild_parameter"): Stand(_parameter),
    **{(module, name): kind for module in ("torch", "torch.cuda") for name, kind in KINDS.items()},
    ("numpy.core.multiarray", "scalar"): Stand(Inert),
    ("numpy._core.multiarray", "scalar"): Stand(Inert),
    ("numpy", "dtype"): Stand(Inert),
    ("_codecs", "encode"): Stand(Inert),
    ("argparse", "Namespace"): Inert,
}
"""All that a checkpoint may name."""


class Unpickler(pickle.Unpickler):
    """Reads the pickles of torch.save without torch, and without calling anything else."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.kinds: dict[str, Kind] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise Refused(f"it asks for {module}.{name}, which tensors, dicts, numbers and "
                          f"strings have no use for; nothing of it was run")  # fmt: skip
        return NAMES[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        """("storage", kind, key, location, elements), and a view's place in old files."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused(f"it refers to {str(pid)[:60]}, which is no storage")
        _, kind, key, _, count, *view = pid
        if not isinstance(kind, Kind) or not isinstance(key, str) or view not in ([], [None]):
            raise Refused(f"it refers to storage {str(key)[:60]!r} in an unknown way")
        self.kinds[key] = kind
        return Storage(key, kind, _naturals((count,), "number of elements")[0])


class Archive:
    """A checkpoint in the zip format."""

    def __init__(self, path: str) -> None:
        self.zip = zipfile.ZipFile(path)
        records = self.zip.infolist()
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                raise Refused(f"its record {record.filename!r} is compressed or encrypted, which "
                              f"torch.save never does")  # fmt: skip
        if sum(record.file_size for record in records) > os.path.getsize(path):
            raise Refused("its records together are larger than the file")
        self.sizes = {record.filename: record.file_size for record in records}
        if len(self.sizes) != len(records):
            raise Refused("two of its records have one name")
        self.root = self._root()

    def _root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self.sizes
                 if name == "data.pkl" or name.endswith("/data.pkl")]  # fmt: skip
        if len(roots) != 1:
            raise Refused("it is a zip file, but not one of torch.save: it has "
                          f"{len(roots)} records data.pkl")  # fmt: skip
        if any(name.startswith(f"{roots[0]}code/") for name in self.sizes):
            raise Refused("it is a TorchScript archive, which holds code; save its state_dict()")
        order = f"{roots[0]}byteorder"
        if order in self.sizes and self.zip.read(order) != b"little":
            raise Refused("its numbers are big-endian; save it on a little-endian machine")
        return roots[0]

    def value(self) -> Any:
        name = f"{self.root}data.pkl"
        if self.sizes[name] > MAX_PROGRAM:
            raise Refused(f"its pickle has {self.sizes[name]:,} bytes, over {MAX_PROGRAM:,}")
        with self.zip.open(name) as file:
            return Unpickler(file).load()

    def data(self, storage: Storage) -> bytes:
        name, size = f"{self.root}data/{storage.key}", storage.length * storage.kind.size
        if self.sizes.get(name) != size:
            raise Refused(f"its record {name!r} has {self.sizes.get(name, 'no')} bytes, not the "
                          f"{size} of {storage.length} {storage.kind.name}")  # fmt: skip
        return self.zip.read(name)


class Stream:
    """A checkpoint in the format before torch 1.6."""

    def __init__(self, path: str) -> None:
        self.file: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed with the process
        self.end = os.path.getsize(path)
        self.places: dict[str, tuple[int, int]] = {}

    def value(self) -> Any:
        if self._load() != MAGIC or self._load() != PROTOCOL:
            raise Refused("it is a pickle, but not one of torch.save")
        system = self._load()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("its numbers are big-endian; save it on a little-endian machine")
        objects = Unpickler(self.file)
        value = objects.load()
        self._place(self._load(), objects.kinds)
        return value

    def _load(self) -> Any:
        return Unpickler(self.file).load()

    def _place(self, keys: Any, kinds: Mapping[str, Kind]) -> None:
        """Note where each storage lies: after its number of elements, in the order of keys."""
        at = self.file.tell()
        for key in keys:
            if key not in kinds:
                raise Refused(f"its storage {str(key)[:60]!r} belongs to no tensor")
            self.file.seek(at)
            (count,) = struct.unpack("<q", self.file.read(8))
            self.places[key] = at + 8, count
            at += 8 + max(count, 0) * kinds[key].size
        if at > self.end:
            raise Refused(f"it ends after {self.end:,} bytes, its storages after {at:,}")

    def data(self, storage: Storage) -> bytes:
        at, count = self.places.get(storage.key, (0, -1))
        if count != storage.length:
            raise Refused(f"its storage {storage.key!r} has {count} elements, not "
                          f"{storage.length}")  # fmt: skip
        self.file.seek(at)
        return self.file.read(count * storage.kind.size)


def tensors_of(value: Any, part: str = "") -> dict[str, Strided]:
    """The named tensors of a checkpoint: at its top, or in its only dict of tensors.

    Where there are several, the one under `part` or the first of `MEANT` is taken; a checkpoint
    of a training is looked for under "trainer".
    """
    if not isinstance(value, dict):
        what = "tensor" if isinstance(value, Strided) else type(value).__name__
        raise Refused(f"it holds a {what}, not a dict of tensors")
    parts = {key: own for key, own in value.items() if isinstance(own, dict) and _own(own)}
    if not _own(value) and not parts and isinstance(value.get("trainer"), dict):
        return tensors_of(value["trainer"], part)
    if not _own(value) and not parts:
        raise Refused(f"it holds no named tensors; its keys are {str(list(value))[:200]}")
    if _own(value):
        return _own(value)
    meant = [key for key in (part, *MEANT) if key in parts] or list(parts)
    if len(parts) > 1 and meant[0] not in (part, *MEANT):
        raise Refused(f"it holds several sets of tensors ({', '.join(map(str, parts))}); save "
                      f"the one that is meant by itself")  # fmt: skip
    return _own(parts[meant[0]])


def _own(part: dict[Any, Any]) -> dict[str, Strided]:
    found = {key: one for key, one in part.items() if isinstance(one, Strided)}
    if any(not isinstance(key, str) or key == "__metadata__" for key in found):
        raise Refused("a tensor's name is not a string that safetensors takes")
    return found


def _bytes(tensor: Strided, data: bytes) -> bytes:
    """A tensor's elements in order of its shape."""
    kind = np.dtype(f"<u{tensor.storage.kind.size}")
    flat = np.frombuffer(data, kind)[tensor.offset :]
    steps = [step * kind.itemsize for step in tensor.stride]
    if not tensor.elements():
        return b""
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False).tobytes()


def _chunks(tensors: Mapping[str, Strided], source: Archive | Stream) -> Iterator[bytes]:
    """The safetensors file, piece by piece."""
    header, at = {}, 0
    for name, one in tensors.items():
        header[name] = {"dtype": one.storage.kind.name, "shape": one.shape,
                        "data_offsets": [at, at := at + one.nbytes()]}  # fmt: skip
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    last: Storage | None = None
    data = b""
    for one in tensors.values():
        if one.storage != last:
            last, data = one.storage, source.data(one.storage)
        yield _bytes(one, data)


def convert(path: str, out: str, limit: int, part: str = "") -> None:
    """Write the tensors of the checkpoint `path` to `out`; Refused where that cannot be."""
    source = Archive(path) if zipfile.is_zipfile(path) else Stream(path)
    tensors = tensors_of(source.value(), part)
    if (total := sum(one.nbytes() for one in tensors.values())) > limit:
        raise Refused(f"its tensors have {total:,} bytes, over the limit of {limit:,}")
    with open(out, "wb") as file:
        for chunk in _chunks(tensors, source):
            file.write(chunk)


def _bound_memory(path: str) -> None:
    """A pickle can ask for any amount of memory in a few bytes."""
    import resource  # POSIX only, and not honoured everywhere

    limit = SPARE_MEMORY + 4 * os.path.getsize(path)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    path, out, limit, part = sys.argv[1:]
    with contextlib.suppress(ImportError):
        _bound_memory(path)
    try:
        convert(path, out, int(limit), part)
        answer = {}
    except Refused as error:
        answer = {"refused": str(error)}
    # Whatever else a reader raises on foreign bytes means one thing: this file is no use.
    except Exception as error:
        answer = {"damaged": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
