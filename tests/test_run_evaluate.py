"""A run from drawing to summary: what it writes, and that nothing on the way changes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from impasto import files
from impasto.bench import IncompleteError, read_results
from impasto.images import read_image
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.judge import read_second
from impasto.run.provenance import SettingsDiffer
from impasto.sample.protocol import Sampling, row_seed
from impasto.score.base import ScorerBroken
from impasto.search import BestOfN, NoSearch
from tests import tiny
from tests.fakes import FakeGenerator, FakeScorer, FakeSecond

ROOT = Path(__file__).parent.parent
NAMES = {"model": "fake", "scorer": "fake"}


def run(out, generator=None, search=None, batch_size=4, **changes):
    return evaluate(tiny.settings(**changes), generator or FakeGenerator(), search or NoSearch(),
                    out, batch_size=batch_size)  # fmt: skip


def test_what_a_run_writes(tmp_path):
    done = run(tmp_path / "run", seed=7)
    there = {str(p.relative_to(done.path)) for p in done.path.rglob("*") if p.is_file()}
    samples = {f"images/{i:05d}/samples/{s:05d}.{kind}"
               for i in range(6) for s in range(2) for kind in ("png", "json")}  # fmt: skip
    assert there == samples | {f"images/{i:05d}/metadata.jsonl" for i in range(6)} | {
        "run.json", "results.jsonl", "second.jsonl", "seen.jsonl", "summary.json",
        "cost.json"}  # fmt: skip
    seed = row_seed(7, "a photo of a red car", 1)
    assert done.sample(3, 1) == {"seed": seed, "candidates": [{"seed": seed, "value": None}],
                                 "chosen": 0, "flops": 20.0, "row_steps": 2, "tokens": 0,
                                 "decodes": 1, "reward_calls": 0, "feature_calls": 0,
                                 "reward_flops": 0.0, "trace": []}  # fmt: skip


def test_record_holds_what_a_score_needs(tmp_path):
    record = run(tmp_path, sampling=Sampling(steps=3), names={"model": "fake-1"}).record
    assert record["bench"]["metadata_sha256"] == tiny.BENCH.metadata_sha256
    assert record["texts"] == [spec.prompt for spec in tiny.SPECS] and record["rewriter"] is None
    assert record["bench"]["samples_per_prompt"] == 2 and record["seed"] == 0
    assert record["sampling"] == {"steps": 3, "guidance": 1.0, "height": None, "width": None}
    assert record["model"]["name"] == "fake-1" and record["model"]["dtype"] == "float32"
    assert record["scorer"]["sha256"] == "1" * 64 and record["second"]["sha256"] == "2" * 64
    assert set(record["versions"]) == {"python", "impasto", "torch", "diffusers", "transformers",
                                       "numpy", "pillow"}  # fmt: skip


def test_scores_are_of_the_files_on_disk(tmp_path):
    done = run(tmp_path)
    records, second = read_results(done.results), read_second(done.second)
    assert [r.filename for r in records] == list(second) and len(records) == 12
    for record in records:
        image = read_image(tmp_path / record.filename)
        assert record.correct == (float(image[0, 0, 0]) > 0.5)
        assert second[record.filename] == pytest.approx(float(image.mean()))
    summary = json.loads(done.summary.read_text())
    assert summary["correct_images"] == sum(r.correct for r in records) / 12
    assert summary["coverage"] == {"images": 12, "of": 12}


def test_cost_counts_what_was_drawn(tmp_path):
    cost = json.loads(run(tmp_path, sampling=Sampling(steps=5)).cost.read_text())
    assert cost["images"] == 12 and cost["row_steps"] == 60 and cost["flops"] == 600.0
    assert cost["seconds"]["generate"] > 0 and cost["seconds"]["score"] > 0
    assert cost["resumed"] is False and cost["device"]


@pytest.mark.parametrize("search", [NoSearch(), BestOfN(3, FakeSecond())])
def test_batch_size_changes_nothing(tmp_path, search):
    run(tmp_path / "one", search=search, batch_size=1)
    run(tmp_path / "many", search=search, batch_size=64)
    assert tiny.tree(tmp_path / "one") == tiny.tree(tmp_path / "many")


def test_a_search_is_paired_with_its_base(tmp_path):
    base = run(tmp_path / "base")
    best = run(tmp_path / "best", search=BestOfN(3, FakeSecond()))
    for i in range(6):
        drawn = best.sample(i, 0)
        assert drawn["candidates"][0]["seed"] == base.sample(i, 0)["seed"]
        values = [candidate["value"] for candidate in drawn["candidates"]]
        assert drawn["chosen"] == values.index(max(values))
        assert read_image(best.image(i, 0)).mean() == pytest.approx(max(values))
    spent = json.loads(best.cost.read_text())
    assert spent["images"] == 36 and spent["row_steps"] == 72
    assert best.record["search"]["n"] == 3
    assert best.record["search"]["reward"]["id"] == "fake-second"


def test_out_of_memory_halves_the_batch_with_the_same_pictures(tmp_path):
    run(tmp_path / "plenty")
    small = FakeGenerator(memory=2)
    with pytest.warns(UserWarning) as warned:
        run(tmp_path / "small", small, batch_size=8)
    assert [str(w.message).partition(' with ')[2] for w in warned] == [
        "8 pictures at a time; going on with 4", "4 pictures at a time; going on with 2"]
    assert max(small.batches) == 2
    assert tiny.tree(tmp_path / "small") == tiny.tree(tmp_path / "plenty")


def test_out_of_memory_of_one_picture_is_an_error(tmp_path):
    with pytest.warns(UserWarning), pytest.raises(torch.OutOfMemoryError, match="smaller height"):
        run(tmp_path, FakeGenerator(memory=0), batch_size=2)


def test_scorer_out_of_memory_judges_the_same(tmp_path):
    class Small(FakeScorer):
        def score(self, images, specs):
            if len(images) > 1:
                raise torch.OutOfMemoryError
            return super().score(images, specs)

    run(tmp_path / "plenty")
    with pytest.warns(UserWarning, match="out of memory"):
        run(tmp_path / "small", scorer=Small())
    a, b = ((tmp_path / n / "results.jsonl").read_bytes() for n in ("plenty", "small"))
    assert a == b


def test_broken_scorer_prints_no_score_and_draws_nothing(tmp_path):
    with pytest.raises(ScorerBroken):
        run(tmp_path / "run", scorer=FakeScorer(broken=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changes", [{"limit": 0}, {"limit": 7}, {"samples": 0}])
def test_impossible_parts_are_refused(tmp_path, changes):
    with pytest.raises(ValueError, match=r"limit|samples"):
        run(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_limit_and_samples(tmp_path):
    done = run(tmp_path, limit=3, samples=1)
    assert len(read_results(done.results)) == 3


class Interrupting(FakeGenerator):
    """A fake that raises `error` at its third batch."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def finish(self, state):
        if len(self.batches) == 3:
            raise self.error
        return super().finish(state)


