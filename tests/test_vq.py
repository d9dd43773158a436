"""Codebooks of unit vectors, and the plain tokenizers around them.

Figures of the official code: FoundationVision/LlamaGen at ce98ec4, on a CPU, float32, with an
encoder and a decoder of 32, 32, 64 channels and 64 codes of 4; weights of `tiny_vq`.
"""

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from vector_quantize_pytorch import FSQ

from impasto.models.codebooks import Codebook
from impasto.models.conversion import shape_of
from impasto.models.discrete import check_digest
from impasto.models.llamagen import from_llamagen
from impasto.models.storage import network_from
from impasto.models.vq import PRESETS, VQTokenizer
from impasto.models.vq.convert import official_tokenizer, tokenizer_sizes
from impasto.zoo.convert import convert
from tests import tiny_vq

FEATURES = [1.41117, -0.55121, -1.36693, -0.90129, -0.9781, 0.07217]
IDS = [[31, 7, 29, 47, 27, 52, 40, 42, 14, 17, 20, 40, 59, 59, 13, 63],
       [63, 31, 31, 42, 63, 43, 60, 60, 25, 9, 23, 20, 59, 29, 13, 37]]  # fmt: skip
DECODED = [0.28573, -0.26407, 0.58033, 0.01315, 0.38601, 1.0355]
VQ_LOSS, COMMIT_LOSS = 0.042746, 0.0106865


def published():
    """The small model of the figures, under our names."""
    model = tiny_vq.tokenizer(widths=(32, 32, 64), z=16, vocabulary=64, channels=4, blocks=2,
                              groups=32)  # fmt: skip
    shapes = {key: tuple(x.shape) for key, x in official_tokenizer(model).items()}
    state, _ = from_llamagen(tiny_vq.official_state(shapes))
    del state["quantize.codebook_used"]
    model.load_state_dict(state)
    return model


# ------------------------------------------------------------------------------ the codebook


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.1), (1.0, 10.0), (1.0, 0.0), (0.0, 1.0)])
def test_one_product_finds_the_smallest_sum_of_distances(weights):
    torch.manual_seed(0)
    book = Codebook(50, {"a": 6, "b": 3}, weights)
    z = torch.randn(2, 9, 3, 4)
    unit = [F.normalize(part, dim=1) for part in z.split([6, 3], 1)]
    codes = [F.normalize(book.get_submodule(name).weight, dim=1) for name in "ab"]
    d = sum(w * (u.flatten(2)[:, :, None] - e.t()[None, :, :, None]).square().sum(1)
            for w, u, e in zip(weights, unit, codes, strict=True))  # fmt: skip
    assert torch.equal(book.nearest(z), d.argmin(1))


def test_both_halves_of_a_code_have_length_one():
    book = Codebook(20, {"a": 6, "b": 3})
    z_q = book.learnt(5 * torch.randn(2, 9, 2, 2)).z_q
    for half in z_q.split([6, 3], 1):
        assert torch.allclose(half.norm(dim=1), torch.ones(2, 2, 2), atol=1e-6)


def test_features_and_codes_learn_from_their_own_losses():
    torch.manual_seed(0)
    book, z = Codebook(8, {"a": 4}), torch.randn(1, 4, 2, 2, requires_grad=True)
    out = book.learnt(z)
    assert torch.allclose(out.commit, 0.25 * out.vq)
    [of_codes] = torch.autograd.grad(out.vq, book.a.weight, retain_graph=True)
    assert of_codes.abs().sum() > 0
    assert torch.autograd.grad(out.vq, z, retain_graph=True, allow_unused=True)[0] is None
    assert torch.autograd.grad(out.commit, z, retain_graph=True)[0].abs().sum() > 0
    assert torch.autograd.grad(out.commit, book.a.weight, retain_graph=True,
                               allow_unused=True)[0] is None  # fmt: skip
    # Straight through: the gradient is that of the normalised features.
    unit = F.normalize(z, dim=1)
    g = torch.randn_like(z)
    assert torch.allclose(torch.autograd.grad(out.z_q, z, g)[0],
                          torch.autograd.grad(unit, z, g)[0])  # fmt: skip


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be 2 numbers"):
        Codebook(8, {"a": 4, "b": 4}, weights)


# ------------------------------------------------------------------------------ the official code


def test_features_ids_and_pictures_are_the_official_ones():
    model, x = published(), tiny_vq.pictures()
    with torch.no_grad():
        f = model.features(x)
        ids = model.encode(x)[0]
        y = model.picture(model.features_of([ids], model.sizes_of(16, 16)))
    assert f.flatten()[::23][:6].tolist() == pytest.approx(FEATURES, abs=2e-5)
    assert ids.tolist() == IDS
    assert y.flatten()[::257][:6].tolist() == pytest.approx(DECODED, abs=1e-4)
    out = model.quantize.learnt(f)
    assert float(out.vq.detach()) == pytest.approx(VQ_LOSS, rel=1e-4)
    assert float(out.commit.detach()) == pytest.approx(COMMIT_LOSS, rel=1e-4)


