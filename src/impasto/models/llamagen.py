"""LlamaGen's names of `models.convolutional`'s weights, which TokenFlow's and Layton's files have
too.

    conv_blocks.i.res.j   <-> down.i.block.j in an encoder; up.(L - 1 - i).block.j in a decoder,
                              whose blocks are named in the order in which they run
    conv_blocks.i.attn.j.{q, k, v} <-> ….attn.j.qkv, one matrix of three times as many rows
    mid.0, mid.1, mid.2   <-> mid.block_1, mid.attn_1, mid.block_2
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["from_llamagen", "llamagen_sizes", "to_llamagen"]

PARTS = "encoder", "decoder"
MIDDLE = {"0": "block_1", "1": "attn_1", "2": "block_2"}
QKV = re.compile(r"(.*(?:attn\.\d+|attn_1|mid\.1))\.([qkv])\.(weight|bias)$")
BLOCK = re.compile(r"conv_blocks\.(\d+)\.(res|attn|downsample|upsample)\.")


def _levels(keys: Mapping[str, Tensor], part: str) -> int:
    """Levels of an encoder or decoder, by either's names."""
    found = [re.match(rf"{part}\.(?:conv_blocks|down|up)\.(\d+)\.", key) for key in keys]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _ours(key: str, part: str, levels: int) -> str:
    """Our name of a tensor of `part`, but for q, k, v."""
    def block(match: re.Match[str]) -> str:
        i = int(match[1]) if part == "encoder" else levels - 1 - int(match[1])
        kind = {"res": "block"}.get(match[2], match[2])
        return f"{'down' if part == 'encoder' else 'up'}.{i}.{kind}."

    key = BLOCK.sub(block, key)
    return re.sub(r"\.mid\.([012])\.", lambda match: f".mid.{MIDDLE[match[1]]}.", key)


def from_llamagen(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors under our names, LlamaGen's key -> ours); what is of neither part keeps its name.

    q, k and v of an attention become one; where one of them is missing, the others keep their
    names, and so are left over.
    """
    levels = {part: _levels(state, part) for part in PARTS}
    ours: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for key in state:
        part = key.partition(".")[0]
        named = _ours(key, part, levels[part]) if part in PARTS else key
        match = QKV.match(named) if part in PARTS else None
        own = [re.sub(r"\.[qkv]\.(weight|bias)$", rf".{x}.\1", key) for x in "qkv"]
        if match and all(x in state for x in own):
            names[key] = f"{match[1]}.qkv.{match[3]}"
            if match[2] == "q":
                ours[names[key]] = torch.cat([state[x] for x in own])
        else:
            names[key] = named
            ours[named] = state[key]
    return ours, names


def to_llamagen(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The way back."""
    levels = {part: _levels(state, part) for part in PARTS}
    out: dict[str, Tensor] = {}
    for key, tensor in state.items():
        part = key.partition(".")[0]
        named = _theirs(key, part, levels[part]) if part in PARTS else key
        if part in PARTS and ".qkv." in named:
            for x, own in zip("qkv", tensor.chunk(3), strict=True):
                out[named.replace(".qkv.", f".{x}.")] = own
        else:
            out[named] = tensor
    return out


def _theirs(key: str, part: str, levels: int) -> str:
    def block(match: re.Match[str]) -> str:
        i = int(match[2]) if match[1] == "down" else levels - 1 - int(match[2])
        return f"conv_blocks.{i}.{ {'block': 'res'}.get(match[3], match[3]) }."

    key = re.sub(r"(down|up)\.(\d+)\.(block|attn|downsample|upsample)\.", block, key)
    back = {own: number for number, own in MIDDLE.items()}
    return re.sub(r"\.mid\.(\w+?)\.", lambda match: f".mid.{back[match[1]]}.", key)


def llamagen_sizes(ours: Mapping[str, Tensor], part: str = "encoder") -> dict[str, object]:
    """widths and blocks of a part, of tensors under our names; a decoder has one block more."""
    side = "down" if part == "encoder" else "up"
    widths: list[int] = []
    while (key := f"{part}.{side}.{len(widths)}.block.0.conv2.weight") in ours:
        widths.append(ours[key].shape[0])
    blocks = 0
    while f"{part}.{side}.0.block.{blocks}.conv1.weight" in ours:
        blocks += 1
    return {"widths": tuple(widths), "blocks": blocks - (part == "decoder")}
