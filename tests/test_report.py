"""The report: what it says is what the files say, and nothing in it can run or call out."""

import base64
import hashlib
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from impasto.bench import Bench, IncompleteError
from impasto.files import StorageError, write_json
from impasto.images import write_png
from impasto.report import write_report
from impasto.report.bars import reach
from impasto.report.data import read_runs
from impasto.report.gallery import gallery
from impasto.report.labels import labels
from impasto.report.pictures import KEPT_BYTES, SIDE, embed
from impasto.report.seen import mask_path
from impasto.report.table import comparison_table
from impasto.report.words import directions, not_independent, p_value, quantity, result
from impasto.run.budget import budgets
from impasto.run.compare import Difference, compare, planned
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.generate import draw_prompts
from impasto.run.judge import read_second
from impasto.sample.protocol import Sampling
from impasto.score.base import Found, Inspected, Seen
from impasto.score.statistics import Estimates, Interval
from impasto.search import BestOfN, NoSearch
from impasto.search.engine import Chosen, Selector, Stop, TreeSearch
from impasto.spec import COLORS, Item, Spec
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</script></style></title><script>window.hacked = 1</script>",
    "one\u2028two\u2029three \x00 {{ 7 * 7 }} {% raw %} 'single' \"double\" &amp; -->",
    "javascript:window.hacked=1//<svg/onload=window.hacked=1>",
)


def run(out, search=None, name="none", model="m", **changes):
    names = {"model": model, "search": name, "scorer": "judge", "second": "other"}
    return evaluate(tiny.settings(names=names, **changes), FakeGenerator(),
                    search or NoSearch(), out).path  # fmt: skip


def hostile_bench():
    specs = [Spec(tag=f'task"{i}><b>', include=(Item(cls=f"<i onclick={i}>"),), prompt=prompt)
             for i, prompt in enumerate(HOSTILE)]  # fmt: skip
    return Bench(name="<u>bench</u>", specs=tuple(specs), samples_per_prompt=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs, the second by a search whose reward is the second scorer."""
    folder = tmp_path_factory.mktemp("runs")
    return [run(folder / "base"), run(folder / "best", BestOfN(3, FakeSecond()), "best-of-n:n=3")]


@pytest.fixture(scope="module")
def page(pair):
    return write_report(pair, pair[0].parent / "page.html", compare(pair)).read_text()


class Page(HTMLParser):
    """Elements with their attributes, and the text inside each h3, by one pass over a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.headings, self.within = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "h3":
            self.headings.append("")
            self.within = True

    def handle_endtag(self, tag):
        self.within = self.within and tag != "h3"

    def handle_data(self, data):
        if self.within:
            self.headings[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def words(html):
    """The text of a piece of the page, its white space made single."""
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html)).replace("−", "-").strip()


def part(html, identity):
    return re.search(rf'<section id="{identity}".*?</section>', html, re.DOTALL)[0]


# One file


