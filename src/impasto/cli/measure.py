"""`impasto measure`: what an autoencoder loses, how far two sets of pictures are apart, and how
local a transformer's attention is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from impasto.cli import build, options
from impasto.cli.errors import guarded
from impasto.cli.progress import progress

if TYPE_CHECKING:
    from impasto.run.directory import RunDirectory

__all__ = ["eval_reconstruction", "measure_distance", "measure_locality",
           "measure_reconstruction"]  # fmt: skip

STICKER_FEATURES = ["sticker-detector", "sticker-clip"]
SOURCES = "a folder, a run, an .npz file, world:scenes=NUMBER or world:run=FOLDER"

HELD_OUT = "world:scenes=500,split=held-out"
"""Combinations that no training shows."""

Size = Annotated[
    int | None,
    typer.Option(min=8, help="Cut every picture to SIZE x SIZE as ADM cuts ImageNet."),
]
Measured = Annotated[
    int | None,
    typer.Option(min=8, help="Resize both sides to MEASURED x MEASURED before they are compared "
                             "(PyTorch's bicubic, as TokenFlow does)."),
]  # fmt: skip
Perceptual = Annotated[
    list[str] | None,
    typer.Option(help="LPIPS, once for each variant; see 'impasto ls perceptual'."),
]
Features = Annotated[
    list[str] | None,
    typer.Option(help="Features for rFID and its kin, once for each; see 'impasto ls features' "
                      "(default: the sticker world's for its scenes, else none)."),
]  # fmt: skip
Verdicts = Annotated[
    str | None,
    typer.Option(help="Scorer of the verdicts that are kept, for the world's scenes (default "
                      "there: sticker)."),
]  # fmt: skip


@guarded
def measure_reconstruction(
    *,
    model: Annotated[
        str, typer.Argument(help="Autoencoder or tokenizer: a name of 'impasto ls tokenizers', a "
                                 "folder of one or of a generator with one, or a hub id."),
    ],
    pictures: Annotated[str, typer.Argument(help=f"Originals: {SOURCES}.")],
    size: Size = None,
    measured: Measured = None,
    perceptual: Perceptual = None,
    features: Features = None,
    scorer: Verdicts = None,
    batch_size: options.BatchSize = 8,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Measure what an autoencoder leaves of pictures: PSNR, SSIM, LPIPS, rFID, verdicts, codes.

    The same as 'impasto eval reconstruction': a run folder with the reconstructions and a page.
    """
    from impasto.models.autoencoders import load_autoencoder
    from impasto.report.reconstruction import write_reconstruction_report
    from impasto.run.pictures import Frame, open_pictures
    from impasto.run.reconstruction import ReconstructionSettings
    from impasto.run.reconstruction import measure_reconstruction as run_it

    at = build.device_of(device)
    originals = open_pictures(pictures)
    known = len(originals) > 0 and originals.specs(range(1)) is not None
    if scorer is None and known:
        scorer = "sticker"
    if features is None and known:
        features = STICKER_FEATURES
    settings = ReconstructionSettings(
        model=load_autoencoder(model, device=at),
        pictures=originals,
        frame=Frame(size, measured),
        perceptual=build.perceptual(perceptual or [], at),
        extractors=build.extractors(features or [], at),
        scorer=build.scorer(scorer, at) if scorer is not None else None,
    )
    with progress(quiet=as_json) as report:
        run = run_it(settings, out, batch_size=batch_size, progress=report)
    page = write_reconstruction_report([run.path], run.path / "report.html")
    _show(run, as_json, page)


