"""What there is: `impasto ls`, `impasto bench export`, `impasto scorers check`."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

__all__ = ["Kind", "bench_export", "ls", "scorers_check"]


class Kind(StrEnum):
    """What `impasto ls` can list."""

    models = "models"
    benches = "benches"
    scorers = "scorers"
    searches = "searches"
    judges = "judges"
    features = "features"
    patches = "patches"
    perceptual = "perceptual"
    tokenizers = "tokenizers"
    recipes = "recipes"


@guarded
def ls(
    *,
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: options.Json = False,
) -> None:
    """List the names that other commands take, with a line about each.

    Of models and tokenizers also where their weights come from: ships with impasto, published by
    others, trained by a recipe.
    """
    rows = _recipes(Path("recipes")) if kind is Kind.recipes else _registered(kind)
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    widest = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{widest}}  {row['about']}")
        if words := _origin(row):
            print(f"{'':<{widest}}    {words}")


def _registered(kind: str) -> list[dict[str, Any]]:
    from impasto.cli.origins import origin, read_recipes

    registry = build.filled(kind)
    rows: list[dict[str, Any]] = [{"name": name, "about": registry.describe(name)}
                                  for name in registry]  # fmt: skip
    if kind in (Kind.models, Kind.tokenizers):
        recipes = read_recipes(Path("recipes"))
        rows = [row | origin(registry, row["name"], recipes) for row in rows]
    return rows


def _origin(row: dict[str, Any]) -> str:
    """Where a model's weights come from, in words; "" of what has none."""
    words = [word for word in ("ships", "published") if row.get(word)]
    kinds = " or ".join(row.get("kinds", ()))
    if row.get("recipes"):
        words.append(f"trained by {', '.join(row['recipes'])}")
    elif kinds:
        words.append(f"trained by a recipe of kind {kinds}")
    return "; ".join(words)


def _recipes(folder: Path) -> list[dict[str, str]]:
    """The YAML files below `folder`; the first sentence of the comment that each begins with says
    what it is."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} here; recipes come with impasto's "
                         f"repository, run this in its checkout")  # fmt: skip
    rows = []
    for path in sorted(folder.rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in takewhile(lambda t: t[:1] == "#", lines))
        rows.append({"name": str(path), "about": re.split(r"(?<=\.) (?=[A-Z])", comment)[0]})
    return rows


@guarded
def bench_export(
    *,
    name: Annotated[str, typer.Argument(help="Bench; see 'impasto ls benches'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write into.")],
) -> None:
    """Write a bench's prompts, and the pictures that it is about, for drawing elsewhere.

    OUT/evaluation_metadata.jsonl and OUT/generation_prompts.txt as GenEval has them. Of edits and
    questions also OUT/items.jsonl with OUT/sources/ and, where they are known, OUT/targets/.
    """
    from impasto.bench.export import export_bench
    from impasto.files import sha256_file

    for path in export_bench(build.bench(name), out):
        print(f"{sha256_file(path)}  {path}")


@guarded
def scorers_check(
    *,
    name: Annotated[str, typer.Argument(help="Scorer; see 'impasto ls scorers'.")],
    scenes: Annotated[int, typer.Option(min=1, help="Fresh scenes to judge.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 0,
    style: Annotated[
        str, typer.Option(help="Art style of the drawings: openmoji, or a folder of SVGs.")
    ] = "openmoji",
    coarse: Annotated[
        int | None,
        typer.Option(min=4, help="Shrink pictures to COARSE x COARSE and enlarge them again "
                                 "first, as coarse scales look."),
    ] = None,
    device: options.Device = "auto",
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Measure how often a scorer accepts true scenes and rejects altered ones, per task.

    Of one without verdicts: how often it prefers the true scene of a prompt to an altered one.
    """
    from impasto.score.check import check_scorer

    with progress(quiet=as_json) as report:
        rates = check_scorer(name, scenes=scenes, seed=seed, style=style, coarse=coarse,
                             device=build.device_of(device),
                             progress=lambda done, total: report("judging scenes", done, total)
                             )  # fmt: skip
    if as_json:
        print(json.dumps(rates, indent=2))
    else:
        _print_rates(rates)


COLUMNS = {"accept": "accepts true", "reject": "rejects altered", "prefer": "prefers true"}


def _print_rates(rates: dict[str, Any]) -> None:
    keys = [key for key in COLUMNS if key in rates]
    tasks = list(rates[keys[0]])
    widest = max(map(len, tasks))
    print("  ".join([f"{'task':<{widest}}", *(COLUMNS[key] for key in keys)]))
    for task in tasks:
        figures = (f"{rates[key][task]:{len(COLUMNS[key])}.4f}" for key in keys)
        print("  ".join([f"{task:<{widest}}", *figures]))
