"""The voting detector on maps drawn by hand, and on the maps that its training asks for."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from impasto.score.detector import tight_boxes
from impasto.score.voting import (
    CELL,
    MINIMAL_PIXELS,
    OFFSET_SCALE,
    PEAK,
    REACH,
    Maps,
    VotingDetector,
    _peaks,
    build_network,
    read_maps,
)
from impasto.spec import CLASSES
from impasto.train.voting import targets
from impasto.world import compose, render, sample_spec

SIDE = 64
SURE = 20.0
"""A logit whose sigmoid is 1 in float32 to a part in 1e8."""


@pytest.fixture(scope="module")
def detector():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VotingDetector(build_network("tiny"))


def logit(p):
    return math.log(p / (1 - p))


def blank(height=SIDE, width=SIDE):
    """Maps of one picture in which nothing is found."""
    h, w = height // 2, width // 2
    return Maps(torch.full((h, w), -SURE), torch.full((h, w), -SURE), torch.zeros(2, h, w),
                torch.zeros(80, h // 2, w // 2))  # fmt: skip


def put_votes(maps, box, centre):
    """Foreground in a box (x1, y1, x2, y2) of even pixels, whose quarters vote for `centre`."""
    x1, y1, x2, y2 = (v // 2 for v in box)
    maps.foreground[y1:y2, x1:x2] = SURE
    x, y = torch.arange(x1, x2) * 2 + 1.0, torch.arange(y1, y2) * 2 + 1.0
    maps.offsets[0, y1:y2, x1:x2] = (centre[0] - x) / OFFSET_SCALE
    maps.offsets[1, y1:y2, x1:x2] = (centre[1] - y[:, None]) / OFFSET_SCALE


def put_peak(maps, centre, height=0.9):
    maps.heat[int(centre[1]) // 2, int(centre[0]) // 2] = logit(height)


def put(maps, cls, box, height=0.9, strength=SURE):
    """An object of one part, with its peak at its middle."""
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    put_votes(maps, box, centre)
    put_peak(maps, centre, height)
    x1, y1, x2, y2 = (v // CELL for v in box)
    maps.classes[CLASSES.index(cls), y1 : y2 + 1, x1 : x2 + 1] = strength
    return maps


def mask(*boxes, height=SIDE, width=SIDE):
    out = torch.zeros(height, width, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        out[y1:y2, x1:x2] = True
    return out


def find(detector, maps, size=(SIDE, SIDE)):
    return sorted(detector._found(maps, size), key=lambda one: one.box)


# Maps by hand


def test_two_objects_have_their_own_boxes_masks_and_classes(detector):
    maps = put(put(blank(), "dog", (4, 8, 24, 20)), "kite", (32, 36, 60, 48))
    dog, kite = find(detector, maps)
    assert (dog.cls, dog.box) == ("dog", (4.0, 8.0, 24.0, 20.0))
    assert (kite.cls, kite.box) == ("kite", (32.0, 36.0, 60.0, 48.0))
    assert torch.equal(dog.mask, mask((4, 8, 24, 20)))
    assert torch.equal(kite.mask, mask((32, 36, 60, 48)))


def test_objects_that_touch_are_told_apart_by_their_votes(detector):
    maps = put(put(blank(), "dog", (8, 8, 28, 28)), "cat", (28, 8, 48, 28))
    dog, cat = find(detector, maps)
    assert dog.box[0] == 8 and cat.box[2] == 48
    assert not (dog.mask & cat.mask).any()
    assert torch.equal(dog.mask | cat.mask, mask((8, 8, 48, 28)))
    assert abs(dog.box[2] - 28) <= 1 and abs(cat.box[0] - 28) <= 1


def test_parts_that_vote_for_one_centre_are_one_object(detector):
    left, right, middle = (4, 20, 16, 32), (48, 20, 60, 32), (32, 26)
    maps = blank()
    put_votes(maps, left, middle)
    put_votes(maps, right, middle)
    put_peak(maps, middle)
    (one,) = find(detector, maps)
    # At the edge of a part votes are mixed with the background's zeros: a pixel may be lost.
    whole = mask(left, right)
    assert not (one.mask & ~whole).any()
    assert (one.mask & whole).sum() > 0.75 * whole.sum()
    assert one.mask[20:32, 6:14].all() and one.mask[20:32, 50:58].all()
    assert one.box[1::2] == (20.0, 32.0) and one.box[0] <= 6 and one.box[2] >= 58


def test_votes_beyond_reach_belong_to_nothing(detector):
    maps = put(blank(), "dog", (4, 4, 24, 24))
    maps.foreground[24:30, 24:30] = SURE
    assert math.dist((14, 14), (48, 48)) > REACH
    (dog,) = find(detector, maps)
    assert torch.equal(dog.mask, mask((4, 4, 24, 24)))


def test_faint_centres_are_no_objects(detector):
    assert find(detector, put(blank(), "dog", (4, 4, 24, 24), height=PEAK - 0.01)) == []
    assert len(find(detector, put(blank(), "dog", (4, 4, 24, 24), height=PEAK + 0.01))) == 1


def test_a_peak_hides_lower_ones_beside_it():
    """Two quarters away, not three."""
    heat = torch.zeros(16, 16)
    heat[5, 4] = 0.9
    heat[6, 6] = heat[5, 7] = heat[8, 4] = 0.8
    places, heights = _peaks(heat)
    assert places.tolist() == [[9, 11], [15, 11], [9, 17]]
    assert heights.tolist() == pytest.approx([0.9, 0.8, 0.8])


def test_few_pixels_are_no_object(detector):
    """A row of quarters: 2 x 2 pixels each, sure enough to their edges."""
    assert MINIMAL_PIXELS == 12
    for quarters, number in ((2, 0), (3, 1)):
        maps = blank()
        put_votes(maps, (20, 20, 20 + 2 * quarters, 22), (23, 21))
        put_peak(maps, (23, 21))
        assert len(find(detector, maps)) == number


def test_nothing_is_found_in_nothing(detector):
    assert find(detector, blank()) == []
    unseen, unmeant = blank(), blank()
    put_peak(unseen, (30, 30))
    put_votes(unmeant, (20, 20, 40, 40), (30, 30))
    assert find(detector, unseen) == find(detector, unmeant) == []


def test_the_score_is_class_times_height_times_mean_foreground(detector):
    maps = put(blank(), "dog", (8, 8, 24, 20), height=0.7, strength=0.0)
    for cell, cls in ((slice(2, 5), "dog"), (slice(5, 6), "cat")):
        maps.classes[CLASSES.index(cls), 2:5, cell] = 8.0
    (one,) = find(detector, maps)
    # Mean logits: 8 on three columns of cells of four is 6, on one of four 2.
    p = math.exp(6) / (math.exp(6) + math.exp(2) + 78)
    # Between two quarters a pixel sees 3/4 of its own and 1/4 of the other.
    across, down = np.ones(16), np.ones(12)
    across[[0, -1]] = down[[0, -1]] = 0.75
    assert one.cls == "dog"
    assert one.score == pytest.approx(p * 0.7 * across.mean() * down.mean(), rel=1e-4)


def test_classes_are_weighed_by_the_masks_share_of_cells(detector):
    """Of a box from pixel 6 to 12, the first cell holds a quarter and the second the rest."""
    maps = blank()
    put_votes(maps, (6, 8, 14, 16), (10, 12))
    put_peak(maps, (10, 12))
    maps.classes[CLASSES.index("dog"), :, 1] = 2.0
    maps.classes[CLASSES.index("cat"), :, 2] = 2.0
    maps.classes[CLASSES.index("cow"), :, 3] = 2.0
    maps.classes[CLASSES.index("bus"), :, 4:] = 90.0
    (one,) = find(detector, maps)
    e = math.exp
    p = e(1) / (e(1) + 2 * e(0.5) + 77)
    profile = np.array([0.75, *[1] * 6, 0.75]).mean()
    assert one.cls == "cat"
    assert one.score == pytest.approx(p * 0.9 * profile**2, rel=1e-4)


def test_maps_need_not_be_square(detector):
    maps = put(blank(48, 80), "dog", (52, 8, 76, 28))
    (one,) = find(detector, maps, (48, 80))
    assert one.box == (52.0, 8.0, 76.0, 28.0)
    assert one.mask.shape == (48, 80)


# Pictures


def lively(detector):
    """Random weights whose maps are not flat, so that something is found."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in detector.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        detector.model.conv_out.bias[4:8] = 0
    return detector


