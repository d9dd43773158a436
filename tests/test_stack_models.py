"""Models in a stack: of earlier steps, as a whole or in options of names; several side by side."""

import json
from pathlib import Path

import pytest

from impasto.bench import read_results
from impasto.cli import build
from impasto.report.sheets import sheets
from impasto.report.stack import markdown
from impasto.run.directory import RunDirectory
from impasto.run.provenance import SettingsDiffer
from impasto.stack import Done, Tools, load_stack, run_stack
from impasto.stack.base import of_step
from impasto.stack.tokenized import Tokenizers
from impasto.stack.trained import Train
from tests.tiny_stack import FACTORIES, Noisy

TRAIN = [{"train": {"name": "no start", "recipe": "clip.yaml"}}]
CLIP = "kind: clip\nscenes: 1000\nsteps: 2\nbatch: 4\nlr: 0.1\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("clip.yaml").write_text(CLIP)
    return tmp_path


def stack(*steps):
    Path("stack.yaml").write_text(json.dumps({"steps": [*TRAIN, *steps]}))
    return load_stack("stack.yaml")


@pytest.mark.parametrize(
    ("text", "names", "filled"),
    [("step:no start", ["no start"], "out/no start"),
     ("tokenflow:folder=step:no start,passes=1", ["no start"],
      "tokenflow:folder=out/no start,passes=1"),
     ("reader:path=step:w 0.1,features=(clip-patches:folder=step:no start)",
      ["w 0.1", "no start"], "reader:path=b,features=(clip-patches:folder=out/no start)"),
     ("a:b=(c:d=(step:no start),e=1)", ["no start"], "a:b=(c:d=(out/no start),e=1)"),
     ("tts-var:laststep:x", [], "tts-var:laststep:x"), ("folder/step:x", [], "folder/step:x"),
     ("sticker-mmdit", [], "sticker-mmdit")],
)  # fmt: skip
def test_names_of_steps_end_where_options_do(text, names, filled):
    assert list(of_step(text)) == names
    done = {"no start": Done(model=Path("out/no start")), "w 0.1": Done(model=Path("b"))}
    assert Tools(Path("out"), build, done=done).model_name(text) == filled


def test_a_folder_with_a_comma_is_still_one_option(tmp_path):
    tools = Tools(tmp_path, build, done={"a": Done(model=Path("x,y/a"))})
    assert tools.model_name("tokenflow:folder=step:a,passes=1") == (
        "tokenflow:folder=(x,y/a),passes=1")  # fmt: skip
    assert tools.model_name("step:a") == "x,y/a"


def test_values_of_a_training_name_steps_however_deep(here):
    given = {"teacher": "step:no start", "model": {"parts": ["f:folder=step:w 0.1", 3]},
             "lr": 0.1}  # fmt: skip
    assert Train(name="t", recipe="clip.yaml", set=given).uses == {
        "no start": "model or scores", "w 0.1": "model or scores"}  # fmt: skip
    done = {"no start": Done(model=Path("a")), "w 0.1": Done(model=Path("b"))}
    assert Tools(Path("out"), build, done=done).named(given) == {
        "teacher": "a", "model": {"parts": ["f:folder=b", 3]}, "lr": 0.1}  # fmt: skip


def test_tokenizers_name_steps_in_options():
    models = {"a": "step:pixels", "b": "layton:folder=step:no start,decoding=ddim,steps=25"}
    step = Tokenizers(name="t", base="a", models=models)
    assert step.uses == {"pixels": "model", "no start": "model"}


def test_the_option_of_an_unknown_step_is_refused(here):
    with pytest.raises(ValueError, match="uses the model of a step 'no star', and no step before "
                                         "it makes that: did you mean 'no start'"):  # fmt: skip
        stack({"eval": {"model": "layton:folder=step:no star,top_k=1"}})
    with pytest.raises(ValueError, match="uses the model of a step ''"):
        stack({"eval": {"model": "step:"}})


