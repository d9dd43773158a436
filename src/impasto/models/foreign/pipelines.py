"""Any diffusers pipeline that draws from a text, as a `Generator`.

    diffusers:id=stabilityai/stable-diffusion-3.5-medium,dtype=bfloat16      on the command line
    DiffusersGenerator(pipe, id="mine", call={"negative_prompt": "blurry"})  from Python

Every row has a torch.Generator of its own on the CPU, from its own seed, so that its noise does
not depend on the batch, the order or the device. On a CPU rows go through one at a time and their
bytes do not depend on the batch either; elsewhere they agree to rounding, and to what a pipeline
makes of padding prompts to the batch's longest.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from impasto.models.foreign.flops import counted
from impasto.models.foreign.loading import load_pipeline, weights_sha256
from impasto.sample.opaque import OpaqueGenerator
from impasto.sample.protocol import Sampling
from impasto.sample.rowwise import in_rows
from impasto.zoo.registry import MODELS

__all__ = ["DiffusersGenerator", "diffusers_pipeline"]

OURS = {"steps": "num_inference_steps", "guidance": "guidance_scale", "height": "height",
        "width": "width"}  # fmt: skip
"""Our settings by diffusers' names."""
TAKEN = {"prompt", "generator", "output_type", "num_images_per_prompt", "return_dict",
         *OURS.values()}  # fmt: skip
COUNTED_PROMPT = "a photo of a dog"


class DiffusersGenerator(OpaqueGenerator):
    """A diffusers pipeline that takes `prompt` and `generator`.

    call: further arguments of each call ("negative_prompt", "max_sequence_length", …). A setting
    that is None is the pipeline's own default. Raises ValueError for a pipeline that does not draw
    from a text, and for arguments that it has not.
    """

    def __init__(
        self, pipe: DiffusionPipeline, id: str = "", call: Mapping[str, Any] | None = None
    ) -> None:
        self.pipe, self.call = pipe, dict(call or {})
        self.id = id or str(pipe.config.get("_name_or_path") or type(pipe).__name__)
        self.name = f"the pipeline {self.id!r}"
        self._accepts = inspect.signature(pipe.__call__).parameters
        self._check_call()
        for module in self.networks.values():
            module.eval()
        pipe.set_progress_bar_config(disable=True)
        self._flops: dict[Sampling, float] = {}

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The pipeline's components that have weights, by name."""
        parts = self.pipe.components
        return {name: parts[name] for name in sorted(parts) if isinstance(parts[name], nn.Module)}

    @property
    def device(self) -> torch.device:
        return self.pipe.device

    def _check_call(self) -> None:
        missing = [name for name in ("prompt", "generator") if name not in self._accepts]
        if missing:
            raise ValueError(f"{type(self.pipe).__name__} does not draw from a text: its call has "
                             f"no argument {' or '.join(map(repr, missing))}")  # fmt: skip
        for key in self.call:
            if key in TAKEN or key not in self._accepts:
                allowed = sorted({*self._accepts} - TAKEN)
                raise ValueError(f"call: {key!r} is not to be given here; allowed for "
                                 f"{type(self.pipe).__name__}: {', '.join(allowed)}")  # fmt: skip

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError for a setting that the pipeline's call has no argument for."""
        for ours, theirs in OURS.items():
            if getattr(sampling, ours) is not None and theirs not in self._accepts:
                raise ValueError(f"{self.name} has no setting {ours} ({theirs})")

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> tuple[Tensor, float]:
        def some(rows: slice) -> Tensor:
            return self._call(prompts[rows], seeds[rows], sampling)

        at_once = 1 if self.device.type == "cpu" else None
        images = in_rows(some, len(prompts), at_once)
        return images, self._row_flops(sampling)

    def _call(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Tensor:
        """One call of the pipeline: (B, 3, H, W) in [0, 1], NaN left in for `quantise` to find."""
        settings = {theirs: getattr(sampling, ours) for ours, theirs in OURS.items()
                    if getattr(sampling, ours) is not None}  # fmt: skip
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*passed generators.*")
            out = self.pipe(prompt=list(prompts), generator=generators, output_type="np",
                            **settings, **self.call)  # fmt: skip
        for prompt, flag in zip(prompts, getattr(out, "nsfw_content_detected", None) or (),
                                strict=False):  # fmt: skip
            if flag:
                warnings.warn(f"{self.name} blackened its picture of {prompt!r} (safety checker)",
                              stacklevel=2)  # fmt: skip
        return torch.from_numpy(out.images).float().movedim(-1, 1)

    def _row_flops(self, sampling: Sampling) -> float:
        """FLOPs of one picture with these settings, by drawing one of a fixed prompt, once."""
        if sampling not in self._flops:
            self._flops[sampling] = counted(partial(self._call, [COUNTED_PROMPT], [0], sampling))
        return self._flops[sampling]

    def provenance(self) -> dict[str, Any]:
        """Id, class, sha256 over names and bytes of all tensors, scheduler, dtype, device."""
        scheduler = getattr(self.pipe, "scheduler", None)
        dtypes = {name: str(p.dtype).removeprefix("torch.")
                  for name, module in self.networks.items()
                  if (p := next(module.parameters(), None)) is not None}  # fmt: skip
        return {
            "id": self.id,
            "pipeline": type(self.pipe).__name__,
            "sha256": weights_sha256(self.networks),
            "sampler": type(scheduler).__name__,
            "scheduler": _plain(dict(scheduler.config)) if scheduler is not None else None,
            "dtype": ", ".join(sorted(set(dtypes.values()))),
            "dtypes": dtypes,
            "device": self.device.type,
            "call": _plain(self.call),
            "preview": False,
            "defaults": self._defaults(),
        }

    def _defaults(self) -> dict[str, Any]:
        """What the pipeline's call takes when a setting is not given, where it is a number."""
        found = {ours: self._accepts.get(theirs) for ours, theirs in OURS.items()}
        values = {ours: p.default for ours, p in found.items() if p is not None}
        return {ours: v for ours, v in values.items() if isinstance(v, (int, float))}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON has, others by their text; private keys left out."""
    simple = (str, int, float, bool, type(None), list)
    return {key: value if isinstance(value, simple) else str(value)
            for key, value in sorted(values.items()) if not key.startswith("_")}  # fmt: skip


@MODELS.register("diffusers", published=True)
def diffusers_pipeline(
    *, id: str, dtype: str = "", revision: str | None = None, variant: str | None = None,
    local_files_only: bool = False, torch_dtype: torch.dtype | str = torch.float32,
    device: torch.device | str = "cpu",
) -> DiffusersGenerator:  # fmt: skip
    """Any diffusers text-to-image pipeline; id=REPOSITORY_OR_FOLDER, dtype=bfloat16 and others."""
    pipe = load_pipeline(str(id), dtype or torch_dtype, revision=revision, variant=variant,
                         local_files_only=local_files_only)  # fmt: skip
    return DiffusersGenerator(pipe.to(device), id=str(id))
