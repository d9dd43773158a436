"""The step `ask`: judges beside each other on a bench's questions."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from impasto.bench import read_results
from impasto.cli import app
from impasto.run.directory import RunDirectory
from impasto.stack import load_stack
from impasto.stack.asked import Ask
from impasto.world.suites import question_of
from impasto.zoo.registry import JUDGES
from tests import tiny
from tests.scripted import Scripted

RECIPE = """\
bench: sticker-questions:per_kind=4
steps:
  - ask:
      judges:
        counts: scripted
        says yes: "scripted:word=(yes)"
        shy: "scripted:word=(yes),shy=true"
      base: counts
"""
ASKED = []


def scripted(word="two", shy=False, *, device="cpu"):
    """Says the same word to all; if shy, nothing where it is asked how many."""
    def answer(question):
        ASKED.append(question)
        return None if shy and question.text.startswith("How many") else word

    return Scripted(answer)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nobody cuts the power
    monkeypatch.setitem(JUDGES._factories, "scripted", scripted)
    ASKED.clear()
    Path("recipe.yaml").write_text(RECIPE)


def call(*arguments):
    return CliRunner().invoke(app, ["run", "recipe.yaml", "-o", "out", *arguments])


def truths(run):
    """Whether an answer is the truth, read anew from what the run says of itself."""
    records = read_results(RunDirectory(run).results)
    return [(r.tag, r.answer == question_of(r.spec.key)[1].answer) for r in records]


def test_judges_are_put_beside_each_other(here):
    done = call()
    assert done.exit_code == 0, done.output
    (table,) = json.loads(Path("out/table.json").read_text())["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["counts", "says yes", "shy"]
    assert list(rows["counts"]["score"]["tasks"]) == ["count", "color", "position", "existence"]
    for name, row in rows.items():
        right = truths(f"out/ask/{name.replace(' ', '-')}")
        for task, (value, low, high) in row["score"]["tasks"].items():
            own = [ok for tag, ok in right if tag == task]
            assert value == sum(own) / len(own) == sum(own) / 4 and low <= value <= high
        assert row["questions"] == 16
    none = [r for r in read_results(RunDirectory("out/ask/shy").results) if r.answer is None]
    assert rows["shy"]["unreadable"] == len(none) > 0
    assert {r.tag for r in none} == {"count"}
    assert rows["says yes"]["unreadable"] == 0 < rows["says yes"]["score"]["overall"][0]
    assert rows["counts"]["difference"] is None
    for name in ("says yes", "shy"):
        found = rows[name]["difference"]["overall"][0]
        assert found == pytest.approx(rows[name]["score"]["overall"][0]
                                      - rows["counts"]["score"]["overall"][0])  # fmt: skip
    text = Path("out/table.md").read_text()
    assert "| judge | all | count | color | position | existence | unreadable |" in text
    assert f"{len(none)} of 16" in text and "difference from counts" in text


def test_what_was_answered_is_not_asked_again(here):
    assert call("--set", "ask.judges={counts: scripted}").exit_code == 0
    before, _ = tiny.tree(Path("out/ask/counts")), ASKED.clear()
    assert call("--set", "ask.judges={counts: scripted, says yes: 'scripted:word=(yes)'}"
                ).exit_code == 0  # fmt: skip
    assert len(ASKED) == 16 and tiny.tree(Path("out/ask/counts")) == before
    done = call("--set", "ask.judges={counts: 'scripted:word=(no)'}")
    assert done.exit_code == 2 and "ask.judge counts" in done.stderr


def test_judges_read_with_models_of_earlier_steps():
    step = Ask(name="a", base="b", judges={
        "b": "reader:path=step:reader",
        "c": "reader:path=step:reader clip,features=(clip-patches:folder=step:teacher)"})
    assert step.uses == {"reader": "model", "reader clip": "model", "teacher": "model"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [("base: counts", "base: count", "base 'count' is none of the judges: did you mean 'counts'"),
     ("sticker-questions:per_kind=4", "geneval", "ask: geneval asks no questions"),
     ("says yes:", "counts!:", "judges are called the same"),
     ("scripted:word=(yes)", "scripted:wort=(yes)", "unknown key 'wort' for judge 'scripted'"),
     ("\"scripted:word=(yes)\"", "skripted", "unknown judge 'skripted'"),
     ("\"scripted:word=(yes)\"", "reader:path=step:tuned", "uses the model of a step 'tuned'"),
     ("per_kind=4", "per_kind=4\nlimit: 0", "limit must be a whole number >= 1")],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_before_anything_is(here, old, new, words):
    assert old in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(old, new))
    done = call()
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert not Path("out").exists() and not ASKED


def test_a_limit_is_of_all_kinds(here):
    assert call("--set", "limit=8", "--set", "ask.judges={counts: scripted}").exit_code == 0
    tags = [tag for tag, _ in truths("out/ask/counts")]
    assert sorted(tags) == sorted(["count", "color", "position", "existence"] * 2)
    assert load_stack("recipe.yaml").steps[0].limit is None
