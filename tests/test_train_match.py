"""Training of the matching network: its captions, its questions, and that it learns."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BlipForImageTextRetrieval

from impasto.models.mmdit import train_tokenizer
from impasto.score.match import MatchScorer, match_config, matched
from impasto.spec import CLASSES, COLORS
from impasto.train import data
from impasto.train.kinds import common, scorers
from impasto.train.match import (
    NOTHING,
    Groups,
    caption_ids,
    match_loss,
    noun_classes,
    patch_targets,
    shown_by,
    train_match,
    word_targets,
)
from impasto.train.rough import SIDES, coarse, warped
from impasto.train.run import Recipe, run_recipe
from impasto.world import Renderer, Split, Sprites

BASE = {"kind": "match", "scenes": 1000, "steps": 2, "batch": 4, "lr": 1e-3, "preset": "tiny"}
TASKS = {"colors": 1.0, "position": 1.0, "counting": 1.0, "color_attr": 1.0, "two_object": 1.0}


@pytest.fixture(scope="module")
def twins():
    """Sixty pictures in twins, their captions and their twins' paraphrases."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "CHUNK", 60)
        source = data.chunks(60, 3, TASKS, workers=1, twins=True)
        return data.cache_pictures(source, 60, "cpu", Renderer(Sprites.load()), batch=20)


@pytest.fixture(scope="module")
def words(twins):
    """Tokenizer, token ids and nouns of the captions."""
    cache, captions, _ = twins
    tokenizer = train_tokenizer([text for texts in captions for text in texts[:2]])
    table = caption_ids(tokenizer, captions)
    return tokenizer, table, noun_classes(tokenizer, table, cache)


# Scenes


def test_twins_lie_side_by_side_and_a_wrong_caption_is_never_a_right_one(twins):
    _, captions, wrong = twins
    for i, text in enumerate(wrong):
        assert text in ("", captions[i ^ 1][1])
        assert text not in captions[i] and captions[i][0] != captions[i ^ 1][0]
    assert 0 < wrong.count("") < 15


def test_twins_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 4)
    first, second = data.chunks(8, 5, TASKS, workers=1, twins=True)
    (again,) = data.chunks(4, 5, TASKS, workers=1, twins=True, start=4)
    assert again.captions == second.captions != first.captions
    assert np.array_equal(again.packed.wholes, second.packed.wholes)


def test_twins_know_no_split():
    with pytest.raises(ValueError, match="no split leaves anything out; given 'seen', use split"):
        next(data.chunks(1000, 0, twins=True, split=Split("seen")))


def test_others_have_as_many_objects_and_colours(twins):
    cache, _, _ = twins
    groups, rows = Groups(cache), torch.arange(60).repeat(20)
    found, differ = groups.others(rows)
    there = cache.classes >= 0
    colored = there & (cache.colors < len(COLORS))
    for count in (there.sum(1), colored.sum(1)):
        assert torch.equal(count[found], count[rows])
    same = [sorted(cache.classes[i].tolist()) == sorted(cache.classes[j].tolist())
            for i, j in zip(rows.tolist(), found.tolist(), strict=True)]  # fmt: skip
    assert differ.tolist() == [not one for one in same] and 0.3 < differ.float().mean() < 1
    assert len(set(found[::60].tolist())) > 1


# Questions


def test_nouns_are_the_names_in_the_captions(twins, words):
    cache, captions, _ = twins
    tokenizer, table, nouns = words
    for k in (0, 1):
        for i in range(60):
            there = set(cache.classes[i].tolist()) - {-1}
            assert set(nouns[k, i].tolist()) - {-1} == there, captions[i][k]
    place = (nouns[0] == nouns[0].max()).nonzero()[0].tolist()
    ended = tokenizer.decode(table[0, place[0], : place[1] + 1]).strip()
    assert CLASSES[nouns[0].max()].split()[-1][:3] in ended.split()[-1] or ended[-1] == "s"


def test_an_orange_bottle_is_no_orange(words, twins):
    tokenizer, _, _ = words
    orange, bottle = CLASSES.index("orange"), CLASSES.index("bottle")
    captions = [("a photo of an orange bottle", "three orange-colored bottles"),
                ("a photo of a teddy bear", "oranges and a hot dog")]  # fmt: skip
    table = caption_ids(tokenizer, captions)
    cache = data.PictureCache(torch.zeros(2), torch.zeros(2), torch.tensor(
        [[bottle, -1], [orange, CLASSES.index("hot dog")]]), torch.zeros(2, 2))  # fmt: skip
    nouns = noun_classes(tokenizer, table, cache)
    assert set(nouns[:, 0].flatten().tolist()) == {-1, bottle}
    assert set(nouns[0, 1].tolist()) == {-1}  # a bear that the scene does not have
    assert set(nouns[1, 1].tolist()) == {-1, orange, CLASSES.index("hot dog")}


