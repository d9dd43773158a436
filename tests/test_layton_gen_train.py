"""What LaytonGen learns from, its prompts' places, and its published file's names."""

import copy
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from impasto.models.layton import LaytonTransformer
from impasto.models.layton.convert import official_transformer
from impasto.models.layton.initialise import initialise
from impasto.models.layton.sampling import guided
from impasto.models.layton.text import left_padded, slots
from impasto.models.layton.train import TeacherForcing, drop_captions, next_id_loss
from impasto.models.mmdit.text import token_ids
from impasto.models.storage import network_from
from impasto.sample.protocol import Request, Sampling
from impasto.train.data import PictureCache
from impasto.train.layton_gen import cache_ids, train_ids
from impasto.zoo.convert import convert
from tests import converted, tiny_layton_gen
from tests.tiny_layton_gen import CAPTIONS, SIDE, TEXT

N = SIDE**2


@pytest.fixture(scope="module")
def pipe():
    return tiny_layton_gen.generator(guidance=1.0, top_k=1)


def items(pipe, count=4, seed=0):
    """Ids, states of captions, padded behind, and where they are."""
    ids = torch.randint(32, (count, N), generator=torch.Generator().manual_seed(seed))
    words = token_ids(pipe.tokenizer, CAPTIONS[:count])
    there = words != pipe.tokenizer.pad_token_id
    with torch.no_grad():
        states = pipe.text_encoder(input_ids=words, attention_mask=there).last_hidden_state
    return ids, states, there


# ------------------------------------------------------------------------------ places of texts


def test_texts_stand_at_the_end_of_their_slots_with_zeros_before():
    states = torch.arange(1.0, 13).view(2, 3, 2)
    there = torch.tensor([[True, False, False], [True, True, True]])
    states[0, 1:] = torch.nan  # whatever the padding's states are
    padded, where = left_padded(states, there)
    assert padded[0].tolist() == [[0, 0], [0, 0], [1, 2]] and torch.equal(padded[1], states[1])
    assert where.tolist() == [[False, False, True], [True, True, True]]
    assert slots(3, 1).tolist() == where[0].tolist()


