"""The losses that train the scorers and the autoencoder, against transformers and by hand."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.models.mask2former import modeling_mask2former as reference

from impasto.score.detector import detector_config
from impasto.score.voting import Maps
from impasto.train.mask2former_loss import mask2former_loss, match, matching_costs
from impasto.train.tokenizers import reconstruction_loss
from impasto.train.voting import targets, voting_loss

QUERIES, CLASSES = 6, 80
LABELS = torch.tensor([[3, 3, 70], [79, 0, -1], [5, -1, -1]])


def boxes(side=16):
    """(3, 3, side, side) masks of rectangles, where `LABELS` has objects."""
    masks = torch.zeros(3, 3, side, side)
    corners = {(0, 0): (1, 2, 7, 6), (0, 1): (8, 1, 15, 7), (0, 2): (2, 9, 13, 15),
               (1, 0): (0, 0, 9, 16), (1, 1): (10, 3, 16, 12), (2, 0): (4, 4, 11, 8)}  # fmt: skip
    for (b, k), (x1, y1, x2, y2) in corners.items():
        masks[b, k, y1:y2, x1:x2] = 1
    return masks


ASSIGNED = torch.tensor([[4, 0, 2], [1, 5, -1], [3, -1, -1]])
"""The query that leans to each object in `outputs`."""


def outputs(seed, lean=4.0, side=8):
    """Random logits, (3, Q, 81) and (3, Q, side, side), each object's query leaning its way."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, QUERIES, CLASSES + 1, generator=generator)
    masks = torch.randn(3, QUERIES, side, side, generator=generator)
    small = F.avg_pool2d(boxes(), 16 // side)
    for b, k in (ASSIGNED >= 0).nonzero().tolist():
        logits[b, ASSIGNED[b, k], LABELS[b, k]] += lean
        masks[b, ASSIGNED[b, k]] += lean * (2 * small[b, k] - 1)
    return logits, masks


# Mask2Former: matching


def test_matching_costs_are_transformers_on_the_full_grid():
    """Both compare whole masks here; transformers' matcher gives the same to sampled points."""
    logits, masks = outputs(0, lean=1.0)
    small = F.avg_pool2d(boxes(), 2)
    costs = matching_costs(logits, masks, LABELS, small)
    assert costs.shape == (3, QUERIES, 3)
    for b in range(3):
        n = int((LABELS[b] >= 0).sum())
        x, y = masks[b].flatten(1), small[b, :n].flatten(1)
        expected = (-2 * logits[b].softmax(-1)[:, LABELS[b, :n]]
                    + 5 * reference.pair_wise_sigmoid_cross_entropy_loss(x, y)
                    + 5 * reference.pair_wise_dice_loss(x, y))  # fmt: skip
        torch.testing.assert_close(costs[b, :, :n], expected)


def test_matching_finds_the_permutation():
    logits, masks = outputs(1)
    costs = matching_costs(logits, masks, LABELS, F.avg_pool2d(boxes(), 2))
    rows, queries, objects = match(costs, LABELS)
    found = torch.full_like(LABELS, -1)
    found[rows, objects] = queries
    assert torch.equal(found, ASSIGNED)


def test_matching_is_the_cheapest_of_all():
    costs = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 2, 3], [1, 2, -1], [1, -1, -1], [-1, -1, -1]])
    rows, queries, objects = match(costs, labels)
    for b, n in enumerate((3, 2, 1, 0)):
        own = rows == b
        assert sorted(objects[own].tolist()) == list(range(n))
        best = min(sum(costs[b, q, k] for k, q in enumerate(chosen))
                   for chosen in itertools.permutations(range(5), n))  # fmt: skip
        assert costs[b, queries[own], objects[own]].sum() == pytest.approx(float(best))


# Mask2Former: loss


def full_grid(masks, _function, _points, _oversample, _share, side=16):
    """All pixels of the targets instead of sampled points."""
    at = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(at, at, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1).expand(len(masks), -1, -1)