def test_patches_are_asked_what_the_masks_show(twins):
    cache, _, _ = twins
    rows = torch.tensor([3, 10, 41])
    shown = shown_by(cache, rows, 16)
    classes, colors, offset = patch_targets(shown)
    masks = cache.masks(rows)
    for b in range(3):
        for y, x in ((4, 5), (8, 8), (11, 3), (7, 12)):
            slots = masks[b, :, 8 * y + 4, 8 * x + 4].nonzero().flatten().tolist()
            p = 16 * y + x
            assert classes[b, p] == (cache.classes[rows[b], slots[0]] if slots else NOTHING)
            assert colors[b, p] == (cache.colors[rows[b], slots[0]] if slots else -100)
            if slots:
                ys, xs = masks[b, slots[0], 4::8, 4::8].nonzero(as_tuple=True)
                assert offset[b, p, 0] == pytest.approx(float(xs.float().mean() - x), abs=1e-4)
                assert offset[b, p, 1] == pytest.approx(float(ys.float().mean() - y), abs=1e-4)


def test_nouns_are_asked_how_many_which_colour_and_where(twins, words):
    cache, _, _ = twins
    _, _, nouns = words
    rows = torch.arange(60)
    of = torch.stack([rows, rows ^ 1])
    shown, asked = shown_by(cache, rows, 16), nouns[torch.zeros(1, dtype=torch.long), of]
    count, color, where = word_targets(shown, asked)
    seen = set()
    for k, i, t in (asked >= 0).nonzero().tolist():
        slots = (cache.classes[i] == asked[k, i, t]).nonzero().flatten()
        hues = set(cache.colors[i, slots].tolist())
        assert count[k, i, t] == len(slots)
        assert color[k, i, t] == (hues.pop() if len(hues) == 1 else -100)
        middles = [m.nonzero().float().mean(0).flip(0) / 64 - 1
                   for m in cache.masks(rows[i : i + 1])[0, slots]]  # fmt: skip
        expected = torch.stack(middles).mean(0) if middles else torch.zeros(2)
        torch.testing.assert_close(where[k, i, t], expected, atol=0.12, rtol=0)
        seen.add((k, len(slots)))
    assert (count[asked < 0] == -100).all() and {(1, 0), (1, 1), (0, 1), (0, 2)} <= seen


def test_the_loss_by_hand():
    odds = torch.tensor([[2.0, 1.0], [-1.0, 3.0], [0.5, -4.0]])
    shown, known = torch.tensor([False, True]), torch.tensor([True, False])
    loss, parts = match_loss(odds, shown, known)
    s = torch.nn.functional.softplus
    terms = (0.5 * (s(-odds[0, 0]) + s(-odds[0, 1])) + 0.35 * (s(odds[1, 0]) + s(-odds[1, 1]))
             + 0.15 * s(odds[2, 0]))  # fmt: skip
    torch.testing.assert_close(loss, terms / (0.5 * 2 + 0.35 * 2 + 0.15))
    # Picture 0 does not show caption 1. By caption 1 picture 1 has 1.0 and picture 0 -1.0.
    assert parts["hard"] == 1 and parts["right"] == 1
    odds[1, 0] = 1.5
    assert match_loss(odds, shown, known)[1] == {"hard": 0, "right": 0}


# Worse pictures


def test_coarse_pictures_have_no_fine_detail():
    images = torch.rand(64, 3, 32, 32)
    torch.manual_seed(0)
    worse = coarse(images, share=0.5)
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(images, worse, strict=True)])
    assert 20 < kept.sum() < 44 and worse.min() >= 0 and worse.max() <= 1
    assert torch.equal(coarse(images, share=0.0), images)
    small = torch.nn.functional.interpolate  # by torch's own kernels, of whatever side it was
    alike = [small(small(images, size=(side, side), mode="bilinear", antialias=True), (32, 32),
                   mode="bicubic").clamp(0, 1) for side in SIDES]  # fmt: skip
    assert min(float((one - worse)[~kept].abs().max()) for one in alike) < 1e-5


