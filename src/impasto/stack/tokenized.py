"""The step `tokenizers`: autoencoders and tokenizers beside each other on the same pictures.

    OUT/STEP/NAME/       a run of `impasto measure reconstruction`
    OUT/STEP/NAME.json   what a probe reads off the codes (`run.probe`), of tokenizers of codes
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from impasto.files import write_json
from impasto.run.directory import RunDirectory, read_json
from impasto.score.statistics import Outcome, paired_difference
from impasto.stack.base import STEPS, Done, Step, Tools, of_step
from impasto.zoo.registry import nearest

if TYPE_CHECKING:
    from impasto.models.autoencoders import Autoencoder

__all__ = ["Tokenizers"]

MEASURED = ("psnr", "mean_color_error", "perceptual_", "lpips_")
"""What differences between tokenizers are of: keys of pictures.jsonl, or their beginnings."""


@STEPS.register("tokenizers")
@dataclass(frozen=True, kw_only=True)
class Tokenizers(Step):
    """What each of several tokenizers keeps of pictures, and what its codes tell.

    models: name -> a folder or a name; step:NAME in it is the folder of an earlier step's model.
    base: the one that differences are from. pictures: as of `impasto measure`. perceptual,
    features: names of distances. scorer: of the verdicts that are kept. probe: whether a linear
    probe reads the codes.
    """

    models: Mapping[str, str]
    base: str
    pictures: str = "world:scenes=1000"
    perceptual: Sequence[str] = ("sticker-detector", "sticker-clip")
    features: Sequence[str] = ("sticker-detector", "sticker-clip")
    scorer: str = "sticker"
    probe: bool = True
    title: str = ""
    makes: ClassVar[str] = ""
    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.models, Mapping) or len(self.models) < 2:
            raise ValueError(f"models must name two tokenizers at least, given {self.models!r}")
        if self.base not in self.models:
            raise ValueError(f"base {self.base!r} is none of the models: "
                             f"{nearest(self.base, list(self.models))}")  # fmt: skip

    @property
    def uses(self) -> Mapping[str, str]:
        return of_step(self.models)

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        from impasto.run.distance import check_extractors
        from impasto.run.pictures import open_pictures

        for text in self.models.values():
            tools.check_name("tokenizers", text, "device")
        number = len(open_pictures(self.pictures))
        tools.scorer(self.scorer)
        _, extractors = self._distances(tools)
        check_extractors(extractors, number, number)

    def _distances(self, tools: Tools) -> tuple[list[Any], list[Any]]:
        near = tools.build.filled("perceptual")
        return ([near.create(text, device=tools.device) for text in self.perceptual],
                [tools.features(text) for text in self.features])  # fmt: skip

    def run(self, tools: Tools) -> Done:
        from impasto.models.autoencoders import load_autoencoder

        rows, base = [], None
        for name in [self.base, *(name for name in self.models if name != self.base)]:
            model = load_autoencoder(tools.model_name(self.models[name]), device=tools.device)
            run = self._measured(tools, name, model)
            seen = _pictures(run)
            base = base or seen
            rows.append({
                "name": name, "summary": read_json(run.summary),
                "probe": self._probed(tools, name, model),
                "differences": {} if seen is base else _differences(base, seen),
            })  # fmt: skip
        return Done(table={"kind": "tokenizers", "name": self.name, "base": self.base,
                           "title": self.title or self.name, "pictures": self.pictures,
                           "scorer": self.scorer, "rows": rows,
                           "page": [str(tools.out / self.name / row["name"]) for row in rows]}
                    )  # fmt: skip

    def _measured(self, tools: Tools, name: str, model: Autoencoder) -> RunDirectory:
        from impasto.run.pictures import open_pictures
        from impasto.run.reconstruction import ReconstructionSettings, measure_reconstruction

        near, extractors = self._distances(tools)
        settings = ReconstructionSettings(
            model=model, pictures=open_pictures(self.pictures), perceptual=near,
            extractors=extractors, scorer=tools.scorer(self.scorer),
        )  # fmt: skip
        return measure_reconstruction(
            settings, tools.out / self.name / name, batch_size=tools.batch_size,
            progress=lambda what, *at: tools.progress(f"{self.name}: {name}", *at),
        )  # fmt: skip

    def _probed(self, tools: Tools, name: str, model: Autoencoder) -> dict[str, Any]:
        """Part of the codes -> what it tells; nothing of what has no codes."""
        from impasto.models.discrete import DiscreteTokenizer
        from impasto.run.probe import parts_of, probe

        path = tools.out / self.name / f"{name}.json"
        if not self.probe or not isinstance(model.model, DiscreteTokenizer):
            return {}
        digest = model.model.token_digest()
        if path.is_file() and read_json(path)["tokens"] == digest:
            found: dict[str, Any] = read_json(path)["probe"]
            return found
        found = {part: probe(model.model, part=part) for part in parts_of(model.model)}
        write_json(path, {"tokens": digest, "probe": found})
        return found


def _pictures(run: RunDirectory) -> list[dict[str, Any]]:
    lines = (Path(run.path) / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _differences(
    base: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]
) -> dict[str, list[float]]:
    """other − base of each measure, picture by picture, with intervals."""
    keys = [key for key in base[0] if key.startswith(MEASURED)]
    found = {}
    for key in keys:
        a, b = ([Outcome("all", row["name"], 0, row[key]) for row in side]
                for side in (base, other))  # fmt: skip
        if all(o.value is not None for o in (*a, *b)):  # a picture that came back exactly
            found[key] = list(paired_difference(a, b).overall)
    return found
