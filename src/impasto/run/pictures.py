"""Sets of pictures to be measured: a folder, a run, an array of samples, or the world's scenes.

    FOLDER                      every PNG, JPEG and WebP below it, in order of their names; of a
                                run, the pictures that it has drawn or judged
    FILE.npz                    uint8 pictures (N, H, W, 3) under arr_0, as guided-diffusion's
                                evaluator takes them; or, of a reference, moments that it was
                                published with: mu and sigma, of sFID mu_s and sigma_s; or both
    world:scenes=600,seed=1     true scenes, GenEval's six tasks in turn; with split=held-out those
                                with a combination that no training shows (`world.splits`), of the
                                five tasks that combine anything
    world:run=FOLDER,seed=1     a true scene for each picture that a run has judged: its prompt

All pictures of a set have one size, or are brought to one (`Frame`).
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from impasto.bench.distribution import Moments
from impasto.bench.results import read_results
from impasto.files import sha256_file
from impasto.images import MAX_PIXELS, centre_crop, image_size, quantise, read_image
from impasto.run.directory import RunDirectory
from impasto.score.check import task_scene
from impasto.spec import Spec
from impasto.world import Renderer, Scene, Split, Sprites, compose, sample_spec
from impasto.world.tasks import GENEVAL_TASKS
from impasto.zoo.registry import Registry

__all__ = ["Frame", "Pictures", "open_pictures"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
SOURCES: Registry[Pictures] = Registry("source of pictures")
COMBINING = tuple(task for task in GENEVAL_TASKS if task != "single_object")
LONGEST = math.isqrt(MAX_PIXELS)
"""Side of the largest square that is read or made."""
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Frame:
    """What is done to every picture of a set.

    size: cut to size x size as ADM cuts ImageNet (`images.centre_crop`); None: as it is.
    measured: then resized to measured x measured by PyTorch's bicubic without antialiasing, on
    the 8-bit grid again, as TokenFlow measures another resolution; None: not. Raises ValueError
    for a side that is none, or so long that the picture would have more than `MAX_PIXELS`.
    """

    size: int | None = None
    measured: int | None = None

    def __post_init__(self) -> None:
        for name, side in self.record().items():
            if side is not None and not 1 <= side <= LONGEST:
                raise ValueError(f"{name} must be from 1 to {LONGEST} pixels, given {side}")

    @property
    def advice(self) -> str:
        """What to do about pictures whose size a model does not take."""
        return ("--size PIXELS scales and cuts pictures to a square" if self.size is None else
                "give another --size")  # fmt: skip

    def cut(self, image: Tensor) -> Tensor:
        """(3, H, W)."""
        return image if self.size is None else centre_crop(image, self.size)

    def resize(self, images: Tensor) -> Tensor:
        """(B, 3, H, W)."""
        if self.measured is None:
            return images
        small = F.interpolate(images, size=(self.measured, self.measured), mode="bicubic")
        return quantise(small)

    def record(self) -> dict[str, int | None]:
        return {"size": self.size, "measured": self.measured}


class Pictures(ABC):
    """A set of pictures. name: as it was asked for. names: of each. size: of all before a
    `Frame`, None where they differ. given: stream of features -> moments that the set was
    published with, perhaps of more pictures than there are, or with none at all."""

    name: str
    names: Sequence[str]
    size: Size | None
    given: Mapping[str, Moments] = MappingProxyType({})

    def __len__(self) -> int:
        return len(self.names)

    def framed(self, frame: Frame) -> Size:
        """Their size in the frame, before `Frame.resize`. Raises ValueError when they differ."""
        if frame.size is not None:
            return frame.size, frame.size
        if self.size is None:
            raise ValueError(f"the pictures of {self.name} are not of one size "
                             f"({self.differing()}); give --size PIXELS to cut them all to a "
                             f"square")  # fmt: skip
        return self.size

    def differing(self) -> str:
        """Two that differ, in words."""
        return ""

    @abstractmethod
    def read(self, at: range, frame: Frame) -> Tensor:
        """(B, 3, H, W) in [0, 1], cut. Raises ImageError for a file that is no use."""

    def specs(self, at: range) -> list[Spec] | None:
        """What is true of them; None where nobody knows."""
        return None

    def classes(self, at: range) -> Tensor | None:
        """(B, H, W) int64: the class of each pixel of the uncut pictures, by its place in
        `spec.CLASSES`, -1 for the background; None where nobody knows."""
        return None

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What decides them."""


