"""Benches that a judge's words decide: readings and rules against hand-computed cases."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from impasto.bench import IncompleteError, read_results
from impasto.bench.imagine import GROUPS, imagine_bench, imagine_summary
from impasto.cli import app
from impasto.images import write_png
from impasto.score.base import ScorerBroken
from impasto.score.imagine import (
    METRICS,
    OWN_PROMPT,
    ImagineItem,
    ImagineScorer,
    imagine_scorer,
    picture_score,
    read_items,
)
from impasto.score.judges import Judge, Unanswered
from impasto.score.judges.local import LocalJudge
from impasto.score.judges.parse import asked, labelled, lines, mme, pope, vie, yes_no
from impasto.zoo.registry import BENCHES
from tests import tiny_vlm
from tests.scripted import Scripted, installed

IMAGINE = Path(__file__).parents[2] / "shared/data/imagine-bench.jsonl"
GREY = torch.full((3, 8, 8), 0.5)


class Says(Judge):
    """Words from a list, one a question; "" is no answer at all."""

    def __init__(self, *words):
        self.words, self.questions = list(words), []

    def ask(self, question, max_tokens=512, attempt=0):
        self.questions.append(question)
        if not (word := self.words.pop(0)):
            raise Unanswered("silent")
        return word

    def probability(self, question, variants, deduplicate=True):
        raise NotImplementedError

    def provenance(self):
        return {"id": "says"}


@pytest.mark.parametrize("read, text, value", [
    (yes_no, " Yes.\n", "yes"), (yes_no, "no", "no"), (yes_no, "yes, a dog", None),
    (vie, '```json\n{"score": [7, 9.5], "reasoning": "{x}"}\n```', (7, 9.5)),
    (vie, '{"score": [11]}', None), (vie, '{"score": [true]}', None), (vie, "7 and 9", None),
    (vie, '{"score": []}', None), (vie, '{"score": 4}', (4,)),
    (lines, "Brief reasoning: good\nPrompt Compliance: 4\nVisual Naturalness:3 \r\nX: 4/5\nY: 4.",
     (4, 3)),
    (lines, "4\n5", None),
    (mme, "Yes.", "yes"), (mme, "n", "no"), (mme, "No, it is", "no"), (mme, "I say yes", None),
    (pope, "There is no dog. yes", "no"), (pope, "Yes, there is. Not so", "yes"),
    (pope, "No, there is not", "no"), (pope, "none", "yes"),
])  # fmt: skip
def test_readings(read, text, value):
    assert read(text) == value


def test_imagine_bench_reads_as_its_script_does():
    names = ("Fantasy", "Identity")
    assert labelled("Fantasy: 8.5\nidentity\uff1a 12", names) == (8, 10)
    assert labelled("Fantasy 7 Identity7", names) == (7, 7)
    assert labelled("Fantasy: 8", names) is None
    assert labelled("Fantasy: good\nIdentity: 3", names) is None


def test_what_cannot_be_read_is_asked_again_and_then_none():
    judge = Says("perhaps", "well", "yes", "hm", "hm", "hm", "")
    assert asked(judge, None, yes_no) == "yes"
    assert asked(judge, None, yes_no) is None and judge.words == [""]
    assert asked(judge, None, yes_no) is None


def items():
    kinds = ("COLOR", "SIZE", "MATERIAL", "TIME", "Multi-Object")
    return [ImagineItem(i, f"do {i}", f"note {i}", kind) for i, kind in enumerate(kinds)]


def test_imagine_by_hand():
    """.8 * 6 + .2 * 9 = 6.6; groups 6.6 and 10 -> 8.3, then 5, 2, 8: (24.9 + 10 + 4 + 16) / 9."""
    assert picture_score(8, 6, 9) == 6.6
    judged = {0: (8, 6, 9), 1: (10, 10, 10), 2: (5, 5, 5), 3: (2, 4, 2), 4: (8, 8, 8)}
    summary = imagine_summary(items(), judged)
    assert {k: v["score"] for k, v in summary["groups"].items()} == pytest.approx(
        dict(zip(GROUPS, (8.3, 5, 2, 8), strict=True)))  # fmt: skip
    assert summary["overall"]["score"] == pytest.approx(54.9 / 9)
    assert summary["overall"]["low"] < 54.9 / 9 < summary["overall"]["high"] <= 10
    assert summary["released_script"] == pytest.approx((24.9 + 10 + 4) / 7)
    assert summary["coverage"] == {"judged": 5, "unreadable": 0, "of": 5}


def test_the_published_imagine_score_is_the_mean_over_four_groups():
    """Echo-4o's README example: 8.821, 9.339, 8.377, 7.813 -> 8.613."""
    names = ("attribute shift", "hybridization", "spatiotemporal", "multi-object")
    means = dict(zip(names, (8.821, 9.339, 8.377, 7.813), strict=True))
    weights = {name: len(kinds) if name != "multi-object" else 2 for name, kinds in GROUPS.items()}
    assert sum(means[n] * weights[n] for n in names) / 9 == pytest.approx(8.613, abs=5e-4)


