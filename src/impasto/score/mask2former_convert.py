"""mmdetection's Mask2Former <-> transformers': other names, and two differences in layout.

    attn.w_msa.qkv, self-attention's in_proj      (3 d, ...) rows split into query, key, value
    downsample.reduction, downsample.norm         the 4 C channels of a merged 2 x 2 patch:
        mmdetection   channel-major, positions (0,0) (0,1) (1,0) (1,1)    (nn.Unfold)
        transformers  position-major, positions (0,0) (1,0) (0,1) (1,1)   (Swin's own code)
        so  W'[o, p, c] = W[o, c, q(p)]  with q = (0, 2, 1, 3), its own inverse
    attn.w_msa.relative_position_index            a constant: dropped; made anew on the way back

Names: `score.mask2former_names`. GenEval's file (Ghosh et al. 2023, `download_models.sh`) is
mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.utils import logging

from impasto.score.detector import detector_config
from impasto.score.mask2former_names import (
    HEAD,
    INDEX,
    OFFICIAL_FILES,
    PIXELS,
    UNUSED,
    old_names,
    rows,
)
from impasto.zoo.convert import CONVERTERS, ConversionReport, named

__all__ = ["from_mmdet", "mask2former", "merge_order", "position_index", "to_mmdet",
           "unmerge_order"]  # fmt: skip

SWAP = [0, 2, 1, 3]
STRANGERS = {
    "sem_seg_head.": "Detectron2's own Mask2Former; its weights are on the hub for mode=hf",
    PIXELS: "already in transformers' names, so no mmdetection checkpoint",
    "backbone.layer1.": "a detector with a ResNet backbone, not Swin-S",
    "bbox_head.": "another of mmdetection's detectors, not Mask2Former",
    "roi_head.": "another of mmdetection's detectors, not Mask2Former",
    "text_model.": "CLIP, not a detector",
}
"""Prefixes of keys -> what the file is."""


def merge_order(values: Tensor) -> Tensor:
    """mmdetection's 4 C merged channels, the last axis, in transformers' order."""
    return values.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., SWAP, :].flatten(-2)


def unmerge_order(values: Tensor) -> Tensor:
    """The inverse of `merge_order`."""
    return values.unflatten(-1, (4, -1))[..., SWAP, :].transpose(-1, -2).flatten(-2)


def position_index(window: int) -> Tensor:
    """(w^2, w^2): row of the bias table for each pair of positions in a window."""
    at = torch.arange(window)
    y, x = (axis.flatten() for axis in torch.meshgrid(at, at, indexing="ij"))
    down, right = (axis[:, None] - axis[None] + window - 1 for axis in (y, x))
    return (2 * window - 1) * down + right


def _refuse_strangers(keys: Mapping[str, Tensor], config: Mask2FormerConfig) -> None:
    """Raises ValueError that says what the file is, where it is known not to be the right one."""
    wanted = f"; this conversion is for {' or '.join(OFFICIAL_FILES.values())}"
    for prefix, what in STRANGERS.items():
        if any(key.startswith(prefix) for key in keys):
            raise ValueError(f"it is {what}{wanted}")
    head = keys.get(f"{HEAD}cls_embed.weight")
    if head is not None and len(head) != config.num_labels + 1:
        raise ValueError(f"it tells {len(head) - 1} classes apart, not COCO's "
                         f"{config.num_labels}: a panoptic or other variant{wanted}")  # fmt: skip
    for i, depth in enumerate(config.backbone_config.depths):
        blocks = f"backbone.stages.{i}.blocks."
        there = {key.split(".")[4] for key in keys if key.startswith(blocks)}
        if len(there) != depth:
            raise ValueError(f"its Swin has {len(there)} blocks in stage {i}, not {depth}{wanted}")


def from_mmdet(
    tensors: Mapping[str, Tensor], config: Mask2FormerConfig
) -> tuple[dict[str, Tensor], ConversionReport]:
    """transformers' tensors under the hub's names from mmdetection's, and what went where.

    Raises ValueError for the file of another model, or names of both 2.x and 3.x.
    """
    _refuse_strangers(tensors, config)
    version, names = old_names(tensors)
    sources = {old: key for key, old in names.items()}
    state: dict[str, Tensor] = {}
    table, renamed, split = rows(config), {}, {}
    for source, targets, merged in table:
        if source not in sources:
            continue
        key = sources[source]
        values = merge_order(tensors[key]) if merged else tensors[key]
        state |= zip(targets, values.chunk(len(targets)), strict=True)
        if len(targets) > 1:
            split[key] = targets
        else:
            renamed[key] = targets[0]
    dropped = tuple(sorted(key for key in tensors if key.endswith(INDEX)))
    used = renamed.keys() | split.keys() | set(dropped)
    return state, ConversionReport(
        source=f"mmdetection {version}", loaded=tuple(state), renamed=renamed, split=split,
        permuted=tuple(sources[row.source] for row in table
                       if row.merged and row.source in sources),
        dropped=dropped, allowed=UNUSED,
        missing=tuple(name for row in table for name in row.targets if name not in state),
        unexpected=tuple(sorted(key for key in tensors if key not in used)),
    )  # fmt: skip


def to_mmdet(state: Mapping[str, Tensor], config: Mask2FormerConfig) -> dict[str, Tensor]:
    """mmdetection 2.x's tensors, index buffers too, from transformers' under the hub's names.

    Raises ValueError for keys that are missing.
    """
    table = rows(config)
    missing = [name for row in table for name in row.targets if name not in state]
    if missing:
        raise ValueError(f"{len(missing)} keys are missing: {named(missing)}; give the tensors "
                         f"of a folder that save_pretrained wrote")  # fmt: skip
    tensors = {}
    for source, targets, merged in table:
        values = torch.cat([state[name] for name in targets]) if targets[1:] else state[targets[0]]
        tensors[source] = unmerge_order(values) if merged else values
    index = position_index(config.backbone_config.window_size)
    for i, depth in enumerate(config.backbone_config.depths):
        tensors |= {f"backbone.stages.{i}.blocks.{j}{INDEX}": index for j in range(depth)}
    return tensors


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and its report of missing keys, which is ours to judge."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _model(
    state: Mapping[str, Tensor], config: Mask2FormerConfig
) -> tuple[Mask2FormerForUniversalSegmentation, tuple[str, ...]]:
    """The detector, and transformers' names of what `state` did not fill."""
    with _quiet():
        model, told = Mask2FormerForUniversalSegmentation.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    if told["mismatched_keys"]:
        key, given, wanted = min(told["mismatched_keys"])
        raise ValueError(f"{len(told['mismatched_keys'])} tensors have other shapes than the "
                         f"official detector's: {key!r} has {tuple(given)}, not "
                         f"{tuple(wanted)}; give {OFFICIAL_FILES['2.x']}")  # fmt: skip
    return model, tuple(sorted({*told["missing_keys"], *told["unexpected_keys"]}))


@CONVERTERS.register("mask2former")
def mask2former(
    tensors: Mapping[str, Tensor], folder: Path, config: Mask2FormerConfig | None = None
) -> ConversionReport:
    """GenEval's detector: OpenMMLab's Mask2Former Swin-S, COCO instances, 2.x or 3.x names.

    Writes transformers' own folder. config: default the "official" preset. Raises ValueError for
    another model's tensors.
    """
    config = config or detector_config("official")
    state, report = from_mmdet(tensors, config)
    report.check()
    model, missing = _model(state, config)
    with _quiet():
        model.save_pretrained(folder)
    return ConversionReport(**{**vars(report), "missing": missing})
