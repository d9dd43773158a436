"""A language model that reads pictures: its layout, its training, its folder, and as a judge."""

import json
from dataclasses import asdict

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from impasto.bench.asked import SUFFIX
from impasto.bench.sticker_questions import sticker_questions
from impasto.cli import app
from impasto.models.mmdit import train_tokenizer
from impasto.models.tokenflow import train_words
from impasto.models.tokenflow.config import READERS
from impasto.models.tokenflow.reader import (
    CHATS,
    CodeFeatures,
    Projector,
    Reader,
    ReaderNetwork,
)
from impasto.models.tokenflow.reader_folder import load_reader, save_reader
from impasto.models.tokenflow.train import answer_loss
from impasto.score.judges import Question, Unanswered
from impasto.train import tokenflow as reading
from impasto.zoo.registry import JUDGES
from tests import tiny_tokenflow

TEXTS = ("How many cups are there?", "Is there a dog?", "yes no", "two three", "question:",
         "answer:", "What color is the cup?", "red blue")  # fmt: skip
TINY = READERS["tiny"]()


@pytest.fixture(scope="module")
def words():
    return train_words(TEXTS * 4, vocab_size=330)


@torch.no_grad()
def lively(network):
    """Random weights large enough for pictures to matter."""
    generator = torch.Generator().manual_seed(0)
    for p in network.parameters():
        if p.ndim > 1:
            p.copy_(torch.randn(p.shape, generator=generator) * 1.5 * p.shape[-1] ** -0.5)
    return network


def made(words, features=None, chat="plain"):
    network = lively(ReaderNetwork.from_config(TINY))
    return Reader(network, features or CodeFeatures(tiny_tokenflow.tokenizer()), words, chat=chat)


@pytest.fixture
def reader(words):
    return made(words)


def pictures(count=2, side=32):
    return tiny_tokenflow.pictures(side, count)


# ------------------------------------------------------------------------------ what it is shown


@torch.no_grad()
def test_features_are_the_final_sums_of_all_channels_and_places():
    vae = tiny_tokenflow.tokenizer()
    x = CodeFeatures(vae)(pictures())
    ids = vae.encode(pictures())
    f = sum(vae.summand(own, size) for own, size in zip(ids, vae.scales, strict=True))
    assert x.shape == (2, 16, 10)
    torch.testing.assert_close(x, f.flatten(2).transpose(1, 2))
    assert torch.equal(CodeFeatures(vae).of_ids(ids), x)
    large = CodeFeatures(vae)(F.interpolate(pictures(), scale_factor=2))
    assert large.shape == (2, 16, 10)  # any size is brought to the tokenizer's


def test_visual_tokens_stand_at_the_beginning_of_the_turn(words):
    reader = made(words, chat="plain")
    before, behind = reader.prompt_ids("Is there a dog?")
    assert before == [words.bos_token_id]
    assert words.decode(behind).strip() == "question: is there a dog? answer:"
    tokens = torch.randn(16, 24)
    row = reader.embedded(before, tokens, behind)
    assert torch.equal(row[1:17], tokens) and len(row) == 17 + len(behind)
    look = reader.network.lm.get_input_embeddings()
    assert torch.equal(row[17:], look(torch.tensor(behind)))


def test_chats_are_the_published_conversations():
    """Qwen's turns, with its own marks as single words; a question's marks are defused."""
    marks = ["<|im_start|>", "<|im_end|>"]
    plain = train_tokenizer(TEXTS * 4, vocab_size=330)
    plain.add_special_tokens({"extra_special_tokens": marks})
    reader = made(plain, chat="qwen_2_5")
    before, behind = reader.prompt_ids("Two cups?<|im_end|>")
    assert plain.bos_token_id is None  # Qwen has none
    start, end = plain.convert_tokens_to_ids(marks)
    assert before[0] == start and before.count(start) == 2 and before.count(end) == 1
    assert behind.count(end) == 1 and behind.count(start) == 1
    assert plain.decode(before, skip_special_tokens=True).split() == [
        "system", "you", "are", "a", "helpful", "assistant.", "user"]  # fmt: skip
    other, _ = reader.prompt_ids("Two cups?", system="Be brief.")
    assert "be brief." in plain.decode(other) and "helpful" not in plain.decode(other)
    assert CHATS["vicuna"].after == " ASSISTANT:"
    with pytest.raises(ValueError, match="unknown chat 'qwen'; allowed: plain"):
        made(plain, chat="qwen")


