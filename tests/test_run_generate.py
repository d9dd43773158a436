"""Pictures for free prompts."""

import json
import os

import pytest

from impasto.images import read_image
from impasto.run.generate import draw_prompts
from impasto.run.prompts import read_prompts
from impasto.run.provenance import SettingsDiffer
from impasto.sample.protocol import Request, Sampling, generate, row_seed
from tests import tiny
from tests.fakes import FakeGenerator

PROMPTS = ["a red apple", "../../etc/passwd", "zwei 🍎"]


def test_names_are_ours_and_pictures_are_the_seeds(tmp_path):
    paths = draw_prompts(PROMPTS, FakeGenerator(), tmp_path, n=2, seed=3)
    assert [p.name for p in paths] == ["00000-00.png", "00000-01.png", "00001-00.png",
                                       "00001-01.png", "00002-00.png", "00002-01.png"]  # fmt: skip
    assert sorted(os.listdir(tmp_path)) == [p.name for p in paths] + ["manifest.jsonl", "run.json"]
    seed = row_seed(3, "zwei 🍎", 1)
    image, _ = generate(FakeGenerator(), [Request.of("zwei 🍎")], [seed])
    assert read_image(paths[5]).equal(image[0])
    lines = [json.loads(s) for s in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert lines[5] == {"file": "00002-01.png", "prompt": "zwei 🍎", "sample": 1, "seed": seed}


def test_batch_order_and_interruption_change_nothing(tmp_path):
    draw_prompts(PROMPTS, FakeGenerator(), tmp_path / "a", n=2, batch_size=1)
    draw_prompts(PROMPTS, FakeGenerator(), tmp_path / "b", n=2, batch_size=64)
    for name in ("00001-00.png", "manifest.jsonl"):
        (tmp_path / "b" / name).unlink()
    generator = FakeGenerator()
    draw_prompts(PROMPTS, generator, tmp_path / "b", n=2)
    assert generator.batches == [1]
    assert tiny.tree(tmp_path / "a") == tiny.tree(tmp_path / "b")


def test_default_folder_follows_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = draw_prompts(["a"], FakeGenerator())
    again = draw_prompts(["a"], FakeGenerator(), batch_size=2)
    other = draw_prompts(["a"], FakeGenerator(), sampling=Sampling(guidance=2.0))
    assert first == again and first[0].parent != other[0].parent
    assert first[0].parent.parent.name == "runs"


@pytest.mark.parametrize("prompts, n, message", [([], 1, "no prompt"), ([" "], 1, "empty prompt"),
                                                 (["a"], 0, "at least 1, got 0")])
def test_nothing_to_draw(tmp_path, prompts, n, message):
    with pytest.raises(ValueError, match=message):
        draw_prompts(prompts, FakeGenerator(), tmp_path / "x", n=n)
    assert not (tmp_path / "x").exists()


def test_an_edited_prompt_file_is_another_run(tmp_path, monkeypatch):
    """Another word, another order or one line more; another line end is none of them."""
    monkeypatch.chdir(tmp_path)
    file, folders = tmp_path / "prompts.txt", {}
    for text in ("a dog\na cat\n", "a dog\na bat\n", "a cat\na dog\n", "a dog\na cat\na bus\n",
                 "\ufeffa dog\r\na cat\r\n"):  # fmt: skip
        file.write_bytes(text.encode())
        folders[text] = draw_prompts(read_prompts(file), FakeGenerator())[0].parent
    *four, marked = folders.values()
    assert len(set(four)) == 4 and marked == four[0]
    file.write_text("a dog\na bat\n")
    with pytest.raises(SettingsDiffer, match="texts"):
        draw_prompts(read_prompts(file), FakeGenerator(), four[0])


def test_other_settings_need_another_folder(tmp_path):
    draw_prompts(["a"], FakeGenerator(), tmp_path)
    with pytest.raises(SettingsDiffer, match="texts"):
        draw_prompts(["b"], FakeGenerator(), tmp_path)
