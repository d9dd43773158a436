"""The choices by themselves: weights, resampling, projections, clusters; rewards that fail."""

import math
import threading
import time

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2WithRegistersConfig
from transformers import Dinov2WithRegistersModel as Dino

from impasto.sample.flops import count_flops
from impasto.sample.protocol import Sampling
from impasto.score.base import Score
from impasto.score.features.patches import ClipPatches, DinoPatches, InceptionPatches
from impasto.search import BestOfN, Draw, RewardBroken, TTSVar
from impasto.search.cluster import PROJECTIONS, Cluster, k_means, project, representatives
from impasto.search.engine import Population
from impasto.search.reward import Reward
from impasto.search.selectors import POTENTIALS, Resample, distinct, resampled, shares
from impasto.zoo.registry import PATCHES, SCORERS
from tests.fakes import FakeSecond, Walker
from tests.tiny import SPECS

DRAW = Draw(SPECS[1], 7, 0)


class By(FakeSecond):
    """A reward by a function of a picture."""

    def __init__(self, fn):
        self.fn = fn

    def score(self, images, specs):
        return [Score(value=self.fn(image)) for image in images]


# ------------------------------------------------------------------------------ resampling


def test_shares_are_exponential():
    found = shares([0.1, 0.0, -0.2], 10.0)
    by_hand = np.exp([1.0, 0.0, -2.0])
    np.testing.assert_allclose(found, by_hand / by_hand.sum(), rtol=1e-12)
    np.testing.assert_allclose(shares([1e5, 1e5 - 0.1], 10.0), found[:2] / found[:2].sum())
    assert shares([1.0, 5.0, 2.0], 0.0).tolist() == [1 / 3] * 3


@pytest.mark.parametrize("potentials, expected", [
    ([math.nan, 3.0, 1.0], [0, 0.5, 0.5]),       # NaN counts 0, all others 1
    ([math.inf, 3.0, math.inf], [0.5, 0, 0.5]),  # infinite ones share all
    ([-math.inf, -math.inf], [0.5, 0.5]),        # all zero: equal
    ([-math.inf, 0.0], [0, 1]),
    ([math.nan, math.nan], [0.5, 0.5]),
])  # fmt: skip
def test_guards_of_the_official_weights(potentials, expected):
    assert shares(potentials, 10.0).tolist() == expected


def test_resampling_draws_in_proportion_and_with_replacement():
    """Chi-square of 20,000 draws of fixed numbers, 99.9 % quantile of three degrees: 16.27."""
    p = shares([0.3, 0.2, 0.0, 0.25], 10.0)
    counts = np.zeros(4)
    for seed in range(5000):
        kept = resampled(p, 4, seed)
        assert len(kept) == 4 and list(kept) == sorted(kept)
        np.add.at(counts, list(kept), 1)
    assert ((counts - 20_000 * p) ** 2 / (20_000 * p)).sum() < 16.27
    assert resampled(p, 4, 3) == resampled(p, 4, 3)
    repeats = sum(len(set(resampled(p, 4, seed))) < 4 for seed in range(100))
    assert repeats > 50


def test_without_copies_rows_are_drawn_one_after_another():
    """Two of three without replacement: P(i, j) = p_i p_j / (1 - p_i) + p_j p_i / (1 - p_j)."""
    p = np.array([0.5, 0.3, 0.2])
    counts = {(0, 1): 0, (0, 2): 0, (1, 2): 0}
    for seed in range(4000):
        counts[distinct(p, 2, seed)] += 1
    for (i, j), count in counts.items():
        expected = 4000 * p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        assert abs(count - expected) < 4 * math.sqrt(expected)
    assert distinct(np.array([0.0, 1.0, 0.0]), 2, 5) in {(0, 1), (1, 2)}


def test_a_row_without_weight_is_never_drawn():
    p = np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    assert {i for seed in range(300) for i in resampled(p, 3, seed)} == {1, 3}