def test_bent_pictures_move_by_a_few_pixels():
    line = torch.zeros(16, 3, 64, 64)
    line[..., 32] = 1
    torch.manual_seed(0)
    bent = warped(line, share=1.0, pixels=3.0)
    places = (bent[:, 0] * torch.arange(64.0)).sum(-1) / bent[:, 0].sum(-1)
    assert (places - 32).abs().max() < 3.6 and (places - 32).abs().mean() > 0.5
    assert places.diff(dim=1).abs().max() < 1
    torch.testing.assert_close(warped(line, share=0.0), line, atol=1e-5, rtol=0)


# From recipe to folder


@pytest.fixture
def train(twins, monkeypatch, tmp_path):
    monkeypatch.setattr(scorers, "pictures", lambda recipe, device: twins)

    def go(name, **values):
        path = tmp_path / "match.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in (BASE | values).items()))
        return run_recipe(path, tmp_path / name)

    return go


def test_a_matching_network_is_trained_and_loads(train, twins):
    folder = train("a")
    scorer = MatchScorer.from_folder(folder)
    assert all(bool(torch.isfinite(p).all()) for p in scorer.model.parameters())
    stored = load_file(folder / "model.safetensors")
    assert torch.int8 in {tensor.dtype for tensor in stored.values()}
    assert len(scorer.values(twins[0].images[:2] / 255, [t[0] for t in twins[1][:2]])) == 2
    files = [(train(name, **more) / "model.safetensors").read_bytes()
             for name, more in (("b", {}), ("c", {"seed": 1}))]  # fmt: skip
    assert files[0] == (folder / "model.safetensors").read_bytes() != files[1]


def test_the_recipe_asks_for_twins(monkeypatch):
    asked = []
    monkeypatch.setattr(common, "chunks", lambda *given, **options: asked.append(options["twins"]))
    for name in ("cache_pictures", "Renderer"):
        monkeypatch.setattr(common, name, lambda *given: None)
    for kind in ("match", "clip"):
        common.pictures(Recipe(**BASE | {"kind": kind}), torch.device("cpu"))
    assert asked == [True, False]


@pytest.mark.parametrize("key, value", [("initial", "a"), ("time_std", 2.0)])
def test_keys_of_other_kinds_are_refused(key, value):
    with pytest.raises(ValueError, match=rf"{key} is of .* only, .* kind is match"):
        Recipe(**BASE | {key: value})


def test_an_odd_batch_is_refused(twins, words):
    with pytest.raises(ValueError, match="batch must be even, given 5"):
        train_match(match_config("tiny"), words[0], *twins, steps=1, batch=5)


def told(line):
    """{name: value} of what the loop shows."""
    words = line.partition("loss ")[2].split()[1:-2]
    return {name: float(value) for name, value in zip(words[::2], words[1::2], strict=True)}


def test_what_it_is_asked_is_learnt(twins, words, capsys):
    cache, captions, wrong = twins
    train_match(match_config("tiny", vocab_size=len(words[0])), words[0], cache, captions, wrong,
                steps=30, batch=6, lr=0.01)  # fmt: skip
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("match ")]
    first, last = told(shown[0]), told(shown[-1])
    assert set(first) == {"match", "patch", "word", "hard", "right"}
    for part in ("patch", "word"):
        assert last[part] < 0.75 * first[part], shown


def test_a_right_picture_comes_to_be_above_a_wrong_one(words):
    """Eight pictures' states as they are, and a text encoder that learns whose caption is whose,
    though every caption is as often right as wrong, and so is every picture."""
    tokenizer, table, _ = words
    torch.manual_seed(0)
    config = match_config("tiny", vocab_size=len(tokenizer))
    config.text_config.hidden_size, config.text_config.num_hidden_layers = 32, 2
    model = BlipForImageTextRetrieval(config)
    for weight in (p for p in model.parameters() if p.ndim > 1):
        torch.nn.init.normal_(weight, std=0.1)
    seen, no, own = torch.randn(8, 5, 16), torch.zeros(8, dtype=torch.bool), torch.arange(8)
    ids = torch.stack([table[0, own], table[0, own ^ 1], table[0, own + 8]])
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    for _ in range(80):
        odds, _ = matched(model, seen.repeat(3, 1, 1), ids.flatten(0, 1))
        loss, parts = match_loss(odds.view(3, 8), no, ~no)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.detach() < 0.3 and parts["right"] >= 0.87 and parts["hard"] >= 0.87
