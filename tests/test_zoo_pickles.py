"""Foreign checkpoints: tensors come out as torch.save put them in, and nothing in them is run."""

import builtins
import gzip
import importlib
import io
import os
import pickle
import runpy
import struct
import subprocess
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from impasto.zoo.pickles import read_tensors
from impasto.zoo.unpickle import MAGIC, NAMES, PROTOCOL

FORMATS = {"zip": True, "legacy": False}


def save(path, value, how="zip"):
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[how])
    return path


def tensors():
    """One of each kind of element, and every way of lying in a storage."""
    grid = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
             torch.int8, torch.uint8, torch.bool)  # fmt: skip
    return {
        "plain": grid, "transposed": grid.t(), "part": grid[1:3, ::2], "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3), "expanded": torch.ones(1).expand(3, 5),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])),
        **{str(kind): torch.tensor([0, 1, 1, 0, 3]).to(kind) for kind in kinds},
    }  # fmt: skip


def assert_same(got, expected):
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert got[key].dtype == value.dtype and torch.equal(got[key], value), key


# What torch.save writes


@pytest.mark.parametrize("how", FORMATS)
def test_tensors_come_out_as_they_went_in(tmp_path, how):
    assert_same(read_tensors(save(tmp_path / "x.pth", tensors(), how)), tensors())


