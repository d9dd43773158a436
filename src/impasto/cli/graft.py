"""`impasto graft`: a model with other operators in the place of its attention or its MLPs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

if TYPE_CHECKING:
    from torch import nn

    from impasto.models.edited.hosts import Host

__all__ = ["graft"]


@guarded
def graft(
    *,
    model: Annotated[str, typer.Argument(help="Folder of a pipeline or of a transformer, or a "
                                              "name of weights that ship (sticker-mmdit).")],
    operator: Annotated[
        str | None, typer.Option(help="What comes: hyena-x, hyena-y, hyena-se, sliding-window, "
                                      "mamba-2, attention; mlp, mlp-hyena-x. With options: "
                                      "sliding-window:window=4, mlp:ratio=3."),
    ] = None,
    place: Annotated[
        str | None, typer.Option(help="What goes: attention, attention2 (of the image alone, in "
                                      "SD3.5's dual layers) or mlp (default: where the operator "
                                      "belongs)."),
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Instead of operators: put blocks 0 and 1, 2 and 3, … "
                                           "side by side (depth to width)."),
    ] = False,
    blocks: Annotated[
        str | None, typer.Option(help="A pattern: interleaved, deep, full, top-local, low-local, "
                                      "pixart-sigma; or numbers: 1,3,8-12 (a range's end is left "
                                      "out). Default: interleaved; with --pairs all."),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the blocks that a pattern takes (default: 0.5; "
                                        "of full 1)."),
    ] = None,
    locality: Annotated[
        Path | None, typer.Option(help="For top-local and low-local: JSON list of every block's "
                                       "share of attention near the diagonal "
                                       "(impasto.surgery.locality)."),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Begin with the host's weights where the operator is of "
                                          "its kind: attention, a sliding-window of it, an mlp "
                                          "of its width."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the new operators' weights.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there, "
                                                          "or be empty.")],
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Replace operators of a diffusion transformer by fresh ones.

    OUT is a folder of the same kind, which impasto loads. Nothing is trained: the operators learn
    by 'impasto train' of a recipe. Prints what changes in operations and parameters.
    """
    from impasto.models.edited.folder import edited_folder, stored_dtype

    if pairs:
        _nothing_else({"--operator": operator, "--place": place, "--ratio": ratio,
                       "--locality": locality, "--copy": copy or None})  # fmt: skip
    elif operator is None:
        raise ValueError("nothing says what to graft; give --operator, or --pairs")

    def edit(transformer: nn.Module) -> dict[str, Any]:
        import torch

        from impasto.models.edited.hosts import host_of, parameters

        host, before = host_of(transformer), parameters(transformer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if operator is None:
                done = _paired(host, blocks)
            else:
                change = _graft(operator, place, _blocks(host, blocks, ratio, locality))
                done = _grafted(host, change, copy)
        return {"family": host.family.name, "depth": host.depth, **done,
                "parameters_before": before,
                "parameters_after": parameters(transformer)}  # fmt: skip

    told = edited_folder(model, out, stored_dtype(model), edit)
    told = {"model": model, "out": str(out), **told}
    print(json.dumps(told, indent=2) if as_json else _table(told))


def _nothing_else(given: dict[str, Any]) -> None:
    others = [name for name, value in given.items() if value is not None]
    if others:
        raise ValueError(f"--pairs grafts no operator; give it without {others[0]}")


def _graft(text: str, place: str | None, blocks: list[int]) -> dict[str, Any]:
    """The edit for "name:key=value". Raises ValueError for an unknown operator or option."""
    from impasto.models.edited.operators import OPERATORS, PLACES
    from impasto.zoo.registry import parse_options

    name, _, rest = text.partition(":")
    OPERATORS.factory(name)
    return {"edit": "graft", "operator": name, "blocks": blocks,
            "place": place or next(key for key, names in PLACES.items() if name in names),
            "options": parse_options(rest, f"operator {name!r}")}  # fmt: skip


def _blocks(
    host: Host, text: str | None, ratio: float | None, locality: Path | None
) -> list[int]:
    from impasto.surgery.patterns import PATTERNS, select_blocks
    from impasto.surgery.presets import parse_blocks

    text = text or "interleaved"
    if text[:1].isdecimal():
        if ratio is not None or locality is not None:
            other = "--locality" if ratio is None else "--ratio"
            raise ValueError(f"{other} is about a pattern; --blocks {text} says all by itself")
        return list(parse_blocks(text))
    if locality is not None and not text.endswith("-local"):
        raise ValueError(f"--locality is about top-local and low-local, given --blocks {text}")
    if text not in PATTERNS:
        raise ValueError(f"--blocks is a pattern ({', '.join(PATTERNS)}) or numbers such as "
                         f"1,3,8-12, given {text!r}")  # fmt: skip
    return select_blocks(text, host.depth, ratio=ratio, locality=_measured(locality))


def _measured(path: Path | None) -> list[float] | None:
    if path is None:
        return None
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, list) or not all(isinstance(x, int | float) for x in values):
        raise ValueError(f"{path} must hold a JSON list of numbers, one a block")
    return values


