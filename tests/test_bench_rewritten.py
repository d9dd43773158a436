"""Rewritten prompts: the model gets them, the judges do not, and their score is another column."""

import json
from dataclasses import replace

import pytest

from impasto.bench import geneval, geneval_specs, read_results, rewritten
from impasto.report import write_report
from impasto.report.table import comparison_table
from impasto.run.budget import budgets
from impasto.run.compare import compare
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.provenance import SettingsDiffer
from impasto.sample.protocol import row_seed
from impasto.search import BestOfN, NoSearch
from impasto.zoo.registry import BENCHES
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

LONG = {spec.prompt: f"{spec.prompt}, a shaggy and carefully lit one; number {i}"
        for i, spec in enumerate(tiny.SPECS)}  # fmt: skip


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "long.jsonl",
                   [{"prompt": p, "rewritten": text} for p, text in LONG.items()])  # fmt: skip


@pytest.fixture
def bench(file):
    return rewritten(tiny.BENCH, file)


def run(out, bench=tiny.BENCH, search=None, **changes):
    names = {"model": "m", "search": "none", "scorer": "judge", "second": "other"}
    settings = tiny.settings(bench=bench, names=names, **changes)
    return evaluate(settings, FakeGenerator(), search or NoSearch(), out)


# The file


def test_three_kinds_of_file_say_the_same(file, bench, tmp_path):
    (tmp_path / "map.json").write_text(json.dumps(LONG), encoding="utf-8")
    published = [spec.to_dict() | {"prompt": LONG[spec.prompt]} for spec in tiny.SPECS]
    for path in (tmp_path / "map.json", written(tmp_path / "metadata_long.jsonl", published)):
        other = rewritten(tiny.BENCH, path)
        assert other.given == bench.given and other.specs == tiny.SPECS
        assert other.name != bench.name, "the file's hash is in the name"
    assert [spec.prompt for spec in bench.given] == list(LONG.values())
    assert replace(bench.given[2], prompt=tiny.SPECS[2].prompt) == tiny.SPECS[2]


@pytest.mark.parametrize("rows, message", [
    ([{"prompt": p, "rewritten": t} for p, t in list(LONG.items())[1:]],
     "lacks rewritings of 'a photo of a dog'; tiny has 6 prompts"),
    ([{"prompt": p, "rewritten": t} for p, t in {**LONG, "a cow": "x"}.items()],
     "no prompt of the bench: 'a cow'"),
    ([{"prompt": p, "rewritten": " "} for p in LONG], "rewriting of 'a photo of a dog' is empty"),
    ([*({"prompt": p, "rewritten": t} for p, t in LONG.items()),
      {"prompt": "a photo of a dog", "rewritten": "y"}], "two rewritings of 'a photo of a dog'"),
    ([spec.to_dict() | {"prompt": "x"} for spec in tiny.SPECS[::-1]],
     "line 1: without a key .* the demands of 'a photo of a dog'"),
    ([spec.to_dict() for spec in (*tiny.SPECS, tiny.SPECS[0])], "line 7: .* no more prompts"),
    (["a dog"], "line 1 must be an object"),
])  # fmt: skip
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        rewritten(tiny.BENCH, written(tmp_path / "x.jsonl", rows))


def test_what_is_no_json(tmp_path):
    for name, text in (("x.jsonl", "a dog\n"), ("x.json", "[1]")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match="neither a JSON object of prompts nor JSON Lines"):
            rewritten(tiny.BENCH, tmp_path / name)


def test_geneval_by_the_published_kind_of_file(tmp_path):
    """553 lines of GenEval's own metadata with another prompt; its own hashes are told beside."""
    path = written(tmp_path / "evaluation_metadata_long.jsonl",
                   (spec.to_dict() | {"prompt": f"{spec.prompt} in the rain"}
                    for spec in geneval_specs()))  # fmt: skip
    bench = BENCHES.create(f"geneval-rewritten:path={path}")
    assert bench.name.startswith("geneval-rewritten:sha256=") and len(bench.specs) == 553
    told = bench.provenance()
    assert told["specs_sha256"] == geneval().metadata_sha256 != told["metadata_sha256"]
    assert bench.prompts_text.startswith("a photo of a bench in the rain\n")
    part = BENCHES.create(f"geneval-rewritten:path={path},limit=12")
    assert part.specs == geneval().stratified(12).specs and part.name.endswith(",limit=12")
    with pytest.raises(ValueError, match="needs a file of rewritings"):
        BENCHES.create("geneval-rewritten")


# Runs