def test_the_page_asks_for_nothing_outside(page):
    found = Page(page)
    assert "http://" not in page and "https://" not in page
    assert "url(" not in page and "@import" not in page
    for tag, attributes in found.elements:
        for name in ("src", "srcset", "action", "poster", "data", "background"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert re.match("#|data:(,|image/)", attributes.get("href", "#")), (tag, attributes)
    assert len(found.all("img")) == 24
    assert not found.all("iframe") and not found.all("object") and not found.all("base")


def test_the_policy_allows_the_pages_own_script_and_style_only(page):
    (policy,) = [m["content"] for m in Page(page).all("meta") if "http-equiv" in m]
    given = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert given.pop(rule) == f"'sha256-{digest}'"
    assert given == {"default-src": "'none'", "img-src": "data:", "base-uri": "'none'",
                     "form-action": "'none'"}  # fmt: skip
    assert page.index("Content-Security-Policy") < page.index("<title>")


def test_hostile_words_are_inert(tmp_path):
    folder = tmp_path / "<script>1<" / "img src=x onerror=1>"
    path = run(folder, name="<b>search</b>", model="<script>1</script>",
               bench=hostile_bench())  # fmt: skip
    text = write_report([path], tmp_path / "page.html", []).read_text()
    assert "img src=x onerror=1" in text, "the folder's name is on the page"
    found = Page(text)
    assert len(found.all("script")) == 1 and len(found.all("style")) == 1
    assert not found.all("b onclick") and not found.all("i") and not found.all("u")
    for tag, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert found.headings[:5] == list(HOSTILE)
    assert "49" not in found.headings[3]


def test_the_same_runs_give_the_same_bytes(pair, page):
    again = write_report(pair, pair[0].parent / "again.html", compare(pair)).read_text()
    assert again == page


def test_the_page_is_whole_or_not_written(pair, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="disk is full"):
        write_report(pair[:1], path, [])
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


# Numbers


def scored(score):
    return f"{score['score']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"


def signed(interval):
    value, low, high = (f"{number:+z.2f}" for number in interval)
    return f"{value} [{low}, {high}]"


def test_every_number_of_the_terminal_table_is_the_files(pair):
    (difference,) = compare(pair)
    lines = comparison_table(pair, [difference]).splitlines()
    summaries = [json.loads((path / "summary.json").read_text()) for path in pair]
    table = lines[: lines.index("", lines.index("") + 1)]
    rows = {line.split()[0]: " ".join(line.split()) for line in table if line.strip()}
    for task, change in difference.verdicts.tasks.items():
        numbers = [scored(summary["tasks"][task]) for summary in summaries]
        p = p_value(difference.holm[task])
        assert rows[task].replace("]*", "]") == " ".join([task, *numbers, signed(change), p])
    numbers = [scored(summary["overall"]) for summary in summaries]
    assert rows["overall"].removesuffix("*") == " ".join(
        ["overall", *numbers, signed(difference.verdicts.overall)])  # fmt: skip
    assert "{:+.3f} [{:+.3f}, {:+.3f}]".format(*difference.second.overall) in rows["second"]
    for path in pair:  # as many pictures in each task, so the mean over tasks is the plain mean
        values = list(read_second(path / "second.jsonl").values())
        assert f" {sum(values) / len(values):.3f} [" in rows["second"]
    assert max(map(len, lines)) <= 100 and "\x1b" not in "".join(lines)


def test_every_number_of_the_page_is_the_files(pair, page):
    (difference,) = compare(pair)
    text = words(part(page, "scores"))
    summaries = [json.loads((path / "summary.json").read_text()) for path in pair]
    for task, change in difference.verdicts.tasks.items():
        base, best = (
            f"{scored(s['tasks'][task])} {s['tasks'][task]['correct']} / 2" for s in summaries
        )
        name = task.replace("_", " ")
        p = p_value(difference.holm[task])
        assert re.search(re.escape(f"{name} no search {base} best-of-n:n=3 {best} "
                                   f"{signed(change)}") + f"[ ★&#8201;]* p {p}", text)
    for word in ("any", "all"):
        of = " ".join(f"{label} {summary[f'{word}_correct']:.2f}" for label, summary in
                      zip(["no search"], summaries, strict=False))  # fmt: skip
        assert f"prompts, {word} of 2 right {of}" in text
        assert f"best-of-n:n=3 {summaries[1][f'{word}_correct']:.2f}" in text


def test_failures_and_tables_are_the_summarys(pair, page):
    text = words(part(page, "failures"))
    summary = json.loads((pair[0] / "summary.json").read_text())
    assert summary["failures"]["colors"] == {"missing": 2}
    assert "colors no search 2" in text
    dog = summary["classes"]["dog"]
    assert f"dog {dog['found']} / {dog['asked']} {dog['correct']} / {dog['asked']}" in text


def test_costs(pair, page):
    text = words(part(page, "cost"))
    assert "FLOPs per picture kept 20 FLOP 60 FLOP" in text
    assert "FLOPs in all 240 FLOP 720 FLOP" in text
    assert "pictures drawn, candidates included 12 36" in text
    assert "interrupted and resumed no no" in text
    table = comparison_table(pair, compare(pair))
    assert re.search("FLOPs in all +240 FLOP +720 FLOP", table)


def test_unknown_costs_are_dashes(pair, tmp_path):
    same = tiny.settings(names={"scorer": "judge", "second": "other"})
    path = evaluate_images(same, pair[0] / "images", tmp_path / "judged").path
    two = [pair[0], path]
    html = write_report(two, tmp_path / "page.html", compare(two)).read_text()
    text = words(part(html, "cost"))
    assert re.search(r"time to draw [\d.]+ s –", text) and "row-steps 24 –" in text
    assert re.search(r"FLOPs per picture kept \S+ FLOP –", text)
    assert re.search(r"pictures drawn, candidates included 12 –", text)
    table = comparison_table(two, compare(two))
    assert re.search("FLOPs in all +240 FLOP +–", table)
    (path / "cost.json").unlink()
    assert re.search("seconds, score +[0-9.e-]+ s +–", comparison_table(two, compare(two)))


def test_pictures_drawn_elsewhere_alone_have_no_costs_of_drawing(pair, tmp_path):
    paths = [evaluate_images(tiny.settings(), run / "images", tmp_path / run.name).path
             for run in pair]  # fmt: skip
    found, costs = compare(paths), budgets(paths)
    html = write_report(paths, tmp_path / "page.html", found, budgets=costs).read_text()
    for text in (words(part(html, "cost")), comparison_table(paths, found, costs)):
        assert "FLOP" not in text and "drawn" not in text and "row-steps" not in text
        assert re.search("(time to judge|seconds, score)", text)
    assert costs.equal_samples == costs.equal_flops == {}


def test_numbers_in_words():
    assert [quantity(n, "B") for n in (None, 0.0, 999.4, 999.6, 2.5e12)] == [
        "–", "0 B", "999 B", "1 kB", "2.5 TB"]  # fmt: skip
    assert [reach([Interval(*v)]) for v in ((0, 0, 0), (0.1, -0.3, 0.2), (0, -0.31, 0))] == [
        0.1, 0.3, 0.4]  # fmt: skip


# Claims


def claim(*interval, of="prompts"):
    estimates = Estimates(Interval(*interval), {})
    difference = Difference(Path("a"), Path("b"), estimates, estimates, "")
    return result(["a", "b"], {}, [difference], of=of)[0]


def test_the_result_in_one_sentence(pair, page):
    assert claim(0.12, 0.05, 0.19) == (
        "b draws 12 points more of the prompts right than a, 95 % interval 5 to 19.")  # fmt: skip
    assert claim(-0.12, -0.19, -0.05) == (
        "b draws 12 points fewer of the prompts right than a, 95 % interval 5 to 19.")  # fmt: skip
    assert claim(0.12, -0.01, 0.25).startswith("No difference is shown between b and a: 12 points")
    assert claim(0.004, 0.001, 0.008).endswith("95 % interval 0.1 to 0.8.")
    edits = claim(0.12, 0.05, 0.19, of="edits")
    assert edits.startswith("b does 12 points more of the edits right than a")
    asked = {"label": "overall", "score": 0.7, "low": 0.6, "high": 0.8}
    assert result(["a"], asked, [], of="questions") == [
        "a answers right 70 times in a hundred, 95 % interval 60 to 80."]  # fmt: skip
    overall = compare(pair)[0].verdicts.overall
    assert overall.low > 0
    assert f"best-of-n:n=3 draws {100 * overall.value:.0f} points more of the prompts" in page


def opposed(verdicts, second, tasks=((0, 0, 0), (0, 0, 0))):
    first, other = (Estimates(Interval(*overall), {"color_attr": Interval(*task)})
                    for overall, task in zip((verdicts, second), tasks, strict=True))  # fmt: skip
    return Difference(Path("a"), Path("b"), first, other, "prompt and seed")


def test_scorers_that_point_in_two_directions_are_warned_of():
    up, down, weak = (0.1, 0.05, 0.2), (-3.0, -5.0, -1.0), (-3.0, -7.0, 1.0)
    assert not directions("a", "b", opposed(up, (3.0, 1.0, 5.0)), ("judge", "clip"))
    (text,) = directions("a", "b", opposed(up, down), ("judge", "clip"))
    assert text.startswith("The scorers disagree: b is above a by judge, below by clip")
    assert "+0.10 [+0.05, +0.20]" in text and "Both intervals exclude zero" in text
    (text,) = directions("a", "b", opposed(up, weak), ("judge", "clip"))
    assert "One of the two" in text
    (text,) = directions("a", "b", opposed(down, up), ("judge", "clip"))
    assert "above a by clip, below by judge" in text
    (text,) = directions("a", "b", opposed(up, up, (down, up)), ("judge", "clip"))
    assert "disagree in color attr" in text
    assert not directions("a", "b", opposed(up, up, (weak, (0.1, -1, 1))), ("judge", "clip"))


def test_the_warning_is_in_the_table_on_the_page_and_in_the_json(pair, tmp_path):
    (found,) = compare(pair)
    turned = replace(found, second=Estimates(Interval(-0.2, -0.3, -0.1), found.second.tasks))
    sentence = "The scorers disagree: best-of-n:n=3 is above no search by judge, below by other"
    assert sentence in " ".join(comparison_table(pair, [turned]).split())
    html = write_report(pair, tmp_path / "p.html", [turned]).read_text()
    assert sentence in words(html)
    assert turned.to_dict()["disagreements"][0]["where"] == "overall"
    assert sentence not in words(write_report(pair, tmp_path / "p.html", [found]).read_text())


def test_equal_cost_and_power_stand_on_the_page_as_in_the_terminal(pair, tmp_path):
    (found,), costs, plans = compare(pair), budgets(pair), planned(pair, 0.05)
    html = write_report(pair, tmp_path / "p.html", [found], budgets=costs, plans=plans)
    table = " ".join(comparison_table(pair, [found], costs, plans).split())
    score = costs.equal_samples[1][1].score
    for text in (words(part(html.read_text(), "cost")), table):
        for number in ("3 pictures drawn", "60 FLOP", f"{score.value:.2f} [", "any right"):
            assert number in text
        assert "needs 3 pictures of each prompt; draw them by --samples 3" in text
    for text in (words(html.read_text()), table):
        assert f"To see a difference of 0.05 in the overall score (80% power, alpha 0.05): " \
               f"{plans[0].prompts:,} prompts" in text  # fmt: skip


def test_a_run_alone_claims_its_score_only(pair, tmp_path):
    html = write_report(pair[:1], tmp_path / "page.html", []).read_text()
    overall = json.loads((pair[0] / "summary.json").read_text())["overall"]
    assert f"m draws what the prompt says {100 * overall['score']:.0f} times" in words(html)
    assert "difference" not in words(part(html, "scores"))


@pytest.mark.parametrize("reward, also", [
    (FakeSecond, "by other, which also is the second scorer. Its second score"),
    (FakeScorer, "by judge, which also gives the verdicts. Its score"),
])  # fmt: skip
def test_a_reward_that_judges_is_said_so(tmp_path, reward, also):
    path = run(tmp_path / "run", BestOfN(2, reward()), "best-of-n:n=2")
    page = write_report([path], tmp_path / "page.html", []).read_text()
    for text in (words(page), " ".join(comparison_table([path], []).split())):
        assert "Not independent: m · best-of-n:n=2 chose its pictures" in text
        assert text.count("Not independent") == 1 and also in text


def test_an_independent_reward_is_not_accused(tmp_path):
    class Third(FakeSecond):
        def provenance(self):
            return {"id": "third", "sha256": "3" * 64}

    record = {"search": {"reward": {"name": "other"}}, "second": {"name": "other", "id": "x"}}
    assert not_independent("b", record, "second"), "one name is one scorer"
    raw = {"name": "pickscore-v1:weights=x", "id": "pickscore-v1", "sha256": "4" * 64}
    scaled = {"name": "p26", "id": "pickscore-v1-over-26", "sha256": "4" * 64}
    assert "by p26, of the same weights as pickscore-v1:weights=x, which is the second scorer. " \
           in not_independent("b", {"search": {"reward": scaled}, "second": raw}, "second")
    unknown = [{"name": name, "id": name, "sha256": ""} for name in "xy"]
    assert not not_independent("b", {"search": {"reward": unknown[0]}, "second": unknown[1]},
                               "second")  # fmt: skip
    path = run(tmp_path / "run", BestOfN(2, Third()), "best-of-n:n=2")
    assert "Not independent" not in write_report([path], tmp_path / "p.html", []).read_text()
    assert "Not independent" not in comparison_table([path], [])


def test_incomplete_sets_say_so(pair, tmp_path):
    images = shutil.copytree(pair[0] / "images", tmp_path / "images")
    (images / "00003/samples/00001.png").unlink()
    path = evaluate_images(tiny.settings(), images, tmp_path / "run", allow_incomplete=True).path
    assert "11 of 12 pictures" in words(write_report([path], tmp_path / "p.html", []).read_text())
    assert "11 of 12 pictures" in comparison_table([path], [])


# Pictures


def test_a_part_of_the_pictures_says_so(pair, page, tmp_path):
    assert "Showing" not in page
    html = write_report(pair, tmp_path / "p.html", compare(pair), max_pictures=9).read_text()
    assert "Showing 2 of 6 prompts (8 of 24 pictures)" in words(html)
    assert len(Page(html).all("img")) == 8
    assert words(part(html, "scores")) == words(part(page, "scores"))
    one = write_report(pair, tmp_path / "p.html", compare(pair), max_pictures=1).read_text()
    assert "Showing 1 of 6 prompts (4 of 24 pictures)" in words(one)
    beside = pair[0].parent / "all.html"
    assert write_report(pair, beside, compare(pair), max_pictures=None).read_text() == page
    with pytest.raises(ValueError, match="max_pictures is 0; give at least 1"):
        write_report(pair, tmp_path / "p.html", compare(pair), max_pictures=0)


def test_the_part_is_spread_over_tasks_and_within_them(tmp_path):
    counting = [Spec(tag="counting", include=(Item(cls="cup", count=i),), prompt=f"{i:02d} cups")
                for i in range(1, 17)]  # fmt: skip
    bench = Bench(name="b", specs=(*counting, *tiny.SPECS[:2]), samples_per_prompt=1)
    runs = read_runs([run(tmp_path / "run", bench=bench)])
    shown = gallery(runs, 6).rows
    assert [row.prompt for row in shown] == [
        "03 cups", "05 cups", "09 cups", "13 cups", "a photo of a dog",
        "a photo of a cat and a bus"]  # fmt: skip
    for count in range(1, 18):
        fewer = {row.prompt for row in gallery(runs, count).rows}
        assert len(fewer) == count
        assert fewer < {row.prompt for row in gallery(runs, count + 1).rows}


def test_verdicts_under_the_pictures(pair, page):
    shown = gallery(read_runs(pair), None)
    html = part(page, "pictures")
    correct = [shot.correct for row in shown.rows for side in row.sides for shot in side]
    assert html.count("</span> right") == sum(correct)
    assert html.count("</span> wrong") == len(correct) - sum(correct) > 0
    assert "expected car&gt;=1, found 0" in html
    flags = {row.prompt: tuple(flag for flag in row.flags if flag != "scorers")
             for row in shown.rows}  # fmt: skip
    assert flags["a photo of a dog"] == ("right",)
    assert flags["a photo of a red car"] == ("wrong", "disagree")
    assert re.search("candidate [123] of 3, reward 0.5", words(html))


def test_the_tree_of_a_search(tmp_path):
    """Two choices of known rows, one row kept twice: tiles, what became of them, and lines."""
    kept = {"cluster": (0, 2, 3), "resample": (0, 0), "final": (1,)}

    class Fixed(TreeSearch):
        width = 5

        def stops(self, steps):
            return {1: Stop(Choice("cluster"), 3), 2: Stop(Choice("resample"), 2)}

        def provenance(self):
            return {}

    class Choice(Selector):
        def __init__(self, kind):
            self.kind = kind

        def __call__(self, population, keep):
            values = None if self.kind == "cluster" else tuple(
                0.125 * i for i in range(len(population.images)))  # fmt: skip
            by = tuple(2 + v for v in values) if self.kind == "resample" else values
            return Chosen(kept[self.kind], values, by)

        def provenance(self):
            return {}

    Fixed.final = Choice("final")
    path = run(tmp_path / "run", Fixed(), "mine", sampling=Sampling(steps=4))
    html = part(write_report([path], tmp_path / "p.html", []).read_text(), "pictures")
    trees = re.findall(r'<details class="tree">.*?</details>', html, re.DOTALL)
    assert len(trees) == len(tiny.SPECS)  # of two samples a prompt the first
    assert "search: 5 → 3 → 2 → 1" in words(trees[0])
    assert ("after step 1: clusters keep 3 of 5; after step 2: resampling draws 2 from 3; "
            "after step 3: number 2 of 2 is chosen") in trees[0]  # fmt: skip
    assert "×2: goes on twice. Numbers: the reward, where it was asked." in words(trees[0])
    fates = re.findall(r'<g class="(kept|lost)"><title>(.*?)</title>', trees[0])
    assert [fate for fate, _ in fates] == ["kept", "lost", "kept", "kept", "lost",
                                           "kept", "lost", "lost", "lost", "kept"]  # fmt: skip
    assert fates[5][1] == "1: reward 0.000, potential 2.000, kept 2 times"
    assert fates[1][1] == "2: given up" and fates[9][1] == "2: reward 0.125, kept"
    assert "0.125" in words(trees[0]) and "×2" in words(trees[0])
    lines = re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)"', trees[0])
    assert len(lines) == 3 + 2 and len({a for a, _ in lines[3:]}) == 1
    assert 'class="few"' in trees[0], "a narrow screen shows five in a line"
    # Tiles are cut where the sheet has them: 10 of 16 px in one line.
    assert [f'viewBox="{16 * i} 0 16 16"' in trees[0] for i in range(11)] == [True] * 10 + [False]
    (path / "search" / "00000" / "00000.webp").unlink()
    with pytest.raises(ValueError, match=r"search/00000/00000.webp is gone"):
        write_report([path], tmp_path / "p.html", [])


