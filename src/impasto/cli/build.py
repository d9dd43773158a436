"""From names on the command line to objects. Importing the packages fills the registries."""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from impasto.zoo.registry import (
    BENCHES,
    FEATURES,
    JUDGES,
    MODELS,
    PATCHES,
    PERCEPTUAL,
    SCORERS,
    SEARCHES,
    TOKENIZERS,
    Registry,
)

if TYPE_CHECKING:
    from impasto.bench import Bench
    from impasto.run.workers import Workers
    from impasto.sample.protocol import Generator
    from impasto.score.base import Scorer
    from impasto.score.features import Extractor
    from impasto.score.judges import Judge
    from impasto.score.lpips import Lpips
    from impasto.search import Search

__all__ = ["REGISTRIES", "bench", "device_of", "extractors", "filled", "judge", "judges_of",
           "model", "parts", "perceptual", "scorer", "search", "second", "workers"]  # fmt: skip

REGISTRIES: dict[str, tuple[str, Registry[Any]]] = {
    "models": ("impasto.models", MODELS),
    "benches": ("impasto.bench", BENCHES),
    "scorers": ("impasto.score", SCORERS),
    "searches": ("impasto.search", SEARCHES),
    "judges": ("impasto.models.judges", JUDGES),
    "features": ("impasto.score.features", FEATURES),
    "patches": ("impasto.score.features", PATCHES),
    "perceptual": ("impasto.score.perceptual", PERCEPTUAL),
    "tokenizers": ("impasto.models.autoencoders", TOKENIZERS),
}


def filled(kind: str) -> Registry[Any]:
    """The registry of a kind of `REGISTRIES`, with its entries loaded."""
    package, registry = REGISTRIES[kind]
    importlib.import_module(package)
    return registry


def device_of(name: str) -> str:
    """"auto" as the first GPU, else the processor; anything else as given, checked."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}; allowed: auto, cpu, cuda, "
                         f"cuda:N where there is one") from error  # fmt: skip
    return name


def model(text: str, device: str) -> Generator:
    """The generator called `text`, or saved in the folder `text`, on `device`."""
    from impasto.models import load_generator

    return load_generator(text, device=device)


def scorer(text: str, device: str) -> Scorer:
    """The scorer called `text`, on `device`."""
    return filled("scorers").create(text, device=device)


def judge(text: str, device: str) -> Judge:
    """The judge called `text`, on `device`."""
    return filled("judges").create(text, device=device)


def second(text: str | None, device: str) -> Scorer | None:
    """The second scorer called `text`, on `device`; None for None."""
    return None if text is None else scorer(text, device)


def judges_of(bench: Bench, scorer: str | None, second: str | None) -> tuple[str, str | None]:
    """Names of the scorer and the second one: as given, else the bench's own; None for no second.

    Raises ValueError where neither names a scorer.
    """
    first = scorer or bench.scorer
    if not first:
        name = bench.name.partition(":")[0]
        raise ValueError(f"{name} is scored by a judge that you choose: give --scorer, such as "
                         f"{name}:path=FILE,vlm=FOLDER; docs/benches.md has them")  # fmt: skip
    other = bench.second if second is None else second
    return first, other if other and other != "none" else None


def extractors(texts: list[str], device: str) -> list[Extractor]:
    """The feature extractors called `texts`, on `device`."""
    return [filled("features").create(text, device=device) for text in texts]


def perceptual(texts: list[str], device: str) -> list[Lpips]:
    """The perceptual distances called `texts`, on `device`."""
    return [filled("perceptual").create(text, device=device) for text in texts]


def parts(
    role: str, *, model_name: str | None, search_name: str, scorers: tuple[str, str | None],
    device: str,
) -> tuple[Any, Any]:  # fmt: skip
    """What a worker process needs for a role of `impasto.run.workers`, built from names."""
    if role == "judges":
        return scorer(scorers[0], device), second(scorers[1], device)
    return model(str(model_name), device), search(search_name, device)


def bench(text: str) -> Bench:
    """The bench called `text`."""
    return filled("benches").create(text)


def search(text: str, device: str) -> Search:
    """The search called `text`; the scorer and the features that it asks for are on `device`."""
    return filled("searches").create(
        text, scorers=lambda name: scorer(name, device),
        patches=lambda name: filled("patches").create(name, device=device),
    )  # fmt: skip


def workers(count: int, device: str, **names: Any) -> Workers:
    """`count` processes that build what `names` say, sharing out the GPUs that `device` means."""
    import torch

    from impasto.run.workers import Workers

    if count > 1 and device.startswith("cuda:"):
        raise ValueError(f"several workers share out the GPUs: give --device cuda, not {device}")
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return Workers(count, partial(parts, device=device, **names), gpus)
