"""GEdit's and ImgEdit's rules against hand-computed cases."""

import hashlib
import json
import re

import pytest
import torch
from typer.testing import CliRunner

from impasto.bench import IncompleteError, read_results
from impasto.bench.edits import GEditAnswer, gedit_summary, imgedit, imgedit_summary
from impasto.cli import app
from impasto.images import read_image, write_png
from impasto.run.compare import compare
from impasto.run.provenance import SettingsDiffer
from impasto.score.edits import gedit_scorer, read_gedit, vie_score
from impasto.score.imgedit import CRITERIA, imgedit_score, imgedit_scorer, read_imgedit, uge_mark
from tests import tiny
from tests.scripted import Scripted, installed


def gedit(**changes):
    answers = {
        "a": GEditAnswer("ps_human", (9, 4), (9, 9)),
        "b": GEditAnswer("ps_human", (8, 8), (2, 5), intersection=False),
        "c": GEditAnswer("text_change", (1,), (4, 4)),
    }
    return answers | changes


def test_gedit_by_hand():
    """O: sqrt(4 * 9) = 6, sqrt(8 * 2) = 4, sqrt(1 * 4) = 2; groups 5 and 2; 3.5, and 4 shared."""
    assert [vie_score((9, 4), (9, 9)), vie_score((8, 8), (2, 5))] == [6, 4]
    found = gedit_summary(gedit())
    assert found["full"]["overall"]["score"] == pytest.approx(3.5)  # not 4, the mean of pictures
    assert {k: v["score"] for k, v in found["full"]["groups"].items()} == {"ps_human": 5,
                                                                           "text_change": 2}
    assert found["full"]["sc"]["score"] == pytest.approx((6 + 1) / 2)
    assert found["full"]["pq"]["score"] == pytest.approx((5.5 + 4) / 2)
    assert found["intersection"]["overall"]["score"] == pytest.approx(4)
    assert found["full"]["groups_of_11"] == 2


def test_gedit_never_guesses():
    broken = gedit(c=GEditAnswer("text_change", None, (4, 4)))
    with pytest.raises(IncompleteError, match="2/3 judged pictures; missing: c"):
        gedit_summary(broken)
    found = gedit_summary(broken, allow_incomplete=True)["full"]
    assert found["coverage"] == {"judged": 2, "unreadable": 1, "of": 3}
    assert found["overall"]["score"] == pytest.approx(5)
    with pytest.raises(ValueError, match="unknown group"):
        gedit_summary({"a": GEditAnswer("zh", (1,), (1,))})


def test_imgedit_by_hand():
    """4.67 and 3 -> add 3.835; style 1; pictures (4.67 + 3 + 1) / 3, types (3.835 + 1) / 2."""
    assert imgedit_score((5, 5, 4)) == 4.67
    types = {"1": "add", "2": "add", "3": "style"}
    found = imgedit_summary({"1": (5, 5, 4), "2": (3, 3, 3), "3": (1,)}, types)
    assert found["over_pictures"]["score"] == pytest.approx(8.67 / 3)
    assert found["over_types"]["score"] == pytest.approx(4.835 / 2)
    assert found["types"]["add"]["score"] == pytest.approx(3.835)
    for bad in (None, (), (0, 3, 3), (9,)):
        with pytest.raises(IncompleteError):
            imgedit_summary({"1": (5, 5, 4), "2": bad, "3": (1,)}, types)
    part = imgedit_summary({"1": (5, 5, 4), "2": None}, types, allow_incomplete=True)
    assert part["coverage"] == {"judged": 1, "unreadable": 1, "of": 3}
    with pytest.raises(ValueError, match="unknown group"):
        imgedit_summary({"1": (5,)}, {"1": "paint"})


# GEdit and ImgEdit through the command line

ITEMS = (("a", "ps_human", "en", True), ("b", "ps_human", "en", False),
         ("c", "text_change", "en", True), ("d", "text_change", "cn", True))  # fmt: skip
