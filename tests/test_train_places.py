"""A CLIP whose single patches learn what is at them."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPConfig

from impasto.models.mmdit import train_tokenizer as learn_words
from impasto.score.clip import clip_config, patch_features
from impasto.score.color import TEMPLATES
from impasto.spec import CLASSES, COLORS
from impasto.train.clip import objects_of_places, train_clip
from impasto.train.data import PictureCache

SIDE, PATCH = 16, 8


def cache(count=4):
    """Pictures of 2 x 2 patches: a red thing of class 3 upper left, one of its own colour and of
    class 7 lower right, nothing else."""
    images = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8)
    owner = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    owner[:, :PATCH, :PATCH], owner[:, PATCH:, PATCH:] = 1, 2
    images[:, 0, :PATCH, :PATCH], images[:, 1, PATCH:, PATCH:] = 255, 255
    classes, colors = torch.full((count, 8), -1), torch.zeros(count, 8, dtype=torch.int64)
    classes[:, 0], classes[:, 1] = 3, 7
    colors[:, 0], colors[:, 1] = COLORS.index("red"), len(COLORS)
    return PictureCache(images, owner, classes, colors)


def config(words):
    small = clip_config("tiny", vocab_size=words).to_dict()
    small["vision_config"] |= {"image_size": SIDE, "patch_size": PATCH}
    return CLIPConfig.from_dict(small)


def test_places_come_with_what_is_at_them():
    torch.manual_seed(0)
    picture, place, target = objects_of_places(cache(), torch.arange(4), PATCH, 200)
    red, own = 3 * 11 + COLORS.index("red"), 7 * 11 + 10
    assert set(zip(place.tolist(), target.tolist(), strict=True)) == {(0, red), (3, own)}
    assert set(picture.tolist()) == {0, 1, 2, 3}


def test_patches_learn_the_texts_of_what_they_show():
    texts = [TEMPLATES[0].format(color=x, cls=c) for c in CLASSES for x in COLORS]
    tokenizer = learn_words(texts + [f"a photo of a {c}" for c in CLASSES])
    captions = [("a thing", "one thing", "things")] * 4
    told = {}
    for weight in (0.0, 1.0):
        model, _ = train_clip(config(len(tokenizer)), tokenizer, cache(), captions, ["no"] * 4,
                              steps=40, batch=4, lr=0.01, place_weight=weight)  # fmt: skip
        with torch.no_grad():
            seen = patch_features(model, cache().images[:1].float() / 127.5 - 1)[0, [0, 3]]
            wanted = [f"a photo of a red {CLASSES[3]}", f"a photo of a {CLASSES[7]}"]
            ids = tokenizer(wanted, padding=True, return_tensors="pt").input_ids
            text = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        told[weight] = F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).T
    assert told[1.0].argmax(1).tolist() == [0, 1]
    gap = {weight: sims.diagonal().sum() - sims.flip(1).diagonal().sum()
           for weight, sims in told.items()}  # fmt: skip
    assert gap[1.0] > gap[0.0] + 0.3


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_a_clip_of_another_size_is_refused():
    tokenizer = learn_words(["a thing"])
    other = clip_config("tiny", vocab_size=len(tokenizer))
    with pytest.raises(ValueError, match="must take 16 px, it takes 96"):
        train_clip(other, tokenizer, cache(), [("a", "b", "c")] * 4, ["d"] * 4, steps=1, batch=2,
                   place_weight=1.0)  # fmt: skip
