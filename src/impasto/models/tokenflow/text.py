"""Words of TokenFlow's transformer: slots for the prompt, then `<img>` in the words' own pieces.

    [nothing …] BOS prompt | pieces of <img>      a picture      pieces of </img>, EOS

The prompt stands at the end of its slots and is cut to them. `<img>` and `</img>` are plain text
to the published model, whose words are Llama-2's (three pieces for `<img>`); the sticker world's
tokenizer has one word for each of them. Source: the released code of TokenFlow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from impasto.models.mmdit.text import train_tokenizer
from impasto.models.tokenflow.config import WORDS

__all__ = ["CLOSING", "OPENING", "pieces", "prompt_ids", "slots", "train_words"]

BOS, OPENING, CLOSING = "<bos>", "<img>", "</img>"


def train_words(captions: Iterable[str], vocab_size: int = WORDS) -> PreTrainedTokenizerFast:
    """The sticker world's words (`mmdit.text`), with BOS, `<img>` and `</img>` behind them."""
    tokenizer = train_tokenizer(captions, vocab_size)
    tokenizer.add_special_tokens({"bos_token": BOS})
    tokenizer.add_tokens([OPENING, CLOSING], special_tokens=True)
    return tokenizer


def pieces(tokenizer: PreTrainedTokenizerFast, mark: str) -> tuple[int, ...]:
    """Ids of `<img>` or `</img>`: of the word that was added for it, or of its pieces."""
    added = tokenizer.get_added_vocab()
    if mark in added:
        return (added[mark],)
    return tuple(tokenizer(mark, add_special_tokens=False).input_ids)


def prompt_ids(
    tokenizer: PreTrainedTokenizerFast, prompt: str, most: int, vocabulary: int
) -> list[int]:
    """BOS and the prompt's ids; a longer one than `most` is cut, with a warning.

    Raises ValueError for a word beyond `vocabulary`, where ids of pictures begin.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        raise ValueError("the words have no BOS token; give a tokenizer of Llama's kind")
    ids = [bos, *tokenizer(prompt, add_special_tokens=False).input_ids]
    if max(ids) >= vocabulary:
        raise ValueError(f"prompt {prompt[:60]!r} has the word {max(ids)}, and the model's words "
                         f"end at {vocabulary - 1}; pictures' ids cannot be written in a prompt"
                         )  # fmt: skip
    if len(ids) > most:
        warnings.warn(f"a prompt of {len(ids) - 1} tokens is cut to its first {most - 1}: "
                      f"{prompt[:60]!r}...", stacklevel=2)  # fmt: skip
    return ids[:most]


def slots(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], most: int, vocabulary: int
) -> tuple[Tensor, Tensor]:
    """(ids (B, most + n), whether there is a word): prompts at the end of their slots, and the n
    pieces of `<img>`; 0 where there is no word."""
    opening = list(pieces(tokenizer, OPENING))
    rows = [prompt_ids(tokenizer, prompt, most, vocabulary) for prompt in prompts]
    ids = torch.tensor([[0] * (most - len(row)) + row + opening for row in rows])
    empty = torch.tensor([most - len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) >= empty[:, None]
