"""The catalogue: every class has drawings, each can be recoloured, other sets are found."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from impasto.spec import CLASSES, COLORS
from impasto.world.catalogue import DRAWINGS, Drawing, missing, svg_text
from impasto.world.sprites import NATURAL, Sprites

EVERY = [(name, drawing) for name, drawings in DRAWINGS.items() for drawing in drawings]
OPENMOJI_HAS_NONE = {
    "fire hydrant", "parking meter", "bench", "baseball bat", "baseball glove", "dining table",
    "tv remote", "microwave", "oven", "toaster", "sink", "refrigerator", "hair drier",
}  # fmt: skip
SQUARE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><path fill="#fff"/></svg>'


@pytest.fixture(scope="module")
def sprites():
    return Sprites.load()


def test_all_classes_in_detector_order():
    assert tuple(DRAWINGS) == CLASSES
    assert sum(len(drawings) > 1 for drawings in DRAWINGS.values()) >= 20


def test_no_drawing_shows_two_classes():
    stems = [drawing.stem for _, drawing in EVERY]
    assert len(set(stems)) == len(stems)


@pytest.mark.parametrize("name", sorted(OPENMOJI_HAS_NONE))
def test_the_project_draws_what_openmoji_has_not(name):
    assert {drawing.source for drawing in DRAWINGS[name]} == {"impasto"}


@pytest.mark.parametrize(("name", "drawing"), EVERY, ids=lambda v: getattr(v, "stem", None))
def test_every_drawing_is_an_svg_of_openmojis_size(name, drawing):
    assert 'viewBox="0 0 72 72"' in svg_text(drawing)


def test_every_drawing_is_recoloured_over_a_good_part(sprites):
    """The share of a drawing's opaque pixels that tells red from blue."""
    pixels = sprites.pixels.int()
    opaque = pixels[:, NATURAL, 3] > 127
    red, blue = (pixels[:, COLORS.index(c), :3] for c in ("red", "blue"))
    changed = ((red - blue).abs().sum(1) > 60) & opaque
    share = changed.sum((1, 2)) / opaque.sum((1, 2))
    assert share.min() > 0.2
    assert (share > 0.3).float().mean() > 0.95
    assert share.median() > 0.5


def test_drawings_of_different_classes_differ_at_32_pixels(sprites):
    """Also the four boxes of the kitchen, in one colour: the outline must tell them apart."""
    white = sprites.pixels[:, COLORS.index("white")].float() / 255
    over_grey = white[:, :3] + (1 - white[:, 3:]) * 0.6
    small = torch.nn.functional.interpolate(over_grey, size=(32, 32), mode="area").flatten(1)
    distance = torch.cdist(small, small) / small.shape[1] ** 0.5
    owner = np.repeat(np.arange(len(CLASSES)), [len(DRAWINGS[c]) for c in CLASSES])
    other = torch.from_numpy(owner[:, None] != owner[None])
    assert distance[other].min() > 0.09
    kitchen = [sprites.of_class[c][0] for c in ("microwave", "oven", "toaster", "tv")]
    assert all(distance[a, b] > 0.15 for a, b in pairwise(kitchen))


@pytest.mark.parametrize("stem", ["1f34e", "emoji_u1f34e", "1F34E", "1f34e-fe0f"])
def test_another_set_is_found_whatever_its_file_names(tmp_path, stem):
    (tmp_path / f"{stem}.svg").write_text(SQUARE)
    (apple,) = DRAWINGS["apple"]
    assert svg_text(apple, tmp_path) == SQUARE
    assert set(missing(tmp_path)) == set(CLASSES) - {"apple"}


def test_another_set_may_draw_what_the_project_draws_itself(tmp_path):
    (tmp_path / "1f6b2.svg").write_text(SQUARE)
    (bicycle,) = DRAWINGS["bicycle"]
    assert bicycle.source == "impasto"
    assert svg_text(bicycle, tmp_path) == SQUARE
    assert "bicycle" not in missing(tmp_path)


@pytest.mark.parametrize("name", ["banana", "bench"])
def test_a_drawing_that_a_set_lacks_is_named(tmp_path, name):
    with pytest.raises(KeyError, match=name):
        svg_text(DRAWINGS[name][0], tmp_path)


def test_code_points_leave_variation_selectors_out():
    polar = next(d for d in DRAWINGS["bear"] if "-" in d.stem)
    assert polar.point == "1F43B-200D-2744"
    assert Drawing("bench", "impasto").point is None
