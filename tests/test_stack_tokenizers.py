"""The step `tokenizers`, and what trains them in a stack."""

import json

import pytest
import torch
from typer.testing import CliRunner

from impasto.cli import app, build
from impasto.report.sheets import sheets
from impasto.report.stack import markdown
from impasto.run import probe
from impasto.stack import Tools, load_stack
from impasto.stack.tokenized import Tokenizers, _differences
from impasto.train import data
from tests import tiny_vq

ROWS = [{"name": "a", "psnr": 20.0, "perceptual_x": 0.5, "image": "1"},
        {"name": "b", "psnr": 22.0, "perceptual_x": 0.25, "image": "2"}]  # fmt: skip


def recipe(tmp_path, **changes):
    models = {"first": tmp_path / "first", "second": tmp_path / "second",
              "latents": "sticker-mmdit"} | changes  # fmt: skip
    path = tmp_path / "stack.yaml"
    path.write_text(json.dumps({"steps": [{"tokenizers": {
        "name": "beside", "base": "first", "pictures": "world:scenes=12", "features": [],
        "models": {name: str(folder) for name, folder in models.items()}}}]}))  # fmt: skip
    return path


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 4)
    for name, seed in (("first", 0), ("second", 1)):
        tiny_vq.tokenizer(seed=seed).save_pretrained(tmp_path / name)
    ask = probe.probe
    monkeypatch.setattr(probe, "probe", lambda one, part: ask(one, part=part, learn=4, ask=4))
    monkeypatch.setattr(probe, "CHUNK", 4)
    return recipe(tmp_path)


def test_tokenizers_are_put_beside_each_other_and_on_a_page(made, tmp_path):
    done = CliRunner().invoke(app, ["run", str(made), "-o", str(tmp_path / "out"), "--batch-size",
                                    "4"])  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out/beside/report.html").read_text()
    assert all(f">{name}<" in page for name in ("first", "second", "latents"))
    assert page.count('src="data:image') > 12
    assert '<a href="beside/report.html">beside: pictures</a>' in (
        tmp_path / "out/report.html").read_text()  # fmt: skip
    (table,) = json.loads((tmp_path / "out/table.json").read_text())["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["first", "second", "latents"]
    assert rows["first"]["differences"] == {}
    for name in ("second", "latents"):
        for key, (value, low, high) in rows[name]["differences"].items():
            means = [rows[one]["summary"]["means"][key]["value"] for one in ("first", name)]
            assert value == pytest.approx(means[1] - means[0], abs=1e-6)
            assert low <= value <= high
    assert rows["latents"]["probe"] == {} and rows["second"]["probe"]["all"]["channels"] == 4
    assert rows["latents"]["summary"]["verdicts"]["overall"]["value"] == 1.0
    made = sheets([table])
    assert made[0].columns == ("tokenizer", "PSNR", "mean colour error", "sticker detector",
                               "sticker clip", "verdicts kept")  # fmt: skip
    assert made[1].columns == ("tokenizer", "codes used", "perplexity")  # no features were asked
    assert made[1].rows[2] == ("latents", "–", "–") and made[2].columns[1] == "PSNR"
    text = markdown(made)
    assert "verdicts kept" in text and "class of the object" in text
    means = rows["second"]["summary"]["means"]["mean_color_error"]
    line = next(line for line in text.splitlines() if line.startswith("| second |"))
    assert f"{means['value']:.2f} [{means['low']:.2f}, {means['high']:.2f}]" in line
    assert "mean_color_error" in rows["second"]["differences"]


def test_differences_are_of_pairs_of_pictures():
    other = [row | {"psnr": row["psnr"] + 1, "perceptual_x": row["perceptual_x"]} for row in ROWS]
    found = _differences(ROWS, other)
    assert found["psnr"][0] == 1 and found["perceptual_x"][0] == 0
    assert set(found) == {"psnr", "perceptual_x"}
    exact = [ROWS[0] | {"psnr": None}, ROWS[1]]
    assert set(_differences(ROWS, exact)) == {"perceptual_x"}


@pytest.mark.parametrize(
    ("values", "words"),
    [({"models": {"a": "x"}, "base": "a"}, "two tokenizers at least"),
     ({"models": {"a": "x", "b": "y"}, "base": "c"}, "base 'c' is none of the models")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Tokenizers(name="t", **values)


def test_a_training_names_earlier_models(tmp_path):
    stack = load_stack("recipes/tokenflow/design.yaml")
    tokenizer = next(step for step in stack.steps if step.name == "shared")
    assert tokenizer.uses == {"teacher": "model or scores"}
    table = next(step for step in stack.steps if step.name == "design")
    assert table.uses["semantic"] == "model" and len(table.uses) == 6


def test_too_few_pictures_are_refused_before_anything_is_made(tmp_path):
    step = Tokenizers(name="t", models={"a": "sticker-mmdit", "b": "sticker-infinity"}, base="a",
                      pictures="world:scenes=12")  # fmt: skip
    with pytest.raises(ValueError, match="needs at least 129 pictures, there are 12"):
        step.check(Tools(tmp_path, build), [])


@pytest.mark.parametrize("name", ["tokenflow/sticker", "tokenflow/design", "layton/sticker"])
def test_the_recipes_of_tokenizers_are_whole_before_anything_is_made(name, tmp_path):
    stack, tools = load_stack(f"recipes/{name}.yaml"), Tools(tmp_path, build)
    for i, step in enumerate(stack.steps):
        step.check(tools, stack.steps[:i])
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ the probe


def test_the_probe_reads_what_is_linear_in_the_features():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (600,))
    features = torch.eye(3)[labels] @ torch.randn(3, 5) + 0.01 * torch.randn(600, 5) + 4
    ridge = probe.Ridge(3)
    for part, own in zip(features[:400].split(70), labels[:400].split(70), strict=True):
        ridge.add(part, own)
    assert torch.equal(ridge.said(features[400:]), labels[400:])
    noise = probe.Ridge(3)
    noise.add(torch.randn(400, 5), labels[:400])
    assert (noise.said(torch.randn(200, 5)) == labels[400:]).float().mean() < 0.5


def test_the_probe_is_ridge_regression():
    torch.manual_seed(1)
    f, labels = torch.randn(50, 4).double(), torch.randint(0, 3, (50,))
    ridge = probe.Ridge(3, shrink=0.5)
    ridge.add(f, labels)
    one = torch.cat([f, torch.ones(50, 1)], 1)
    y = torch.nn.functional.one_hot(labels, 3).double()
    penalty = torch.diag(torch.cat([0.5 * 50 * f.var(0, correction=0), torch.zeros(1)]))
    assert torch.allclose(ridge.weights(), torch.linalg.inv(one.T @ one + penalty) @ one.T @ y)
    with pytest.raises(ValueError, match="needs places to learn from"):
        probe.Ridge(3).weights()


def test_parts_that_codes_do_not_have_are_refused(made):
    model = tiny_vq.tokenizer()
    assert probe.parts_of(model) == ("all",)
    with pytest.raises(ValueError, match="no part 'semantic'; allowed: all"):
        probe._channels(model, "semantic")
