"""`impasto train RECIPE`: one YAML file, one model folder.

A recipe names what to train and its numbers; anything can be overridden by key=value. What was
run, with the steps that came out, is written to the model's folder as `training.json`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from impasto import files
from impasto.train import kinds, processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.inputs import input_digests
from impasto.train.recipe import KINDS, Kind, Recipe, load_recipe
from impasto.zoo.cards import write_card

__all__ = ["KINDS", "Kind", "Recipe", "kinds", "load_recipe", "run_recipe"]

IDLE = ("workers", "checkpoint_every", "save_every")
"""What a recipe may say anew when a training goes on: its results do not hang on it."""


def run_recipe(
    path: str | Path, out: str | Path, device: str = "cpu",
    overrides: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Train what the recipe at `path` says and write the model's folder `out`.

    One that was broken off goes on by the same call, to the same bits (`train.checkpoint`), if
    what it reads (`train.inputs`) is what it was.

    Under torchrun this is one of its processes (`train.processes`). Raises `files.LockedError`
    while another training writes into `out`.
    """
    recipe, out = load_recipe(path, overrides), Path(out)
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    inputs = input_digests(recipe)
    settings = {key: value for key, value in asdict(recipe).items() if key not in IDLE}
    settings["inputs"] = inputs
    checkpoint = Checkpoint(out / "checkpoint", settings, recipe.checkpoint_every)
    with processes.together(device) as own, _alone(out), checkpoint:
        loop, many = KINDS[recipe.kind].train(recipe, own, out, checkpoint), processes.count()
        if not processes.first():
            return out
        name = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
        sets = " ".join(f"--set {key}={value}" for key, value in (overrides or {}).items())
        command = f"impasto train {Path(path).as_posix()} {sets}".strip()
        record = {"command": command, "recipe": asdict(recipe), "inputs": inputs,
                  "steps": loop.steps, "images": loop.steps * recipe.batch,
                  "seconds": round(time.monotonic() - start),
                  "device": name if many == 1 else f"{many} x {name}",
                  "torch": torch.__version__}  # fmt: skip
        files.write_json(out / "training.json", record)
        write_card(out, record)
        checkpoint.remove()
    return out


def _alone(out: Path) -> AbstractContextManager[None]:
    """Held by the process that writes, so that a second training in the same folder is refused."""
    return files.lock(out) if processes.first() else nullcontext()
