"""Benches that ask, through the command line: files of answers, judges, resume, bad input."""

import base64
import json
import re

import pytest
import torch
from typer.testing import CliRunner

from impasto.bench import IncompleteError, read_results
from impasto.bench.asked import read_answers
from impasto.bench.asking import Asking, marked
from impasto.bench.gqa import read_gqa_items
from impasto.bench.mmbench import read_mmbench_items
from impasto.bench.mme import read_mme_items
from impasto.bench.pope import read_pope_items
from impasto.bench.understanding import gqa_match
from impasto.cli import app
from impasto.images import png_bytes, read_image, write_png
from impasto.run.compare import compare
from impasto.score.judges.parse import letter, mme
from impasto.zoo.registry import BENCHES, JUDGES
from tests import tiny, tiny_vlm
from tests.scripted import Scripted


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def grey(shade):
    return torch.full((3, 16, 16), round(shade * 255) / 255)


def answers(path, rows):
    path.write_text("".join(json.dumps({"key": k, "answer": a}) + "\n" for k, a in rows.items()))
    return path


@pytest.fixture
def mme_folder(tmp_path):
    """Sub-task color with two pictures, one of them in the layout of two folders: posters."""
    for name, shade in (("1", 0.2), ("2", 0.4)):
        write_png(tmp_path / f"mme/color/{name}.png", grey(shade))
        (tmp_path / f"mme/color/{name}.txt").write_text("Is it red?\tYes\nIs it blue?\tNo\n")
    write_png(tmp_path / "mme/posters/images/3.png", grey(0.6))
    (tmp_path / "mme/posters/questions_answers_YN").mkdir()
    (tmp_path / "mme/posters/questions_answers_YN_zh").mkdir()
    (tmp_path / "mme/posters/questions_answers_YN_zh/3.txt").write_text("?\tNo\n")
    (tmp_path / "mme/posters/questions_answers_YN/3.txt").write_text("Two?\tNo\r\nOne?\tYes\r\n")
    return tmp_path / "mme"


