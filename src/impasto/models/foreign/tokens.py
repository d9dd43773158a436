"""Models of transformers that write a picture token by token: Janus and Emu3.

    transformers:id=deepseek-community/Janus-Pro-1B,dtype=bfloat16       on the command line
    JanusGenerator(model, processor, id="mine", top_k=500)               from Python

    scores_t = z + w (z_cond - z),    z without the prompt, w the guidance
    P_t      = softmax(top_k(scores_t / temperature)) over the tokens that may come here
    x_t      = the first v with P_t(0) + ... + P_t(v) > u_t

u_t are numbers of the row's own seed, so a row is drawn from nothing but its prompt, its seed and
the settings. On a CPU rows go through one at a time and their bytes do not depend on the batch;
elsewhere padding and batch change the scores in their last bits, which seldom, but sometimes,
tips a token and with it the rest of a picture.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from impasto.models.foreign.flops import counted
from impasto.models.foreign.loading import weights_sha256
from impasto.models.foreign.row_sampler import Guided, RowSampler
from impasto.sample.opaque import OpaqueGenerator
from impasto.sample.protocol import Sampling
from impasto.sample.rowwise import in_rows
from impasto.sample.seeds import row_uniforms
from impasto.score.judges.prompts import defused

__all__ = ["Emu3Generator", "JanusGenerator", "TokenGenerator"]

COUNTED_PROMPT = "a photo of a dog"
PLAIN: dict[str, Any] = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1,
                         "repetition_penalty": 1.0, "use_cache": True}  # fmt: skip
"""transformers takes the best of what `RowSampler` leaves: one token."""


class TokenGenerator(OpaqueGenerator):
    """A model that writes pictures as tokens, with its processor, drawn in one go.

    temperature, top_k: of the sampling; by default those of the model's own generation config,
    else 1 and all tokens. suffix: added to every prompt. Raises ValueError for a temperature that
    is not above 0 or a top_k below 1.
    """

    GUIDANCE: ClassVar[float]
    """Where the model's generation config names none."""

    def __init__(
        self, model: Any, processor: Any, id: str = "", *, temperature: float | None = None,
        top_k: int | None = None, suffix: str = "",
    ) -> None:  # fmt: skip
        own = model.generation_config
        self.model, self.processor = model.eval(), processor
        self.id = id or str(model.config.name_or_path or type(model).__name__)
        self.name = f"the model {self.id!r}"
        self.temperature = float((own.temperature or 1.0) if temperature is None else temperature)
        self.top_k = (own.top_k or None) if top_k is None else top_k
        if self.temperature <= 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(f"temperature must be above 0 and top_k at least 1, given "
                             f"{temperature!r} and {top_k!r}")  # fmt: skip
        self.guidance = float(own.guidance_scale or self.GUIDANCE)
        self.suffix = suffix
        self._flops: dict[Sampling, float] = {}

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {"model": self.model}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @abstractmethod
    def tokens(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Tensor:
        """The pictures' tokens, (B, T), rows in the picture's reading order."""

    @abstractmethod
    def decode(self, tokens: Tensor, sampling: Sampling) -> Tensor:
        """The pictures of these tokens, (B, 3, H, W), as normalised by the processor."""

    @abstractmethod
    def size(self, sampling: Sampling) -> tuple[int, int]:
        """(H, W) in pixels. Raises ValueError for a size that the model has not."""

    def check(self, sampling: Sampling) -> None:
        """Raises ValueError for steps, which are as many as the picture has tokens, or a size."""
        if sampling.steps is not None:
            raise ValueError(f"{self.name} has no setting steps: it draws a token at a time")
        self.size(sampling)

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> tuple[Tensor, float]:
        def some(rows: slice) -> Tensor:
            return self._pictures(prompts[rows], seeds[rows], sampling)

        at_once = 1 if self.device.type == "cpu" else None
        images = in_rows(some, len(prompts), at_once)
        return images, self._row_flops(sampling)

    def _pictures(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling
    ) -> Tensor:
        """(B, 3, H, W) in [0, 1]."""
        images = self.decode(self.tokens(prompts, seeds, sampling), sampling).float().cpu()
        own = self.processor.image_processor
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (own.image_mean, own.image_std))
        return images * std + mean

    def _texts(self, prompts: Sequence[str]) -> list[str]:
        """The prompts with their suffix, in which nothing is a mark of the model's own."""
        specials = self.processor.tokenizer.all_special_tokens
        return [defused(prompt + self.suffix, specials) for prompt in prompts]

    def _scale(self, sampling: Sampling) -> float:
        return self.guidance if sampling.guidance is None else sampling.guidance

    def _sampler(self, seeds: Sequence[int], n: int) -> LogitsProcessorList:
        """What comes after guidance and constraints."""
        steps = LogitsProcessorList()
        if self.temperature != 1.0:
            steps.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k is not None:
            steps.append(TopKLogitsWarper(self.top_k))
        steps.append(RowSampler(row_uniforms(seeds, n, self.device)))
        return steps

    def _row_flops(self, sampling: Sampling) -> float:
        """FLOPs of one picture with these settings, by drawing one of a fixed prompt, once."""
        if sampling not in self._flops:
            run = partial(self._pictures, [COUNTED_PROMPT], [0], sampling)
            self._flops[sampling] = counted(run)
        return self._flops[sampling]

    def provenance(self) -> dict[str, Any]:
        """Id, class, sha256 over names and bytes of all tensors, sampling, dtype, device."""
        height, width = self.size(Sampling())
        return {
            "id": self.id, "pipeline": type(self.model).__name__,
            "sha256": weights_sha256(self.networks), "sampler": "rowwise multinomial",
            "temperature": self.temperature, "top_k": self.top_k, "suffix": self.suffix,
            "dtype": str(self.model.dtype).removeprefix("torch."), "device": self.device.type,
            "preview": False,
            "defaults": {"guidance": self.guidance, "height": height, "width": width},
        }  # fmt: skip


