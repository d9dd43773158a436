"""DPG-Bench: zeroing, crops and categories against hand-computed cases."""

import json

import pytest
import torch

from impasto.bench.dpg import dpg_bench
from impasto.bench.results import Record
from impasto.score.base import ScorerBroken
from impasto.score.dpg import DpgScorer, cascaded, parse_items, split_grid
from impasto.score.judges import Judge, Unanswered
from impasto.zoo.registry import BENCHES, SCORERS

HEAD = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
CSV = HEAD + """question_natural_language
a,"A red dog, by a tree",k,1,0,entity,whole,entity - whole (dog),Is there a dog?
a,"A red dog, by a tree",k,2,1,attribute,color,"attribute - color (dog, red)",Is the dog red?
a,"A red dog, by a tree",k,3,"1,2",relation,spatial,"relation - spatial (dog, tree)",By a tree?
b,A cat,k,2,1,attribute,state,attribute - state (cat),Does the cat sleep?
b,A cat,k,1,0,entity,whole,entity - whole (cat),Is there a cat?
"""


class Says(Judge):
    def __init__(self, *words):
        self.words = list(words)

    def ask(self, question, max_tokens=512, attempt=0):
        if attempt:
            raise Unanswered("greedy")
        return self.words.pop(0)

    def probability(self, question, variants, deduplicate=True):
        raise NotImplementedError

    def provenance(self):
        return {"id": "says"}


def records(bench, items, words):
    """Two crops of each prompt; the answers in the order of ids, "y", "n" or "?"."""
    full = {"y": "Yes.", "n": "no", "?": "well"}
    scorer = DpgScorer(Says(*(full[w] for w in words if w != " ")), items)
    places = [(i, s) for i in range(len(bench.specs)) for s in range(2)]
    specs = [bench.specs[i] for i, _ in places]
    scores = scorer.score(torch.zeros(len(specs), 3, 8, 8), specs)
    return [Record.of(f"images/{i:05d}/samples/{s:05d}.png", spec, score)
            for (i, s), spec, score in zip(places, specs, scores, strict=True)]  # fmt: skip


def summary(words, compatible=False):
    items = parse_items(CSV)
    bench = dpg_bench(items, compatible)
    return bench.summarise(records(bench, items, words), allow_incomplete=True)


def test_the_file_is_read_by_its_columns():
    a, b = parse_items(CSV)
    assert (a.id, a.prompt) == ("a", "A red dog, by a tree")
    assert [(p.id, p.parents, p.category, p.broad) for p in a.propositions] == [
        (1, (), "entity - whole", "entity"), (2, (1,), "attribute - color", "attribute"),
        (3, (1, 2), "relation - spatial", "relation")]  # fmt: skip
    assert [p.id for p in b.propositions] == [1, 2]
    with pytest.raises(ValueError, match="lacks the columns"):
        parse_items("item_id,text\na,b\n")
    with pytest.raises(ValueError, match="parent that is not there"):
        parse_items(CSV + "b,A cat,k,3,9,e,w,entity - whole (x),X?\n")


def test_zeros_cascade():
    a, _ = parse_items(CSV)
    assert cascaded(a.propositions, {1: 0, 2: 1, 3: 1}) == {1: 0, 2: 0, 3: 0}
    assert cascaded(a.propositions, {1: 1, 2: 0, 3: 1}) == {1: 1, 2: 0, 3: 0}
    assert cascaded(a.propositions, {1: 1, 2: 1, 3: 0}) == {1: 1, 2: 1, 3: 0}


def test_the_score_by_hand():
    """a: crops nyy -> 0, yny -> 1/3; mean 1/6. b: yy -> 1, yn -> 1/2; 3/4. Mean 11/24.

    Categories over both crops, zeroed: entity (0 1 1 1), attribute (0 0 1 0), relation (0 0).
    """
    found = summary("nyy yny yy yn")
    assert found["dpg"]["score"]["score"] == pytest.approx(100 * 11 / 24)
    assert found["overall"]["score"] == pytest.approx(11 / 24)
    assert {k: v["score"] for k, v in found["dpg"]["broad"].items()} == pytest.approx(
        {"entity": 75, "attribute": 25, "relation": 0})  # fmt: skip
    assert set(found["dpg"]["detailed"]) == {"entity - whole", "attribute - color",
                                             "attribute - state", "relation - spatial"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_released_codes_defects_only_when_asked():
    """Item a loses proposition 1, on which others depend, and is dropped; of b the last crop, not
    zeroed: ny -> entity 0, attribute 1, above what zeroing allows."""
    found = summary("nyy yny yy ny", compatible=True)
    assert found["dpg"]["images"] == 1
    assert found["dpg"]["score"]["score"] == pytest.approx(50)  # (1 + 0) / 2
    assert {k: v["score"] for k, v in found["dpg"]["broad"].items()} == {"entity": 0,
                                                                         "attribute": 100}


def test_unreadable_answers_leave_their_picture_out_and_are_counted():
    found = summary("?yy yny yy yn")
    assert found["dpg"]["unreadable_pictures"] == 1
    assert found["dpg"]["score"]["score"] == pytest.approx(100 * (1 / 3 + 3 / 4) / 2)
    assert "1 pictures unreadable" in found["overall"]["label"]


def test_grids_are_cut_row_by_row():
    image = torch.arange(16.0).reshape(1, 4, 4).expand(3, 4, 4)
    parts = split_grid(image)
    assert parts[:, 0, 0, 0].tolist() == [0, 2, 8, 10]
    assert torch.equal(parts[1], image[:, :2, 2:])
    with pytest.raises(ValueError, match="no four equal parts"):
        split_grid(image[:, :3])


def test_a_judge_that_says_yes_to_all_is_no_judge():
    items = parse_items(CSV)
    with pytest.raises(ScorerBroken, match="red picture is blue"):
        DpgScorer(Says("yes", "yes"), items).self_test()
    DpgScorer(Says("yes", "no", "No", "Yes"), items).self_test()


def test_the_names_need_the_file():
    for registry, context in ((BENCHES, {}), (SCORERS, {"device": "cpu"})):
        with pytest.raises(ValueError, match=r"dpg_bench\.csv"):
            registry.create("dpg", **context)