def test_the_published_reader_is_qwen_14b_over_40_channels():
    config = READERS["xl-qwen-14b"]()
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.lm, **config.sizes))
        projector = Projector(channels=config.channels, width=5120)
    assert sum(p.numel() for p in lm.parameters()) == 14_770_033_664
    assert {key: tuple(x.shape) for key, x in projector.state_dict().items()} == {
        "mm_projector.0.weight": (5120, 40), "mm_projector.0.bias": (5120,),
        "mm_projector.2.weight": (5120, 5120), "mm_projector.2.bias": (5120,)}  # fmt: skip
    assert asdict(READERS["sticker"]())["channels"] == 32


# ------------------------------------------------------------------------------ training


def test_the_loss_is_of_the_answers_words_and_end_alone(reader):
    """As by hand, row by row without padding; questions of different lengths together."""
    x, network = reader.features(pictures()), reader.network
    questions, answers = ["Is there a dog?", "How many cups are there? red blue"], ["yes", "two"]
    loss = answer_loss(reader, x, questions, answers)
    parts = []
    for i in range(2):
        before, behind = reader.prompt_ids(questions[i])
        said = reader.answer_ids(answers[i])
        assert said[-1] == reader.tokenizer.eos_token_id
        row = reader.embedded(before, network.projector(x[i]), [*behind, *said[:-1]])
        logits = network.lm(inputs_embeds=row[None]).logits[0, -len(said) :]
        parts.append(F.cross_entropy(logits, torch.tensor(said), reduction="none"))
    torch.testing.assert_close(loss, torch.cat(parts).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stage", [1, 2])
def test_stage_one_trains_the_projector_and_stage_two_both(reader, stage):
    network = reader.network.train_parts(projector=True, lm=stage == 2)
    answer_loss(reader, reader.features(pictures()), ["Is there a dog?"] * 2,
                ["yes", "no"]).backward()  # fmt: skip
    assert all(p.grad is not None and p.grad.abs().sum() > 0
               for p in network.projector.parameters())  # fmt: skip
    learnt = [p.grad is not None for p in network.lm.parameters()]
    assert all(learnt) if stage == 2 else not any(learnt)
    assert all(p.grad is None for p in reader.features.vae.parameters())


@pytest.mark.parametrize("continuous", [False, True])
def test_answers_about_pictures_are_learnt(words, continuous):
    """From codes, and from continuous features by the same class: the answer is in the picture
    alone."""
    def shades(images):
        small = F.adaptive_avg_pool2d(images, 4).flatten(2).transpose(1, 2)
        return small.repeat(1, 1, 4)[..., :10]

    reader = made(words, features=shades if continuous else None)
    images = torch.stack([torch.full((3, 32, 32), shade) for shade in (0.1, 0.9)])
    x, question = reader.features(images), "What color is the cup?"
    assert not torch.equal(x[0], x[1])
    optimizer = torch.optim.AdamW(reader.network.parameters(), lr=3e-3)
    for _ in range(60):
        loss = answer_loss(reader, x, [question] * 2, ["red", "blue"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reader.network.eval()
    said = [reader.ask(Question((image,), question), 8) for image in images]
    assert said == ["red", "blue"]
    p = [reader.probability(Question((image,), question), [" red"]) for image in images]
    assert p[0] > 0.9 and p[1] < 0.1


# ------------------------------------------------------------------------------ a judge


def test_it_answers_greedily(reader):
    """Word by word the likeliest, of a sequence that is made anew for each."""
    question, x = Question((pictures()[0],), "Is there a dog?"), reader.features(pictures()[:1])
    said = reader.ask(question, 5)
    before, behind = reader.prompt_ids("Is there a dog?")
    words: list[int] = []
    with torch.no_grad():
        while len(words) < 5 and reader.tokenizer.eos_token_id not in words:
            row = reader.embedded(before, reader.network.projector(x[0]), [*behind, *words])
            words.append(int(reader.network.lm(inputs_embeds=row[None]).logits[0, -1].argmax()))
    assert said == reader.tokenizer.decode(words, skip_special_tokens=True).strip()
    with pytest.raises(Unanswered, match="decodes greedily"):
        reader.ask(question, 5, attempt=1)


def test_several_pictures_and_none(reader):
    a, b = pictures()
    p = [reader.first_token(Question(images, "Is there a dog?"))
         for images in ((a,), (b,), (a, b), (b, a), ())]  # fmt: skip
    assert all(abs(float(own.sum()) - 1) < 1e-5 for own in p)
    assert len({tuple(own.tolist()) for own in p}) == 5
    assert reader.probability(Question((a,), "Is there a dog?"), ["yes", "yes"]) == pytest.approx(
        float(p[0][reader.first_ids(["yes"])[0]]))  # fmt: skip


def test_provenance_names_weights_and_tokenizer(reader, words):
    record = reader.provenance()
    assert record["pictures"] == {"name": "codes",
                                  "tokens": reader.features.vae.token_digest()}  # fmt: skip
    assert record["decoding"] == "greedy" and len(record["sha256"]) == 64
    other = made(words)
    with torch.no_grad():
        other.network.projector.mm_projector[0].bias.add_(1)
    assert other.provenance()["sha256"] != record["sha256"]


def test_parts_that_do_not_fit(words):
    lm = ReaderNetwork.from_config(TINY).lm
    with pytest.raises(ValueError, match="tokens of width 8; the language model's are 24 wide"):
        ReaderNetwork(Projector(channels=10, width=8), lm)
    with pytest.raises(ValueError, match="takes features of 10 numbers; these have 6"):
        made(words, features=CodeFeatures(tiny_tokenflow.tokenizer(pixel_channels=0)))


# ------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("format", ["float32", "bfloat16", "int8"])
def test_a_saved_reader_answers(reader, tmp_path, format):
    save_reader(reader, tmp_path / "reader", format)
    again = load_reader(tmp_path / "reader")
    codes = again.features.vae.token_digest()
    assert codes == reader.features.vae.token_digest(), "in every format"
    question = Question((pictures()[0],), "Is there a dog?")
    if format == "float32":
        assert again.ask(question, 4) == reader.ask(question, 4)
        assert torch.equal(again.first_token(question), reader.first_token(question))
        assert again.provenance() == reader.provenance()
    assert torch.isfinite(load_reader(tmp_path / "reader", torch_dtype="bfloat16")
                          .first_token(question)).all()  # fmt: skip


def test_another_tokenizer_and_broken_folders_are_refused(reader, words, tmp_path):
    save_reader(reader, tmp_path / "a", "float32")
    other = made(words, CodeFeatures(tiny_tokenflow.tokenizer(seed=3)))
    save_reader(other, tmp_path / "b", "float32")
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_reader(tmp_path / "a", vae=tmp_path / "b/vae")
    values = json.loads((tmp_path / "a/reader.json").read_text())
    (tmp_path / "a/reader.json").write_text(json.dumps(values | {"more": 1}))
    with pytest.raises(ValueError, match=r"must have the keys .*'chat'"):
        load_reader(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"reader.json is missing"):
        load_reader(tmp_path)


class Shades:
    name, channels = "shades", 10

    def __call__(self, images):
        return images.mean((2, 3))[:, None].repeat(1, 2, 4)[..., :10]


def test_a_reader_of_continuous_features_is_given_them(words, tmp_path):
    save_reader(made(words, Shades()), tmp_path / "reader", "float32")
    assert not (tmp_path / "reader/vae").exists()
    with pytest.raises(ValueError, match="reads 'shades', which are not in its folder"):
        load_reader(tmp_path / "reader")
    other = Shades()
    other.name = "tints"
    with pytest.raises(ValueError, match="reads 'shades', given 'tints'; give the features that"):
        load_reader(tmp_path / "reader", features=other)
    again = load_reader(tmp_path / "reader", features=Shades())
    assert again.provenance()["pictures"] == {"name": "shades"}
    question = Question((pictures()[0],), "Is there a dog?")
    assert again.ask(question, 4) == made(words, Shades()).ask(question, 4)


def test_the_worlds_questions_are_asked_of_it(reader, tmp_path):
    """`impasto eval sticker-questions --judge reader:path=…`: pictures of any size, answers read
    by the bench."""
    save_reader(reader, tmp_path / "reader", "float32")
    done = CliRunner().invoke(app, [
        "eval", "sticker-questions:per_kind=1", "--judge", f"reader:path={tmp_path / 'reader'}",
        "--out", str(tmp_path / "run"), "--allow-incomplete", "--device", "cpu",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["model"]["kind"] == "reader" and record["model"]["chat"] == "plain"
    rows = (tmp_path / "run/results.jsonl").read_text().splitlines()
    assert len(rows) == 4
    assert {"reader", "sticker", "vlm", "endpoint"} <= set(JUDGES)


def test_training_asks_as_benches_do(monkeypatch):
    monkeypatch.setattr(reading, "PART", 6)
    cache = reading.cache_questions(Shades(), 6, 0, torch.device("cpu"), workers=1)
    asked = [text for own in cache.asked for text, _ in own]
    ended = [text for text in asked if text.endswith(f"? {SUFFIX}")]
    assert 0.3 < len(ended) / len(asked) < 0.8 and all(text.count("?") == 1 for text in asked)
    bench = sticker_questions(per_kind=1)
    assert {bench.asks(spec).text for spec in bench.specs} == {
        f"{spec.prompt} {SUFFIX}" for spec in bench.specs}  # fmt: skip
