"""A stack's recipe: one YAML file, the steps in order.

    model: sticker-mmdit            keys beside `steps` are for every step that knows them
    grid: {n: [2, 4]}               what {n} in a step's texts stands for, one after the other
    steps:
      - eval: {searches: [none, "best-of-n:n={n}"]}
      - compare: {base: none}

A step's own keys go first. `key=value` overrides what stands beside `steps`, `STEP.key=value` a
key of the step of that name, `grid.n=value` one key of a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Any

import yaml

from impasto.stack.base import STEPS, Step, fields_of, keys_of
from impasto.zoo.registry import nearest

__all__ = ["Stack", "is_stack", "load_stack"]

Lines = dict[tuple[Any, ...], int]
TAKEN = ("jobs", "report.html", "stack.json", "table.json", "table.md")
"""What a stack writes beside its steps' folders."""


@dataclass(frozen=True)
class Stack:
    """A recipe, read and checked as far as it can be without building anything."""

    path: Path
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class _Source:
    """The file, for messages. lines: place of a value -> its line."""

    path: Path
    lines: Lines

    def error(self, place: tuple[Any, ...], message: str) -> ValueError:
        line = f", line {self.lines[place]}" if place in self.lines else ""
        return ValueError(f"{self.path}{line}: {message}")


def is_stack(path: str | Path) -> bool:
    """Whether a recipe is a stack's: its steps are a list. Those of a training are a number."""
    _, values = _read(Path(path))
    return isinstance(values.get("steps"), list)


def load_stack(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Stack:
    """Read a recipe. Raises ValueError naming the line and, of an unknown key, the nearest."""
    source, values = _read(Path(path))
    entries = values.pop("steps", None)
    if not isinstance(entries, list) or not entries:
        hint = "; a recipe with a kind is one of impasto train" if "kind" in values else ""
        raise source.error(("steps",), f"a stack needs steps: a list of one or more, each as "
                           f"KIND: {{key: value}}{hint}")  # fmt: skip
    steps = [_entry(source, i, entry) for i, entry in enumerate(entries)]
    _override(source, values, steps, overrides or {})
    _check_shared(source, values, [kind for kind, _ in steps])
    made: list[Step] = []
    for i, (kind, own) in enumerate(steps):
        made.append(_step(source, i, kind, own, values))
        _check_uses(source, ("steps", i), made)
    return Stack(source.path, tuple(made))


def _read(path: Path) -> tuple[_Source, dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        values, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    source = _Source(path, dict(_lines(node, ())))
    if not isinstance(values, dict):
        raise source.error((), "a recipe holds key: value lines")
    return source, values


def _lines(node: Any, place: tuple[Any, ...]) -> list[tuple[tuple[Any, ...], int]]:
    """The line of every key and list entry below `node`."""
    if isinstance(node, yaml.MappingNode):
        inner = [(key.value, key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(i, value, value) for i, value in enumerate(node.value)]
    else:
        return []
    return [found for name, at, value in inner
            for found in [((*place, name), at.start_mark.line + 1),
                          *_lines(value, (*place, name))]]  # fmt: skip


def _entry(source: _Source, i: int, entry: Any) -> tuple[str, dict[str, Any]]:
    """The kind of step `i` and its own keys."""
    place = ("steps", i)
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise source.error(place, f"a step is KIND: {{key: value}}, given {entry!r}")
    ((kind, own),) = entry.items()
    if kind not in STEPS:
        raise source.error(place, f"unknown step {kind!r}: {nearest(str(kind), list(STEPS))}")
    if own is not None and not isinstance(own, dict):
        raise source.error(place, f"{kind} takes key: value lines, given {own!r}")
    known = keys_of(kind)
    for key in own or {}:
        if key not in known:
            raise source.error((*place, kind, key),
                               f"{kind} has no key {key!r}: {nearest(str(key), known)}")
    return kind, {"name": kind} | dict(own or {})


def _override(
    source: _Source, shared: dict[str, Any], steps: Sequence[tuple[str, dict[str, Any]]],
    overrides: Mapping[str, Any],
) -> None:  # fmt: skip
    """Put the overrides in their places. Raises ValueError for one that has none."""
    by_name = {own["name"]: (kind, own) for kind, own in steps}
    for text, value in overrides.items():
        first, dot, key = text.partition(".")
        if not dot:
            shared[first] = value
        elif first in by_name:
            kind, own = by_name[first]
            known = keys_of(kind)
            if key not in known or key == "name":
                raise ValueError(f"--set {text}: {kind} has no key {key!r} to set: "
                                 f"{nearest(key, known)}")  # fmt: skip
            own[key] = value
        elif isinstance(shared.get(first), dict):
            shared[first] = shared[first] | {key: value}
        else:
            raise ValueError(f"--set {text}: {source.path} has no step {first!r}: "
                             f"{nearest(first, [*by_name, *shared])}")  # fmt: skip


def _check_shared(source: _Source, shared: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Raises ValueError for a key that no step of this recipe knows."""
    known = sorted({key for kind in kinds for key in keys_of(kind)} - {"name"})
    for key in shared:
        if key not in known:
            raise source.error((key,), f"no step here has a key {key!r}: "
                                       f"{nearest(str(key), ['steps', *known])}")  # fmt: skip


def _step(
    source: _Source, i: int, kind: str, own: Mapping[str, Any], shared: Mapping[str, Any]
) -> Step:
    known = keys_of(kind)
    values = {key: value for key, value in shared.items() if key in known} | dict(own)
    needed = [field.name for field in fields_of(kind) if _needed(field)]
    if missing := [key for key in needed if key not in values]:
        raise source.error(("steps", i), f"{kind} needs {', '.join(missing)}")
    try:
        step: Step = STEPS.factory(kind)(**values)
    except (ValueError, TypeError) as error:
        raise source.error(("steps", i), f"{kind}: {error}") from error
    return step


def _needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _check_uses(source: _Source, place: tuple[Any, ...], made: Sequence[Step]) -> None:
    """Raises ValueError where the last step's name is taken, or it uses what is not there yet."""
    *earlier, step = made
    if step.name in TAKEN or Path(str(step.name)).name != step.name:
        raise source.error(place, f"a step cannot be called {step.name!r}: its name is its "
                                  f"folder's, and {', '.join(TAKEN)} are the stack's own; give "
                                  f"it another name")  # fmt: skip
    if step.name in {other.name for other in earlier}:
        raise source.error(place, f"a step before this one is called {step.name!r} too; give "
                                  f"this one another name: {step.name}-2, say")  # fmt: skip
    for name, what in step.uses.items():
        able = [other.name for other in earlier if other.makes in what.split(" or ")]
        if name not in able:
            raise source.error(place, f"{step.name} uses the {what} of a step {name!r}, and no "
                                      f"step before it makes that: {nearest(name, able)}")
