"""TokenFlow's language model against figures of the official code (ByteVisionLab/TokenFlow at
9812da0, t2i/llava_t2i: its own sampler and its own loss, on a CPU, float32; transformers' base
classes were stood in for, its equations ran as they are).

Both have the same weights, each tensor drawn from its official name, norms around 1, embeddings,
levels and positions times 3, and the same 32 codes of 6 + 4 numbers. Depth 2, width 32, 2 heads,
24 words of which 23 is [PAD] and 20, 21, 22 are `<img>`; 6 slots for text; maps of 1, 2, 3 and 4.
Every pass takes the likeliest id, cfg is 3.
"""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from impasto.models.next_scale.maps import tokens
from impasto.models.tokenflow import Defaults, TokenFlowGenerator, TokenFlowTransformer
from impasto.models.tokenflow.train import TeacherForcing, training_loss
from impasto.sample.protocol import Request, Sampling
from tests import tiny_tokenflow
from tests.random_weights import named_random

PATCHES = (1, 2, 3, 4)
SIZES = tuple((side, side) for side in PATCHES)
PROMPTS = ("1 5 9", "1 2 3 4 8")
NEGATIVE = "1 7 11 3"
IDS = {
    1: [[27, 19, 30, 31, 30, 16, 12, 21, 5, 25, 21, 25, 25, 22, 8, 1, 11, 25, 11, 27, 11, 27, 7,
         28, 27, 25, 7, 0, 25, 27],
        [16, 19, 19, 21, 15, 16, 27, 2, 26, 4, 4, 11, 25, 15, 21, 4, 8, 6, 6, 6, 27, 7, 11, 27, 4,
         12, 11, 12, 14, 27]],
    2: [[27, 19, 31, 24, 13, 26, 5, 8, 8, 23, 25, 25, 25, 1, 8, 5, 31, 8, 21, 27, 25, 7, 16, 8, 25,
         25, 27, 27, 25, 5],
        [16, 25, 25, 31, 15, 4, 27, 8, 26, 4, 4, 11, 4, 5, 8, 27, 11, 6, 11, 5, 11, 27, 6, 27, 4,
         12, 8, 4, 26, 27]],
    3: [[27, 19, 13, 27, 13, 5, 8, 5, 8, 25, 25, 25, 25, 25, 8, 16, 12, 25, 16, 27, 27, 27, 25, 27,
         25, 25, 25, 25, 8, 5],
        [16, 19, 20, 21, 15, 4, 27, 12, 8, 12, 7, 11, 4, 4, 21, 4, 12, 11, 8, 12, 11, 6, 11, 27,
         27, 12, 8, 12, 8, 4]],
}  # fmt: skip
SUMS = {1: [-1.25288, -0.10655, -0.23484, -0.54887, 0.37279, -0.76661],
        2: [-2.00294, -1.22928, -0.07434, -0.18258, -1.12984, 0.83488],
        3: [-0.59024, -0.32279, 0.07035, -0.40085, 0.24523, 0.0505]}  # fmt: skip
# Of the ids that three passes drew, `</img>` as 13, 14, 15 and the end as 2.
LOSS = 2.77520895
LOGITS = [-1.15691, -2.27427, -0.03154, 2.61614, 0.20997, -0.07668, -0.44382, 1.147]


class Numbers:
    """Words that are written as numbers."""

    bos_token_id, eos_token_id, added = 1, 2, {}
    marks = {"<img>": [20, 21, 22], "</img>": [13, 14, 15]}  # noqa: RUF012

    def get_added_vocab(self):
        return self.added

    def __call__(self, text, add_special_tokens):
        ids = self.marks.get(text) or [int(word) for word in text.split()]
        return SimpleNamespace(input_ids=ids)


def without_bos(text):
    return text.removeprefix("1 ")


@functools.cache
@torch.no_grad()
def networks():
    model = TokenFlowTransformer(depth=2, width=32, heads=2, inside=48, text_vocabulary=24,
                                 vocabulary=32, channels=10, patches=PATCHES, text=6)
    for key, tensor in model.state_dict().items():
        noise = named_random(key, tuple(tensor.shape))
        louder = any(part in key for part in ("lvl_embed", "pos_1LC", "embed_tokens"))
        tensor.copy_(noise + ("norm" in key) if tensor.ndim == 1 else noise * (3 if louder else 1))
    vae = tiny_tokenflow.tokenizer(scales=PATCHES)
    for name, width in (("embedding_vqkd", 6), ("embedding_vqgan", 4)):
        noise = named_random(f"quantize.{name}.weight", (32, width))
        getattr(vae.quantize, name).weight.copy_(F.normalize(noise, dim=-1))
    return model.eval(), vae


def close(tensor, step, want):
    got = tensor.flatten()[::step][: len(want)]
    torch.testing.assert_close(got, torch.tensor(want), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_the_generator_draws_the_official_ids(passes, monkeypatch):
    model, vae = networks()
    defaults = Defaults(negative=without_bos(NEGATIVE), top_k=(1,) * passes,
                        top_p=(0.0,) * passes)  # fmt: skip
    pipe = TokenFlowGenerator(transformer=model, vae=vae, tokenizer=Numbers(), defaults=defaults)
    drawn, plain = [], pipe._add_tokens

    def kept(state, logits):
        drawn.append(logits.argmax(-1))
        return plain(state, logits)

    monkeypatch.setattr(pipe, "_add_tokens", kept)
    requests = [Request.of(without_bos(prompt)) for prompt in PROMPTS]
    state = pipe.start(requests, [0, 1], Sampling(guidance=4.0))
    while not state.done:
        state = pipe.advance(state)
    assert torch.cat(drawn, dim=1).tolist() == IDS[passes]
    close(state.f_hat, 29, SUMS[passes])


@torch.no_grad()
def test_teacher_forcing_gives_the_official_logits_and_loss():
    model, vae = networks()
    ids = torch.tensor(IDS[3]).split([h * w for h, w in SIZES], dim=1)
    rows = [[int(word) for word in prompt.split()] for prompt in PROMPTS]
    words = torch.tensor([[23] * (6 - len(row)) + row + [20, 21, 22] for row in rows])
    kept = []
    forced = TeacherForcing(model, Numbers())
    forced.register_forward_hook(lambda module, given, logits: kept.append(logits))
    loss, means, right = training_loss(forced, vae, ids, words, words != 23, drop=0.0)
    assert kept[0].shape == (2, tokens(SIZES) + 4, 56)
    close(kept[0], 251, LOGITS)
    assert abs(float(loss) - LOSS) < 1e-5 and means.shape == right.shape == (4,)