def test_small_pictures_are_kept_and_large_ones_bounded(tmp_path):
    small, wide, heavy = (tmp_path / f"{name}.png" for name in ("small", "wide", "heavy"))
    write_png(small, torch.zeros(3, 20, 30))
    write_png(wide, torch.zeros(3, 300, 1200))
    write_png(heavy, torch.rand(3, 500, 500))
    kept = embed(small)
    assert base64.b64decode(kept.src.split(",")[1]) == small.read_bytes()
    assert (kept.width, kept.height) == (30, 20)
    for path in (wide, heavy):
        shown = embed(path)
        assert shown.src.startswith("data:image/webp;base64,")
        assert len(shown.src) < 8 * KEPT_BYTES
    assert (embed(wide).width, embed(wide).height) == (1200, 300), "boxes are in its own pixels"
    assert SIDE < 1200
    with pytest.raises(ValueError, match=r"none\.png is gone"):
        embed(tmp_path / "none.png")


# What the detector saw


class Showing(FakeScorer):
    """A fake that shows one object with its mask and, where asked, its colours."""

    def inspect(self, images, specs):
        mask = torch.zeros(16, 16, dtype=torch.bool)
        mask[2:8, 4:12] = True
        return [Inspected(score, (Seen(Found(spec.include[0].cls, (4.0, 2.0, 12.0, 8.0), 0.75,
                                             mask), self.shares(spec)),))
                for score, spec in zip(self.score(images, specs), specs, strict=True)]

    @staticmethod
    def shares(spec):
        return None if spec.include[0].color is None else (0.6, 0.3, *(0.0125,) * 8)


