"""Pruned, grafted and quantised transformers at real size beside diffusers' own, in one run.

    python benchmarks/surgery.py --device cuda --json surgery.json      # all parts
    python benchmarks/surgery.py --device cuda --part graft
    python benchmarks/surgery.py --tiny --no-compile                    # a smoke run

One forward of the transformer for one picture, random weights (which change no cost), bfloat16 on
a GPU. Parts: prune (SD3.5-Large at 1024 x 1024, the published 20 % and 30 % removed), quantise
(the same in NF4; float8 and int8 products, lossy), graft (PixArt-Sigma at 2048 x 2048, half of its
self-attentions Hyena-X), operators (each alone, 16,384 tokens of 1,152). "times faster" is against
the host in the same state, eager or compiled. GiB is all that is allocated at the peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from low_bits import DynamicFP8, DynamicINT8, PlainNF4, replace_linears
from measuring import Sheet, Timed, filled
from roofline import Stage
from torch import Tensor, nn

from impasto.models.edited.hosts import host_of
from impasto.models.edited.operators import PLACES, build_operator
from impasto.models.edited.quantisation import Quantisation
from impasto.models.edited.quantised import memory, quantise
from impasto.models.edited.record import apply
from impasto.surgery.patterns import select_blocks
from impasto.surgery.presets import PRESETS, removal

PARTS = ("prune", "quantise", "graft", "operators")
SD35 = {"sample_size": 128, "num_layers": 38, "num_attention_heads": 38, "attention_head_dim": 64,
        "joint_attention_dim": 4096, "caption_projection_dim": 2432, "out_channels": 16,
        "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
        "qk_norm": "rms_norm"}  # fmt: skip
PIXART = {"sample_size": 256, "num_layers": 28, "num_attention_heads": 16,
          "attention_head_dim": 72, "cross_attention_dim": 1152, "caption_channels": 4096,
          "out_channels": 8, "norm_type": "ada_norm_single", "interpolation_scale": 4,
          "use_additional_conditions": False}  # fmt: skip
TINY = {"num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8}
TINY_SD35 = SD35 | TINY | {"caption_projection_dim": 16, "joint_attention_dim": 32,
                           "pooled_projection_dim": 32, "pos_embed_max_size": 8}  # fmt: skip
TINY_PIXART = PIXART | TINY | {"cross_attention_dim": 16, "caption_channels": 32}
WORDS = {"sd3.5-large": 77 + 512, "pixart-sigma": 300}
"""Text tokens: CLIP's and T5's; T5's."""
TWENTY, THIRTY = (f"sd3.5-large-turbo-{n}" for n in (20, 30))


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="small sizes, of the same depth")
    parser.add_argument("--no-compile", action="store_true", help="eager rows only")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of a way, at most")
    parser.add_argument("--json", type=Path, help="file for all figures")
    return parser.parse_args()


# -------------------------------------------------------------------------------- networks


def transformer(name: str, tiny: bool, *edits: Mapping[str, Any]) -> Any:
    """On the meta device, where edits cost nothing."""
    with torch.device("meta"):
        model: Any = (SD3Transformer2DModel(**(TINY_SD35 if tiny else SD35))
                      if name == "sd3.5-large" else
                      PixArtTransformer2DModel(**(TINY_PIXART if tiny else PIXART))
                      )  # fmt: skip
    for edit in edits:
        apply(model, edit)
    return model


