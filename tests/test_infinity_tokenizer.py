"""Infinity's schedules, residual quantiser and tokenizer, against the published figures."""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from impasto.models.infinity import quantiser
from impasto.models.infinity.config import PRESETS, TOKENIZERS
from impasto.models.infinity.costs import decoder_flops, scale_flops
from impasto.models.infinity.model import InfinityTransformer
from impasto.models.infinity.schedules import LEVELS, TEMPLATES, nearest_ratio, schedule, tokens
from impasto.models.infinity.tokenizer import InfinityTokenizer

SIZES = ((1, 1), (2, 2), (4, 4))

# Tokens at 0.06M, 0.25M, 0.60M and 1M pixels: measured in the official code.
TOKENS = {
    1.0: (521, 2521, 6425, 10521), 1.25: (614, 2814, 6854, 10774), 1.333: (665, 2657, 7085, 10973),
    1.5: (533, 2759, 6941, 10997), 1.75: (472, 2628, 7220, 11252), 2.0: (451, 2681, 7219, 11269),
    2.5: (555, 2555, 6805, 10805), 3.0: (509, 2588, 7016, 11123),
}  # fmt: skip


def tiny(seed=0, **changes):
    torch.manual_seed(seed)
    return InfinityTokenizer(**asdict(PRESETS["tiny"]().tokenizer) | changes).eval()


# ------------------------------------------------------------------------------ schedules


@pytest.mark.parametrize("ratio", TOKENS)
def test_schedules_have_the_published_tokens(ratio):
    assert tuple(tokens(schedule(ratio, n).sizes) for n in LEVELS.values()) == TOKENS[ratio]


def test_wide_schedules_are_the_high_ones_on_their_side():
    assert sorted(TEMPLATES) == [0.333, 0.4, 0.5, 0.571, 0.666, 0.75, 0.8,
                                 1.0, 1.25, 1.333, 1.5, 1.75, 2.0, 2.5, 3.0]  # fmt: skip
    for wide, high in ((0.8, 1.25), (0.666, 1.5), (0.571, 1.75), (0.333, 3.0)):
        assert TEMPLATES[wide] == tuple((w, h) for h, w in TEMPLATES[high])


def test_the_grid_is_that_of_a_million_pixels_at_every_level():
    assert schedule(1.25, 7).sizes[-1] == (20, 16) and schedule(1.25, 7).grid == (70, 56)
    assert {schedule(1.0, n).grid for n in LEVELS.values()} == {(64, 64)}


def test_the_nearest_template_is_taken():
    assert [nearest_ratio(r) for r in (1.0, 1.1, 1.4, 720 / 1280, 9.0)] == [1.0, 1.0, 1.333,
                                                                            0.571, 3.0]
    with pytest.raises(ValueError, match=r"no schedule for height/width 1.1; there are 0.333"):
        schedule(1.1, 7)
    with pytest.raises(ValueError, match="1 to 13 scales, given 14"):
        schedule(1.0, 14)


# ------------------------------------------------------------------------------ quantiser


def test_residuals_by_hand():
    """d = 1: the mean .625 gives bit 1, code 1; what is left is 2 -2 / -.5 -1; zero is bit 0."""
    f = torch.tensor([[[[3.0, -1.0], [0.5, 0.0]]]])
    targets, _ = quantiser.residual_bits(f, ((1, 1), (2, 2)))
    assert targets[0].tolist() == [[[[True]]]]
    assert targets[1].tolist() == [[[[True, False], [False, False]]]]
    assert quantiser.sum_codes(targets, (2, 2)).tolist() == [[[[2.0, 0.0], [0.0, 0.0]]]]
    assert quantiser.codes(torch.zeros(1, 1, 1, 1) > 0).item() == -1  # sign(0) = -1


def test_all_scales_have_codes_of_length_one():
    bits = torch.rand(2, 16, 3, 3) > 0.5
    code = quantiser.codes(bits)
    assert set(code.unique().tolist()) == {-0.25, 0.25}
    torch.testing.assert_close(code.norm(dim=1), torch.ones(2, 3, 3))


