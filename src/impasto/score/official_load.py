"""Networks of full size from a folder or the hub, and what there is to say against them.

Weights are safetensors, whole (no key missing or left over), with GenEval's classes in their
order. What the mode "official" promises is checked here; what is merely not OpenMMLab's or
OpenAI's own file is noted in `Part.strange`, and the scores are then not labelled official.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import CLIPConfig, Mask2FormerForUniversalSegmentation

from impasto.files import sha256_file
from impasto.score.clip import OPENAI, load_clip
from impasto.score.color import ClipColorClassifier
from impasto.score.detector import Mask2FormerDetector
from impasto.score.lean import lean, lean_clip
from impasto.score.mask2former_names import OFFICIAL_FILES, UNUSED
from impasto.score.mmdetection import inputs, masks_at
from impasto.score.trained import check_keys
from impasto.spec import CLASSES
from impasto.zoo.convert import RECORD
from impasto.zoo.hub import model_folder

__all__ = ["Part", "load_colors", "load_detector"]

HUB = {"detector": "facebook/mask2former-swin-small-coco-instance",
       "clip": "openai/clip-vit-large-patch14"}  # fmt: skip
VIT_L_14 = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 224}
INDEX = "relative_position_index"
"""A constant that files of transformers 4 hold."""
BATCH = {"cuda": 16, "cpu": 1}
"""Pictures of 800 px in one pass of the detector."""


@dataclass(frozen=True)
class Part:
    """A network's weights as they were found. strange: why they are not the official ones."""

    sha256: str
    strange: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


def _folder(given: str | None, what: str) -> Path:
    """The folder of a path or hub id. Raises ValueError that says what to give."""
    if given is None:
        raise ValueError(f"scorer 'geneval' needs {what}=FOLDER: for the detector what 'impasto "
                         f"convert FILE.pth --kind mask2former --out FOLDER' wrote (or mode=hf "
                         f"and {HUB['detector']}), for clip {HUB['clip']} or its folder"
                         )  # fmt: skip
    return model_folder(given, what, f"; a foreign checkpoint is made one by 'impasto convert "
                                     f"{given} --kind mask2former --out FOLDER'")  # fmt: skip


def _converted(folder: Path, sha256: str) -> Part:
    """What `conversion.json` says, held against the weights that are there."""
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(f"mode=official wants OpenMMLab's weights, but {folder} has no {RECORD}: "
                         f"convert them by 'impasto convert', or give mode=hf for weights of the "
                         f"hub")  # fmt: skip
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        written, source = record["result"]["model.safetensors"], record["source"]
        kept = {"source": source, "versions": record["versions"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of a conversion; convert again") from error
    if written != sha256:
        raise ValueError(f"{folder}/model.safetensors is not what {RECORD} says that the "
                         f"conversion wrote; convert again")  # fmt: skip
    known = {Path(name).stem[-8:] for name in OFFICIAL_FILES.values()}
    strange = () if source["sha256"][:8] in known else (
        f"the detector was converted from {source['name']}, sha256 {source['sha256'][:8]}..., "
        f"which is none of OpenMMLab's files ({', '.join(sorted(known))})",)  # fmt: skip
    return Part(sha256, strange, kept)


def load_detector(
    given: str | None, mode: str, device: str, batch: int | None = None
) -> tuple[Mask2FormerDetector, Part]:
    """The detector of a folder or hub id, in float32.

    batch: pictures in one pass, default 16 on a GPU, else 1. Raises ValueError for weights that
    are damaged, of another model, or in mode "official" not converted from mmdetection's.
    """
    folder = _folder(given, "detector")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{weights} is missing; the detector is a folder with safetensors")
    sha256 = sha256_file(weights)
    part = _converted(folder, sha256) if mode == "official" else Part(sha256)
    try:
        model, found = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True,
            ignore_mismatched_sizes=True, output_loading_info=True,
        )  # fmt: skip
    except SafetensorError as error:
        raise ValueError(f"{weights} is damaged or truncated: {error}") from error
    check_keys(found, weights, lambda key: key in UNUSED or key.endswith(INDEX))
    _check_classes(model.config.id2label, folder)
    kind = torch.device(device).type
    size = batch or BATCH.get(kind, 1)
    model = model.to(device) if kind == "cpu" else lean(model.to(device))
    return Mask2FormerDetector(model, inputs, masks_at, classes=CLASSES,
                               batch=size), part  # fmt: skip


def _check_classes(labels: Mapping[int, str], folder: Path) -> None:
    """COCO's 80 in COCO's order, three of which GenEval calls otherwise."""
    wrong = [f"{i} is {name!r}" for i, name in labels.items()
             if name in CLASSES and CLASSES.index(name) != i]  # fmt: skip
    if len(labels) != len(CLASSES) or wrong:
        raise ValueError(f"{folder} finds {len(labels)} classes, not COCO's {len(CLASSES)} in "
                         f"their order: {', '.join(wrong[:3]) or 'give another detector'}"
                         )  # fmt: skip


def load_colors(given: str | None, mode: str, device: str) -> tuple[ClipColorClassifier, Part]:
    """The colour classifier of a folder or hub id of CLIP, in float32.

    Raises ValueError for weights that are damaged or, in mode "official", plain GELU.
    """
    folder = _folder(given, "clip")
    model, tokenizer, sha256 = load_clip(folder, device)
    if mode == "official":
        _check_gelu(model.config, folder)
    if torch.device(device).type != "cpu":
        lean_clip(model)
    vision = model.config.vision_config
    other = [f"{key} {getattr(vision, key)}" for key, value in VIT_L_14.items()
             if getattr(vision, key) != value]  # fmt: skip
    strange = (f"CLIP is not ViT-L/14: {', '.join(other)}",) if other else ()
    return ClipColorClassifier(model, tokenizer, normalisation=OPENAI), Part(sha256, strange)


def _check_gelu(config: CLIPConfig, folder: Path) -> None:
    for tower, own in (("text", config.text_config), ("vision", config.vision_config)):
        if own.hidden_act != "quick_gelu":
            raise ValueError(f"CLIP in {folder} computes {own.hidden_act!r} in its {tower} "
                             f"tower; OpenAI's weights need 'quick_gelu', and colours differ "
                             f"without it. Use {HUB['clip']}, whose config.json says so"
                             )  # fmt: skip