MARKS = {"a": ((9, 4), (9, 9)), "b": ((8, 8), (2, 5)), "c": ((1, 1), (4, 4))}
SHADES = {"a": 0.2, "b": 0.4, "c": 0.6, "d": 0.8}


def grey(shade, side=16):
    return torch.full((3, side, side), round(shade * 255) / 255)


def gedit_rows():
    return [{"key": k, "task_type": g, "instruction": f"edit {k}", "instruction_language": lang,
             "Intersection_exist": both, "input_image": f"src/{k}.png"}
            for k, g, lang, both in ITEMS]  # fmt: skip


@pytest.fixture
def gedit_file(tmp_path):
    """GEdit's columns as JSON Lines, with sources of 16 px."""
    path = tmp_path / "gedit.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in gedit_rows()))
    for key in "abcd":
        write_png(tmp_path / f"src/{key}.png", grey(0.9))
    return path


def edited(folder, layout="fullset/{group}/{lang}/{key}"):
    for key, group, lang, _ in ITEMS:
        name = layout.format(group=group, lang=lang, key=key)
        write_png(folder / f"{name}.png", grey(SHADES[key], side=24))
        write_png(folder / f"{name}_SRCIMG.png", grey(0.9))
    return folder


def marks_of(question):
    """By the edited picture's shade: SC where two pictures are shown, PQ where one is."""
    shade = float(question.images[-1].mean())
    key = min(SHADES, key=lambda k: abs(SHADES[k] - shade))
    return json.dumps({"score": MARKS[key][2 - len(question.images)], "reasoning": key})


def gedit_command(path, images, out, *more):
    return [str(a) for a in ("eval", f"gedit:path={path}", "--images", images, "--out", out,
                             "--scorer", f"gedit:path={path},vlm=x", *more)]  # fmt: skip


def test_gedit_judges_a_folder_in_its_own_layout(gedit_file, tmp_path, monkeypatch):
    """The three of `gedit()` above: O 6, 4 and 2; groups 5 and 2; 3.5, and 4 of the shared two."""
    judge = installed(monkeypatch, Scripted(marks_of))
    done = CliRunner().invoke(app, gedit_command(gedit_file, edited(tmp_path / "in"),
                                                 tmp_path / "run"))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "3.50 [" in done.output and "of 11 groups" in done.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["gedit"]["full"]["overall"]["score"] == pytest.approx(3.5)
    assert summary["gedit"]["intersection"]["overall"]["score"] == pytest.approx(4)
    assert summary["gedit"]["full"]["sc"]["score"] == pytest.approx((6 + 1) / 2)
    first = read_results(tmp_path / "run/results.jsonl")[0]
    assert first.value == 6 and first.scores == {"sc.1": 9, "sc.2": 4, "pq.1": 9, "pq.2": 9}
    assert first.spec.key == "ps_human/en/a" and first.tag == "ps_human"
    shown = judge.questions[0]
    assert [tuple(i.shape) for i in shown.images] == [(3, 16, 16)] * 2, "the source's size"
    assert "edit a" in shown.text and len(judge.questions) == 6
    source = read_image(tmp_path / "run/images/00000/source_1.png")
    assert torch.equal(source, grey(0.9)), "the page shows what was edited"
    assert "Source 1 of: edit a" in (tmp_path / "run/report.html").read_text()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["second"] is None and "not comparable" in record["scorer"]["prompts"]


