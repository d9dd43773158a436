"""Other people's checkpoints, written to be converted, and what comes of it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from impasto.cli import app
from impasto.zoo.convert import convert


def file(folder, values):
    torch.save(values, folder / "foreign.pth")
    return folder / "foreign.pth"


def same(a, b):
    """Whether two networks have the same tensors by the same names."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert set(ours) == set(theirs)
    return all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def refused(state, kind, folder, message):
    """A checkpoint that does not fit leaves nothing."""
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        convert(folder / "model.safetensors", kind, folder / "out")
    assert not (folder / "out").exists()


def known_to_the_command_line(state, kind, folder):
    save_file(state, folder / "model.safetensors")
    done = CliRunner().invoke(app, ["convert", str(folder / "model.safetensors"), "--kind", kind,
                                    "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "out" / "conversion.json").read_text())
    assert record["kind"] == kind