def test_ctrl_c_loses_one_batch_at_most(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Interrupting(KeyboardInterrupt()), batch_size=2, names=NAMES)
    assert len(list((tmp_path / "cut").rglob("*.png"))) == 4
    assert not (tmp_path / "cut" / "summary.json").exists()
    assert not (tmp_path / "cut" / ".lock").exists()
    rest = FakeGenerator()
    done = run(tmp_path / "cut", rest, batch_size=2, names=NAMES)
    assert sum(rest.batches) == 8
    assert json.loads(done.cost.read_text())["resumed"] is True
    assert json.loads(done.cost.read_text())["images"] == 12
    run(tmp_path / "whole", names=NAMES)
    assert tiny.tree(tmp_path / "cut") == tiny.tree(tmp_path / "whole")
    # Found again a finished run costs nothing; one that has lost a picture costs that picture.
    before = done.cost.read_bytes()
    assert run(tmp_path / "cut", names=NAMES).cost.read_bytes() == before
    next((tmp_path / "cut").rglob("*.png")).unlink()
    run(tmp_path / "cut", names=NAMES)
    assert done.cost.read_bytes() != before and json.loads(done.cost.read_text())["images"] == 12


def test_interrupted_judging_goes_on_where_it_was(tmp_path):
    class Counting(FakeScorer):
        seen = 0

        def score(self, images, specs):
            if self.seen >= 4 and type(self) is Counting:
                raise KeyboardInterrupt
            self.seen += len(images)
            return super().score(images, specs)

    class Patient(Counting):
        pass

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", scorer=Counting(), batch_size=2, names=NAMES)
    rest = Patient()
    run(tmp_path / "cut", scorer=rest, batch_size=2, names=NAMES)
    assert rest.seen == 8, "four of twelve were judged before"
    run(tmp_path / "whole", names=NAMES)
    assert tiny.tree(tmp_path / "cut") == tiny.tree(tmp_path / "whole")


def test_a_changed_picture_is_judged_again(tmp_path):
    done = run(tmp_path)
    before = read_results(done.results)
    other = tmp_path / "images/00000/samples/00000.png"
    os.replace(tmp_path / "images/00001/samples/00000.png", other)
    os.utime(other)
    done = run(tmp_path)
    after = read_results(done.results)
    assert after[0].details != before[0].details and after[1:] == before[1:]


def test_full_disk_keeps_what_was_drawn(tmp_path, monkeypatch):
    real, room = os.replace, [20]

    def replace(source, target):
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        room[0] -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(files.StorageError, match="the disk is full"):
        run(tmp_path / "full")
    monkeypatch.undo()
    assert not list((tmp_path / "full").rglob("*.tmp"))
    run(tmp_path / "full")
    run(tmp_path / "whole")
    assert tiny.tree(tmp_path / "full") == tiny.tree(tmp_path / "whole")


