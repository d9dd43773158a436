"""TokenFlow's losses, as plain functions.

Tokenizer, of pictures x with the frozen teacher's features t and a list of scales, from which one
but the first is left out in a tenth of the steps:

    L_vq, L_commit   means over the scales (`models.codebooks`)
    L_sem = mean over places of 1 - cos(meaning(f), t)

to which the trainer adds the picture's: reconstruction, perceptual, adversarial. Codes learn by
their gradient alone. Source: Qu et al. 2024 (arXiv 2412.03069), section 3.2; the cosine is the
released code's (the paper says a squared distance).

Transformer, all scales in one sequence under one mask, of the frozen tokenizer's ids:

    told of scale k > 1 = f_k of the ids themselves (teacher forcing)
    loss = mean over the picture's ids, the pieces of `</img>` and the end of CE(logits, id)

A caption is replaced by the empty text with probability 0.1, which guidance needs; the released
training defines the rate and never uses it.

Reader: CE over the answer's words and its end; the projector alone in stage 1, with the language
model in stage 2 (`ReaderNetwork.train_parts`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from impasto.models.next_scale.maps import Sizes, area, bicubic, from_tokens, to_tokens
from impasto.models.tokenflow.model import TokenFlowTransformer, seen
from impasto.models.tokenflow.reader import Reader
from impasto.models.tokenflow.text import CLOSING, pieces, slots
from impasto.models.tokenflow.tokenizer import TokenFlowTokenizer

__all__ = ["DROP_CAPTION", "DROP_SCALE", "Quantised", "TeacherForcing", "answer_loss",
           "drop_captions", "drop_scale", "quantised", "semantic_loss", "teacher_inputs",
           "token_loss", "training_loss"]  # fmt: skip

DROP_SCALE = DROP_CAPTION = 0.1


class Quantised(NamedTuple):
    """f: (B, C, S, S) with the features' gradient. vq, commit: means over the scales. ids: (B, h_k
    w_k) of each."""

    f: Tensor
    vq: Tensor
    commit: Tensor
    ids: list[Tensor]


def drop_scale(
    scales: Sizes, probability: float = DROP_SCALE, plan: torch.Generator | None = None
) -> Sizes:
    """The scales, with the probability without one of them that is not the first; the last may
    go too. plan: on the CPU."""
    if len(scales) < 3 or float(torch.rand((), generator=plan)) >= probability:
        return scales
    gone = int(torch.randint(1, len(scales), (), generator=plan))
    return scales[:gone] + scales[gone + 1 :]


def quantised(vae: TokenFlowTokenizer, h: Tensor, scales: Sizes) -> Quantised:
    """Features (B, C, S, S) through the residual loop, in training."""
    rest, parts = h.float(), []
    f, table = torch.zeros_like(rest), vae.quantize.table()
    for size in scales:
        own = vae.quantize.learnt(area(rest, size), table=table)
        u = vae.enlarged(own.z_q)
        f, rest = f + u, rest - u.detach()
        parts.append(own)
    vq, commit = (torch.stack([getattr(own, name) for own in parts]).mean()
                  for name in ("vq", "commit"))  # fmt: skip
    return Quantised(f, vq, commit, [own.ids for own in parts])


def semantic_loss(meaning: Tensor, target: Tensor) -> Tensor:
    """L_sem, scalar, of (B, N, T) features."""
    return (1 - F.cosine_similarity(meaning.float(), target.float(), dim=-1)).mean()


# ---------------------------------------------------------------- what draws


@torch.no_grad()
def teacher_inputs(vae: TokenFlowTokenizer, ids: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """f_2 … f_K one after another, (B, L - 1, C), of ids (B, h_k w_k) of scales 1 to K - 1 (a K-th
    is not looked at); each is enlarged from the one before it, not to full size."""
    f, told = None, []
    for own, size, following in zip(ids, sizes, sizes[1:], strict=False):
        codes = from_tokens(vae.codes(own), size)
        f = bicubic(codes if f is None else f + codes, following)
        told.append(to_tokens(f))
    return torch.cat(told, dim=1)


def drop_captions(
    words: Tensor, there: Tensor, empty: tuple[Tensor, Tensor], probability: float = DROP_CAPTION,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`slots` (B, n) of captions with each replaced by the empty text's (1, n) with the
    probability."""
    u = torch.rand(len(words), 1, device=words.device, generator=generator)
    return (torch.where(u < probability, empty[0], words),
            torch.where(u < probability, empty[1], there))  # fmt: skip


