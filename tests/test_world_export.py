"""Exports: read back by the libraries they are for, whole or absent, the same bytes each time."""

import io
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.files import sha256_file
from impasto.images import from_pil, read_image
from impasto.spec import CLASSES, Spec
from impasto.world import Sprites, compose, render, sample_spec
from impasto.world.export import COCO_IDS, FORMATS, export
from impasto.world.rle import rle
from impasto.world.tasks import GENEVAL_PLUS_TASKS, GENEVAL_TASKS

COUNT = 12


@pytest.fixture(scope="module")
def sprites():
    return Sprites.load()


@pytest.fixture(scope="module")
def scenes(sprites):
    tasks, made = dict.fromkeys(GENEVAL_TASKS | GENEVAL_PLUS_TASKS, 1.0), []
    for i in range(COUNT):
        rng = np.random.default_rng([13, i])
        spec = sample_spec(rng, sprites.classes, weights=tasks)
        made.append(compose(spec, rng, sprites).captioned(f"caption {i}: {spec.prompt}"))
    return made


@pytest.fixture(scope="module")
def truth(scenes, sprites):
    return render(scenes, sprites)


@pytest.fixture(scope="module")
def exported(scenes, sprites, tmp_path_factory):
    """Format -> folder."""
    root = tmp_path_factory.mktemp("exports")
    for name in FORMATS:
        assert export(iter(scenes), root / name, sprites, name, shard=5, batch=4) == COUNT
    return {name: root / name for name in FORMATS}


def tree(folder):
    return {str(p.relative_to(folder)): sha256_file(p)
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


def test_datasets_reads_the_imagefolder(exported, scenes, truth, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(exported["imagefolder"]),
                                   split="train", cache_dir=str(tmp_path))  # fmt: skip
    assert len(loaded) == COUNT
    for i, row in enumerate(loaded):
        assert row["text"] == scenes[i].caption
        assert Spec.from_dict(json.loads(row["spec"])) == scenes[i].spec
        assert torch.equal(from_pil(row["image"]), truth.images[i])
        assert [o["class"] for o in row["objects"]] == [o.cls for o in scenes[i].objects]
        n = len(scenes[i].objects)
        assert [o["box"] for o in row["objects"]] == truth.boxes[i, :n].tolist()


def test_webdataset_reads_the_shards(exported, scenes, truth):
    wds = pytest.importorskip("webdataset")
    shards = sorted(str(p) for p in exported["webdataset"].glob("*.tar"))
    assert [os.path.basename(p) for p in shards] == [f"shard-{i:06d}.tar" for i in range(3)]
    samples = list(wds.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [s["__key__"] for s in samples] == [f"{i:08d}" for i in range(COUNT)]
    for i, sample in enumerate(samples):
        assert sample["txt"] == scenes[i].caption
        assert torch.equal(from_pil(sample["png"]), truth.images[i])
        assert Spec.from_dict(sample["json"]["spec"]) == scenes[i].spec
        assert sample["json"]["scene"][0]["drawing"] == scenes[i].objects[0].drawing
        colors = [o.color or "natural" for o in scenes[i].objects]
        assert [o["color"] for o in sample["json"]["objects"]] == colors


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_the_annotations(exported, scenes, truth):
    coco_module = pytest.importorskip("pycocotools.coco")
    folder = exported["coco"]
    coco = coco_module.COCO(str(folder / "annotations.json"))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    assert sorted(coco.getImgIds()) == list(range(1, COUNT + 1))
    for i, image in enumerate(coco.loadImgs(range(1, COUNT + 1))):
        picture = read_image(folder / "images" / image["file_name"])
        assert torch.equal(picture, truth.images[i])
        assert image["caption"] == scenes[i].caption
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == len(scenes[i].objects)
        for k, a in enumerate(annotations):
            mask = truth.masks[i, k].numpy()
            assert (coco.annToMask(a).astype(bool) == mask).all()
            assert a["area"] == mask.sum()
            x, y, w, h = a["bbox"]
            assert [x, y, x + w, y + h] == truth.boxes[i, k].tolist()
            assert coco.loadCats(a["category_id"])[0]["name"] == scenes[i].objects[k].cls


def test_coco_ids_are_cocos_own():
    """COCO's renamed three are computer mouse (mouse), tv remote and computer keyboard."""
    known = {"person": 1, "stop sign": 13, "backpack": 27, "wine glass": 46, "dining table": 67,
             "toilet": 70, "tv": 72, "computer mouse": 74, "toothbrush": 90}  # fmt: skip
    assert {c: COCO_IDS[CLASSES.index(c)] for c in known} == known
    assert len(COCO_IDS) == len(CLASSES)


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 48), (300, 200)])
def test_run_lengths_are_byte_for_byte_those_of_pycocotools(shape):
    mask_module = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    noise = rng.random(shape)
    blob = np.add.outer(np.arange(shape[0]) ** 2, np.arange(shape[1]) ** 2) < shape[0] ** 2 / 3
    for mask in (noise < 0.5, noise < 0.02, blob, ~blob, noise < 0, noise < 2):
        theirs = mask_module.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle(mask) == {"size": list(shape), "counts": theirs["counts"].decode()}


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_scenes_give_the_same_bytes_whatever_the_batch(
    exported, scenes, sprites, tmp_path, name
):
    export(scenes, tmp_path / "again", sprites, name, shard=5, batch=7)
    assert tree(tmp_path / "again") == tree(exported[name])


@pytest.mark.parametrize("name", FORMATS)
def test_the_drawings_are_attributed(exported, name):
    text = (exported[name] / "ATTRIBUTION.md").read_text()
    assert "OpenMoji" in text
    assert "CC BY-SA 4.0" in text
    assert "recoloured" in text


@pytest.mark.parametrize("name", FORMATS)
def test_a_failure_leaves_nothing_behind(scenes, sprites, tmp_path, name):
    def broken():
        yield from scenes[:6]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        export(broken(), tmp_path / "out", sprites, name, shard=2, batch=2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused(scenes, sprites, tmp_path):
    with pytest.raises(ValueError, match="allowed: imagefolder, webdataset, coco"):
        export(scenes, tmp_path / "out", sprites, "tfrecord")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        export(scenes, tmp_path / "out", sprites, shard=0)
    with pytest.raises(ValueError, match="no scenes"):
        export([], tmp_path / "out", sprites)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="there already"):
        export(scenes, tmp_path / "mine", sprites)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_taken_and_pictures_are_counted(scenes, sprites, tmp_path):
    (tmp_path / "empty").mkdir()
    done = []
    export(scenes[:3], tmp_path / "empty", sprites, on_sample=lambda: done.append(1))
    assert len(done) == 3
    picture = (tmp_path / "empty" / "images" / "00000002.png").read_bytes()
    assert Image.open(io.BytesIO(picture)).size == (128, 128)
    assert oct((tmp_path / "empty").stat().st_mode & 0o777) == "0o755"
