"""GenEval's colour classifier: which of ten colours has this object?

    crop     the object's mask on #999, cut to its box, shorter side resized (bicubic,
             antialiased), centre square
    w_c      = normalise( mean over templates t of g(t(c, class)) )
    colour   = argmax_c <f(crop), w_c>
    share_c  = softmax_c( scale <f(crop), w_c> )        scale: the model's own, 100 for OpenAI's

f, g: CLIP's L2-normalised features. Resizing is Pillow's on 8 bits and the centre is
torchvision's, as in the official script (Ghosh et al. 2023, `evaluate_images.py`), where the
model is CLIP ViT-L/14 at 224 px; the sticker CLIP is the same class of model, at 96 px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from impasto.score.base import Found
from impasto.score.clip import Normalisation, image_features, text_features, token_ids
from impasto.score.crop import GREY, color_crop, color_crops
from impasto.spec import COLORS

__all__ = ["GREY", "TEMPLATES", "ClipColorClassifier", "color_crop"]

TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}",
             "a photo of a {color} object")  # fmt: skip
Crop = tuple[Tensor, Found]
"""A picture (3, H, W) in [0, 1], and the object in it."""


class ClipColorClassifier:
    """One of `COLORS` for each object, by a CLIP model.

    size: side of the model's input in pixels, default its config's. normalisation: of its
    training, default 2 x - 1. The text columns are computed once per class.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: PreTrainedTokenizerFast, size: int | None = None,
        normalisation: Normalisation | None = None,
    ) -> None:  # fmt: skip
        self.model, self.tokenizer = model.eval(), tokenizer
        self.size: int = size or model.config.vision_config.image_size
        self.normalisation = normalisation or Normalisation()
        self._columns: dict[str, Tensor] = {}

    def columns(self, classes: Iterable[str]) -> dict[str, Tensor]:
        """Class -> (10, D) normalised text columns, one per colour."""
        new = [cls for cls in dict.fromkeys(classes) if cls not in self._columns]
        if new:
            texts = [template.format(color=color, cls=cls)
                     for cls in new for color in COLORS for template in TEMPLATES]  # fmt: skip
            features = text_features(self.model, token_ids(self.tokenizer, texts))
            means = features.unflatten(0, (len(new), len(COLORS), len(TEMPLATES))).mean(2)
            self._columns |= zip(new, F.normalize(means, dim=-1), strict=True)
        return self._columns

    def classify(self, crops: Sequence[Crop]) -> list[str]:
        """The colour of each object; all pictures' objects go through the model together."""
        return [COLORS[row.index(max(row))] for row in self.shares(crops)]

    @torch.inference_mode()
    def shares(self, crops: Sequence[Crop]) -> list[tuple[float, ...]]:
        """The probabilities of the ten colours for each object, in `COLORS`' order."""
        if not crops:
            return []
        seen = image_features(self.model, self.normalisation(color_crops(crops, self.size)))
        columns = self.columns(found.cls for _, found in crops)
        table = torch.stack([columns[found.cls] for _, found in crops])
        cosines = torch.einsum("nd,ncd->nc", seen, table).double()
        scale = self.model.logit_scale.exp().double().cpu()
        return [tuple(row) for row in (scale * cosines).softmax(-1).tolist()]