def test_pictures_give_maps_of_half_and_a_quarter_of_their_size(detector):
    maps = read_maps(detector.model, torch.rand(2, 3, 32, 48))
    assert maps.foreground.shape == maps.heat.shape == (2, 16, 24)
    assert maps.offsets.shape == (2, 2, 16, 24)
    assert maps.classes.shape == (2, 80, 8, 12)


def test_centres_start_rare():
    maps = read_maps(build_network("tiny").eval(), torch.rand(2, 3, 32, 32))
    assert maps.heat.sigmoid().mean() < 0.15 < maps.foreground.sigmoid().mean()


def test_quarters_stand_where_their_pixels_are(detector):
    """Of the 16 quarter channels, each map's own four make its 2 x 2 quarters of a cell."""
    images = torch.rand(1, 3, 32, 32)
    cells = images.view(1, 3, 8, 4, 8, 4).permute(0, 1, 3, 5, 2, 4).reshape(1, 48, 8, 8)
    with torch.no_grad():
        out = detector.model(cells * 2 - 1, 0).sample[0]
        maps = read_maps(detector.model, images)
    for k, plane in enumerate((maps.foreground[0], maps.heat[0], *maps.offsets[0])):
        for dy in range(2):
            for dx in range(2):
                torch.testing.assert_close(plane[dy::2, dx::2], out[4 * k + 2 * dy + dx])
    torch.testing.assert_close(maps.classes[0], out[16:])