@pytest.mark.parametrize(
    ("step", "words"),
    [({"eval": {"model": "tokenflw:transformer=step:no start", "limit": 1}},
      "unknown model 'tokenflw': did you mean 'tokenflow'"),
     ({"eval": {"model": "diffusers:idd=step:no start", "limit": 1}},
      "unknown key 'idd' for model 'diffusers'"),
     ({"tokenizers": {"base": "a", "models": {
         "a": "step:no start", "b": "layton:folder=step:no start,decodin=ddim"}}},
      "unknown key 'decodin' for tokenizer 'layton': did you mean 'decoding'")],
)  # fmt: skip
def test_options_are_checked_before_there_is_the_model(here, step, words):
    with pytest.raises(ValueError, match=words):
        run_stack(stack(step), Tools(Path("out"), build))
    assert not Path("out").exists()


# ------------------------------------------------------------------------------ several models


MODELS_RECIPE = """\
bench: fake
scorer: fake
second: fake-second
seeds: [0, 1]
limit: 2
steps:
  - eval: {name: beside, models: {plain: fake, other: "fake:name=two"}}
  - compare: {base: plain, pairs: [[other, plain]]}
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    Path("stack.yaml").write_text(MODELS_RECIPE)


def test_models_are_compared_as_searches_are(fakes):
    done = run_stack(load_stack("stack.yaml"), Tools(Path("out"), build))
    table = done["compare"].table
    assert [(row["name"], row["model"]) for row in table["rows"]] == [
        ("plain", "fake"), ("other", "fake:name=two")]  # fmt: skip
    for name, model in (("plain", "fake"), ("other", "fake:name=two")):
        for seed in (0, 1):
            record = RunDirectory(f"out/beside/{name}/seed-{seed}").record
            assert (record["model"]["name"], record["seed"]) == (model, seed)
            assert record["search"]["name"] == "none"
    right = {name: [r.correct for path in done["beside"].runs[name]
                    for r in read_results(RunDirectory(path).results)]
             for name in ("plain", "other")}  # fmt: skip
    difference = (sum(right["other"]) - sum(right["plain"])) / 4
    assert table["rows"][1]["difference"][0] == pytest.approx(difference) and difference != 0
    assert table["pairs"][0]["difference"] == table["rows"][1]["difference"]
    text = markdown(sheets([table]))
    assert "| model | score | difference from plain" in text and "fake on" not in text


def test_a_model_more_is_drawn_beside_the_others(fakes):
    def run(**overrides):
        Noisy.drawn = 0
        run_stack(load_stack("stack.yaml", overrides), Tools(Path("out"), build))
        return Noisy.drawn

    assert run() == 2 * 2 * 2
    assert run() == 0
    more = {"plain": "fake", "other": "fake:name=two", "third": "fake:name=three"}
    assert run(**{"beside.models": more}) == 2 * 2
    with pytest.raises(SettingsDiffer, match=r"beside\.model other: .*two.* in the folder"):
        run(**{"beside.models": more | {"other": "fake:name=2"}})


def test_models_may_be_of_earlier_steps_and_of_a_grid(here):
    made = stack({"eval": {"grid": {"j": [1, 3]}, "models": {
        "{j} passes": "tokenflow:folder=step:no start,passes={j}", "saved": "step:no start"}}})
    name = "tokenflow:folder=step:no start,passes="
    assert made.steps[1].named == {
        "1 passes": f"{name}1", "3 passes": f"{name}3", "saved": "step:no start"}  # fmt: skip
    assert made.steps[1].uses == {"no start": "model"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("models: {plain: fake, other: \"fake:name=two\"}", "limit: 2", "give a model, or models by"),
     ("bench: fake", "model: fake\nbench: fake", "with models say model: null"),
     ("{name: beside,", "{name: beside, searches: [\"best-of-n:n=2\"],",
      "give a step of its own to what has searches or a pool"),
     ("other:", "\"plain!\":", "models are called the same, plain"),
     ("fake:name=two", "fale", "unknown model 'fale'")],
)  # fmt: skip
def test_models_that_cannot_be_drawn_with_are_refused(fakes, old, new, words):
    assert old in MODELS_RECIPE
    Path("stack.yaml").write_text(MODELS_RECIPE.replace(old, new))
    with pytest.raises(ValueError, match=words):
        run_stack(load_stack("stack.yaml"), Tools(Path("out"), build))
    assert not Path("out").exists()
