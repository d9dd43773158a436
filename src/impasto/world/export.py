"""Scenes as data sets that other people's loaders read.

    imagefolder   metadata.jsonl, images/KEY.png                    datasets.load_dataset
    webdataset    shard-000000.tar … with KEY.png, .txt, .json      webdataset.WebDataset
    coco          annotations.json, images/KEY.png                  pycocotools.coco.COCO

An export is whole or absent: it is written beside its final name and renamed at the end. The same
scenes give the same bytes. ATTRIBUTION.md says whose drawings the pictures show.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from impasto import files, images
from impasto.spec import CLASSES, COLORS
from impasto.world.render import Rendered, Renderer
from impasto.world.rle import rle
from impasto.world.scenes import Scene
from impasto.world.sprites import Sprites

__all__ = ["ATTRIBUTION", "COCO_IDS", "FORMATS", "Sample", "export"]

ATTRIBUTION = """\
# Attribution

Most drawings in these pictures are from OpenMoji 17 (https://openmoji.org), the open-source emoji
and icon project, used under CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/).
Changes: recoloured, scaled, turned, mirrored, composed with each other and with drawings made in
the same style by the impasto project. The pictures are adaptations: share them under
CC BY-SA 4.0, with this note.
"""

COCO_IDS = tuple(i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
"""COCO's own category ids of the 80 classes, in GenEval's order, which is COCO's."""

T = TypeVar("T")

_WEB_LICENSE = "https://creativecommons.org/licenses/by-sa/4.0/"


@dataclass(frozen=True)
class Sample:
    """One picture with what is true of it. key: its number, eight digits. png: the file's bytes.

    masks: (N, S, S) bool, the visible pixels of the N objects that can be seen. boxes: (N, 4)
    tight end-exclusive xyxy of those pixels. seen: their places in `scene.objects`.
    """

    key: str
    scene: Scene
    png: bytes
    masks: NDArray[np.bool_]
    boxes: NDArray[np.int64]
    seen: tuple[int, ...]

    @property
    def text(self) -> str:
        return self.scene.caption or self.scene.spec.prompt


