"""Running a stack: check everything, then step by step, each going on where it was.

    OUT/stack.json      the steps' settings, written first; a resume must match it
    OUT/STEP/…          a step's folder: run folders, a model, a study

Whatever a step keeps it keeps by its own record, so that after Ctrl-C or a kill the same command
does what is left and ends with the same bytes. Several commands may work on one stack as long as
they work on different folders, such as one seed each; the last one, with all seeds, finds all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from impasto.files import write_json
from impasto.run.directory import read_json
from impasto.run.provenance import SettingsDiffer, check_same, normal
from impasto.stack.ahead import do_ahead
from impasto.stack.base import Done, Tools
from impasto.stack.recipe import Stack
from impasto.stack.trained import Train

__all__ = ["run_stack", "trainings"]


def run_stack(stack: Stack, tools: Tools, jobs: int = 1) -> dict[str, Done]:
    """Run the steps in order; returns what each made, by its name. jobs: processes that do what
    does not need one another side by side before (`stack.ahead`).

    Raises ValueError or FileNotFoundError, before anything is made, for a step that cannot run,
    SettingsDiffer where the folder holds this stack's steps with other settings, and LockedError
    where another process writes into a folder of a step.
    """
    if tools.out.exists() and not tools.out.is_dir():
        raise ValueError(f"{tools.out} is a file; choose another --out")
    _check_before(stack, tools)
    for i, step in enumerate(stack.steps):
        step.check(tools, stack.steps[:i])
    write_json(tools.out / "stack.json", _before(tools) | _record(stack))
    if jobs > 1:
        do_ahead(stack.steps, tools, jobs)
    for i, step in enumerate(stack.steps):
        tools.progress("steps", i, len(stack.steps))
        tools.done[step.name] = step.run(tools)
    tools.progress("steps", len(stack.steps), len(stack.steps))
    return tools.done


def trainings(stack: Stack) -> Stack:
    """The stack with its steps that make models, or what these are made by, only. Raises
    ValueError where none of them trains."""
    steps = tuple(step for step in stack.steps if step.makes in ("model", "scores"))
    if not any(isinstance(step, Train) for step in steps):
        raise ValueError(f"{stack.path} has no step that trains; run it by impasto run")
    return replace(stack, steps=steps)


def _record(stack: Stack) -> dict[str, Any]:
    """Name of each step that keeps work -> its settings."""
    return normal({step.name: step.settings for step in stack.steps if step.kept})


def _before(tools: Tools) -> dict[str, Any]:
    """The settings of those steps of an earlier execution that have made something."""
    path = tools.out / "stack.json"
    before = read_json(path) if path.is_file() else {}
    return {name: settings for name, settings in before.items() if (tools.out / name).exists()}


def _check_before(stack: Stack, tools: Tools) -> None:
    """Raises SettingsDiffer where the recipe says otherwise of a step than when it was run.

    What only one of them knows is left out: a search more or less changes no other's pictures.
    """
    before, now = _before(tools), _record(stack)
    both = sorted(before.keys() & now.keys())
    try:
        check_same({name: _common(before[name], now[name]) for name in both},
                   {name: _common(now[name], before[name]) for name in both}, tools.out)
    except SettingsDiffer as error:
        raise SettingsDiffer(f"the recipe has changed since this stack was begun: {error}"
                             ) from None  # fmt: skip


def _common(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key in other}
