"""The step `costs`: what each of several models is, costs and scores, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from impasto.models.edited.hosts import parameters
from impasto.models.edited.quantised import is_quantised, memory
from impasto.run.directory import RunDirectory, read_json
from impasto.stack.base import STEPS, Done, Tools
from impasto.stack.compared import Beside
from impasto.zoo.weights import shipped_folder

__all__ = ["Costs"]

BYTES = 2
"""Of a number that is not quantised: all models are compared in bfloat16."""


@STEPS.register("costs")
@dataclass(frozen=True, kw_only=True)
class Costs(Beside):
    """Models of earlier steps beside the host, which the run `base` is of: parameters, memory,
    FLOPs, seconds a picture, what was trained, the score and its difference; two plots."""

    def run(self, tools: Tools) -> Done:
        runs, table = self.compared(tools)
        models = _Models(tools, tools.model_name(table["rows"][0]["model"]))
        rows = [row | models.told(row["model"]) | _measured(runs[row["name"]])
                for row in table["rows"]]  # fmt: skip
        return Done(table={"kind": "costs", **table, "rows": rows})


def _measured(runs: Sequence[RunDirectory]) -> dict[str, Any]:
    """Seconds a picture, searches and their rewards included, and on what."""
    costs = [read_json(run.cost) for run in runs]
    seconds = [cost["seconds"].get("generate") for cost in costs]
    kept = sum(read_json(run.summary)["images"] for run in runs)
    return {"seconds": None if None in seconds else sum(seconds) / kept,
            "devices": sorted({cost["device"] for cost in costs})}  # fmt: skip


@dataclass
class _Models:
    """What is known of models by their names; each is loaded once. host: what shares are of."""

    tools: Tools
    host: str
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def told(self, model: str) -> dict[str, Any]:
        whole = _record(self.host)
        host = None if whole is None else self._flops(whole["images"], self.host, None)
        steps = self._trainings(model, whole)
        flops = [step["flops"] for step in steps]
        known = None if None in flops else sum(flops)
        return self._network(model) | {"training": {
            "steps": steps, "images": sum(step["images"] for step in steps), "flops": known,
            "share": known / host if host and known is not None else None,
        }}  # fmt: skip

    def _network(self, model: str) -> dict[str, Any]:
        """Numbers and bytes of a model's transformer, FLOPs of one pass; None where there is no
        transformer, or nobody counts."""
        if model not in self.found:
            generator = self.tools.model(model)
            network = getattr(generator, "transformer", None)
            forward = getattr(generator, "forward_flops", None)
            self.found[model] = {
                "parameters": _numbers(network) if isinstance(network, nn.Module) else None,
                "bytes": _bytes(network) if isinstance(network, nn.Module) else None,
                "forward": None if forward is None else forward(),
            }  # fmt: skip
        return self.found[model]

    def _flops(self, images: int, model: str, teacher: str | None) -> float | None:
        """Of a training: three passes a picture, one of the teacher's."""
        forward = self._network(model)["forward"]
        taught = 0 if teacher is None else self._network(teacher)["forward"]
        return None if None in (forward, taught) else images * (3.0 * forward + taught)

    def _trainings(
        self, model: str, host: Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """The trainings that made a model of the host, first ones first. An edited folder has the
        record of what it was made of."""
        record = _record(model)
        if record is None or record == host:
            return []
        recipe = record["recipe"]
        before = self._trainings(recipe["initial"], host) if recipe.get("initial") else []
        # What was trained: an edited folder has another network than its record is of.
        made = [str(done.model) for done in self.tools.done.values() if done.model]
        trained = next((name for name in made if model in made and _record(name) == record),
                       model)  # fmt: skip
        return [*before, {
            "kind": recipe["kind"], "images": record["images"], "seconds": record["seconds"],
            "flops": self._flops(record["images"], trained, recipe.get("teacher")),
        }]  # fmt: skip


def _numbers(network: nn.Module) -> int:
    """Parameters, a quantised layer's weights as many as they stand for."""
    if not is_quantised(network):
        return parameters(network)
    layers: list[Any] = [m for m in network.modules() if hasattr(m, "restore")]
    packed = {part.data_ptr() for layer in layers for part in layer.parts()}
    rest = sum(p.numel() for p in network.parameters() if p.data_ptr() not in packed)
    return memory(network).weights + rest


def _bytes(network: nn.Module) -> int:
    if is_quantised(network):
        return memory(network).total
    return BYTES * sum(t.numel() for t in (*network.parameters(), *network.buffers()))


def _record(model: str) -> dict[str, Any] | None:
    """A model's training.json; None where it has none."""
    folder = Path(model)
    if not folder.is_dir():
        try:
            folder = shipped_folder(model)
        except FileNotFoundError:  # a name with options, a hub's: nothing is recorded of it here
            return None
    path = folder / "training.json"
    return read_json(path) if path.is_file() else None