def _groups(values: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(values)
    while group := list(islice(source, size)):
        yield group


def _sample(number: int, scene: Scene, out: Rendered, row: int) -> Sample:
    masks = out.masks[row, : len(scene.objects)].cpu().numpy()
    seen = np.flatnonzero(masks.any((1, 2)))
    buffer = io.BytesIO()
    images.to_pil(out.images[row]).save(buffer, format="PNG")
    boxes = out.boxes[row].cpu().numpy()[seen].astype(np.int64)
    return Sample(f"{number:08d}", scene, buffer.getvalue(), masks[seen], boxes,
                  tuple(seen.tolist()))  # fmt: skip


def _samples(scenes: Iterable[Scene], renderer: Renderer, batch: int) -> Iterator[Sample]:
    number = 0
    for group in _groups(scenes, batch):
        out = renderer(group)
        for row, scene in enumerate(group):
            yield _sample(number + row, scene, out, row)
        number += len(group)


def _objects(sample: Sample) -> list[dict[str, Any]]:
    """Per visible object: class, color ("natural" where it has its own), box in pixels (xyxy)."""
    shown = [sample.scene.objects[i] for i in sample.seen]
    return [{"class": o.cls, "color": o.color or "natural", "box": box}
            for o, box in zip(shown, sample.boxes.tolist(), strict=True)]  # fmt: skip


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _imagefolder(samples: Iterator[Sample], folder: Path, shard: int) -> int:
    """A row: file_name, text, spec (GenEval's metadata as JSON text), objects."""
    lines = []
    for sample in samples:
        name = f"images/{sample.key}.png"
        files.write_bytes(folder / name, sample.png)
        lines.append(_json({"file_name": name, "text": sample.text,
                            "spec": sample.scene.spec.to_json(),
                            "objects": _objects(sample)}) + "\n")  # fmt: skip
    files.write_text(folder / "metadata.jsonl", "".join(lines))
    return len(lines)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """TarInfo's defaults are fixed: time 0, owner 0, mode 644."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _webdataset(samples: Iterator[Sample], folder: Path, shard: int) -> int:
    """`shard` samples a file; KEY.json holds the spec, the scene as it was drawn, and objects."""
    count = 0
    for number, group in groupby(enumerate(samples), lambda pair: pair[0] // shard):
        with files.replacing(folder / f"shard-{number:06d}.tar") as path, \
             tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:  # fmt: skip
            for _, sample in group:
                count += 1
                scene = sample.scene
                record = {"spec": scene.spec.to_dict(), "objects": _objects(sample),
                          "scene": [asdict(o) for o in scene.objects],
                          "background": asdict(scene.background)}  # fmt: skip
                _add(tar, f"{sample.key}.png", sample.png)
                _add(tar, f"{sample.key}.txt", sample.text.encode())
                _add(tar, f"{sample.key}.json", _json(record).encode())
    return count


def _annotations(sample: Sample, image: int, first: int) -> list[dict[str, Any]]:
    """COCO annotations of one picture, numbered from `first`; boxes as x, y, width, height."""
    rows = []
    for i, (entry, mask) in enumerate(zip(_objects(sample), sample.masks, strict=True)):
        x1, y1, x2, y2 = entry["box"]
        rows.append({
            "id": first + i, "image_id": image, "iscrowd": 0, "area": int(mask.sum()),
            "category_id": COCO_IDS[CLASSES.index(entry["class"])],
            "bbox": [x1, y1, x2 - x1, y2 - y1], "segmentation": rle(mask),
            "attributes": {"color": entry["color"]},
        })  # fmt: skip
    return rows


def _coco(samples: Iterator[Sample], folder: Path, shard: int) -> int:
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, sample in enumerate(samples, 1):
        files.write_bytes(folder / "images" / f"{sample.key}.png", sample.png)
        size = sample.scene.size
        pictures.append({"id": number, "file_name": f"{sample.key}.png", "width": size,
                         "height": size, "license": 1, "caption": sample.text,
                         "spec": sample.scene.spec.to_dict()})  # fmt: skip
        annotations += _annotations(sample, number, len(annotations) + 1)
    categories = [{"id": k, "name": c} for k, c in zip(COCO_IDS, CLASSES, strict=True)]
    files.write_text(folder / "annotations.json", _json({
        "info": {"description": "impasto sticker world", "colors": list(COLORS)},
        "licenses": [{"id": 1, "name": "CC BY-SA 4.0", "url": _WEB_LICENSE}],
        "categories": categories, "images": pictures, "annotations": annotations,
    }))  # fmt: skip
    return len(pictures)


FORMATS: dict[str, Callable[[Iterator[Sample], Path, int], int]] = {
    "imagefolder": _imagefolder, "webdataset": _webdataset, "coco": _coco,
}  # fmt: skip


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A temporary sibling of `out` that takes its name when the block ends without error."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder)
        raise


def export(
    scenes: Iterable[Scene],
    out: str | Path,
    sprites: Sprites,
    format: str = "imagefolder",
    *,
    shard: int = 1000,
    batch: int = 64,
    device: str | torch.device = "cpu",
    attribution: str = ATTRIBUTION,
    on_sample: Callable[[], None] | None = None,
) -> int:
    """Render scenes and write them as a data set; returns how many.

    out: a folder that is not there yet, or empty. format: one of `FORMATS`. shard: samples a tar
    file. attribution: text of ATTRIBUTION.md; give another one for another art style. on_sample:
    called after each picture (progress bars). Raises ValueError for an unknown format, sizes
    below 1, no scenes or an `out` with something in it; OSError when it cannot be written.
    """
    out = Path(out)
    if format not in FORMATS:
        raise ValueError(f"unknown export format {format!r}; allowed: {', '.join(FORMATS)}")
    if shard < 1 or batch < 1:
        raise ValueError(f"shard and batch must be at least 1, got {shard} and {batch}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; choose another folder, or remove it")
    with _whole(out) as folder:
        samples = _reported(_samples(scenes, Renderer(sprites, device), batch), on_sample)
        count = FORMATS[format](samples, folder, shard)
        if not count:
            raise ValueError("there are no scenes to export")
        files.write_text(folder / "ATTRIBUTION.md", attribution)
    return count


def _reported(samples: Iterator[Sample], on_sample: Callable[[], None] | None) -> Iterator[Sample]:
    for sample in samples:
        yield sample
        if on_sample is not None:
            on_sample()
