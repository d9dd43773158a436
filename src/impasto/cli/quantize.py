"""`impasto quantize`: a model with its weights in 4 or 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

__all__ = ["quantize"]


@guarded
def quantize(
    *,
    model: Annotated[str, typer.Argument(help="Folder of a pipeline or of a transformer, or a "
                                              "name of weights that ship (sticker-mmdit).")],
    format: Annotated[str, typer.Option(help="nf4 (bitsandbytes; 4.13 bits a weight), int4 "
                                             "(torchao; 4.25 to 5) or int8 (torchao; 8).")],
    double: Annotated[
        bool | None, typer.Option(help="nf4: quantise the blocks' scales too; 4.5 bits without "
                                       "(default: yes)."),
    ] = None,
    compute: Annotated[
        str, typer.Option(help="Type of products and of what is not quantised: bfloat16, or with "
                               "nf4 float16 or float32."),
    ] = "bfloat16",
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Linear layers that stay, by a part of their path: norm1, proj_out, "
                          "transformer_blocks.0. May be given several times."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there, "
                                                          "or be empty.")],
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Quantise a diffusion transformer's linear layers, without calibration. Lossy: measure it.

    OUT is a folder of the same kind; diffusers loads it too, where it loads MODEL. Needs
    impasto[quantise].
    """
    from impasto.models.edited.folder import edited_folder
    from impasto.models.edited.quantisation import Quantisation
    from impasto.surgery.edits import quantising

    how = Quantisation(format, compute, double, skip=tuple(skip or ()))

    told = edited_folder(model, out, how.dtype, quantising(how))
    if as_json:
        print(json.dumps({"model": model, "out": str(out), **how.to_edit(), **told}, indent=2))
        return
    print(f"{told['weights']:,} weights in {format}, {told['bits_a_weight']:.3f} bits each with "
          f"scales and tables")  # fmt: skip
    share = told["bytes_after"] / told["bytes_before"]
    print(f"transformer: {told['bytes_before']:,} bytes in {compute} -> {told['bytes_after']:,} "
          f"({share:.1%}), {told['bytes_not_quantised']:,} of them not quantised")  # fmt: skip
    print(out)
