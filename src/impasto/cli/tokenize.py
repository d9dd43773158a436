"""`impasto tokenize` and `impasto detokenize`: pictures to ids, to look at, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded

__all__ = ["detokenize", "tokenize"]


@guarded
def tokenize(
    *,
    images: Annotated[
        list[Path], typer.Argument(help="Pictures: PNG, JPEG or WebP. Transparency is dropped, "
                                        "grey and CMYK become RGB, 16 bits become 8."),
    ],
    tokenizer: options.Tokenizer,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Scale and cut every picture to SIZE x SIZE, the middle of it "
                                 "(default: as it is, if the tokenizer takes its size)."),
    ] = None,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Take pictures through a tokenizer and back, and show what becomes of them.

    Writes, for each, the picture as it was given, what comes back, their difference (times 4,
    around grey) and the maps of ids coloured by code, coarse to fine; and tokens.json with all
    ids, which 'impasto detokenize' takes. An autoencoder with continuous latents has no ids.
    """
    from impasto.files import sha256_file
    from impasto.models.autoencoders import load_autoencoder
    from impasto.run.pictures import Frame
    from impasto.run.provenance import default_folder
    from impasto.run.tokens import check_pictures, tokenized

    model, frame = load_autoencoder(tokenizer, device=build.device_of(device)), Frame(size)
    check_pictures(model, images, frame)
    record = {"tokenizer": model.provenance(), "size": size,
              "pictures": [sha256_file(path) for path in images]}  # fmt: skip
    folder = out or default_folder("tokenize", record)
    rows = []
    for row in tokenized(model, images, folder, frame):
        rows.append(row)
        if not as_json:
            print(_line(row, model.codebook_size))
    tokens = folder / "tokens.json" if model.codebook_size is not None else None
    if as_json:
        print(json.dumps({"out": str(folder), "tokens": None if tokens is None else str(tokens),
                          "tokenizer": model.provenance(), "pictures": rows}, indent=2,
                         ensure_ascii=False))  # fmt: skip
    else:
        print(tokens or folder)


def _line(row: dict[str, Any], codes: int | None) -> str:
    """What is said of one picture."""
    height, width = row["size"]
    psnr = "came back exactly" if row["psnr"] is None else f"PSNR {row['psnr']:.2f} dB"
    head = f"{row['name']}  {width} x {height}  {psnr}"
    if codes is None:
        return f"{head}  no ids: its latents are continuous"
    maps = row["maps"]
    last = f"{maps[-1][0]} x {maps[-1][1]}"
    shape = last if len(maps) == 1 else f"{len(maps)} maps up to {last}"
    return (f"{head}  {row['ids']:,} ids ({shape}), {row['distinct']:,} distinct of {codes:,}, "
            f"{row['bits']:,.0f} bits, {row['bits'] / height / width:.3g} a pixel")  # fmt: skip


@guarded
def detokenize(
    *,
    tokens: Annotated[Path, typer.Argument(help="A tokens.json of 'impasto tokenize'.")],
    tokenizer: options.Tokenizer,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    as_json: options.Json = False,
) -> None:
    """Turn ids into pictures again, OUT/NAME.png each.

    Refuses ids of another tokenizer (their digest is in the file), ids out of range and maps that
    are not whole.
    """
    from impasto.files import sha256_file
    from impasto.images import write_png
    from impasto.models.autoencoders import load_autoencoder
    from impasto.run.provenance import default_folder
    from impasto.run.tokens import restored

    model = load_autoencoder(tokenizer, device=build.device_of(device))
    if not tokens.is_file():
        raise FileNotFoundError(f"{tokens} is no file")
    record = {"tokenizer": model.provenance(), "tokens": sha256_file(tokens)}
    folder, paths = out or default_folder("detokenize", record), []
    for name, image in restored(tokens, model):
        paths.append(folder / f"{name}.png")
        write_png(paths[-1], image)
        if not as_json:
            print(paths[-1])
    if as_json:
        print(json.dumps({"out": str(folder), "pictures": [str(path) for path in paths]},
                         indent=2, ensure_ascii=False))  # fmt: skip
