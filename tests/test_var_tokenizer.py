"""VAR's residual quantiser and tokenizer, against the published figures."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from impasto.models.convolutional import Attention
from impasto.models.var.config import PRESETS, TOKENIZERS
from impasto.models.var.quantiser import Phi, phi_index
from impasto.models.var.tokenizer import VARTokenizer
from tests.tiny_var import SIZES, tokenizer


def features(rows=2, seed=0):
    return torch.randn(rows, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------ quantiser


def test_phis_are_shared_as_published():
    """Measured in the official code; 2 and 7 of 10 lie half-way between two ticks."""
    assert [phi_index(k, 10, 4) for k in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert [phi_index(k, 6, 4) for k in range(6)] == [0, 0, 1, 2, 3, 3]
    # Two phis: ticks 1/4 and 3/4.
    assert [phi_index(k, 5, 2) for k in range(5)] == [0, 0, 0, 1, 1]
    assert phi_index(0, 1, 4) == 0


def test_phi_is_half_itself_and_half_a_convolution():
    phi, h = Phi(8), features()
    want = 0.5 * h + 0.5 * F.conv2d(h, phi.weight, phi.bias, padding=1)
    torch.testing.assert_close(phi(h), want)
    torch.testing.assert_close(phi.bfloat16()(h), phi.float()(h))  # float32 whatever the weights


def plain_tokens(quantize, f, sizes):
    """The loop written again, a place at a time in float64: tokens and f^."""
    e, rest, total, found = quantize.embedding.weight.double(), f.double(), 0, []
    for k, (h, w) in enumerate(sizes):
        z = F.adaptive_avg_pool2d(rest, (h, w))
        ids = [[int(((z[b, :, i, j] - e) ** 2).sum(1).argmin()) for i in range(h)
                for j in range(w)] for b in range(len(f))]  # fmt: skip
        code = e[torch.tensor(ids)].reshape(len(f), h, w, -1).permute(0, 3, 1, 2)
        if (h, w) != sizes[-1]:
            code = F.interpolate(code, sizes[-1], mode="bicubic", align_corners=False)
        phi = quantize.quant_resi.qresi_ls[phi_index(k, len(sizes), 4)]
        code = code / 2 + F.conv2d(code, phi.weight.double(), phi.bias.double(), padding=1) / 2
        total, rest = total + code, rest - code
        found.append(torch.tensor(ids))
    return found, total


@torch.no_grad()
def test_tokens_are_of_the_full_size_residual_from_coarse_to_fine():
    quantize, f = tokenizer().quantize, features()
    want, f_hat = plain_tokens(quantize, f, SIZES)
    found, rests = quantize.residual_tokens(f, SIZES)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
    assert [tuple(rest.shape[-2:]) for rest in rests] == list(SIZES)
    total = sum(quantize.summand(ids, k, SIZES) for k, ids in enumerate(found))
    torch.testing.assert_close(total, f_hat.float())
    torch.testing.assert_close(rests[0][..., 0, 0], f.mean((2, 3)))


@torch.no_grad()
def test_scales_use_their_own_phi():
    quantize = tokenizer().quantize
    ids = torch.zeros(1, 1, dtype=torch.long)
    before = [quantize.summand(ids, k, ((1, 1),) * 10) for k in range(10)]
    quantize.quant_resi.qresi_ls[1].weight.add_(1)
    changed = [not torch.equal(quantize.summand(ids, k, ((1, 1),) * 10), was)
               for k, was in enumerate(before)]  # fmt: skip
    assert [k for k, other in enumerate(changed) if other] == [2, 3, 4]


@torch.no_grad()
def test_the_search_is_float32_whatever_the_weights():
    """Two codes that bfloat16 features cannot tell apart."""
    quantize = tokenizer().quantize.bfloat16()
    quantize.embedding.weight[:] = 100
    quantize.embedding.weight[0], quantize.embedding.weight[1] = 1.0, 1.0078125
    z = torch.full((1, 8, 1, 1), 1.005)
    assert quantize.nearest(z).item() == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert quantize.nearest(z).item() == 1
        assert quantize.summand(torch.tensor([[1]]), 0, SIZES).dtype == torch.float32


def test_sizes_that_do_not_fit_are_refused():
    quantize = tokenizer().quantize
    with pytest.raises(ValueError, match=r"last size must be the features' own, \(4, 4\), given"):
        quantize.residual_tokens(features(), SIZES[:2])
    with pytest.raises(ValueError, match="scale 1 has 4 tokens, given 5"):
        quantize.summand(torch.zeros(1, 5, dtype=torch.long), 1, SIZES)


# ------------------------------------------------------------------------------ the network


def test_published_size():
    """Parameters and state keys: measured in the official code, where one more key counts hits."""
    with torch.device("meta"):
        model = VARTokenizer(**asdict(TOKENIZERS["ch160v4096z32"]))
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == 108_948_355 and len(state) == 323
    own = {part: sum(key.startswith(part) for key in state)
           for part in ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")}
    assert list(own.values()) == [132, 178, 9, 2, 2] and model.stride == 16
    shapes = {
        "quantize.embedding.weight": (4096, 32), "quant_conv.weight": (32, 32, 3, 3),
        "post_quant_conv.bias": (32,), "quantize.quant_resi.qresi_ls.3.weight": (32, 32, 3, 3),
        "encoder.conv_in.weight": (160, 3, 3, 3), "encoder.down.4.attn.1.qkv.weight":
        (1920, 640, 1, 1), "encoder.down.2.block.0.nin_shortcut.weight": (320, 160, 1, 1),
        "encoder.down.3.downsample.conv.weight": (320, 320, 3, 3),
        "encoder.mid.attn_1.norm.weight": (640,), "encoder.norm_out.bias": (640,),
        "decoder.up.4.attn.2.proj_out.bias": (640,), "decoder.up.1.upsample.conv.weight":
        (160, 160, 3, 3), "decoder.mid.block_2.conv2.weight": (640, 640, 3, 3),
        "decoder.conv_out.weight": (3, 160, 3, 3),
    }  # fmt: skip
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_sticker_is_as_large_as_meant():
    with torch.device("meta"):
        model = VARTokenizer(**asdict(PRESETS["sticker"]().tokenizer))
    assert sum(p.numel() for p in model.parameters()) == 5_637_267 and model.stride == 8


def test_attention_is_one_head_over_all_places():
    torch.manual_seed(0)
    model, x = Attention(8, 4).double(), torch.randn(1, 8, 2, 3, dtype=torch.float64)
    q, k, v = F.conv2d(F.group_norm(x, 4, model.norm.weight, model.norm.bias, 1e-6),
                       model.qkv.weight, model.qkv.bias)[0].flatten(1).chunk(3)  # fmt: skip
    weights = (q.T @ k / 8**0.5).softmax(1)
    seen = (v @ weights.T).reshape(1, 8, 2, 3)
    torch.testing.assert_close(model(x), x + F.conv2d(seen, model.proj_out.weight,
                                                      model.proj_out.bias))  # fmt: skip


@torch.no_grad()
def test_tokens_reproduce_the_sum_that_they_were_made_of():
    model, images = tokenizer(), torch.rand(2, 3, 32, 32)
    f, ids = model.features(images), model.encode(images, SIZES)
    assert [tuple(own.shape) for own in ids] == [(2, 1), (2, 4), (2, 16)]
    f_hat, rest = torch.zeros_like(f), f.clone()
    for k, own in enumerate(ids):
        told = model.quantize.summand(own, k, SIZES)
        assert torch.equal(model.add_codes(f_hat, own, k, SIZES), f_hat + told)
        f_hat, rest = f_hat + told, rest - told
    torch.testing.assert_close(f_hat + rest, f)
    assert torch.equal(model.decode_tokens(ids, SIZES), model.decode(f_hat))
    coarse = model.decode_tokens(ids[:2], SIZES)
    assert coarse.shape == (2, 3, 32, 32) and not torch.equal(coarse, model.decode(f_hat))
    for given in ([], [*ids, ids[0]]):
        with pytest.raises(ValueError, match=f"1 to 3 scales, given {len(given)}"):
            model.decode_tokens(given, SIZES)


def test_the_next_input_is_averaged():
    f_hat = features()
    told = tokenizer().next_input(f_hat, (2, 2))
    assert torch.equal(told, F.avg_pool2d(f_hat, 2).flatten(2).transpose(1, 2))
    assert torch.equal(tokenizer().next_input(f_hat, (4, 4)), f_hat.flatten(2).transpose(1, 2))
