"""LaytonGen as a generator: its transformer, the cache against drawing anew, the protocol."""

import copy
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from impasto.models import load_generator
from impasto.models.layton import (
    DECODINGS,
    TRANSFORMERS,
    Defaults,
    LaytonGenerator,
    LaytonTransformer,
)
from impasto.models.layton.costs import id_flops
from impasto.models.layton.initialise import initialise
from impasto.models.layton.model import rotary, seen
from impasto.models.layton.sampling import numbers
from impasto.models.next_scale.graphs import Recycled
from impasto.models.storage import save_network
from impasto.models.vq import PRESETS
from impasto.sample.protocol import Sampling, generate
from impasto.search import BestOfN, Draw, TTSVar
from impasto.spec import Item, Spec
from tests import drawing, tiny_layton, tiny_layton_gen, tiny_tokenflow, tiny_vq
from tests.drawing import requests, start, through
from tests.fakes import FakeSecond
from tests.tiny_layton_gen import SIDE, TEXT

DOG, CUPS, BENCH = "a photo of a dog", "two red cups", "a bench"
N = SIDE**2


@pytest.fixture(scope="module")
def pipe():
    return tiny_layton_gen.generator()


def meta(**sizes):
    with torch.device("meta"):
        return LaytonTransformer(**sizes)


# ------------------------------------------------------------------------------ the published size


def test_the_published_model_has_its_258_names_and_shapes_and_777_7_million_parameters():
    block = {
        "attention.wqkv.weight": (3840, 1280), "attention.wo.weight": (1280, 1280),
        "feed_forward.w1.weight": (3584, 1280), "feed_forward.w3.weight": (3584, 1280),
        "feed_forward.w2.weight": (1280, 3584),
        "attention_norm.weight": (1280,), "ffn_norm.weight": (1280,),
    }  # fmt: skip
    want = {
        "cls_embedding.uncond_embedding": (120, 2048),
        "cls_embedding.cap_proj.fc1.weight": (1280, 2048),
        "cls_embedding.cap_proj.fc2.weight": (1280, 1280),
        "tok_embeddings.weight": (16384, 1280), "norm.weight": (1280,),
        "output.weight": (16384, 1280),
        **{f"layers.{i}.{key}": shape for i in range(36) for key, shape in block.items()},
    }  # fmt: skip
    model = meta(**asdict(TRANSFORMERS["xl"]()))
    assert {key: tuple(x.shape) for key, x in model.state_dict().items()} == want
    assert len(want) == 258
    learned = model.cls_embedding.uncond_embedding.numel()
    assert sum(p.numel() for p in model.parameters()) - learned == 777_678_080
    assert (model.side, model.text, model.config["heads"], model.dropout) == (16, 120, 20, 0.1)
    assert all(part.eps == 1e-5 for part in model.modules() if isinstance(part, torch.nn.RMSNorm))


