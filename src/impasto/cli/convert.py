"""`impasto convert`: a foreign checkpoint as a folder of safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from impasto.cli import options
from impasto.cli.errors import guarded

__all__ = ["convert"]


@guarded
def convert(
    *,
    foreign: Annotated[Path, typer.Argument(help="Checkpoint: .pth of torch.save, safetensors.")],
    kind: Annotated[str, typer.Option(help="What it is: mask2former (GenEval's detector), "
                                      "hps-v2.0, hps-v2.1, image-reward, openai-clip, "
                                      "infinity, infinity-vae, var, var-vae, vq "
                                      "(LlamaGen's tokenizer), tokenflow-tokenizer, "
                                      "tokenflow-t2i, layton (Layton's tokenizer), "
                                      "layton-gen, or grafting (an official DiT, as it is "
                                      "or grafted).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write; must not be there, "
                                                          "or be empty.")],
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Convert somebody else's checkpoint, without ever running what is pickled in it.

    OUT/conversion.json says what became of every key, with the sha256 of source and result.
    """
    import impasto.models.edited.convert
    import impasto.models.infinity.convert
    import impasto.models.layton.convert
    import impasto.models.tokenflow.convert
    import impasto.models.var.convert
    import impasto.models.vq.convert
    import impasto.score.mask2former_convert
    import impasto.score.preference.convert  # noqa: F401 - these register their kinds
    from impasto.zoo.convert import RECORD
    from impasto.zoo.convert import convert as run

    report = run(foreign, kind, out)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))
        return
    print(f"{report.source}: {len(report.renamed)} tensors renamed, {len(report.split)} split, "
          f"{len(report.permuted)} reordered, {len(report.dropped)} dropped"
          )  # fmt: skip
    print(out / RECORD)