@guarded
def eval_reconstruction(
    *,
    pictures: Annotated[
        str, typer.Argument(help=f"Originals: {SOURCES}. Scenes may be of a split: "
                                 f"world:scenes=500,split=held-out."),
    ] = HELD_OUT,
    tokenizer: options.Tokenizer,
    size: Size = None,
    measured: Measured = None,
    perceptual: Perceptual = None,
    features: Features = None,
    scorer: Verdicts = None,
    batch_size: options.BatchSize = 8,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Measure a tokenizer: what its reconstructions keep, and how its codes are used.

    PSNR, SSIM, LPIPS, mean colour, rFID, verdicts kept; ids and bits a picture, use and meaning
    of codes by scale. Writes a run folder with the reconstructions and a page to look at, which
    'impasto compare' makes of several runs. The same command again goes on where it was
    interrupted. A distance is FID only with the published weights; its flavour is in its name.
    """
    measure_reconstruction(model=tokenizer, pictures=pictures, size=size, measured=measured,
                           perceptual=perceptual, features=features, scorer=scorer,
                           batch_size=batch_size, device=device, out=out, as_json=as_json
                           )  # fmt: skip


@guarded
def measure_distance(
    *,
    samples: Annotated[str, typer.Argument(help=f"Pictures: {SOURCES}.")],
    reference: Annotated[
        str, typer.Argument(help="What they are compared with: the same, or an .npz with mu and "
                                 "sigma."),
    ],
    features: Annotated[
        list[str], typer.Option(help="Features to compare by, once for each; see 'impasto ls "
                                     "features'.")
    ],
    size: Size = None,
    measured: Measured = None,
    batch_size: options.BatchSize = 8,
    device: options.Device = "auto",
    out: options.OutFolder = None,
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Measure how far a set of pictures is from a reference: FID, KID, CMMD, precision, recall.

    Which of them, the features say. Writes a run folder; the same command again goes on where it
    was interrupted. A distance is FID only with the published weights.
    """
    from impasto.run.distance import measure_distance as run_it
    from impasto.run.pictures import Frame, open_pictures

    at = build.device_of(device)
    sets = open_pictures(samples), open_pictures(reference)
    with progress(quiet=as_json) as report:
        run = run_it(*sets, build.extractors(features, at), out, frame=Frame(size, measured),
                     batch_size=batch_size, progress=report)  # fmt: skip
    _show(run, as_json)


@guarded
def measure_locality(
    *,
    model: Annotated[str, typer.Argument(help="Generator of the family mmdit or dit: a name or a "
                                              "folder.")],
    band: Annotated[
        int | None, typer.Option(min=1, help="Tokens to each side that count as near (default: an "
                                             "eighth of all)."),
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, max=1000, help="Pictures of the sticker world.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of pictures, times and noise.")] = 0,
    device: options.Device = "auto",
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write: a number a block, "
                                                          "for 'impasto graft --locality'.")],
    as_json: options.Json = False,
) -> None:  # fmt: skip
    """Measure each block's share of attention near the diagonal, to choose what is grafted by.

    That is for 'impasto graft --blocks top-local' and low-local. On noised pictures of the sticker
    world at times drawn as in training.
    """
    from impasto.files import write_json
    from impasto.models import load_generator
    from impasto.surgery.locality import generator_locality

    pipe = load_generator(model, device=build.device_of(device))
    with progress(quiet=as_json) as report:
        found, k = generator_locality(pipe, band=band, pictures=pictures, seed=seed,
                                      progress=report)  # fmt: skip
    write_json(out, found)
    if as_json:
        print(json.dumps({"model": model, "out": str(out), "band": k, "locality": found}))
        return
    print("\n".join(f"block {i:<3}{value:.4f}" for i, value in enumerate(found)))
    print(f"share of attention within {k} tokens; {out}")


def _show(run: RunDirectory, as_json: bool, page: Path | None = None) -> None:
    from impasto.report.measured import measured_text
    from impasto.run.directory import read_json

    summary, cost = read_json(run.summary), read_json(run.cost)
    if as_json:
        more = {} if page is None else {"page": str(page), "cost": cost}
        print(json.dumps({"run": str(run.path), "summary": summary, **more}, indent=2,
                         ensure_ascii=False))  # fmt: skip
        return
    print(measured_text(summary, cost.get("pictures_per_second")))
    print(run.summary if page is None else f"report: {page}")
