"""Pictures as ids in a file, back again, and as coloured maps to look at.

    OUT/tokens.json            {"format", "tokenizer": its record, "pictures": [{"name", "height",
                               "width", "maps": [[h, w]], "ids": [[…] a map, row by row]}]}
    OUT/NAME-given.png         the picture as the tokenizer was given it
    OUT/NAME-restored.png      what comes back
    OUT/NAME-difference.png    1/2 + 4 (restored - given): grey where nothing changed
    OUT/NAME-tokens.png        the maps, a colour an id

Ids mean nothing to another tokenizer: the record's digest must be its own before they are decoded.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from impasto.bench.reconstruction import decibels
from impasto.files import write_json
from impasto.images import image_size, quantise, read_image, write_png
from impasto.models.autoencoders import Autoencoder
from impasto.run.pictures import Frame

__all__ = ["FORMAT", "check_pictures", "colors_of", "difference", "maps_picture", "restored",
           "tokenized"]  # fmt: skip

FORMAT = "impasto-tokens-1"
GAIN = 4
"""By how much a difference is amplified."""
SIDE, GAP = 256, 8
"""Longest side of a map as it is drawn, and what is between two, in pixels."""
KEYS = {"name", "height", "width", "maps", "ids"}


# ---------------------------------------------------------------- to look at


def colors_of(ids: Tensor) -> Tensor:
    """(…, 3) in [0, 1]: a colour of each id, the same everywhere and for ever.

    Ids that lie close have colours that do not; some two of thousands look alike.
    """
    x = ids.long() + 1
    for shift, factor in ((29, -0x61C8864680B583EB), (32, -0x6B2FB644ECCEEE15)):
        x = (x ^ (x >> shift)) * factor  # wraps around: a hash
    levels = torch.stack([(x >> shift) & 0xFF for shift in (56, 40, 24)], dim=-1)
    return 0.08 + 0.84 * levels.float() / 255


def maps_picture(
    ids: Sequence[Tensor], sizes: Sequence[tuple[int, int]], height: int, width: int
) -> Tensor:
    """(3, H', W'): the maps of one picture of height x width side by side, ids (h_k w_k)
    coloured, in the picture's shape."""
    parts = []
    for own, (h, w) in zip(ids, sizes, strict=True):
        scale = max(SIDE, h, w) / max(height, width)
        small = colors_of(own.view(h, w)).permute(2, 0, 1)
        size = max(h, round(scale * height)), max(w, round(scale * width))
        parts.append(F.interpolate(small[None], size, mode="nearest-exact")[0])
    tallest = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, GAP * (i + 1 < len(parts)), 0, tallest - part.shape[1]),
                            value=1.0) for i, part in enumerate(parts)], dim=2)  # fmt: skip


def difference(given: Tensor, restored: Tensor) -> Tensor:
    """(3, H, W) in [0, 1]: grey where nothing changed, GAIN times lighter or darker elsewhere."""
    return (0.5 + GAIN * (restored - given)).clamp(0, 1)


# ---------------------------------------------------------------- pictures to ids


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each picture's files: the file's own, numbered where it is there before."""
    seen: Counter[str] = Counter()
    names = []
    for path in paths:
        seen[path.stem] += 1
        name = path.stem if seen[path.stem] == 1 else f"{path.stem}-{seen[path.stem]}"
        names.append(name)
        seen[name] += name != path.stem
    return names


def check_pictures(model: Autoencoder, paths: Sequence[Path], frame: Frame) -> None:
    """Raises ValueError naming the first picture whose size the tokenizer does not take, by the
    files' heads; ImageError for what is none."""
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the pictures in it, or measure them all "
                             f"by 'impasto eval reconstruction {path}'")  # fmt: skip
        height, width = image_size(path)
        if frame.size is not None:
            height = width = frame.size
        try:
            model.sizes_of(height, width)
        except ValueError as error:
            made = "is" if frame.size is None else "is to be cut to"
            raise ValueError(f"{path} {made} {width} x {height}: {error}; {frame.advice}"
                             ) from error  # fmt: skip


def _files(out: Path, name: str, **images: Tensor) -> dict[str, str]:
    paths = {kind: out / f"{name}-{kind}.png" for kind in images}
    for kind, path in paths.items():
        write_png(path, images[kind])
    return {kind: str(path) for kind, path in paths.items()}


def _told(given: Tensor, back: Tensor, ids: Sequence[Tensor], model: Autoencoder
          ) -> dict[str, Any]:  # fmt: skip
    """The figures of one picture; psnr: None of one that came back exactly."""
    mse = (given.double() - back.double()).square().mean()
    every = torch.cat(list(ids)) if ids else torch.empty(0)
    return {"psnr": None if mse == 0 else float(decibels(mse)), "ids": len(every),
            "distinct": len(every.unique()),
            "bits": None if model.bits is None else len(every) * model.bits}  # fmt: skip


