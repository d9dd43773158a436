"""The step `distances`: sets of pictures against a reference, with intervals over prompts."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from impasto.cli import app, build
from impasto.images import read_image
from impasto.run.distance import WHOLE, measure_distance
from impasto.run.distances import GROUPS, T, estimated_distance, figures
from impasto.run.pictures import open_pictures
from impasto.score.features import Extractor
from impasto.spec import CLASSES, Item, Spec
from impasto.stack import Tools, load_stack, run_stack
from impasto.zoo.registry import BENCHES, FEATURES
from tests import tiny
from tests.tiny_stack import FACTORIES, Noisy

RECIPE = """\
bench: many
scorer: fake
second: fake-second
seeds: [0, 1]
steps:
  - eval: {name: drawn, models: {plain: fake, other: "fake:name=two"}}
  - distances:
      pictures: {noise: noise.npz}
      reference: reference.npz
      features: [means]
      base: plain
"""
BENCH = replace(tiny.BENCH, name="many", samples_per_prompt=1, specs=tuple(
    Spec(tag="single_object", include=(Item(cls=name),), prompt=f"a photo of a {name}")
    for name in CLASSES[:22]))  # fmt: skip


class Means(Extractor):
    """Mean of each channel: three features."""

    def __init__(self):
        super().__init__("means", {"fd": {}, "precision_recall": {"k": 3}}, {"pool": 3}, None)

    def __call__(self, images):
        return {"pool": images.mean((2, 3))}

    def provenance(self):
        return self.record("0" * 64, "none")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = (*FACTORIES, (BENCHES, "many", lambda: BENCH),
             (FEATURES, "means", lambda device: Means()))  # fmt: skip
    for registry, name, factory in names:
        monkeypatch.setitem(registry._factories, name, factory)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    rng = np.random.default_rng(0)
    for name, count in (("reference", 60), ("noise", 30)):
        np.savez(f"{name}.npz", arr_0=rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8))
    Path("recipe.yaml").write_text(RECIPE)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["run", "recipe.yaml", "-o", "out", *arguments])


def run(**overrides):
    return run_stack(load_stack("recipe.yaml", overrides), Tools(Path("out"), build))


def test_distances_are_those_of_measure(here):
    table = run()["distances"].table
    rows = {row["name"]: row for row in table["rows"]}
    assert {name: row["pictures"] for name, row in rows.items()} == {
        "plain": 44, "other": 44, "noise": 30}  # fmt: skip
    for name in ("plain", "other"):
        both = here / f"both-{name}"
        for seed in (0, 1):
            shutil.copytree(here / f"out/drawn/{name}/seed-{seed}/images", both / str(seed))
        found = measure_distance(open_pictures(both), open_pictures("reference.npz"), [Means()],
                                 here / f"measured-{name}")  # fmt: skip
        distances = json.loads(found.summary.read_text())["distances"]
        for key in ("fd_means", "precision_means", "recall_means"):
            value, low, high = rows[name]["distances"][key]
            assert value == pytest.approx(distances[key]["value"], abs=1e-12)
            assert 0 <= low <= value <= high
    assert rows["plain"]["differences"] == {}
    for name in ("other", "noise"):
        value = rows[name]["differences"]["fd_means"][0]
        assert value == pytest.approx(rows[name]["distances"]["fd_means"][0]
                                      - rows["plain"]["distances"]["fd_means"][0])  # fmt: skip


def test_an_interval_leaves_prompts_out_with_all_their_pictures(here):
    run()
    looked = Means()
    reference = looked(open_pictures("reference.npz").read(range(60), WHOLE))
    paths = sorted(Path("out/drawn/plain").rglob("*.png"))
    features = looked(torch.stack([read_image(path) for path in paths]))["pool"]
    prompts = [int(path.parts[-3]) for path in paths]
    found = figures([looked], {"means.pool": features}, prompts,
                    {"means.pool": reference["pool"]})["fd_means"]  # fmt: skip
    without = [p % GROUPS != 1 for p in prompts]  # prompts 1 and 21
    assert without.count(False) == 4
    part = figures([looked], {"means.pool": features[without]}, [*range(GROUPS), *range(20)],
                   {"means.pool": reference["pool"]})["fd_means"][0]  # fmt: skip
    assert found[2] == pytest.approx(part, abs=1e-12) and len(found) == GROUPS + 1
    row = run()["distances"].table["rows"][0]["distances"]["fd_means"]
    s = np.sqrt((GROUPS - 1) * np.var(found[1:]))
    assert row == pytest.approx([found[0], max(found[0] - T * s, 0), found[0] + T * s])


def test_a_paired_difference_is_surer_than_two_intervals():
    rng = np.random.default_rng(1)
    shared = rng.normal(size=GROUPS + 1)
    a, b = (list(10 + shared + 0.01 * rng.normal(size=GROUPS + 1)) for _ in range(2))
    alone, paired = estimated_distance("kd_x", a), estimated_distance("kd_x", a, b)
    assert paired.high - paired.low < 0.05 * (alone.high - alone.low)
    assert estimated_distance("kd_x", a, a) == (0, 0, 0)


def test_the_interval_of_a_mean_is_students():
    """Of a plain mean of as many values as groups, the jackknife is the textbook's interval."""
    x = np.random.default_rng(2).normal(size=GROUPS)
    values = [x.mean(), *((x.sum() - one) / (GROUPS - 1) for one in x)]
    error = x.std(ddof=1) / np.sqrt(GROUPS)
    assert estimated_distance("kd_x", values) == pytest.approx(
        (x.mean(), x.mean() - 2.093 * error, x.mean() + 2.093 * error))  # fmt: skip