@torch.no_grad()
def test_teacher_forcing_tells_what_drawing_tells(pipe, monkeypatch):
    """Logits of all ids at once are those that ids are drawn from one by one."""
    own = tiny_layton_gen.changed(pipe, top_k=0)
    told = []
    monkeypatch.setattr("impasto.models.layton.network.guided",
                        lambda logits, s: told.append(guided(logits, s)) or told[-1])  # fmt: skip
    state = own.start([Request.of(CAPTIONS[1])], [3], Sampling(guidance=1.0))
    while not state.done:
        state = own.advance(state)
    states, there = left_padded(*(part[1:2] for part in items(pipe)[1:]))
    logits = own.transformer.teacher_forced(states, there, state.ids)
    torch.testing.assert_close(logits[0], torch.cat(told), atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------ the loss


@torch.no_grad()
def test_the_loss_is_of_every_id_given_those_before(pipe):
    model = pipe.transformer
    ids, states, there = items(pipe)
    loss, right = next_id_loss(TeacherForcing(model), ids, states, there, drop=0.0)
    logits = model.teacher_forced(*left_padded(states, there), ids)
    each = -logits.log_softmax(-1).gather(-1, ids[..., None])
    torch.testing.assert_close(loss, each.mean())
    assert right == (logits.argmax(-1) == ids).float().mean()
    other = ids.clone()
    other[:, 9] = (ids[:, 9] + 1) % 32
    changed = model.teacher_forced(*left_padded(states, there), other)
    same = (changed == logits).all(-1)
    assert same[:, :10].all() and not same[:, 10:].any()


@torch.no_grad()
def test_captions_are_dropped_to_the_learned_text_in_their_share(pipe):
    model, generator = pipe.transformer, torch.Generator().manual_seed(0)
    states = torch.randn(1, TEXT, 16).expand(20_000, -1, -1)
    told = drop_captions(model, states, generator=generator)
    gone = (told == model.cls_embedding.uncond_embedding).flatten(1).all(1)
    assert gone.float().mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(told[~gone], states[~gone])


@torch.no_grad()
def test_a_dropped_caption_keeps_its_empty_slots(pipe):
    """As in drawing, where the text for none stands behind those of the prompt."""
    model = pipe.transformer
    ids, states, there = items(pipe)
    loss, _ = next_id_loss(TeacherForcing(model), ids, states, there, drop=1.0)
    null = model.null_text(TEXT).expand(4, -1, -1)
    logits = model.teacher_forced(null, there.flip(1), ids)
    torch.testing.assert_close(loss, F.cross_entropy(logits.flatten(0, 1), ids.flatten()))
    full = model.teacher_forced(null, torch.ones_like(there), ids)
    assert (full - logits).abs().max() > 0.01


def test_tokens_and_both_branches_are_dropped_in_training_alone(pipe, monkeypatch):
    ids, states, there = items(pipe)
    kept, plain = [], F.dropout
    monkeypatch.setattr(F, "dropout", lambda x, p, training: kept.append((p, training))
                        or plain(x, p, training))  # fmt: skip
    model = copy.deepcopy(pipe.transformer).train()
    torch.manual_seed(0)
    losses = {float(next_id_loss(TeacherForcing(model), ids, states, there, drop=0.0)[0].detach())
              for _ in range(2)}  # fmt: skip
    assert len(losses) == 2 and kept == [(0.1, True)] * 2 * (1 + 2 * 2)
    del kept[:]
    model.eval()
    losses = {float(next_id_loss(TeacherForcing(model), ids, states, there, drop=0.0)[0].detach())
              for _ in range(2)}  # fmt: skip
    assert len(losses) == 1 and not any(training for _, training in kept)


def test_a_step_compiles_whole(pipe):
    torch._dynamo.reset()
    forced, given = TeacherForcing(copy.deepcopy(pipe.transformer).train()), items(pipe)
    whole = torch.compile(forced, backend="eager", fullgraph=True)
    losses = []
    for one in (forced, whole):
        torch.manual_seed(0)
        losses.append(next_id_loss(one, *given)[0])
    torch.testing.assert_close(*losses)
    torch._dynamo.reset()


def test_four_pictures_are_learnt_by_heart(pipe):
    """And then drawn from their captions."""
    model = copy.deepcopy(pipe.transformer)
    torch.manual_seed(0)
    initialise(model)
    ids, states, there = items(pipe)
    first, _ = next_id_loss(TeacherForcing(model), ids, states, there)
    assert float(first.detach()) == pytest.approx(math.log(32))  # all ids are as likely
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(150):
        loss, right = next_id_loss(TeacherForcing(model), ids, states, there, drop=0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05 and right == 1
    own = type(pipe)(**pipe.components | {"transformer": model.eval()}, defaults=pipe.defaults)
    state = own.start([Request.of(text) for text in CAPTIONS], [0] * 4, Sampling())
    while not state.done:
        state = own.advance(state)
    assert torch.equal(state.ids, ids)


def test_everything_learns_the_text_for_none_among_it(pipe):
    model = copy.deepcopy(pipe.transformer).train()
    generator = torch.Generator().manual_seed(0)
    next_id_loss(TeacherForcing(model), *items(pipe), drop=0.5, generator=generator)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("text", [True, False])
def test_the_loop_trains_on_pictures_and_wordings(text):
    """On a cache of two pictures with two wordings each; the text encoder only where it is told
    to, the tokenizer never."""
    pipe = tiny_layton_gen.generator()
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(0))  # fmt: skip
    captions = [(CAPTIONS[0], CAPTIONS[1]), (CAPTIONS[2], CAPTIONS[3])]
    none = torch.zeros(2, 1, dtype=torch.long)
    cache = cache_ids(pipe, PictureCache(images, none, none, none), captions)
    small = F.interpolate(images.float() / 255, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(cache.ids.long(), pipe.vae.encode(small)[0])
    assert torch.equal(cache.words[1].long(), token_ids(pipe.tokenizer, CAPTIONS[1::2]))
    before = {name: copy.deepcopy(part.state_dict()) for name, part in pipe.networks.items()}
    loop = train_ids(pipe, cache, steps=6, batch=4, seed=3, text=text)
    assert loop.step == 6 and not any(part.training for part in pipe.networks.values())
    changed = {name: any(not torch.equal(own, before[name][key])
                         for key, own in part.state_dict().items())
               for name, part in pipe.networks.items()}  # fmt: skip
    assert changed == {"transformer": True, "vae": False, "text_encoder": text}


# ------------------------------------------------------------------------------ the published file


def small():
    """With the sizes that files do not tell as the published model has them."""
    return tiny_layton_gen.transformer(width=128, heads=2, side=16)


@pytest.mark.parametrize("half", [False, True])
def test_published_names_and_back(tmp_path, half):
    model = small().to(torch.bfloat16 if half else torch.float32)
    state = official_transformer(model)
    save_file(state, tmp_path / "model.safetensors")
    report = convert(tmp_path / "model.safetensors", "layton-gen", tmp_path / "out")
    assert not report.dropped and not report.renamed and len(report.loaded) == len(state)
    again = network_from(LaytonTransformer, tmp_path / "out")
    kept = {"depth", "width", "heads", "inside", "vocabulary", "side", "text", "text_width", "eps",
            "theta", "dropout"}  # fmt: skip
    assert {key: again.config[key] for key in kept} == {key: model.config[key] for key in kept}
    back = official_transformer(again)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key].float(), state[key].float()) for key in state)


@pytest.mark.parametrize("wrap", [
    lambda s: {"model": s, "optimizer": {"state": {}}, "steps": 3}, lambda s: {"module": s},
    lambda s: {"state_dict": s},
])  # fmt: skip
def test_a_trainings_checkpoint_is_read_wherever_its_tensors_are(tmp_path, wrap):
    torch.save(wrap(official_transformer(small())), tmp_path / "gen.pth")
    report = convert(tmp_path / "gen.pth", "layton-gen", tmp_path / "out")
    assert len(report.loaded) == 6 + 2 * 7


@pytest.mark.parametrize("change, message", [
    (lambda s: s.pop("layers.1.feed_forward.w3.weight"), "missing keys"),
    (lambda s: s.update(other=torch.zeros(1)), "unexpected keys: 'other'"),
    (lambda s: s.pop("cls_embedding.uncond_embedding"), "no such checkpoint"),
    (lambda s: s.update({"layers.0.attention.wo.weight": torch.zeros(64, 128)}), "has shape"),
])  # fmt: skip
def test_other_files_are_refused(tmp_path, change, message):
    state = official_transformer(small())
    change(state)
    converted.refused(state, "layton-gen", tmp_path, message)


def test_the_command_line_knows_the_kind(tmp_path):
    converted.known_to_the_command_line(official_transformer(small()), "layton-gen", tmp_path)
