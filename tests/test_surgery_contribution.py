"""Contribution analysis on a tiny generator: every unit out and in again, kept on disk."""

import json

import pytest
import torch
from torch import nn

from impasto.bench.sticker import sticker
from impasto.sample.protocol import Request, Sampling, generate, row_seed
from impasto.score.base import Score, Scorer, ScorerBroken
from impasto.surgery import contribution
from impasto.surgery.contribution import (
    Contributions,
    contributions,
    read_contributions,
    undone,
    units,
    without,
)
from tests import tiny_mmdit

UNITS = [(0, "ff"), (1, "ff"), (1, "attn"), (0, "ff_context")]
SAMPLING = Sampling(steps=2, guidance=1.0)


class Red(Scorer):
    """Mean of the red channel, and what it was shown."""

    def __init__(self, sound=True):
        self.sound, self.seen, self.answer = sound, 0, None

    def score(self, images, specs):
        assert len(images) == len(specs)
        self.seen += len(images)
        return [Score(value=float(x[0].mean()) if self.answer is None else self.answer)
                for x in images]  # fmt: skip

    def self_test(self):
        if not self.sound:
            raise ScorerBroken("broken")

    def provenance(self):
        return {"id": "red"}


class Inputs(nn.Module):
    def forward(self, hidden_states, encoder_hidden_states):
        return hidden_states, encoder_hidden_states


def remove(model, block, component):
    made = Inputs() if component == "attn" else nn.Identity()
    setattr(model.transformer_blocks[block], component, made)


@pytest.fixture(scope="module")
def specs():
    return sticker(per_task=2).stratified(3).specs


@pytest.fixture
def pipe(monkeypatch):
    made = tiny_mmdit.tiny()
    made.encoded, encode = [], made.encode_text
    monkeypatch.setattr(made, "encode_text", lambda ids: (made.encoded.append(len(ids)),
                                                          encode(ids))[1])  # fmt: skip
    return made


def measure(pipe, specs, out, scorer=None, **given):
    given = {"sampling": SAMPLING, "samples": 2, "batch_size": 4} | given
    return contributions(pipe, UNITS, specs, scorer or Red(), out, **given)


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_scores_are_those_of_the_network_without_the_unit(pipe, specs, tmp_path):
    found = measure(pipe, specs, tmp_path, scale=100.0)
    # Independently: a generator that never had the unit, drawn by the one sampling loop.
    rows = [(spec.prompt, sample) for spec in specs for sample in range(2)]
    for unit in [None, *UNITS]:
        plain = tiny_mmdit.tiny()
        if unit:
            remove(plain.transformer, *unit)
        images, _ = generate(plain, [Request.of(prompt) for prompt, _ in rows],
                             [row_seed(0, *row) for row in rows], SAMPLING)  # fmt: skip
        expected = 100 * float(images[:, 0].mean((1, 2)).double().mean())
        assert (found.scores[unit] if unit else found.base) == pytest.approx(expected, rel=1e-6)
    assert list(found.scores.values()) == sorted(found.scores.values(), reverse=True)
    assert found.drops[0, "ff"] == found.scores[0, "ff"] - found.base != 0
    # Texts once a batch with its null prompt, for all five networks; and the model is whole again.
    assert pipe.encoded == [1 + 2, 1 + 1]
    whole = tiny_mmdit.tiny().transformer.state_dict()
    assert all(torch.equal(x, whole[key]) for key, x in pipe.transformer.state_dict().items())
    assert set(whole) == set(pipe.transformer.state_dict())


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_what_is_known_is_not_drawn_again(pipe, specs, tmp_path, monkeypatch):
    whole, scorer = measure(pipe, specs, tmp_path / "whole"), Red()
    write = contribution.files.write_json

    def breaking(path, value):
        if path.name == "001-ff.json":
            raise KeyError("broken")
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(contribution.files, "write_json", breaking)
        with pytest.raises(KeyError, match="broken"):
            measure(pipe, specs, tmp_path / "broken", scorer)
    assert sorted(path.name for path in (tmp_path / "broken/scores").iterdir()) == [
        "000-ff.json", "whole.json"]  # fmt: skip
    scorer.seen = 0
    assert measure(pipe, specs, tmp_path / "broken", scorer) == whole
    assert scorer.seen == 3 * 6  # what the break left to do, of two pictures a prompt
    names = sorted(path.relative_to(tmp_path / "whole")
                   for path in (tmp_path / "whole").rglob("*.json"))  # fmt: skip
    assert len(names) == 2 + 1 + len(UNITS)
    for name in names:
        a, b = ((tmp_path / folder / name).read_bytes() for folder in ("broken", "whole"))
        assert a == b
    again = read_contributions(tmp_path / "broken/contributions.json")
    assert again.scores == whole.scores and again.base == whole.base
    assert again.measured["scorer"] == {"id": "red"} and again.measured["prompts"] == 3
    with pytest.raises(ValueError, match="holds scores by another seed; give another folder"):
        measure(pipe, specs, tmp_path / "broken", seed=1)