def tokenized(
    model: Autoencoder, paths: Sequence[Path], out: Path, frame: Frame
) -> Iterator[dict[str, Any]]:
    """Take pictures there and back, and write OUT; a row of figures and files for each.

    tokens.json comes last, and not at all without ids. Raises ValueError before anything is
    written for a picture of a size that does not fit, ImageError for a damaged one.
    """
    check_pictures(model, paths, frame)
    kept = []
    for path, name in zip(paths, _names(paths), strict=True):
        given = frame.cut(read_image(path))
        height, width = given.shape[1:]
        images, ids = model.reconstruct(given[None])
        back, flat = quantise(images[0]), [own[0] for own in ids or []]
        sizes = model.sizes_of(height, width)
        shown = {"tokens": maps_picture(flat, sizes, height, width)} if flat else {}
        files = _files(out, name, given=given, restored=back, difference=difference(given, back),
                       **shown)  # fmt: skip
        maps = [list(size) for size in sizes]
        kept.append({"name": path.name, "height": height, "width": width, "maps": maps,
                     "ids": [own.tolist() for own in flat]})  # fmt: skip
        yield {"name": str(path), "size": [height, width], "maps": maps, "files": files,
               **_told(given, back, flat, model)}  # fmt: skip
    if model.codebook_size is not None:
        write_json(out / "tokens.json", {"format": FORMAT, "tokenizer": model.provenance(),
                                         "pictures": kept})  # fmt: skip


# ---------------------------------------------------------------- ids to pictures


def _read(path: Path) -> dict[str, Any]:
    """The content of a tokens file. Raises ValueError for what is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no file of ids: it is not JSON ({error}); give the "
                         f"tokens.json of 'impasto tokenize'") from error  # fmt: skip
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of ids: it has no \"format\": \"{FORMAT}\"; give the "
                         f"tokens.json of 'impasto tokenize'")  # fmt: skip
    if not isinstance(values.get("tokenizer"), Mapping):
        raise ValueError(f"{path} does not say whose ids it holds (\"tokenizer\")")
    pictures = values.get("pictures")
    if not isinstance(pictures, list) or not pictures:
        raise ValueError(f"{path} holds no pictures")
    for i, picture in enumerate(pictures):
        if not isinstance(picture, Mapping) or set(picture) != KEYS:
            raise ValueError(f"{path}: picture {i} must have the keys {', '.join(sorted(KEYS))}")
        if not all(type(picture[key]) is int and picture[key] > 0 for key in ("height", "width")):
            raise ValueError(f"{path}: the size of picture {i} must be whole numbers above 0, "
                             f"given {picture['height']!r} and {picture['width']!r}")  # fmt: skip
        if not _is_name(picture["name"]):
            raise ValueError(f"{path}: the name of picture {i} must be that of a file, given "
                             f"{picture['name']!r}")  # fmt: skip
    return dict(values)


def _is_name(name: Any) -> bool:
    """Whether a file can be called so; folders before it do not count."""
    return isinstance(name, str) and "\0" not in name and Path(name).name not in ("", "..")


def _ids(picture: Mapping[str, Any], model: Autoencoder) -> list[Tensor]:
    """(1, h_k w_k) a map. Raises ValueError for ids that this picture cannot have."""
    sizes = model.sizes_of(picture["height"], picture["width"])
    if picture["maps"] != [list(size) for size in sizes]:
        wanted = ", ".join(f"{h} x {w}" for h, w in sizes)
        raise ValueError(f"a picture of {picture['width']} x {picture['height']} has maps of "
                         f"{wanted}; given {picture['maps']}")  # fmt: skip
    given = picture["ids"]
    if not isinstance(given, list) or len(given) != len(sizes):
        raise ValueError(f"there must be ids of {len(sizes)} maps, given "
                         f"{len(given) if isinstance(given, list) else repr(given)}")  # fmt: skip
    for k, (own, (h, w)) in enumerate(zip(given, sizes, strict=True)):
        if not isinstance(own, list) or len(own) != h * w:
            count = len(own) if isinstance(own, list) else repr(own)
            raise ValueError(f"map {k} has {h} x {w} = {h * w} ids, given {count}")
        bad = [i for i in own if type(i) is not int or not 0 <= i < (model.codebook_size or 0)]
        if bad:
            raise ValueError(f"ids of map {k} must be whole numbers from 0 to "
                             f"{(model.codebook_size or 0) - 1}, given {bad[0]!r}")  # fmt: skip
    return [torch.tensor([own]) for own in given]


def restored(path: Path, model: Autoencoder) -> Iterator[tuple[str, Tensor]]:
    """Name and picture (3, H, W) of each picture in a tokens file.

    Raises ValueError, before anything is decoded, for a file that is none, for ids of another
    tokenizer, out of range, or not as many as the maps have places.
    """
    values = _read(path)
    theirs, own = values["tokenizer"].get("digest"), model.digest
    if theirs != own:
        name = values["tokenizer"].get("name")
        raise ValueError(f"{path} holds ids of another tokenizer ({name}, digest "
                         f"{str(theirs)[:12]}) than {model.name} ({own[:12]}): they mean other "
                         f"things to it; give the tokenizer that made them")  # fmt: skip
    every = []
    for i, picture in enumerate(values["pictures"]):
        try:
            every.append(_ids(picture, model))
        except ValueError as error:
            raise ValueError(f"{path}, picture {i} ({picture['name']}): {error}") from error
    names = _names([Path(picture["name"]) for picture in values["pictures"]])
    for name, picture, ids in zip(names, values["pictures"], every, strict=True):
        yield name, quantise(model.decode_ids(ids, picture["height"], picture["width"])[0])
