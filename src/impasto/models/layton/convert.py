"""Published Layton checkpoints <-> folders of ours.

`LaCTok-T.pth`, one module's tensors under "model" or "state_dict":

    encoder, quant_conv, post_quant_conv, quantize     LlamaGen's names (`models.llamagen`); ours
                                                       lie under vq
    decoder.unet.base_model.model.X                    X of the adapted UNet, ours under
                                                       decoder.unet; base_layer, lora_A.default and
                                                       lora_B.default as peft names them
    decoder.controlnet.X, vae.X                        the same

Dropped, and made again on the way back:

    quantize.codebook_used (65536)     ids lately used, of the training

The transformer (`LaCTokGen-T.pth`): names are the published ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.models.conversion import shape_of, write_network
from impasto.models.layton.config import SDXL_UNET, SDXL_VAE, TRANSFORMERS, published
from impasto.models.layton.model import LaytonTransformer
from impasto.models.layton.tokenizer import LaytonTokenizer
from impasto.models.llamagen import from_llamagen, to_llamagen
from impasto.models.vq.convert import USED, USED_LENGTH
from impasto.models.vq.convert import tokenizer_sizes as front_sizes
from impasto.zoo.convert import CONVERTERS, PARTS, ConversionReport

__all__ = ["layton", "layton_gen", "official_tokenizer", "official_transformer", "tokenizer_sizes",
           "transformer_sizes"]  # fmt: skip

# ---------------------------------------------------------------- the tokenizer

SOURCE = "LaCToK's official code"
WRAPPED, UNET = "decoder.unet.base_model.model.", "decoder.unet."
COPY, STEM = "decoder.controlnet.", "decoder.controlnet.controlnet_cond_embedding."
HEAD = 64
"""Width of a head in SDXL, and in LlamaGen's models up to 1B; no tensor tells it."""
PARTS |= {"layton": "model"}


def _front(key: str) -> bool:
    return not key.startswith(("decoder.", "vae."))


def ours_of(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors under our names, official key -> ours), of what is kept."""
    front, names = from_llamagen({key: x for key, x in tensors.items() if _front(key)})
    state = {f"vq.{key}": x for key, x in front.items()}
    names = {key: f"vq.{own}" for key, own in names.items()}
    for key in tensors:
        if not _front(key):
            names[key] = UNET + key.removeprefix(WRAPPED) if key.startswith(WRAPPED) else key
            state[names[key]] = tensors[key]
    return state, names


def official_tokenizer(model: LaytonTokenizer) -> dict[str, Tensor]:
    """The published file's tensors, no ids counted as used: the way back."""
    state = model.state_dict()
    front = to_llamagen({key.removeprefix("vq."): x for key, x in state.items()
                         if key.startswith("vq.")})  # fmt: skip
    rest = {key.replace(UNET, WRAPPED) if key.startswith(UNET) else key: x
            for key, x in state.items() if not key.startswith("vq.")}  # fmt: skip
    return {**front, USED: torch.zeros(USED_LENGTH, device=model.device), **rest}


def _run(state: Mapping[str, Tensor], name: str) -> int:
    """How many of the names with 0, 1, ... in the place of {} there are."""
    return sum(1 for _ in takewhile(lambda i: name.format(i) in state, count()))


def _levels(state: Mapping[str, Tensor], blocks: str) -> Iterator[tuple[int, int]]:
    """(width, residual blocks) of each level."""
    for i in range(_run(state, blocks + ".{}.resnets.0.conv1.weight")):
        yield (state[f"{blocks}.{i}.resnets.0.conv1.weight"].shape[0],
               _run(state, f"{blocks}.{i}.resnets.{{}}.conv1.weight"))  # fmt: skip


def _unet_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read off the copy, whose names are those of a plain UNet."""
    levels = list(_levels(state, f"{COPY}down_blocks"))
    widths = tuple(width for width, _ in levels)
    blocks = "attentions.0.transformer_blocks"
    depths = [_run(state, f"{COPY}down_blocks.{i}.{blocks}.{{}}.norm1.weight")
              for i in range(len(levels))]  # fmt: skip
    words = shape_of(state, f"{COPY}mid_block.{blocks}.0.attn2.to_k.weight")
    latent = shape_of(state, f"{COPY}conv_in.weight")[1]
    return SDXL_UNET | {
        "in_channels": latent, "out_channels": latent, "block_out_channels": widths,
        "layers_per_block": levels[0][1], "cross_attention_dim": words[1],
        "down_block_types": tuple("CrossAttnDownBlock2D" if n else "DownBlock2D" for n in depths),
        "up_block_types": tuple("CrossAttnUpBlock2D" if n else "UpBlock2D"
                                for n in reversed(depths)),
        "transformer_layers_per_block": tuple(n or 1 for n in depths),
        "attention_head_dim": tuple(max(1, width // HEAD) for width in widths),
        "projection_class_embeddings_input_dim":
            shape_of(state, f"{COPY}add_embedding.linear_1.weight")[1],
    }  # fmt: skip


def _vae_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    levels = list(_levels(state, "vae.encoder.down_blocks"))
    latent, n = shape_of(state, "vae.decoder.conv_in.weight")[1], len(levels)
    return SDXL_VAE | {
        "down_block_types": ("DownEncoderBlock2D",) * n, "latent_channels": latent,
        "up_block_types": ("UpDecoderBlock2D",) * n, "layers_per_block": levels[0][1],
        "block_out_channels": tuple(width for width, _ in levels),
    }  # fmt: skip


def tokenizer_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """`TokenizerConfig`'s values for tensors under our names. What shapes do not tell is the
    published model's: sizes of pictures, heads, groups, and peft's alpha of 8.

    Raises ValueError for another model's tensors.
    """
    known = published()
    front = {key.removeprefix("vq."): x for key, x in state.items() if key.startswith("vq.")}
    first = shape_of(state, f"{STEM}conv_in.weight")[0]
    later = [shape_of(state, f"{STEM}blocks.{i}.weight")[0]
             for i in range(1, _run(state, f"{STEM}blocks.{{}}.weight"), 2)]  # fmt: skip
    rank = shape_of(state, f"{UNET}mid_block.resnets.0.conv1.lora_A.default.weight")[0]
    return {
        "vq": front_sizes(front), "unet": _unet_sizes(state), "vae": _vae_sizes(state),
        "image": known.image, "images": known.images, "tokens_side": known.tokens_side,
        "sides": known.sides, "stem": (first, *later), "lora_rank": rank,
        "lora_alpha": known.lora_alpha,
    }  # fmt: skip


@CONVERTERS.register("layton")
def layton(tensors: Mapping[str, Tensor], folder: Path) -> ConversionReport:
    """Layton's tokenizer. Raises ValueError for another model's tensors."""
    state, names = ours_of({key: x for key, x in tensors.items() if key != USED})
    return write_network(LaytonTokenizer, tokenizer_sizes(state), state, folder, source=SOURCE,
                         names=names, dropped=[USED] if USED in tensors else [])  # fmt: skip


# ---------------------------------------------------------------- the transformer

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
