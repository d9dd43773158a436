"""LADD: a frozen latent diffusion UNet and a trainable copy of its first half.

    eps   = UNet(z_t, t; skips + s r, middle + s r)           s: conditioning scale, 0.8
    r     = ZeroConv(copy(z_t, C, t))                         a ControlNet, 0 at the start
    C     = unit codes (B, c, h, w) -> nearest neighbour to the latents' size -> stem -> added to
            the copy's first features

The UNet carries a low-rank accelerator, y = W x + (alpha / rank) B A x, that can be switched off;
the copy is made of the UNet without it. The text is zero. Of a zero text all keys and values are
zero (their matrices have no bias), so a cross-attention's output is the bias of its last matrix,
whatever the queries: `lean` adds this and leaves the attention out. It also makes once what does
not change from step to step: the stem's output, and the embedding of the sizes that SDXL is told.
Nothing of this changes a bit.

ControlNet: Zhang et al. 2023 (arXiv 2302.05543). Source: Xie et al. 2025 (arXiv 2503.08377).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn

from impasto.sample.flops import count_flops

__all__ = ["LADD", "TARGETS", "Condition", "Stem", "ZeroText", "noise_of", "size_ids",
           "unet_inputs"]  # fmt: skip

TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
           "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv",
           "time_emb_proj")  # fmt: skip
"""Ends of names of the layers that the accelerator adapts."""
WORDS = 77
"""Places of the text: CLIP's. Of a zero text any number gives the same."""


SILU_GAIN = 1.676
"""1 / sqrt(E silu(x)^2) of a standard normal x: what keeps a signal's size from layer to layer."""


class Stem(nn.Module):
    """Codes at the latents' size (B, c, h, w) -> (B, C, h, w); 3 x 3 convolutions of stride 1.

    What is told is 0 at the start, by the last one. The others begin with weights of standard
    deviation g / sqrt(inputs), by which unit codes reach it at a size of about 1 (He et al. 2015,
    arXiv 1502.01852, with the gain g of SiLU). PyTorch's own start shrinks a signal to a third a
    layer: what told one picture's codes from another's came as 4e-5, and was hardly learnt.
    """

    def __init__(self, channels: int, widths: Sequence[int], outside: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for inside, following in pairwise(widths):
            self.blocks += [nn.Conv2d(inside, inside, 3, padding=1),
                            nn.Conv2d(inside, following, 3, padding=1)]  # fmt: skip
        self.conv_out = nn.Conv2d(widths[-1], outside, 3, padding=1)
        for i, layer in enumerate([self.conv_in, *self.blocks]):
            # The squares of a code's c numbers add up to 1, so each is 1 / c in the mean.
            inputs = layer.weight[0].numel() / (channels if i == 0 else 1)
            nn.init.normal_(layer.weight, std=SILU_GAIN / inputs**0.5)
            nn.init.zeros_(layer.bias)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, C: Tensor) -> Tensor:
        x = F.silu(self.conv_in(C))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ZeroText:
    """A cross-attention of a zero text, as diffusers' attention processors are called."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        last = attn.to_out[0]
        bias = getattr(last, "base_layer", last).bias
        where = hidden_states.device.type
        if where != "meta" and torch.is_autocast_enabled(where):  # the meta device knows none
            bias = bias.to(torch.get_autocast_dtype(where))
        return bias.expand(*hidden_states.shape[:-1], -1)


def size_ids(
    original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int],
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """What SDXL is told about a picture's size, (1, 6): (height, width) before it was cropped, the
    crop's (top, left), (height, width) of what is drawn."""
    return torch.tensor([[*original, *crop, *target]], dtype=torch.float32, device=device)


def _pooled(network: Any) -> int:
    """Width of the pooled text."""
    config = network.config
    return (config["projection_class_embeddings_input_dim"]
            - 6 * config["addition_time_embed_dim"])  # fmt: skip


def told(network: Any, time_ids: Tensor) -> Tensor:
    """The embedding of zero text and sizes (B, 6), as the network makes it of them: (B, D)."""
    dtype, rows = network.conv_in.weight.dtype, len(time_ids)
    times = network.add_time_proj(time_ids.flatten()).reshape(rows, -1)
    text = torch.zeros(rows, _pooled(network), device=times.device, dtype=dtype)
    return network.add_embedding(torch.cat([text, times], dim=-1).to(dtype))


