"""Trainings of surgery by recipes, very small: from an edited folder to a trained one."""

import json

import pytest
import torch
import yaml

from impasto.models import load_generator
from impasto.models.edited.record import apply, edits_of
from impasto.models.edited.stock import restock
from impasto.sample.protocol import Request, Sampling, generate
from impasto.surgery.options import Distillation, Regression, Tuning
from impasto.train import data
from impasto.train.kinds import common, surgery
from impasto.train.run import Recipe, run_recipe
from impasto.zoo.weights import load_state
from tests import tiny_dit, tiny_mmdit
from tests.breaking import broken_off

BASE = {"preset": "tiny", "scenes": 1000, "steps": 3, "batch": 4, "lr": 0.01, "compiled": False}
EDITS = {
    "grafted": [{"edit": "graft", "place": "attention", "operator": "hyena-x", "options": {},
                 "blocks": [0, 1]},
                {"edit": "graft", "place": "mlp", "operator": "mlp", "options": {"ratio": 3},
                 "blocks": [1]}],
    "paired": [{"edit": "pairs", "pairs": [[0, 1]]}],
    "pruned": [{"edit": "remove", "removed": {"0": ["ff"]}}],
    "bare": [{"edit": "remove", "removed": {"1": ["all"]}}],
    "interval": [{"edit": "remove", "removed": {"1": ["all"]}, "intervals": [[0, 2]]}],
    "whole": [],
    "dit": [],
    "dit-grafted": [{"edit": "graft", "place": "attention", "operator": "mamba-2", "options": {},
                     "blocks": [1]}],
    "dit-pruned": [{"edit": "remove", "removed": {"1": ["ff"]}}],
}  # fmt: skip
GIVEN = {"graft-regression": {"initial": "grafted", "teacher": "whole",
                              "regression": {"held_out": 4}},
         "prune-distillation": {"initial": "pruned", "teacher": "whole"},
         "finetune": {"initial": "grafted"}}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of edited generators, and what trains on them."""
    out = tmp_path_factory.mktemp("surgery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", 8)
        small = common.pictures(Recipe(**BASE | {"kind": "clip", "scenes": 16, "workers": 1}),
                                torch.device("cpu"))  # fmt: skip
    folders = {}
    for name, edits in EDITS.items():
        pipe = tiny_dit.generator() if name.startswith("dit") else tiny_mmdit.tiny()
        folders[name] = out / name
        torch.manual_seed(0)
        for edit in edits:
            apply(pipe.transformer, edit)
        pipe.save_pretrained(folders[name], "float32")
    pipe = tiny_mmdit.tiny()
    apply(pipe.transformer, {"edit": "remove", "removed": {"0": ["all"]}})
    restock(pipe.transformer)
    pipe.save_pretrained(folders.setdefault("renumbered", out / "renumbered"), "float32")
    pipe = tiny_mmdit.tiny()
    torch.nn.init.zeros_(pipe.transformer.proj_out.bias)
    pipe.save_pretrained(folders.setdefault("other", out / "other"), "float32")

    def train(kind, name="out", **values):
        values = GIVEN.get(kind, {}) | values
        values |= {key: str(folders.get(values[key], values[key]))
                   for key in ("initial", "teacher") if values.get(key)}  # fmt: skip
        path = out / "recipe.yaml"
        path.write_text(yaml.safe_dump(BASE | {"kind": kind} | values))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(surgery, "pictures", lambda recipe, device: small)
            return run_recipe(path, out / name)

    return folders | {"train": train, "out": out}


def weights(folder):
    return load_state(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def moved(before, after):
    """Keys whose tensors are others."""
    a, b = weights(before), weights(after)
    assert set(a) == set(b)
    return {key for key in a if not torch.equal(a[key], b[key])}


def draws(folder):
    images, _ = generate(load_generator(folder), [Request.of("a red dog")], [0],
                         Sampling(steps=2))  # fmt: skip
    assert torch.isfinite(images).all()
    return load_generator(folder).transformer


@pytest.mark.parametrize("initial", ["grafted", "paired", "interval", "pruned"])
def test_fresh_operators_alone_learn_by_regression(made, initial):
    folder = made["train"]("graft-regression", f"regression-{initial}", initial=initial, steps=24,
                           lr=0.002)  # fmt: skip
    keys = moved(made[initial], folder)
    places = {"grafted": ("transformer_blocks.0.attn.", "transformer_blocks.1.attn.",
                          "transformer_blocks.1.ff."),
              "paired": ("transformer_blocks.0.",),
              "interval": ("transformer_blocks.0.",),
              "pruned": ("transformer_blocks.0.",)}[initial]  # fmt: skip
    assert keys and all(key.startswith(places) for key in keys)
    assert all(any(key.startswith(place) for key in keys) for place in places)
    found = json.loads((folder / "regression.json").read_text())
    targets = {"grafted": [place[:-1] for place in places],
               "paired": ["transformer_blocks.0>transformer_blocks.1"],
               "interval": ["transformer_blocks.0>transformer_blocks.1"],
               "pruned": ["transformer_blocks.0"]}[initial]  # fmt: skip
    assert sorted(found["before"]) == sorted(found["after"]) == targets
    for target in targets:
        loss = "l2" if target.endswith("ff") else "l1"
        assert set(found["after"][target]) == {"l1", "l2", "huber"}
        assert found["after"][target][loss] < found["before"][target][loss]
    assert edits_of(draws(folder)) == EDITS[initial]


def test_a_host_by_class_is_edited_and_trained(made):
    """Times are a dit's own, its loss has the variance's part, and classes are dropped."""
    given = {"teacher": "dit", "regression": {"held_out": 4, "gated": True}}
    first = made["train"]("graft-regression", "dit-1", initial="dit-grafted", **given)
    keys = moved(made["dit-grafted"], first)
    assert keys and all(key.startswith("transformer_blocks.1.attn1.") for key in keys)
    second = made["train"]("finetune", "dit-2", initial=str(first))
    assert {"transformer_blocks.0.attn1.to_q.weight", "proj_out_2.bias"} < moved(first, second)
    assert edits_of(load_generator(second).transformer) == EDITS["dit-grafted"]
    pruned = made["train"]("prune-distillation", "dit-3", initial="dit-pruned", teacher="dit",
                           distillation={"task": 1.0})  # fmt: skip
    assert json.loads((pruned / "distillation.json").read_text())["shared_blocks"] == 1
    keys = {key.rpartition(".")[0] for key in moved(made["dit-pruned"], pruned)}
    assert keys > {"proj_out_1", "proj_out_2"}
    assert all(key.startswith(("proj_out", "transformer_blocks.2.", "transformer_blocks.3."))
               for key in keys)  # fmt: skip
    with pytest.raises(ValueError, match="a dit's times are uniform"):
        made["train"]("finetune", "dit-4", initial="dit-grafted", time_mean=1.0)


def test_gated_regression_and_another_loss(made):
    plain = made["train"]("graft-regression", "plain")
    gated = made["train"]("graft-regression", "gated", regression={"held_out": 4, "gated": True})
    huber = made["train"]("graft-regression", "huber",
                          regression={"held_out": 4, "attention": "huber"})  # fmt: skip
    assert moved(plain, gated) > moved(plain, huber) > set()
    assert {key.split(".")[2] for key in moved(plain, huber)} == {"attn"}


def test_a_pruned_network_learns_behind_its_first_cut(made):
    folder = made["train"]("prune-distillation", "distilled")
    keys, all_keys = moved(made["pruned"], folder), set(weights(folder))
    frozen = {key for key in all_keys if not key.startswith(
        ("transformer_blocks.0.ff_context", "transformer_blocks.1.", "norm_out", "proj_out"))
    }  # fmt: skip
    assert frozen and not keys & frozen and "proj_out.weight" in keys
    record = json.loads((folder / "distillation.json").read_text())
    assert record["shared_blocks"] == 0 and record["multipliers"] == {}
    assert 0.05 < record["compression"] < 0.25
    assert record["learning"] == sum(weights(folder)[key].numel() for key in all_keys - frozen)
    assert edits_of(draws(folder)) == EDITS["pruned"]
    full = made["train"]("prune-distillation", "full", distillation={"preserve": False})
    assert moved(made["pruned"], full) & frozen


def test_sensitivity_by_scores_and_by_range(made):
    path = made["out"] / "scores.json"
    path.write_text(json.dumps({"1<tab>ff": 29.9, "1<tab>w_norm1": 28.0, "1<tab>attn": 5.0}))
    graded = made["train"]("prune-distillation", "graded", distillation={
        "sensitivity": "graded", "scores": str(path), "base": 30.0})  # fmt: skip
    block = "transformer_blocks.1"
    assert json.loads((graded / "distillation.json").read_text())["multipliers"] == {
        f"{block}.ff": 1.0, f"{block}.norm1": 0.5, f"{block}.attn": 0.0}  # fmt: skip
    keys = moved(made["pruned"], graded)
    assert f"{block}.ff.net.2.bias" in keys and not any(key.startswith(f"{block}.attn.")
                                                        for key in keys)  # fmt: skip
    binary = made["train"]("prune-distillation", "binary", distillation={
        "sensitivity": "binary", "range": [0, 1]})  # fmt: skip
    assert {key.split(".ff_context")[0] for key in moved(made["pruned"], binary)} == {
        "transformer_blocks.0"}  # fmt: skip


def test_from_a_quarter_on_sensitivity_must_be_said():
    assert Distillation().way(0.249) == "none"
    assert Distillation(scores="a").way(0.25) == "graded"
    assert Distillation(range=[1, 3]).way(0.3) == "binary"
    assert Distillation(sensitivity="none").way(0.9) == "none"
    for options in (Distillation(), Distillation(scores="a", range=[1, 3])):
        with pytest.raises(ValueError, match=r"25.0% of the parameters is gone.* give either"):
            options.way(0.25)


@pytest.mark.parametrize("tuning", [{}, {"rank": 2, "targets": ["ff"]}])
def test_an_edited_network_is_fine_tuned(made, tuning):
    folder = made["train"]("finetune", f"tuned-{len(tuning)}", tuning=tuning)
    keys = moved(made["grafted"], folder)
    if tuning:
        assert {key.rpartition(".")[2] for key in keys} == {"weight"}
        assert {key.split(".")[2] for key in keys} == {"ff"}
    else:
        assert {"proj_out.bias", "context_embedder.weight"} < keys
    assert edits_of(draws(folder)) == EDITS["grafted"]
    a, b = (load_state(each / "text_encoder" / "model.safetensors")
            for each in (made["grafted"], folder))  # fmt: skip
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("kind", "given"),
    [("graft-regression", {}), ("graft-regression", {"initial": "paired"}),
     ("prune-distillation", {"distillation": {"task": 1.0, "ema": 0.9}}),
     ("finetune", {"tuning": {"rank": 2}})],
)  # fmt: skip
def test_the_same_command_goes_on_to_the_same_bits(made, monkeypatch, kind, given):
    monkeypatch.setattr("impasto.train.loop.EXACT", set())  # bfloat16, as on a GPU
    given = {"steps": 4, "checkpoint_every": 2} | given
    name = f"{kind}-{given.get('initial')}"
    whole = made["train"](kind, f"{name}-whole", **given)
    with broken_off():
        made["train"](kind, f"{name}-broken", **given)
    again = made["train"](kind, f"{name}-broken", **given)
    assert moved(whole, again) == set() != moved(made[given.get("initial") or GIVEN[kind][
        "initial"]], again)  # fmt: skip
    for path in whole.glob("*ion.json"):
        assert path.read_bytes() == (again / path.name).read_bytes()


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [("graft-regression", {"initial": None}, "needs the folder of an edited generator in initial"),
     ("graft-regression", {"teacher": None}, "needs its host, a folder or a name such as sticker"),
     ("graft-regression", {"initial": "bare"}, "whole blocks are removed and no interval is"),
     ("prune-distillation", {"initial": "whole"}, r"trains what remove left, .* are \[\]"),
     ("prune-distillation", {"initial": "renumbered"}, "by 'impasto prune --identities', and"),
     ("prune-distillation", {"teacher": "other"}, "other is not what .*pruned was made of: the"),
     ("graft-regression", {"teacher": "other"}, "other is not what .*grafted was made of: the"),
     ("prune-distillation", {"teacher": "grafted"}, "has edits that .*pruned was not made after"),
     ("graft-regression", {"regression": {"held_out": 16}}, "must leave some of the 16 pictures"),
     ("graft-regression", {"regression": {"mlps": "l1"}}, "regression has no 'mlps': did you"),
     ("prune-distillation", {"distillation": {"sensitivity": "binary", "range": [1]}},
      r"range is \[first, end\], given \[1\]"),
     ("finetune", {"teacher": "whole"}, "teacher is of .* only, and this recipe's kind is finet"),
     ("finetune", {"tuning": {"rank": 2, "targets": ["nn"]}}, "no linear layer is at or below n")],
)  # fmt: skip
def test_trainings_that_cannot_be_are_refused(made, kind, values, words):
    with pytest.raises(ValueError, match=words):
        made["train"](kind, "refused", **values)


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [(Regression, {"attention": "l3"}, "unknown loss 'l3'"),
     (Regression, {"schedule": "step"}, "unknown schedule 'step'"),
     (Distillation, {"sensitivity": "grades"}, "did you mean 'graded'"),
     (Distillation, {"sensitivity": "graded"}, "sensitivity graded needs scores"),
     (Distillation, {"features": -1.0}, "weight of features must be"),
     (Tuning, {"schedule": "warm"}, "did you mean 'warm-up'")],
)  # fmt: skip
def test_bad_options(options, given, words):
    with pytest.raises(ValueError, match=words):
        options(**given)
