"""A language model that reads pictures: TokenFlow's understanding, and any LLaVA of our own.

    x      = features of a picture, (P, D): TokenFlow's are f, the sum of all scales' codes at full
             size, all channels of all places, never ids
    tokens = W2 gelu(W1 x)                                           P visual tokens of width d
    words  before | tokens | between, question, after | answer

The tokens stand where LLaVA has its image placeholder: at the beginning of the user's turn. The
language model is any of transformers' causal ones. Answers are decoded greedily. Features may come
from anything that takes pictures and gives (B, P, D), so continuous ones of a teacher are read by
the same class. Source: Qu et al. 2024 (TokenFlow, arXiv 2412.03069), section 3.4; Liu et al. 2023
(LLaVA-1.5, arXiv 2310.03744).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from impasto.images import resized
from impasto.models.tokenflow.config import ReaderConfig
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer
from impasto.score.judges.base import LocalWords, Question, Unanswered
from impasto.score.judges.prompts import defused
from impasto.zoo.weights import weights_digest

__all__ = ["CHATS", "Chat", "CodeFeatures", "Projector", "Reader", "ReaderNetwork"]

Features = Callable[[Tensor], Tensor]
"""Pictures (B, 3, H, W) in [0, 1] to (B, P, D)."""


@dataclass(frozen=True)
class Chat:
    """A turn's marks. before: up to the pictures; its place {} is for `system` or the question's
    own. between: from them to the question. after: from the question to the answer."""

    before: str
    between: str
    after: str
    system: str = ""


CHATS = {
    "plain": Chat("{}", "question:", "answer:"),
    "vicuna": Chat("{} USER: ", "\n", " ASSISTANT:"),
    "qwen_2_5": Chat("<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n", "\n",
                     "<|im_end|>\n<|im_start|>assistant\n", "You are a helpful assistant."),
}  # fmt: skip
"""By the published conversations' names; "plain" is for models that know no turns."""


class CodeFeatures:
    """f of a tokenizer's ids, (B, S^2, C), float32."""

    def __init__(self, vae: TokenFlowTokenizer) -> None:
        self.vae, self.channels, self.name = vae, vae.channels, "codes"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        side, device = self.vae.image, self.vae.device
        square = torch.stack([resized(image.cpu(), side, side) for image in images]).to(device)
        return self.of_ids(self.vae.encode(square))

    def of_ids(self, ids: Sequence[Tensor]) -> Tensor:
        """Of the ids of all scales, (B, h_k w_k) each."""
        return self.vae.tokens_of(self.vae.features_of(ids, self.vae.scales))


class Projector(ModelMixin, ConfigMixin):
    """Features of `channels` numbers to visual tokens of `width`."""

    config_name = "config.json"

    @register_to_config
    def __init__(self, *, channels: int, width: int) -> None:
        super().__init__()
        self.mm_projector = nn.Sequential(nn.Linear(channels, width), nn.GELU(),
                                          nn.Linear(width, width))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.mm_projector(x.to(self.dtype))


