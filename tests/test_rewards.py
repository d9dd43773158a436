"""The rewards in the signatures of flow_grpo and Flow-Factory, and the HTTP client's manners."""

import json
import socket
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from impasto.rewards import (
    GenEvalReward,
    LocalReward,
    PreferenceReward,
    RemoteReward,
    ServerError,
    geneval_score,
    preference_score,
)
from impasto.rewards.inputs import as_pictures, as_specs
from impasto.score.base import Score, ScorerBroken
from impasto.score.geneval import GenEvalScorer
from tests.fakes import FakeColors, FakeDetector, FakeRewards, FakeSecond

DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}],
       "prompt": "a photo of a dog"}  # fmt: skip
TWO = {"tag": "two_object", "prompt": "a photo of a dog and a cat",
       "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}  # fmt: skip
LINES = [DOG, TWO, DOG]
PROMPTS = [line["prompt"] for line in LINES]
IMAGES = torch.ones(3, 3, 16, 16)
IMAGES[2] = 0
SCORES, STRICT = [1.0, 0.5, 0.0], [1.0, 0.0, 0.0]

FORMS = {
    "torch float": IMAGES,
    "torch bfloat16": IMAGES.bfloat16(),
    "torch uint8": (IMAGES * 255).to(torch.uint8),
    "numpy": (IMAGES * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy(),
    "PIL": [Image.fromarray(np.full((16, 16, 3), v, np.uint8)) for v in (255, 255, 0)],
    "list of tensors": list(IMAGES),
}


@pytest.mark.parametrize("images", FORMS.values(), ids=FORMS)
def test_flow_grpos_training_loops(images):
    reward = GenEvalReward(FakeRewards())
    # As in scripts/train_sd3.py: submitted to a pool of threads.
    with ThreadPoolExecutor(8) as pool:
        scores, extra = pool.submit(reward, images, PROMPTS, LINES, only_strict=True).result()
    assert extra == {}
    assert scores["avg"] == scores["geneval"] == SCORES
    assert scores["accuracy"] == scores["strict_accuracy"] == STRICT
    assert scores["single_object_accuracy"] == [1.0, -10.0, 0.0]
    assert scores["two_object_strict_accuracy"] == [-10.0, 0.0, -10.0]
    assert scores["counting_accuracy"] == [-10.0] * 3
    assert len(scores) == 2 + 2 * 6 + 2 and {len(v) for v in scores.values()} == {3}


def test_flow_grpos_multi_score_entry():
    factory = geneval_score(FakeRewards())
    assert "device" in factory.__code__.co_varnames  # how multi_score decides to give it
    got = factory("cpu")(IMAGES, PROMPTS, np.array(LINES), True)
    assert got[:3] == (SCORES, STRICT, STRICT)
    assert got[3]["two_object"] == got[4]["two_object"] == [-10.0, 0.0, -10.0]


def test_one_look_for_pictures_of_many_prompts():
    scorer = FakeRewards()
    GenEvalReward(scorer)(IMAGES, PROMPTS, LINES)
    assert scorer.calls == [3]


def test_the_quirk_is_a_switch():
    class Both(FakeDetector):
        def detect(self, images):
            return [[one, type(one)("cat", one.box, 0.9, one.mask)]
                    for (one,) in super().detect(images)]  # fmt: skip

    line = {"tag": "position", "prompt": "x",
            "include": [{"class": "cat", "count": 1},
                        {"class": "dog", "count": 1, "position": ["left of", 0]}]}  # fmt: skip
    for published, score in ((False, 2 / 3), (True, 3 / 4)):
        scorer = FakeRewards()
        scorer.detector = Both()
        reward = GenEvalReward(scorer, as_published=published)
        assert reward(IMAGES[:1], ["x"], [line])[0]["avg"] == [pytest.approx(score)]


@pytest.mark.parametrize("images, words", [
    (torch.ones(3, 16, 16), "allowed: torch"),
    (torch.ones(1, 4, 16, 16), "a picture is"),
    (torch.ones(1, 3, 4, 4, dtype=torch.int64), "int64"),
    (torch.full((1, 3, 4, 4), torch.nan), "NaN"),
    (["a.png"], "a picture is str"),
])  # fmt: skip
def test_pictures_that_are_none(images, words):
    with pytest.raises(ValueError, match=words):
        as_pictures(images)


@pytest.mark.parametrize("line, words", [
    ({"tag": "x"}, "no 'include'"), ("{", "no line"), ("[1]", "no line"),
    ({"tag": "x", "include": [{"class": "dog", "amount": 1}]}, "amount"), (None, "no line"),
])  # fmt: skip
def test_metadata_that_is_none(line, words):
    with pytest.raises(ValueError, match=words):
        as_specs([line], ["x"])


def test_numbers_must_agree_and_ref_images_are_refused():
    reward = GenEvalReward(FakeRewards())
    with pytest.raises(ValueError, match="2 metadata for 3 prompts"):
        reward(IMAGES, PROMPTS, LINES[:2])
    with pytest.raises(ValueError, match="2 pictures for 3 specs"):
        reward(IMAGES[:2], PROMPTS, LINES)
    with pytest.raises(ValueError, match="ref_images"):
        reward(IMAGES, PROMPTS, LINES, ref_images=IMAGES)


def test_what_cannot_reward_is_refused():
    with pytest.raises(ScorerBroken):
        GenEvalReward(FakeRewards(broken=True))
    with pytest.raises(ValueError, match="GenEval's rule only"):
        LocalReward(GenEvalScorer(FakeDetector(), FakeColors(), rule="GenEval++"))
    with pytest.raises(ValueError, match="gives no reward"):
        LocalReward("sticker-clip")


def test_the_shipped_scorer_rewards_golden_pictures():
    from impasto.score.self_test import golden

    pictures, n = golden(), 12
    reward = GenEvalReward("sticker")
    _, rewards = reward.rate(pictures.images[:n], [s.prompt for s in pictures.specs[:n]],
                             [s.to_json() for s in pictures.specs[:n]])  # fmt: skip
    assert sum(one.strict_accuracy for one in rewards) >= 0.75 * n
    verdicts = reward.source.scorer.score(pictures.images[:n], pictures.specs[:n])
    assert [one.accuracy for one in rewards] == [score.value for score in verdicts]


# Flow-Factory: not a dependency, so its two classes are written down here as they are there.


class PointwiseRewardModel:
    def __init__(self, config, accelerator):
        self.accelerator, self.config = accelerator, config
        self.device, self.dtype = config.device, config.dtype


class RewardModelOutput:
    def __init__(self, rewards, extra_info=None):
        self.rewards, self.extra_info = rewards, extra_info


@pytest.fixture
def model_of(monkeypatch):
    abc = types.ModuleType("flow_factory.rewards.abc")
    abc.PointwiseRewardModel, abc.RewardModelOutput = PointwiseRewardModel, RewardModelOutput
    for name in ("flow_factory", "flow_factory.rewards"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, abc.__name__, abc)
    monkeypatch.delitem(sys.modules, "impasto.rewards.flow_factory", raising=False)
    from impasto.rewards import flow_factory

    def make(kind="GenEvalRewardModel", **config):
        values = {"device": torch.device("cpu"), "dtype": torch.float32} | config
        return getattr(flow_factory, kind)(types.SimpleNamespace(**values), accelerator=None)

    yield make
    sys.modules.pop("impasto.rewards.flow_factory", None)


@pytest.mark.parametrize("name, values", [("score", SCORES), ("strict_accuracy", STRICT)])
def test_flow_factorys_reward_model(model_of, name, values):
    model = model_of(scorer=FakeRewards(), reward=name)
    assert isinstance(model, PointwiseRewardModel) and model.use_tensor_inputs
    out = model(prompt=PROMPTS, image=list(IMAGES), metadata=[json.dumps(x) for x in LINES])
    assert out.rewards.dtype == torch.float32 and out.rewards.tolist() == values
    assert out.extra_info["accuracy"] == STRICT
    assert out.extra_info["reason"] == ["", "expected cat==1, found 0", "expected dog==1, found 0"]


def test_flow_factorys_faults(model_of):
    with pytest.raises(ValueError, match="unknown reward 'x'"):
        model_of(scorer=FakeRewards(), reward="x")
    for both in ({}, {"scorer": FakeRewards(), "server_url": "http://h"}):
        with pytest.raises(ValueError, match="either scorer"):
            model_of(**both)
    with pytest.raises(ValueError, match="no metadata"):
        model_of(scorer=FakeRewards())(prompt=PROMPTS, image=list(IMAGES))


# Preferences


@pytest.mark.parametrize("images", FORMS.values(), ids=FORMS)
def test_preferences_in_flow_grpos_signatures(images):
    scores, extra = PreferenceReward(FakeSecond())(images, PROMPTS, LINES, only_strict=True)
    assert extra == {} and scores["avg"] == scores["fake-second"] == [1.0, 1.0, 0.0]
    factory = preference_score(FakeSecond())
    assert "device" in factory.__code__.co_varnames  # how multi_score decides to give it
    assert factory("cpu")(images, PROMPTS, np.array(LINES)) == ([1.0, 1.0, 0.0], {})


def test_preferences_of_the_shipped_clip_are_the_scorers_own():
    from impasto.score.self_test import golden

    pictures = golden()
    images, specs = pictures.images[:4], pictures.specs[:4]
    reward = PreferenceReward("sticker-clip")
    scores, _ = reward(images, [spec.prompt for spec in specs])
    assert scores["sticker-clip"] == [one.value for one in reward.scorer.score(images, specs)]
    assert len(set(scores["avg"])) == 4


def test_what_is_no_preference_is_refused():
    with pytest.raises(ValueError, match="use GenEvalReward"):
        PreferenceReward(FakeRewards())
    reward = PreferenceReward(FakeSecond())
    with pytest.raises(ValueError, match="fake-second compares with no picture"):
        reward(IMAGES, PROMPTS, ref_images=IMAGES)
    with pytest.raises(ValueError, match="3 pictures for 2 prompts"):
        reward(IMAGES, PROMPTS[:2])
    reward.scorer.score = lambda images, specs: [Score(value=float("inf"))] * len(specs)
    with pytest.raises(ScorerBroken, match="gave inf for picture 0 of 'a photo of a dog'"):
        reward(IMAGES, PROMPTS)


def test_preferences_in_flow_factory(model_of):
    model = model_of("PreferenceRewardModel", scorer=FakeSecond())
    out = model(prompt=PROMPTS, image=list(IMAGES))
    assert out.rewards.dtype == torch.float32 and out.rewards.tolist() == [1.0, 1.0, 0.0]
    with pytest.raises(ValueError, match="give scorer, such as pickscore"):
        model_of("PreferenceRewardModel")
    with pytest.raises(ValueError, match="the samples have no image"):
        model(prompt=PROMPTS)


# The client; its talk with the service is in test_serve.py


def test_a_service_that_is_away_is_an_error_and_no_reward():
    client = RemoteReward("http://127.0.0.1:9", tries=1)
    with pytest.raises(ServerError, match="cannot be reached"):
        GenEvalReward(client)(IMAGES, PROMPTS, LINES)


@pytest.mark.parametrize("answer", [
    "10 out of 10", '{"rewards": 1}', '{"rewards": [{"score": 1}]}', '{"rewards": []}',
    '{"rewards": [{"score": "1", "accuracy": 1, "strict_accuracy": 1}]}',
    '{"rewards": [{"score": NaN, "accuracy": 1, "strict_accuracy": 1}]}',
])  # fmt: skip
def test_words_instead_of_numbers_are_an_error_and_no_reward(monkeypatch, answer):
    client = RemoteReward("http://x", tries=3)
    monkeypatch.setattr(client, "_post", lambda body: (200, {}, answer))
    with pytest.raises(ServerError, match="answered without 1 rewards"):
        client.rate(as_pictures(IMAGES[:1]), as_specs(LINES[:1], PROMPTS[:1]))


def test_a_service_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = RemoteReward(f"http://127.0.0.1:{silent.getsockname()[1]}", tries=1, timeout=0.2)
        begun = time.monotonic()
        with pytest.raises(ServerError, match="cannot be reached"):
            client.rate(as_pictures(IMAGES[:1]), as_specs(LINES[:1], PROMPTS[:1]))
        assert 0.2 <= time.monotonic() - begun < 5


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="no address"):
        RemoteReward(url)


@pytest.mark.parametrize("answers, tries, calls, raises", [
    ([(503, "busy"), (200, '{"rewards": []}')], 5, 2, None),
    ([(429, "busy")] * 3, 3, 3, "answered 429"),
    ([(422, "mend it")], 5, 1, "mend it"),
])  # fmt: skip
def test_retries_are_bounded_and_only_of_what_may_pass(monkeypatch, answers, tries, calls, raises):
    client, seen, left = RemoteReward("http://x", tries=tries), [], list(answers)

    def post(body):
        seen.append(body)
        status, text = left.pop(0)
        return status, {"Retry-After": "0"}, text

    monkeypatch.setattr(client, "_post", post)
    if raises:
        with pytest.raises(ServerError, match=raises):
            client.rate(as_pictures(IMAGES[:1]), as_specs(LINES[:1], PROMPTS[:1]))
    else:
        assert client._ask(b"") == '{"rewards": []}'
    assert len(seen) == calls
