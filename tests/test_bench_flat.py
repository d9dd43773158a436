"""Flat folders with a prompt file: the same verdicts as GenEval's folders, misfits by name."""

import csv
import json
import shutil

import pytest
import torch

from impasto.bench import IncompleteError, Picture, scan_flat
from impasto.images import write_png
from impasto.run.evaluate import evaluate, evaluate_images
from impasto.run.generate import draw_prompts
from impasto.search import NoSearch
from tests import tiny
from tests.fakes import FakeGenerator

SPECS = tiny.SPECS[:3]
PROMPTS = [spec.prompt for spec in SPECS]


def touch(folder, names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


ROWS = [{"file_name": f"{word}.png", "prompt": prompt}
        for word, prompt in zip("abcdef", PROMPTS * 2, strict=True)]  # fmt: skip
WHOLE = [Picture(f"{'abcdef'[i + 3 * k]}.png", i, k) for i in range(3) for k in range(2)]


@pytest.fixture
def named(tmp_path):
    """Six pictures a … f: each prompt's first sample, then each one's second."""
    touch(tmp_path, [row["file_name"] for row in ROWS])
    jsonl(tmp_path / "metadata.jsonl", ROWS)
    return tmp_path


def test_a_file_that_names_pictures(named):
    assert scan_flat(named, SPECS, 2) == WHOLE


def test_csv_and_other_keys_say_the_same(named):
    (named / "metadata.jsonl").unlink()
    with open(named / "metadata.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file_name", "text"), *(r.values() for r in ROWS)])
    jsonl(named / "manifest.jsonl", [{"file": r["file_name"], "caption": r["prompt"]}
                                     for r in ROWS])  # fmt: skip
    assert scan_flat(named, SPECS, 2) == WHOLE
    jsonl(named / "manifest.jsonl", [{"file": r["file_name"], "caption": r["prompt"]}
                                     for r in ROWS[::-1]])  # fmt: skip
    with pytest.raises(ValueError, match=r"metadata\.csv and manifest\.jsonl do not say the same"):
        scan_flat(named, SPECS, 2)


@pytest.mark.parametrize("pattern", ["{i:05d}_{k:02d}.png", "{i}-{k}.jpg", "{i:03d}_{k}.WEBP"])
@pytest.mark.parametrize("file", ["prompts.txt", "prompts.jsonl"])
def test_a_list_of_prompts_and_numbered_pictures(tmp_path, pattern, file):
    touch(tmp_path, [pattern.format(i=i, k=k) for i in range(3) for k in range(2)])
    lines = PROMPTS if file.endswith("txt") else [spec.to_json() for spec in SPECS]
    (tmp_path / file).write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert scan_flat(tmp_path, SPECS, 2) == [
        Picture(pattern.format(i=i, k=k), i, k) for i in range(3) for k in range(2)]


def test_prompts_in_another_order_and_one_picture_each(tmp_path):
    touch(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[::-1]) + "\n")
    assert [p.filename for p in scan_flat(tmp_path, SPECS, 1)] == ["2.png", "1.png", "0.png"]


def test_missing_pictures_are_named(named):
    (named / "e.png").unlink()
    with pytest.raises(IncompleteError, match=r"5/6 pictures; missing: e\.png"):
        scan_flat(named, SPECS, 2)
    assert len(scan_flat(named, SPECS, 2, allow_incomplete=True)) == 5
    with pytest.raises(IncompleteError, match=f"sample 2 of '{PROMPTS[0]}'"):
        scan_flat(named, SPECS, 3)


def test_missing_prompts_are_named(named):
    (named / "c.png").unlink()
    (named / "f.png").unlink()
    jsonl(named / "metadata.jsonl", [r for r in ROWS if r["prompt"] != PROMPTS[2]])
    with pytest.raises(IncompleteError, match=f"sample 0 of '{PROMPTS[2]}'"):
        scan_flat(named, SPECS, 2)


def test_unknown_prompts_and_further_samples_are_named_unless_a_part_is_wanted(named):
    for specs, samples, message in [(SPECS[:2], 2, f"prompt '{PROMPTS[2]}' is none"),
                                    (SPECS, 1, r"d\.png is beyond the samples")]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            scan_flat(named, specs, samples)
        found = scan_flat(named, specs, samples, allow_extra=True)
        assert len(found) == len(specs) * samples


def test_duplicates_and_strays_are_named(named):
    jsonl(named / "metadata.jsonl", [*ROWS, ROWS[0]])
    with pytest.raises(ValueError, match=r"a\.png is named 2 times"):
        scan_flat(named, SPECS, 2, allow_extra=True)
    jsonl(named / "metadata.jsonl", ROWS)
    touch(named, ["g.jpg", "sub/h.webp"])
    with pytest.raises(ValueError, match=r"g\.jpg is named by no line, sub/h\.webp is"):
        scan_flat(named, SPECS, 2)