class _Folder(Pictures):
    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        found = (path.relative_to(folder) for path in folder.rglob("*")
                 if path.suffix.lower() in SUFFIXES and path.is_file())
        self.names = sorted(path.as_posix() for path in found
                            if not any(part.startswith(".") for part in path.parts))
        if not self.names:
            raise ValueError(f"{name} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        self.sizes = [image_size(folder / each) for each in self.names]
        self.size = self.sizes[0] if len(set(self.sizes)) == 1 else None

    def differing(self) -> str:
        other = next(i for i, size in enumerate(self.sizes) if size != self.sizes[0])
        return ", ".join(f"{self.names[i]} is {self.sizes[i][1]} x {self.sizes[i][0]}"
                         for i in (0, other))  # fmt: skip

    def read(self, at: range, frame: Frame) -> Tensor:
        return torch.stack([frame.cut(read_image(self.folder / self.names[i])) for i in at])

    def provenance(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name} {sha256_file(self.folder / name)}\n".encode())
        return {"folder": Path(self.name).name, "pictures": len(self),
                "sha256": digest.hexdigest()}  # fmt: skip


def _given(path: Path, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Moments]:
    """The moments in an .npz. Raises ValueError when they are not a mean and a covariance."""
    given = {stream: Moments(*(torch.from_numpy(arrays[key]).double() for key in keys))
             for stream, keys in {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}.items()
             if set(keys) <= set(arrays)}  # fmt: skip
    for stream, (mean, covariance) in given.items():
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(f"{path}: the {stream} moments are {tuple(mean.shape)} and "
                             f"{tuple(covariance.shape)}, not (D,) and (D, D)")  # fmt: skip
    return given


class _Array(Pictures):
    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.name, self.sha256 = str(path), sha256_file(path)
        self.given = _given(path, arrays)
        self.array = arrays.get("arr_0", np.empty((0, 1, 1, 3), np.uint8))
        if not len(self.array) and not self.given:
            raise ValueError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; needed: "
                             f"arr_0 (pictures), or mu and sigma (a reference's moments)"
                             )  # fmt: skip
        if self.array.ndim != 4 or self.array.shape[-1] != 3 or self.array.dtype != np.uint8:
            raise ValueError(f"{path}: arr_0 is {self.array.dtype} {self.array.shape}, must be "
                             f"uint8 (N, H, W, 3)")  # fmt: skip
        self.names = [f"{i:06d}" for i in range(len(self.array))]
        self.size = self.array.shape[1], self.array.shape[2]

    def read(self, at: range, frame: Frame) -> Tensor:
        levels = torch.from_numpy(self.array[at.start : at.stop]).permute(0, 3, 1, 2)
        return torch.stack([frame.cut(image) for image in levels.float() / 255])

    def provenance(self) -> dict[str, Any]:
        return {"array": Path(self.name).name, "pictures": len(self), "sha256": self.sha256,
                "moments": sorted(self.given)}  # fmt: skip


class _World(Pictures):
    def __init__(
        self, name: str, specs: Sequence[Spec] | None, count: int, seed: int,
        split: Split | None = None,
    ) -> None:  # fmt: skip
        """specs: of a run's pictures; None: the tasks in turn, of a split where one is given."""
        self.name, self.seed, self.split, self.sprites = name, seed, split, Sprites.load()
        self.draw, self.known = Renderer(self.sprites), specs
        self.names = [f"scene {i:06d}" for i in range(count)]
        self.scenes = lru_cache(maxsize=1)(self._scenes)  # asked for pictures, then for specs
        side = self.scenes(range(1))[0].size
        self.size = side, side

    def _of_split(self, i: int, split: Split) -> Scene:
        rng = np.random.default_rng([self.seed, i])
        task = COMBINING[i % len(COMBINING)]
        return compose(sample_spec(rng, self.sprites.classes, split, {task: 1.0}), rng,
                       self.sprites)  # fmt: skip

    def _scenes(self, at: range) -> list[Scene]:
        if self.split is not None:
            return [self._of_split(i, self.split) for i in at]
        if self.known is None:
            return [task_scene(i, self.seed, self.sprites)[0] for i in at]
        return [compose(self.known[i], np.random.default_rng([self.seed, i]), self.sprites)
                for i in at]  # fmt: skip

    def read(self, at: range, frame: Frame) -> Tensor:
        return torch.stack([frame.cut(image) for image in self.draw(self.scenes(at)).images])

    def specs(self, at: range) -> list[Spec]:
        return [scene.spec for scene in self.scenes(at)]

    def classes(self, at: range) -> Tensor:
        drawn = self.draw(self.scenes(at))
        shown = torch.where(drawn.masks, drawn.classes[:, :, None, None], -1)
        return shown.amax(1)  # a pixel is of one object at most

    def provenance(self) -> dict[str, Any]:
        record = {"world": "sticker", "pictures": len(self), "seed": self.seed}
        if self.split is not None:
            return record | {"tasks": list(COMBINING), "split": self.split.name}
        if self.known is None:
            return record | {"tasks": list(GENEVAL_TASKS)}
        digest = hashlib.sha256("".join(s.to_json() for s in self.known).encode())
        return record | {"specs_sha256": digest.hexdigest()}


@SOURCES.register("world")
def _world(
    *, name: str, scenes: int | None = None, run: str | None = None, seed: int = 1,
    split: str | None = None,
) -> Pictures:  # fmt: skip
    """True scenes of the sticker world."""
    if (scenes is None) == (run is None) or (run is not None and split is not None):
        raise ValueError("give either world:scenes=NUMBER (and a split, if any) or "
                         "world:run=FOLDER")  # fmt: skip
    if run is None:
        if not isinstance(scenes, int) or scenes < 1:
            raise ValueError(f"scenes must be at least 1, given {scenes!r}")
        return _World(name, None, scenes, seed, None if split is None else Split(split))
    results = RunDirectory.existing(run).results
    if not results.is_file():
        raise ValueError(f"{run} has no results.jsonl: it was not judged, so its prompts' demands "
                         f"are not known")  # fmt: skip
    specs = [record.spec for record in read_results(results)]
    return _World(name, specs, len(specs), seed)


def _npz(path: Path) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a whole .npz file of plain arrays: {error}") from error
    return _Array(path, arrays)


def open_pictures(text: str | Path) -> Pictures:
    """The set called `text`: see the top of this module. Raises ValueError for what is none."""
    text = str(text)
    path = Path(text)
    if text.partition(":")[0] in SOURCES and not path.exists():
        return SOURCES.create(text, name=text)
    if path.is_dir():
        drawn = path / "images"
        is_run = (path / "run.json").is_file() and drawn.is_dir()
        return _Folder((drawn if is_run else path).resolve(), text)
    if path.suffix == ".npz" and path.is_file():
        return _npz(path)
    raise ValueError(f"{text!r} is no source of pictures; allowed: a folder, a run, an .npz file, "
                     f"world:scenes=NUMBER, world:run=FOLDER")  # fmt: skip
