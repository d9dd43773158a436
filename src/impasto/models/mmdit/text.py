"""Words to states: the tokenizer, and the text encoder's two outputs that SD3 is conditioned on.

The tokenizer is byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): all 256 bytes are in
its alphabet, so emoji and unknown words are spelled, never lost. Like CLIP's it folds case and
white space. A prompt is its tokens, then <eos>, then <pad> up to `model_max_length`; the null
prompt of classifier-free guidance is one <null> in place of the words. Special tokens written in a
prompt are spelled like any other text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipTextModel

__all__ = ["Encoding", "encode", "null_ids", "token_ids", "train_tokenizer"]

PAD, EOS, NULL = "<pad>", "<eos>", "<null>"


class Encoding(NamedTuple):
    """Text as the transformer takes it. states: (B, L, D); pooled: (B, P)."""

    states: Tensor
    pooled: Tensor

    def rows(self, index: Sequence[int]) -> Encoding:
        """Row i of the result is row `index[i]`; rows may repeat."""
        at = torch.tensor(index, device=self.states.device)
        return Encoding(self.states[at], self.pooled[at])

    def __add__(self, other: object) -> Encoding:
        """Both batches, one after the other."""
        if not isinstance(other, Encoding):
            return NotImplemented
        return Encoding(torch.cat([self.states, other.states]),
                        torch.cat([self.pooled, other.pooled]))  # fmt: skip


def train_tokenizer(
    captions: Iterable[str], vocab_size: int = 1024, max_tokens: int = 40
) -> PreTrainedTokenizerFast:
    """A tokenizer whose merges are learnt from `captions`; deterministic in their order.

    Raises ValueError when `vocab_size` has no room for the 256 bytes and 3 special tokens.
    """
    if vocab_size < 259:
        raise ValueError(f"vocab_size must be at least 259 (256 bytes, 3 special tokens), "
                         f"given {vocab_size}")  # fmt: skip
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([
        normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(),
        normalizers.Lowercase(),
    ])  # fmt: skip
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, NULL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    bpe.post_processor = TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=EOS, extra_special_tokens=[NULL],
        model_max_length=max_tokens, padding_side="right", split_special_tokens=True,
    )  # fmt: skip


def token_ids(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str]) -> Tensor:
    """Token ids (B, L) of `prompts`, padded to the tokenizer's length.

    A longer prompt is cut, with a warning that says how much is lost. Raises ValueError for an
    empty prompt.
    """
    length = tokenizer.model_max_length
    ids = tokenizer(list(prompts), truncation=False).input_ids
    for prompt, row in zip(prompts, ids, strict=True):
        if not prompt.strip():
            raise ValueError(f"prompt {prompt!r} is empty; to draw without a prompt give any "
                             f"prompt and guidance 0")  # fmt: skip
        if len(row) > length:
            warnings.warn(f"a prompt of {len(row) - 1} tokens is cut to its first {length - 1}: "
                          f"{prompt[:60]!r}...", stacklevel=2)  # fmt: skip
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    cut = [row if len(row) <= length else [*row[: length - 1], eos] for row in ids]
    return torch.tensor([row + [pad] * (length - len(row)) for row in cut])


def null_ids(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """Token ids (1, L) of the null prompt."""
    ids = [tokenizer.convert_tokens_to_ids(NULL), tokenizer.eos_token_id]
    pad = [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(ids))
    return torch.tensor([ids + pad])


def encode(text_encoder: SiglipTextModel, ids: Tensor) -> Encoding:
    """States of all positions (B, L, D) and the pooled state of the last one (B, P).

    ids: (B, L), on the encoder's device. Differentiable: training uses it as it is.
    """
    output = text_encoder(input_ids=ids)
    return Encoding(output.last_hidden_state, output.pooler_output)