def test_an_interrupted_gedit_ends_with_the_same_bytes(gedit_file, tmp_path, monkeypatch):
    images = edited(tmp_path / "in", "{key}")
    for key in "d":
        (images / f"{key}.png").unlink()
    installed(monkeypatch, Scripted(marks_of))
    assert CliRunner().invoke(app, gedit_command(gedit_file, images, tmp_path / "whole")
                              ).exit_code == 0  # fmt: skip

    def stops(question):
        if "edit c" in question.text:
            raise KeyboardInterrupt
        return marks_of(question)

    command = gedit_command(gedit_file, images, tmp_path / "cut", "--batch-size", "1")
    judge = installed(monkeypatch, Scripted(stops))
    assert CliRunner().invoke(app, command).exit_code == 130
    assert len(read_results(tmp_path / "cut/results.jsonl")) == 2
    judge = installed(monkeypatch, Scripted(marks_of))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert len(judge.questions) == 2, "what is judged is not asked again"
    assert tiny.tree(tmp_path / "cut") == tiny.tree(tmp_path / "whole")


def test_a_silent_server_is_no_score_and_is_asked_again(gedit_file, tmp_path, monkeypatch):
    images, out = edited(tmp_path / "in"), tmp_path / "run"
    installed(monkeypatch, Scripted(lambda q: None if "edit b" in q.text else marks_of(q)))
    done = CliRunner().invoke(app, gedit_command(gedit_file, images, out))
    assert done.exit_code == 3 and "2/3 readable judgements" in done.output
    judge = installed(monkeypatch, Scripted(marks_of))
    done = CliRunner().invoke(app, gedit_command(gedit_file, images, out))
    assert done.exit_code == 0, done.output
    assert len(judge.questions) == 2 and "3.50 [" in done.output