def unet_inputs(network: Any, z: Tensor, time_ids: Tensor) -> dict[str, Any]:
    """The zero text and the sizes, as arguments of diffusers' own calls."""
    zeros, width = z.new_zeros, network.config["cross_attention_dim"]
    added = {"text_embeds": zeros(len(z), _pooled(network)),
             "time_ids": time_ids.expand(len(z), -1)}  # fmt: skip
    return {"encoder_hidden_states": zeros(len(z), WORDS, width), "added_cond_kwargs": added,
            "return_dict": False}  # fmt: skip


def noise_of(unet: UNet2DConditionModel, z: Tensor, t: Tensor | int, time_ids: Tensor) -> Tensor:
    """eps (B, C, h, w) of a UNet by itself, without text. t: a time, or one a row (B,)."""
    return unet(z, t, **unet_inputs(unet, z, time_ids))[0]


class Condition(NamedTuple):
    """What a decoding is given. C: codes (B, c, h, w) at the latents' size. time_ids: (B, 6).
    once: the stem's output (B, C_0, h, w) and the embeddings (B, D) of UNet and copy; None where
    they are made anew at every step."""

    C: Tensor
    time_ids: Tensor
    once: tuple[Tensor, Tensor, Tensor] | None = None


class LADD(nn.Module):
    """unet: of diffusers, which is adapted in place. channels: c of a code. stem: its widths.
    rank, alpha: of the accelerator. All is frozen; `train.learning` says what learns."""

    def __init__(
        self, unet: UNet2DConditionModel, channels: int, stem: Sequence[int], rank: int,
        alpha: float,
    ) -> None:  # fmt: skip
        from peft import LoraConfig  # seconds of imports, for this alone

        super().__init__()
        self.controlnet: Any = ControlNetModel.from_unet(
            unet, conditioning_channels=channels, conditioning_embedding_out_channels=tuple(stem)
        )
        width = self.controlnet.config["block_out_channels"][0]
        self.controlnet.controlnet_cond_embedding = Stem(channels, stem, width)
        self.unet: Any = unet
        self.unet.add_adapter(LoraConfig(r=rank, lora_alpha=alpha,  # type: ignore[arg-type]
                                         target_modules=list(TARGETS)))  # fmt: skip
        self.requires_grad_(False)
        self._plain = [dict(net.attn_processors) for net in (self.unet, self.controlnet)]
        self.merged = False
        self.use_lean(True)

    # ---------------------------------------------------------------- weights

    @property
    def adapters(self) -> list[nn.Parameter]:
        """The accelerator's matrices."""
        return [p for name, p in self.unet.named_parameters() if ".lora_" in name]

    def base_name(self, name: str) -> str:
        """Where a tensor of the plain UNet lies in the adapted one."""
        layer, _, kind = name.rpartition(".")
        adapted = hasattr(self.unet.get_submodule(layer), "base_layer")
        return f"{layer}.base_layer.{kind}" if adapted else name

    @torch.no_grad()
    def start_from(self, base: Mapping[str, Tensor]) -> None:
        """Take a plain UNet's weights, for the frozen UNet and, as a start, for the copy; zero
        convolutions and stem stay as they are.

        Raises ValueError for weights of another UNet.
        """
        state = {self.base_name(name): tensor for name, tensor in base.items()}
        wanted = {name for name in self.unet.state_dict() if ".lora_" not in name}
        if wanted != set(state):
            raise ValueError(f"these are another UNet's weights: {len(wanted - set(state))} are "
                             f"missing, {len(set(state) - wanted)} left over")  # fmt: skip
        self.unet.load_state_dict(state, strict=False)
        own = self.controlnet.state_dict()
        self.controlnet.load_state_dict({k: v for k, v in base.items() if k in own}, strict=False)

    # ---------------------------------------------------------------- switches

    def use_lean(self, on: bool) -> None:
        """Whether what zero text and constant conditions make needless is left out."""
        self.lean = on
        for net, plain in zip((self.unet, self.controlnet), self._plain, strict=True):
            net.set_attn_processor({name: ZeroText() if on and ".attn2." in name else own
                                    for name, own in plain.items()})  # fmt: skip

    def _layers(self) -> list[Any]:
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [layer for layer in self.unet.modules() if isinstance(layer, BaseTunerLayer)]

    @contextlib.contextmanager
    def accelerated(self, on: bool) -> Iterator[None]:
        """The accelerator on or off for the block. Raises ValueError where it is merged."""
        layers = self._layers()
        if not on and self.merged:
            raise ValueError("the accelerator is merged into the UNet and cannot be switched off; "
                             "load the tokenizer again")  # fmt: skip
        before = [layer.disable_adapters for layer in layers]
        learning = [(p, p.requires_grad) for p in self.adapters]
        # Switching sets whether adapters learn, which is not its business.
        try:
            for layer in layers:
                layer.enable_adapters(on)
            _restore(learning)
            yield
        finally:
            for layer, off in zip(layers, before, strict=True):
                layer.enable_adapters(not off)
            _restore(learning)

    def merge(self) -> None:
        """Add the accelerator into the UNet's own matrices: faster, equal but for rounding, and
        for good; such a tokenizer is not saved."""
        if not self.merged:
            for layer in self._layers():
                layer.merge()
        self.merged = True

    # ---------------------------------------------------------------- the networks

    def condition(self, C: Tensor, time_ids: Tensor, size: tuple[int, int]) -> Condition:
        """Of codes (B, c, h, w) and sizes (1 or B, 6), for latents of `size`."""
        # In one layout: convolutions round differently in another, and a row must not.
        large = F.interpolate(C.float().contiguous(), size, mode="nearest").to(self.unet.dtype)
        ids = time_ids.to(large.device).expand(len(C), -1)
        if not self.lean:
            return Condition(large, ids)
        hint = self.controlnet.controlnet_cond_embedding(large)
        return Condition(large, ids, (hint, told(self.unet, ids), told(self.controlnet, ids)))

    def once_flops(self, C: Tensor) -> tuple[int, Condition]:
        """FLOPs of `condition` for codes (1, c, h, w) at the latents' size on the meta device, and
        what it would give, without values."""
        ids = C.new_empty(1, 6, dtype=torch.float32)
        if not self.lean:
            return 0, Condition(C, ids)
        first = self.controlnet.conv_in.out_channels
        told = C.new_empty(1, self.unet.time_embedding.linear_2.out_features)
        stem = count_flops(self.controlnet.controlnet_cond_embedding, C)
        return stem, Condition(C, ids, (C.new_empty(1, first, *C.shape[2:]), told, told))

    def forward(
        self, z: Tensor, t: Tensor | int, condition: Condition, scale: float = 0.8
    ) -> Tensor:
        """eps (B, C, h, w) of latents z. t: a time, or one a row (B,)."""
        z = z.to(self.unet.dtype)
        if condition.once is None:
            return self._plain_call(z, t, condition, scale).float()
        (hint, told_unet, told_copy), t = condition.once, torch.as_tensor(t, device=z.device)
        x = self.controlnet.conv_in(z) + hint
        skips, x, _ = _descend(self.controlnet, x, t, told_copy)
        r = [conv(own) * scale
             for conv, own in zip(self.controlnet.controlnet_down_blocks, skips, strict=True)]
        r_middle = self.controlnet.controlnet_mid_block(x) * scale
        skips, x, emb = _descend(self.unet, self.unet.conv_in(z), t, told_unet)
        skips = [own + more for own, more in zip(skips, r, strict=True)]
        return _ascend(self.unet, x + r_middle, skips, emb).float()

    def _plain_call(
        self, z: Tensor, t: Tensor | int, condition: Condition, scale: float
    ) -> Tensor:
        inputs = unet_inputs(self.unet, z, condition.time_ids)
        down, middle = self.controlnet(z, t, controlnet_cond=condition.C,
                                       conditioning_scale=scale, **inputs)  # fmt: skip
        return self.unet(z, t, down_block_additional_residuals=down,
                         mid_block_additional_residual=middle, **inputs)[0]  # fmt: skip


def _restore(learning: Sequence[tuple[nn.Parameter, bool]]) -> None:
    for parameter, on in learning:
        parameter.requires_grad_(on)


def _descend(
    network: Any, x: Tensor, t: Tensor, added: Tensor
) -> tuple[list[Tensor], Tensor, Tensor]:
    """(skips, middle, embedding of the time) of a UNet or its copy, as diffusers makes them."""
    times = network.time_proj(t.expand(len(x))).to(x.dtype)
    emb = network.time_embedding(times) + added
    skips = [x]
    for block in network.down_blocks:
        x, own = block(hidden_states=x, temb=emb)
        skips += own
    return skips, network.mid_block(x, emb), emb


def _ascend(network: Any, x: Tensor, skips: list[Tensor], emb: Tensor) -> Tensor:
    for block in network.up_blocks:
        n = len(block.resnets)
        own, skips = tuple(skips[-n:]), skips[:-n]
        x = block(hidden_states=x, temb=emb, res_hidden_states_tuple=own)
    return network.conv_out(network.conv_act(network.conv_norm_out(x)))