@pytest.mark.parametrize("how", FORMATS)
def test_the_state_dict_of_a_checkpoint_is_found(tmp_path, how):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    meta = {"epoch": 3, "classes": ("a", "b"), "best": np.float64(0.461), "config": "x = 1",
            "nothing": None, "big": 2**80}  # fmt: skip
    value = {"meta": meta, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    got = read_tensors(save(tmp_path / "x.pth", value, how))
    assert_same(got, model.state_dict())


def test_any_name_of_the_only_dict_of_tensors_will_do(tmp_path):
    path = save(tmp_path / "x.pth", {"ema_model": {"w": torch.ones(2)}, "step": 3})
    assert_same(read_tensors(path), {"w": torch.ones(2)})


def test_of_several_dicts_state_dict_is_taken_and_else_none(tmp_path):
    one, two = {"w": torch.ones(2)}, {"w": torch.zeros(2)}
    path = save(tmp_path / "x.pth", {"ema": two, "state_dict": one})
    assert_same(read_tensors(path), one)
    with pytest.raises(ValueError, match=r"several sets of tensors \(ema, model\)"):
        read_tensors(save(tmp_path / "y.pth", {"ema": two, "model": one}))


def test_safetensors_are_read_whatever_their_name(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "x.pth")
    assert_same(read_tensors(tmp_path / "x.pth"), {"w": torch.ones(2)})


def test_views_of_one_storage_need_not_all_be_there(tmp_path):
    grid = torch.rand(100, 4)
    path = save(tmp_path / "x.pth", OrderedDict(a=grid[3], b=grid[:, 1]))
    assert_same(read_tensors(path), {"a": grid[3], "b": grid[:, 1]})


# Attacks


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(canary):
    """Name -> object whose loading would make the file `canary`."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    inner = pickle.dumps(Call(os.system, touch))
    script = canary.with_name("script.py")
    script.write_text(code)
    torch.save(Call(os.system, touch), canary.with_name("inner.pth"))
    return {
        "os.system": Call(os.system, touch),
        "builtins.eval": Call(builtins.eval, code),
        "builtins.exec": Call(builtins.exec, code),
        "builtins.open": Call(builtins.open, str(canary), "w"),
        "subprocess.Popen": Call(subprocess.Popen, touch.split()),
        "subprocess.check_output": Call(subprocess.check_output, touch.split()),
        "pickle.loads": Call(pickle.loads, inner),
        "runpy.run_path": Call(runpy.run_path, str(script)),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "builtins.getattr": Call(getattr, "", "format"),
        "torch.load": Call(torch.load, str(canary.with_name("inner.pth")), None, None),
        "torch.hub.load": Call(torch.hub.load, str(canary.parent), "x", "local"),
        "os.makedirs": Call(os.makedirs, str(canary)),
    }


PLACES = {
    "alone": lambda evil: evil,
    "beside tensors": lambda evil: {"state_dict": {"w": torch.ones(2)}, "extra": evil},
    "among tensors": lambda evil: {"w": torch.ones(2), "evil": evil},
    "in the optimizer": lambda evil: {"w": torch.ones(2), "optimizer": {"state": {0: [evil]}}},
    "in a tensor's hooks": lambda evil: {"w": hooked(evil)},
}


def hooked(evil):
    """A tensor whose backward hooks are the payload."""
    tensor = torch.ones(2)

    class Tensor:
        def __reduce__(self):
            function, args = tensor.__reduce_ex__(2)[:2]
            return function, (*args[:-1], evil)

    return Tensor()


@pytest.mark.parametrize("place", PLACES)
def test_no_attack_is_run_wherever_it_lies(tmp_path, place):
    canary = tmp_path / "canary"
    for i, (name, evil) in enumerate(attacks(canary).items()):
        path = save(tmp_path / "x.pth", PLACES[place](evil), list(FORMATS)[i % 2])
        with pytest.raises(ValueError, match=r"x\.pth is refused: it asks for") as caught:
            read_tensors(path)
        assert name.split(".")[-1] in str(caught.value)
        assert not canary.exists(), name


@pytest.mark.parametrize("how", FORMATS)
def test_every_attack_is_run_by_unsafe_loading(tmp_path, how):
    """The canary can be made at all: the test above is not empty."""
    canary = tmp_path / "canary"
    path = save(tmp_path / "x.pth", attacks(canary)["os.system"], how)
    torch.load(path, weights_only=False)
    assert canary.exists()


def raw_zip(path, program, **records):
    """A checkpoint with a hand-made pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", program)
        file.writestr("x/byteorder", "little")
        for key, data in records.items():
            file.writestr(f"x/data/{key}", data)
    return path


@pytest.mark.parametrize("name", ["OrderedDict.fromkeys", "OrderedDict.__init__", "abc", "deque"])
def test_what_lies_within_an_allowed_name_is_not_allowed(tmp_path, name):
    program = b"\x80\x04\x8c\x0bcollections\x8c" + bytes([len(name)]) + name.encode() + b"\x93."
    with pytest.raises(ValueError, match=rf"it asks for collections\.{name}"):
        read_tensors(raw_zip(tmp_path / "x.pth", program))


def test_a_name_of_a_storage_is_looked_up_as_any_other(tmp_path):
    program = b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000NK\x01tQ."
    with pytest.raises(ValueError, match=r"it asks for os\.system"):
        read_tensors(raw_zip(tmp_path / "x.pth", program))


def test_settings_are_read_over_and_cannot_be_changed(tmp_path):
    path = save(tmp_path / "y.pth", {"model": {"w": torch.ones(2)}, "args": Namespace(lr=1)})
    assert_same(read_tensors(path), {"w": torch.ones(2)})
    program = b"\x80\x02cargparse\nNamespace\n}X\x01\x00\x00\x00aK\x01sb."
    with pytest.raises(ValueError, match=r"x\.pth is damaged"):
        read_tensors(raw_zip(tmp_path / "x.pth", program))


def test_the_stand_ins_cannot_be_changed(tmp_path):
    """BUILD on an allowed callable, which would set its attributes."""
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(N}X\x08\x00\x00\x00functionK\x01stb."
    with pytest.raises(ValueError, match="it tries to change what reads it"):
        read_tensors(raw_zip(tmp_path / "x.pth", program))


def test_few_names_are_allowed_and_none_of_them_acts():
    assert len(NAMES) == 5 + 2 * 10 + 5
    assert {module for module, _ in NAMES} == {"collections", "torch", "torch.cuda", "numpy",
                                               "torch._utils", "numpy.core.multiarray",
                                               "numpy._core.multiarray", "_codecs",
                                               "argparse"}  # fmt: skip


def test_the_other_process_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    for name in ("pickle", "zipfile", "numpy", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    path = save(tmp_path / "x.pth", {"w": torch.ones(2)})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert_same(read_tensors(path), {"w": torch.ones(2)})
    assert not (tmp_path / "canary").exists()


# Bombs


def test_a_tensor_that_expands_beyond_the_limit_is_refused(tmp_path):
    path = save(tmp_path / "x.pth", {"w": torch.ones(1).expand(2**20, 2**20)})
    with pytest.raises(ValueError, match=r"4,398,046,511,104 bytes, over the limit"):
        read_tensors(path)


def test_a_file_beyond_the_limit_is_refused(tmp_path):
    path = save(tmp_path / "x.pth", {"w": torch.ones(1000)})
    with pytest.raises(ValueError, match="over the limit of 4,000"):
        read_tensors(path, max_bytes=4000)


def test_compressed_records_are_refused_before_they_are_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", b"\0" * 2**28)
    with pytest.raises(ValueError, match="compressed or encrypted"):
        read_tensors(tmp_path / "x.pth")


def test_records_that_overlap_are_refused(tmp_path):
    """Two entries of the directory for the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("x/data.pkl", pickle.dumps({}, 2) + b"\0" * 4096)
        info = zipfile.ZipInfo("x/data/0")
        vars_of = file.filelist[0]
        for field in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(info, field, getattr(vars_of, field))
        file.filelist.append(info)
    (tmp_path / "x.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"larger than the file|is damaged"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize("program", [
    b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo that would need 16 GiB
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a string of 2^63 bytes
    b"\x80\x02" + b"(" * 500_000 + b"l" * 500_000 + b".",  # lists in lists
    b"\x80\x02" + b"]q\x00" + b"h\x00h\x00\x86q\x00" * 200 + b".",  # doubles 200 times
], ids=["memo", "string", "nested", "doubling"])  # fmt: skip
def test_a_pickle_that_asks_for_too_much_is_refused(tmp_path, program):
    with pytest.raises(ValueError, match=r"x\.pth is (damaged|refused)"):
        read_tensors(raw_zip(tmp_path / "x.pth", program))


# Damage


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97, 0.999])
def test_truncated_files_are_named(tmp_path, how, share):
    data = save(tmp_path / "whole.pth", {"w": torch.rand(1000)}, how).read_bytes()
    (tmp_path / "x.pth").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=r"x\.pth is (damaged|refused)"):
        read_tensors(tmp_path / "x.pth")


def test_a_flipped_bit_in_a_zip_is_found(tmp_path):
    path = save(tmp_path / "x.pth", {"w": torch.rand(1000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC"):
        read_tensors(path)


@pytest.mark.parametrize("how", FORMATS)
def test_values_that_are_not_finite_are_named_with_the_file(tmp_path, how):
    path = save(tmp_path / "x.pth", {"good": torch.ones(2), "bad": torch.tensor(float("nan"))},
                how)  # fmt: skip
    with pytest.raises(ValueError, match=r"/x\.pth: 'bad' holds NaN"):
        read_tensors(path)


def tensor_program(shape=(2,), stride=(1,), offset=0, count=4, kind="FloatStorage"):
    """A pickle with one tensor of these numbers."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):
        def persistent_id(self, one):
            return ("storage", Call, "0", "cpu", count) if isinstance(one, Storage) else None

        def save(self, one, **kwargs):
            if one is Call:
                return self.write(f"ctorch\n{kind}\n".encode())
            if one == "rebuild":
                return self.write(b"ctorch._utils\n_rebuild_tensor_v2\n")
            return super().save(one, **kwargs)

        def save_reduce(self, *_, **__):
            raise AssertionError

    file = io.BytesIO()
    pickler = Pickler(file, 2)
    file.write(b"\x80\x02}")
    pickler.framer = pickle._Framer(file.write)
    pickler.write = file.write
    pickler.save("w")
    pickler.save("rebuild")
    pickler.save((Storage(), offset, shape, stride, False, None))
    file.write(b"Rs.")
    return file.getvalue()


def test_a_tensor_by_hand_is_read(tmp_path):
    data = np.arange(4, dtype="<f4").tobytes()
    path = raw_zip(tmp_path / "x.pth", tensor_program((2,), (2,), 1), **{"0": data})
    assert read_tensors(path)["w"].tolist() == [1, 3]


@pytest.mark.parametrize(("numbers", "words"), [
    ({"shape": (5,)}, "beyond its storage"),
    ({"offset": 3}, "beyond its storage"),
    ({"stride": (4,)}, "beyond its storage"),
    ({"shape": (2, 2)}, "has strides"),
    ({"shape": (-1,)}, "whole numbers"),
    ({"stride": (-1,), "offset": 3}, "whole numbers"),
    ({"offset": -1}, "whole numbers"),
    ({"offset": True}, "whole numbers"),
    ({"shape": (2.5,)}, "whole numbers"),
    ({"count": -4}, "whole numbers"),
    ({"count": 5}, "has 16 bytes, not the 20"),
    ({"kind": "DoubleStorage"}, "has 16 bytes, not the 32"),
    ({"kind": "ComplexFloatStorage"}, r"asks for torch\.ComplexFloatStorage"),
    ({"kind": "UntypedStorage"}, r"asks for torch\.UntypedStorage"),
])  # fmt: skip
def test_tensors_that_reach_beyond_their_bytes_are_refused(tmp_path, numbers, words):
    path = raw_zip(tmp_path / "x.pth", tensor_program(**numbers), **{"0": bytes(16)})
    with pytest.raises(ValueError, match=words):
        read_tensors(path)


@pytest.mark.parametrize(("data", "words"), [
    (b"", "neither a checkpoint"),
    (b"hello, world, this is text", "neither a checkpoint"),
    (b"<!DOCTYPE html><html>", "a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
    (gzip.compress(b"x" * 100, mtime=0), "compressed by gzip"),
    (pickle.dumps([1, 2]), "not one of torch.save"),
    (pickle.dumps(MAGIC, 2) + pickle.dumps(PROTOCOL + 1, 2), "not one of torch.save"),
    (b"".join(pickle.dumps(v, 2) for v in (MAGIC, PROTOCOL, {"little_endian": False})),
     "big-endian"),
    (struct.pack("<Q", 2**62) + b"{" + b" " * 50, "safetensors"),
])  # fmt: skip
def test_other_files_are_called_what_they_are(tmp_path, data, words):
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(ValueError, match=words) as caught:
        read_tensors(tmp_path / "x.pth")
    assert "x.pth" in str(caught.value)


def test_zips_of_other_kinds_are_called_what_they_are(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        file.writestr("readme.txt", "x")
    with pytest.raises(ValueError, match=r"not one of torch\.save"):
        read_tensors(tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as file:
        file.writestr("y/data.pkl", pickle.dumps({}, 2))
        file.writestr("y/code/__torch__.py", "class Net: ...")
    with pytest.raises(ValueError, match="TorchScript archive, which holds code"):
        read_tensors(tmp_path / "y.pt")


@pytest.mark.parametrize(("value", "words"), [
    ([torch.ones(2)], "holds a list"),
    (torch.ones(2), "holds a tensor, not a dict of tensors"),
    ({"a": 1, "b": {"c": 2}}, "no named tensors"),
    ({1: torch.ones(2)}, "not a string"),
    ({"__metadata__": torch.ones(2)}, "not a string that safetensors takes"),
])  # fmt: skip
def test_checkpoints_without_named_tensors_are_refused(tmp_path, value, words):
    with pytest.raises(ValueError, match=words):
        read_tensors(save(tmp_path / "x.pth", value))


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none.pth")
