"""`impasto graft`: a model with other operators in the place of its attention or its MLPs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

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
                                      "out). Default: interleaved. With --pairs those that are "
                                      "paired, 0,1,4,5 (default: all)."),
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Share of the blocks that a pattern takes (default: 0.5; "
                                        "of full 1)."),
    ] = None,
    locality: Annotated[
        Path | None, typer.Option(help="For top-local and low-local: JSON list of every block's "
                                       "share of attention near the diagonal "
                                       "('impasto measure locality')."),
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
    from impasto.surgery.edits import Grafting

    how = Grafting(operator=operator, place=place, pairs=pairs, blocks=blocks, ratio=ratio,
                   locality=locality, copy=copy, seed=seed, spell=options.flag)  # fmt: skip
    told = edited_folder(model, out, stored_dtype(model), how)
    told = {"model": model, "out": str(out), **told}
    print(json.dumps(told, indent=2) if as_json else _table(told))


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
