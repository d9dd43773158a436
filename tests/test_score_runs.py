"""Masks as text: pycocotools' own strings, and back."""

import pytest
import torch

from impasto.score.runs import mask_of, text_of


def cases():
    a = torch.zeros(5, 7, dtype=torch.bool)
    a[1:3, 2:6] = a[4, 0] = True
    b = torch.zeros(64, 200, dtype=torch.bool)
    b[:, 100:] = b[10, 5] = True
    c = torch.ones(3, 4, dtype=torch.bool)
    # pycocotools 2.0.11: mask.encode(np.asfortranarray(m.astype(np.uint8)))["counts"]
    return [(a, "4161M000004"), (b, "Z:1em5oW6"), (c, "0<"), (~c, "<")]


@pytest.mark.parametrize("mask, text", cases())
def test_texts_are_pycocotools(mask, text):
    assert text_of(mask) == text
    assert torch.equal(mask_of(text, tuple(mask.shape)), mask)


def test_any_mask_comes_back():
    generator = torch.Generator().manual_seed(0)
    for share in (0.02, 0.5, 0.98):
        mask = torch.rand(37, 61, generator=generator) < share
        assert torch.equal(mask_of(text_of(mask), (37, 61)), mask)


def test_text_of_another_size_is_refused():
    for text in ("0<", "", "P"):
        with pytest.raises(ValueError, match="is not a mask of 9 x 9"):
            mask_of(text, (9, 9))