@pytest.fixture
def transformers_loss(monkeypatch):
    """Mask2FormerLoss as it is, but that masks are compared at all pixels of the targets.

    At the border its sampling of logits continues their edge, as resizing does, and not zeros.
    Its matching still uses random points.
    """
    monkeypatch.setattr(
        reference, "sample_point", functools.partial(reference.sample_point, padding_mode="border")
    )
    loss = reference.Mask2FormerLoss(detector_config("tiny"), {})
    monkeypatch.setattr(loss, "sample_points_using_uncertainty", full_grid)
    return loss


def listed(masks):
    """Objects per picture as transformers takes them: masks and classes."""
    keep = LABELS >= 0
    return ([m[k] for m, k in zip(masks, keep, strict=True)],
            [c[k] for c, k in zip(LABELS, keep, strict=True)])  # fmt: skip


def test_all_parts_are_transformers(transformers_loss):
    logits, masks = outputs(2)
    theirs = transformers_loss(masks, logits, *listed(boxes()))
    total, parts = mask2former_loss([logits], [masks], LABELS, boxes())
    for ours, name in (("class", "cross_entropy"), ("mask", "mask"), ("dice", "dice")):
        torch.testing.assert_close(parts[ours], theirs[f"loss_{name}"])
    torch.testing.assert_close(total, 2 * parts["class"] + 5 * parts["mask"] + 5 * parts["dice"])
    config = detector_config("sticker")
    weights = (config.class_weight, config.mask_weight, config.dice_weight)
    assert (*weights, config.no_object_weight) == (2.0, 5.0, 5.0, 0.1)


def test_layers_are_summed_and_the_last_is_told(transformers_loss):
    """Every layer leans to the same queries, so transformers' match of each layer is one."""
    layers = [outputs(seed) for seed in (3, 4, 5)]
    last = layers[-1]
    earlier = [{"class_queries_logits": c, "masks_queries_logits": m} for c, m in layers[:-1]]
    theirs = transformers_loss(last[1], last[0], *listed(boxes()), earlier)
    weights = {"cross": 2, "mask": 5, "dice": 5}
    logits, masks = ([layer[i] for layer in layers] for i in (0, 1))
    total, parts = mask2former_loss(logits, masks, LABELS, boxes())
    expected = sum(weights[name.split("_")[1]] * value for name, value in theirs.items())
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(parts["class"], theirs["loss_cross_entropy"])


def test_the_last_layers_match_serves_all():
    """A first layer that would rather swap two queries is held to the last layer's match."""
    last = outputs(6)
    swapped = [t.clone() for t in last]
    for tensor in swapped:
        tensor[0, [4, 0]] = tensor[0, [0, 4]]
    both, told = mask2former_loss([swapped[0], last[0]], [swapped[1], last[1]], LABELS, boxes())
    alone, parts = mask2former_loss([last[0]], [last[1]], LABELS, boxes())
    assert both > 2 * alone + 1
    assert told == parts


def test_the_order_of_queries_and_of_objects_does_not_matter():
    logits, masks = outputs(7)
    expected, _ = mask2former_loss([logits], [masks], LABELS, boxes())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved, _ = mask2former_loss([logits[:, order]], [masks[:, order]], LABELS, boxes())
    torch.testing.assert_close(moved, expected)
    labels, targets_ = LABELS.clone(), boxes()
    labels[0], targets_[0] = labels[0].flip(0), targets_[0].flip(0)
    moved, _ = mask2former_loss([logits], [masks], labels, targets_)
    torch.testing.assert_close(moved, expected)


def test_absent_objects_do_not_count():
    logits, masks = outputs(8)
    expected, _ = mask2former_loss([logits], [masks], LABELS, boxes())
    noisy = boxes()
    noisy[LABELS < 0] = torch.rand(int((LABELS < 0).sum()), 16, 16)
    more = torch.cat([LABELS, torch.full((3, 2), -1)], 1)
    noisy = torch.cat([noisy, torch.ones(3, 2, 16, 16)], 1)
    changed, _ = mask2former_loss([logits], [masks], more, noisy)
    torch.testing.assert_close(changed, expected)


