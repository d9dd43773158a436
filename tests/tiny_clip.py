"""A small CLIP with random weights and words for GenEval's colours, in a folder."""

import torch
from transformers import CLIPModel

from impasto.models.mmdit import train_tokenizer
from impasto.score.clip import clip_config
from impasto.spec import COLORS


def saved(path, norms=False):
    """`path`, with a network whose weights are large enough that pictures and words matter.

    norms: the normalisation layers and shifts are random too, as in no network that is new.
    """
    tokenizer = train_tokenizer([f"a photo of a {c}-colored object" for c in COLORS])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(clip_config("tiny", vocab_size=len(tokenizer)))
        for parameter in model.parameters():
            if norms or parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