def test_potentials_by_hand():
    history = (0.5, 2.0, 1.25)
    found = {name: phi(history) for name, phi in POTENTIALS.items()}
    assert found == {"value": 1.25, "diff": -0.75, "max": 2.0, "sum": 3.75}
    assert {phi((0.5,)) for phi in POTENTIALS.values()} == {0.5}


def test_resampling_uses_its_potential_and_lam():
    """Two rows, values 0 and 1, past rewards 0 and -5: diff prefers the second even more."""
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    count = {}
    for potential, lam in (("value", 1.0), ("max", 1.0), ("diff", 1.0), ("value", 3.0)):
        chosen = [Resample(Reward(By(lambda i: float(i.mean()))), potential, lam)(
            Population(Draw(SPECS[0], 7, s), 3, images, ((0.5,), (-5.0,))), 4).kept
            for s in range(400)]  # fmt: skip
        count[potential, lam] = sum(map(sum, chosen)) / 1600
    sigma = 4 * 0.5 / 40
    assert abs(count["value", 1.0] - 1 / (1 + math.exp(-1))) < sigma
    assert abs(count["max", 1.0] - 1 / (1 + math.exp(-0.5))) < sigma
    assert abs(count["value", 3.0] - 1 / (1 + math.exp(-3))) < sigma
    assert count["diff", 1.0] > 0.99  # of 0 - 0.5 and 1 + 5


# ------------------------------------------------------------------------------ projections


def patches(b=4, p=16, d=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, p, d, generator=generator) * torch.linspace(3, 0.1, d)


@pytest.mark.parametrize("shape", [(4, 16, 24), (3, 40, 12)])
def test_pca_is_the_first_component_of_each_picture(shape):
    x = patches(*shape)
    found, turned = project(x, "pca"), project(x, "pca-signed")
    for i, one in enumerate(x.double().numpy()):
        centred = one - one.mean(0)
        v = np.linalg.svd(centred)[2][0]
        along = centred @ v
        sign = np.sign(along @ found[i])
        np.testing.assert_allclose(found[i], sign * along, atol=1e-8)
        v *= np.sign(v[np.abs(v).argmax()])
        np.testing.assert_allclose(turned[i], centred @ v, atol=1e-8)


def test_pca_of_all_pictures_and_the_mean():
    x = patches()
    rows = x.double().numpy().reshape(-1, 24)
    centred = rows - rows.mean(0)
    along = (centred @ np.linalg.svd(centred)[2][0]).reshape(4, 16)
    found = project(x, "pca-all")
    np.testing.assert_allclose(found, along * np.sign((along * found).sum()), atol=1e-8)
    np.testing.assert_allclose(project(x, "pool"), x.double().mean(1).numpy())


def test_signs_make_like_pictures_alike():
    """A picture and the same with a little noise: near each other once the sign is fixed."""
    x = patches(1)
    near = torch.cat([x, x + 0.01 * patches(1, seed=1)])
    a, b = project(near, "pca-signed")
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a)


def test_equal_places_have_no_direction():
    assert (project(torch.ones(2, 16, 24), "pca") == 0).all()
    assert np.isfinite(project(torch.ones(2, 16, 24), "pca-signed")).all()


# ------------------------------------------------------------------------------ clusters


def blobs():
    """Three groups in the plane, of 5, 3 and 2 points."""
    generator = np.random.default_rng(0)
    centres = np.repeat([[0.0, 0], [10, 0], [0, 10]], [5, 3, 2], axis=0)
    return centres + generator.normal(scale=0.3, size=(10, 2))


def test_k_means_finds_groups_and_the_nearest_to_their_centres():
    rows = blobs()
    labels, centres = k_means(rows, 3)
    assert [len(set(labels[a:b])) for a, b in ((0, 5), (5, 8), (8, 10))] == [1, 1, 1]
    kept = representatives(rows, 3)
    for a, b in ((0, 5), (5, 8), (8, 10)):
        middle = rows[a:b].mean(0)
        np.testing.assert_allclose(centres[labels[a]], middle)
        nearest = a + int(np.linalg.norm(rows[a:b] - middle, axis=1).argmin())
        assert nearest in kept