def test_unreadable_judgements_are_no_numbers():
    judged = {0: (8, 6, 9), 1: None, 2: (5, 5, 5), 3: (2, 4, 2), 4: (8, 8, 8)}
    with pytest.raises(IncompleteError, match="4/5 judged pictures"):
        imagine_summary(items(), judged)
    summary = imagine_summary(items(), judged, allow_incomplete=True)
    assert summary["coverage"] == {"judged": 4, "unreadable": 1, "of": 5}
    assert summary["groups"]["attribute shift"]["score"] == pytest.approx(6.6)
    assert summary["released_script"] == pytest.approx((3 * 3.3 + 10 + 4) / 7)
    with pytest.raises(ValueError, match="nothing to sum up"):
        imagine_summary(items(), dict.fromkeys(range(5)), allow_incomplete=True)


def scorer(judge, prompt=OWN_PROMPT):
    of = {str(item.id): item for item in items()}
    return ImagineScorer(judge, of, name="imagine", prompts={"all": prompt}, official=False)


def test_imagine_asks_with_our_words_or_a_files():
    said = "Fantasy Fulfillment: 8\nIdentity Preservation: 6\nAesthetic Quality: 9"
    judge = Says(said, "no", "no", "no")
    specs = imagine_bench(items()).specs
    first, second = scorer(judge).score(torch.stack([GREY, GREY]), [specs[0], specs[3]])
    assert first.value == 6.6 and second.value != second.value and first.correct is None
    assert first.scores == {"fantasy": 8, "identity": 6, "aesthetic": 9} and not second.scores
    assert "do 0" in judge.questions[0].text and "note 0" in judge.questions[0].text
    assert "<<" not in judge.questions[0].text and "<<note>>" in OWN_PROMPT
    judge = Says(said)
    scorer(judge, "<<note>>/<<instruction>>").score(GREY[None], specs[:1])
    assert judge.questions[0].text == "note 0/do 0"
    with pytest.raises(ValueError, match="'77' is no item of imagine's file"):
        scorer(judge).score(GREY[None], [replace(specs[0], key="77")])


def marks(question):
    """By the item's number: 8, 6, 9 for the first; the fourth cannot be read."""
    number = int(question.text.split("do ")[1].split()[0])
    rows = {0: (8, 6, 9), 1: (10, 10, 10), 2: (5, 5, 5), 4: (8, 8, 8)}
    return "".join(f"{name}: {mark}\n" for name, mark
                   in zip(METRICS, rows.get(number, ()), strict=False)) or "well"


def test_imagine_bench_through_the_command_line(tmp_path, monkeypatch):
    """As by hand above, without the fourth: groups 8.3, 5 and 8, none of TIME; no overall."""
    judge = installed(monkeypatch, Scripted(marks))
    monkeypatch.setitem(BENCHES._factories, "imagine", lambda path: imagine_bench(items()))
    monkeypatch.setattr("impasto.score.imagine.read_items", lambda path: items())
    for item in items():
        write_png(tmp_path / f"in/{item.id}.png", GREY)
    command = ["eval", "imagine:path=x", "--images", str(tmp_path / "in"), "--out",
               str(tmp_path / "run"), "--scorer", "imagine:path=x,vlm=y"]  # fmt: skip
    done = CliRunner().invoke(app, command[:-2])
    assert done.exit_code == 2 and "imagine:path=FILE,vlm=FOLDER" in done.output
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 and "4/5 readable judgements" in done.output
    asked = len(judge.questions)
    done = CliRunner().invoke(app, [*command, "--allow-incomplete"])
    assert done.exit_code == 0, done.output
    assert len(judge.questions) == asked + 3, "only the unreadable one is asked again"
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["coverage"] == {"images": 4, "of": 5, "unreadable": 1}
    assert {k: v["score"] for k, v in summary["imagine"]["groups"].items()} == pytest.approx(
        {"attribute shift": 8.3, "hybridization": 5, "multi-object": 8})  # fmt: skip
    assert summary["imagine"]["overall"] is None
    assert summary["overall"]["label"] == "mean of 3 tasks"
    assert summary["imagine"]["released_script"] == pytest.approx((24.9 + 10 + 0) / 7)
    kept = read_results(tmp_path / "run/results.jsonl")
    assert [r.value for r in kept] == [6.6, 10, 5, None, 8] and kept[3].correct is None


def test_an_untrained_model_is_no_judge(tmp_path):
    folder = tiny_vlm.saved(tmp_path)
    judge = LocalJudge.from_folder(folder)
    with pytest.raises(ScorerBroken, match="cannot judge"):
        scorer(judge).self_test()
    (score,) = scorer(judge).score(GREY[None], imagine_bench(items()).specs[:1])
    assert score.value != score.value, "random words hold no marks"


@pytest.mark.skipif(not IMAGINE.is_file(), reason="the official file is not here")
def test_the_official_imagine_file(tmp_path):
    found = read_items(IMAGINE)
    assert len(found) == 270 and found[0].instruction.startswith("A photo of a monkey")
    groups = {kind: name for name, kinds in GROUPS.items() for kind in kinds}
    sizes = Counter(groups[i.kind] for i in found)
    assert sizes == dict(zip(GROUPS, (90, 60, 60, 60), strict=True))
    full = imagine_summary(found, {i.id: (i.id % 11, 7, 5) for i in found})
    mean = sum(picture_score(i.id % 11, 7, 5) for i in found) / 270
    assert full["overall"]["score"] == pytest.approx(mean)  # 3:2:2:2 is the mean over pictures


def test_another_imagine_file_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="has sha256"):
        read_items(path)
    with pytest.raises(ValueError, match="needs its official file"):
        imagine_scorer()