def test_resizing_is_trilinear_over_one_frame_and_area_for_the_residual():
    f = torch.randn(2, 4, 12, 20)
    for size in ((5, 7), (30, 24), (1, 1)):
        frame = F.interpolate(f[:, :, None], (1, *size), mode="trilinear", align_corners=False)
        torch.testing.assert_close(quantiser.linear(f, size), frame[:, :, 0])
    torch.testing.assert_close(quantiser.area(f, (3, 5)), F.avg_pool2d(f, 4))
    assert (quantiser.linear(f, (3, 5)) - quantiser.area(f, (3, 5))).abs().max() > 0.1


def test_the_residual_is_kept_at_full_size():
    """Each scale is quantised from what the sum of the ones before leaves of the full map."""
    f = torch.randn(2, 4, 4, 4)
    targets, used = quantiser.residual_bits(f, SIZES)
    for k in range(1, len(SIZES)):
        rest = f - quantiser.sum_codes(targets[:k], (4, 4))
        assert torch.equal(targets[k], quantiser.area(rest, SIZES[k]) > 0)
    assert all(torch.equal(a, b) for a, b in zip(targets, used, strict=True))
    with pytest.raises(ValueError, match=r"last size must be the features' own, \(4, 4\)"):
        quantiser.residual_bits(f, SIZES[:2])


def test_finer_scales_come_nearer():
    f = 0.3 * torch.randn(4, 16, 16, 16)
    targets, _ = quantiser.residual_bits(f, schedule(1.0, 7).sizes)
    errors = [(f - quantiser.sum_codes(targets[:k], (16, 16))).square().mean().item()
              for k in (1, 4, 6, 7)]  # fmt: skip
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.6 * errors[0]


def test_flips_change_later_targets():
    f = torch.randn(2, 4, 4, 4)
    plain, _ = quantiser.residual_bits(f, SIZES)
    flipped, used = quantiser.residual_bits(f, SIZES, lambda k, bits: ~bits if k == 0 else bits)
    assert torch.equal(flipped[0], plain[0]) and torch.equal(used[0], ~plain[0])
    assert not torch.equal(flipped[1], plain[1])
    assert torch.equal(flipped[1],
                       quantiser.area(f - quantiser.sum_codes(used[:1], (4, 4)), (2, 2)) > 0)


def test_patches_are_pixel_unshuffle_both_ways():
    x = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6).float()
    packed = quantiser.to_tokens(x, 2)
    assert packed.shape == (2, 6, 12)
    # Token 0, channel 0: its 2 x 2 places row by row; then channel 1.
    assert packed[0, 0, :4].tolist() == [0, 1, 6, 7] and packed[0, 0, 4] == 24
    assert packed[0, 1, 0] == 2  # the next token lies to the right
    assert torch.equal(quantiser.from_tokens(packed, (2, 3), 2), x)


# ------------------------------------------------------------------------------ the network


# Parameters: measured in the official code; d16, d24 and d64 follow from d32's by the two
# convolutions that depend on d: (512 * 9 + 1) + 512 * 9 a bit.
@pytest.mark.parametrize(("name", "count", "keys"), [
    ("d32", 110_118_051, (114, 154)), ("d32reg", 110_118_051, (114, 154)),
    ("d16", 110_118_051 - 16 * 9217, (114, 154)), ("d24", 110_118_051 - 8 * 9217, (114, 154)),
    ("d64", 110_118_051 + 32 * 9217, (114, 154)),
    ("d56_f8_14_patchify", 81_624_209, None),
])  # fmt: skip
def test_published_sizes(name, count, keys):
    with torch.device("meta"):
        model = InfinityTokenizer(**asdict(TOKENIZERS[name]))
    assert sum(p.numel() for p in model.parameters()) == count
    state = model.state_dict()
    if keys:
        own = tuple(sum(key.startswith(part) for key in state) for part in ("encoder", "decoder"))
        assert own == keys and len(state) == sum(keys)
        assert state["decoder.conv_in.conv.weight"].shape[1] == int(name[1:3])
        assert state["encoder.down.1.block.0.nin_shortcut.conv.weight"].shape == (256, 128, 1, 1)
        assert state["encoder.down.3.downsample.conv.conv.weight"].shape == (512, 512, 3, 3)
        assert state["decoder.up.1.upsample.conv.conv.weight"].shape == (256, 256, 3, 3)
        assert state["decoder.norm_out.norm.weight"].shape == (128,)
    assert model.stride == 16 and model.token_bits == (56 if name.startswith("d56") else
                                                       int(name[1:3]))  # fmt: skip


