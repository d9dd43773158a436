"""Operators in place of attention and MLP: sizes as published, what they see, equal forms."""

import pytest
import torch
import torch.nn.functional as F

from impasto.models.edited.operators import OPERATORS, PLACES, build_operator
from impasto.models.edited.operators.base import CausalConv, shifted_sum
from impasto.models.edited.operators.mamba import scan
from impasto.models.edited.operators.windows import window_attention

# The grafting sheet's table at D = 1152, N = 256, 16 heads.
PARAMETERS = {
    ("attention", ()): 5_313_024, ("hyena-se", ()): 5_336_064, ("hyena-x", ()): 5_330_304,
    ("hyena-y", ()): 5_318_784, ("sliding-window", ()): 5_313_024, ("mamba-2", ()): 8_290_864,
    ("mlp", (("ratio", 3),)): 7_967_232, ("mlp", (("ratio", 4),)): 10_622_592,
    ("mlp", (("ratio", 6),)): 15_933_312, ("mlp-hyena-x", ()): 10_626_176,
}  # fmt: skip


def small(name, tokens=12, width=16, **options):
    torch.manual_seed(0)
    if name == "mamba-2":
        options = {"state": 8, "head": 4} | options
    return build_operator(name, width=width, heads=4, tokens=tokens, options=options)


def seen(operator, n, tokens=12, width=16):
    """Tokens on which output n depends."""
    x = torch.randn(1, tokens, width, requires_grad=True)
    operator(x)[0, n].sum().backward()
    return [i for i in range(tokens) if x.grad[0, i].abs().sum() > 0]


@pytest.mark.parametrize(("name", "options"), list(PARAMETERS))
def test_sizes_are_the_published_ones(name, options):
    with torch.device("meta"):
        operator = build_operator(name, width=1152, heads=16, tokens=256, options=dict(options))
    counted = sum(p.numel() for p in operator.parameters())
    assert counted == PARAMETERS[name, options]


def test_every_operator_has_one_place():
    assert sorted(name for place in PLACES.values() for name in place) == list(OPERATORS)


@pytest.mark.parametrize("name", list(OPERATORS))
def test_every_operator_keeps_the_shape_and_learns_everywhere(name):
    operator = small(name)
    x = torch.randn(3, 12, 16)
    y = operator(x)
    assert y.shape == x.shape
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in
               operator.named_parameters() if n != "to_k.bias")  # fmt: skip


@pytest.mark.parametrize("name", list(OPERATORS))
def test_rows_do_not_hear_of_each_other(name):
    operator, x = small(name), torch.randn(3, 12, 16)
    torch.testing.assert_close(operator(x)[1:2], operator(x[1:2]))


@pytest.mark.parametrize(("name", "options", "first", "last"), [
    ("hyena-x", {}, 5, 8), ("hyena-y", {}, 5, 8), ("hyena-se", {}, 2, 8),
    ("hyena-x", {"taps": 2}, 7, 8), ("sliding-window", {"window": 2}, 6, 10),
    ("mamba-2", {}, 0, 8), ("attention", {}, 0, 11), ("mlp", {}, 8, 8), ("mlp-hyena-x", {}, 8, 8),
])  # fmt: skip
def test_receptive_fields(name, options, first, last):
    operator = small(name, **options)
    if name in ("hyena-se", "hyena-y"):  # the identity hides its reach at first
        torch.nn.init.normal_(operator.inner_filter.weight)
    assert seen(operator, 8) == list(range(first, last + 1))


def test_the_filter_is_padded_on_the_left():
    conv = CausalConv(3, 4)
    x = torch.randn(2, 3, 9)
    y = torch.zeros_like(x)
    for n in range(9):
        for k in range(4):
            if n - 3 + k >= 0:
                y[..., n] += conv.weight[:, 0, k] * x[..., n - 3 + k]
    y += conv.bias[:, None]
    torch.testing.assert_close(conv(x), y)
    torch.testing.assert_close(shifted_sum(x, conv.weight, conv.bias), y)


def test_inner_filters_begin_as_the_identity():
    full, plain = small("hyena-se"), small("hyena-x")
    plain.load_state_dict(full.state_dict(), strict=False)
    x = torch.randn(2, 12, 16)
    torch.testing.assert_close(full(x), plain(x))
    y = small("hyena-y")
    q, k, v = y.in_proj(x).chunk(3, -1)
    torch.testing.assert_close(y(x), y.out_proj(q * k * v))


def test_channel_filters_are_a_positions_own_and_cross_the_streams():
    operator = small("mlp-hyena-x")
    x = torch.randn(1, 12, 16)
    u = F.linear(x, operator.in_proj.weight, operator.in_proj.bias)
    w, b = operator.short_filter.weight, operator.short_filter.bias
    padded = F.pad(u, (3, 0))
    u = torch.stack([sum(w[n, 0, k] * padded[0, n, k : k + 96] for k in range(4)) + b[n]
                     for n in range(12)])[None]  # fmt: skip
    q, k, v = u.split(32, -1)
    torch.testing.assert_close(operator(x), operator.out_proj(q * k * v))
    with pytest.raises(ValueError, match="12 tokens, given 10"):
        operator(x[:, :10])
    with pytest.raises(ValueError, match="needs the number of tokens"):
        small("mlp-hyena-x", tokens=None)


