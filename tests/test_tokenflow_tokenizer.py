"""TokenFlow's tokenizer.

Figures of the official code: ByteFlow-AI/TokenFlow at 9812da0, on a CPU, float32, its classes at
the sizes of `tiny_tokenflow.PUBLISHED`, with its weights; at 24 px positions are interpolated.
"""

import functools
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from impasto.models.storage import network_from
from impasto.models.tokenflow import TOKENIZERS, TokenFlowTokenizer
from impasto.models.tokenflow.convert import official_tokenizer, ours_of, tokenizer_sizes
from impasto.models.tokenflow.semantic import SemanticEncoder, Teacher
from impasto.models.tokenflow.train import drop_scale, quantised, semantic_loss
from impasto.zoo.convert import convert
from tests import tiny_tokenflow

IDS = {
    16: [[49, 22, 34, 4, 4, 19, 19, 19, 23, 58, 43, 38, 13, 19, 43, 21, 5, 62, 30, 30, 3],
         [49, 56, 6, 56, 17, 58, 46, 46, 32, 28, 43, 43, 43, 54, 62, 30, 35, 48, 4, 30, 9]],
    24: [[49, 34, 34, 25, 25, 19, 19, 15, 19, 19, 19, 38, 55, 38, 47, 38, 23, 10, 10, 1, 10, 38,
          8, 51, 43, 56, 51, 21, 31, 19, 10, 42, 30, 42, 4, 62, 62, 62, 62, 62, 11],
         [49, 43, 43, 56, 25, 58, 53, 53, 53, 51, 51, 51, 29, 21, 21, 53, 6, 18, 43, 43, 51, 43,
          6, 42, 42, 54, 42, 57, 29, 54, 54, 54, 40, 3, 9, 48, 48, 9, 62, 3, 29]],
}  # fmt: skip
SUM = {16: [-0.81125, -0.34487, -0.35871, 0.1141, -0.8666, -0.1617],
       24: [-0.95666, 0.93039, -0.19054, -0.67839, -0.60701, -0.57025]}  # fmt: skip
MEANING = {16: [0.6545, 0.3249, 1.96248, 0.26991, -2.35974, -0.5142],
           24: [0.81333, -1.77311, 2.08598, 0.23109, -0.79115, 1.65247]}  # fmt: skip
PICTURE = {16: [-0.07197, -0.0578, -0.73327, 0.37005, 0.56742, -0.65478],
           24: [-0.15053, 0.53942, 0.5285, 0.63359, -0.31752, 0.27795]}  # fmt: skip
TWO_SCALES = {16: [-0.01773, 0.81764, -0.26466, 0.06156, 0.42672, -0.54783],
              24: [-0.07579, 0.64973, 0.06688, 1.19511, -0.60102, -0.11497]}  # fmt: skip
LOSSES = {16: (0.102808677, 0.025702169), 24: (0.108184576, 0.027046144)}
GRADIENT = {16: [38.03282, 34.36127, 48.17442, 54.98883],
            24: [20.79094, 46.78565, 76.28668, 86.02843]}  # fmt: skip
SIDES = (16, 24)