def test_bits_reproduce_the_sum_that_they_were_made_of():
    model, images = tiny(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        f, bits = model.features(images), model.encode(images, SIZES)
        assert [tuple(b.shape) for b in bits] == [(2, 1, 4), (2, 4, 4), (2, 16, 4)]
        targets, _ = quantiser.residual_bits(f, SIZES)
        direct = model.decode(quantiser.sum_codes(targets, (4, 4)))
        assert torch.equal(model.decode_tokens(bits, SIZES), direct)
        coarse = model.decode_tokens(bits[:2], SIZES)
        assert coarse.shape == (2, 3, 32, 32) and not torch.equal(coarse, direct)
    for given in ([], [*bits, bits[0]]):
        with pytest.raises(ValueError, match=f"1 to 3 scales, given {len(given)}"):
            model.decode_tokens(given, SIZES)


def test_patched_bits_are_the_doubled_maps():
    """The 8B model's way: the quantiser works at twice the sizes, a token holds 2 x 2 places."""
    model, images = tiny(patch=2), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        bits = model.encode(images, SIZES)
        targets, _ = quantiser.residual_bits(model.features(images), ((2, 2), (4, 4), (8, 8)))
        assert [tuple(b.shape) for b in bits] == [(2, 1, 16), (2, 4, 16), (2, 16, 16)]
        f_hat = quantiser.sum_codes(targets, (8, 8))
        assert torch.equal(model.decode_tokens(bits, SIZES), model.decode(f_hat))
        told = model.next_input(f_hat, (2, 2))
        assert torch.equal(told, F.pixel_unshuffle(quantiser.linear(f_hat, (4, 4)), 2)
                           .flatten(2).transpose(1, 2))  # fmt: skip


def test_the_next_input_is_resized_linearly():
    model = tiny()
    f_hat = torch.randn(2, 4, 8, 8)
    told = model.next_input(f_hat, (2, 2)).transpose(1, 2).reshape(2, 4, 2, 2)
    assert torch.equal(told, quantiser.linear(f_hat, (2, 2)))
    assert (told - quantiser.area(f_hat, (2, 2))).abs().max() > 0.1


def test_downsampling_pads_right_and_below():
    model = tiny()
    x = torch.randn(1, 8, 6, 6)
    conv = model.encoder.down[0].downsample.conv.conv
    padded = F.pad(x, (0, 1, 0, 1))
    want = F.conv2d(padded, conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(model.encoder.down[0].downsample(x), want)
    assert want.shape[-2:] == (3, 3)


def test_a_decoder_of_fewer_levels_makes_the_pixels_that_are_left():
    """Its last convolution's 3 s^2 channels are s x s pixels: channel c, then row, then column."""
    whole, light = tiny(), tiny(decoder_widths=(8,))
    assert light.config.decoder_widths == (8,) and len(light.decoder.up) == 1
    f = torch.randn(1, 4, 3, 5)
    with torch.no_grad():
        assert light.decode(f).shape == whole.decode(f).shape
        x = light.decoder.up[0](light.decoder.mid(light.decoder.conv_in(f)))
        out = light.decoder.conv_out(light.decoder.norm_out(x))
        s = light.factor
        want = out.reshape(1, 3, s, s, 3, 5).permute(0, 1, 4, 2, 5, 3).reshape(1, 3, 3 * s, 5 * s)
        assert torch.equal(light.decoder(f), want)
    for widths in ((), (8,) * (len(whole.config.widths) + 1)):
        with pytest.raises(ValueError, match="the decoder must have 1 to"):
            tiny(decoder_widths=widths)


def test_the_sticker_decoder_is_light():
    """About 8.5 % of what the transformer computes for a picture, as 9.85 of the 2B's 115.3
    TFLOP, so that previews weigh in a search as they do there."""
    config = PRESETS["sticker"]()
    sizes = config.schedule.sizes
    with torch.device("meta"):
        vae = InfinityTokenizer(**asdict(config.tokenizer))
        transformer = InfinityTransformer(**asdict(config.transformer))
    drawn = 2 * sum(scale_flops(transformer, sizes, k, 10) for k in range(len(sizes)))
    assert decoder_flops(vae, sizes) / drawn == pytest.approx(0.085, abs=0.01)