@pytest.mark.parametrize(("height", "width"), [(120, 128), (128, 120), (8, 16)])
def test_sides_must_be_multiples_of_sixteen(detector, height, width):
    with pytest.raises(ValueError, match=f"multiples of 16 pixels, not {width} x {height}"):
        detector.detect(torch.rand(1, 3, height, width))


def test_a_saved_detector_finds_the_same(tmp_path):
    detector = lively(VotingDetector(build_network("tiny")))
    images = torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    found = detector.detect(images)
    assert len(found) == 3 and all(found) and found[0] != found[1]
    assert {one.mask.shape for objects in found for one in objects} == {(64, 48)}
    for image, objects in zip(images, found, strict=True):
        (alone,) = detector.detect(image[None])
        assert [(one.cls, one.box) for one in alone] == [(one.cls, one.box) for one in objects]
    detector.model.save_pretrained(tmp_path)
    again = VotingDetector.from_pretrained(tmp_path).detect(images)
    assert again == found
    assert all(torch.equal(a.mask, b.mask) for x, y in zip(again, found, strict=True)
               for a, b in zip(x, y, strict=True))  # fmt: skip


def test_half_precision_folders_run_in_float32(tmp_path):
    build_network("tiny").bfloat16().save_pretrained(tmp_path)
    again = VotingDetector.from_pretrained(tmp_path)
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}
    assert not again.model.training


def test_unknown_presets_are_named():
    with pytest.raises(ValueError, match="unknown detector preset 'big'; allowed: sticker, tiny"):
        build_network("big")


# What training asks for is what the detector reads


def maps_of(wanted):
    """The maps, of a batch, that are exactly the targets."""
    one_hot = torch.nn.functional.one_hot(wanted.classes, 80).movedim(-1, 1)
    return Maps(torch.logit(wanted.foreground, 1e-6), torch.logit(wanted.heat, 1e-6),
                wanted.offsets, SURE * one_hot)  # fmt: skip


def overlap(a, b):
    return float((a & b).sum() / (a | b).sum())


def outside(inner, outer):
    """Pixels by which a box leaves another."""
    (a, b, c, d), (x1, y1, x2, y2) = (map(float, box) for box in (inner, outer))
    return max(x1 - a, y1 - b, c - x2, d - y2)