def test_masks_crops_and_their_ten_bars_come_from_the_run(tmp_path):
    path = run(tmp_path / "run", scorer=Showing())
    html = write_report([path], tmp_path / "p.html", []).read_text()
    assert html.count('class="mask box-0" d="M4 2h8v1h-8z') == 12
    shots = [shot for row in gallery(read_runs([path]), None).rows for shot in row.sides[0]]
    assert [len(shot.crops) for shot in shots] == [0] * 6 + [1, 1, 0, 0, 1, 1]
    crop = shots[6].crops[0]
    assert crop.likeliest == "red" and [c for c, _ in crop.bars] == list(COLORS)
    assert dict(crop.bars)["orange"] == 0.3 and crop.src in html
    assert "red 0.60, orange 0.30, yellow 0.01" in html
    assert html.count('class="ten"') == 4 and "was judged before" not in html
    (path / "seen.jsonl").unlink()
    html = write_report([path], tmp_path / "p.html", []).read_text()
    assert "was judged before masks and colours were kept" in html and 'class="mask' not in html


def test_a_mask_is_drawn_whole_on_a_grid_of_bounded_size():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 1:3] = mask[1, 5] = mask[2, 0] = True
    assert mask_path(mask) == "M1 1h2v1h-2zM5 1h1v1h-1zM0 2h1v1h-1z"
    large = torch.ones(512, 300, dtype=torch.bool)
    path = mask_path(large)
    assert path.count("M") == 128 and path.startswith("M0 0h300v4h-300z")


