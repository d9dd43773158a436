"""Published checkpoints of preference scorers into folders that the scorers load.

    kind               the file                                    becomes
    hps-v2.0           HPS_v2_compressed.pt of xswu/HPSv2          transformers' CLIPModel
    hps-v2.1           HPS_v2.1_compressed.pt of xswu/HPSv2        transformers' CLIPModel
    image-reward       ImageReward.pt of THUDM/ImageReward         `ImageRewardNetwork`
    openai-clip        pytorch_model.bin of openai/clip-vit-...    transformers' CLIPModel

The two HPS files have the same names and shapes; which of them it is, only the user knows, so it
is the kind, and `conversion.json` keeps it with the file's name and sha256. Numbers stay in the
file's precision. Names: `preference.names`. "openai-clip" is ViT-B/32 or ViT-L/14 in transformers'
names already: it makes safetensors of a pickle, and writes the config with QuickGELU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPModel

from impasto.score.preference.architecture import ARCHITECTURES, clip_config_of
from impasto.score.preference.image_reward import SIZES, ImageRewardNetwork, Sizes, write_sizes
from impasto.score.preference.names import IMAGE_REWARD_UNUSED, Row, clip_rows, image_reward_rows
from impasto.zoo.convert import CONVERTERS, ConversionReport

__all__ = ["HPS_ARCHITECTURE", "carried", "from_open_clip", "image_reward", "openai_clip"]

HPS_ARCHITECTURE = "ViT-H/14"
OPENAI_CLIPS = ("ViT-B/32", "ViT-L/14")
POSITIONS = frozenset(f"{one}_model.embeddings.position_ids" for one in ("text", "vision"))
"""Constants that files of transformers before 4.31 hold."""
STRANGERS = {
    "text_model.": "it is a CLIP in transformers' names: if it is OpenAI's, --kind openai-clip",
    "visual_encoder.": "it is BLIP itself, without ImageReward's head",
    "blip.": "it is ImageReward: --kind image-reward",
    "visual.": "it is a CLIP in open_clip's names",
    "panoptic_head.": "it is mmdetection's Mask2Former: --kind mask2former",
    "layers.": "it is a head without its network, which scorer laion-aesthetic-v2 takes as it is",
}
"""Prefixes of keys -> what the file is."""


def _refuse_strangers(tensors: Mapping[str, Tensor], own: str) -> None:
    for prefix, what in STRANGERS.items():
        if prefix != own and any(key.startswith(prefix) for key in tensors):
            raise ValueError(what)


def carried(
    tensors: Mapping[str, Tensor], table: Iterable[Row], shapes: Mapping[str, torch.Size], *,
    source: str, unused: frozenset[str] = frozenset(),
) -> tuple[dict[str, Tensor], ConversionReport]:  # fmt: skip
    """The tensors under their new names, and what went where.

    shapes: of the new tensors, all of which the table should fill. unused: old names that may be
    there for nothing. Raises ValueError for another shape.
    """
    state: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    split: dict[str, tuple[str, ...]] = {}
    permuted = []
    for old, new, transposed in table:
        if old not in tensors:
            continue
        values = tensors[old].T if transposed else tensors[old]
        for name, part in zip(new, values.chunk(len(new)) if len(new) > 1 else [values],
                              strict=True):  # fmt: skip
            if part.shape != shapes[name]:
                raise ValueError(f"{old!r} has shape {tuple(tensors[old].shape)}, with which "
                                 f"{name!r} would be {tuple(part.shape)}, not "
                                 f"{tuple(shapes[name])}: another architecture")  # fmt: skip
            state[name] = part.clone(memory_format=torch.contiguous_format)
        if len(new) > 1:
            split[old] = new
        else:
            renamed[old] = new[0]
        permuted += [old] if transposed else []
    dropped = tuple(sorted(unused & tensors.keys()))
    used = renamed.keys() | split.keys() | set(dropped)
    return state, ConversionReport(
        source=source, loaded=tuple(state), renamed=renamed, split=split,
        permuted=tuple(permuted), dropped=dropped,
        missing=tuple(sorted(shapes.keys() - state.keys())),
        unexpected=tuple(sorted(tensors.keys() - used)),
    )  # fmt: skip


def _shapes(make: Callable[[], torch.nn.Module]) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {key: value.shape for key, value in make().state_dict().items()}


def _write(folder: Path, state: Mapping[str, Tensor], report: ConversionReport) -> None:
    report.check()
    save_file(dict(state), folder / "model.safetensors", {"format": "pt"})


def from_open_clip(tensors: Mapping[str, Tensor], folder: Path,
                   architecture: str = HPS_ARCHITECTURE) -> ConversionReport:  # fmt: skip
    """A CLIP in open_clip's names to a folder of transformers' CLIPModel, without a tokenizer.

    Raises ValueError for another model's tensors.
    """
    _refuse_strangers(tensors, "visual.")
    config = clip_config_of(architecture)
    state, report = carried(tensors, clip_rows(config), _shapes(lambda: CLIPModel(config)),
                            source="open_clip")  # fmt: skip
    _write(folder, state, report)
    config.save_pretrained(folder)
    return report


@CONVERTERS.register("hps-v2.0")
def hps_2_0(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Human Preference Score v2.0: HPS_v2_compressed.pt."""
    return from_open_clip(tensors, folder)


@CONVERTERS.register("hps-v2.1")
def hps_2_1(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Human Preference Score v2.1: HPS_v2.1_compressed.pt."""
    return from_open_clip(tensors, folder)


@CONVERTERS.register("openai-clip")
def openai_clip(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """OpenAI's CLIP ViT-B/32 or ViT-L/14: pytorch_model.bin of the hub.

    Raises ValueError for another model's tensors.
    """
    _refuse_strangers(tensors, "text_model.")
    width = len(tensors.get("vision_model.embeddings.class_embedding", ()))
    known = {ARCHITECTURES[name].vision[0]: name for name in OPENAI_CLIPS}
    if width not in known:
        raise ValueError(f"its vision tower is {width} wide; OpenAI's are "
                         f"{' or '.join(f'{w} ({name})' for w, name in known.items())}"
                         )  # fmt: skip
    config = clip_config_of(known[width])
    shapes = _shapes(lambda: CLIPModel(config))
    state, report = carried(tensors, [Row(key, (key,)) for key in shapes], shapes,
                            source="transformers", unused=POSITIONS)  # fmt: skip
    _write(folder, state, report)
    config.save_pretrained(folder)
    return report


@CONVERTERS.register("image-reward")
def image_reward(tensors: Mapping[str, Tensor], folder: Path,
                 sizes: Sizes | None = None) -> ConversionReport:  # fmt: skip
    """ImageReward v1.0: ImageReward.pt.

    sizes: default those of the published network. Raises ValueError for another model's tensors.
    """
    sizes = sizes or SIZES
    _refuse_strangers(tensors, "blip.")
    state, report = carried(tensors, image_reward_rows(sizes),
                            _shapes(lambda: ImageRewardNetwork(sizes)),
                            source="ImageReward", unused=IMAGE_REWARD_UNUSED)  # fmt: skip
    _write(folder, state, report)
    write_sizes(folder, sizes)
    return report
