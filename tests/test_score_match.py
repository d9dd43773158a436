"""The matching network's value against transformers' own forward pass; its rows, its self-test."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForImageTextRetrieval

from impasto.sample.protocol import Sampling
from impasto.score import match
from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.score.match import MatchScorer, load_match, marked_ids, match_config, matched, patches
from impasto.score.self_test import PREFERRED, check_pairs, golden
from impasto.search import Draw
from impasto.zoo.registry import SCORERS, SEARCHES
from tests import tiny_match
from tests.fakes import FakeGenerator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_match.saved(tmp_path_factory.mktemp("match"))


@pytest.fixture(scope="module")
def scorer(folder):
    return MatchScorer.from_folder(folder, name="mine")


@pytest.fixture(scope="module")
def some():
    """Five golden pictures and their specs."""
    pictures = golden()
    return pictures.images[:5], pictures.specs[:5]


VALUE = "(log p(match) - log p(no match)) / 5.4"


def values(scorer, images, specs):
    return [score.value for score in scorer.score(images, specs)]


# The value


def test_the_value_is_transformers_own(scorer, some):
    """BlipForImageTextRetrieval's forward pass, batched, and the log of its softmax."""
    images, specs = some
    ids = marked_ids(scorer.tokenizer, [spec.prompt for spec in specs])
    with torch.inference_mode():
        out = scorer.model(pixel_values=images * 2 - 1, input_ids=ids,
                           attention_mask=(ids != scorer.tokenizer.pad_token_id).long()
                           )  # fmt: skip
        told = out.itm_score.log_softmax(-1)
    expected = ((told[:, 1] - told[:, 0]) / 5.4).tolist()
    assert values(scorer, images, specs) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 5


def test_picture_and_prompt_both_matter(scorer, some):
    images, specs = some
    own = values(scorer, images, specs)
    for others in (values(scorer, images.roll(1, 0), specs),
                   values(scorer, images, specs[1:] + specs[:1])):  # fmt: skip
        assert all(abs(a - b) > 1e-3 for a, b in zip(own, others, strict=True))


def test_a_value_does_not_depend_on_its_batch(scorer, some):
    images, specs = some
    together = values(scorer, images, specs)
    assert together == [values(scorer, images[i : i + 1], specs[i : i + 1])[0] for i in range(5)]
    assert together == values(scorer, images.flip(0), specs[::-1])[::-1]


def test_pictures_of_other_sizes_are_resized(scorer, some):
    images, specs = some
    large = torch.nn.functional.interpolate(images, size=(256, 256), mode="nearest")
    assert values(scorer, large, specs) == pytest.approx(values(scorer, images, specs), abs=0.1)


def test_a_prompt_begins_with_the_mark_and_a_long_one_is_cut(scorer):
    ids = marked_ids(scorer.tokenizer, ["a cat", "two dogs"])
    mark = scorer.tokenizer.convert_tokens_to_ids("<null>")
    assert ids.shape == (2, match.TOKENS + 1) and (ids[:, 0] == mark).all()
    assert not (ids[:, 1:] == mark).any()
    assert not (marked_ids(scorer.tokenizer, ["a <null> cat"])[:, 1:] == mark).any()
    with pytest.warns(UserWarning, match="is scored by its first 39"):
        assert len(marked_ids(scorer.tokenizer, ["a cat and " * 30])[0]) == match.TOKENS + 1


def test_padding_changes_no_value(scorer, some):
    images, specs = some
    ids = marked_ids(scorer.tokenizer, [spec.prompt for spec in specs])
    with torch.inference_mode():
        seen = patches(scorer.model, images)
        long, _ = matched(scorer.model, seen, ids)
        longest = int((ids != scorer.tokenizer.pad_token_id).sum(1).max())
        short, _ = matched(scorer.model, seen, ids[:, :longest])
    torch.testing.assert_close(long, short, atol=1e-5, rtol=1e-5)


def test_what_the_words_are_asked_is_before_the_last_layer():
    config = match_config("sticker", vocab_size=400)
    model = BlipForImageTextRetrieval(config).eval()
    seen, ids = torch.randn(2, 5, 192), torch.tensor([[2, 7, 9], [2, 8, 1]])
    with torch.inference_mode():
        _, before = matched(model, seen, ids)
        states = model.text_encoder.embeddings(ids)
        for layer in model.text_encoder.encoder.layer[:-1]:
            states = layer(states, seen)
    torch.testing.assert_close(before, states, atol=1e-5, rtol=1e-5)


def test_pictures_and_specs_go_together(scorer, some):
    images, specs = some
    with pytest.raises(ValueError, match="5 pictures for 4 prompts"):
        scorer.score(images, specs[:4])
    assert scorer.score(images[:0], []) == []


# Folders