def test_two_files_for_one_number_or_none_are_refused(tmp_path):
    touch(tmp_path, ["00000_00.png", "0_0.png"])
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    with pytest.raises(ValueError, match=r"0_0\.png .* same sample of"):
        scan_flat(tmp_path, SPECS, 1)
    touch(tmp_path, ["cover.png"])
    with pytest.raises(ValueError, match=r"cover\.png is not named PROMPT_SAMPLE"):
        scan_flat(tmp_path, SPECS, 1)
    (tmp_path / "cover.png").rename(tmp_path / "7.png")
    with pytest.raises(ValueError, match=r"7\.png: prompts\.txt has no prompt 7"):
        scan_flat(tmp_path, SPECS, 1)
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS, PROMPTS[0]]))
    with pytest.raises(ValueError, match=r"holds .* more than once"):
        scan_flat(tmp_path, SPECS, 1)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png",
                                  "C:\\a.png", "C:/a.png", "a\0.png"])
def test_nothing_outside_the_folder_is_read(named, name):
    jsonl(named / "metadata.jsonl", [*ROWS[1:], {"file_name": name, "prompt": PROMPTS[0]}])
    with pytest.raises(ValueError, match="not the name of a file below"):
        scan_flat(named, SPECS, 2)


def test_links_out_of_the_folder_are_refused(named, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "x.png"
    outside.touch()
    (named / "a.png").unlink()
    (named / "a.png").symlink_to(outside)
    with pytest.raises(ValueError, match=r"a\.png lies outside the folder"):
        scan_flat(named, SPECS, 2)


@pytest.mark.parametrize("line, message", [
    ("{", "line 1 is not JSON"), ("[1]", "line 1 must be a JSON object"),
    ('{"prompt": "x"}', "no text under 'file_name' or 'file'"),
    ('{"file_name": "a.png", "prompt": " "}', "no text under 'prompt' or 'text' or 'caption'"),
    ('{"file_name": 3, "prompt": "x"}', "no text under 'file_name'"),
])  # fmt: skip
def test_broken_lines_are_named(named, line, message):
    (named / "metadata.jsonl").write_text(line)
    with pytest.raises(ValueError, match=message):
        scan_flat(named, SPECS, 2)


def test_a_folder_without_a_prompt_file_says_what_is_read(tmp_path):
    touch(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match=r"neither GenEval's folders .* nor a prompt file; "
                       r"allowed: metadata\.jsonl"):  # fmt: skip
        scan_flat(tmp_path, SPECS, 1)


# From a flat folder to a score


def test_flat_pictures_get_the_verdicts_of_the_run_that_drew_them(tmp_path):
    drawn = evaluate(tiny.settings(), FakeGenerator(), NoSearch(), tmp_path / "drawn")
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(6):
        for k in range(2):
            shutil.copy(drawn.image(i, k), flat / f"{i:05d}_{k:02d}.png")
    (flat / "prompts.txt").write_text(tiny.BENCH.prompts_text)
    before = tiny.tree(flat)
    for _ in range(2):
        done = evaluate_images(tiny.settings(), flat, tmp_path / "judged")
        assert done.results.read_bytes() == drawn.results.read_bytes()
        assert done.summary.read_bytes() == drawn.summary.read_bytes()
    assert tiny.tree(flat) == before
    assert done.record["model"]["name"] == "flat"


def test_what_impasto_generate_draws_can_be_judged(tmp_path):
    prompts = [spec.prompt for spec in tiny.SPECS]
    draw_prompts(prompts, FakeGenerator(), tmp_path / "drawn", n=2)
    base = evaluate(tiny.settings(), FakeGenerator(), NoSearch(), tmp_path / "base")
    done = evaluate_images(tiny.settings(), tmp_path / "drawn", tmp_path / "judged")
    assert done.results.read_bytes() == base.results.read_bytes()


def test_a_changed_flat_picture_is_another_run(tmp_path):
    draw_prompts(PROMPTS, FakeGenerator(), tmp_path / "drawn", n=1)
    bench = {"bench": tiny.BENCH.stratified(3), "samples": 1}
    evaluate_images(tiny.settings(**bench), tmp_path / "drawn", tmp_path / "judged")
    write_png(tmp_path / "drawn/00000-00.png", torch.zeros(3, 16, 16))
    with pytest.raises(ValueError, match="images_sha256"):
        evaluate_images(tiny.settings(**bench), tmp_path / "drawn", tmp_path / "judged")
