"""Preference scores against numbers of the published code, transformers' own, and by hand.

Recorded: the networks and pictures of `tests/tiny_preference.py` went through the published code,
in float32 on a CPU: tgxs002/HPSv2 (866735e) with the open_clip in it; THUDM/ImageReward (c1392c6),
`ImageReward.score` over its own BLIP; jmhessel/clipscore (1036465), `get_clip_score` over HPSv2's
open_clip with QuickGELU; torchvision 0.28. Transforms and counts likewise.
"""

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel

from impasto.images import to_pil
from impasto.score.base import Score, ScorerBroken
from impasto.score.clip import OPENAI, load_clip
from impasto.score.preference import architecture
from impasto.score.preference.aesthetic import AestheticScorer, LinearHead
from impasto.score.preference.architecture import ARCHITECTURES, clip_config_of
from impasto.score.preference.clip_scores import FUNCTIONS, ClipPreference
from impasto.score.preference.convert import carried
from impasto.score.preference.image_reward import SIZES, ImageRewardNetwork, ImageRewardScorer
from impasto.score.preference.names import IMAGE_REWARD_UNUSED, clip_rows, image_reward_rows
from impasto.score.preference.pictures import SQUARES
from impasto.score.preference.variants import VARIANTS
from impasto.score.trained import check_prompts, check_ratings
from impasto.spec import COLORS, Item, Spec
from impasto.zoo.registry import SCORERS
from impasto.zoo.weights import shipped_folder
from tests import tiny_preference as tiny

IMAGES = [tiny.picture(i) for i in range(len(tiny.SIZES))]
HPS = [[0.3695, 0.447641, 0.446015], [0.372857, 0.45589, 0.453971],
       [0.367054, 0.450247, 0.448325], [0.377518, 0.457338, 0.455586]]  # fmt: skip
HPS_NOT_ANTIALIASED = [[0.3695, 0.447641, 0.446015], [0.371942, 0.455799, 0.453824],
                       [0.366664, 0.45023, 0.448271], [0.379227, 0.458729, 0.45701]]  # fmt: skip
CLIPSCORE = [[1.10033, 1.227449, 1.230059], [1.081795, 1.211197, 1.213681],
             [1.086314, 1.215299, 1.217911], [1.121288, 1.249904, 1.252364]]  # fmt: skip
IMAGE_REWARD = [[-2.93059, -2.92748, -2.928095], [-2.77296, -2.769316, -2.770255],
                [-2.916112, -2.912852, -2.913234], [-2.61579, -2.611994, -2.61311]]  # fmt: skip
LONG_IMAGE_REWARD = -2.923547


