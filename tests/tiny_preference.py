"""Preference networks whose tensors are formulas, under the names of the published checkpoints.

Anyone can make the same numbers with any library: entry k of the i-th tensor, in order of names,
is 0.3 sin(0.37 k^2 + i), and pixel k of picture i is its 255 (0.5 + 0.5 sin(0.011 k^1.5 + i)),
rounded. The numbers in the tests were recorded by running the published code on these.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from impasto.score.preference.architecture import Architecture

WORDS = ("a", "photo", "of", "red", "blue", "green", "ball", "cat", "dog", "two", "on", "depicts",
         "A", "orange", "yellow", "purple", "pink", "brown", "black", "white")  # fmt: skip
PROMPTS = ("a red ball", "two cat on a dog", "photo of a blue cat")
SIZES = ((32, 32), (37, 53), (64, 45), (50, 50))
"""(height, width) of the pictures."""
CLIP = Architecture((16, 2, 2, 8), (12, 2, 2), 10, "gelu", size=32, length=12, vocabulary=24,
                    sentence=(22, 2, 3, 4, 2, 9, 23))  # fmt: skip
BERT_IDS = (2, 4, 5, 6, 4, 11, 3)
"""Of "a photo of a cat", counted in `WORDS` by hand."""
QUICK = CLIP._replace(activation="quick_gelu")
BLIP = {"size": 32, "patch": 16, "width": 16, "depth": 2, "heads": 2, "text_width": 12,
        "text_depth": 2, "text_heads": 2, "vocabulary": 26, "positions": 40}  # fmt: skip


def chirp(i, shape, scale=0.3):
    k = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = scale * np.sin(0.37 * k**2 + i)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def picture(i):
    """(3, H, W) on the 8-bit grid."""
    height, width = SIZES[i]
    k = np.arange(3 * height * width, dtype=np.float64)
    levels = np.rint(255 * (0.5 + 0.5 * np.sin(0.011 * k**1.5 + i)))
    return torch.from_numpy(levels.astype(np.float32)).reshape(3, height, width) / 255


def tensors(shapes):
    """Names to values of the formula; constants stay."""
    return {key: torch.arange(shape[1])[None] if key.endswith("position_ids") else
            chirp(i, shape) for i, (key, shape) in enumerate(sorted(shapes.items()))}  # fmt: skip


def _layer(shapes, name, *shape):
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]


def open_clip_shapes(one):
    """Names and shapes of open_clip's `CLIP.state_dict()`."""
    shapes = {"logit_scale": (), "visual.class_embedding": one.vision[:1]}
    width, depth, _, patch = one.vision
    shapes["visual.positional_embedding"] = ((one.size // patch) ** 2 + 1, width)
    shapes["visual.proj"] = (width, one.features)
    shapes["visual.conv1.weight"] = (width, 3, patch, patch)
    for norm in ("pre", "post"):
        _layer(shapes, f"visual.ln_{norm}", width)
    text, text_depth, _ = one.text
    shapes["positional_embedding"] = (one.length, text)
    shapes["text_projection"] = (text, one.features)
    shapes["token_embedding.weight"] = (one.vocabulary, text)
    _layer(shapes, "ln_final", text)
    for start, w, n in (("visual.", width, depth), ("", text, text_depth)):
        for i in range(n):
            block = f"{start}transformer.resblocks.{i}"
            shapes[f"{block}.attn.in_proj_weight"] = (3 * w, w)
            shapes[f"{block}.attn.in_proj_bias"] = (3 * w,)
            _layer(shapes, f"{block}.attn.out_proj", w, w)
            _layer(shapes, f"{block}.mlp.c_fc", 4 * w, w)
            _layer(shapes, f"{block}.mlp.c_proj", w, 4 * w)
            for norm in ("ln_1", "ln_2"):
                _layer(shapes, f"{block}.{norm}", w)
    return shapes


def image_reward_shapes(n):
    """Names and shapes of `ImageReward.state_dict()`, projections and constants included."""
    shapes, w, t = {}, n["width"], n["text_width"]
    see, read = "blip.visual_encoder", "blip.text_encoder"
    shapes[f"{see}.cls_token"] = (1, 1, w)
    shapes[f"{see}.pos_embed"] = (1, (n["size"] // n["patch"]) ** 2 + 1, w)
    _layer(shapes, f"{see}.patch_embed.proj", w, 3, n["patch"], n["patch"])
    for i in range(n["depth"]):
        block = f"{see}.blocks.{i}"
        _layer(shapes, f"{block}.norm1", w)
        _layer(shapes, f"{block}.norm2", w)
        _layer(shapes, f"{block}.attn.qkv", 3 * w, w)
        _layer(shapes, f"{block}.attn.proj", w, w)
        _layer(shapes, f"{block}.mlp.fc1", 4 * w, w)
        _layer(shapes, f"{block}.mlp.fc2", w, 4 * w)
    _layer(shapes, f"{see}.norm", w)
    shapes[f"{read}.embeddings.position_ids"] = (1, n["positions"])
    shapes[f"{read}.embeddings.word_embeddings.weight"] = (n["vocabulary"], t)
    shapes[f"{read}.embeddings.position_embeddings.weight"] = (n["positions"], t)
    _layer(shapes, f"{read}.embeddings.LayerNorm", t)
    for i in range(n["text_depth"]):
        block = f"{read}.encoder.layer.{i}"
        for kind, seen in (("attention", t), ("crossattention", w)):
            _layer(shapes, f"{block}.{kind}.self.query", t, t)
            _layer(shapes, f"{block}.{kind}.self.key", t, seen)
            _layer(shapes, f"{block}.{kind}.self.value", t, seen)
            _layer(shapes, f"{block}.{kind}.output.dense", t, t)
            _layer(shapes, f"{block}.{kind}.output.LayerNorm", t)
        _layer(shapes, f"{block}.intermediate.dense", 4 * t, t)
        _layer(shapes, f"{block}.output.dense", t, 4 * t)
        _layer(shapes, f"{block}.output.LayerNorm", t)
    _layer(shapes, "blip.vision_proj", 256, w)
    _layer(shapes, "blip.text_proj", 256, t)
    for i, (a, b) in {0: (t, 1024), 2: (1024, 128), 4: (128, 64), 6: (64, 16),
                      7: (16, 1)}.items():  # fmt: skip
        _layer(shapes, f"mlp.layers.{i}", b, a)
    return shapes


def _tokenizer(vocabulary, start, end, length, **special):
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)},
                                       unk_token=special["unk_token"]))  # fmt: skip
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(one, vocabulary.index(one)) for one in (start, end)],
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length, **special)


def clip_tokenizer(length=12):
    """A word a token; <end> has the highest id, as in CLIP."""
    vocabulary = ["<unk>", "<pad>", *WORDS, "<start>", "<end>"]
    return _tokenizer(vocabulary, "<start>", "<end>", length, unk_token="<unk>",
                      pad_token="<pad>", eos_token="<end>", bos_token="<start>")  # fmt: skip


def bert_tokenizer():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    return _tokenizer(vocabulary, "[CLS]", "[SEP]", 512, unk_token="[UNK]", pad_token="[PAD]",
                      cls_token="[CLS]", sep_token="[SEP]")  # fmt: skip
