"""VAR against figures of the official code (FoundationVision/VAR at 78b9539, on a CPU, float32).

Both have the same weights, each tensor drawn from its official name, and the same two pictures:
the sine of 7 t, t from -1 to 1 over all values. Tokenizer: ch 32, 64 codes of 8 channels;
transformer: depth 2, width 64, 2 heads, 10 classes; patches 1, 2, 3, 4 (64 px).
"""

import functools

import pytest
import torch

from impasto.models.var.model import VARTransformer
from impasto.models.var.pipeline import VARGenerator
from impasto.models.var.sampler import Defaults, truncated
from impasto.models.var.tokenizer import VARTokenizer
from impasto.models.var.train import teacher_inputs
from impasto.sample.protocol import Request, Sampling
from tests.random_weights import named_random

SIZES = ((1, 1), (2, 2), (3, 3), (4, 4))
TOKENS = [
    [[15], [38]], [[52, 39, 48, 43], [52, 53, 29, 1]],
    [[37, 52, 52, 38, 38, 43, 46, 9, 43], [14, 39, 36, 6, 43, 43, 48, 29, 29]],
    [[36, 37, 39, 32, 12, 40, 53, 15, 23, 48, 12, 38, 23, 1, 55, 1],
     [36, 52, 36, 36, 12, 48, 53, 27, 12, 48, 12, 31, 37, 1, 1, 23]],
]  # fmt: skip
FEATURES = [0.24289, -1.58068, 0.00998, -0.32138, -0.85491, 0.13149]
SUMS = [[-0.14342, -0.14737, -0.33477, -0.5345, -0.19586, 0.42248],
        [-0.07028, -1.07635, -0.42565, -0.26194, -0.51495, 0.72941],
        [-0.35043, -1.09571, -0.41276, -0.14904, -0.79705, 1.43124],
        [-0.12741, -1.71814, -0.45965, -0.56448, -0.78467, 1.30784]]  # fmt: skip
DECODED = [0.15103, -0.244, 0.03896, -0.63398, -0.0509, -0.36511]
LOGITS = {
    False: [1.53585, -0.5915, -1.99939, 0.81018, 0.79981, -0.50625, 0.97527, 0.9367, -1.60876,
            -0.50686, -0.69546, -3.10973, -0.55077, -1.15847, 0.71584, 0.35616],
    True: [0.91303, 0.09421, -3.37762, 1.77226, 0.15864, 0.54746, -0.07854, 0.87536, -0.33374,
           -1.63712, -1.12227, 0.03047, 0.18634, -0.35362, 1.66604, 0.73062],
}  # fmt: skip
# Drawn with the likeliest token at every place, cfg 4: a guidance of 5 at the last scale.
DRAWN = {
    False: [0.3819, 0.37683, 0.43352, 0.84158, 0.2951, 0.60946],
    True: [0.66222, 0.6864, 1.0, 0.95793, 0.38442, 0.83613],
}


@torch.no_grad()
def filled(model):
    for key, tensor in model.state_dict().items():
        if not key.endswith("zero_k_bias"):
            noise = named_random(key, tuple(tensor.shape))
            shift = tensor if "scale_mul" in key else ".norm" in key and key.endswith("weight")
            tensor.copy_(noise + shift)
    return model.eval()


@functools.cache
def tokenizer():
    return filled(VARTokenizer(vocabulary=64, channels=8, widths=(32, 32, 64, 64, 128)))


@functools.cache
def transformer(shared):
    return filled(VARTransformer(depth=2, width=64, heads=2, vocabulary=64, channels=8, classes=10,
                                 patches=(1, 2, 3, 4), shared=shared))  # fmt: skip


def pictures():
    x = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).mul(7).sin()
    return (x + 1) / 2


def close(tensor, step, want):
    got = tensor.flatten()[::step][: len(want)]
    torch.testing.assert_close(got, torch.tensor(want), atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_the_tokenizer_gives_the_official_tokens_sums_and_pictures():
    vae = tokenizer()
    f, ids = vae.features(pictures()), vae.encode(pictures(), SIZES)
    close(f, 41, FEATURES)
    assert [own.tolist() for own in ids] == TOKENS
    f_hat = torch.zeros_like(f)
    for k, want in enumerate(SUMS):
        f_hat = vae.add_codes(f_hat, ids[k], k, SIZES)
        close(f_hat, 41, want)
    close(vae.picture(f_hat).clamp(-1, 1), 4099, DECODED)
    close(2 * vae.decode_tokens(ids, SIZES) - 1, 4099, DECODED)


@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_the_transformer_gives_the_official_logits(shared):
    model, ids = transformer(shared), [torch.tensor(own) for own in TOKENS]
    told = teacher_inputs(tokenizer(), ids, SIZES)
    logits = model.teacher_forced(model.condition(torch.tensor([3, 7])), told)
    assert logits.shape == (2, 30, 64)
    close(logits, 251, LOGITS[shared])


@pytest.mark.parametrize("shared", [False, True])
def test_the_generator_draws_the_official_pictures(shared):
    pipe = VARGenerator(transformer=transformer(shared), vae=tokenizer(),
                        defaults=Defaults(top_k=1, top_p=0.0))  # fmt: skip
    state = pipe.start([Request.of("3"), Request.of("7")], [0, 1], Sampling(guidance=5.0))
    while not state.done:
        state = pipe.advance(state)
    close(pipe.preview(state), 4099, DRAWN[shared])


@pytest.mark.parametrize(("top_k", "top_p", "counts", "sums"), [
    (20, 0.9, [15, 11, 14, 14, 13, 14], [534, 339, 406, 466, 463, 356]),
    (0, 0.96, [31, 30, 30, 36, 27, 29], [989, 848, 899, 1181, 826, 866]),
    (10, 0.0, [10] * 6, [350, 294, 332, 372, 390, 247]),
    (5, 0.5, [3, 2, 2, 2, 1, 2], [127, 44, 39, 37, 46, 59]),
])  # fmt: skip
def test_top_k_and_top_p_keep_the_official_tokens(top_k, top_p, counts, sums):
    """How many tokens are left at each of six places, and the sum of their numbers."""
    logits = named_random("logits", (2, 3, 64)) * 20
    left = truncated(logits.double(), top_k, top_p) > 0
    assert left.sum(-1).flatten().tolist() == counts
    assert (left * torch.arange(64)).sum(-1).flatten().tolist() == sums