class Reading(FakeScorer):
    """Keeps the prompts that it is shown."""

    def __init__(self):
        super().__init__()
        self.read = []

    def score(self, images, specs):
        self.read += [spec.prompt for spec in specs]
        return super().score(images, specs)


class Told(FakeGenerator):
    def __init__(self):
        super().__init__()
        self.told = []

    def start(self, requests, seeds, sampling):
        self.told += [request.prompt for request in requests]
        return super().start(requests, seeds, sampling)


def test_the_model_reads_the_rewriting_and_the_judges_the_prompt(bench, tmp_path, file):
    model, judge = Told(), Reading()
    done = evaluate(tiny.settings(bench=bench, scorer=judge), model, NoSearch(), tmp_path / "run")
    assert set(model.told) == set(LONG.values()) and set(judge.read) == set(LONG)
    assert done.record["texts"] == list(LONG.values())
    assert done.record["rewriter"] == {"file": file.name, "sha256": bench.rewriter["sha256"]}
    assert done.sample(0, 1)["seed"] == row_seed(0, "a photo of a dog", 1)
    told = json.loads((done.images / "00000/metadata.jsonl").read_text())
    assert told["prompt"] == LONG["a photo of a dog"] and told["tag"] == "single_object"
    assert read_results(done.results)[0].prompt == "a photo of a dog"
    label = json.loads(done.summary.read_text())["overall"]["label"]
    assert label == "overall (rewritten prompts)"
    again = BestOfN(2, FakeSecond())
    best = evaluate(tiny.settings(bench=bench), model, again, tmp_path / "best")
    assert best.sample(0, 0)["candidates"][0]["seed"] == done.sample(0, 0)["seed"]
    assert set(model.told) == set(LONG.values())


def test_an_edited_rewriting_is_another_run(bench, tmp_path, file):
    run(tmp_path / "run", bench)
    edited = LONG | {"a photo of a dog": "a wolf"}
    other = rewritten(tiny.BENCH, written(tmp_path / "edited.jsonl",
                      [{"prompt": p, "rewritten": t} for p, t in edited.items()]))  # fmt: skip
    with pytest.raises(SettingsDiffer, match=r"texts"):
        run(tmp_path / "run", other)


def test_pictures_of_one_are_not_taken_for_the_other(bench, tmp_path):
    plain, long = run(tmp_path / "plain"), run(tmp_path / "long", bench)
    for images, wrong, right in ((plain.images, bench, tiny.BENCH),
                                 (long.images, tiny.BENCH, bench)):  # fmt: skip
        with pytest.raises(ValueError, match="none of the bench's specs"):
            evaluate_images(tiny.settings(bench=wrong), images, tmp_path / "no")
        judged = evaluate_images(tiny.settings(bench=right), images,
                                 tmp_path / right.name.partition(":")[0])  # fmt: skip
        own = long if right is bench else plain
        assert judged.results.read_bytes() == own.results.read_bytes()


def test_the_two_are_two_columns(bench, tmp_path):
    plain, long = run(tmp_path / "plain").path, run(tmp_path / "long", bench).path
    (difference,) = compare([plain, long])
    assert difference.paired_by == "prompt and seed"
    assert difference.verdicts.overall.value != 0, "other pictures"
    text = comparison_table([plain, long], [difference], budgets([plain, long]))
    assert "own prompts" in text and "rewritten by long.jsonl" in text
    assert "its score is not one of the bench's own prompts" in " ".join(text.split())
    page = write_report([plain, long], tmp_path / "page.html", [difference]).read_text()
    assert "rewritten by long.jsonl" in page and "hold what the rewriting does" in page
    alone = comparison_table([long], [])
    assert "rewritten by long.jsonl" in alone and "Rewritten prompts: " in alone
    assert "own prompts" not in comparison_table([plain], [])
    # A picture of one is never looked up as the other's: seeds are equal, texts are not.
    best = run(tmp_path / "best", bench, BestOfN(2, FakeSecond())).path
    entry = budgets([plain, best]).equal_samples[1][1]
    assert entry.score is None and entry.between is not None


def test_other_differences_are_refused_as_ever(bench, tmp_path):
    plain = run(tmp_path / "plain").path
    other = run(tmp_path / "other", bench, scorer=FakeScorer(threshold=0.4)).path
    with pytest.raises(SettingsDiffer, match=r"scorer\.threshold"):
        compare([plain, other])
    fewer = run(tmp_path / "fewer", bench, samples=1).path
    with pytest.raises(SettingsDiffer, match="samples_per_prompt"):
        compare([plain, fewer])