def call_of(model: Any, name: str, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments for one picture."""
    config, rows = model.config, 1
    words = WORDS[name] if config["sample_size"] > TINY["sample_size"] else 9
    side, made = config["sample_size"], torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=made).to(device, dtype)

    call = {"hidden_states": noise(config["in_channels"], side, side),
            "timestep": torch.full((rows,), 500, device=device), "return_dict": False}  # fmt: skip
    if name == "sd3.5-large":
        return call | {"encoder_hidden_states": noise(words, config["joint_attention_dim"]),
                       "pooled_projections": noise(config["pooled_projection_dim"])}  # fmt: skip
    return call | {"encoder_hidden_states": noise(words, config["caption_channels"]),
                   "added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}  # fmt: skip


@cache
def work(name: str, tiny: bool, edits: str) -> Stage:
    """Counting takes some seconds, and several rows share it. edits: as JSON."""
    model = transformer(name, tiny, *json.loads(edits))
    return Stage.of(model, **call_of(model, name, "cpu", torch.float32))


def compiled(model: Any) -> None:
    """Block by block: one compilation for all that are alike."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.reset()
    for block in host_of(model).blocks:
        block.compile()


# -------------------------------------------------------------------------------- the rows


class Ways:
    """Rows of one transformer. `bases`: the host's, eager and compiled; `wanted`: what it gives.
    """

    def __init__(self, sheet: Sheet, chosen: argparse.Namespace, name: str) -> None:
        self.sheet, self.chosen, self.name = sheet, chosen, name
        self.dtype = torch.bfloat16 if sheet.device.startswith("cuda") else torch.float32
        self.bases: dict[bool, Timed | None] = {}
        self.wanted: Tensor | None = None

    def row(
        self, way: str, *edits: Mapping[str, Any], change: Callable[[Any], Any] | None = None
    ) -> None:
        """Build, time and let go of one. change: what is done to it where it runs."""
        self._rows(way, edits, change)
        gc.collect()
        if self.sheet.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _rows(self, way: str, edits: Sequence[Mapping[str, Any]], change: Any) -> None:
        model = transformer(self.name, self.chosen.tiny, *edits)
        call = call_of(model, self.name, self.sheet.device, self.dtype)
        stage = work(self.name, self.chosen.tiny, json.dumps(edits))
        model = filled(model, self.sheet.device, self.dtype)
        if change is not None:
            change(model)
        bytes_of = memory(model).total
        # Weights are read as they lie.
        stage = replace(stage, weights=bytes_of / self.dtype.itemsize)
        self.sheet.note(what=self.name, way=way, weights_gib=round(bytes_of / 2**30, 3),
                        tflop=round(stage.flops / 1e12, 2))  # fmt: skip
        for state in [False] if self.chosen.no_compile else [False, True]:
            if state:
                compiled(model)
            done = self.sheet.time({"what": self.name, "way": way + ", compiled" * state},
                                   lambda: model(**call)[0], [stage], dtype=self.dtype,
                                   pictures=1, base=self.bases.get(state))  # fmt: skip
            if way == "host":
                self.bases[state] = done and done._replace(result=None)
            if done is not None and not edits and not state:
                self._difference(way, done.result)

    def _difference(self, way: str, y: Tensor) -> None:
        """How far what is quantised, and no more, is from the host of the same weights."""
        if self.wanted is None:
            self.wanted = y
            return
        off = (y - self.wanted).float().norm() / self.wanted.float().norm()
        self.sheet.note(what=self.name, way=way, lossy="output's relative difference, random "
                        "weights", difference=round(float(off), 4))  # fmt: skip


def removed(preset: str) -> dict[str, Any]:
    return removal(PRESETS[preset].removed)


def prune(sheet: Sheet, chosen: argparse.Namespace) -> None:
    ways = Ways(sheet, chosen, "sd3.5-large")
    ways.row("host")
    ways.row("20 % removed", removed(TWENTY))
    ways.row("30 % removed", removed(THIRTY))


def _nf4(sheet: Sheet) -> tuple[str, Callable[[Any], Any]]:
    if find_spec("bitsandbytes") is not None:
        return "NF4, bitsandbytes", partial(quantise, values=Quantisation("nf4").to_edit())
    sheet.note(skipped="bitsandbytes is not installed: NF4 by tables in plain PyTorch; its memory "
                       "is the same but for what one layer takes while it is read")  # fmt: skip
    return "NF4, plain PyTorch", partial(replace_linears, make=PlainNF4)


def _large(path: str) -> bool:
    """Layers of many rows: of one row, those of modulation, dynamic scales win nothing."""
    return ".attn." in path or ".ff" in path


def quantised(sheet: Sheet, chosen: argparse.Namespace) -> None:
    ways = Ways(sheet, chosen, "sd3.5-large")
    ways.row("host")
    name, change = _nf4(sheet)
    ways.row(name, change=change)
    ways.row(f"20 % removed, {name}", removed(TWENTY), change=change)
    ways.row(f"30 % removed, {name}", removed(THIRTY), change=change)
    for name, make in (("float8 products, lossy", DynamicFP8),
                       ("int8 products, lossy", DynamicINT8)):  # fmt: skip
        change = partial(replace_linears, make=make, where=_large)
        ways.row(name, change=change)
        ways.row(f"20 % removed, {name}", removed(TWENTY), change=change)


def graft(sheet: Sheet, chosen: argparse.Namespace) -> None:
    ways = Ways(sheet, chosen, "pixart-sigma")
    ways.row("host")
    for ratio in (0.29, 0.5):
        blocks = select_blocks("pixart-sigma", 28, ratio=ratio)
        ways.row(f"{ratio:.0%} Hyena-X", {"edit": "graft", "place": "attention", "options": {},
                                          "operator": "hyena-x", "blocks": blocks})  # fmt: skip


def operators(sheet: Sheet, chosen: argparse.Namespace) -> None:
    """Each against the host's at its place: attention by SDPA, the MLP of ratio 4."""
    n, width, heads = (64, 32, 4) if chosen.tiny else (16384, 1152, 16)
    dtype = torch.bfloat16 if sheet.device.startswith("cuda") else torch.float32
    x = torch.randn(1, n, width, device=sheet.device, dtype=dtype)
    for names in PLACES.values():  # the first is the host's
        bases: dict[bool, Timed | None] = {}
        for name in names:
            built = build_operator(name, width=width, heads=heads, tokens=n)
            operator = nn.Module.to(built, sheet.device, dtype).eval()
            stage = Stage.of(operator, x)
            for state in [False] if chosen.no_compile else [False, True]:
                if state:
                    torch._dynamo.reset()
                    operator.compile()
                done = sheet.time({"what": "operator", "way": name + ", compiled" * state},
                                  partial(operator, x), [stage], dtype=dtype, pictures=1,
                                  base=bases.get(state))  # fmt: skip
                bases.setdefault(state, done and done._replace(result=None))


RUN = dict(zip(PARTS, (prune, quantised, graft, operators), strict=True))


@torch.inference_mode()
def main() -> int:
    chosen, begun = options(), time.perf_counter()
    sheet = Sheet(chosen.device, chosen.repeats)
    sheet.header([torch.bfloat16, torch.float32])
    for part in chosen.part:
        RUN[part](sheet, chosen)
    sheet.note(seconds_in_all=round(time.perf_counter() - begun, 1))
    return sheet.close(chosen.json, **vars(chosen))


if __name__ == "__main__":
    raise SystemExit(main())
