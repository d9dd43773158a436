"""`impasto train` of a stack: its trainings, where `impasto run` finds them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto.cli import app
from impasto.run.provenance import normal
from impasto.stack import is_stack, load_stack
from impasto.train.run import load_recipe
from tests.tiny_stack import FACTORIES, Noisy

RECIPE = """\
bench: fake
scorer: fake
second: fake-second
limit: 2
steps:
  - train: {name: pixels, recipe: clip.yaml}
  - train: {name: drawing, recipe: clip.yaml, set: {steps: 3}}
  - eval: {model: "fake:name=step:drawing"}
  - compare: {base: none}
"""
CLIP = "kind: clip\nscenes: 1000\nsteps: 2\nbatch: 4\nlr: 0.1\n"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """(folder, overrides) of every training: the training itself is that of one recipe."""
    found = []

    def train(path, out, device, overrides):
        found.append((str(out), dict(overrides)))
        Path(out).mkdir(parents=True)
        recipe = normal(vars(load_recipe(path, overrides)))
        Path(out, "training.json").write_text(json.dumps({"recipe": recipe}))
        return out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("impasto.train.run.run_recipe", train)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    Path("recipes/tokens").mkdir(parents=True)
    Path("recipes/tokens/sticker.yaml").write_text(RECIPE)
    Path("clip.yaml").write_text(CLIP)
    return found


def call(verb, *arguments):
    return CliRunner().invoke(app, [verb, "recipes/tokens/sticker.yaml", *arguments])


def test_run_does_not_train_again(trained, monkeypatch):
    monkeypatch.setattr(Noisy, "drawn", 0)
    done = call("train")
    assert done.exit_code == 0, done.output
    root = "runs/tokens-sticker"
    assert trained == [(f"{root}/pixels", {}), (f"{root}/drawing", {"steps": 3})]
    assert done.stdout.split() == [f"{root}/pixels", f"{root}/drawing"] and Noisy.drawn == 0
    assert not Path(root, "eval").exists() and not Path(root, "table.json").exists()
    done = call("run")
    assert done.exit_code == 0, done.output
    assert len(trained) == 2 and Noisy.drawn == 2
    assert call("train").exit_code == 0 and len(trained) == 2


def test_overrides_are_those_of_run(trained):
    assert call("train", "-o", "out", "--set", "drawing.set={steps: 5}").exit_code == 0
    assert trained == [("out/pixels", {}), ("out/drawing", {"steps": 5})]
    done = call("run", "-o", "out")
    assert done.exit_code == 2 and "drawing.recipe.steps: 5 in the folder, 3 now" in done.stderr
    done = call("train", "-o", "out", "--set", "steps=5")
    assert done.exit_code == 2 and "no step here has a key 'steps'" in done.stderr


def test_a_stack_that_trains_nothing_is_refused(trained):
    Path("recipes/tokens/sticker.yaml").write_text("model: fake\nsteps: [eval]\n")
    done = call("train")
    assert done.exit_code == 2 and "has no step that trains; run it by impasto run" in done.stderr
    assert not Path("runs").exists()


def test_recipes_of_one_training_are_as_before(trained):
    done = CliRunner().invoke(app, ["train", "clip.yaml", "--set", "steps=4", "-o", "one"])
    assert done.exit_code == 0 and trained == [("one", {"steps": 4})]
    assert done.stdout == "one\n"


@pytest.mark.parametrize("path", sorted(Path("recipes").rglob("*.yaml")), ids=str)
def test_recipes_that_ship_are_told_apart(path):
    assert load_stack(path).steps if is_stack(path) else load_recipe(path).steps