@pytest.mark.parametrize("tokens", [9, 64, 130, 193])
@pytest.mark.parametrize("window", [0, 4, 40])
def test_windows_in_blocks_are_windows_under_a_mask(tokens, window):
    q, k, v = torch.randn(3, 2, 2, tokens, 8)
    shared = tuple(torch.randn(2, 2, 2, 5, 8))
    for given in (None, shared):
        masked = window_attention(q, k, v, window, shared=given, dense=tokens)
        blocks = window_attention(q, k, v, window, shared=given, dense=0)
        torch.testing.assert_close(blocks, masked)
    scores = q @ k.mT / 8**0.5
    near = (torch.arange(tokens)[:, None] - torch.arange(tokens)).abs() <= window
    plain = scores.masked_fill(~near, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(window_attention(q, k, v, window), plain)


def test_a_window_over_everything_is_attention():
    wide, full = small("sliding-window", window=11), small("attention")
    full.load_state_dict(wide.state_dict())
    x = torch.randn(2, 12, 16)
    torch.testing.assert_close(wide(x), full(x))


def recurrence(x, dt, A, B, C):
    """h_n = exp(A dt_n) h_{n-1} + dt_n B_n x_n^T;  y_n = C_n h_n, one token after another."""
    h, out = torch.zeros(*x.shape[:1], *x.shape[2:], B.shape[-1]), []
    for n in range(x.shape[1]):
        decay = (A * dt[:, n]).exp()[..., None, None]
        h = decay * h + (dt[:, n, :, None] * x[:, n])[..., None] * B[:, n, None, None]
        out.append((h * C[:, n, None, None]).sum(-1))
    return torch.stack(out, 1)


@pytest.mark.parametrize("tokens", [5, 16, 39])
def test_the_scan_is_the_recurrence(tokens):
    torch.manual_seed(1)
    x, (B, C) = torch.randn(2, tokens, 3, 4), torch.randn(2, 2, tokens, 6)
    dt, A = torch.rand(2, tokens, 3) * 2, -1 - 15 * torch.rand(3)
    for chunk in (4, 16, 64):
        torch.testing.assert_close(scan(x, dt, A, B, C, chunk=chunk), recurrence(x, dt, A, B, C))


def test_mamba_is_its_equations():
    operator = small("mamba-2", width=8, state=6, head=4)
    u = torch.randn(2, 20, 8)
    z, x, B, C, dt = operator.in_proj(u).split([16, 16, 6, 6, 4], -1)
    xBC = F.silu(operator.conv1d(torch.cat([x, B, C], -1).mT)).mT
    x, B, C = xBC.split([16, 6, 6], -1)
    x, dt = x.unflatten(-1, (4, 4)), F.softplus(dt + operator.dt_bias)
    y = recurrence(x, dt, -operator.A_log.exp(), B, C) + operator.D[:, None] * x
    y = y.flatten(2) * F.silu(z)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * operator.norm.weight
    torch.testing.assert_close(operator(u), operator.out_proj(y))


def test_the_scan_is_in_full_precision_under_autocast():
    operator = small("mamba-2")
    args = torch.randn(1, 70, 8, 4), torch.randn(1, 70, 8), *torch.randn(2, 1, 70, 8)
    plain = operator._scanned(*args)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(operator._scanned(*args), plain)


def test_mamba_begins_within_the_published_ranges():
    operator = small("mamba-2", width=512)
    dt, A = F.softplus(operator.dt_bias), operator.A_log.exp()
    assert 0.99e-3 < dt.min() < 0.01 < dt.max() < 0.101
    assert 1 <= A.min() < 3 < 14 < A.max() <= 16
    assert (operator.D == 1).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fused kernels run on a GPU")
@pytest.mark.parametrize("name", ["mamba-2", "hyena-x"])
def test_fused_kernels_are_the_plain_sums(name):
    pytest.importorskip("mamba_ssm" if name == "mamba-2" else "causal_conv1d")
    operator = build_operator(name, width=128, heads=4, tokens=300)
    x = torch.randn(2, 300, 128)
    torch.testing.assert_close(operator.cuda()(x.cuda()).cpu(), operator.cpu()(x), rtol=2e-3,
                               atol=2e-3)  # fmt: skip


def test_unknown_operators_and_options_are_refused():
    with pytest.raises(ValueError, match="unknown operator 'hyena-z': did you mean"):
        small("hyena-z")
    with pytest.raises(ValueError, match="unknown option 'windw'"):
        small("sliding-window", windw=3)
    with pytest.raises(ValueError, match="heads of 5 features"):
        small("mamba-2", head=5)
    for name, key, value, words in [
        ("sliding-window", "window", "abc", "window must be a whole number, given 'abc'"),
        ("sliding-window", "window", True, "whole number, given True"),
        ("attention", "bias", 1, "bias must be true or false, given 1"),
        ("mlp", "ratio", float("inf"), "ratio must be a number, given inf"),
        ("mamba-2", "head", 0, "head must be a whole number of at least 1, given 0"),
        ("hyena-x", "taps", 2.5, "taps must be a whole number of at least 1, given 2.5"),
        ("mlp-hyena-x", "ratio", 0, "ratio is a whole number of at least 1, given 0"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            small(name, **{key: value})
    with pytest.raises(ValueError, match="0 tokens or more"):
        small("sliding-window", window=-1)