def extended(wanted):
    """The targets with votes outside of objects for the nearest object, as a network has them."""
    offsets = wanted.offsets.clone()
    for votes, foreground in zip(offsets, wanted.foreground, strict=True):
        here = torch.tensor(np.indices(foreground.shape)[::-1] * 2 + 1.0)
        near = distance_transform_edt(foreground <= 0.5, return_distances=False,
                                      return_indices=True)  # fmt: skip
        meant = votes * OFFSET_SCALE + here
        votes[:] = (meant[:, near[0], near[1]] - here) / OFFSET_SCALE
    return wanted._replace(offsets=offsets)


TASKS = ("two_object", "counting", "position", "color_attr", "counting_many")


@pytest.mark.parametrize("votes", [extended, lambda wanted: wanted], ids=["extended", "targets"])
@pytest.mark.parametrize("task", TASKS)
def test_perfect_maps_give_the_true_objects(detector, sprites, task, votes):
    rng = np.random.default_rng(7)
    scenes = [compose(sample_spec(rng, sprites.classes, weights={task: 1.0}), rng, sprites)
              for _ in range(20)]  # fmt: skip
    drawn = render(scenes, sprites)
    wanted = targets(drawn.masks, drawn.classes)
    maps = maps_of(votes(wanted))
    covered = torch.nn.functional.interpolate(wanted.foreground[:, None], (128, 128),
                                              mode="bilinear") > 0.5  # fmt: skip
    for i in range(len(scenes)):
        found = detector._found(Maps(*(m[i] for m in maps)), (128, 128))
        slots = [k for k, cls in enumerate(drawn.classes[i].tolist()) if cls >= 0]
        assert len(found) == len(slots)
        for k in slots:
            one = max(found, key=lambda one, k=k: overlap(one.mask, drawn.masks[i, k]))
            assert one.cls == CLASSES[drawn.classes[i, k]]
            assert overlap(one.mask, drawn.masks[i, k]) > 0.6
            assert one.score > 0.7
            # Lines thinner than a pixel may be lost at quarters of 2 px: a kite's string, say.
            solid = tight_boxes(drawn.masks[i, k : k + 1] & covered[i])[0]
            assert outside(one.box, drawn.boxes[i, k]) <= 3
            assert outside(solid, one.box) <= 3


def test_targets_of_one_rectangle_by_hand():
    masks = mask((8, 8, 20, 14))[None, None]
    wanted = targets(masks, torch.tensor([[CLASSES.index("cow")]]))
    assert torch.equal(wanted.foreground[0] > 0, masks[0, 0, ::2, ::2])
    at = (wanted.heat[0] == wanted.heat.max()).nonzero().tolist()
    assert wanted.heat.max() == 1 and at == [[5, 7]]  # the quarter from (14, 10) holds (14, 11)
    # Quarters of row 5 are 11 pixels down, of column 4 to 9 9 to 19 pixels across.
    assert (wanted.offsets[0, 0, 5, 4:10] * OFFSET_SCALE).tolist() == [5, 3, 1, -1, -3, -5]
    assert (wanted.offsets[0, 1, 4:7, 5] * OFFSET_SCALE).tolist() == [2, 0, -2]
    assert (wanted.classes[0, 2:4, 2:5] == CLASSES.index("cow")).all()
    assert wanted.weight[0, 2, 2:5].tolist() == [1, 1, 1]
    assert wanted.weight[0, 3, 2:5].tolist() == [0.5, 0.5, 0.5]
    assert wanted.weight.sum() == 4.5


def test_targets_of_hidden_and_absent_objects_are_nothing():
    masks = torch.stack([mask((8, 8, 20, 14)), mask(), mask()])[None]
    one = targets(masks[:, :1], torch.tensor([[3]]))
    more = targets(masks, torch.tensor([[3, 7, -1]]))
    assert all(torch.equal(a, b) for a, b in zip(one, more, strict=True))
    none = targets(masks[:, 1:], torch.tensor([[-1, -1]]))
    assert not none.foreground.any() and not none.heat.any() and not none.weight.any()
