"""Where the weights of a name come from: for `impasto ls models` and `impasto ls tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from impasto.zoo.registry import Registry
from impasto.zoo.weights import shipped_folder

__all__ = ["made_by", "origin", "read_recipes"]

Recipes = Mapping[str, Mapping[str, Any]]
"""Path of a recipe -> its values."""


def origin(registry: Registry[Any], name: str, recipes: Recipes) -> dict[str, Any]:
    """ships: whether this installation has the weights. published: whether those of others can be
    loaded. kinds: of recipes that make them. recipes: those of them that are there."""
    found = registry.origin(name)
    return {"ships": _ships(name), "published": found.published, "kinds": list(found.trained),
            "recipes": made_by(found.trained, recipes)}  # fmt: skip


def _ships(name: str) -> bool:
    try:
        return shipped_folder(name).is_dir()
    except FileNotFoundError:
        return False


def made_by(kinds: Sequence[str], recipes: Recipes) -> list[str]:
    """The recipes that are of one of the kinds, then stacks with such a one."""
    own = [path for path, values in recipes.items() if values.get("kind") in kinds]
    return own + [path for path, values in recipes.items() if set(_trained(values)) & set(own)]


def read_recipes(folder: Path) -> Recipes:
    """Those below `folder`, which impasto's checkout has. A file that is no YAML is left out: that
    is for the command that runs it to say."""
    found = {}
    for path in sorted(folder.rglob("*.yaml")):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue
        if isinstance(values, dict):
            found[path.as_posix()] = values
    return found


def _trained(values: Mapping[str, Any]) -> list[str]:
    """The recipes that a stack trains by."""
    steps = values.get("steps")
    entries = [step.get("train") for step in steps if isinstance(step, dict)
               ] if isinstance(steps, list) else []  # fmt: skip
    return [str(entry.get("recipe")) for entry in entries if isinstance(entry, dict)]