def test_presets_are_small_and_known():
    model = BlipForImageTextRetrieval(match_config("sticker", vocab_size=1024))
    assert sum(p.numel() for p in model.parameters()) <= 3_900_000
    with pytest.raises(ValueError, match="unknown matching preset 'big'; allowed: sticker, tiny"):
        match_config("big")


def test_int8_on_disk_is_what_is_loaded(folder, scorer, some):
    images, specs = some
    exact = MatchScorer(*tiny_match.network())
    stored = load_file(folder / match.WEIGHTS)
    assert torch.int8 in {tensor.dtype for tensor in stored.values()}
    assert values(exact, images, specs) == pytest.approx(values(scorer, images, specs), abs=0.3)


def test_damaged_folders_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="recipe of kind match"):
        load_match(tmp_path)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    data = (folder / match.WEIGHTS).read_bytes()
    (tmp_path / match.WEIGHTS).write_bytes(data[:-40])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_match(tmp_path)
    tensors = load_file(folder / match.WEIGHTS)
    del tensors["itm_head.weight"]
    save_file(tensors, tmp_path / match.WEIGHTS, {"quantisation": "int8-per-channel"})
    with pytest.raises(ValueError, match=r"missing keys \['itm_head.weight'\]"):
        load_match(tmp_path)


def test_provenance_names_the_bytes(folder, scorer):
    told = scorer.provenance()
    assert told["id"] == "mine" and told["sha256"] == load_match(folder)[2]
    assert told["value"] == VALUE


# The name


def test_a_folder_goes_by_the_scorers_name(folder, scorer, some):
    named = SCORERS.create(f"sticker-match:weights={folder}", device="cpu")
    assert values(named, *some) == values(scorer, *some)
    assert named.provenance() == scorer.provenance() | {"id": "sticker-match"}
    assert not named.gives_verdict


def test_weights_that_are_nowhere_are_named():
    with pytest.raises(FileNotFoundError, match=r"'no-such' is neither a folder nor weights"):
        SCORERS.create("sticker-match:weights=no-such", device="cpu")


def test_it_is_a_reward_of_a_search(scorer, some, folder, monkeypatch):
    """The best of four by it, drawn in batches of three, is the best of the same pictures."""
    monkeypatch.setattr(MatchScorer, "self_test", lambda self: None)
    search = SEARCHES.create(f"best-of-n:n=4,reward=(sticker-match:weights={folder})")
    draws = [Draw(spec, 7, 0) for spec in some[1][:2]]
    for draw, found in zip(draws, search.draw(FakeGenerator(), draws, Sampling(steps=2), 3),
                           strict=True):  # fmt: skip
        told = [candidate.value for candidate in found.candidates]
        assert found.chosen == told.index(max(told)) and len(set(told)) == 4
        assert values(scorer, found.image[None], [draw.spec]) == [max(told)]
    assert search.provenance()["reward"]["value"] == VALUE


# The self-test


class Rated(Scorer):
    """A fake that rates golden pictures and prompts by a function of their places."""

    def __init__(self, one):
        self.one, self.pictures = one, golden()

    def score(self, images, specs):
        keys = [image.numpy().tobytes() for image in self.pictures.images]
        places = [keys.index(image.numpy().tobytes()) for image in images]
        return [Score(value=float(self.one(place))) for place in places]

    def self_test(self):
        check_pairs(self)

    def provenance(self):
        return {}


def test_random_weights_are_refused(scorer):
    with pytest.raises(ScorerBroken, match="failed its self-test"):
        scorer.self_test()


def test_true_pictures_must_be_above_altered_ones():
    least = round(PREFERRED * 24)
    Rated(lambda place: place < least).self_test()  # 18 of 24 true ones above 0
    with pytest.raises(ScorerBroken, match=f"{least - 1} of 24 true golden pictures above"):
        Rated(lambda place: place < least - 1).self_test()
    with pytest.raises(ScorerBroken, match="0 of 24 true golden pictures above"):
        Rated(lambda place: 1.0).self_test()


def test_flops_are_those_of_both_networks(scorer):
    """By hand: a layer's products, attention to 17 places and 41 words, a head of no account."""
    places, words, (d,) = 17, 41, {scorer.model.config.vision_config.hidden_size,
                                   scorer.model.config.text_config.hidden_size}  # fmt: skip
    patch = 2 * 3 * 32 * 32 * d * (places - 1)
    vision = 2 * places * 12 * d * d + 4 * places**2 * d
    own = 2 * words * 4 * d * d + 4 * words**2 * d
    cross = 2 * (2 * words + 2 * places) * d * d + 4 * words * places * d
    text = own + cross + 2 * words * 8 * d * d
    assert scorer.flops(64, 64) == scorer.flops(128, 128) == patch + vision + text