def test_again_looks_at_nothing_and_a_seed_more_is_looked_at_alone(here, monkeypatch):
    done = call("--set", "seeds=[1]")
    assert done.exit_code == 0, done.output
    looked, own = [], Means.__call__

    def counted(self, images):
        looked.append(len(images))
        return own(self, images)

    monkeypatch.setattr(Means, "__call__", counted)
    assert call().exit_code == 0 and sum(looked) == 2 * 22
    before, looked[:], Noisy.drawn = tiny.tree(Path("out")), [], 0
    assert call().exit_code == 0 and not looked and Noisy.drawn == 0
    assert tiny.tree(Path("out")) == before
    done = call("--set", "distances.reference=noise.npz")
    assert done.exit_code == 2 and "distances.reference" in done.stderr


def test_tables_name_network_and_reference(here):
    done = call()
    assert done.exit_code == 0, done.output
    text = Path("out/table.md").read_text()
    assert "## distances: means" in text and "From 60 pictures of reference.npz" in text
    assert ("| pictures of | number | Fréchet distance | precision | recall | Fréchet distance − "
            "plain's |") in text  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("base: plain", "base: plane", "base 'plane' is none of its runs and pictures: did you mean"),
     ("base: plain", "runs: [third]", "no step before it has a run 'third'"),
     ("base: plain", "runs: [\"{n}\"]", "{n} is not in the grid"),
     ("{noise:", "{plain:", "must each have a name of their own, given plain, other, plain"),
     ("[means]", "[meanz]", "unknown feature extractor 'meanz'"),
     ("[means]", "means", "features must be a list of at least one, given 'means'"),
     ("[means]", "[means, means]", "features means are asked for twice"),
     ("reference.npz", "missing.npz", "'missing.npz' is no source of pictures"),
     ("seeds: [0, 1]", "seeds: [0, 1]\nlimit: 10", "need at least 20 prompts, given 10"),
     ("  - distances", "  - eval: {name: more, seeds: [2], models: {third: fake}}\n  - distances",
      "drawn and more differ in seeds")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_anything_is_drawn(here, old, new, words):
    assert old in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(old, new))
    done = call()
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert not Path("out").exists()


def test_pictures_of_another_size_are_refused(here):
    np.savez("noise.npz", arr_0=np.zeros((30, 8, 8, 3), np.uint8))
    done = call()
    assert done.exit_code == 2 and "noise.npz are 8 x 8, those of reference.npz 16 x 16" in (
        done.stderr)  # fmt: skip
