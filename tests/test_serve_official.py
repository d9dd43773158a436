"""The full-size scorer behind the reward service, by its name, on tiny random networks."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import Mask2FormerForUniversalSegmentation
from typer.testing import CliRunner

from impasto.cli import app as cli
from impasto.images import decode_image, png_bytes
from impasto.rewards import GenEvalReward, LocalReward
from impasto.score.detector import detector_config
from impasto.score.official import OfficialScorer
from impasto.score.verdict import kept_objects
from impasto.serve.app import make_app
from impasto.spec import COLORS, Item, Spec
from tests import tiny_clip

SIZES = ((48, 64), (64, 64), (48, 64), (40, 56))


@pytest.fixture(scope="module")
def name(tmp_path_factory):
    """`geneval:…` of two folders."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = Mask2FormerForUniversalSegmentation(detector_config("tiny", queries=20))
        for part in (network.class_predictor.weight, network.class_predictor.bias):
            torch.nn.init.normal_(part, std=1.0)
    network.save_pretrained(detector := tmp_path_factory.mktemp("detector"))
    clip = tiny_clip.saved(tmp_path_factory.mktemp("clip"), norms=True)
    return f"geneval:detector={detector},clip={clip},mode=hf"


@pytest.fixture
def source(name, monkeypatch):
    """What `impasto serve` serves, for networks that are let off the test of their training."""
    served = {}
    monkeypatch.setattr(OfficialScorer, "self_test", lambda self: None)
    monkeypatch.setattr("impasto.serve.run.run",
                        lambda source, **options: served.update(options, source=source))
    done = CliRunner().invoke(cli, ["serve", "--rewards", "--scorer", name, "--device", "cpu",
                                    "--max-pictures", "4"])  # fmt: skip
    assert done.exit_code == 0, done.output
    assert served["limits"].pictures == 4 and served["port"] == 8000
    return served["source"]


@pytest.fixture
def asked(source):
    """Pictures of three sizes, each with a demand that it may meet, of every kind."""
    pictures = []
    for i, (height, width) in enumerate(SIZES):
        generator = torch.Generator().manual_seed(i)
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, (height, width))[0]
        pictures.append(decode_image(png_bytes(picture), str(i)))
    specs = []
    for i, picture in enumerate(pictures):
        found = source.scorer.detector.detect(picture[None])[0]
        there = kept_objects(found, Spec(tag="x", include=(), prompt="x"),
                             source.scorer.thresholds)  # fmt: skip
        first, *others = [*there, "zebra"]
        items = [(Item(cls=first, color=COLORS[i]),), (Item(cls=first),),
                 (Item(cls=first, count=2),),
                 (Item(cls=first), Item(cls=others[0], position=("above", 0)))][i % 4]  # fmt: skip
        tag = ("colors", "single_object", "counting", "position")[i % 4]
        specs.append(Spec(tag=tag, include=items, prompt=f"p{i}"))
    return pictures, specs


def question(pictures, specs, **more):
    return {"images": [base64.b64encode(png_bytes(p)).decode() for p in pictures],
            "metadata": [spec.to_dict() for spec in specs]} | more  # fmt: skip


def test_the_services_rewards_are_the_scorers(source, asked):
    """A picture a request, four at once; and several of other sizes in one."""
    pictures, specs = asked
    here = source.scorer.rewards(pictures, specs)
    verdicts = [one.correct for one in source.scorer.score(pictures, specs)]
    assert [bool(one.accuracy) for one in here] == verdicts and len(set(verdicts)) == 2
    with TestClient(make_app(source)) as client:
        assert client.get("/healthz").json()["scorer"] == "geneval"

        def ask(i):
            return client.post("/v1/rewards", json=question(pictures[i : i + 1], specs[i : i + 1]))

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, range(4)))
        together = client.post("/v1/rewards", json=question(pictures[:2], specs[:2]))
        lines = json.dumps([spec.to_dict() for spec in specs[2:]])
        files = client.post("/v1/rewards/files", data={"metadata": lines},
                            files=[("images", png_bytes(p)) for p in pictures[2:]])  # fmt: skip
    assert {answer.status_code for answer in (*answers, together, files)} == {200}
    single = [answer.json()["rewards"][0] for answer in answers]
    many = [*together.json()["rewards"], *files.json()["rewards"]]
    for one, other, expected in zip(single, many, here, strict=True):
        for got in (one, other):
            assert (got["accuracy"], got["strict_accuracy"], got["reason"]) == (
                expected.accuracy, expected.strict_accuracy, expected.reason)  # fmt: skip
            assert got["score"] == pytest.approx(expected.score)


def test_a_trainers_reward_is_the_same_without_the_service(source, asked):
    pictures, specs = asked
    scores, _ = GenEvalReward(source)(torch.stack([pictures[0], pictures[2]]),
                                      [specs[0].prompt, specs[2].prompt],
                                      [specs[0].to_dict(), specs[2].to_dict()])  # fmt: skip
    expected = source.scorer.rewards([pictures[0], pictures[2]], [specs[0], specs[2]])
    assert scores["avg"] == pytest.approx([one.score for one in expected])


def test_random_networks_are_not_served(name, monkeypatch):
    """Nobody is rewarded by a detector that was never trained: exit code 5, and which part."""
    monkeypatch.setattr("impasto.serve.run.run", lambda *_, **__: pytest.fail("it serves"))
    done = CliRunner().invoke(cli, ["serve", "--rewards", "--scorer", name, "--device", "cpu"])
    assert done.exit_code == 5 and "the detector: " in done.stderr, done.output


def test_folders_that_are_none_are_usage_errors(name, monkeypatch):
    monkeypatch.setattr("impasto.serve.run.run", lambda *_, **__: pytest.fail("it serves"))
    for scorer, words in (("geneval", "needs detector="),
                          (name.replace("mode=hf", "mode=official"), "mode=hf")):  # fmt: skip
        done = CliRunner().invoke(cli, ["serve", "--rewards", "--scorer", scorer])
        assert done.exit_code == 2 and words in done.stderr, done.output


def test_a_source_is_made_by_name(name, monkeypatch):
    monkeypatch.setattr(OfficialScorer, "self_test", lambda self: None)
    assert isinstance(LocalReward(name).scorer, OfficialScorer)