def test_other_settings_are_refused_by_name(tmp_path):
    run(tmp_path)
    with pytest.raises(SettingsDiffer, match=r"sampling\.guidance: 1\.0 in the folder, 4\.0 now"):
        run(tmp_path, sampling=Sampling(guidance=4.0))
    with pytest.raises(SettingsDiffer, match=r"scorer\.threshold"):
        run(tmp_path, scorer=FakeScorer(threshold=0.6))
    with pytest.raises(SettingsDiffer, match="seed: 0 in the folder, 1 now"):
        run(tmp_path, seed=1)


def test_truncated_pictures_are_named_and_redrawn_once_deleted(tmp_path):
    done = run(tmp_path / "run")
    whole = tiny.tree(done.path)
    broken = [done.image(2, 0), done.image(4, 1)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IncompleteError) as caught:
        run(tmp_path / "run")
    text = str(caught.value)
    assert "10/12 readable pictures" in text and "Delete the damaged" in text
    assert all(str(path) in text for path in broken)
    for path in broken:
        path.unlink()
    run(tmp_path / "run")
    assert tiny.tree(done.path) == whole


def test_killed_at_any_moment_the_bytes_are_the_same(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_and_resume", str(tmp_path), "40"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10, "the kills must hit runs that are under way"
    assert tiny.tree(tmp_path / "killed") == tiny.tree(tmp_path / "whole")
    assert len(list((tmp_path / "killed").rglob("*.png"))) == 18


# Pictures from elsewhere


@pytest.fixture
def drawn(tmp_path):
    return run(tmp_path / "drawn").images


def judge(images, out, **options):
    changes = {k: options.pop(k) for k in ("limit", "samples") if k in options}
    return evaluate_images(tiny.settings(**changes), images, out, **options)


def test_pictures_from_elsewhere_get_the_same_verdicts(tmp_path, drawn):
    before = tiny.tree(drawn)
    done = judge(drawn, tmp_path / "judged")
    own = json.loads((drawn.parent / "summary.json").read_text())
    assert json.loads(done.summary.read_text()) == own
    assert done.record["seed"] is None and done.record["model"]["name"] == "images"
    cost = json.loads(done.cost.read_text())
    assert cost["flops"] is None and set(cost["seconds"]) == {"score"}
    assert (done.path / read_results(done.results)[0].filename).is_file()
    assert tiny.tree(drawn) == before


def test_a_part_of_a_folder(tmp_path, drawn):
    done = judge(drawn, tmp_path / "judged", limit=2, samples=1)
    assert json.loads(done.summary.read_text())["coverage"] == {"images": 2, "of": 2}


def test_missing_pictures_are_refused_unless_allowed(tmp_path, drawn):
    (drawn / "00003/samples/00001.png").unlink()
    with pytest.raises(IncompleteError, match=r"11/12 pictures; missing: 00003/samples/00001"):
        judge(drawn, tmp_path / "judged")
    done = judge(drawn, tmp_path / "judged", allow_incomplete=True)
    assert json.loads(done.summary.read_text())["coverage"] == {"images": 11, "of": 12}


def test_damaged_pictures_are_named_and_left_out_when_allowed(tmp_path, drawn):
    (drawn / "00003/samples/00001.png").write_bytes(b"GIF89a")
    with pytest.raises(IncompleteError, match=r"00003/samples/00001\.png: not a PNG"):
        judge(drawn, tmp_path / "judged")
    with pytest.warns(UserWarning, match=r"left out: .*00003/samples/00001\.png"):
        done = judge(drawn, tmp_path / "judged", allow_incomplete=True)
    assert json.loads(done.summary.read_text())["coverage"] == {"images": 11, "of": 12}


def test_changed_pictures_are_another_run(tmp_path, drawn):
    judge(drawn, tmp_path / "judged")
    os.replace(drawn / "00000/samples/00000.png", drawn / "00000/samples/00001.png")
    with pytest.raises(SettingsDiffer, match="images_sha256"):
        judge(drawn, tmp_path / "judged", allow_incomplete=True)


def test_pictures_of_several_sizes(tmp_path, drawn):
    from impasto.images import write_png

    write_png(drawn / "00000/samples/00001.png", torch.ones(3, 9, 31))
    done = judge(drawn, tmp_path / "judged", batch_size=12)
    assert read_results(done.results)[1].correct


def test_a_wide_search_is_saved_after_every_batch_of_pictures(tmp_path):
    """Eight pictures at a time and four candidates each: two samples are saved together."""
    saved = []

    class Watched(FakeGenerator):
        def start(self, requests, seeds, sampling):
            saved.append(len(list((tmp_path / "run").rglob("samples/*.png"))))
            return super().start(requests, seeds, sampling)

    search = BestOfN(4, FakeSecond())
    run(tmp_path / "run", Watched(), search, batch_size=8)
    assert saved == [0, 2, 4, 6, 8, 10]