def _grafted(host: Host, change: dict[str, Any], copy: bool) -> dict[str, Any]:
    """Graft, and say what changed."""
    from impasto.models.edited.grafts import checked_graft, inherit_, operator_path
    from impasto.models.edited.record import apply
    from impasto.surgery.costs import graft_delta

    place, operator, _, blocks = checked_graft(change)
    delta = graft_delta(host.model, change)
    old = {path: host.model.get_submodule(path)
           for path in (operator_path(host, i, place) for i in blocks)}  # fmt: skip
    apply(host.model, change)
    if copy and not all([inherit_(host.model.get_submodule(path), was)
                         for path, was in old.items()]):  # fmt: skip
        raise ValueError(f"--copy: {operator} is not of the kind and size of what it replaces; "
                         f"leave it out, for fresh weights")  # fmt: skip
    return {**change, "copied": copy, "delta_percent": delta.to_dict()}


def _paired(host: Host, text: str | None) -> dict[str, Any]:
    from impasto.models.edited.pairs import pairs_of
    from impasto.models.edited.record import apply
    from impasto.surgery.presets import parse_blocks

    pairs = pairs_of(host)
    if text is not None:
        given = list(parse_blocks(text))
        pairs = [given[i : i + 2] for i in range(0, len(given), 2)]
    apply(host.model, {"edit": "pairs", "pairs": pairs})
    return {"edit": "pairs", "pairs": pairs}


def _table(told: dict[str, Any]) -> str:
    before, after = told["parameters_before"], told["parameters_after"]
    rows = [("transformer", f"{told['family']}, {told['depth']} blocks")]
    if told["edit"] == "pairs":
        rows.append(("side by side", ", ".join(f"{i}|{j}" for i, j in told["pairs"])))
    else:
        delta = {key: "none" if value is None else f"{value:+.2f} %"
                 for key, value in told["delta_percent"].items()}  # fmt: skip
        given = ",".join(f"{key}={value}" for key, value in told["options"].items())
        rows += [(told["place"], told["operator"] + (f":{given}" if given else "")),
                 ("in blocks", ", ".join(map(str, told["blocks"]))),
                 ("weights", "the host's" if told["copied"] else "fresh"),
                 ("Δ op", f"{delta['op']} (tokens among each other)"),
                 ("Δ ft", f"{delta['ft']} (projections and featurisers)"),
                 ("Δ param", f"{delta['parameters']} of all operators there"),
                 ("Δ FLOPs", f"{delta['flops']} of all operators there")]  # fmt: skip
    rows += [("parameters", f"{before:,} -> {after:,} ({after / before:.2%})"),
             ("loads", "with impasto"), ("folder", told["out"])]  # fmt: skip
    return "\n".join(f"{name:<14}{text}" for name, text in rows)
