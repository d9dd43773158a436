"""What a training reads beside its recipe: known by contents, and refused where it changed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from impasto.run.provenance import SettingsDiffer
from impasto.stack import Tools
from impasto.stack.trained import Train
from impasto.train.inputs import input_digests
from impasto.train.kinds import tokenizers
from impasto.train.recipe import Recipe
from impasto.train.run import run_recipe
from tests.breaking import broken_off
from tests.test_train_run import BASE, small, write  # noqa: F401  (a fixture)


def weights(folder, value=0.0, name="a"):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.full((2,), value)}, folder / f"{name}.safetensors")
    return str(folder)


def recipe(**values):
    return Recipe(**BASE | {"kind": "autoencoder"} | values)


def test_a_folder_is_known_by_its_weights_alone(tmp_path):
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    first = input_digests(recipe(initial=one))
    assert first == input_digests(recipe(initial=other)) and len(first["initial"]) == 64
    (tmp_path / "one" / "README.md").write_text("a card")
    weights(tmp_path / "one" / "checkpoint" / "00000002")
    assert input_digests(recipe(initial=one)) == first
    weights(tmp_path / "one" / "vae")
    more = input_digests(recipe(initial=one))
    weights(tmp_path / "one", 1.0)
    assert len({str(each) for each in (first, more, input_digests(recipe(initial=one)))}) == 3


def test_what_ships_and_what_an_option_names_are_known_and_hub_ids_are_not(tmp_path):
    folder, name = weights(tmp_path / "seen"), "clip-patches:folder="
    reader = {"kind": "reader", "autoencoder": "sticker-mmdit", "features": f"{name}{folder}"}
    found = input_digests(recipe(**reader))
    assert set(found) == {"autoencoder", "features"}
    assert found["features"] == input_digests(recipe(initial=folder))["initial"]
    assert input_digests(recipe(initial="someone/model")) == {}
    assert input_digests(recipe()) == {}


@pytest.fixture
def train(small, monkeypatch, tmp_path):  # noqa: F811
    monkeypatch.setattr(tokenizers, "pictures", lambda recipe, device: small)

    def go(name, **values):
        path = write(tmp_path / f"{name}.yaml", kind="autoencoder", preset="tiny", **values)
        run_recipe(path, tmp_path / name)
        return path

    return go


def changed(folder):
    """The same folder with other weights, as a second training would leave it."""
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file({key: tensor + 1 for key, tensor in load_file(path).items()}, path)


def test_a_finished_training_of_another_model_is_not_taken(train, tmp_path):
    train("first")
    path = train("second", initial=str(tmp_path / "first"))
    record = json.loads((tmp_path / "second/training.json").read_text())
    assert record["inputs"] == input_digests(recipe(initial=str(tmp_path / "first")))
    step, tools = Train(name="second", recipe=str(path)), Tools(tmp_path, None)
    assert step.run(tools).model == tmp_path / "second"
    changed(tmp_path / "first")
    with pytest.raises(SettingsDiffer, match=r"inputs\.initial: .* in the folder, .* now"):
        step.run(tools)
    del record["inputs"]  # as before there were any
    (tmp_path / "second/training.json").write_text(json.dumps(record))
    assert step.run(tools).model == tmp_path / "second"


def test_a_broken_off_training_does_not_go_on_from_another_model(train, tmp_path):
    train("first")
    values = {"initial": str(tmp_path / "first"), "steps": 4, "checkpoint_every": 2}
    with broken_off():
        train("second", **values)
    changed(tmp_path / "first")
    with pytest.raises(ValueError, match="is of another training: inputs is"):
        train("second", **values)