def test_bad_sizes():
    sizes = asdict(TRANSFORMERS["tiny"]())
    for change, message in (({"heads": 3}, "multiple of 4 times the 3 heads"),
                            ({"dropout": 1.0}, "dropout must be from 0 to 1")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            meta(**sizes | change)


def test_fresh_weights_are_those_that_training_starts_from():
    torch.manual_seed(0)
    model = initialise(tiny_layton_gen.transformer(width=256, inside=512, text_width=192))
    assert not model.output.weight.any()
    for weight in (model.tok_embeddings.weight, model.layers[1].feed_forward.w2.weight):
        assert weight.detach().std() == pytest.approx(0.02, rel=0.1)
    null = model.cls_embedding.uncond_embedding
    assert null.requires_grad and null.detach().std() == pytest.approx(192**-0.5, rel=0.1)


# ------------------------------------------------------------------------------ the transformer


def restated(weights, x, mask, text=TEXT, side=SIDE, depth=2, heads=2):
    """The published equations in a few plain lines: logits (n, K) of one sequence that begins
    with all slots of the text."""
    def rms(v, w):
        return v / (v.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w

    n, width = x.shape
    d = width // heads
    turns = torch.zeros(n, d // 2, dtype=torch.complex64)
    for i in range(n - text):
        row, column = divmod(i, side)
        for j in range(d // 4):
            f = 10000.0 ** (-2 * j / (d // 2))
            turns[text + i, j] = torch.polar(torch.tensor(1.0), torch.tensor(row * f))
            turns[text + i, d // 4 + j] = torch.polar(torch.tensor(1.0), torch.tensor(column * f))

    def turned(v):
        pairs = torch.view_as_complex(v.reshape(heads, n, d // 2, 2).contiguous())
        return torch.view_as_real(pairs * turns).reshape(heads, n, d)

    for i in range(depth):
        w = {key.removeprefix(f"layers.{i}."): value for key, value in weights.items()}
        q, k, v = (rms(x, w["attention_norm.weight"]) @ w["attention.wqkv.weight"].T).split(
            width, dim=-1)  # fmt: skip
        q, k, v = (part.view(n, heads, d).transpose(0, 1) for part in (q, k, v))
        scores = turned(q) @ turned(k).transpose(1, 2) / d**0.5
        p = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        x = x + (p @ v).transpose(0, 1).reshape(n, width) @ w["attention.wo.weight"].T
        inner = rms(x, w["ffn_norm.weight"])
        gate, up = (inner @ w[f"feed_forward.{name}.weight"].T for name in ("w1", "w3"))
        x = x + (gate * gate.sigmoid() * up) @ w["feed_forward.w2.weight"].T
    return rms(x, weights["norm.weight"]) @ weights["output.weight"].T


def restated_text(weights, states):
    w = {key.removeprefix("cls_embedding.cap_proj."): value for key, value in weights.items()}
    return F.gelu(states @ w["fc1.weight"].T, approximate="tanh") @ w["fc2.weight"].T


def mask_of(empty, count, text=TEXT):
    """Who sees whom, place by place: earlier places but empty slots; everybody itself."""
    rows = torch.zeros(text + count, text + count, dtype=torch.bool)
    for i in range(text + count):
        for j in range(text + count):
            rows[i, j] = i == j or (j < i and j >= empty)
    return rows


def padded(states):
    """(1, n, D) as all slots: zeros, then the text."""
    return F.pad(states, (0, 0, TEXT - states.shape[1], 0))


@torch.no_grad()
def test_all_equations_against_a_plain_restatement():
    model = tiny_layton_gen.transformer()
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, TEXT, 16, generator=generator)
    ids = torch.randint(32, (2, N), generator=generator)
    there = torch.arange(TEXT) >= torch.tensor([[11], [0]])
    logits = model.teacher_forced(states, there, ids)
    weights = dict(model.state_dict())
    for row, empty in enumerate((11, 0)):
        assert torch.equal(seen(there, N - 1)[row, 0], mask_of(empty, N - 1))
        x = torch.cat([restated_text(weights, states[row]),
                       weights["tok_embeddings.weight"][ids[row, :-1]]])  # fmt: skip
        want = restated(weights, x, mask_of(empty, N - 1))[TEXT - 1 :]
        torch.testing.assert_close(logits[row], want, atol=2e-4, rtol=2e-4)
    with pytest.raises(ValueError, match="16 slots for text and 16 ids a picture, given 16 and 9"):
        model.teacher_forced(states, there, ids[:, :9])


def test_the_table_turns_by_row_and_by_column_and_is_zero_for_the_text():
    at = torch.tensor([0, TEXT - 1, TEXT, TEXT + 6])  # the last is row 1, column 2
    cos, sin = (table[:, 0] for table in rotary(at, TEXT, SIDE, 16, 10000.0))
    assert not cos[:2].any() and not sin[:2].any()
    assert (cos[2] == 1).all() and not sin[2].any()
    f = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(sin[3], torch.cat([(1 * f).sin(), (2 * f).sin()]))


@torch.no_grad()
def test_attention_has_logit_zero_to_and_from_the_text(pipe, monkeypatch):
    """And every visible slot the same weight: a text acts through its values alone."""
    kept, plain = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention",
                        lambda q, k, v, **o: kept.append((q, k, v)) or plain(q, k, v, **o))
    model = tiny_layton_gen.transformer()
    states, ids = torch.randn(1, TEXT, 16), torch.randint(32, (1, N))
    model.teacher_forced(states, torch.ones(1, TEXT, dtype=torch.bool), ids)
    assert len(kept) == 2
    for q, k, v in kept:
        scores = q @ k.transpose(2, 3)
        assert not scores[..., :TEXT].any() and not scores[:, :, :TEXT].any()
        assert scores[:, :, TEXT:, TEXT:].abs().min() > 0 and v[:, :, :TEXT].abs().min() > 0
    cache = start(pipe).cache  # so too where it is held
    for keys, values in cache:
        assert not keys.any() and values.any()


@torch.no_grad()
def test_words_may_change_places_before_one_block():
    """Which nothing but equal weights allows."""
    model = tiny_layton_gen.transformer(depth=1)
    states, ids = torch.randn(1, TEXT, 16), torch.randint(32, (1, N))
    there = torch.ones(1, TEXT, dtype=torch.bool)
    order = [*torch.randperm(TEXT - 1).tolist(), TEXT - 1]
    a, b = (model.teacher_forced(own, there, ids) for own in (states, states[:, order]))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    other = model.teacher_forced(states * torch.linspace(0.5, 1, TEXT)[:, None], there, ids)
    assert (a - other).abs().max() > 0.01


# ------------------------------------------------------------------------------ drawing


@torch.no_grad()
def anew(pipe, prompts, seeds, guidance):
    """Without any cache, one row after another, by the plain restatement: for every id the whole
    sequence, all slots and both texts with the same empty ones."""
    weights, drawn = dict(pipe.transformer.state_dict()), []
    own = pipe.defaults
    for prompt, seed in zip(prompts, seeds, strict=True):
        states = pipe.encode_text(prompt)
        empty, ids = TEXT - states.shape[1], []
        texts = [restated_text(weights, told) for told in
                 (padded(states)[0], weights["cls_embedding.uncond_embedding"])]  # fmt: skip
        for i in range(N):
            x = weights["tok_embeddings.weight"][ids]
            with_text, without = (
                restated(weights, torch.cat([text, x]), mask_of(empty, i))[-1] for text in texts
            )
            logits = (without + guidance * (with_text - without)) / own.temperature
            p = logits.double().softmax(-1)
            best = p.sort(descending=True)
            keep = best.indices[: own.top_k]
            p = torch.zeros_like(p).scatter(0, keep, p[keep] / p[keep].sum())
            best = p.sort(descending=True)
            p[best.indices[best.values.cumsum(0) - best.values >= own.top_p]] = 0
            u = numbers([seed], i // SIDE, SIDE)[0, i % SIDE]
            ids.append(int((p.cumsum(0) > u * p.sum()).nonzero()[0]))
        drawn.append(ids)
    return drawn


def test_cached_drawing_equals_drawing_anew(pipe, monkeypatch):
    """The very same ids, of prompts of different lengths; and no id goes through twice."""
    lengths, forward = [], LaytonTransformer.forward

    def counted(self, x, *others):
        lengths.append((len(x), x.shape[1]))
        return forward(self, x, *others)

    monkeypatch.setattr(LaytonTransformer, "forward", counted)
    state = start(pipe, [DOG, CUPS], [3, 4], guidance=3.0)
    assert [n for n, _ in lengths] == [2, 2]  # each prompt once, with the text for none beside it
    del lengths[:]
    drawn = through(pipe, state)
    assert lengths == [(2, 1)] * 2 * N
    monkeypatch.undo()
    ids = anew(pipe, [DOG, CUPS], [3, 4], 3.0)
    assert drawn.ids.tolist() == ids
    assert len(set(ids[0])) > 4 and ids != anew(pipe, [DOG, CUPS], [3, 9], 3.0)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_a_row_does_not_depend_on_its_batch(pipe, guidance):
    settings, prompts = Sampling(guidance=guidance), [DOG, CUPS, DOG, BENCH]
    whole, cost = drawing.drawn_in_any_batch(pipe, prompts, settings)
    assert whole.shape == (4, 3, 32, 32)
    assert (cost.row_steps, cost.tokens, cost.decodes) == (4 * SIDE, 4 * N, 4)


def test_all_rows_at_once_draw_the_same_ids(pipe, monkeypatch):
    """As on a GPU: one batch. The same ids, since no sum lies near its number."""
    alone = through(pipe, start(pipe, [DOG, CUPS, BENCH]))
    calls, forward = [], LaytonTransformer.forward
    monkeypatch.setattr(LaytonGenerator, "rows_at_once", None)
    monkeypatch.setattr(LaytonTransformer, "forward",
                        lambda self, x, *a: calls.append(len(x)) or forward(self, x, *a))
    together = through(pipe, start(pipe, [DOG, CUPS, BENCH]))
    assert calls == [2] * 3 + [6] * N  # three prompts; one call an id, both branches in it
    assert torch.equal(together.ids, alone.ids)
    torch.testing.assert_close(pipe.finish(together), pipe.finish(alone))


def test_a_prompt_is_read_once_whoever_draws_from_it(pipe, monkeypatch):
    asked, read = [], LaytonTransformer.read
    monkeypatch.setattr(LaytonTransformer, "read",
                        lambda self, x: asked.append(x.shape[1]) or read(self, x))
    state = start(pipe, [DOG, CUPS, DOG, DOG])
    through(pipe, state)
    assert len(asked) == 2 and state.prompt_of == (0, 1, 0, 0)


def test_prompts_are_cleaned_where_the_folder_says_so(pipe):
    """And read once where they come out the same."""
    clean = tiny_layton_gen.changed(pipe, clean=True)
    written = "\u201ctwo   RED cups\u201d *** www.cups.org"
    state = start(clean, [written, "two red cups"], [1, 1])
    assert state.prompt_of == (0, 0)
    direct = through(pipe, start(pipe, [CUPS], [1]))
    assert torch.equal(through(clean, state).ids[:1], direct.ids)
    with pytest.warns(UserWarning, match="is cut to its first 15"):
        assert start(pipe, [written, CUPS], [1, 1]).prompt_of == (0, 1)
    with pytest.raises(ValueError, match=r"of the prompt '\.hidden' cleaning leaves nothing"):
        start(clean, [".hidden"])


def test_unwritten_places_have_no_say(pipe, monkeypatch):
    """Whatever numbers lie there before."""
    want = through(pipe, start(pipe)).ids
    plain = pipe._network.extended

    def filled(cache):
        into = plain(cache)
        for held in (into.buffers.keys, into.buffers.values):
            held[:, :, cache.length :] = 1e3
        return into

    monkeypatch.setattr(pipe._network, "extended", filled)
    assert torch.equal(through(pipe, start(pipe)).ids, want)


# ------------------------------------------------------------------------------ guidance


def test_one_leaves_the_unconditional_branch_out_and_zero_the_prompt(pipe):
    guided, plain, bare = (through(pipe, start(pipe, seeds=[1], guidance=g)) for g in (3., 1., 0.))
    assert [len(start(pipe, guidance=g).cache[0][0]) for g in (3.0, 1.0, 0.0)] == [2, 1, 1]
    assert plain.cost.flops - bare.cost.flops == 0
    assert guided.cost.flops - plain.cost.flops == N * id_flops(pipe.transformer)
    near = [through(pipe, start(pipe, seeds=[1], guidance=g)).ids for g in (1 + 1e-7, 1e-7)]
    assert torch.equal(near[0], plain.ids) and torch.equal(near[1], bare.ids)


def test_without_a_prompt_its_length_alone_matters(pipe):
    """The learned text stands behind the same empty slots as the prompt."""
    texts = (DOG, "a dog of a photo", "a photo of a bench beside a cat")
    a, b, c = (through(pipe, start(pipe, [text], [1], guidance=0.0)).ids for text in texts)
    lengths = [pipe.encode_text(text).shape[1] for text in texts]
    assert lengths[0] == lengths[1] < lengths[2]
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_learned_text_is_the_unconditional_branch(pipe):
    model = copy.deepcopy(pipe.transformer)
    with torch.no_grad():
        model.cls_embedding.uncond_embedding.neg_()
    other = LaytonGenerator(**pipe.components | {"transformer": model}, defaults=pipe.defaults)
    guided, plain = ([through(p, start(p, seeds=[1], guidance=g)).ids for p in (pipe, other)]
                     for g in (3.0, 1.0))  # fmt: skip
    assert not torch.equal(*guided) and torch.equal(*plain)


def test_temperature_and_truncation_leave_less_to_chance(pipe):
    def drawn(seed, **changes):
        own = tiny_layton_gen.changed(pipe, **changes)
        return through(own, start(own, seeds=[seed])).ids

    likeliest = drawn(1, top_k=1)
    assert not torch.equal(drawn(1), drawn(2)) and torch.equal(likeliest, drawn(2, top_k=1))
    assert torch.equal(drawn(1, temperature=1e-6), likeliest)
    assert torch.equal(drawn(1, top_p=1e-6), likeliest)


# ------------------------------------------------------------------------------ the protocol


def test_select_re_indexes_everything(pipe):
    kept, direct = drawing.selected_as_drawn(pipe, [DOG, CUPS, BENCH], 2, ("ids",))
    assert torch.equal(pipe.finish(pipe.select(kept, [1])), pipe.finish(direct)[1:2])


def test_rows_are_selected_before_the_first_step_too(pipe):
    kept = through(pipe, pipe.select(start(pipe, [DOG, CUPS], [7, 8]), [1, 1, 0]))
    direct = through(pipe, start(pipe, [CUPS, CUPS, DOG], [8, 8, 7]))
    assert torch.equal(kept.ids, direct.ids)


def test_twins_part_when_given_other_seeds(pipe):
    state = pipe.select(through(pipe, start(pipe, seeds=[1]), 2), [0, 0])
    twins = through(pipe, state).ids
    assert torch.equal(twins[0], twins[1])
    parted = through(pipe, replace(state, seeds=(1, 99))).ids
    assert torch.equal(parted[0], twins[0]) and torch.equal(parted[1, :8], twins[1, :8])
    assert not torch.equal(parted[1], twins[1])


@pytest.mark.parametrize("steps", [0, 2])
def test_states_are_values(pipe, steps):
    state = through(pipe, start(pipe), steps)
    ids, held = state.ids.clone(), [part.clone() for own in state.cache for part in own]
    first = pipe.advance(state)
    other = through(pipe, pipe.advance(replace(state, seeds=(50,))))
    assert torch.equal(state.ids, ids)
    for a, b in zip([part for own in state.cache for part in own], held, strict=True):
        assert torch.equal(a, b)
    assert torch.equal(pipe.advance(state).ids, first.ids)
    direct = through(pipe, start(pipe))
    assert torch.equal(through(pipe, first).ids, direct.ids)  # of both, neither wrote the other's
    assert not torch.equal(other.ids, direct.ids)


def test_the_cache_has_room_for_all_from_the_start(pipe):
    state = pipe.advance(start(pipe))
    where = state.cache.buffers.keys.data_ptr()
    assert state.cache.buffers.room == TEXT - 1 + N
    state = through(pipe, state, 2)
    assert state.cache.buffers.keys.data_ptr() == where and state.cache.length == TEXT - 1 + 12
    assert pipe.advance(state).cache is None


def test_half_a_picture_is_no_preview(pipe):
    assert not pipe.has_preview
    state = pipe.advance(start(pipe))
    with pytest.raises(ValueError, match="no preview; take a search over finished pictures"):
        pipe.preview(state)
    with pytest.raises(ValueError, match="1 of 4 rows of ids are drawn; call advance"):
        pipe.finish(state)
    state = through(pipe, state)
    with pytest.raises(ValueError, match="all 4 rows of ids are drawn; call finish"):
        pipe.advance(state)
    assert pipe.preview_cost(state).flops == 0


def test_searches_over_finished_pictures_work_and_others_say_what_they_need(pipe):
    spec = Spec(tag="single_object", include=(Item(cls="dog"),), prompt=DOG)
    (best,) = BestOfN(3, FakeSecond()).draw(pipe, [Draw(spec, 7, 0)], Sampling(), 64)
    assert best.image.shape == (3, 32, 32) and best.cost.row_steps == 3 * SIDE
    with pytest.raises(ValueError, match="preview"):
        TTSVar(2, FakeSecond(), schedule=(2, 1, 1, 1), cluster=(), resample=(1,)).draw(
            pipe, [Draw(spec, 7, 0)], Sampling(), 64)  # fmt: skip


def test_decoders_are_given_the_rows_seeds(pipe, monkeypatch):
    given, plain = [], type(pipe.vae).decode_tokens

    def decode(self, ids, sizes, *, seeds=None):
        given.append((len(ids[0]), sizes, seeds))
        return plain(self, ids, sizes)

    monkeypatch.setattr(type(pipe.vae), "decode_tokens", decode)
    pipe.finish(through(pipe, start(pipe, [DOG, CUPS], [7, 8])))
    assert given == [(1, ((4, 4),), (7,)), (1, ((4, 4),), (8,))]


def test_cost_is_what_torch_counts(pipe):
    """Every step: torch's own counter, on the meta device, of the same calls."""
    state = through(pipe, start(pipe, guidance=1.0), 3)
    after = pipe.advance(state)
    model, vae = (copy.deepcopy(part).to("meta") for part in (pipe.transformer, pipe.vae))
    places = TEXT - 1 + N
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x = model.embed(torch.empty(1, 1, dtype=torch.long, device="meta"))
        held = [(torch.empty(1, 2, places, 16, device="meta"),) * 2] * 2
        mask = torch.ones(1, 1, 1, places, dtype=torch.bool, device="meta")
        model.logits(model(x, torch.tensor([3], device="meta"), mask, held))
    assert counter.get_total_flops() == id_flops(pipe.transformer)
    with FlopCounterMode(display=False) as decoding, torch.no_grad():
        vae.decode(torch.empty(1, 4, 4, 4, device="meta"))
    assert state.cost.flops == 12 * counter.get_total_flops()
    assert after.cost.flops - state.cost.flops == (
        4 * counter.get_total_flops() + decoding.get_total_flops())  # fmt: skip
    two = through(pipe, start(pipe, [DOG, CUPS], guidance=1.0)).cost
    assert two.flops == 2 * after.cost.flops and two.tokens == 2 * N


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("settings, message", [
    ({"steps": 3}, "draws 4 rows of ids, so steps must be 4 or left out, given 3"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"height": 64}, "draws 32 x 32, so height x width must be that or left out, given 64 x 32"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


@pytest.mark.parametrize("changes, message", [
    ({"guidance": -1.0}, "guidance must be a finite number >= 0, given -1.0"),
    ({"temperature": 0.0}, "temperature must be a finite number > 0, given 0.0"),
    ({"top_k": -1}, "top_k must be >= 0"), ({"top_p": 1.5}, "top_p 0 to 1"),
])  # fmt: skip
def test_bad_defaults(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_layton_gen.changed(pipe, **changes)


def test_the_published_demonstrations_settings_are_the_defaults():
    own = Defaults()
    assert (own.guidance, own.temperature, own.top_k, own.top_p, own.clean) == (
        2.0, 0.1, 1000, 1.0, True)  # fmt: skip
    assert Defaults.from_dict(own.to_dict()) == own
    with pytest.raises(ValueError, match=r"config\.json of a layton model must have the keys"):
        Defaults.from_dict({"guidance": 1.0})


@pytest.mark.parametrize("change, message", [
    ({"vae": lambda: tiny_vq.tokenizer(vocabulary=16)}, "draws 32 ids .* of pictures has 16"),
    ({"transformer": lambda: tiny_layton_gen.transformer(text_width=8)}, "width 8; .* encoder 16"),
    ({"tokenizer": lambda: tiny_layton_gen.words(12)}, "has 16 slots .* model_max_length is 12"),
])  # fmt: skip
def test_parts_that_do_not_belong_together(pipe, change, message):
    with pytest.raises(ValueError, match=message):
        LaytonGenerator(**pipe.components | {k: make() for k, make in change.items()},
                        defaults=pipe.defaults)  # fmt: skip


def test_a_tokenizer_of_several_maps_is_refused(pipe):
    class Maps(type(pipe.vae)):
        def sizes_of(self, height, width):
            return (1, 1), *super().sizes_of(height, width)

    vae = Maps(**{key: pipe.vae.config[key] for key in ("widths", "z", "vocabulary", "channels",
                                                        "blocks", "groups")})  # fmt: skip
    with pytest.raises(ValueError, match="one map of 4 x 4 ids; the tokenizer has"):
        LaytonGenerator(**pipe.components | {"vae": vae}, defaults=pipe.defaults)


def test_another_tokenizer_is_refused(pipe):
    assert pipe.defaults.tokens == pipe.vae.token_digest()
    other = tiny_vq.tokenizer(seed=5)
    with pytest.raises(ValueError, match=rf"ids of the tokenizer {pipe.defaults.tokens[:12]}, and "
                                         rf"this is {other.token_digest()[:12]}.*give the tok"):
        LaytonGenerator(**pipe.components | {"vae": other}, defaults=pipe.defaults)
    decoder = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        decoder.decoder.conv_in.weight.add_(1)  # tuned alone, it changes no ids
    LaytonGenerator(**pipe.components | {"vae": decoder}, defaults=pipe.defaults)


# ------------------------------------------------------------------------------ the folder


def test_a_saved_model_draws_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert isinstance(again, LaytonGenerator) and again.defaults == pipe.defaults
    assert again.provenance() == pipe.provenance()
    before, after = (p([DOG], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["vae"] == ["impasto", "VQTokenizer"]


def test_other_formats_load_though_they_round_the_codes(pipe, tmp_path):
    """The digest recorded is of the tokenizer as it was written."""
    pipe.save_pretrained(tmp_path, {"transformer": "int8", "vae": "bfloat16",
                                    "text_encoder": "bfloat16"})  # fmt: skip
    again = load_generator(tmp_path, torch_dtype="bfloat16")
    assert again.dtype == torch.bfloat16 and again.defaults.tokens != pipe.defaults.tokens
    pictures = again([DOG], seeds=[5], output_type="pt").images
    assert pictures.shape == (1, 3, 32, 32) and torch.isfinite(pictures).all()


def test_a_folder_with_another_tokenizer_is_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    save_network(tiny_vq.tokenizer(seed=5), tmp_path / "vae", "float32")
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_generator(tmp_path)
    save_network(tiny_tokenflow.tokenizer(), tmp_path / "vae", "float32")
    with pytest.raises(ValueError, match="a TokenFlowTokenizer, and a VQTokenizer is wanted"):
        load_generator(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"vae": ["impasto", "Other"]}))
    with pytest.raises(ValueError, match=r"'vae' must be \['impasto', 'VQTokenizer'\].*'Other'"):
        load_generator(tmp_path)


def test_graphs_need_a_gpu(pipe):
    with pytest.raises(ValueError, match="CUDA graphs need the model on a GPU; it is on cpu"):
        pipe.use_graphs()
    assert pipe.to("cpu") is pipe


class Replayed:
    """What a recorded graph does: the call as it came first, with other numbers in its inputs'
    places."""

    def __init__(self):
        self.calls, self.count = {}, 0

    def __call__(self, key, call, inputs):
        key = (key, *((x.shape, x.dtype) for x in inputs))
        call, places = self.calls.setdefault(key, (call, [x.clone() for x in inputs]))
        for place, x in zip(places, inputs, strict=True):
            place.copy_(x)
        self.count += 1
        return call(*places)


def test_one_recorded_call_draws_all_ids_of_all_drawings(pipe, monkeypatch):
    want = [through(pipe, start(pipe, [DOG, CUPS], [1, seed])).ids for seed in (2, 3)]
    held = Replayed()
    monkeypatch.setattr(LaytonGenerator, "rows_at_once", None)
    monkeypatch.setattr(pipe._network, "_captured", held)
    monkeypatch.setattr(pipe._network, "_recycled", Recycled())
    for seed, ids in zip((2, 3), want, strict=True):
        assert torch.equal(through(pipe, start(pipe, [DOG, CUPS], [1, seed])).ids, ids)
    assert len(held.calls) == 1 and held.count == 2 * N
    other = through(pipe, start(pipe, [DOG, CUPS], [1, 2], guidance=2.0)).ids
    assert len(held.calls) == 2 and not torch.equal(other, want[0])


def test_compiled_blocks_draw_the_same_ids(pipe):
    torch._dynamo.reset()
    own = tiny_layton_gen.generator()
    assert own.compile(backend="eager") is own
    drawn = [through(one, start(one, [DOG, CUPS])).ids for one in (own, pipe)]
    assert torch.equal(*drawn)
    torch._dynamo.reset()


def test_a_tokenizer_that_keeps_its_parts_itself(pipe, tmp_path, monkeypatch):
    """Of another class than the rest, with folders of its own making."""
    class Parted(type(pipe.vae)):
        def save_parts(self, folder, formats):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "format").write_text(formats)
            torch.save(self.state_dict(), folder / "parts")

        @classmethod
        def from_parts(cls, folder):
            made = parted()
            made.load_state_dict(torch.load(folder / "parts"))
            return made

    def parted():
        return Parted(**asdict(PRESETS["tiny"]())).eval()

    layout = LaytonGenerator.LAYOUT
    kinds = {"networks": {**layout.networks, "vae": (*layout.networks["vae"], Parted)}}
    monkeypatch.setattr(LaytonGenerator, "LAYOUT", replace(layout, **kinds))
    made = LaytonGenerator(**pipe.components | {"vae": parted()},
                           defaults=replace(pipe.defaults, tokens=None))  # fmt: skip
    made.save_pretrained(tmp_path, "bfloat16")
    again = load_generator(tmp_path)
    assert type(again.vae) is Parted and (tmp_path / "vae" / "format").read_text() == "bfloat16"
    assert again.vae.token_digest() == made.vae.token_digest()


def test_put_together_from_folders(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "whole", "float32")
    text = tmp_path / "text"
    pipe.text_encoder.save_pretrained(text)
    pipe.tokenizer.save_pretrained(text)
    name = (f"layton:transformer={tmp_path}/whole/transformer,vae={tmp_path}/whole/vae,"
            f"text={text},guidance=3.0,temperature=1.0,top_k=20,top_p=0.9,clean=false"
            )  # fmt: skip
    made = load_generator(name)
    before, after = (p([DOG], seeds=[5], output_type="pt").images for p in (pipe, made))
    assert torch.equal(before, after)
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_generator(f"{name},tokens=abc")
    with pytest.raises(ValueError, match="holds a LaytonTransformer; a tokenizer of pictures"):
        load_generator(name.replace("whole/vae", "whole/transformer"))


def test_ids_are_decoded_by_laytons_own_tokenizer(tmp_path):
    """The two halves of the family together: drawn, decoded, costed, saved, read back."""
    vae = tiny_layton.tokenizer(tokens_side=32)
    pipe = tiny_layton_gen.generator(vae, clean=False)
    asked, seeds = requests(DOG, CUPS), [3, 4]
    images, cost = generate(pipe, asked, seeds)
    assert images.shape == (2, 3, vae.image, vae.image)
    assert torch.equal(generate(pipe, asked[1:], seeds[1:])[0], images[1:])
    assert not torch.equal(generate(pipe, asked[:1], [5])[0], images[:1])
    vae.settle(decoding=replace(vae.decoding, steps=vae.decoding.steps - 1))
    fewer = vae.decode_flops(vae.sizes_of(vae.image, vae.image))
    vae.settle(decoding=replace(vae.decoding, steps=vae.decoding.steps + 1))
    assert fewer < vae.decode_flops(vae.sizes_of(vae.image, vae.image)) < cost.flops / 2
    pipe.save_pretrained(tmp_path / "model", "float32")
    again = LaytonGenerator.from_pretrained(tmp_path / "model")
    assert torch.equal(generate(again, asked, seeds)[0], images)


def test_a_drawing_is_decoded_as_its_tokenizer_was_trained_for_or_as_asked(tmp_path):
    vae = tiny_layton.tokenizer(tokens_side=32)
    vae.record(DECODINGS["hyper"])
    pipe = tiny_layton_gen.generator(vae, clean=False)
    pipe.save_pretrained(tmp_path, "float32")

    def drawn(options=""):
        made = load_generator(f"layton:folder={tmp_path}{options}")
        return made, generate(made, requests(DOG), [3])[0]

    own, images = drawn()
    assert own.vae.decoding == DECODINGS["hyper"]
    assert own.provenance()["decoded"]["decoding"] == asdict(DECODINGS["hyper"])
    assert torch.equal(images, generate(pipe, requests(DOG), [3])[0])
    other, three = drawn(",decoding=tlcm")
    assert other.vae.decoding == DECODINGS["tlcm"] == drawn(",steps=3")[0].vae.decoding
    assert not torch.equal(three, images)
    assert other.provenance() != own.provenance()
    assert pipe.vae.token_digest() == other.vae.token_digest()
    with pytest.raises(ValueError, match="decoding 'hiper': did you mean 'hyper'"):
        drawn(",decoding=hiper")


def test_another_tokenizer_of_the_same_ids_may_decode(tmp_path):
    vae = tiny_layton.tokenizer(tokens_side=32)
    tiny_layton_gen.generator(vae, clean=False).save_pretrained(tmp_path / "model", "float32")
    with torch.no_grad():
        for parameter in vae.decoder.controlnet.parameters():
            parameter.mul_(1.5)  # as after more training
    vae.save_parts(tmp_path / "further")
    name = f"layton:folder={tmp_path / 'model'}"
    plain, further = (load_generator(text)
                      for text in (name, f"{name},vae={tmp_path / 'further'}"))  # fmt: skip
    a, b = (generate(made, requests(DOG), [3])[0] for made in (plain, further))
    assert not torch.equal(a, b)
    assert plain.defaults == further.defaults
    assert torch.equal(tiny_layton_gen.generator(vae, clean=False)([DOG], seeds=[3],
                                                                   output_type="pt").images, b)
    tiny_layton.tokenizer(seed=1, tokens_side=32).save_parts(tmp_path / "other")
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_generator(f"{name},vae={tmp_path / 'other'}")
    with pytest.raises(ValueError, match="given folder, text"):
        load_generator(f"{name},text={tmp_path}")


def test_a_plain_tokenizer_has_no_decoding_to_choose(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    assert "decoded" not in pipe.provenance()
    with pytest.raises(ValueError, match="draws the ids of a VQTokenizer; leave them out"):
        load_generator(f"layton:folder={tmp_path},steps=2")