def test_failures_can_be_browsed_by_kind(pair, page):
    html = part(page, "pictures")
    shots = [s for row in gallery(read_runs(pair), None).rows for side in row.sides for s in side]
    missing = sum("missing" in shot.kinds for shot in shots)
    assert missing and f'<option value="missing">missing ({missing})</option>' in html
    kinds = [f["data-kinds"] for f in Page(html).all("figure")]
    assert kinds == [",".join(shot.kinds) for shot in shots]
    assert 'href="#task=colors&amp;kind=missing&amp;boxes=1">2</a>' in part(page, "failures")


def test_doubt_is_the_rank_of_the_second_score_against_the_verdict(pair):
    found = read_runs(pair[:1])[0]
    names = [record.filename for record in found.records[:5]]
    records = [replace(r, correct=c) for r, c in zip(found.records, (1, 0, 1, 0, 1), strict=False)]
    second = dict(zip(names, (10.0, 20.0, 30.0, 40.0, 30.0), strict=True))
    # Ranks among the other four: 0, .25, (2 + 3) / 2 / 4 = .625, 1, .625.
    doubts = replace(found, records=tuple(records), second=second).doubts()
    assert [doubts[name] for name in names] == [1.0, 0.25, 0.375, 1.0, 0.375]
    alone = replace(found, records=tuple(records[:1]), second={names[0]: 3.0}).doubts()
    assert alone == {names[0]: 0.5}


