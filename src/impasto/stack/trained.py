"""The step `train`: a recipe of `impasto train`, its model in the step's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from impasto.run.directory import read_json
from impasto.run.provenance import check_same, normal
from impasto.stack.base import STEPS, Done, Step, Tools, of_step

__all__ = ["Train"]


@STEPS.register("train")
@dataclass(frozen=True, kw_only=True)
class Train(Step):
    """Train a model by its recipe; later steps draw with it as model: step:NAME.

    recipe: the YAML file. set: keys of it to override; step:NAME in a value of them, however deep,
    stands for the folder of an earlier step's model. A training that was interrupted goes on; one
    that is done is not done again. Either is refused if a model that it reads is another by now.
    """

    recipe: str
    set: Mapping[str, Any] = field(default_factory=dict)
    makes: ClassVar[str] = "model"
    ahead: ClassVar[bool] = True

    @property
    def settings(self) -> dict[str, Any]:
        return {"recipe": asdict(self.read())}

    @property
    def uses(self) -> Mapping[str, str]:
        return of_step(self.set, "model or scores")

    def read(self, tools: Tools | None = None) -> Any:
        """The recipe, with folders for steps' names where there are `tools`."""
        from impasto.train.run import load_recipe

        if not Path(self.recipe).is_file():
            raise FileNotFoundError(f"{self.name}: there is no recipe {self.recipe}")
        return load_recipe(self.recipe, self.set if tools is None else tools.named(self.set))

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        self.read()

    def run(self, tools: Tools) -> Done:
        from impasto.train.inputs import input_digests
        from impasto.train.run import run_recipe

        folder = tools.out / self.name
        record = folder / "training.json"
        if record.is_file():
            done, recipe = read_json(record), self.read(tools)
            check_same(done["recipe"], normal(asdict(recipe)), folder)
            if "inputs" in done:  # records from before there were any are taken as they are
                check_same({"inputs": done["inputs"]}, {"inputs": input_digests(recipe)}, folder)
        else:
            run_recipe(self.recipe, folder, tools.device, tools.named(self.set))
        return Done(model=folder)