def clip(one):
    """A network of the formulas, from open_clip's names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", one)
        model = CLIPModel(clip_config_of("tiny"))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state, report = carried(tiny.tensors(tiny.open_clip_shapes(one)), clip_rows(model.config),
                            shapes, source="open_clip")  # fmt: skip
    report.check()
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module")
def gelu():
    return clip(tiny.CLIP)


@pytest.fixture(scope="module")
def quick():
    return clip(tiny.QUICK)


@pytest.fixture(scope="module")
def network():
    sizes = tiny.BLIP
    model = ImageRewardNetwork(sizes)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    state, report = carried(tiny.tensors(tiny.image_reward_shapes(sizes)),
                            image_reward_rows(sizes), shapes, source="ImageReward",
                            unused=IMAGE_REWARD_UNUSED)  # fmt: skip
    report.check()
    assert len(report.dropped) == 5
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module")
def image_reward(network):
    return ImageRewardScorer(network, tiny.bert_tokenizer())


def cosine(name, model):
    return ClipPreference(VARIANTS[name], model, tiny.clip_tokenizer())


def table(scorer, prompts=tiny.PROMPTS):
    """Rows of pictures, columns of prompts."""
    return [scorer.values([image] * len(prompts), list(prompts)) for image in IMAGES]


def assert_close(got, expected, tolerance=3e-5):
    torch.testing.assert_close(torch.tensor(got), torch.tensor(expected), atol=tolerance, rtol=0)


# Squares


@pytest.mark.parametrize(("square", "i", "expected"), [
    ("torchvision", 1, (0.20108, 1.50698, -0.2063, -0.32839)),
    ("torchvision", 2, (0.18714, 0.04714, 1.60964, 1.69086)),
    ("padded", 1, (-0.39107, -1.79226, 0.01113, 1.58094)),
    ("padded, not antialiased", 1, (-0.39011, -1.79226, -0.17304, 2.0959)),
])  # fmt: skip
def test_squares_are_the_published_transforms(square, i, expected):
    """Mean and three pixels, normalised, recorded from clipscore's and HPSv2's own transforms."""
    x = OPENAI(SQUARES[square](IMAGES[i], 32))
    assert_close([float(v) for v in (x.mean(), x[0, 0, 0], x[1, 16, 7], x[2, 16, 30])],
                 list(expected), 1e-5)  # fmt: skip


@pytest.mark.parametrize(("i", "expected"), [(1, (0.50363, 0.87304, 0.44402, 0.36366)),
                                             (2, (0.49979, 0.49722, 0.78633, 0.8181))])
def test_the_bilinear_square_is_torchvisions_of_tensors(i, expected):
    """Resize(32) and CenterCrop(32) of torchvision 0.28 on tensors."""
    x = SQUARES["bilinear"](IMAGES[i], 32)
    assert_close([float(v) for v in (x.mean(), x[0, 0, 0], x[1, 16, 7], x[2, 16, 30])],
                 list(expected), 1e-5)  # fmt: skip


@pytest.mark.parametrize("size", [(32, 47), (35, 32), (37, 53), (90, 64), (20, 31)])
def test_the_transformers_square_is_its_processors(size):
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32},
                                      crop_size={"height": 32, "width": 32})  # fmt: skip
    expected = processor(to_pil(image), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(OPENAI(SQUARES["transformers"](image, 32)), expected,
                               atol=1e-5, rtol=0)  # fmt: skip


def test_the_two_libraries_differ_by_a_pixel_where_rims_are_odd():
    image = torch.rand(3, 32, 47, generator=torch.Generator().manual_seed(1))
    first, second = (SQUARES[name](image, 32) for name in ("torchvision", "transformers"))
    assert torch.equal(first[:, :, :-1], second[:, :, 1:])


def test_padding_is_black_and_resized_pixels_are_not_clamped():
    image = torch.zeros(3, 60, 30)
    image[:, ::7] = 1
    x = SQUARES["padded"](image, 32)
    assert x.shape == (3, 32, 32) and float(x.min()) < -0.01
    assert not x[:, :, :8].any() and not x[:, :, 24:].any() and bool(x[:, :, 8:24].any())
    # By hand: 64 x 47 halves to 24 (23.5, rounded) and 64 x 46 to 23, whose rims are 4 and 5.
    for width, columns in ((47, range(4, 28)), (46, range(4, 27))):
        seen = SQUARES["padded"](torch.ones(3, 64, width), 32)[0, 16].nonzero().flatten()
        assert seen.tolist() == list(columns)
    exact = SQUARES["padded"](torch.ones(3, 32, 16), 32)
    assert exact[:, :, 8:24].eq(1).all() and exact.sum() == 3 * 32 * 16


# Values


def test_hps_is_the_published_packages(gelu):
    for name in ("hps-v2.0", "hps-v2.1"):
        assert_close(table(cosine(name, gelu)), HPS)


def test_hps_without_antialiasing_is_older_torchvisions(gelu):
    variant = replace(VARIANTS["hps-v2.1"], square="padded, not antialiased")
    own = ClipPreference(variant, gelu, tiny.clip_tokenizer())
    assert_close(table(own), HPS_NOT_ANTIALIASED)
    assert own.provenance()["preprocessing"]["square"] == "padded, not antialiased"


def test_clipscore_is_the_published_scripts(quick, gelu):
    for name in ("clipscore-b32", "clipscore-l14"):
        assert_close(table(cosine(name, quick)), CLIPSCORE)
    plain = torch.tensor(table(cosine("clipscore-b32", gelu)))
    assert (plain - torch.tensor(CLIPSCORE)).abs().max() > 1e-3  # so QuickGELU is tested


def test_clipscore_is_never_negative(quick):
    against = clip(tiny.QUICK)
    with torch.no_grad():
        against.text_projection.weight.neg_()
    assert table(cosine("clipscore-b32", against)) == [[0.0] * 3] * 4
    raw = torch.tensor(table(cosine("clip100-b32", against)))
    assert bool((raw < -1).all())


@torch.no_grad()
def by_transformers(model, square):
    """Logits of CLIPModel's own forward pass, and its scale."""
    rows = []
    for image in IMAGES:
        pixels = OPENAI(SQUARES[square](image, 32))[None]
        ids = [tiny.clip_tokenizer()(p, return_tensors="pt").input_ids for p in tiny.PROMPTS]
        rows.append([float(model(input_ids=i, pixel_values=pixels).logits_per_image)
                     for i in ids])  # fmt: skip
    return torch.tensor(rows), float(model.logit_scale.exp())