class ReaderNetwork(nn.Module):
    """What is trained: a projector and a causal language model of transformers."""

    def __init__(self, projector: Projector, lm: Any) -> None:
        super().__init__()
        width = lm.get_input_embeddings().weight.shape[1]
        if projector.config["width"] != width:
            raise ValueError(f"the projector makes tokens of width {projector.config['width']}; "
                             f"the language model's are {width} wide")  # fmt: skip
        self.projector, self.lm = projector, lm

    @classmethod
    def from_config(cls, config: ReaderConfig, seed: int = 0) -> ReaderNetwork:
        """Random weights from `seed`, on the CPU, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.lm, **config.sizes))
            width = lm.get_input_embeddings().weight.shape[1]
            return cls(Projector(channels=config.channels, width=width), lm).eval()

    def train_parts(self, *, projector: bool = True, lm: bool = True) -> ReaderNetwork:
        """Which parts learn from here on: the projector alone in stage 1, both in stage 2."""
        self.projector.requires_grad_(projector)
        self.lm.requires_grad_(lm)
        return self

    @property
    def device(self) -> torch.device:
        return self.lm.get_input_embeddings().weight.device


class Reader(LocalWords):
    """features: what a picture is to the projector. chat: a name of `CHATS`."""

    def __init__(
        self, network: ReaderNetwork, features: Features, tokenizer: PreTrainedTokenizerFast, *,
        chat: str = "plain", name: str = "reader",
    ) -> None:  # fmt: skip
        if chat not in CHATS:
            raise ValueError(f"unknown chat {chat!r}; allowed: {', '.join(CHATS)}")
        made, wanted = getattr(features, "channels", None), network.projector.config["channels"]
        if made not in (None, wanted):
            raise ValueError(f"the projector takes features of {wanted} numbers; these have "
                             f"{made}")  # fmt: skip
        self.network, self.features, self.tokenizer = network, features, tokenizer
        self.chat, self.name = chat, name
        # A training asks the same words of many pictures: splitting them anew was most of a step.
        self._ids = lru_cache(maxsize=2**17)(self._split)

    @property
    def words(self) -> PreTrainedTokenizerFast:
        return self.tokenizer

    # ---------------------------------------------------------------- sequences

    def _split(self, text: str, *, marks: bool) -> list[int]:
        """marks: whether the tokenizer's special words may stand in the text."""
        if not text:
            return []
        if not marks:
            text = defused(text, self.tokenizer.all_special_tokens)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False,
                                        split_special_tokens=not marks).input_ids
        return ids

    def prompt_ids(self, text: str, system: str = "") -> tuple[list[int], list[int]]:
        """Words before the pictures, and from them to the answer."""
        chat, bos = CHATS[self.chat], self.tokenizer.bos_token_id
        head, _, tail = chat.before.partition("{}")
        before = [self._ids(head, marks=True),
                  self._ids(system, marks=False) or self._ids(chat.system, marks=True),
                  self._ids(tail, marks=True)]  # fmt: skip
        behind = [self._ids(chat.between, marks=True), self._ids(text, marks=False),
                  self._ids(chat.after, marks=True)]  # fmt: skip
        start = [] if bos is None else [bos]
        return [*start, *itertools.chain(*before)], [*itertools.chain(*behind)]

    def answer_ids(self, answer: str) -> list[int]:
        """An answer's words and the end."""
        return [*self._ids(answer, marks=False), int(self.tokenizer.eos_token_id)]

    def embedded(self, before: Sequence[int], tokens: Tensor, behind: Sequence[int]) -> Tensor:
        """(n, d): words, visual tokens (P, d), words."""
        look = self.network.lm.get_input_embeddings()
        first, last = (look(torch.tensor(ids, device=tokens.device, dtype=torch.long))
                       for ids in (before, behind))  # fmt: skip
        return torch.cat([first, tokens.to(first.dtype), last])

    # ---------------------------------------------------------------- a judge

    def _inputs(self, question: Question) -> Tensor:
        """(1, n, d) of a question. Its pictures stand first, whatever `text_first` says: the
        model has seen them nowhere else."""
        before, behind = self.prompt_ids(question.text, question.system)
        projector, device = self.network.projector, self.network.device
        seen = [projector(self.features(image[None]).to(device))[0] for image in question.images]
        none = self.network.lm.get_input_embeddings().weight[:0]
        return self.embedded(before, torch.cat([none, *seen]), behind)[None]

    @torch.inference_mode()
    def first_token(self, question: Question) -> Tensor:
        logits = self.network.lm(inputs_embeds=self._inputs(question)).logits[0, -1]
        return logits.float().softmax(-1).cpu()

    @torch.inference_mode()
    def ask(self, question: Question, max_tokens: int = 512, attempt: int = 0) -> str:
        if attempt:
            raise Unanswered(f"{self.name} decodes greedily: asked again it says the same")
        x, eos = self._inputs(question), self.tokenizer.eos_token_id
        ids = self.network.lm.generate(
            inputs_embeds=x, attention_mask=torch.ones(x.shape[:2], device=x.device).long(),
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=eos, pad_token_id=eos,
        )  # fmt: skip
        text: str = self.tokenizer.decode(ids[0], skip_special_tokens=True)
        return text.strip()

    def provenance(self) -> dict[str, Any]:
        networks = {"projector": self.network.projector, "lm": self.network.lm}
        weight = self.network.lm.get_input_embeddings().weight
        pictures = {"name": getattr(self.features, "name", type(self.features).__name__)}
        if isinstance(self.features, CodeFeatures):
            pictures["tokens"] = self.features.vae.token_digest()
        return {"id": self.name, "sha256": weights_digest(networks), "kind": "reader",
                "dtype": str(weight.dtype).removeprefix("torch."), "decoding": "greedy",
                "chat": self.chat, "pictures": pictures}  # fmt: skip