# Runs


def record(model, search, **sampling):
    return {"model": {"name": model}, "search": search and {"name": search}, "sampling": sampling}


@pytest.mark.parametrize("records, names", [
    ([record("m", "none")], ["m"]),
    ([record("m", "b:n=4")], ["m · b:n=4"]),
    ([record("m", "none"), record("m", "b")], ["no search", "b"]),
    ([record("m", "none"), record("n", "none")], ["m", "n"]),
    ([record("m", "none"), record("n", "b")], ["m", "n · b"]),
    ([record("m", None), record("n", "b")], ["m", "n · b"]),
    ([record("m", "none", guidance=1), record("m", "none", guidance=4)],
     ["guidance=1", "guidance=4"]),
    ([record("m", "none"), record("m", "none")], ["r0", "r1"]),
])  # fmt: skip
def test_runs_are_called_by_what_tells_them_apart(records, names):
    assert labels(records, [Path(f"r{i}") for i in range(len(records))]) == names


def test_the_same_run_twice_has_two_names(pair):
    twice = [pair[0], pair[0]]
    assert len({run.label for run in read_runs(twice)}) == 2
    html = write_report(twice, pair[0].parent / "twice.html", compare(twice)).read_text()
    assert "No difference is shown" in words(html)


def test_unfinished_and_foreign_folders_are_refused(pair, tmp_path):
    path = shutil.copytree(pair[0], tmp_path / "run")
    with pytest.raises(ValueError, match="no run folders were given"):
        write_report([], tmp_path / "page.html", [])
    with pytest.raises(ValueError, match=r"the differences are of none, but the runs need"):
        comparison_table(pair, [])
    with pytest.raises(ValueError, match=r"is not a run folder"):
        comparison_table([tmp_path], [])
    lines = (path / "results.jsonl").read_text().splitlines(keepends=True)
    (path / "results.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"is of 12 pictures, results\.jsonl has 11"):
        comparison_table([path], [])
    (path / "summary.json").unlink()
    with pytest.raises(IncompleteError, match=r"summary\.json"):
        write_report([path], tmp_path / "page.html", [])
    draw_prompts(["a dog"], FakeGenerator(), tmp_path / "drawn")
    with pytest.raises(ValueError, match="kind 'generate'"):
        comparison_table([tmp_path / "drawn"], [])
    assert not (tmp_path / "page.html").exists()


def test_provenance_shows_every_setting_and_where_the_files_are(pair, page):
    html = part(page, "provenance")
    text = words(html)
    settings = json.loads((pair[1] / "run.json").read_text())
    for value in (settings["bench"]["prompts_sha256"], settings["scorer"]["sha256"],
                  settings["versions"]["torch"], "search.reward.id"):  # fmt: skip
        assert value in text
    assert "search.name differs none best-of-n:n=3" in text
    assert "<code>best/run.json</code>" in html and str(pair[0]) not in page


def test_many_runs_side_by_side(tmp_path):
    runs = [run(tmp_path / f"r{i}", model=f"model-{i}", samples=1) for i in range(7)]
    html = write_report(runs, tmp_path / "page.html", compare(runs)).read_text()
    assert "run-5" in html and 'class="swatch run-6' not in html
    lines = comparison_table(runs, compare(runs)).splitlines()
    assert sum(line.count("[0.17, 1.00]") for line in lines) >= len(runs), "none is cut in two"


def test_a_changed_number_would_be_seen(pair, tmp_path):
    """The tests of numbers can fail: another summary gives another table."""
    path = shutil.copytree(pair[0], tmp_path / "run")
    summary = json.loads((path / "summary.json").read_text())
    summary["overall"]["score"] = 0.123
    write_json(path / "summary.json", summary)
    assert "0.12 [" in comparison_table([path], [])