@pytest.mark.parametrize(("name", "square", "divisor"), [
    ("pickscore-v1", "transformers", 1), ("pickscore-v1-over-26", "transformers", 26),
    ("clip-l14-nft", "bilinear", 100),
])  # fmt: skip
def test_scores_with_the_models_scale_are_transformers_own_logits(gelu, name, square, divisor):
    logits, scale = by_transformers(gelu, square)
    assert scale == pytest.approx(1.313623, abs=1e-5)  # exp(0.3 sin i)
    torch.testing.assert_close(torch.tensor(table(cosine(name, gelu))), logits / divisor,
                               atol=2e-6, rtol=0)  # fmt: skip


def test_a_hundred_cosines_do_not_have_the_models_scale(quick):
    logits, scale = by_transformers(quick, "transformers")
    torch.testing.assert_close(torch.tensor(table(cosine("clip100-l14", quick))),
                               100 * logits / scale, atol=2e-4, rtol=0)  # fmt: skip


def test_image_reward_is_the_published_packages(image_reward):
    assert_close(table(image_reward), IMAGE_REWARD)
    long = "a red ball on " * 20
    with pytest.warns(UserWarning, match="81 tokens is scored by its first 34"):
        (value,) = image_reward.values(IMAGES[:1], [long])
    assert value == pytest.approx(LONG_IMAGE_REWARD, abs=3e-5)


def test_long_prompts_are_cut_before_the_end_token(gelu):
    own, text = cosine("hps-v2.1", gelu), "a red ball on a blue dog of a cat"
    with pytest.warns(UserWarning, match="13 tokens is scored by its first 11"):
        (long,) = own.values(IMAGES[:1], [f"{text} two two"])
    (cut,) = own.values(IMAGES[:1], [text])
    assert long == cut


def test_ratings_are_linear_in_unit_features_by_hand(quick):
    head = LinearHead(10)
    head.load_state_dict({f"layers.{key}": tiny.chirp(i, value.shape, 0.1) for i, (key, value)
                          in enumerate(head.layers.state_dict().items())})  # fmt: skip
    own = AestheticScorer(quick, head)
    for image in IMAGES:
        with torch.no_grad():
            pixels = OPENAI(SQUARES["torchvision"](image, 32))[None]
            x = quick.get_image_features(pixel_values=pixels).pooler_output[0].double()
        x = x / x.norm()
        for i in (0, 2, 4, 6, 7):
            layer = head.layers[i]
            x = layer.weight.detach().double() @ x + layer.bias.detach().double()
        values = own.values([image, image], ["a red ball", ""])
        assert values == pytest.approx([float(x)] * 2, abs=1e-5) and values[0] == values[1]


def test_linear_heads_have_the_published_names_and_no_activations():
    with torch.device("meta"):
        head = LinearHead(768)
    assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
        f"layers.{i}.{part}": (b, a) if part == "weight" else (b,)
        for i, a, b in ((0, 768, 1024), (2, 1024, 128), (4, 128, 64), (6, 64, 16), (7, 16, 1))
        for part in ("weight", "bias")
    }  # fmt: skip
    assert {type(layer).__name__ for layer in head.layers} == {"Linear", "Dropout"}


# As scorers


@pytest.fixture(params=["clipscore-b32", "pickscore-v1", "hps-v2.1", "image-reward-v1.0",
                        "laion-aesthetic-v2"])  # fmt: skip