@pytest.mark.parametrize("k", range(1, 11))
def test_representatives_are_distinct(k):
    assert len(set(representatives(blobs(), k))) == k


def test_no_row_lies_nearer_to_a_centre_than_its_representative():
    rows = np.random.default_rng(1).normal(size=(30, 5))
    labels, centres = k_means(rows, 7)
    kept = representatives(rows, 7)
    for cluster in set(labels.tolist()):
        distance = np.linalg.norm(rows - centres[cluster], axis=1)
        members = np.flatnonzero(labels == cluster)
        (own,) = set(members.tolist()) & set(kept)
        assert distance[own] <= distance[members].min() + 1e-9  # of two members either
        assert (np.linalg.norm(rows[members, None] - centres, axis=2).argmin(1) == cluster).all()


def test_identical_candidates_give_the_first_rows():
    """Fewer distinct points than clusters: each distinct one, then the first that are left."""
    assert representatives(np.zeros((6, 3)), 4) == (0, 1, 2, 3)
    rows = np.zeros((6, 3))
    rows[4] = 1
    assert set(representatives(rows, 2)) >= {4} and len(set(representatives(rows, 2))) == 2
    assert len(set(representatives(rows, 5))) == 5 and 4 in representatives(rows, 5)


def test_clusters_that_cannot_be():
    with pytest.raises(ValueError, match="4 clusters need as many candidates, there are 3"):
        representatives(np.zeros((3, 2)), 4)
    with pytest.raises(ValueError, match="features of a candidate are NaN"):
        representatives(np.full((3, 2), np.nan), 2)


# ------------------------------------------------------------------------------ patch features


def test_clip_patches_are_the_towers_last_states():
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                              num_attention_heads=2, image_size=32, patch_size=8)  # fmt: skip
    torch.manual_seed(0)
    model = CLIPVisionModel(config).eval()
    found, images = ClipPatches(model, "0" * 64), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        want = model(pixel_values=2 * images - 1).last_hidden_state
    assert torch.equal(found(images), want[:, 1:]) and found(images).shape == (3, 16, 16)
    assert found(torch.rand(1, 3, 128, 64)).shape == (1, 16, 16)
    # 2 layers of 12 D^2 a state and 2 L^2 D of attention, and the patches; two a multiply-add.
    assert found.flops(1, 1) == 2 * (2 * 17 * 8 * 16**2 + 2 * 2 * 17**2 * 16 + 16 * 192 * 16)


def test_dinov2_leaves_class_and_registers_out(tmp_path):
    config = Dinov2WithRegistersConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                       image_size=224, patch_size=14, num_register_tokens=4)
    torch.manual_seed(0)
    Dino(config).save_pretrained(tmp_path)
    found = PATCHES.create(f"dinov2:id={tmp_path}")
    assert isinstance(found, DinoPatches)
    images = torch.rand(2, 3, 224, 224)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406),
                                                          (0.229, 0.224, 0.225)))  # fmt: skip
    with torch.no_grad():
        want = Dino.from_pretrained(tmp_path)(pixel_values=(images - mean) / std)
    assert torch.allclose(found(images), want.last_hidden_state[:, 5:], atol=1e-5)
    assert found(images).shape == (2, 256, 16)
    assert set(found.provenance()) == {"name", "sha256", "resize"}
    with pytest.raises(ValueError, match="neither a folder nor to be had"):
        PATCHES.create("dinov2:id=./nothing-here")