@pytest.mark.parametrize("change, code, words", [
    (lambda d: (d / "fullset/ps_human/en/a.png").unlink(), 3, "2/3 pictures; missing: ps_h"),
    (lambda d: write_png(d / "x.png", grey(0)), 2, r"x\.png is named after no item"),
    (lambda d: write_png(d / "other/ps_human/en/a.png", grey(0)), 2, "are of the same item"),
    (lambda d: (d / "y.png").symlink_to(d.parent / "src/a.png"), 2, "lies outside the folder"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(gedit_file, tmp_path, monkeypatch, change,
                                                     code, words):  # fmt: skip
    installed(monkeypatch, Scripted(marks_of))
    images = edited(tmp_path / "in")
    change(images)
    done = CliRunner().invoke(app, gedit_command(gedit_file, images, tmp_path / "run"))
    assert done.exit_code == code and re.search(words, done.output), done.output


def test_gedits_data_as_the_hub_keeps_it(gedit_file, tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [row | {"input_image": {"bytes": (tmp_path / row["input_image"]).read_bytes(),
                                   "path": None}} for row in gedit_rows()]  # fmt: skip
    (tmp_path / "hub/data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub/data/train-0.parquet",
                   row_group_size=2)  # fmt: skip
    found, plain = read_gedit(tmp_path / "hub"), read_gedit(gedit_file)
    assert [i.key for i in found] == ["ps_human/en/a", "ps_human/en/b", "text_change/en/c"]
    assert [(i.key, i.group, i.instruction, i.shared) for i in found] == [
        (i.key, i.group, i.instruction, i.shared) for i in plain]  # fmt: skip
    assert all(torch.equal(a.source(), b.source()) for a, b in zip(found, plain, strict=True))
    fetch = {"repo_type": "dataset", "allow_patterns": ["*.parquet"]}
    monkeypatch.setattr("huggingface_hub.snapshot_download",
                        lambda name, **how: tmp_path / "hub" if how == fetch else None)
    assert [i.key for i in read_gedit("some/data-set")] == [i.key for i in found]
    assert [i.key for i in read_gedit(tmp_path / "hub", "cn")] == ["text_change/cn/d"]


@pytest.mark.parametrize("change, words", [
    (lambda row: row.pop("instruction"), "line 1 lacks instruction"),
    (lambda row: row.update(task_type="zoom"), r"unknown group\(s\) \['zoom'\]"),
    (lambda row: row.update(key="b"), "'ps_human/en/b' more than once"),
    (lambda row: row.update(input_image="../a.png"), "is not the name of a file below"),
    (lambda row: row.update(input_image="c:a.png"), "is not the name of a file below"),
])  # fmt: skip
def test_wrong_gedit_files_are_refused_by_name(tmp_path, change, words):
    rows = gedit_rows()
    change(rows[0])
    path = tmp_path / "g.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=words):
        read_gedit(path)


def test_what_is_no_gedit_data(tmp_path):
    with pytest.raises(ValueError, match="needs its data"):
        read_gedit("")
    with pytest.raises(ValueError, match="languages en and cn, not 'zh'"):
        read_gedit(tmp_path, "zh")
    with pytest.raises(ValueError, match=r"no \*\.parquet"):
        read_gedit(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_gedit(tmp_path / "none.parquet")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="no parquet file"):
        read_gedit(tmp_path / "x.parquet")


def imgedit_file(folder, **changes):
    rows = {"1": {"id": "s/1.png", "prompt": "add a hat", "edit_type": "add"},
            "2": {"id": "s/2.png", "prompt": "add a cup", "edit_type": "add"},
            "3": {"id": "s/3.png", "prompt": "as a sketch", "edit_type": "style"}}  # fmt: skip
    for key in rows:
        write_png(folder / f"s/{key}.png", grey(0.9))
        write_png(folder / f"in/{key}.png", grey(int(key) / 10))
    rows["1"] |= changes
    (folder / "singleturn.json").write_text(json.dumps(rows))
    return folder / "singleturn.json"


def test_imgedit_through_the_command_line(tmp_path, monkeypatch):
    """As by hand above: 4.67 and 3 -> add 3.835, style 1; over types 2.4175."""
    path = imgedit_file(tmp_path)
    marks = {1: (5, 5, 4), 2: (3, 3, 3), 3: (1, 1, 1)}

    def answer(question):
        number = round(10 * float(question.images[1].mean()))
        return "Reasoning: well\n" + "\n".join(f"M {i}: {m}" for i, m in enumerate(marks[number]))

    judge = installed(monkeypatch, Scripted(answer))
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({kind: f"{kind}: <edit_prompt>" for kind in CRITERIA}))
    command = ["eval", f"imgedit:path={path}", "--images", str(tmp_path / "in"), "--out",
               str(tmp_path / "run"), "--scorer",
               f"imgedit:path={path},vlm=x,prompts={prompts}"]  # fmt: skip
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["overall"]["score"] == pytest.approx(4.835 / 2)
    assert summary["imgedit"]["over_pictures"]["score"] == pytest.approx(8.67 / 3)
    assert judge.questions[0].text == "add: add a hat" and judge.questions[0].text_first
    assert float(judge.questions[0].images[0].mean()) == pytest.approx(0.9, abs=0.01)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["scorer"]["prompts"] == "from a file"
    assert record["bench"]["name"] == record["scorer"]["id"] == "imgedit"
    assert record["scorer"]["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_wrong_imgedit_files_and_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"unknown group\(s\) \['paint'\]"):
        read_imgedit(imgedit_file(tmp_path, edit_type="paint"))
    with pytest.raises(ValueError, match="is not the name of a file below"):
        read_imgedit(imgedit_file(tmp_path, id="/etc/x.png"))
    path = imgedit_file(tmp_path)
    (tmp_path / "p.json").write_text('{"add": "x"}')
    with pytest.raises(ValueError, match="it lacks action, adjust"):
        imgedit_scorer(path=path, vlm="x", prompts=str(tmp_path / "p.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not ImgEdit's file"):
        read_imgedit(tmp_path / "list.json")
    with pytest.raises(ValueError, match="or neither"):
        gedit_scorer(path="x", vlm="x", sc_prompt="y")


# ImgEdit's set uge

UGE_ROWS = {str(n): {"id": f"s/{n}.png", "prompt": f"edit {n}"} for n in (1, 2, 3)}


def uge_file(folder, rows=UGE_ROWS):
    for number in (1, 2, 3):
        write_png(folder / f"s/{number}.png", grey(0.9))
        write_png(folder / f"in/{number}.png", grey(number / 10))
    (folder / "UGE_edit.json").write_text(json.dumps(rows))
    return folder / "UGE_edit.json"


def uge_command(path, out, *more, scorer=""):
    return ["eval", f"imgedit:path={path},set=uge", "--images", str(path.parent / "in"), "--out",
            str(out), "--scorer", f"imgedit:path={path},vlm=x{scorer or ',set=uge'}",
            *more]  # fmt: skip


def uge_answer(texts):
    return lambda question: texts[round(10 * float(question.images[1].mean())) - 1]


UGE_TEXTS = ("Brief reasoning: fine\nScore: 5", "Brief reasoning: so so. Score: 2.",
             "Brief reasoning: bare. Score: 4 (Good)")  # fmt: skip


@pytest.mark.parametrize("text, mark", [
    ("Score: 4", 4), ("Reason: x\r\nscore: 3\r\n", 3), ("All kept. Score: 2.", 2),
    ("Score: 3 (Acceptable)", 3), ("Overall: 5\nScore: 5", 5), ("4", None), ("Score: 4/5", None),
    ("Score: 4.5", None), ("Score: 6", None), ("Score: 0", None), ("Score: 12", None),
    ("Adherence: 4\nScore: 3", None), ("Brief reasoning: nothing", None), ("", None),
])  # fmt: skip
def test_the_one_mark_of_uge(text, mark):
    assert uge_mark(text) == (None if mark is None else (mark,))


def test_uge_is_a_bench_of_its_own(tmp_path, monkeypatch):
    """(5 + 2 + 4) / 3; the basic set of the same pictures has another name and never pairs."""
    path = uge_file(tmp_path)
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"uge": "Judge: <edit_prompt>."}))
    judge = installed(monkeypatch, Scripted(uge_answer(UGE_TEXTS)))
    done = CliRunner().invoke(app, uge_command(path, tmp_path / "run",
                                               scorer=f",set=uge,prompts={prompts}"))  # fmt: skip
    assert done.exit_code == 0, done.output
    assert judge.questions[0].text == "Judge: edit 1." and judge.questions[0].text_first
    assert [round(float(i.mean()), 1) for i in judge.questions[0].images] == [0.9, 0.1]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    overall = summary["overall"]
    assert overall["score"] == pytest.approx(11 / 3) and overall["low"] < 11 / 3 < overall["high"]
    assert overall["label"] == "UGE, mean of 3 of 47 pictures' one mark"
    assert summary["coverage"] == {"images": 3, "of": 3} and "imgedit" not in summary
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["bench"]["name"] == record["scorer"]["id"] == "imgedit:set=uge"
    assert record["scorer"]["prompts"] == "from a file"
    assert record["scorer"]["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_results(tmp_path / "run/results.jsonl")[1].scores == {"uge": 2}
    basic = imgedit_file(tmp_path)
    installed(monkeypatch, Scripted(lambda question: "A: 3\nB: 3\nC: 3"))
    done = CliRunner().invoke(app, ["eval", f"imgedit:path={basic}", "--images",
                                    str(tmp_path / "in"), "--out", str(tmp_path / "basic"),
                                    "--scorer", f"imgedit:path={basic},vlm=x"])  # fmt: skip
    assert done.exit_code == 0, done.output
    with pytest.raises(SettingsDiffer, match=r"bench\.name: 'imgedit:set=uge' and 'imgedit'"):
        compare([tmp_path / "run", tmp_path / "basic"])


def test_an_unreadable_uge_answer_is_counted_and_no_number(tmp_path, monkeypatch):
    """Without the second's mark (5 + 4) / 2, and only where an incomplete set is asked for."""
    path, texts = uge_file(tmp_path), (UGE_TEXTS[0], "Score: two", UGE_TEXTS[2])
    judge = installed(monkeypatch, Scripted(uge_answer(texts)))
    done = CliRunner().invoke(app, uge_command(path, tmp_path / "run"))
    assert done.exit_code == 3 and "2/3 readable judgements" in done.output
    assert len(judge.questions) == 5, "asked three times"
    done = CliRunner().invoke(app, uge_command(path, tmp_path / "run", "--allow-incomplete"))
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["coverage"] == {"images": 2, "of": 3, "unreadable": 1}
    assert summary["overall"]["score"] == pytest.approx(4.5)
    assert summary["overall"]["label"].startswith("UGE, mean of 2 of 47")
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert "not comparable" in record["scorer"]["prompts"]


def test_a_scorer_of_the_other_set_judges_no_uge(tmp_path, monkeypatch):
    """Both files have the keys 1, 2 and 3, of other edits."""
    path, basic = uge_file(tmp_path), imgedit_file(tmp_path)
    judge = installed(monkeypatch, Scripted(lambda question: "A: 3\nB: 3\nC: 3"))
    command = uge_command(path, tmp_path / "run")
    command[-1] = f"imgedit:path={basic},vlm=x"
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "same path and set" in " ".join(done.output.split())
    assert not judge.questions


@pytest.mark.parametrize("change, words", [
    ({"edit_type": "add"}, r"UGE_edit\.json, 1 has an edit_type: it is of the basic set"),
    ({"turn1": "x", "turn2": "y"}, "multi-turn set, which is judged by hand"),
    ({"id": "../x.png"}, "is not the name of a file below"),
    ({"id": 5}, "is not ImgEdit's file"),
    ({"id": None, "prompt": None}, "is not ImgEdit's file"),
    ({"prompt": " "}, "the prompt must be a text, got ' '"),
    ({"prompt": 7}, "the prompt must be a text, got 7"),
])  # fmt: skip
def test_wrong_uge_rows_are_refused_by_name(tmp_path, change, words):
    rows = UGE_ROWS | {"1": UGE_ROWS["1"] | change}
    with pytest.raises(ValueError, match=words):
        read_imgedit(uge_file(tmp_path, rows), which="uge")


def test_wrong_sets_are_refused_by_name(tmp_path):
    path = uge_file(tmp_path)
    with pytest.raises(ValueError, match="no edit_type: it is of the set uge, not of basic"):
        read_imgedit(path)
    with pytest.raises(ValueError, match="it is of the basic set, not of uge"):
        imgedit(path=str(imgedit_file(tmp_path)), set="uge")
    for name in ("multi-turn", "multiturn", "Multi_Turn"):
        with pytest.raises(ValueError, match="multi-turn set is judged by hand"):
            imgedit(path=str(path), set=name)
        with pytest.raises(ValueError, match="multi-turn set is judged by hand"):
            imgedit_scorer(path=str(path), set=name, vlm="x")
    with pytest.raises(ValueError, match=r"set=hard is none .* allowed: basic, uge"):
        imgedit(path=str(path), set="hard")
    with pytest.raises(ValueError, match=r"path=UGE_edit\.json"):
        imgedit(set="uge")
    with pytest.raises(ValueError, match="holds no items"):
        read_imgedit(uge_file(tmp_path, {}), which="uge")
    with pytest.raises(ValueError, match=r'needs \{key: \{"id", "prompt"\}\}'):
        read_imgedit(uge_file(tmp_path, {"1": {"id": "s/1.png"}}), which="uge")
    (tmp_path / "p.json").write_text(json.dumps(dict.fromkeys(CRITERIA, "<edit_prompt>")))
    with pytest.raises(ValueError, match="it lacks uge"):
        imgedit_scorer(path=str(uge_file(tmp_path)), set="uge", vlm="x",
                       prompts=str(tmp_path / "p.json"))  # fmt: skip