def any_scorer(request, quick, gelu, image_reward):
    if request.param == "image-reward-v1.0":
        return image_reward
    if request.param.startswith("laion"):
        return AestheticScorer(quick, LinearHead(10))
    return cosine(request.param, gelu)


def test_order_batch_and_company_change_no_bit(any_scorer):
    prompts = [*tiny.PROMPTS, tiny.PROMPTS[0]]
    together = any_scorer.values(IMAGES, prompts)
    alone = [any_scorer.values([image], [p])[0] for image, p in zip(IMAGES, prompts, strict=True)]
    assert together == alone == any_scorer.values(IMAGES[::-1], prompts[::-1])[::-1]
    assert len(set(together)) == 4


def test_every_scorer_fits_the_protocol(any_scorer):
    specs = [Spec(tag="x", include=(Item(cls="dog"),), prompt=p) for p in tiny.PROMPTS[:2]]
    images = torch.stack([IMAGES[0], IMAGES[0].flip(-1)])
    scores = any_scorer.score(images, specs)
    assert scores == [Score(value=v) for v in any_scorer.values(images, tiny.PROMPTS[:2])]
    assert any_scorer.provenance()["id"] == any_scorer.name and not any_scorer.gives_verdict
    assert any_scorer.score(images[:0], []) == []
    with pytest.raises(ValueError, match="2 pictures for 1 prompts"):
        any_scorer.score(images, specs[:1])


def test_each_prompt_is_encoded_once(gelu, monkeypatch):
    own, seen = cosine("pickscore-v1", gelu), []
    encode = own.tokenizer

    def counted(texts, **options):
        seen.extend(texts)
        return encode(texts, **options)

    own.tokenizer = type("Counts", (), {"__call__": lambda self, *a, **k: counted(*a, **k),
                                        "pad_token_id": encode.pad_token_id})()  # fmt: skip
    own.values([IMAGES[0]] * 3, ["a", "a", "two"])
    assert seen == ["a", "two"]


def test_every_variant_is_registered_and_whole():
    for name, one in VARIANTS.items():
        assert name in SCORERS and SCORERS.describe(name) == one.about
        assert one.architecture in ARCHITECTURES and one.function in FUNCTIONS
        assert one.square in SQUARES
    assert {name for name, one in VARIANTS.items() if one.prefix} == {"clipscore-b32",
                                                                      "clipscore-l14"}


# Full size, on the meta device


@pytest.mark.parametrize(("name", "values"), [
    ("ViT-B/32", 151_277_313), ("ViT-L/14", 427_616_513), ("ViT-H/14", 986_109_441)])
def test_architectures_have_the_published_number_of_values(name, values):
    """OpenAI's and open_clip's own counts (`open_clip` 3.3, model profiles)."""
    with torch.device("meta"):
        model = CLIPModel(clip_config_of(name))
    assert sum(p.numel() for p in model.parameters()) == values


def test_open_clips_h_14_fills_transformers_model():
    """Names and shapes of open_clip 3.3's ViT-H-14, by the hash of its sorted state dict."""
    shapes = tiny.open_clip_shapes(ARCHITECTURES["ViT-H/14"])
    text = "\n".join(f"{key} {tuple(shape)}" for key, shape in sorted(shapes.items()))
    assert (len(shapes), hashlib.sha256(text.encode()).hexdigest()) == (
        686, "e8c4c7fb33610e2fabd57424351e6a9095993cd49a0c27633e995eed05ac83c6")
    config = clip_config_of("ViT-H/14")
    with torch.device("meta"):
        wanted = {key: value.shape for key, value in CLIPModel(config).state_dict().items()}
        tensors = {key: torch.empty(shape) for key, shape in shapes.items()}
    state, report = carried(tensors, clip_rows(config), wanted, source="open_clip")
    report.check()
    assert {key: value.shape for key, value in state.items()} == wanted
    assert (len(report.renamed), len(report.split), len(report.permuted)) == (574, 112, 2)


