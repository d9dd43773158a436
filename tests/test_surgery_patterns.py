"""Which blocks are grafted, and how local attention is."""

import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb

from impasto.models.edited.grafts import graft
from impasto.surgery.locality import band_mass, locality, uniform_locality
from impasto.surgery.patterns import PATTERNS, select_blocks
from tests.test_edited_grafts import HOSTS, edit, randomised, sd3
from tests.tiny_hosts import inputs

# The grafting sheet's lists, blocks from 0.
INTERLEAVED = [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27]
THREE_QUARTERS = [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26, 27]
PIXART_HALF = [8, 10, 12, 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27]


@pytest.mark.parametrize(("pattern", "ratio", "wanted"), [
    ("interleaved", None, INTERLEAVED), ("interleaved", 0.75, THREE_QUARTERS),
    ("interleaved", 1, list(range(28))), ("full", None, list(range(28))),
    ("deep", None, list(range(14, 28))), ("deep", 0.25, list(range(21, 28))),
    ("pixart-sigma", None, PIXART_HALF), ("pixart-sigma", 0.29, list(range(20, 28))),
])  # fmt: skip
def test_the_published_lists(pattern, ratio, wanted):
    assert select_blocks(pattern, 28, ratio=ratio) == wanted


@pytest.mark.parametrize("depth", [5, 8, 12])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.6, 1])
def test_every_pattern_selects_its_share(depth, ratio):
    for pattern in set(PATTERNS) - {"full", "pixart-sigma"}:
        blocks = select_blocks(pattern, depth, ratio=ratio, locality=[i / 9 for i in range(depth)])
        assert len(blocks) == round(ratio * depth) and sorted(set(blocks)) == blocks


def test_local_ones_are_chosen_by_locality():
    measured = [0.1, 0.9, 0.3, 0.7, 0.9]
    assert select_blocks("top-local", 5, ratio=0.6, locality=measured) == [1, 3, 4]
    assert select_blocks("low-local", 5, ratio=0.4, locality=measured) == [0, 2]


@pytest.mark.parametrize(("arguments", "message"), [
    (("interlaced", 8), "did you mean 'interleaved'"), (("top-local", 8), "given none"),
    (("pixart-sigma", 8), "28 blocks"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        select_blocks(*arguments)
    for ratio in (0, -0.5, 1.5, 0.01):
        with pytest.raises(ValueError, match="ratio must be"):
            select_blocks("deep", 8, ratio=ratio)
    with pytest.raises(ValueError, match="'full' is all"):
        select_blocks("full", 8, ratio=0.5)


def plain(a, band):
    """L_k of maps (B, H, N, N), by the definition."""
    n = a.shape[-1]
    near = (torch.arange(n)[:, None] - torch.arange(n)).abs() <= band
    return (a * near).sum((-1, -2)).div(n).mean().item()


def test_uniform_attention():
    assert uniform_locality(256, 32) == pytest.approx(0.23779, abs=5e-6)
    q = torch.zeros(1, 2, 300, 4)
    assert band_mass(q, q, 32) == pytest.approx(uniform_locality(300, 32))
    assert uniform_locality(4, 32) == 1


def heads(x, name, attention):
    x = getattr(attention, f"to_{name}")(x).unflatten(-1, (2, 8)).transpose(1, 2)
    norm = getattr(attention, f"norm_{name}", None)
    return x if norm is None else norm(x)


@torch.no_grad()
def by_hand(model, name, arguments, band):
    """L_k of block 1 from what its attention is given."""
    block, given = model.transformer_blocks[1], {}
    attention = block.attn1 if hasattr(block, "attn1") else block.attn

    def keep(_, args, kwargs):
        given.update(kwargs, x=args[0] if args else kwargs["hidden_states"])

    handle = attention.register_forward_pre_hook(keep, with_kwargs=True)
    model(**arguments)
    handle.remove()
    q, k = heads(given["x"], "q", attention), heads(given["x"], "k", attention)
    if name == "sana":
        a = torch.relu(q) @ torch.relu(k).mT
        return plain(a / a.sum(-1, keepdim=True), band)
    if name == "flux":  # text comes first in the rotations
        q, k = (apply_rotary_emb(x, [r[5:] for r in given["image_rotary_emb"]]) for x in (q, k))
    return plain((q @ k.mT / 8**0.5).softmax(-1), band)


@pytest.mark.parametrize("name", list(HOSTS))
def test_locality_is_that_of_the_maps(name):
    model, arguments = randomised(HOSTS[name]()).eval(), inputs(name)
    measured = locality(model, [arguments, arguments], band=2)
    assert len(measured) == (4 if name != "pixart" and name != "sana" else 2)
    assert measured[1] == pytest.approx(by_hand(model, name, arguments, 2), rel=1e-4)
    assert all(0 < value < 1 for value in measured)


def test_without_attention_there_is_no_locality():
    model = randomised(sd3())
    with pytest.raises(ValueError, match=r"blocks \[0, 1, 2, 3\]"):
        locality(model, [], band=2)
    for operator in ("hyena-x", "sliding-window"):
        graft(model, edit(operator, [len(operator) // 5]))
    with pytest.raises(ValueError, match=r"blocks \[1, 2\]"):
        locality(model, [inputs("sd3")], band=2)