def test_a_batch_without_objects_has_a_class_loss_only():
    logits, masks = outputs(9)
    none = torch.full_like(LABELS, -1)
    total, parts = mask2former_loss([logits], [masks], none, torch.zeros(3, 3, 16, 16))
    expected = -logits.log_softmax(-1)[..., CLASSES].mean()
    torch.testing.assert_close(total, 2 * expected)
    assert parts["mask"] == parts["dice"] == 0


def test_right_answers_cost_nothing():
    logits, masks = outputs(10, lean=60.0)
    logits[..., CLASSES] += 30.0
    exact = torch.zeros(3, 3, 16, 16)
    for b, k in (ASSIGNED >= 0).nonzero().tolist():
        small = F.avg_pool2d(boxes(), 2)[b, k].round()
        masks[b, ASSIGNED[b, k]] = 400 * small - 200
        exact[b, k] = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    total, parts = mask2former_loss([logits], [masks], LABELS, exact)
    assert 0 <= total < 1e-3 and parts["mask"] < 1e-4 and parts["dice"] < 1e-4


def test_queries_without_object_learn_their_class_only():
    logits, masks = (t.requires_grad_() for t in outputs(11))
    mask2former_loss([logits], [masks], LABELS, boxes())[0].backward()
    used = torch.zeros(3, QUERIES, dtype=torch.bool)
    for b, k in (ASSIGNED >= 0).nonzero().tolist():
        used[b, ASSIGNED[b, k]] = True
    assert torch.equal(masks.grad.flatten(2).any(2), used)
    assert logits.grad.flatten(2).any(2).all()


def test_targets_of_full_size_are_shrunk_to_twice_the_masks():
    """As Pillow does it, with antialiasing."""
    logits, masks = outputs(12)
    large = F.pad(boxes(48), (5, 11, 9, 7))
    shrunk = [np.asarray(Image.fromarray(plane).resize((16, 16), Image.Resampling.BILINEAR))
              for plane in large.flatten(0, 1).numpy()]  # fmt: skip
    small = torch.from_numpy(np.stack(shrunk)).view(3, 3, 16, 16)
    expected, _ = mask2former_loss([logits], [masks], LABELS, small)
    total, _ = mask2former_loss([logits], [masks], LABELS, large)
    torch.testing.assert_close(total, expected)


# The voting detector's loss

SURE = 30.0


def wanted():
    """Two objects on whole cells, so that perfect maps cost nothing."""
    masks = torch.zeros(1, 3, 64, 64, dtype=torch.bool)
    masks[0, 0, 8:24, 4:32] = True
    masks[0, 1, 36:60, 32:52] = True
    return targets(masks, torch.tensor([[16, 33, -1]]))


def perfect(asked):
    """The maps that cost nothing: heat at the peaks only, for the loss forgives what is near."""
    peak = (asked.heat > 0.999).float()
    one_hot = F.one_hot(asked.classes, CLASSES).movedim(-1, 1)
    return Maps(SURE * (2 * asked.foreground - 1), SURE * (2 * peak - 1), asked.offsets.clone(),
                2 * SURE * one_hot)  # fmt: skip


def test_perfect_maps_cost_nothing():
    total, parts = voting_loss(perfect(wanted()), wanted())
    assert set(parts) == {"fg", "centre", "vote", "class"}
    assert 0 <= total < 1e-6


@pytest.mark.parametrize(
    ("part", "field"),
    [("fg", "foreground"), ("centre", "heat"), ("vote", "offsets"), ("class", "classes")],
)
def test_each_part_sees_its_own_error_only(part, field):
    asked = wanted()
    before = perfect(asked)
    bad = before._replace(**{field: getattr(before, field).roll((3, 5), (-1, -2))})
    total, parts = voting_loss(bad, asked)
    assert parts[part] > 0.1
    assert all(value < 1e-6 for name, value in parts.items() if name != part)
    weight = {"centre": 2, "vote": 4}.get(part, 1)
    assert total == pytest.approx(weight * float(parts[part]), rel=1e-4)


