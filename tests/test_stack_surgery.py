"""Surgery in a stack: models made and put beside each other; what cannot be is refused first."""

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from impasto.cli import build
from impasto.files import write_json
from impasto.models import load_generator
from impasto.models.edited.hosts import parameters
from impasto.models.edited.loading import from_pretrained
from impasto.models.edited.record import edits_of
from impasto.report.scatter import Point, _labels, _over, scatter, ticks
from impasto.report.sheets import sheets
from impasto.report.stack import drawings, markdown, write_stack_page
from impasto.run.provenance import SettingsDiffer
from impasto.run.settings import Settings
from impasto.score.statistics import Interval
from impasto.stack import STEPS, Tools, is_stack, load_stack, run_stack, trainings
from impasto.stack.base import keys_of
from impasto.surgery.contribution import read_contributions
from tests import tiny_mmdit
from tests.tiny_stack import FACTORIES

RECIPE = """\
bench: fake
scorer: fake
second: fake-second
limit: 2
sampling: {steps: 1}
steps:
  - contributions: {model: host, samples: 2}
  - contributions: {name: cosines, model: host, units: blocks, by: similarity}
  - prune: {model: host, scores: "step:contributions", budget: 0.9, order: score}
  - prune: {name: koala, model: host, scores: "step:cosines", budget: 0.9, order: score, identities: true}
  - graft: {model: host, operator: hyena-x, blocks: [1]}
  - prune: {name: both, model: "step:graft", components: "1:ff"}
  - quantise: {model: "step:both", format: int8}
  - eval: {models: {host: host, both: "step:both", quantised: "step:quantise"}}
  - eval: {name: chosen, model: "step:quantise", searches: {best of 2: "best-of-n:n=2,reward=fake-second"}}
  - costs: {base: host, title: Surgery}
"""  # noqa: E501
TRAINED = {"steps": 10, "seconds": 5, "recipe": {"kind": "generator", "initial": None}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registry, name, factory in FACTORIES:
        monkeypatch.setitem(registry._factories, name, factory)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    tiny_mmdit.tiny().save_pretrained("host", "float32")
    write_json("host/training.json", TRAINED | {"images": 1000})
    return tmp_path


def stack(text=RECIPE, **overrides):
    Path("recipe.yaml").write_text(text)
    return load_stack("recipe.yaml", overrides)


def run(text=RECIPE, **overrides):
    return run_stack(stack(text, **overrides), Tools(Path("out"), build))


def test_a_stack_of_surgery_ends_in_one_table(here):
    done = run()
    table = done["costs"].table
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["host", "both", "quantised", "best of 2"]
    host = load_generator("host")
    assert rows["host"]["parameters"] == parameters(host.transformer)
    assert rows["host"]["forward"] == host.forward_flops() > rows["both"]["forward"] > 0
    pruned = parameters(load_generator("out/prune").transformer)
    assert pruned < 0.9 * rows["host"]["parameters"]
    # Layers in int8 stand for as many numbers in about half of bfloat16's bytes.
    assert rows["quantised"]["parameters"] == rows["both"]["parameters"]
    assert 0.4 < rows["quantised"]["bytes"] / rows["both"]["bytes"] < 0.8
    assert rows["both"]["bytes"] > 2 * rows["both"]["parameters"]  # positions are a buffer
    assert rows["best of 2"]["cost"]["flops"] == 2 * rows["quantised"]["cost"]["flops"]
    assert all(row["seconds"] > 0 and row["training"]["steps"] == [] for row in rows.values())
    assert rows["host"]["difference"] is None and len(rows["both"]["difference"]) == 3
    found = from_pretrained("out/both/transformer")
    assert [edit["edit"] for edit in edits_of(found)] == ["graft", "remove"]
    cosines = read_contributions("out/cosines/contributions.json")
    assert sorted(cosines.scores) == [(0, "all"), (1, "all")] and cosines.base is None
    assert len({*edits_of(from_pretrained("out/koala/transformer"))[0]["removed"]}) == 1

    page = write_stack_page("t", sheets([table]), {}, Path("page.html")).read_text()
    assert page.count('<svg class="scatter"') == 2 and page.count('class="point run-') == 8
    assert "weights (MB)" in page and "(seconds)" in page
    text, files = markdown(sheets([table])), drawings(sheets([table]))
    assert "of the host&#39;s" in page and "| quantised |" in text
    assert re.findall(r"!\[.*\]\((.*)\)", text) == [*files] and len(files) == 2
    for drawing in files.values():
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
        assert "--run-0: " in drawing and ".scatter .point {" in drawing

    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.safetensors")}
    again = run()["costs"].table
    assert again["rows"] == table["rows"], "found again, seconds and all"
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(SettingsDiffer, match=r"graft\.blocks"):
        run(RECIPE.replace("blocks: [1]", "blocks: [0]"))


def test_trainings_since_the_host_are_summed(here):
    """Through edited folders, which have the record of what they were made of."""
    run("steps:\n  - graft: {model: host, operator: hyena-x, blocks: [1]}\n")
    for name, initial in (("first", "out/graft"), ("tuned", "first")):
        load_generator("out/graft").save_pretrained(name, "float32")
        recipe = {"kind": "graft-regression" if name == "first" else "finetune",
                  "initial": initial, "teacher": "host" if name == "first" else None}
        write_json(f"{name}/training.json", TRAINED | {"images": 100, "recipe": recipe})
    rows = {row["name"]: row for row in run("""\
bench: fake
scorer: fake
second: fake-second
limit: 1
sampling: {steps: 1}
steps:
  - prune: {name: both, model: tuned, components: "1:ff"}
  - eval: {models: {host: host, tuned: tuned, pruned: "step:both"}}
  - costs: {base: host}
""")["costs"].table["rows"]}
    host, grafted, both = (load_generator(name).forward_flops()
                           for name in ("host", "tuned", "out/both"))  # fmt: skip
    for name in ("tuned", "pruned"):
        training = rows[name]["training"]
        assert [step["kind"] for step in training["steps"]] == ["graft-regression", "finetune"]
        assert training["images"] == 200
    assert rows["tuned"]["training"]["flops"] == 100 * (3 * grafted + host) + 100 * 3 * grafted
    assert rows["tuned"]["training"]["share"] == pytest.approx(
        (600 * grafted + 100 * host) / (3000 * host))  # fmt: skip
    assert both < grafted and rows["host"]["training"] == {
        "steps": [], "images": 0, "flops": 0, "share": 0}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "words"), [
    ('components: "1:ff"', 'components: "1:fff"', "both: block 1 .joint. has no component 'fff'"),
    ('components: "1:ff"', "blocks: 7", "both: there is no block 7"),
    ('components: "1:ff"', "preset: sd3.5-medium", "both: preset 'sd3.5-medium' is for a"),
    ('components: "1:ff"', "renumber: true", "both: .* has no stock form"),
    ('components: "1:ff"', "exclude: attn, blocks: 1", "exclude is a list of components"),
    (", budget: 0.9, order: score}", ", order: score}", "scores needs budget, the share"),
    ("order: score}", "order: best}", "order must be one of hpp, printed, score, random"),
    ("operator: hyena-x", "operator: hyena-z", "unknown operator 'hyena-z'"),
    ("operator: hyena-x", "operator: 'hyena-x:window=2'", "graft: .*unknown option 'window'"),
    ("blocks: [1]", "blocks: even", "blocks is a pattern"),
    ("blocks: [1]", "blocks: [1], pairs: true", "pairs grafts no operator; give it without op"),
    ("format: int8", "format: int9", "unknown format 'int9'"),
    ("format: int8", "format: int8, skip: [nothing]", "quantise: skip: no linear layer has"),
    ('"step:both", format', '"step:cosines", format', "uses the model of a step 'cosines'"),
    ('scores: "step:cosines"', 'scores: "step:prune"', "uses the scores of a step 'prune'"),
    ('scores: "step:cosines"', "scores: no.json", "koala: there is no file of scores no.json"),
    ("by: similarity", "by: likeness", "by must be score or similarity or pro"),
    ("by: similarity", "by: probes, units: components", "probes is of whole blocks: give"),
    ("units: blocks", "units: components", "similarity is of whole blocks: give units: blocks"),
    ("  - graft: {model: host", "  - graft: {model: hosts", "'hosts' is neither a folder nor"),
    ("base: host", "base: hosts", "has a run 'hosts': did you mean 'host'"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_made(here, old, new, words):
    assert old in RECIPE
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        run(RECIPE.replace(old, new))
    assert not Path("out").exists()


def test_intervals_are_chosen_by_probes(here):
    """PPCL: of two blocks that a linear layer can follow, the first stays for both."""
    recipe = """\
bench: fake
scorer: fake
second: fake-second
limit: 2
sampling: {steps: 1}
steps:
  - contributions: {model: host, units: blocks, by: probes}
  - prune: {model: host, scores: "step:contributions", budget: 0.9, order: intervals, identities: true}
"""  # noqa: E501
    run(recipe)
    found = read_contributions("out/contributions/contributions.json")
    cka = found.measured["cka"]
    assert [len(row) for row in cka] == [3, 3, 3] and cka[1][0] is None and cka[1][1] == 1
    assert {unit: cka[unit[0]][unit[0] + 1] for unit in found.scores} == found.scores
    (edit,) = edits_of(from_pretrained("out/prune/transformer"))
    assert edit["removed"] == {"1": ["all"]} and edit["intervals"] == [[0, 2]]
    cosines = recipe.replace("by: probes", "by: similarity")
    with pytest.raises(ValueError, match="has no probes; measure them"):
        run_stack(stack(cosines), Tools(Path("cosines"), build))
    with pytest.raises(ValueError, match="chooses among all blocks; give it without eligible"):
        run(recipe.replace("order: intervals", "order: intervals, eligible: 1"))


def test_random_units_are_those_of_the_file(here):
    write_json("scores.json", {f"{i}<tab>{part}": 1.0 for i in (0, 1)
                               for part in ("ff", "attn", "w_norm1")})  # fmt: skip
    removed = set()
    for seed in range(4):
        options = f"budget: 0.9, order: random, seed: {seed}"
        run(f'steps:\n  - prune: {{name: "{seed}", model: host, scores: scores.json, '
            f'{options}}}\n')  # fmt: skip
        (edit,) = edits_of(from_pretrained(f"out/{seed}/transformer"))
        removed.add(json.dumps(edit["removed"], sort_keys=True))
    assert len(removed) > 1


def test_trainings_take_what_they_are_made_by(here):
    Path("t.yaml").write_text(yaml.safe_dump({
        "kind": "prune-distillation", "scenes": 1000, "steps": 2, "batch": 4, "lr": 0.1}))
    text = RECIPE.split("  - graft", maxsplit=1)[0] + """\
  - train: {recipe: t.yaml, set: {initial: "step:koala", teacher: host,
            distillation: {sensitivity: graded, scores: "step:contributions"}}}
"""  # fmt: skip
    made = trainings(stack(text))
    assert [step.name for step in made.steps] == ["contributions", "cosines", "prune", "koala",
                                                  "train"]  # fmt: skip
    assert made.steps[-1].uses["contributions"] == "model or scores"
    with pytest.raises(ValueError, match="uses the model or scores of a step 'none'"):
        stack(text.replace("step:koala", "step:none"))


@pytest.fixture(scope="module")
def tools():
    return Tools(Path("nowhere"), build)  # judges and models are built once


OURS = [f"recipes/{name}/sticker.yaml" for name in ("hierarchicalprune", "grafting", "surgery")]


@pytest.mark.parametrize("path", OURS)
def test_recipes_that_ship_pass_their_checks(path, tools, monkeypatch):
    monkeypatch.setattr(Settings, "self_test", lambda self: None)  # of judges, with own tests
    assert is_stack(path)
    made = load_stack(path)
    for i, step in enumerate(made.steps):
        step.check(tools, made.steps[:i])
    assert {"costs", "compare"} <= {step.name for step in made.steps}
    assert not Path("nowhere").exists()


def test_options_that_are_not_a_recipes_are_no_keys():
    assert "spell" not in keys_of("prune") and "spell" in STEPS.factory(
        "prune").__dataclass_fields__  # fmt: skip
    assert {"operator", "pairs", "seed", "model", "name"} <= {*keys_of("graft")}


# The drawing


@pytest.mark.parametrize(("low", "high", "wanted"), [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0.41, 0.58, [0.4, 0.45, 0.5, 0.55, 0.6]),
    (0, 23.4, [0, 5, 10, 15, 20, 25]), (0.5, 0.5, [0.5, 0.6]), (0, 0, [0, 0.2])])
def test_ticks_are_round_and_hold_all(low, high, wanted):
    assert ticks(low, high) == pytest.approx(wanted)


def test_points_are_told_apart_and_named(tmp_path):
    points = [Point(f"<{i}> model", 1 + i % 3, Interval(0.5, 0.4, 0.6)) for i in range(20)]
    text = str(scatter(points, "a (MB)", "b & c"))
    marks = re.findall(r'class="point (run-\d)" [^>]* d="([^"]*)"', text)
    assert len(set(marks)) == 20 and "&lt;7&gt; model" in text and "b &amp; c" in text
    with pytest.raises(ValueError, match="at least one point"):
        scatter([], "a", "b")
    places = [(100.0 + i, 200.0) for i in range(12)]
    boxes = [(x, y, x + 60, y + 14) for x, y in _labels(places, ["names"] * 12)]
    assert not any(_over((*a[:2], a[0] + 32, a[3]), (*b[:2], b[0] + 32, b[3]))
                   for i, a in enumerate(boxes) for b in boxes[:i])  # fmt: skip
    assert all(map(math.isfinite, (value for box in boxes for value in box)))