def test_shipped_patches_and_scorer_count_themselves():
    found, scorer = PATCHES.create("clip-patches"), SCORERS.create("sticker-clip")
    assert found(torch.rand(2, 3, 128, 128)).shape == (2, 64, 128)
    model = scorer.model
    pixels = torch.empty(1, 3, 96, 96, device="meta")
    tower = count_flops(model.vision_model, pixels)
    assert found.flops(128, 128) == tower
    text = count_flops(model.text_model, torch.zeros(1, 40, dtype=torch.long))
    heads = 2 * (128 * 128 + 128 * 128)
    assert scorer.flops(128, 128) == pytest.approx(tower + text + heads, rel=1e-5)


def test_features_of_the_whole_picture_are_pooled():
    class Extractor:
        sha256 = "0"

        def __call__(self, images):
            return {"pool": images.mean((2, 3))}

    whole = InceptionPatches(Extractor())
    assert Cluster(whole).projection == "pool" and Cluster(PATCHES.create(
        "clip-patches")).projection == "pca"
    assert whole(torch.rand(2, 3, 8, 8)).shape == (2, 1, 3)
    with pytest.raises(ValueError, match="'inception' are of the whole picture"):
        Cluster(whole, "pca")


def test_every_projection_works_on_shipped_features():
    images = torch.rand(5, 3, 64, 64)
    features = PATCHES.create("clip-patches")
    for name in PROJECTIONS:
        chosen = Cluster(features, name)(Population(DRAW, 1, images, ()), 3)
        assert len(set(chosen.kept)) == 3 and chosen.values is None
        assert chosen.cost.feature_calls == 5 and chosen.cost.reward_flops > 0


# ------------------------------------------------------------------------------ rewards that fail


def search(fn, **changes):
    return TTSVar(1, By(fn), cluster=(), **changes)


def drawn(found):
    return found.draw(Walker(), [DRAW], Sampling(steps=7), 8)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_reward(value):
    with pytest.raises(RewardBroken, match=f"gave {value} for candidate 0 of 'a photo of a cat "
                                           f"and a bus' after step 4"):  # fmt: skip
        drawn(search(lambda image: value))


def test_a_reward_that_raises_on_the_way():
    def fail(image):
        raise KeyError("dog")

    with pytest.raises(RewardBroken, match=r"failed on candidate 0 of .* after step 4: KeyError"):
        drawn(search(fail))


def test_a_reward_that_hangs_is_given_up_by_name():
    """Candidate 1 hangs, together with others and alone; its threads keep nobody from ending."""
    released = threading.Event()
    bright = sorted(float(i.mean()) for i in images_of(2))

    def hang(image):
        if float(image.mean()) == bright[1]:
            released.wait(60)
        return 0.0

    place = [float(i.mean()) for i in images_of(2)].index(bright[1])
    start = time.monotonic()
    with pytest.raises(RewardBroken, match=f"failed on candidate {place} of .*cat and a bus': "
                                           f"TimeoutError: no answer within 0.2 s"):  # fmt: skip
        BestOfN(2, By(hang), timeout=0.2).draw(Walker(), [DRAW], Sampling(steps=2), 8)
    assert time.monotonic() - start < 10
    left = [t for t in threading.enumerate() if t.name.startswith("reward")]
    assert left and all(t.daemon for t in left)
    released.set()
    for thread in left:
        thread.join(10)


def images_of(n):
    walker = Walker()
    state = walker.start([DRAW.request] * n, [DRAW.row_seed(i) for i in range(n)],
                         Sampling(steps=2))  # fmt: skip
    return walker.finish(walker.advance(walker.advance(state)))


def test_identical_candidates_are_searched_all_the_same():
    """All rewards equal and all features equal: the first rows live, and the run goes on."""
    class Same(Walker):
        def advance(self, state):
            done = super().advance(state)
            return done.__class__(**{**vars(done), "images": torch.zeros_like(done.images)})

    found = TTSVar(2, By(lambda image: float(image.mean())))
    (one,) = found.draw(Same(), [DRAW], Sampling(steps=7), 16)
    assert one.trace[0].kept == tuple(range(12)) and one.chosen == 0