class TeacherForcing(nn.Module):
    """`transformer` over whole sequences; holds what is the same in all of them: the empty text
    and what follows a picture."""

    ending: Tensor
    empty_words: Tensor
    empty_there: Tensor

    def __init__(
        self, transformer: TokenFlowTransformer, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        super().__init__()
        self.transformer = transformer
        text, device = transformer.config["text"], transformer.device
        words, there = slots(tokenizer, [""], text, transformer.words)
        ending = torch.tensor([*pieces(tokenizer, CLOSING), tokenizer.eos_token_id])
        for name, held in (("empty_words", words), ("empty_there", there), ("ending", ending)):
            self.register_buffer(name, held.to(device), persistent=False)

    def forward(self, words: Tensor, there: Tensor, told: Tensor) -> Tensor:
        """Logits (B, L + e + 1, words + K) of `slots` of texts and of `teacher_inputs`."""
        model, closing = self.transformer, self.ending[:-1]
        mask = seen(there, words.shape[1] - 1, model.sizes, 1 + len(closing))
        return model.teacher_forced(words, told, closing, mask)


def token_loss(logits: Tensor, wanted: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, its mean a scale (K,), share of right ids a scale (K,)).

    logits: (B, L + e + 1, V), wanted: ids (B, L + e + 1); the last e + 1 are no picture's and
    count in the loss.
    """
    each = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
    each = each.view(wanted.shape)
    counts = [h * w for h, w in sizes]
    with torch.no_grad():
        right = (logits.argmax(-1) == wanted).float()
        parts = [own[:, : sum(counts)].split(counts, dim=1) for own in (each, right)]
        means, shares = (torch.stack([part.mean() for part in own]) for own in parts)
    return each.mean(), means, shares


def training_loss(
    forced: TeacherForcing, vae: TokenFlowTokenizer, ids: Sequence[Tensor], words: Tensor,
    there: Tensor, *, drop: float = DROP_CAPTION, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`token_loss` of one training step, teacher-forced over all scales.

    ids: (B, h_k w_k) of each scale, of the frozen tokenizer. words, there: `text.slots` of the
    captions.
    """
    model, told = forced.transformer, teacher_inputs(vae, ids, forced.transformer.sizes)
    empty = forced.empty_words, forced.empty_there
    logits = forced(*drop_captions(words, there, empty, drop, generator), told)
    picture = torch.cat(list(ids), dim=1) + model.words
    wanted = torch.cat([picture, forced.ending.expand(len(picture), -1)], dim=1)
    return token_loss(logits, wanted, model.sizes)


# ---------------------------------------------------------------- what reads


def answer_loss(
    reader: Reader, features: Tensor, questions: Sequence[str], answers: Sequence[str]
) -> Tensor:
    """Mean CE over all words of the answers and their ends, of pictures' features (B, P, D)."""
    network, device = reader.network, features.device
    seen = network.projector(features)
    prompts = [reader.prompt_ids(question) for question in questions]
    said = [reader.answer_ids(answer) for answer in answers]
    before = prompts[0][0]  # the same of all: no prompt has a system text
    words = [torch.tensor([*behind, *answer[:-1]])
             for (_, behind), answer in zip(prompts, said, strict=True)]  # fmt: skip
    # A place's logits are of the word after it.
    wanted = [F.pad(torch.tensor(answer), (len(own) - len(answer), 0), value=-100)
              for own, answer in zip(words, said, strict=True)]  # fmt: skip
    padded, first = nn.utils.rnn.pad_sequence, len(before) + seen.shape[1]
    there = padded([torch.ones(len(own), dtype=torch.long) for own in words], batch_first=True)
    targets = padded(wanted, batch_first=True, padding_value=-100)
    look = network.lm.get_input_embeddings()
    begun = look(torch.tensor([before], dtype=torch.long, device=device)).expand(len(seen), -1, -1)
    rest = look(padded(words, batch_first=True).to(device))
    logits = network.lm(inputs_embeds=torch.cat([begun, seen.to(rest.dtype), rest], dim=1),
                        attention_mask=F.pad(there, (first, 0), value=1).to(device)
                        ).logits[:, first:]  # fmt: skip
    targets = targets.to(logits.device)
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
