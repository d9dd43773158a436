"""What TokenFlow's language model learns from, and its published file's names."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from impasto.models.next_scale.maps import tokens
from impasto.models.storage import network_from
from impasto.models.tokenflow import TRANSFORMERS, TokenFlowTransformer
from impasto.models.tokenflow.convert import official_transformer
from impasto.models.tokenflow.initialise import initialise
from impasto.models.tokenflow.text import slots
from impasto.models.tokenflow.train import (
    TeacherForcing,
    drop_captions,
    teacher_inputs,
    token_loss,
    training_loss,
)
from impasto.sample.protocol import Request, Sampling
from impasto.zoo.convert import convert
from tests import converted, tiny_tokenflow_lm
from tests.tiny_tokenflow_lm import CAPTIONS, SIZES


@pytest.fixture(scope="module")
def pipe():
    return tiny_tokenflow_lm.generator(passes=1, guidance=1.0, top_k=(1,), top_p=(0.0,))


def items(pipe, count=4, seed=0):
    """Ids a scale and slots of captions."""
    ids = torch.randint(32, (count, tokens(SIZES)), generator=torch.Generator().manual_seed(seed))
    words, there = slots(pipe.tokenizer, CAPTIONS[:count], 8, pipe.transformer.words)
    return ids.split([h * w for h, w in SIZES], dim=1), words, there


@torch.no_grad()
def test_teacher_forcing_tells_what_drawing_tells(pipe):
    """Logits of all scales at once are those that ids are drawn from one by one."""
    drawn, seen = [], []
    state = pipe.start([Request.of("two red cups")], [0], Sampling())
    while not state.done:
        logits = pipe._logits(state, state.cache, None)
        seen.append(logits)
        drawn.append(pipe._drawn(state, logits, 0))
        state = pipe.advance(state)
    words, there = slots(pipe.tokenizer, ["two red cups"], 8, pipe.transformer.words)
    forced = TeacherForcing(pipe.transformer, pipe.tokenizer)
    logits = forced(words, there, teacher_inputs(pipe.vae, drawn, SIZES))
    own = logits[:, : tokens(SIZES), pipe.transformer.words :]
    torch.testing.assert_close(own, torch.cat(seen, dim=1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_loss_is_of_the_picture_its_end_and_the_last_word(pipe):
    ids, words, there = items(pipe)
    forced, kept = TeacherForcing(pipe.transformer, pipe.tokenizer), []
    forced.register_forward_hook(lambda module, given, logits: kept.append(logits))
    loss, means, right = training_loss(forced, pipe.vae, ids, words, there, drop=0.0)
    closing = pipe.tokenizer.get_added_vocab()["</img>"]
    wanted = torch.cat([torch.cat(ids, dim=1) + pipe.transformer.words,
                        torch.tensor([[closing, pipe.tokenizer.eos_token_id]]).expand(4, 2)], 1)
    assert kept[0].shape == (4, 23, 323 + 32)
    each = -kept[0].log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    torch.testing.assert_close(loss, each.mean())
    torch.testing.assert_close(means, torch.stack([each[:, :1].mean(), each[:, 1:5].mean(),
                                                   each[:, 5:21].mean()]))  # fmt: skip
    assert right.shape == (3,) and bool((right <= 1).all())
    sure = 60 * F.one_hot(wanted, 355).float()
    assert token_loss(sure, wanted, SIZES)[0] < 1e-6
    sure[:, -1] = -sure[:, -1]  # the end is asked for too
    assert token_loss(sure, wanted, SIZES)[0] > 2


@torch.no_grad()
def test_captions_are_dropped_to_the_empty_text_in_their_share(pipe):
    words, there = slots(pipe.tokenizer, [CAPTIONS[0]], 8, 323)
    empty = slots(pipe.tokenizer, [""], 8, 323)
    generator = torch.Generator().manual_seed(0)
    many = drop_captions(words.expand(20_000, -1), there.expand(20_000, -1), empty,
                         generator=generator)  # fmt: skip
    gone = (many[0] == empty[0]).all(1)
    assert gone.float().mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(many[1][gone], empty[1].expand(int(gone.sum()), -1))
    assert torch.equal(many[0][~gone], words.expand(int((~gone).sum()), -1))
    forced = TeacherForcing(pipe.transformer, pipe.tokenizer)
    ids, words, there = items(pipe)
    none = slots(pipe.tokenizer, [""] * 4, 8, 323)
    dropped, _, _ = training_loss(forced, pipe.vae, ids, words, there, drop=1.0)
    bare, _, _ = training_loss(forced, pipe.vae, ids, *none, drop=0.0)
    torch.testing.assert_close(dropped, bare)


def test_four_pictures_are_learnt_by_heart(pipe):
    """And then drawn from their captions."""
    model = copy.deepcopy(pipe.transformer)
    torch.manual_seed(0)
    initialise(model)
    ids, words, there = items(pipe)
    forced = TeacherForcing(model, pipe.tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        loss, _, right = training_loss(forced, pipe.vae, ids, words, there, drop=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 and right.min() == 1
    own = type(pipe)(**pipe.components | {"transformer": model.eval()}, defaults=pipe.defaults)
    state = own.start([Request.of(text) for text in CAPTIONS], [0] * 4, Sampling())
    while not state.done:
        state = own.advance(state)
    torch.testing.assert_close(state.f_hat, own.vae.features_of(ids, SIZES))


def test_nothing_but_the_transformer_learns(pipe):
    ids, words, there = items(pipe)
    model = copy.deepcopy(pipe.transformer)
    forced = TeacherForcing(model, pipe.tokenizer)
    training_loss(forced, pipe.vae, ids, words, there)[0].backward()
    assert all(p.grad is None for p in pipe.vae.parameters())
    assert all(p.grad is not None for p in model.parameters())
    assert set(forced.state_dict()) == {f"transformer.{key}" for key in model.state_dict()}


# ------------------------------------------------------------------------------ the published file


def small():
    """With the sizes that files do not tell as the published model has them."""
    return tiny_tokenflow_lm.transformer(patches=TRANSFORMERS["7b"]().patches, text=128)


@pytest.mark.parametrize("half", [False, True])
def test_published_names_and_back(tmp_path, half):
    model = small().to(torch.bfloat16 if half else torch.float32)
    state = official_transformer(model)
    assert int(state["image_token_start"]) == 323 and int(state["image_token_end"]) == 354
    save_file(state, tmp_path / "model.safetensors")
    report = convert(tmp_path / "model.safetensors", "tokenflow-t2i", tmp_path / "out")
    assert report.dropped == ("image_token_end", "image_token_start") and not report.renamed
    again = network_from(TokenFlowTransformer, tmp_path / "out")
    assert dict(again.config) == dict(model.config) | {
        key: again.config[key] for key in ("patches", "_use_default_values", "_class_name",
                                           "_diffusers_version") if key in again.config}
    assert tuple(again.config["patches"]) == tuple(model.config["patches"])
    back = official_transformer(again)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key].float(), state[key].float()) for key in state)


def test_without_ends_the_published_number_of_codes_is_taken(tmp_path):
    from impasto.models.tokenflow.convert import transformer_sizes

    with torch.device("meta"):
        model = TokenFlowTransformer(depth=1, width=32, heads=2, inside=48, text_vocabulary=11,
                                     vocabulary=32768, channels=40, embedded=11,
                                     patches=(1, 2, 4, 6, 8, 10, 12, 14))  # fmt: skip
    sizes = transformer_sizes(model.state_dict())
    assert (sizes["text_vocabulary"], sizes["vocabulary"], sizes["embedded"]) == (11, 32768, 11)
    assert sizes["patches"] == (1, 2, 4, 6, 8, 10, 12, 14) and sizes["heads"] == 2


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("model.layers.1.mlp.up_proj.weight"), "missing keys"),
    (lambda s: s.update(other=torch.zeros(1)), "unexpected keys: 'other'"),
    (lambda s: s.pop("model.pos_1LC"), "no such checkpoint"),
    (lambda s: s.update({"model.pos_1LC": torch.zeros(5, 32)}), "9 scales of 5 places"),
    (lambda s: s.update(image_token_end=torch.tensor(300)), "they must be the last"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, change, message):
    state = official_transformer(small())
    change(state)
    converted.refused(state, "tokenflow-t2i", tmp_path, message)


def test_the_command_line_knows_the_kind(tmp_path):
    converted.known_to_the_command_line(official_transformer(small()), "tokenflow-t2i", tmp_path)