@pytest.mark.filterwarnings("ignore:a prompt of .* tokens is cut")
def test_scorers_that_say_nothing(pipe, specs, tmp_path):
    with pytest.raises(ScorerBroken):
        measure(pipe, specs, tmp_path / "a", Red(sound=False))
    silent = Red()
    for silent.answer in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="whole: the scorer gives no finite number"):
            measure(pipe, specs, tmp_path / "b", silent)
    with pytest.raises(ValueError, match="has no transformer to take units out of"):
        contributions(object(), UNITS, specs, Red(), tmp_path / "c")


def test_the_released_files_are_read_and_written(tmp_path):
    """The first rows of the published table of SD3.5-Large-Turbo."""
    text = '{\n  "13<tab>ff": 30.659,\n  "12<tab>ff": 30.561,\n  "1<tab>w_norm1": 6.326\n}\n'
    path = tmp_path / "scores.json"
    path.write_text(text)
    found = read_contributions(path)
    assert found.scores == {(13, "ff"): 30.659, (12, "ff"): 30.561, (1, "w_norm1"): 6.326}
    found.save(tmp_path / "again.json", released=True)
    assert (tmp_path / "again.json").read_text() == text
    with pytest.raises(ValueError, match="give its score on the same pictures as base"):
        _ = found.drops
    assert read_contributions(path, base=30.29).drops[13, "ff"] == pytest.approx(0.369)
    turned = Contributions({(0, "all"): 1.0, (2, "all"): 3.0, (1, "all"): 3.0})
    assert list(turned.scores) == [(1, "all"), (2, "all"), (0, "all")]
    for bad in ('{"13\\tff": 1.0}', '{"a<tab>ff": 1.0}', '{"1<tab>ff": "x"}', '{"1<tab>ff": NaN}'):
        path.write_text(bad)
        with pytest.raises(ValueError, match="is no score of a unit"):
            read_contributions(path)
    path.write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="must hold an object of scores, not list"):
        read_contributions(path)


def test_units_are_the_hosts():
    model = tiny_mmdit.tiny().transformer
    assert units(model, whole=True) == [(0, "all"), (1, "all")]
    assert len(units(model)) == 5 + 4 and (1, "ff_context") not in units(model)
    for block, component in units(model):
        with undone(model):
            without(model, block, component)
    assert not any("removed" in type(m).__name__ or "Identity" in type(m).__name__
                   for m in model.modules())  # fmt: skip


def test_undone_gives_modules_classes_and_forwards_back():
    model = tiny_mmdit.tiny().transformer
    block, kind = model.transformer_blocks[0], type(model.transformer_blocks[0])
    names, forward = [name for name, _ in model.named_modules()], block.ff.forward

    class Other(kind):
        pass

    with pytest.raises(KeyError), undone(model):
        block.attn, block.__class__ = nn.Identity(), Other
        block.ff.forward = lambda x: x
        del model.transformer_blocks[1]
        raise KeyError("broken")
    assert [name for name, _ in model.named_modules()] == names
    assert type(block) is kind and "forward" not in vars(block.ff) and block.ff.forward == forward
