"""A tokenizer that starts from another one, or from a trained KL autoencoder of the same widths.

diffusers' `AutoencoderKL` with one block a level is, name for name, the tokenizer's encoder and
decoder with attention in the middle, which is left out; what that costs is learnt again in little
time. Its C latents z become the first C of d features,

    f_c = (z_c - mean_c) reach / (std_c sqrt(d)),

so that codes of length one span them; the other d - C start at random in the encoder and unheard
in the decoder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers.models import AutoencoderKL
from torch import Tensor

from impasto.models.infinity.tokenizer import InfinityTokenizer

__all__ = ["REACH", "from_autoencoder", "from_tokenizer"]

REACH = 2.0
"""Standard deviation of a feature, in units of a code's 1 / sqrt(d): the first scales' codes take
most of it, and the last one's step of one unit decides the rest."""

NAMES = (
    (r"mid_block\.resnets\.0\.", "mid.block_1."), (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.conv", r"down.\1.downsample.conv"),
    (r"conv_norm_out", "norm_out"), (r"conv_shortcut", "nin_shortcut"),
)  # fmt: skip


def _ours(key: str, levels: int) -> str:
    """The tokenizer's name of a parameter of AutoencoderKL."""
    for pattern, name in NAMES:
        key = re.sub(pattern, name, key)
    up = re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers\.0\.conv)", key)
    if up:  # diffusers counts from the coarsest
        part = "block" if up[2] == "resnets" else "upsample.conv"
        key = f"decoder.up.{levels - 1 - int(up[1])}.{part}" + key[up.end() :]
    inner = re.search(r"(conv|norm)[^.]*\.(weight|bias)$|nin_shortcut\.(weight|bias)$", key)
    assert inner, key
    kind = "norm" if inner[0].startswith("norm") else "conv"
    stem, _, last = key.rpartition(".")
    return f"{stem}.{kind}.{last}"


def _plain(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    return {_ours(key, levels): value for key, value in state.items() if ".attentions." not in key}


@torch.no_grad()
def from_autoencoder(
    vae: InfinityTokenizer, source: AutoencoderKL, mean: Tensor, std: Tensor
) -> InfinityTokenizer:
    """`vae` with the weights of `source`; of a decoder with widths of its own none. mean, std:
    (C,) of its latents.

    Raises ValueError where the networks differ in more than the attention, or d < C.
    """
    d, c = vae.config["bits"], source.config["latent_channels"]
    mine, given = vae.state_dict(), _plain(source.state_dict(), len(vae.config["widths"]))
    own = vae.config["decoder_widths"] not in (None, vae.config["widths"])
    if own:
        mine, given = ({key: value for key, value in state.items() if key.startswith("encoder.")}
                       for state in (mine, given))  # fmt: skip
    ends = {"encoder.conv_out.conv.weight", "encoder.conv_out.conv.bias",
            "decoder.conv_in.conv.weight"}  # fmt: skip
    wrong = sorted(key for key in set(mine) | set(given) if key not in ends
                   and (key not in mine or key not in given or mine[key].shape != given[key].shape)
                   )  # fmt: skip
    if wrong or d < c:
        raise ValueError(f"an autoencoder of {c} channels cannot start a tokenizer of {d} bits "
                         f"with other parameters: {wrong[:4]}")  # fmt: skip
    scale = REACH / (std * d**0.5)
    out, bias = given["encoder.conv_out.conv.weight"][:c], given["encoder.conv_out.conv.bias"][:c]
    mine["encoder.conv_out.conv.weight"][:c] = out * scale[:, None, None, None]
    mine["encoder.conv_out.conv.bias"][:c] = (bias - mean) * scale
    for key in set(given) - ends:
        mine[key].copy_(given[key])
    if own:
        return vae
    weight = given["decoder.conv_in.conv.weight"]
    heard = mine["decoder.conv_in.conv.weight"].zero_()
    heard[:, :c] = weight / scale[None, :, None, None]
    mine["decoder.conv_in.conv.bias"] += torch.einsum("ocij,c->o", weight, mean)
    return vae


def from_tokenizer(vae: InfinityTokenizer, source: InfinityTokenizer) -> InfinityTokenizer:
    """`vae` with the encoder of `source`, so with its bits, and its decoder where that is alike.

    Raises ValueError for encoders of other sizes.
    """
    for part in ("encoder", "decoder"):
        mine, given = getattr(vae, part), getattr(source, part).state_dict()
        fits = {k: v.shape for k, v in mine.state_dict().items()} == {
            k: v.shape for k, v in given.items()
        }
        if fits:
            mine.load_state_dict(given)
        elif part == "encoder":
            raise ValueError(f"a tokenizer of {dict(source.config)} cannot start one of "
                             f"{dict(vae.config)}: their encoders differ")  # fmt: skip
    return vae