class JanusGenerator(TokenGenerator):
    """Janus and Janus-Pro: a raster of as many tokens as the model was trained with, no other.

    Source: Chen et al. 2025, arXiv 2501.17811; guidance 5 as released.
    """

    GUIDANCE = 5.0

    def size(self, sampling: Sampling) -> tuple[int, int]:
        side = self.model.config.vision_config.image_size
        if {sampling.height, sampling.width} - {None, side}:
            raise ValueError(f"{self.name} draws {side} x {side} pixels and nothing else, given "
                             f"height {sampling.height} and width {sampling.width}")  # fmt: skip
        return side, side

    def tokens(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Tensor:
        turns = [[{"role": "user", "content": [{"type": "text", "text": text}]}]
                 for text in self._texts(prompts)]  # fmt: skip
        chats = [self.processor.apply_chat_template(turn, add_generation_prompt=True,
                                                    tokenize=False) for turn in turns]  # fmt: skip
        inputs = self.processor(text=chats, generation_mode="image", padding=True,
                                return_tensors="pt").to(self.device)  # fmt: skip
        own = copy.deepcopy(self.model.generation_config)
        own.update(**PLAIN, guidance_scale=1.0)  # ours comes in `Guided`, before the sampling
        own.generation_kwargs = {"boi_token_id": self.processor.tokenizer.boi_token_id}
        n = self.model.config.vision_config.num_image_tokens
        steps = LogitsProcessorList([Guided(self._scale(sampling)), *self._sampler(seeds, n)])
        return self.model.generate(**inputs, generation_config=own, generation_mode="image",
                                   logits_processor=steps)  # fmt: skip

    def decode(self, tokens: Tensor, sampling: Sampling) -> Tensor:
        return self.model.decode_image_tokens(tokens).movedim(-1, 1)


class Emu3Generator(TokenGenerator):
    """Emu3: h rows of w visual tokens, each row closed by a token of its own.

    negative: the prompt that guidance leads away from. Source: Wang et al. 2024, arXiv 2409.18869;
    guidance 3 as released.
    """

    GUIDANCE = 3.0
    SIDE = 720
    """Pixels, as released."""

    def __init__(
        self, model: Any, processor: Any, id: str = "", *, temperature: float | None = None,
        top_k: int | None = None, suffix: str = "", negative: str = "",
    ) -> None:  # fmt: skip
        super().__init__(model, processor, id, temperature=temperature, top_k=top_k,
                         suffix=suffix)  # fmt: skip
        self.negative = negative

    def size(self, sampling: Sampling) -> tuple[int, int]:
        height, width = sampling.height or self.SIDE, sampling.width or self.SIDE
        if height % self.cell or width % self.cell or min(height, width) < self.cell:
            raise ValueError(f"{self.name}: height and width must be multiples of {self.cell}, "
                             f"given {height} and {width}")  # fmt: skip
        return height, width

    @property
    def cell(self) -> int:
        """Pixels that a token is wide and high."""
        return int(self.processor.downsample_ratio)

    def _grid(self, sampling: Sampling) -> tuple[int, int]:
        height, width = self.size(sampling)
        return height // self.cell, width // self.cell

    def _inputs(self, texts: Sequence[str], sampling: Sampling) -> Any:
        """The texts, each followed by the beginning of a picture of this size."""
        height, width = self.size(sampling)
        inputs = self.processor(
            text=list(texts), return_for_image_generation=True, ratio=f"{width}:{height}",
            image_area=height * width, padding=True, padding_side="left", return_tensors="pt",
        )  # fmt: skip
        inputs.pop("image_sizes")
        return inputs.to(self.device)

    def tokens(self, prompts: Sequence[str], seeds: Sequence[int], sampling: Sampling) -> Tensor:
        (h, w), scale = self._grid(sampling), self._scale(sampling)
        inputs = self._inputs(self._texts(prompts), sampling)
        start = inputs["input_ids"].shape[1]
        words = self.model.vocabulary_mapping
        visual = torch.tensor(words.image_tokens, device=self.device)
        end_of_row = torch.tensor([words.eol_token_id], device=self.device)

        def allowed(row: int, ids: Tensor) -> Tensor:
            return end_of_row if (len(ids) - start) % (w + 1) == w else visual

        away: dict[str, Any] = {}
        if scale != 1.0:
            other = self._inputs([self.negative] * len(prompts), sampling)
            away = {"negative_prompt_ids": other["input_ids"],
                    "negative_prompt_attention_mask": other["attention_mask"]}  # fmt: skip
        n = h * (w + 1)
        written = self.model.generate(
            **inputs, **PLAIN, **away, guidance_scale=scale, max_new_tokens=n,
            prefix_allowed_tokens_fn=allowed, logits_processor=self._sampler(seeds, n),
        )  # fmt: skip
        return written[:, start:]

    def decode(self, tokens: Tensor, sampling: Sampling) -> Tensor:
        h, w = self._grid(sampling)
        # transformers cuts off the three tokens that would close the picture.
        return self.model.decode_image_tokens(image_tokens=F.pad(tokens, (0, 3)), height=h,
                                              width=w)  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"negative": self.negative}
