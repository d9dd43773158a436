"""`impasto prune`: a model without some of its blocks or parts of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

__all__ = ["prune"]

PARTS = "all, w_norm1, w_norm1_context, attn, ff, ff_context; w_norm, attn, proj_mlp_out (FLUX)"


@guarded
def prune(
    *,
    model: Annotated[str, typer.Argument(help="Folder of a pipeline or of a transformer, or a "
                                              "name of weights that ship (sticker-mmdit).")],
    preset: Annotated[
        str | None, typer.Option(help="Published list: sd3.5-large-turbo-20, "
                                      "sd3.5-large-turbo-30, sd3.5-large-turbo-30-spread or "
                                      "sd3.5-medium."),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(help="Blocks to remove whole: 25-29,31 is 25 to 28, and 31; a "
                                      "range's end is left out, as in the published code."),
    ] = None,
    components: Annotated[
        str | None, typer.Option(help="Parts of blocks to remove: 13:ff+ff_context,17-19:ff. "
                                      f"There are {PARTS}."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Scores without each unit, as contribution analysis writes "
                                       "them (contributions.json, or the published format): "
                                       "remove by them until --budget, after --blocks and "
                                       "--components."),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="With --scores: less than this share of the parameters "
                                        "is left, between 0 and 1."),
    ] = None,
    order: Annotated[
        str | None, typer.Option(help="With --scores: hpp (little change and late first; the "
                                      "default), printed (HPP's formula as printed: little change "
                                      "and early first), score (the highest score first, as in "
                                      "the published code), random, or intervals (PPCL, by a "
                                      "file of a stack's contributions with by: probes)."),
    ] = None,
    base_score: Annotated[
        float | None, typer.Option(help="With --scores: the whole model's score, where the file "
                                        "does not have it."),
    ] = None,
    eligible: Annotated[
        str | None, typer.Option(help="With --scores: blocks to take from, as --blocks "
                                      "(default: all)."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="With --scores: a component that stays. May be given "
                                            "several times."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="With --order random: its seed (default: 0)."),
    ] = None,
    identities: Annotated[
        bool, typer.Option("--identities", help="Leave removed blocks as places that pass on what "
                                                "they get, also where diffusers' class fits "
                                                "without them: blocks keep their numbers, which "
                                                "'impasto train' needs to distil "
                                                "(prune-distillation)."),
    ] = False,
    renumber: Annotated[
        bool, typer.Option("--renumber", help="Remove nothing more: of a model with --identities "
                                              "make the folder that diffusers loads."),
    ] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there, "
                                                          "or be empty.")],
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Remove blocks, or parts of blocks, of a diffusion transformer.

    Name them by --preset, by --blocks and --components, or by --scores and --budget. OUT is a
    folder of the same kind. Where only whole blocks went, its blocks are numbered anew and
    diffusers loads it as it is (surgery.json says what was done); otherwise impasto does. Nothing
    is trained: measure it, and distil it.
    """
    from impasto.models.edited.folder import edited_folder, stored_dtype
    from impasto.surgery.edits import Pruning

    how = Pruning(
        preset=preset, blocks=blocks, components=components, scores=scores, budget=budget,
        order=order, base_score=base_score, eligible=eligible, exclude=exclude, seed=seed,
        identities=identities, renumber=renumber, spell=options.flag,
    )  # fmt: skip
    told = edited_folder(model, out, stored_dtype(model), how)
    told = {"model": model, "out": str(out), **told}
    print(json.dumps(told, indent=2) if as_json else _table(told))


def _table(told: dict[str, Any]) -> str:
    whole = [i for i, names in told["removed"].items() if names == ["all"]]
    parts = [(f"of block {i}", ", ".join(names)) for i, names in told["removed"].items()
             if names != ["all"]]  # fmt: skip
    before, after = told["parameters_before"], told["parameters_after"]
    stock = "as diffusers' class with fewer layers" if told["stock"] else (
        f"with impasto ({told['not_stock_because']})")  # fmt: skip
    rows = [("transformer", f"{told['family']}, {told['blocks']} blocks"),
            *([("blocks removed", ", ".join(whole))] if whole else []), *parts,
            ("parameters", f"{before:,} -> {after:,} ({after / before:.2%})"),
            ("loads", stock), ("folder", told["out"])]  # fmt: skip
    return "\n".join(f"{name:<16}{text}" for name, text in rows)
