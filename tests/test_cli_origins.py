"""`impasto ls models` and `impasto ls tokenizers`: where each one's weights come from."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto.cli import app, build
from impasto.cli.origins import made_by, read_recipes
from impasto.models.autoencoders import load_autoencoder
from impasto.train.run import KINDS
from impasto.zoo.weights import shipped_folder
from tests import tiny_tokenflow, tiny_vq


def listed(kind, *arguments):
    done = CliRunner().invoke(app, ["ls", kind, *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def rows(kind):
    return {row["name"]: row for row in json.loads(listed(kind, "--json"))}


@pytest.mark.parametrize("kind", ["models", "tokenizers"])
def test_what_ships_is_there_and_kinds_are_those_of_recipes(kind):
    found = rows(kind)
    for name, row in found.items():
        if row["ships"]:
            assert shipped_folder(name).is_dir()
        assert set(row["kinds"]) <= set(KINDS)
    assert {name for name, row in found.items() if row["ships"]} == {
        "sticker-mmdit", "sticker-infinity"}  # fmt: skip
    assert {"tokenflow", "layton"} <= set(found)


def test_recipes_are_named(monkeypatch, tmp_path):
    text = " ".join(listed("models").split())
    assert "ships; trained by recipes/sticker/mmdit.yaml" in text
    tokenizers = rows("tokenizers")["tokenflow"]
    assert tokenizers["recipes"][:1] == ["recipes/sticker/tokenflow-tokenizer.yaml"]
    assert "recipes/tokenflow/design.yaml" in tokenizers["recipes"]
    assert not tokenizers["ships"] and tokenizers["published"]
    monkeypatch.chdir(tmp_path)  # without a checkout
    assert "published; trained by a recipe of kind tokenflow-tokenizer" in listed("tokenizers")


def test_recipes_of_a_kind_and_stacks_with_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    for name, text in {
        "b": "kind: vq\nsteps: 1\n",
        "a": "steps:\n  - train: {recipe: recipes/b.yaml}\n  - eval\n",
        "c": "kind: clip\n", "d": "{", "e": "- x\n", "f": "steps:\n  - train: {recipe: no.yaml}\n",
    }.items():  # fmt: skip
        Path(f"recipes/{name}.yaml").write_text(text)
    recipes = read_recipes(Path("recipes"))
    assert made_by(("vq",), recipes) == ["recipes/b.yaml", "recipes/a.yaml"]
    assert made_by((), recipes) == made_by(("var",), recipes) == []


@pytest.mark.parametrize(
    ("name", "make", "other"),
    [("tokenflow", tiny_tokenflow.tokenizer, "vq"), ("vq", tiny_vq.tokenizer, "tokenflow")],
)  # fmt: skip
def test_tokenizers_load_by_name(tmp_path, name, make, other):
    model = make()
    model.save_pretrained(tmp_path)
    made = load_autoencoder(f"{name}:folder={tmp_path}")
    assert type(made.model) is type(model) and made.digest == model.token_digest()
    with pytest.raises(ValueError, match=f"{tmp_path} does not hold a "):
        load_autoencoder(f"{other}:folder={tmp_path}")
    assert name in build.filled("tokenizers")


def test_a_folder_called_as_a_name_that_needs_options_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="tokenizer 'vq' needs 'folder': vq:folder="):
        load_autoencoder("vq")
    tiny_vq.tokenizer().save_pretrained("vq")
    assert load_autoencoder("vq").digest == tiny_vq.tokenizer().token_digest()
