"""The run directory: what makes a folder a run, and who may write there."""

import json
import os
import re

import pytest
import torch

from impasto import files
from impasto.run import provenance
from impasto.run.cost import Meter
from impasto.run.directory import ForeignFolder, RunDirectory, opened
from impasto.run.provenance import SettingsDiffer, differing, resolved, settings_hash, versions
from impasto.sample.protocol import Sampling
from impasto.spec import Item, Spec

SPEC = Spec(tag="single_object", include=(Item(cls="dog"),), prompt="a photo of a dog")
RECORD = {"kind": "eval", "seed": 0, "model": {"id": "fake", "steps": 2}, "search": "none"}
DRAWN = {"seed": 5, "candidates": [{"seed": 5, "value": None}], "chosen": 0, "flops": 30.0,
         "row_steps": 2}  # fmt: skip


def test_saving_lays_files_out_as_geneval_does(tmp_path):
    with opened(tmp_path / "run", RECORD) as run:
        pairs = [(0, 0), (0, 1), (3, 0), (3, 1)]
        assert run.missing(pairs) == pairs
        run.save(3, 1, SPEC, torch.zeros(3, 8, 8), DRAWN)
        assert run.missing(pairs) == pairs[:3]
        assert run.sample(3, 1) == DRAWN
        assert run.total([(3, 1)]).images == 1 and run.total([(3, 1)]).flops == 30.0
    there = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert there == ["run/images/00003/metadata.jsonl", "run/images/00003/samples/00001.json",
                     "run/images/00003/samples/00001.png", "run/run.json"]  # fmt: skip
    assert (tmp_path / "run/images/00003/metadata.jsonl").read_text() == SPEC.to_json()


def test_the_picture_comes_last(tmp_path, monkeypatch):
    """A kill between two files leaves a sample that counts as missing, never a bare picture."""
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(str(b)), replace(a, b)))
    with opened(tmp_path, RECORD) as run:
        run.save(0, 0, SPEC, torch.zeros(3, 8, 8), DRAWN)
    assert order[0].endswith("run.json") and order[-1].endswith("00000.png")


def test_same_settings_resume_and_others_are_refused_by_key(tmp_path):
    with opened(tmp_path, RECORD):
        pass
    with opened(tmp_path, RECORD):
        pass
    other = RECORD | {"model": {"id": "fake", "steps": 3}, "limit": 6}
    with pytest.raises(SettingsDiffer) as caught, opened(tmp_path, other):
        pass
    text = str(caught.value)
    assert "model.steps: 2 in the folder, 3 now" in text
    assert "limit: null in the folder, 6 now" in text
    assert "seed" not in text and str(tmp_path) in text
    assert json.loads((tmp_path / "run.json").read_text()) == RECORD


def test_foreign_folders_are_refused_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ForeignFolder, match=re.escape("thesis.tex")), opened(tmp_path, RECORD):
        pass
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_what_a_run_killed_at_its_start_leaves_is_no_foreign_folder(tmp_path):
    (tmp_path / ".lock").write_text("")
    (tmp_path / ".run.json.abc.tmp").write_text("{")
    with opened(tmp_path, RECORD):
        pass
    assert os.listdir(tmp_path) == ["run.json"]


def test_two_writers(tmp_path):
    with opened(tmp_path, RECORD), pytest.raises(files.LockedError), opened(tmp_path, RECORD):
        pass


def test_a_file_instead_of_a_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(files.StorageError), opened(tmp_path / "run", RECORD):
        pass


def test_damaged_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is not valid JSON"), opened(tmp_path, RECORD):
        pass
    with pytest.raises(ValueError, match="is not a run folder"):
        RunDirectory.existing(tmp_path / "none")


def test_differing_names_leaves():
    old = {"a": 1, "b": {"c": [1, 2], "d": 1}, "gone": 0}
    new = {"a": 1, "b": {"c": [1, 3], "d": 1}, "here": 0}
    assert list(differing(old, new)) == [("b.c", [1, 2], [1, 3]), ("gone", 0, None),
                                         ("here", None, 0)]  # fmt: skip
    assert not list(differing(old, new, skip=frozenset({"b", "gone", "here"})))


def test_settings_hash_is_of_content_not_order():
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_versions_are_of_what_is_running():
    assert versions()["torch"] == torch.__version__


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setattr(provenance, "LIBRARIES", ("impasto", "no-such-library"))
    assert versions()["no-such-library"] == "not installed"


def test_cost_adds_up_over_executions(tmp_path):
    run = RunDirectory(tmp_path)
    path = tmp_path / "cost.json"
    first = Meter(run)
    first.seconds["generate"] = 2.0
    with pytest.raises(KeyboardInterrupt), first.timing("score"):
        raise KeyboardInterrupt
    assert not json.loads(path.read_text())["resumed"]
    second = Meter(run)
    second.seconds["generate"] += 1.0
    second.save()
    values = json.loads(path.read_text())
    assert values["seconds"]["generate"] == 3.0 and values["resumed"]
    assert values["peak_memory_bytes"]["host"] > 2**20
    (tmp_path / "summary.json").write_text("{}")
    before = path.read_bytes()
    third = Meter(run)
    with third.timing("generate"):
        pass
    assert path.read_bytes() == before, "a finished run that is found again"


def test_refused_settings_claim_no_folder(tmp_path):
    with pytest.raises(ValueError, match="odd"), opened(tmp_path, RECORD):
        raise ValueError("odd size")
    assert os.listdir(tmp_path) == []
    with opened(tmp_path, RECORD | {"seed": 1}) as run:
        run.save(0, 0, SPEC, torch.zeros(3, 8, 8), DRAWN)
    with pytest.raises(ValueError, match="odd"), opened(tmp_path, RECORD | {"seed": 1}):
        raise ValueError("odd size")
    assert sorted(os.listdir(tmp_path)) == ["images", "run.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_settings_that_are_no_number(value):
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        resolved(Sampling(guidance=value), {})
