"""A tokenizer that starts from a KL autoencoder computes what that one computed."""

import pytest
import torch
from diffusers.models import AutoencoderKL

from impasto.models.infinity import InfinityTokenizer, from_autoencoder, from_tokenizer

WIDTHS = (8, 8, 16)


def autoencoder(widths=WIDTHS, attention=False, channels=3):
    n = len(widths)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * n,
            up_block_types=("UpDecoderBlock2D",) * n, block_out_channels=widths,
            layers_per_block=1, latent_channels=channels, norm_num_groups=4,
            use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=attention,
        )  # fmt: skip
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tokenizer(bits=5, **changes):
    sizes = {"widths": WIDTHS, "blocks": 1, "groups": 4} | changes
    return InfinityTokenizer(bits=bits, **sizes).eval()


@torch.no_grad()
def test_it_computes_the_same_without_the_bits():
    """At latents of mean 0; another mean is right but for the zeros around the features."""
    kl, x = autoencoder(), torch.rand(2, 3, 24, 16)
    std = torch.tensor([0.5, 1.0, 2.0])
    made = from_autoencoder(tokenizer(), kl, torch.zeros(3), std)
    z = kl.encode(2 * x - 1).latent_dist.mean
    f = made.features(x)
    torch.testing.assert_close(f[:, :3], z * 2 / (std[:, None, None] * 5**0.5))
    want = (kl.decode(z).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(made.decode(f), want, rtol=1e-4, atol=1e-5)
    moved = from_autoencoder(tokenizer(), kl, torch.tensor([1.0, -2.0, 0.5]), std)
    near = moved.decoder.conv_in(moved.features(x))[..., 1:-1, 1:-1]
    torch.testing.assert_close(near, kl.decoder.conv_in(z)[..., 1:-1, 1:-1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_is_left_out_and_new_features_are_not_heard_yet():
    made = from_autoencoder(tokenizer(), autoencoder(attention=True), torch.zeros(3),
                            torch.ones(3))  # fmt: skip
    f = made.features(torch.rand(1, 3, 16, 16))
    changed = f.clone()
    changed[:, 3:] += 1
    assert f[:, 3:].std() > 0 and torch.equal(made.decode(f), made.decode(changed))


@pytest.mark.parametrize("changes", [{"blocks": 2}, {"widths": (8, 16, 16)}, {"bits": 2}])
def test_another_network_is_refused(changes):
    with pytest.raises(ValueError, match="an autoencoder of 3 channels cannot start a tokenizer"):
        from_autoencoder(tokenizer(**changes), autoencoder(), torch.zeros(3), torch.ones(3))


@torch.no_grad()
def test_a_decoder_of_its_own_is_left_alone():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        light = tokenizer(decoder_widths=(4, 4))
    before = {key: value.clone() for key, value in light.decoder.state_dict().items()}
    std, x = torch.tensor([0.5, 1.0, 2.0]), torch.rand(1, 3, 16, 16)
    made = from_autoencoder(light, autoencoder(), torch.zeros(3), std)
    whole = from_autoencoder(tokenizer(), autoencoder(), torch.zeros(3), std)
    assert torch.equal(made.features(x)[:, :3], whole.features(x)[:, :3])
    assert all(torch.equal(before[key], value)
               for key, value in made.decoder.state_dict().items())  # fmt: skip
    assert made.decode(made.features(x)).shape == x.shape


@torch.no_grad()
def test_another_decoder_for_the_same_bits():
    source, x = tokenizer(), torch.rand(2, 3, 16, 16)
    light = from_tokenizer(tokenizer(decoder_widths=(4, 4)), source)
    alike = from_tokenizer(tokenizer(), source)
    assert torch.equal(light.features(x), source.features(x))
    assert torch.equal(alike.decode(source.features(x)), source.decode(source.features(x)))
    assert not torch.equal(light.decode(source.features(x)), source.decode(source.features(x)))
    with pytest.raises(ValueError, match=r"cannot start one of .*: their encoders differ"):
        from_tokenizer(tokenizer(widths=(8, 16, 16)), source)