def test_votes_and_classes_outside_of_objects_are_free():
    asked = wanted()
    maps = perfect(asked)
    maps.offsets[:, :, asked.foreground[0] == 0] = 9.0
    maps.classes[:, 7, asked.weight[0] == 0] = 500.0
    assert voting_loss(maps, asked)[0] < 1e-6


def test_parts_of_empty_maps_are_the_formulas():
    asked = wanted()
    blank = Maps(torch.zeros(1, 32, 32), torch.full((1, 32, 32), -1.0), torch.zeros(1, 2, 32, 32),
                 torch.zeros(1, 80, 16, 16))  # fmt: skip
    _, parts = voting_loss(blank, asked)
    p, focal = 1 / (1 + math.e), 0.0
    for y in asked.heat.flatten().tolist():
        if y == 1:
            focal -= (1 - p) ** 2 * math.log(p)
        else:
            focal -= (1 - y) ** 4 * p**2 * math.log(1 - p)
    assert parts["centre"] == pytest.approx(focal / 2, rel=1e-4)
    assert parts["fg"] == pytest.approx(math.log(2), rel=1e-5)
    assert parts["class"] == pytest.approx(math.log(80), rel=1e-5)
    ways = [np.abs(np.arange(-(w - 2) / 2, w / 2, 2)).mean() * n + np.abs(
        np.arange(-(h - 2) / 2, h / 2, 2)).mean() * n
        for w, h, n in ((28, 16, 14 * 8), (20, 24, 10 * 12))]  # fmt: skip
    assert parts["vote"] == pytest.approx(sum(ways) / 32 / (14 * 8 + 10 * 12), rel=1e-4)


def test_half_covered_cells_weigh_half():
    masks = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    masks[0, 0, 8:12, 8:14] = True  # one whole cell and a half
    asked = targets(masks, torch.tensor([[4]]))
    maps = perfect(asked)
    maps.classes[:, :, 2, 3] = 0.0
    _, parts = voting_loss(maps, asked)
    assert parts["class"] == pytest.approx(math.log(80) * 0.5 / 1.5, rel=1e-5)


def test_pictures_without_objects_have_a_finite_loss():
    asked = targets(torch.zeros(2, 1, 32, 32, dtype=torch.bool), torch.full((2, 1), -1))
    maps = Maps(torch.randn(2, 16, 16), torch.randn(2, 16, 16), torch.randn(2, 2, 16, 16),
                torch.randn(2, 80, 8, 8))  # fmt: skip
    total, parts = voting_loss(maps, asked)
    assert torch.isfinite(total) and parts["vote"] == parts["class"] == 0


# Reconstruction


def test_only_equal_pictures_cost_nothing():
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert reconstruction_loss(x, x.clone()) == 0
    for b, c, i, j in ((0, 0, 0, 0), (1, 2, 7, 7), (0, 1, 3, 4)):
        y = x.clone()
        y[b, c, i, j] += 0.1
        assert reconstruction_loss(x, y) > 0
    torch.testing.assert_close(reconstruction_loss(x, x + 0.1), torch.tensor(0.1 + 2 * 0.01))


def test_lost_edges_cost_more_than_a_shift():
    x = torch.zeros(1, 3, 8, 8)
    stripes = torch.full_like(x, 0.1)
    stripes[..., ::2] = -0.1
    # |d| + 2 d^2, and every step across is 0.2.
    assert reconstruction_loss(x, stripes) == pytest.approx(0.1 + 0.02 + 0.2, rel=1e-5)
    assert reconstruction_loss(x, stripes.mT) == pytest.approx(0.1 + 0.02 + 0.2, rel=1e-5)
    assert reconstruction_loss(x, stripes) == reconstruction_loss(stripes, x)
