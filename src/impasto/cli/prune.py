"""`impasto prune`: a model without some of its blocks or parts of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

if TYPE_CHECKING:
    from torch import nn

    from impasto.models.edited.hosts import Host
    from impasto.surgery.choose import Plan

__all__ = ["prune"]

ORDERS = ("hpp", "printed", "score")
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
                                      "and early first) or score (the highest score first, as in "
                                      "the published code)."),
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

    ways = {"--preset": preset, "--scores": scores,
            "--blocks or --components": components if blocks is None else blocks,
            "--renumber": renumber or None}  # fmt: skip
    if renumber and identities:
        raise ValueError("--renumber and --identities are opposites; give one of them")
    _check(ways, scores, {"--budget": budget, "--order": order, "--base-score": base_score,
                          "--eligible": eligible, "--exclude": exclude})  # fmt: skip

    def choose(host: Host) -> Plan:
        from impasto.surgery.choose import Plan, greedy
        from impasto.surgery.presets import PRESETS, parse_blocks
        from impasto.zoo.registry import nearest

        if renumber:
            return Plan.of(host, {})
        if preset is not None:
            if preset not in PRESETS:
                raise ValueError(f"unknown preset {preset!r}: {nearest(preset, list(PRESETS))}")
            PRESETS[preset].check(host, preset)
            return Plan.of(host, PRESETS[preset].removed)
        named = _named(blocks, components)
        if scores is None:
            return Plan.of(host, named)
        assert budget is not None
        return greedy(host, _ranking(scores, host, order or ORDERS[0], base_score), budget,
                      first=named, exclude=exclude or (),
                      eligible=None if eligible is None else parse_blocks(eligible))  # fmt: skip

    told = edited_folder(model, out, stored_dtype(model), _edit(choose, identities))
    told = {"model": model, "out": str(out), **told}
    print(json.dumps(told, indent=2) if as_json else _table(told))


def _check(ways: dict[str, Any], scores: Path | None, only: dict[str, Any]) -> None:
    """Raises ValueError for options that say nothing, or not the same."""
    given = [name for name, value in ways.items() if value is not None]
    if not given:
        raise ValueError(f"nothing says what to remove; give {', '.join(ways)}")
    for alone in ("--preset", "--renumber"):
        if alone in given and len(given) > 1:
            other = next(name for name in given if name != alone)
            raise ValueError(f"{alone} says all by itself; give it without {other}")
    others = [name for name, value in only.items() if value is not None]
    if scores is None and others:
        raise ValueError(f"{others[0]} is about --scores; give --scores FILE with it")
    if scores is not None and only["--budget"] is None:
        raise ValueError("--scores needs --budget, the share of the parameters to be left")
    if only["--order"] not in (None, *ORDERS):
        raise ValueError(f"--order must be one of {', '.join(ORDERS)}, given {only['--order']!r}")


def _named(blocks: str | None, components: str | None) -> dict[int, tuple[str, ...]]:
    from impasto.surgery.presets import parse_blocks, parse_components

    whole = parse_blocks(blocks) if blocks is not None else ()
    parts = parse_components(components) if components is not None else {}
    if both := sorted({*whole} & {*parts}):
        raise ValueError(f"block {both[0]} is in --blocks and in --components; give it once")
    return dict.fromkeys(whole, ("all",)) | parts


def _ranking(path: Path, host: Host, order: str, base: float | None) -> list[tuple[int, str]]:
    from impasto.surgery.choose import by_score, hpp
    from impasto.surgery.contribution import read_contributions

    found = read_contributions(path, base)
    if order == "score":
        return by_score(found)
    if found.base is None:
        raise ValueError(f"{path} does not have the whole model's score; give it as --base-score, "
                         f"or take the released code's --order score")  # fmt: skip
    return hpp(found, host.depth, {"hpp": "late", "printed": "printed"}[order])


def _edit(choose: Callable[[Host], Plan], identities: bool) -> Callable[[nn.Module], Any]:
    """What is done to the transformer, and what is told of it."""
    def edit(transformer: nn.Module) -> dict[str, Any]:
        from impasto.models.edited.hosts import host_of
        from impasto.models.edited.quantised import is_quantised
        from impasto.models.edited.record import apply
        from impasto.models.edited.stock import misfit, restock
        from impasto.surgery.presets import removal

        if is_quantised(transformer):
            raise ValueError("this transformer is quantised; prune what it was made of, and "
                             "quantise the result")  # fmt: skip
        host = host_of(transformer)
        plan, depth = choose(host), host.depth
        if plan.removed:
            apply(transformer, removal(plan.removed))
        reason = "--identities" if identities else misfit(transformer)
        if reason is None or not plan.removed:
            restock(transformer)  # of what has no such form it says why
        return {"family": host.family.name, "blocks": depth,
                "removed": removal(plan.removed)["removed"], "parameters_before": plan.before,
                "parameters_after": plan.after if reason else _count(transformer),
                "stock": reason is None, "not_stock_because": reason}  # fmt: skip

    return edit


def _count(model: nn.Module) -> int:
    from impasto.models.edited.hosts import parameters

    return parameters(model)


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
