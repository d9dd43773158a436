"""Published Layton checkpoints <-> folders of ours.

The transformer (`LaCTokGen-T.pth`): names are the published ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.models.conversion import shape_of, write_network
from impasto.models.layton.config import TRANSFORMERS
from impasto.models.layton.model import LaytonTransformer
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["layton_gen", "official_transformer", "transformer_sizes"]

SOURCE = "Layton's official code"


# ---------------------------------------------------------------- the transformer

HEAD = 64
"""Width of a head in all of LlamaGen's models up to 1B; no tensor tells it."""
PARTS |= {"layton-gen": "model"}


def transformer_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TransformerConfig`'s values; what shapes do not tell (heads, side, eps, theta, dropout) is
    the published model's. Raises ValueError for another model's tensors."""
    vocabulary, width = shape_of(tensors, "tok_embeddings.weight")
    text, text_width = shape_of(tensors, "cls_embedding.uncond_embedding")
    depths = [int(found[1]) for key in tensors if (found := re.match(r"layers\.(\d+)\.", key))]
    return asdict(TRANSFORMERS["xl"]()) | {
        "depth": 1 + max(depths, default=-1), "width": width, "heads": math.ceil(width / HEAD),
        "inside": shape_of(tensors, "layers.0.feed_forward.w1.weight")[0],
        "vocabulary": vocabulary, "text": text, "text_width": text_width,
    }  # fmt: skip


def official_transformer(model: LaytonTransformer) -> dict[str, Tensor]:
    """The published file's tensors: the way back."""
    return dict(model.state_dict())


@CONVERTERS.register("layton-gen")
def layton_gen(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """LaytonGen's transformer. Raises ValueError for another model's tensors."""
    return write_network(LaytonTransformer, transformer_sizes(tensors), tensors, folder,
                         source=SOURCE, names={key: key for key in tensors}, dropped=[]
                         )  # fmt: skip
