"""GenEval's own judges at full size, without mmdetection: Mask2Former Swin-S and CLIP ViT-L/14.

    mode      detector                                arithmetic        labelled official
    official  OpenMMLab's, from `impasto convert`     float32           if its file and CLIP are
    hf        Meta's of the hub: the same network     float32           never
              with other weights, other scores
    fast      either                                  bfloat16, TF32    never

float32 is without TF32 in torch's sense; on a GPU with Triton, products of linear layers are sums
of three TF32 products, which are as exact as float32's (`score.products`).

Pictures enter and masks leave as in mmdetection 2.x (`score.mmdetection`); colours are CLIP's
(`score.color`) with QuickGELU, without which OpenAI's weights compute something else: open_clip
2.29 to 3.3 builds "ViT-L-14, openai" with plain GELU and only warns.

The official script runs CLIP under float16 autocast; here it is float32. Source: Ghosh et al.
2023, `evaluate_images.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from impasto.score.base import Found, Seen
from impasto.score.geneval import Details, GenEvalScorer, Rule, T
from impasto.score.switches import has_kernels, split_products
from impasto.score.verdict import Thresholds
from impasto.spec import Spec
from impasto.zoo.registry import SCORERS

if TYPE_CHECKING:
    from impasto.score.color import ClipColorClassifier
    from impasto.score.detector import Mask2FormerDetector

__all__ = ["MODES", "OfficialScorer", "Precision", "exact_float32", "fast_bfloat16", "geneval",
           "split_float32"]  # fmt: skip

MODES = ("official", "hf", "fast")
Precision = Callable[[], AbstractContextManager[None]]
"""Makes the context in which the networks run."""


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """float32 products of a GPU in TF32, or not; as it was afterwards."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    now = cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    before = matmul.fp32_precision == "tf32", now == "tf32"

    def put(products: bool, convolutions: bool) -> None:
        torch.set_float32_matmul_precision("high" if products else "highest")
        cudnn.allow_tf32 = convolutions

    put(allowed, allowed)
    try:
        yield
    finally:
        put(*before)


def exact_float32() -> AbstractContextManager[None]:
    """float32 without TF32: the arithmetic of scores that are compared."""
    return _tf32(False)


@contextmanager
def split_float32() -> Iterator[None]:
    """`exact_float32`, with linear layers of lean networks by `score.products` on a GPU."""
    with _tf32(False), split_products():
        yield


def fast_bfloat16(device: str) -> Precision:
    """bfloat16 where autocast deems it safe on `device`, TF32 elsewhere."""

    @contextmanager
    def context() -> Iterator[None]:
        with _tf32(True), torch.autocast(torch.device(device).type, torch.bfloat16):
            yield

    return context


class OfficialScorer(GenEvalScorer):
    """GenEval's verdict by networks of full size.

    precision: of the networks, default float32 without TF32. record: for the provenance.
    """

    detector: Mask2FormerDetector
    colors: ClipColorClassifier

    def __init__(
        self, detector: Mask2FormerDetector, colors: ClipColorClassifier, *,
        precision: Precision | None = None, record: Mapping[str, Any] | None = None,
        thresholds: Thresholds | None = None, weights: Mapping[str, str] | None = None,
        details: Details = "all",
    ) -> None:  # fmt: skip
        super().__init__(detector, colors, thresholds, name="geneval", weights=weights,
                         details=details)  # fmt: skip
        self.precision = precision or exact_float32
        self.record = dict(record or {})

    def _batch(
        self, images: Tensor, specs: Sequence[Spec], rule: Rule[T]
    ) -> list[tuple[T, tuple[Seen, ...]]]:
        with self.precision():
            return super()._batch(images, specs, rule)

    def _detected(
        self, images: Tensor, specs: Sequence[Spec]
    ) -> tuple[list[list[Found]], Sequence[Tensor] | Tensor]:
        """On a GPU, pictures go up once for detector and crops, a part while another is seen."""
        device = self.detector.device
        if device.type != "cuda" or images.is_cuda:
            return super()._detected(images, specs)
        there: list[Tensor] = []

        def parts() -> Iterator[Tensor]:
            for part in images.split(self.detector.batch):
                up = part.pin_memory().to(device, non_blocking=True)
                there.extend(up)
                yield up

        return self.detector.detect_parts(parts(), self._hints(specs)), there

    def self_test(self) -> None:
        """Are both networks trained? `score.trained` says what that can and cannot find.

        Raises ScorerBroken.
        """
        from impasto.score.trained import check_colors, check_detector, check_norms

        check_norms(self.detector.model, "the detector")
        check_norms(self.colors.model, "CLIP")
        with self.precision():
            check_detector(self.detector)
            check_colors(self.colors)

    def provenance(self) -> dict[str, Any]:
        steps = {
            "detector": "mmdetection 2.x: short side 800, long side at most 1333, OpenCV's 8-bit "
                        "bilinear arithmetic in torch, padded to 32 by 128 before normalisation",
            "colors": f"mask on #999, box, bicubic, centre square of {self.colors.size}, "
                      "OpenAI's mean and deviation",
        }  # fmt: skip
        return super().provenance() | self.record | {"preprocessing": steps,
                                                     "details": self.details}  # fmt: skip


@SCORERS.register("geneval")
def geneval(
    *, detector: str | None = None, clip: str | None = None, mode: str = "official",
    batch: int | None = None, details: Details = "all", device: str = "cpu",
) -> OfficialScorer:  # fmt: skip
    """GenEval at full size: Mask2Former and CLIP ViT-L/14 (detector=FOLDER,clip=FOLDER).

    detector, clip: folders or hub ids. mode: official, hf or fast. batch: pictures in one pass of
    the detector. details: objects in the results, of "all" classes as the official script's or
    "asked" for. Raises ValueError for weights that are not what the mode promises.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r} of scorer 'geneval'; allowed: {', '.join(MODES)}")
    if details not in ("all", "asked"):
        raise ValueError(f"unknown details {details!r} of scorer 'geneval'; allowed: all, asked")
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ValueError(f"batch must be a whole number from 1 on, given {batch!r}")
    from impasto.score.official_load import load_colors, load_detector

    finder, found = load_detector(detector, mode, device, batch)
    colors, clip_part = load_colors(clip, mode, device)
    strange = [*(() if mode == "official" else (f"mode is {mode}",)), *found.strange,
               *clip_part.strange]  # fmt: skip
    if strange and mode == "official":
        warnings.warn(f"scores will not be labelled official: {'; '.join(strange)}", stacklevel=2)
    fast, split = mode == "fast", has_kernels(device)
    told = "bfloat16 and TF32" if fast else "float32, TF32 off" + (
        "; linear layers as three TF32 products, to 2^-22" if split else "")  # fmt: skip
    return OfficialScorer(
        finder, colors, details=details,
        precision=fast_bfloat16(device) if fast else split_float32,
        weights={"detector": found.sha256, "clip": clip_part.sha256},
        record={"mode": mode, "official": not strange, "not_official_because": strange,
                "precision": told, "conversion": dict(found.record)},
    )  # fmt: skip
