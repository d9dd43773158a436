"""Benches that a judge's words decide: readings and rules against hand-computed cases."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from impasto.bench import IncompleteError
from impasto.bench.imagine import (
    GROUPS,
    OWN_PROMPT,
    ImagineItem,
    imagine_summary,
    judge_imagine,
    picture_score,
    read_items,
)
from impasto.score.judges import Judge, Unanswered
from impasto.score.judges.parse import asked, labelled, lines, mme, pope, vie, yes_no

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


def test_imagine_asks_with_our_words_or_a_files(tmp_path):
    said = "Fantasy Fulfillment: 8\nIdentity Preservation: 6\nAesthetic Quality: 9"
    judge = Says(said, "no", "no", "no")
    judged = judge_imagine(items(), {0: GREY, 3: GREY}, judge)
    assert judged == {0: (8, 6, 9), 3: None}
    assert "do 0" in judge.questions[0].text and "note 0" in judge.questions[0].text
    assert "<<" not in judge.questions[0].text and "<<note>>" in OWN_PROMPT
    path = tmp_path / "prompt.txt"
    path.write_text("<<note>>/<<instruction>>")
    judge = Says(said)
    judge_imagine(items()[:1], {0: GREY}, judge, path)
    assert judge.questions[0].text == "note 0/do 0"


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
