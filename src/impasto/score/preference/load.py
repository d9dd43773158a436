"""Preference scorers from folders or hub ids, and what is refused: the wrong network, by name.

A cosine score needs its own architecture and activation, a tokenizer that gives the original's
ids, and for weights that were converted the right kind in `conversion.json`. What names and shapes
cannot tell (LAION's CLIP-H from PickScore, which was trained on from it) the sha256 in the
provenance must.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, CLIPConfig, PreTrainedTokenizerBase

from impasto.files import sha256_file
from impasto.score.clip import load_clip, load_clip_model
from impasto.score.preference.aesthetic import HEADS, AestheticScorer, load_head
from impasto.score.preference.architecture import (
    ARCHITECTURES,
    SENTENCE,
    check_architecture,
)
from impasto.score.preference.clip_scores import ClipPreference
from impasto.score.preference.image_reward import (
    SIZES,
    ImageRewardNetwork,
    ImageRewardScorer,
    read_sizes,
)
from impasto.score.preference.variants import HUB, VARIANTS
from impasto.zoo.convert import RECORD
from impasto.zoo.hub import model_folder
from impasto.zoo.weights import load_weights

__all__ = ["load_aesthetic", "load_cosine", "load_image_reward"]

BERT = "google-bert/bert-base-uncased"
BERT_IDS = (101, 1037, 6302, 1997, 1037, 4937, 102)
"""Of `SENTENCE`, by its vocabulary."""


def _folder(given: str | None, option: str, name: str, wanted: str, kind: str | None) -> Path:
    """The folder that `option` names. wanted: weights; kind: of their conversion, if any."""
    into = f"'impasto convert FILE --kind {kind} --out FOLDER'"
    if given is None:
        made = f"made by {into} of" if kind else "or a hub id:"
        raise ValueError(f"scorer {name!r} needs {option}=FOLDER, {made} {wanted}")
    return model_folder(given, option, f"; make one of it by {into}" if kind else "")


def _tokenizer_folder(folder: Path, given: str | None, hub: str) -> Path:
    """Where the tokenizer is. Raises ValueError that says what to give."""
    if given is not None:
        return model_folder(given, "tokenizer", weights=False)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise ValueError(f"{folder} has no tokenizer; give tokenizer={hub} as well, or its folder")
    return folder


def _check_words(
    tokenizer: PreTrainedTokenizerBase, wanted: tuple[int, ...], hub: str, where: Path
) -> None:
    """Raises ValueError for a tokenizer with other ids than the network was trained with."""
    found = tuple(tokenizer(SENTENCE).input_ids)
    if found != wanted:
        raise ValueError(f"the tokenizer in {where} makes {SENTENCE!r} {list(found)}, not "
                         f"{list(wanted)}; use that of {hub}")  # fmt: skip


def _check_clip(folder: Path, architecture: str) -> None:
    """What config.json says, before gigabytes are read. Raises FileNotFoundError, ValueError."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; give a folder that CLIPModel's "
                                    f"save_pretrained wrote. One that has a pytorch_model.bin of "
                                    f"OpenAI's instead: 'impasto convert pytorch_model.bin --kind "
                                    f"openai-clip --out FOLDER'")  # fmt: skip
    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    check_architecture(config, architecture, folder, HUB)


def _converted(folder: Path, kind: str, name: str, sha256: str) -> dict[str, Any]:
    """The source that `conversion.json` tells of. Raises ValueError for another conversion."""
    path = folder / RECORD
    todo = f"make one by 'impasto convert FILE --kind {kind} --out FOLDER'"
    if not path.is_file():
        raise ValueError(f"scorer {name!r} needs a converted folder, and {folder} has no "
                         f"{RECORD}; {todo}")  # fmt: skip
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        found, written = record["kind"], record["result"]["model.safetensors"]
        source = record["source"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a conversion; {todo}") from error
    if found != kind:
        raise ValueError(f"{folder} was converted as {found}, not {kind}, from {source['name']}; "
                         f"scorer {name!r} is another model: {todo}")  # fmt: skip
    if written != sha256:
        raise ValueError(f"{folder}/model.safetensors is not what {RECORD} says that the "
                         f"conversion wrote; convert again")  # fmt: skip
    return {"source": source}


def load_cosine(
    name: str, weights: str | None, tokenizer: str | None, device: str, antialias: bool = True
) -> ClipPreference:
    """The score of `VARIANTS[name]`. antialias: of HPS's resizing. Raises ValueError."""
    variant = VARIANTS[name]
    folder = _folder(weights, "weights", name, variant.weights, variant.kind)
    hub = HUB[variant.architecture]
    words = _tokenizer_folder(folder, tokenizer, hub)
    _check_clip(folder, variant.architecture)
    model, tokens, sha256 = load_clip(folder, device, words)
    _check_words(tokens, ARCHITECTURES[variant.architecture].sentence, hub, words)
    record: dict[str, Any] = {"sha256": sha256}
    if variant.kind is not None:
        record |= _converted(folder, variant.kind, name, sha256)
    if not antialias:
        variant = replace(variant, square=f"{variant.square}, not antialiased")
    return ClipPreference(variant, model, tokens, record)


def load_aesthetic(
    name: str, weights: str | None, clip: str | None, device: str
) -> AestheticScorer:
    """A predictor of `HEADS`: its own file, and CLIP ViT-L/14. Raises ValueError."""
    wanted = HEADS[name]
    if weights is None:
        raise ValueError(f"scorer {name!r} needs weights=FILE, {wanted.file}, and clip=FOLDER")
    head, own = load_head(weights, name, ARCHITECTURES["ViT-L/14"].features)
    folder = _folder(clip, "clip", name, HUB["ViT-L/14"], None)
    _check_clip(folder, "ViT-L/14")
    model, sha256 = load_clip_model(folder, device)
    published = own == wanted.sha256
    if not published:
        warnings.warn(f"{weights} is none of the published heads, by its sha256; published "
                      f"ratings are by {wanted.file}", stacklevel=3)  # fmt: skip
    return AestheticScorer(model, head, name=name, record={
        "sha256": {"head": own, "clip": sha256}, "published_head": published,
    })  # fmt: skip


def load_image_reward(
    name: str, weights: str | None, tokenizer: str | None, device: str
) -> ImageRewardScorer:
    """ImageReward from a folder that `impasto convert` wrote. Raises ValueError."""
    kind = "image-reward"
    folder = _folder(weights, "weights", name, "ImageReward.pt of THUDM/ImageReward", kind)
    sizes = read_sizes(folder)
    if sizes != SIZES:
        other = [f"{key} {value}" for key, value in sizes.items() if value != SIZES[key]]
        raise ValueError(f"{folder} holds no ImageReward v1.0: {', '.join(other)}")
    words = _tokenizer_folder(folder, tokenizer, BERT)
    tokens = BertTokenizer.from_pretrained(words, local_files_only=True)
    _check_words(tokens, BERT_IDS, BERT, words)
    path = folder / "model.safetensors"
    sha256 = sha256_file(path)
    record = {"sha256": sha256} | _converted(folder, kind, name, sha256)
    network = ImageRewardNetwork(sizes)
    load_weights(network, path)
    return ImageRewardScorer(network.to(torch.device(device)), tokens, name=name, record=record)