def test_the_published_image_reward_fills_the_network():
    """The official classes at full size have 625 tensors and 446,665,953 parameters."""
    shapes = tiny.image_reward_shapes(SIZES)
    values = sum(math.prod(s) for key, s in shapes.items() if not key.endswith("position_ids"))
    assert (len(shapes), values) == (625, 446_665_953)
    with torch.device("meta"):
        network = ImageRewardNetwork(SIZES)
        tensors = {key: torch.empty(shape) for key, shape in shapes.items()}
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    state, report = carried(tensors, image_reward_rows(SIZES), wanted, source="ImageReward",
                            unused=IMAGE_REWARD_UNUSED)  # fmt: skip
    report.check()
    assert {key: value.shape for key, value in state.items()} == wanted
    assert (len(report.renamed), len(report.dropped)) == (620, 5)


def test_layer_norms_have_the_published_epsilons():
    with torch.device("meta"):
        network = ImageRewardNetwork(SIZES)
    kinds = {type(part).__name__: {m.eps for m in part.modules()
                                   if isinstance(m, torch.nn.LayerNorm)}
             for part in (network.vision, network.text)}  # fmt: skip
    assert kinds == {"BlipVisionModel": {1e-6}, "BlipTextModel": {1e-12}}


# Self-tests


@pytest.mark.parametrize("name", ["clip100-b32", "clipscore-b32", "hps-v2.1", "pickscore-v1"])
def test_a_trained_clip_passes_and_a_random_one_does_not(name, gelu):
    model, tokenizer, _ = load_clip(shipped_folder("sticker-clip"))
    ClipPreference(VARIANTS[name], model, tokenizer).self_test()
    with pytest.raises(ScorerBroken, match=f"{name} names . of 10 plain discs rightly"):
        cosine(name, gelu).self_test()


def test_random_networks_of_the_other_kinds_fail(image_reward, quick):
    with pytest.raises(ScorerBroken, match=r"image-reward-v1\.0 names . of 10"):
        image_reward.self_test()
    with pytest.raises(ScorerBroken, match=r"laion-aesthetic-v2 rates golden pictures"):
        AestheticScorer(quick, LinearHead(10)).self_test()
    with pytest.raises(ScorerBroken, match="normalisation layers are as a new network"):
        ImageRewardScorer(ImageRewardNetwork(tiny.BLIP), tiny.bert_tokenizer()).self_test()


def test_prompts_are_compared_without_a_liking_for_some():
    right = torch.eye(10)
    check_prompts("mine", lambda images, prompts: right + torch.arange(10.0) * 9)
    assert COLORS[0] == "red"
    five = torch.where(torch.arange(10)[:, None] < 5, right, right.roll(1, 0))
    check_prompts("mine", lambda images, prompts: five)
    four = torch.where(torch.arange(10)[:, None] < 4, right, right.roll(1, 0))
    with pytest.raises(ScorerBroken, match="mine names 4 of 10"):
        check_prompts("mine", lambda images, prompts: four)
    with pytest.raises(ScorerBroken, match="NaN or infinite"):
        check_prompts("mine", lambda images, prompts: right / 0)


def test_ratings_lie_within_their_scale_and_differ():
    check_ratings("mine", [4.0, 5.0], 0.5, 10)
    check_ratings("mine", [-0.5, 1.5], -5, 14)
    for values in ([0.1, 5.0], [5.0, 10.5], [float("nan"), 5.0], [0.6, 0.9]):
        with pytest.raises(ScorerBroken, match=r"trained, it rates from 0\.5 to 10"):
            check_ratings("mine", values, 0.5, 10)
    with pytest.raises(ScorerBroken, match="pictures do not reach it"):
        check_ratings("mine", [5.0, 5.0], 0.5, 10)


def test_settings_that_names_and_shapes_do_not_show_are_checked():
    wanted = clip_config_of("ViT-L/14")
    architecture.check_architecture(wanted, "ViT-L/14", "here", {})
    for tower, key, value in (("vision_config", "hidden_act", "gelu"),
                              ("text_config", "hidden_act", "gelu"),
                              ("text_config", "num_attention_heads", 8),
                              ("vision_config", "layer_norm_eps", 1e-6)):  # fmt: skip
        other = clip_config_of("ViT-L/14")
        setattr(getattr(other, tower), key, value)
        with pytest.raises(ValueError, match=f"{tower[:-7]} {key} {value}, not"):
            architecture.check_architecture(other, "ViT-L/14", "here", {})