def test_mme_from_a_file_of_answers(mme_folder, tmp_path):
    """As by hand: color 3 of 4 right and one of two pictures, 125; posters both, 200."""
    said = answers(tmp_path / "a.jsonl", {
        "color/1/1": "Yes.", "color/1/2": "No, it is not", "color/2/1": "yes",
        "color/2/2": "I cannot say", "posters/3/1": "n", "posters/3/2": "Yes"})  # fmt: skip
    done = call("eval", f"mme:path={mme_folder}", "--answers", said, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    found = summary(tmp_path / "run")
    assert found["mme"]["subtasks"] == {"color": 125, "posters": 200}
    assert "color 125.0 of 200" in done.output
    assert "1 answers hold neither yes nor no" in done.output
    assert found["tasks"]["color"]["score"] == 0.75 and found["coverage"] == {"images": 6, "of": 6}
    records = read_results(tmp_path / "run/results.jsonl")
    assert [r.correct for r in records] == [True, True, True, False, True, True]
    assert records[3].answer == "I cannot say" and "unreadable" in records[3].reason
    shown = read_image(tmp_path / "run" / records[5].filename)
    assert torch.equal(shown, grey(0.6)), "the run's picture is the one that was asked about"
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["second"] is None and record["model"]["name"] == "a.jsonl"
    page = (tmp_path / "run/report.html").read_text()
    assert "I cannot say" in page and "draws what the prompt says" not in page


def test_answers_that_are_not_there_are_counted(mme_folder, tmp_path):
    said = answers(tmp_path / "a.jsonl", {"color/1/1": "yes", "color/1/2": "no"})
    command = "eval", f"mme:path={mme_folder}", "--answers", said, "--out", tmp_path / "run"
    done = call(*command)
    assert done.exit_code == 3 and "2/6 answers; missing: color/2/1" in done.output
    done = call(*command, "--allow-incomplete")
    assert done.exit_code == 0, done.output
    found = summary(tmp_path / "run")
    assert found["coverage"] == {"images": 2, "of": 6, "unreadable": 4}
    assert found["mme"]["subtasks"] == {"color": 200}
    page = (tmp_path / "run/report.html").read_text()
    assert "right / all" in page and page.count("unreadable") >= 4
    assert "what was seen" not in page, "nobody looked for objects"


def test_a_judge_is_asked_and_an_interrupted_run_goes_on(mme_folder, tmp_path, monkeypatch):
    def yes_unless_blue(question):
        return "no" if "blue" in question.text or "Two" in question.text else "yes"

    def stops(question):
        if "Two" in question.text:
            raise KeyboardInterrupt
        return yes_unless_blue(question)

    judge = Scripted(yes_unless_blue)
    monkeypatch.setitem(JUDGES._factories, "fake", lambda device: judge)
    command = ("eval", f"mme:path={mme_folder},suffix=true", "--judge", "fake", "--out")
    assert call(*command, tmp_path / "whole").exit_code == 0
    assert len(judge.questions) == 6
    assert judge.questions[0].text == ("Is it red? Answer the question using a single word or "
                                       "phrase.")  # fmt: skip
    assert torch.equal(judge.questions[2].images[0], grey(0.4))
    judge = Scripted(stops)
    assert call(*command, tmp_path / "cut").exit_code == 130
    assert len(read_results(tmp_path / "cut/results.jsonl")) == 4
    judge = Scripted(yes_unless_blue)
    assert call(*command, tmp_path / "cut").exit_code == 0
    assert len(judge.questions) == 2, "what has an answer is not asked again"
    assert tiny.tree(tmp_path / "cut") == tiny.tree(tmp_path / "whole")


def test_a_tiny_untrained_model_answers_and_its_words_are_counted(mme_folder, tmp_path):
    """Random words are wrong in MME's sense; the picture of each question is shown once."""
    folder = tiny_vlm.saved(tmp_path / "vlm")
    done = call("eval", f"mme:path={mme_folder}", "--judge", f"vlm:path={folder}", "--limit", "2",
                "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    records = read_results(tmp_path / "run/results.jsonl")
    assert len(records) == 2 and all(r.answer is not None for r in records)
    assert [r.correct for r in records] == [mme(r.answer) == t for r, t
                                            in zip(records, ("yes", "no"), strict=True)]
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["model"]["kind"] == "transformers" and len(record["model"]["sha256"]) == 64


@pytest.mark.parametrize("change, words", [
    (lambda d: (d / "color/1.txt").write_text("Is it red?\tYes\n"), "color/1 has 1"),
    (lambda d: (d / "color/1.txt").write_text("Is it red?\tMaybe\nb\tno\n"), "'maybe', not yes"),
    (lambda d: (d / "color/1.png").unlink(), "has no picture of the same name"),
])  # fmt: skip
def test_wrong_mme_folders_are_refused_by_name(mme_folder, change, words):
    change(mme_folder)
    with pytest.raises(ValueError, match=words):
        read_mme_items(str(mme_folder))


def test_mme_as_the_hub_keeps_it(mme_folder, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"question_id": f"color/{n}.png", "question": q, "answer": a, "category": "color",
             "image": {"bytes": png_bytes(grey(0.2)), "path": None}}
            for n in (1, 2) for q, a in (("Is it red?", "Yes"), ("Is it blue?", "No"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mme.parquet")
    found = read_mme_items(str(tmp_path / "mme.parquet"))
    assert [i.key for i in found] == [f"color/{n}.png/{k}" for n in (1, 2) for k in (1, 2)]
    assert [i.truth for i in found[:2]] == ["yes", "no"] and found[0].image().shape == (3, 16, 16)
    rows[0]["category"] = "taste"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mme.parquet")
    with pytest.raises(ValueError, match="unknown sub-task 'taste'"):
        read_mme_items(str(tmp_path / "mme.parquet"))


def pope_files(folder):
    write_png(folder / "coco/a.jpg", grey(0.3))
    for part, labels in (("random", ("yes", "no")), ("popular", ("no", "no"))):
        rows = [{"question_id": i, "image": "a.jpg", "text": f"Is there a {i}?", "label": label}
                for i, label in enumerate(labels, 1)]  # fmt: skip
        (folder / f"coco_pope_{part}.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def test_pope_by_part(tmp_path):
    """random: a hit and a false alarm, P 1/2, R 1, F1 2/3; popular: a false alarm, F1 0."""
    pope_files(tmp_path)
    said = answers(tmp_path / "a.jsonl", {"random/1": "Yes, there is.", "random/2": "It is",
                                          "popular/1": "There is no 1.", "popular/2": "Yes"})
    done = call("eval", f"pope:path={tmp_path},images={tmp_path / 'coco'}", "--answers", said,
                "--out", tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = summary(tmp_path / "run")
    assert found["pope"]["random"]["f1"] == pytest.approx(2 / 3)
    assert found["pope"]["popular"]["f1"] == 0 and found["pope"]["all"]["accuracy"] == 0.5
    assert found["pope"]["all"]["yes_ratio"] == 0.75
    assert "POPE F1 popular 0.0000, random 0.6667" in re.sub(r"\s+", " ", done.output)


def test_wrong_pope_files_are_refused_by_name(tmp_path):
    pope_files(tmp_path)
    path = tmp_path / "coco_pope_random.json"
    for bad, words in (("{}", "line 1 is no line of POPE"),
                       ('{"question_id": 1, "image": "../a.jpg", "text": "?", "label": "yes"}',
                        "is not the name of a file below"),
                       ('{"question_id": 1, "image": "a.jpg", "text": "?", "label": "maybe"}',
                        "the label is 'maybe'")):  # fmt: skip
        path.write_text(bad)
        with pytest.raises(ValueError, match=words):
            read_pope_items(str(path), str(tmp_path / "coco"))
    with pytest.raises(ValueError, match="part of POPE is not known"):
        read_pope_items(str(path.rename(tmp_path / "mine.json")), str(tmp_path))
    with pytest.raises(ValueError, match="and images=FOLDER"):
        read_pope_items(str(tmp_path), "")


def test_gqa_counts_all_questions_alike(tmp_path):
    """query 1 of 2, verify 1 of 1: 2/3 over questions, not 3/4 over types."""
    write_png(tmp_path / "n1.jpg", grey(0.3))
    rows = {"01": ("What is it?", "dog", "query"), "02": ("Who?", "a man", "query"),
            "03": ("Is it?", "yes", "verify")}  # fmt: skip
    path = tmp_path / "questions.json"
    path.write_text(json.dumps({k: {"question": q, "answer": a, "imageId": "n1",
                                    "types": {"structural": t}} for k, (q, a, t) in rows.items()}))
    said = answers(tmp_path / "a.jsonl", {"01": " The dog", "02": "A man.", "03": "Yes"})
    bench = f"gqa:path={path},images={tmp_path}"
    done = call("eval", bench, "--answers", said, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert summary(tmp_path / "run")["overall"]["score"] == pytest.approx(2 / 3)
    assert summary(tmp_path / "run")["tasks"]["query"]["score"] == 0.5
    worse = answers(tmp_path / "w.jsonl", {"01": "cat", "02": "cat", "03": "yes"})
    assert call("eval", bench, "--answers", worse, "--out", tmp_path / "worse").exit_code == 0
    (difference,) = compare([tmp_path / "run", tmp_path / "worse"])
    assert difference.verdicts.overall.value == pytest.approx(1 / 3 - 2 / 3), "over questions too"
    (done,) = [call("eval", bench, "--answers", answers(tmp_path / "b.jsonl", {"7": "x"}))]
    assert done.exit_code == 2 and "answers none of the bench's questions" in done.output
    path.write_text("[]")
    with pytest.raises(ValueError, match="is not GQA's file"):
        read_gqa_items(str(path), str(tmp_path))


def mmbench_file(path, answer="B", image=None):
    data = base64.b64encode(png_bytes(grey(0.5))).decode()
    rows = [("7", data, "nan", "Which?", "cat", "dog", "cow", "", answer, "animals"),
            ("8", image or "7", "Look.", "And?", "up", "down", "", "", "A", "places")]  # fmt: skip
    head = ("index", "image", "hint", "question", "A", "B", "C", "D", "answer", "category")
    path.write_text("\n".join("\t".join(row) for row in (head, *rows)) + "\n")
    return path


def test_mmbench_circular(tmp_path):
    """7: dog is B, then A, then C; 8: up is A, then B. 8 is right once only: circular 1/2."""
    path = mmbench_file(tmp_path / "m.tsv")
    items = read_mmbench_items(str(path), circular=True)
    assert [i.truth for i in items] == ["B", "A", "C", "A", "B"]
    assert items[1].text.split("\n")[:4] == ["Which?", "A. dog", "B. cow", "C. cat"]
    assert items[3].text.startswith("Look.\nAnd?\nA. up") and items[4].image().shape == (3, 16, 16)
    said = answers(tmp_path / "a.jsonl", {"7/0": "B", "7/1": "(A)", "7/2": "the answer is dog",
                                          "8/0": "A. up", "8/1": "A"})  # fmt: skip
    done = call("eval", f"mmbench:path={path},circular=true", "--answers", said, "--out",
                tmp_path / "run")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = summary(tmp_path / "run")
    assert found["mmbench"] == {"plain": 1.0, "circular": 0.5, "questions": 2}
    assert found["overall"]["score"] == pytest.approx(4 / 5)
    assert "MMBench circular 0.5000, plain 1.0000" in done.output
    with pytest.raises(ValueError, match="'E' is none of its 3 options"):
        read_mmbench_items(str(mmbench_file(tmp_path / "m.tsv", answer="E")))
    bad = read_mmbench_items(str(mmbench_file(tmp_path / "m.tsv", image="no such")))
    with pytest.raises(ValueError, match="index 8"):
        bad[1].image()


def test_letters():
    options = {"A": "cat", "B": "a dog"}
    for text, said in (("b", "B"), ("(B)", "B"), ("B. a dog", "B"), ("Answer: A", "A"),
                       ("a dog", "B"), ("The answer is (A).", "A"), ("C", None),
                       ("cat or dog", None), ("", None), ("A cat", None)):  # fmt: skip
        assert letter(text, options) == said, text


def test_what_is_right_wrong_and_unreadable():
    asking = Asking("?", "dog", lambda said: said or None, gqa_match)
    assert marked(asking, "Dog.").correct and marked(asking, "cat").correct is False
    for answer in (None, ""):
        score = marked(asking, answer)
        assert score.correct is None and score.value != score.value
    strict = Asking("?", "yes", mme, strict=True)
    assert marked(strict, "well").correct is False and marked(strict, None).correct is None


@pytest.mark.parametrize("text, words", [
    ("{}", "line 1 needs a key"), ("x", "line 1 is not JSON"),
    ('{"key": 1, "answer": 2}', "and a text under"),
    ('{"key": 1, "answer": "a"}\n{"question_id": "1", "text": "b"}', "line 2: '1' has an answer"),
])  # fmt: skip
def test_wrong_files_of_answers_are_refused_by_line(tmp_path, text, words):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_answers(tmp_path / "a.jsonl")


@pytest.mark.parametrize("arguments, words", [
    (["sticker-questions:per_kind=1"], "--answers FILE or --judge NAME"),
    (["sticker-questions:per_kind=1", "--images", "x"], "asks questions: give --answers FILE"),
    (["sticker-questions:per_kind=1", "--judge", "sticker", "--model", "x"], "do not go with"),
    (["sticker-questions:per_kind=1", "--judge", "sticker", "--steps", "3"], "nothing is drawn"),
    (["sticker-questions:per_kind=1", "--judge", "sticker", "--answers", "x"], "give either"),
    (["sticker-questions:per_kind=1", "--judge", "stickr"], "did you mean 'sticker'"),
    (["sticker:per_task=1", "--judge", "sticker"], "asks no questions"),
    (["mme", "--judge", "sticker"], "mme needs its data"),
    (["sticker-edits:per_kind=1", "--model", "sticker-mmdit"], "is about given pictures"),
    (["sticker-edits:per_kind=0", "--images", "x"], "give 1 to 500 items per kind"),
])  # fmt: skip
def test_contradictions_are_refused(arguments, words):
    done = call("eval", *arguments)
    assert done.exit_code == 2 and words in done.output


def test_a_bench_of_pictures_asks_nothing():
    from impasto.run.answer import FileAnswers, evaluate_answers

    with pytest.raises(ValueError, match="asks no questions"):
        evaluate_answers(tiny.BENCH, FileAnswers.__new__(FileAnswers), "x")
    assert BENCHES.create("geneval").asks is None and issubclass(IncompleteError, RuntimeError)