def test_the_published_model_has_the_published_tensors():
    with torch.device("meta"):
        model = VQTokenizer(**asdict(PRESETS["ds16"]()))
    names = official_tokenizer(model)
    assert sum(key.startswith("encoder.") for key in names) == 144
    assert sum(key.startswith("decoder.") for key in names) == 194
    assert names["encoder.conv_out.weight"].shape == (256, 512, 3, 3)
    assert names["encoder.conv_blocks.4.attn.1.q.weight"].shape == (512, 512, 1, 1)
    assert names["decoder.conv_blocks.0.attn.2.proj_out.weight"].shape == (512, 512, 1, 1)
    assert names["quantize.codebook_used"].shape == (65536,)
    own = sum(p.numel() for p in model.parameters())
    assert round(own / 1e6, 2) == 71.88
    assert round((own - sum(p.numel() for p in model.decoder.parameters())) / 1e6, 2) == 29.43
    assert tokenizer_sizes(model.state_dict()) == {
        key: value for key, value in asdict(PRESETS["ds16"]()).items() if key != "levels"}


def test_a_published_file_and_back(tmp_path):
    model = published()
    foreign = official_tokenizer(model)
    torch.save({"model": foreign, "steps": 3}, tmp_path / "foreign.pt")
    report = convert(tmp_path / "foreign.pt", "vq", tmp_path / "out")
    assert report.dropped == ("quantize.codebook_used",)
    back = official_tokenizer(network_from(VQTokenizer, tmp_path / "out"))
    assert set(back) == set(foreign)
    assert all(torch.equal(back[key], foreign[key]) for key in foreign)


@pytest.mark.parametrize(
    "key", ["encoder.mid.1.k.weight", "decoder.conv_blocks.0.res.1.conv1.bias"]
)
def test_a_file_without_a_tensor_is_refused(tmp_path, key):
    foreign = official_tokenizer(published())
    del foreign[key]
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="missing"):
        convert(tmp_path / "foreign.pt", "vq", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_file_is_refused():
    with pytest.raises(ValueError, match="no such checkpoint"):
        shape_of({}, "quantize.embedding.weight")


# ------------------------------------------------------------------------------ levels


def test_levels_are_the_librarys():
    model = tiny_vq.tokenizer(vocabulary=None, channels=None, levels=(5, 4, 3))
    x = torch.rand(2, 3, 16, 16)
    z = model.features(x)
    codes, ids = FSQ(levels=[5, 4, 3])(z.flatten(2).transpose(1, 2))
    assert model.vocabulary == 60
    assert torch.equal(model.encode(x)[0], ids.long())
    assert torch.allclose(model.codes(ids.long()), codes)


@pytest.mark.parametrize("given", [{"levels": (5, 4)}, {"vocabulary": None}])
def test_codes_or_levels_not_both(given):
    with pytest.raises(ValueError, match="either a vocabulary"):
        tiny_vq.tokenizer(**given)


# ------------------------------------------------------------------------------ bad input


def test_pictures_of_odd_sizes_are_refused():
    model = tiny_vq.tokenizer()
    for side in (4, 20):
        with pytest.raises(ValueError, match="multiples of 8 pixels"):
            model.encode(torch.rand(1, 3, side, side))


def test_ids_that_cannot_be_are_refused():
    model = tiny_vq.tokenizer()
    sizes = model.sizes_of(16, 16)
    good = torch.zeros(1, 4, dtype=torch.int64)
    assert model.decode_tokens([good], sizes).shape == (1, 3, 16, 16)
    for ids in ([good + 32], [good - 1], [good.float()]):
        with pytest.raises(ValueError, match="from 0 to 31"):
            model.decode_tokens(ids, sizes)
    with pytest.raises(ValueError, match="2 x 2 = 4 ids"):
        model.decode_tokens([good[:, :3]], sizes)
    with pytest.raises(ValueError, match="ids of 1 to 1 maps"):
        model.decode_tokens([good, good], sizes)


def test_another_tokenizers_ids_are_refused():
    one, other = tiny_vq.tokenizer(seed=0), tiny_vq.tokenizer(seed=1)
    check_digest(one.token_digest(), one, "m")
    check_digest(None, other, "m")
    both = f"{one.token_digest()[:12]}.*{other.token_digest()[:12]}"
    with pytest.raises(ValueError, match=both):
        check_digest(one.token_digest(), other, "the model")


def test_the_decoder_is_no_part_of_the_digest():
    model = tiny_vq.tokenizer()
    before = model.token_digest()
    with torch.no_grad():
        model.decoder.conv_in.weight.add_(1)
    assert model.token_digest() == before
    with torch.no_grad():
        model.encoder.conv_in.weight.add_(1)
    assert model.token_digest() != before
