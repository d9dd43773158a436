"""A small matching network with random weights and the words of a few prompts."""

import torch
from transformers import BlipForImageTextRetrieval

from impasto.models.mmdit import train_tokenizer
from impasto.score.match import match_config, save_match
from impasto.score.self_test import golden


def network(scale=0.3):
    """(model, tokenizer): weights large enough that pictures and words matter."""
    tokenizer = train_tokenizer([spec.prompt for spec in golden().specs])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BlipForImageTextRetrieval(match_config("tiny", vocab_size=len(tokenizer)))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=scale)
    return model.eval(), tokenizer


def saved(path):
    save_match(*network(), path)
    return path