@functools.cache
def published(side=16):
    """The small model of the figures at one of two sizes, through the converter's names."""
    changes = tiny_tokenflow.PUBLISHED | {"image": side, "scales": (1, 2, side // 4)}
    model = TokenFlowTokenizer(**changes).eval()
    shapes = {key: tuple(x.shape) for key, x in official_tokenizer(model).items()}
    del shapes["quantize.codebook_used"]
    official = tiny_tokenflow.official_state(shapes)
    model.load_state_dict(ours_of(official)[0])
    return model


def some(x, every):
    return x.detach().flatten()[::every][:6].tolist()


# ------------------------------------------------------------------------------ the official code


@pytest.mark.parametrize("side", SIDES)
@torch.no_grad()
def test_ids_features_meaning_and_picture_are_the_official_ones(side):
    model, x = published(side), tiny_tokenflow.pictures(side)
    ids = model.encode(x)
    assert torch.cat(ids, 1).tolist() == IDS[side]
    f = model.features_of(ids, model.scales)
    assert some(f, 31) == pytest.approx(SUM[side], abs=1e-4)
    assert some(model.meaning(f), 29) == pytest.approx(MEANING[side], abs=2e-4)
    assert some(model.picture(f), 117) == pytest.approx(PICTURE[side], abs=5e-4)
    two = model.features_of(ids[:2], model.scales)
    assert some(model.picture(two), 117) == pytest.approx(TWO_SCALES[side], abs=5e-4)


@pytest.mark.parametrize("side", SIDES)
def test_losses_and_gradient_are_the_official_ones(side):
    model = published(side)
    out = quantised(model, model.features(tiny_tokenflow.pictures(side)), model.scales)
    assert [float(out.vq.detach()), float(out.commit.detach())] == pytest.approx(LOSSES[side])
    g = torch.linspace(-1, 1, out.f.numel()).view_as(out.f)
    [gradient] = torch.autograd.grad((out.f * g).sum(), model.quant_conv.bias)
    assert gradient.tolist() == pytest.approx(GRADIENT[side], rel=1e-4)
    assert torch.equal(torch.cat(out.ids, 1), torch.tensor(IDS[side]))


# ------------------------------------------------------------------------------ full size

PARTS = {"b-enhanced": {"encoder": 144, "decoder": 294, "encoder_vqkd": 151, "decoder_vqkd": 45,
                        "encode_task_layer": 4, "decode_task_layer": 4, "quant_conv": 2,
                        "post_quant_conv": 2, "quantize": 3},
         "xl": {"encoder": 144, "decoder": 194, "encoder_vqkd": 448, "decoder_vqkd": 45,
                "encode_task_layer": 4, "decode_task_layer": 4, "quant_conv": 2,
                "post_quant_conv": 2, "quantize": 3, "scaling_layer": 2}}  # fmt: skip
MILLIONS = {"b-enhanced": 376.6, "xl": 554.0}
SHAPES = {
    "b-enhanced": {
        "encoder.conv_out.weight": (256, 512, 3, 3), "quant_conv.weight": (8, 256, 1, 1),
        "decoder.conv_in.weight": (1024, 256, 3, 3), "decoder.conv_out.weight": (3, 256, 3, 3),
        "encoder_vqkd.class_embedding": (768,), "encoder_vqkd.positional_embedding": (197, 768),
        "encoder_vqkd.conv1.weight": (768, 3, 16, 16), "decoder_vqkd.cls_token": (1, 1, 768),
        "encoder_vqkd.transformer.resblocks.11.attn.in_proj_weight": (2304, 768),
        "decoder_vqkd.pos_embed": (1, 197, 768), "encode_task_layer.2.weight": (32, 768),
        "decoder_vqkd.patch_embed.proj.weight": (768, 32, 1, 1),
        "decode_task_layer.2.weight": (512, 768), "quantize.embedding_vqkd.weight": (32768, 32),
        "quantize.embedding_vqgan.weight": (32768, 8), "quantize.codebook_used": (131072,)},
    "xl": {
        "encoder_vqkd.vision_model.encoder.layers.26.mlp.fc1.weight": (4304, 1152),
        "encoder_vqkd.vision_model.head.probe": (1, 1, 1152), "scaling_layer.shift": (1, 3, 1, 1),
        "decoder_vqkd.pos_embed": (1, 730, 1152), "decoder_vqkd.blocks.2.attn.q_bias": (1152,),
        "decode_task_layer.2.weight": (1152, 1152), "decoder.conv_in.weight": (512, 256, 3, 3)},
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_the_published_models_have_the_published_tensors(name):
    config = asdict(TOKENIZERS[name]())
    with torch.device("meta"):
        model = TokenFlowTokenizer(**config)
        official = official_tokenizer(model)
    stems = [key.partition(".")[0] for key in official]
    assert {stem: stems.count(stem) for stem in stems} == PARTS[name]
    assert SHAPES[name].items() <= {k: tuple(x.shape) for k, x in official.items()}.items()
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == MILLIONS[name]
    assert tokenizer_sizes(model.state_dict()) == config


@pytest.mark.parametrize(("name", "ids", "scales"),
                         [("b", 561, 8), ("b-256", 817, 9), ("l", 817, 9), ("xl", 2227, 15)])
def test_the_published_numbers_of_ids(name, ids, scales):
    config = TOKENIZERS[name]()
    assert (sum(side**2 for side in config.scales), len(config.scales)) == (ids, scales)


# ------------------------------------------------------------------------------ files


def test_a_published_file_and_back(tmp_path):
    foreign = official_tokenizer(published())
    torch.save({"model": {}, "ema": foreign, "steps": 3}, tmp_path / "foreign.pt")
    report = convert(tmp_path / "foreign.pt", "tokenflow-tokenizer", tmp_path / "out")
    assert report.dropped == ("quantize.codebook_used",)
    back = network_from(TokenFlowTokenizer, tmp_path / "out")
    assert back.config["vocabulary"] == 64 and back.config["widths"] == [32, 32, 64]
    for key, tensor in official_tokenizer(back).items():
        assert torch.equal(tensor, foreign[key])


def test_a_file_with_something_more_is_refused(tmp_path):
    foreign = official_tokenizer(published()) | {"quantize.embedding_third.weight": torch.ones(2)}
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="embedding_third"):
        convert(tmp_path / "foreign.pt", "tokenflow-tokenizer", tmp_path / "out")


# ------------------------------------------------------------------------------ what it is made of


def test_both_halves_share_the_index_of_the_smallest_sum():
    model = tiny_tokenflow.tokenizer()
    h = model.features(torch.rand(2, 3, 32, 32))
    first = F.interpolate(h, size=(1, 1), mode="area")[..., 0, 0]
    semantic, pixel = first.split([6, 4], 1)
    d = sum((F.normalize(a, dim=1)[:, None] - F.normalize(e.weight, dim=1)[None]).square().sum(-1)
            for a, e in zip((semantic, pixel), model.quantize.embeddings, strict=True))
    assert torch.equal(model.quantize.nearest(first[..., None, None])[:, 0], d.argmin(1))


@pytest.mark.parametrize(("weights", "half"), [((1.0, 0.0), "semantic"), ((0.0, 1.0), "pixel")])
def test_one_distance_alone_decides_where_the_other_weighs_nothing(weights, half):
    model = tiny_tokenflow.tokenizer(weights=weights)
    h = torch.randn(2, 10, 4, 4)
    changed = h.clone()
    changed[:, slice(6, 10) if half == "semantic" else slice(0, 6)] = torch.randn(1)
    assert torch.equal(model.quantize.nearest(h), model.quantize.nearest(changed))
    assert not torch.equal(model.quantize.nearest(h), model.quantize.nearest(-h))


def test_semantic_codes_alone_have_no_pixel_side():
    model = tiny_tokenflow.tokenizer(pixel_channels=0, scales=(4,))
    assert model.channels == 6 and not hasattr(model, "encoder")
    x = torch.rand(1, 3, 32, 32)
    assert model.decode_tokens(model.encode(x), model.scales).shape == x.shape


def test_the_semantic_encoder_learns_and_the_teacher_does_not():
    model = tiny_tokenflow.tokenizer().train()
    tower = SemanticEncoder("clip", TOKENIZERS["tiny"]().vision, (0.5,) * 3, (0.5,) * 3)
    teacher = Teacher(tower, torch.randn(16, 12))
    x = torch.rand(2, 3, 32, 32)
    out = quantised(model, model.features(x), model.scales)
    semantic_loss(model.meaning(out.f), teacher(x)).backward()
    assert model.encoder_vqkd.vision.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert model.decoder_vqkd.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0
    assert model.decoder.conv_in.weight.grad is None, "the picture's decoder has no part in it"
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_speaks_in_the_space_shared_with_texts():
    tower = SemanticEncoder("clip", TOKENIZERS["tiny"]().vision, (0.1, 0.2, 0.3), (0.5,) * 3)
    projection = torch.randn(16, 12)
    x = torch.rand(1, 3, 32, 32)
    h = tower.vision(pixel_values=(x - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5)
    wanted = tower.vision.post_layernorm(h.last_hidden_state)[:, 1:] @ projection
    assert torch.allclose(Teacher(tower, projection)(x), wanted, atol=1e-5)


def test_siglips_last_layer_has_no_say_and_stays():
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    tower = SemanticEncoder("siglip", vision, (0.5,) * 3, (0.5,) * 3)
    x = torch.rand(1, 3, 28, 28)
    h = tower.vision(2 * x - 1, output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(tower(x), h, atol=1e-6)
    frozen = {name.partition(".")[0] for name, p in tower.vision.named_parameters()
              if not p.requires_grad}  # fmt: skip
    assert frozen == {"encoder", "post_layernorm", "head"}
    assert all(p.requires_grad for p in tower.vision.encoder.layers[1].parameters())


def test_a_grid_of_odd_patches_has_a_larger_picture_for_the_pixel_side():
    """As XL: 28 px by 2 x 2 patches of 14, the pixel side at 32 px."""
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    model = tiny_tokenflow.tokenizer(image=28, scales=(1, 2), tower="siglip", vision=vision,
                                     tower_side=2, widths=(8, 8, 8, 8, 16))  # fmt: skip
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 3, 28, 28)
    ids = model.encode(x)
    wanted = F.interpolate(2 * x - 1, size=(32, 32), mode="bicubic")
    assert torch.equal(seen[0], wanted)
    assert model.decode_tokens(ids, model.scales).shape == x.shape


def test_scales_are_dropped_but_never_the_first():
    scales = tuple((side, side) for side in (1, 2, 3, 4, 6))
    plan = torch.Generator().manual_seed(0)
    drawn = [drop_scale(scales, 0.1, plan) for _ in range(2000)]
    missing = [set(scales) - set(own) for own in drawn]
    assert all(len(own) <= 1 for own in missing)
    assert 0.07 < sum(map(bool, missing)) / 2000 < 0.13
    assert set().union(*missing) == set(scales[1:])


def test_losses_of_a_shorter_list_are_of_its_scales():
    model = tiny_tokenflow.tokenizer().train()
    h = model.features(torch.rand(2, 3, 32, 32))
    out = quantised(model, h, model.scales[:2])
    assert len(out.ids) == 2
    assert torch.allclose(out.f, model.features_of(out.ids, model.scales), atol=1e-5)


def test_a_decoder_trained_alone_leaves_ids_as_they_are():
    model, x = tiny_tokenflow.tokenizer(), torch.rand(2, 3, 32, 32)
    before, digest = model.encode(x), model.token_digest()
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    y = model.picture(model.features_of(before, model.scales))
    F.mse_loss(y, x).backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.encode(x), before, strict=True))
    assert model.token_digest() == digest
    assert not torch.equal(model.picture(model.features_of(before, model.scales)), y)


# ------------------------------------------------------------------------------ bad input


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="32 x 32 pixels, not 40 x 32"):
        tiny_tokenflow.tokenizer().encode(torch.rand(1, 3, 32, 40))


def test_an_unknown_tower_is_refused():
    with pytest.raises(ValueError, match="allowed: clip, siglip, vitamin"):
        tiny_tokenflow.tokenizer(tower="dino")


def test_ids_that_end_inside_a_scale_are_refused():
    model = tiny_tokenflow.tokenizer()
    first, second = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.int64)
    assert model.decode_tokens([first, second], model.scales).shape == (1, 3, 32, 32)
    with pytest.raises(ValueError, match="map 1 has 2 x 2 = 4 ids"):
        model.decode_tokens([first, second[:, :2]], model.scales)
