"""Layton's tokenizer: codes of a small copy of a picture, decoded to the whole picture.

    ids     = nearest codes of the front's features of the picture, shrunk to tokens_side pixels
    C       = the codes, unit vectors (B, c, h, w)
    z       = the decoder's sampler on C at the size of the picture's latents     `decoder.LADD`
    picture = autoencoder's decoder(z)

The number of tokens depends on tokens_side alone, the latents and what the UNet is told of sizes
on the picture's. Everything above the copy's resolution is the decoder's invention. A picture
depends on its ids and a seed; without one the seed is made from the ids, so equal ids give equal
pictures. Source: Xie et al. 2025 (arXiv 2503.08377).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from diffusers.models import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from impasto.models.discrete import DiscreteTokenizer
from impasto.models.layton.config import TokenizerConfig
from impasto.models.layton.decoder import LADD, Condition, size_ids
from impasto.models.layton.folder import load_parts, read_config, save_parts
from impasto.models.layton.sampler import DECODINGS, Decoding, Noise, drawn, own_noise
from impasto.models.next_scale.maps import Sizes, from_tokens
from impasto.models.vq import VQTokenizer
from impasto.sample.flops import count_flops
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import check_seeds

__all__ = ["LaytonTokenizer", "ids_seed"]


def ids_seed(ids: Tensor) -> int:
    """The seed of a picture that is given none: made from its ids (n,)."""
    text = ",".join(map(str, ids.tolist()))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


class LaytonTokenizer(DiscreteTokenizer):
    """Pictures of `images` pixels a side <-> ids of one map; see `config.TokenizerConfig` for the
    arguments. vq, vae: the frozen parts. decoder: a `LADD`. image, tokens_side, decoding: see
    `settle`; at first decoding is what the folder records (`record`), or else as published."""

    image: int
    tokens_side: int
    decoding: Decoding

    ignore_for_config = ("vq", "unet", "vae", "stem", "lora_rank", "lora_alpha")
    """Are in the parts' own configs (`folder`)."""

    @register_to_config
    def __init__(
        self, *, vq: Mapping[str, Any], unet: Mapping[str, Any], vae: Mapping[str, Any],
        image: int, images: Sequence[int], tokens_side: int, sides: Sequence[int],
        stem: Sequence[int] = (8, 32, 96, 256), lora_rank: int = 64, lora_alpha: float = 8.0,
        latent_mean: Sequence[float] | None = None, latent_std: Sequence[float] | None = None,
        decoding: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._read_by(vq)
        self.vae = AutoencoderKL(**vae)
        self.decoder = LADD(UNet2DConditionModel(**unet), self.channels, stem, lora_rank,
                            lora_alpha)  # fmt: skip
        self.latent_factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        self._check()
        self.images, self.sides = tuple(images), tuple(sides)
        own = DECODINGS["tlcm"] if decoding is None else Decoding.from_dict(decoding)
        self.settle(image=image, tokens_side=tokens_side, decoding=own)
        self.requires_grad_(False)

    def _read_by(self, config: Mapping[str, Any]) -> None:
        """A front of these sizes, with random weights."""
        self.vq = VQTokenizer(**config)
        # Pictures are decoded by other means; the published file has no such decoder either.
        del self.vq.decoder
        self.vocabulary, self.channels = self.vq.vocabulary, self.vq.channels

    def _check(self) -> None:
        """Raises ValueError for sizes and moments that do not go together."""
        halvings, own = len(self.decoder.unet.config["block_out_channels"]) - 1, self.config
        for name, every, unit in (
            ("image", own["images"], self.latent_factor * 2**halvings),
            ("tokens_side", own["sides"], self.vq.factor),
        ):
            if own[name] not in every or any(side % unit or side < unit for side in every):
                raise ValueError(f"{name} must be one of {list(every)} pixels, all multiples of "
                                 f"{unit}, given {own[name]}")  # fmt: skip
        channels = self.vae.config["latent_channels"]
        moments = [own["latent_mean"], own["latent_std"]]
        if moments != [None, None] and any(v is None or len(v) != channels for v in moments):
            raise ValueError(f"latent_mean and latent_std have {channels} values each, or neither "
                             f"is given; given {moments}")  # fmt: skip

    @classmethod
    def assemble(
        cls, config: TokenizerConfig, *, vq: VQTokenizer, vae: AutoencoderKL,
        unet: UNet2DConditionModel, **changes: Any,
    ) -> LaytonTokenizer:  # fmt: skip
        """A decoder to be trained, of trained parts, which are copied; their sizes are their own.

        changes: of `config`, as latent_mean and latent_std.
        """
        made = cls(**_values(config) | changes | {"vq": dict(vq.config), "vae": dict(vae.config),
                                                  "unet": dict(unet.config)})  # fmt: skip
        made.take_front(vq)
        made.vae.load_state_dict(vae.state_dict())
        made.decoder.start_from(unet.state_dict())
        return made.eval()

    def take_front(self, vq: VQTokenizer) -> None:
        """Have copies read by this front, which is copied, from now on. Raises ValueError for one
        whose codes have other channels, or that cannot read copies of `sides`."""
        if vq.channels != self.channels:
            raise ValueError(f"the decoder is told codes of {self.channels} channels, and this "
                             f"front's have {vq.channels}")  # fmt: skip
        if any(side % vq.factor for side in self.sides):
            raise ValueError(f"this front reads {vq.factor} px a token, and copies have "
                             f"{list(self.sides)} px a side")  # fmt: skip
        place = self.device, self.dtype  # of the first network, which is now another
        self._read_by(dict(vq.config))
        self.vq.load_state_dict({key: tensor for key, tensor in vq.state_dict().items()
                                 if not key.startswith("decoder.")})  # fmt: skip
        # Not diffusers' own `to`: it warns of modules to keep in float32 even when there are none.
        nn.Module.to(self.vq, *place).requires_grad_(False).eval()
        self.settle()

    # ---------------------------------------------------------------- parts

    def save_parts(self, folder: str | Path, formats: Mapping[str, str] | str = "float32") -> None:
        """Write the folder. formats: one of `zoo.weights.FORMATS` for all, or one a part of
        `folder.PARTS`. Raises ValueError for a tokenizer whose accelerator is merged."""
        save_parts(self, Path(folder), formats)

    @classmethod
    def from_parts(cls, folder: str | Path) -> Self:
        """A folder that `save_parts` wrote. Raises FileNotFoundError or ValueError for what is
        missing or does not fit."""
        made = cls(**read_config(Path(folder)))
        load_parts(made, Path(folder))
        return made.eval()

    @property
    def token_parts(self) -> tuple[nn.Module, ...]:
        return self.vq.token_parts

    def settle(
        self, *, image: int | None = None, tokens_side: int | None = None,
        decoding: Decoding | None = None,
    ) -> None:  # fmt: skip
        """Set what is used where a call names nothing else. Raises ValueError for sizes that are
        not among `images` and `sides`."""
        if image is not None:
            self.latent_size(image, image)
            self.image = image
        if tokens_side is not None:
            self.sizes_of_side(tokens_side)
            self.tokens_side = tokens_side
        self.decoding = decoding or self.decoding
        # Whole pixels of it: 1024 px by 18 x 18 places have 56.9.
        self.factor = self.image * self.vq.factor // self.tokens_side

    def record(self, decoding: Decoding) -> None:
        """Settle on what the decoder was trained to be decoded by, for good: its folder says so.
        (A copy that learnt pixels through one step knows no other.)"""
        self.settle(decoding=decoding)
        self.register_to_config(decoding=asdict(decoding))

    def pixels_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Of any map: as large as it is asked to decode."""
        return self.image, self.image

    @property
    def settings(self) -> dict[str, Any]:
        return {"image": self.image, "tokens_side": self.tokens_side,
                "decoding": asdict(self.decoding)}  # fmt: skip

    def use_lean(self, on: bool) -> None:
        """See `LADD.use_lean`: on unless it is switched off, and of no effect on any bit."""
        self.decoder.use_lean(on)

    # ---------------------------------------------------------------- pictures to ids

    def sizes_of_side(self, side: int) -> Sizes:
        """The map of a copy of so many pixels. Raises ValueError for none of `sides`."""
        if side not in self.sides:
            raise ValueError(f"tokens are read off a copy of {', '.join(map(str, self.sides))} "
                             f"pixels a side, given {side}")  # fmt: skip
        return self.vq.sizes_of(side, side)

    def _side_of(self, sizes: Sizes | None) -> int:
        if sizes is None:
            return self.tokens_side
        known = {self.sizes_of_side(side): side for side in self.sides}
        if sizes not in known:
            maps = ", ".join(str(own[0]) for own in known)
            raise ValueError(f"there is one map, of {maps}; given {sizes}")
        return known[sizes]

    def sizes_of(self, height: int, width: int) -> Sizes:
        self.latent_size(height, width)
        return self.sizes_of_side(self.tokens_side)

    def features(self, images: Tensor, side: int | None = None) -> Tensor:
        """side: pixels of the copy; None for `tokens_side`."""
        self.latent_size(images.shape[2], images.shape[3])
        side = self.tokens_side if side is None else side
        small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
        return self.vq.features(small)

    @torch.no_grad()
    def encode(self, images: Tensor, sizes: Sizes | None = None) -> list[Tensor]:
        """sizes: the map of another copy, of `sizes_of_side`; None for that of `tokens_side`."""
        return [self.vq.quantize.nearest(self.features(images, self._side_of(sizes)))]

    # ---------------------------------------------------------------- pictures and latents

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Raises ValueError for pictures that are no square of one of `images`."""
        if height != width or height not in self.images:
            allowed = ", ".join(f"{side} x {side}" for side in self.images)
            raise ValueError(f"this tokenizer takes pictures of {allowed} pixels, not "
                             f"{width} x {height}; resize or crop them")  # fmt: skip
        return height // self.latent_factor, width // self.latent_factor

    def _moments(self) -> tuple[Tensor, Tensor]:
        values = (self.config["latent_mean"], self.config["latent_std"])
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in values)
        return mean, std

    def latents(self, images: Tensor) -> Tensor:
        """z_0 (B, C, h, w), float32, of pictures in [0, 1]: the posterior's mode, normalised."""
        z = self.vae.encode((2 * images - 1).to(self.vae.dtype)).latent_dist.mode().float()
        if self.config["latent_mean"] is None:
            return z * self.vae.config["scaling_factor"]
        mean, std = self._moments()
        return (z - mean) / std

    def pixels(self, z_0: Tensor) -> Tensor:
        """(B, 3, H, W), float32, about [-1, 1], of normalised latents."""
        if self.config["latent_mean"] is None:
            z = z_0 / self.vae.config["scaling_factor"]
        else:
            mean, std = self._moments()
            z = z_0 * std + mean
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()

    # ---------------------------------------------------------------- ids to pictures

    def codes(self, ids: Tensor) -> Tensor:
        return self.vq.codes(ids)

    def features_of(self, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
        self._side_of(sizes)
        return from_tokens(self.codes(ids[0]), sizes[0])

    def decode_tokens(
        self, ids: Sequence[Tensor], sizes: Sizes, *, seeds: Sequence[int] | None = None,
        decoding: Decoding | None = None, image: int | None = None,
    ) -> Tensor:  # fmt: skip
        """As `DiscreteTokenizer.decode_tokens`. seeds: one a row, None for those made from the
        ids. decoding: None for `self.decoding`. image: pixels a side, None for the default."""
        self.check_ids(ids, sizes)
        seeds = [ids_seed(row) for row in ids[0]] if seeds is None else seeds
        z = self.features_of(ids, sizes)
        y = self.picture(z, seeds=seeds, decoding=decoding, image=image)
        return (y / 2 + 0.5).clamp(0, 1)

    def picture(
        self, z: Tensor, *, seeds: Sequence[int] | None = None, decoding: Decoding | None = None,
        image: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Codes C (B, c, h, w) as a picture, clipped to [-1, 1]; the arguments are
        `decode_tokens`'."""
        x_0 = self.sample(z, seeds=seeds, decoding=decoding, image=image)
        return in_rows(lambda at: self.pixels(x_0[at]), len(x_0), self._rows).clamp(-1, 1)

    def condition(self, C: Tensor, decoding: Decoding | None = None, image: int | None = None
                  ) -> Condition:  # fmt: skip
        """What the decoder is given at every step for codes (B, c, h, w)."""
        decoding, side = decoding or self.decoding, image or self.image
        size = (side, side)
        ids = size_ids(decoding.original or size, decoding.crop, decoding.target or size,
                       C.device)  # fmt: skip
        return self.decoder.condition(C, ids, self.latent_size(side, side))

    @torch.no_grad()
    def sample(
        self, C: Tensor, *, seeds: Sequence[int] | None = None, decoding: Decoding | None = None,
        image: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Normalised latents of codes (B, c, h, w); the arguments are `decode_tokens`'."""
        decoding, side = decoding or self.decoding, image or self.image
        if seeds is None:
            seeds = [ids_seed(row) for row in self.vq.quantize.nearest(C)]
        elif len(check_seeds(seeds)) != len(C):
            raise ValueError(f"there must be a seed a row, given {len(seeds)} for {len(C)} rows")
        shape = (self.decoder.unet.config["in_channels"], *self.latent_size(side, side))
        noise = own_noise(seeds, shape, C.device)
        with self.decoder.accelerated(decoding.with_accelerator):
            return in_rows(partial(self._rows_of, C, decoding, side, noise), len(C), self._rows)

    def _rows_of(
        self, C: Tensor, decoding: Decoding, side: int, noise: Noise, at: slice
    ) -> Tensor:
        condition = self.condition(C[at], decoding, side)

        def network(z: Tensor, t: int) -> Tensor:
            return self.decoder(z, t, condition, decoding.scale)

        return drawn(network, decoding, lambda step: noise(step)[at])

    def decode_flops(self, sizes: Sizes) -> int:
        """As `DiscreteTokenizer.decode_flops`, of the steps of `self.decoding`."""
        side, channels = self.image, self.decoder.unet.config["in_channels"]
        latent = self.latent_size(side, side)
        z = torch.empty(1, channels, *latent, device="meta", dtype=self.dtype)
        C = torch.empty(1, self.channels, *latent, device="meta", dtype=self.dtype)
        once, condition = self.decoder.once_flops(C)
        step = count_flops(self.decoder, z, 0, condition)
        return once + self.decoding.steps * step + count_flops(self.vae.decoder, z)

    @property
    def _rows(self) -> int | None:
        """Rows at once: a row does not depend on its neighbours on a CPU."""
        return 1 if self.device.type == "cpu" else None


def _values(config: TokenizerConfig) -> dict[str, Any]:
    """The dataclass as arguments."""
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
