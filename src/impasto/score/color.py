"""GenEval's colour classifier: which of ten colours has this object?

    crop     the object's mask on #999, cut to its box, shorter side resized (bicubic,
             antialiased), centre square
    w_c      = normalise( mean over templates t of g(t(c, class)) )
    colour   = argmax_c <f(crop), w_c>

f, g: CLIP's L2-normalised features. Resizing is Pillow's on 8 bits and the centre is
torchvision's, as in the official script (Ghosh et al. 2023, `evaluate_images.py`), where the
model is CLIP ViT-L/14 at 224 px; the sticker CLIP is the same class of model, at 96 px.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerFast

from impasto.images import from_pil, to_pil
from impasto.score.base import Found
from impasto.score.clip import Normalisation, image_features, text_features, token_ids
from impasto.spec import COLORS

__all__ = ["GREY", "TEMPLATES", "ClipColorClassifier", "color_crop"]

TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}",
             "a photo of a {color} object")  # fmt: skip
GREY = 0.6
"""#999, what is not the object."""

Crop = tuple[Tensor, Found]
"""A picture (3, H, W) in [0, 1], and the object in it."""


def _pixels(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Corners as Pillow's crop rounds them, at least one pixel wide and high."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    """torchvision's Resize(size, bicubic) and CenterCrop(size) of a PIL image."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)),
                         Image.Resampling.BICUBIC)  # fmt: skip
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def color_crop(image: Tensor, found: Found, size: int) -> Tensor:
    """(3, size, size) in [0, 1]: the object on grey, as the classifier looks at it.

    image: (3, H, W) in [0, 1]. Long thin objects lose their ends. Raises ValueError when the mask
    has another size than the picture.
    """
    if found.mask is None:
        raise ValueError(f"the {found.cls!r} has no mask, which its colour needs; ask the "
                         f"detector for masks of this class")  # fmt: skip
    if found.mask.shape != image.shape[-2:]:
        raise ValueError(f"the mask of {found.cls!r} is {tuple(found.mask.shape)}, its picture "
                         f"{tuple(image.shape[-2:])}; masks have the picture's size")  # fmt: skip
    x1, y1, x2, y2 = _pixels(found.box)
    # Cut before compositing: the same pixels, without touching the rest of a large picture.
    left, top = max(x1, 0), max(y1, 0)
    region = slice(top, max(y2, top)), slice(left, max(x2, left))
    cut, mask = image[:, *region].cpu(), found.mask[region].cpu()
    on_grey = to_pil(torch.where(mask, cut, torch.full_like(cut, GREY)))
    return from_pil(_centre_square(on_grey.crop((x1 - left, y1 - top, x2 - left, y2 - top)),
                                   size))  # fmt: skip


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
        if not crops:
            return []
        cut = torch.stack([color_crop(image, found, self.size) for image, found in crops])
        seen = image_features(self.model, self.normalisation(cut))
        columns = self.columns(found.cls for _, found in crops)
        table = torch.stack([columns[found.cls] for _, found in crops])
        best = torch.einsum("nd,ncd->nc", seen, table).argmax(-1)
        return [COLORS[i] for i in best.tolist()]
