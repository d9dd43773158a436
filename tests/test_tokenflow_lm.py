"""TokenFlow as a generator: its transformer, the cache against drawing anew, the protocol."""

import copy
import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from impasto.models import load_generator
from impasto.models.next_scale.maps import bicubic, from_tokens, tokens
from impasto.models.storage import save_network
from impasto.models.tokenflow import (
    STRATEGIES,
    TRANSFORMERS,
    Defaults,
    TokenFlowGenerator,
    TokenFlowTransformer,
)
from impasto.models.tokenflow.costs import positions, scale_flops
from impasto.models.tokenflow.initialise import initialise
from impasto.models.tokenflow.model import seen
from impasto.models.tokenflow.sampler import DEFECTS
from impasto.models.tokenflow.text import pieces, prompt_ids, slots
from impasto.models.var.sampler import draw_tokens
from impasto.sample.protocol import Sampling
from tests import drawing, tiny_tokenflow, tiny_tokenflow_lm
from tests.drawing import start, through
from tests.tiny_tokenflow_lm import SIZES

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
DOG, CUPS, BENCH = "a photo of a dog", "two red cups", "a bench"
PREFIX = 8  # slots, beside <img>, which is the first scale's token
L = 21


@pytest.fixture(scope="module")
def pipe():
    return tiny_tokenflow_lm.generator()


def meta(**sizes):
    with torch.device("meta"):
        return TokenFlowTransformer(**sizes)


# ------------------------------------------------------------------------------ the published size


def test_the_published_model_has_its_names_shapes_and_7_03_billion_parameters():
    block = {
        **{f"self_attn.{name}_proj.weight": (4096, 4096) for name in "qkvo"},
        **{f"self_attn.qknorm.{name}_norm.weight": (128,) for name in ("query", "key")},
        "mlp.gate_proj.weight": (11008, 4096), "mlp.up_proj.weight": (11008, 4096),
        "mlp.down_proj.weight": (4096, 11008),
        "input_layernorm.weight": (4096,), "post_attention_layernorm.weight": (4096,),
    }  # fmt: skip
    want = {
        "model.embed_tokens.weight": (64769, 4096), "lm_head.weight": (64769, 4096),
        "model.norm.weight": (4096,), "model.lvl_embed.weight": (10, 4096),
        "model.pos_1LC": (817, 4096),
        "model.mm_projector.0.weight": (4096, 40), "model.mm_projector.0.bias": (4096,),
        "model.mm_projector.2.weight": (4096, 4096), "model.mm_projector.2.bias": (4096,),
        **{f"model.layers.{i}.{key}": shape for i in range(32) for key, shape in block.items()},
    }  # fmt: skip
    model = meta(**asdict(TRANSFORMERS["7b"]()))
    assert {key: tuple(x.shape) for key, x in model.state_dict().items()} == want
    assert sum(p.numel() for p in model.parameters()) == 7_027_204_096
    assert model.sizes == tuple((s, s) for s in (1, 2, 4, 6, 8, 10, 12, 14, 16))


def test_positions_are_the_published_codes_and_the_caches():
    sizes = tuple((s, s) for s in (1, 2, 4, 6, 8, 10, 12, 14, 16))
    assert [positions(sizes, 131, j, cached=False) for j in (1, 3)] == [3339, 9755]
    assert [positions(sizes, 131, j, cached=True) for j in (1, 3)] == [947, 2579]


def test_published_strategies():
    assert STRATEGIES[1] == ((600,), (0.6,)) and STRATEGIES[2] == ((1200, 1), (0.8, 0.0))
    assert STRATEGIES[3] == ((1200, 100, 1), (0.8, 0.8, 0.0))
    calls = {j: 1 + 8 * j for j in STRATEGIES}
    assert calls == {1: 9, 2: 17, 3: 25}


# ------------------------------------------------------------------------------ the transformer


def restated(weights, x, mask, depth=2, heads=2):
    """The published equations in a few plain lines: states (n, C) of one sequence, by index."""
    def rms(v, w, eps):
        return v / (v.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w

    n, width = x.shape
    d = width // heads
    angles = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)
    turn = torch.polar(torch.ones_like(angles), angles)

    def turned(v):
        pairs = torch.complex(v[..., : d // 2], v[..., d // 2 :]) * turn
        return torch.cat([pairs.real, pairs.imag], -1)

    for i in range(depth):
        w = {key.removeprefix(f"model.layers.{i}."): value for key, value in weights.items()}
        q, k, v = (F.linear(x, w[f"self_attn.{name}_proj.weight"]) for name in "qkv")
        q, k, v = (part.view(n, heads, d).transpose(0, 1) for part in (q, k, v))
        q = turned(rms(q, w["self_attn.qknorm.query_norm.weight"], 1e-6))
        k = turned(rms(k, w["self_attn.qknorm.key_norm.weight"], 1e-6))
        p = (q @ k.transpose(1, 2) / d**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        heard = F.linear((p @ v).transpose(0, 1).reshape(n, width), w["self_attn.o_proj.weight"])
        x = x + rms(heard, w["input_layernorm.weight"], 1e-5)
        gate, up = (F.linear(x, w[f"mlp.{name}_proj.weight"]) for name in ("gate", "up"))
        inside = F.linear(gate * gate.sigmoid() * up, w["mlp.down_proj.weight"])
        x = x + rms(inside, w["post_attention_layernorm.weight"], 1e-5)
    return rms(x, weights["model.norm.weight"], 1e-5)


def restated_inputs(weights, words, codes):
    """Embeddings of a text, then of f_2 … f_K, then nothing, then `</img>`."""
    w = {key.removeprefix("model."): value for key, value in weights.items()}
    text = w["embed_tokens.weight"][words] + w["lvl_embed.weight"][0]
    text[-1] += w["pos_1LC"][0]
    hidden = F.gelu(F.linear(codes, w["mm_projector.0.weight"], w["mm_projector.0.bias"]))
    image = F.linear(hidden, w["mm_projector.2.weight"], w["mm_projector.2.bias"])
    level = torch.tensor([2] * 4 + [3] * 16)
    image = image + w["lvl_embed.weight"][level] + w["pos_1LC"][1:]
    return torch.cat([text, image, w["lvl_embed.weight"][:1]])


def mask_of(empty, first, after=1):
    """Who sees whom, place by place."""
    scale = [0] + [1] * 4 + [2] * 16
    count = first + L + after
    rows = torch.zeros(count, count, dtype=torch.bool)
    for i in range(count):
        for j in range(count):
            image = first <= i < first + L and first <= j < first + L
            sees = scale[i - first] >= scale[j - first] if image else j <= i
            rows[i, j] = (sees and j >= empty) or i == j
    return rows


@torch.no_grad()
def test_all_equations_against_a_plain_restatement():
    model = tiny_tokenflow_lm.transformer()
    generator = torch.Generator().manual_seed(0)
    told = torch.randn(2, 20, 10, generator=generator)
    words = torch.tensor([[0, 0, 0, 7, 9, 3], [4, 5, 6, 7, 8, 3]])
    there = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    logits = model.teacher_forced(words, told, torch.tensor([], dtype=torch.long),
                                  seen(there, 5, SIZES, 1))  # fmt: skip
    weights = dict(model.state_dict())
    for row, empty in enumerate((3, 0)):
        assert torch.equal(seen(there, 5, SIZES, 1)[row, 0], mask_of(empty, 5))
        x = restated_inputs(weights, words[row], told[row])
        h = restated(weights, x, mask_of(empty, 5))
        want = F.linear(h[5:], weights["lm_head.weight"])
        torch.testing.assert_close(logits[row], want, atol=2e-4, rtol=2e-4)


@torch.no_grad()
def test_pictures_enter_as_features_of_codes_and_never_as_embeddings_of_ids(pipe):
    model = copy.deepcopy(pipe.transformer)
    before = through(pipe, start(pipe)).f_hat
    model.model.embed_tokens.weight[model.words :] = torch.nan
    model.model.lvl_embed.weight[1] = torch.nan  # has no use, as in the published model
    model.lm_head.weight[: model.words] = torch.nan  # no word is ever drawn
    other = TokenFlowGenerator(**pipe.components | {"transformer": model}, defaults=pipe.defaults)
    assert torch.equal(through(other, start(other)).f_hat, before)
    with pytest.raises(ValueError, match="scales 2 to 3 have 20 places together, given 16"):
        model.teacher_forced(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 16, 10),
                             torch.tensor([1]), torch.ones(1, 1))  # fmt: skip


def test_bad_sizes():
    sizes = {"depth": 1, "width": 32, "heads": 2, "inside": 8, "text_vocabulary": 5,
             "vocabulary": 8, "channels": 4, "patches": (1, 2)}  # fmt: skip
    for change, message in (({"heads": 3}, "multiple of twice the 3 heads"),
                            ({"patches": (2, 4)}, "must start with 1 and grow"),
                            ({"embedded": 4}, "must have 5 to 13 rows, given 4")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            meta(**sizes | change)
    assert meta(**sizes | {"embedded": 5}).model.embed_tokens.weight.shape == (5, 32)


def test_fresh_weights_are_those_that_training_starts_from():
    torch.manual_seed(0)
    model = initialise(tiny_tokenflow_lm.transformer(width=256, heads=2, inside=512))
    model, std = model.requires_grad_(False), (1 / (3 * 256)) ** 0.5
    assert model.model.lvl_embed.weight.std() == pytest.approx(std, rel=0.1)
    assert model.model.pos_1LC.std() == pytest.approx(std, rel=0.1)
    assert model.lm_head.weight.std() == pytest.approx(0.02, rel=0.1)
    assert model.model.layers[1].mlp.up_proj.weight.std() == pytest.approx(0.02, rel=0.1)


# ------------------------------------------------------------------------------ words


def test_prompts_stand_at_the_end_of_their_slots(pipe):
    tokenizer = pipe.tokenizer
    (img,) = pieces(tokenizer, "<img>")
    ids, there = slots(tokenizer, ["two red", ""], 8, 323)
    words = tokenizer("two red", add_special_tokens=False).input_ids
    assert ids[0].tolist() == [0] * (7 - len(words)) + [tokenizer.bos_token_id, *words, img]
    assert ids[1].tolist() == [0] * 7 + [tokenizer.bos_token_id, img]
    assert there.sum(1).tolist() == [len(words) + 2, 2] and there[:, -1].all()


def test_long_prompts_are_cut_and_marks_in_prompts_are_spelled(pipe):
    with pytest.warns(UserWarning, match="is cut to its first 7"):
        assert len(prompt_ids(pipe.tokenizer, "two red cups " * 9, 8, 323)) == 8
    spelled = prompt_ids(pipe.tokenizer, "<img>", 40, 323)
    assert not set(pieces(pipe.tokenizer, "<img>")) & set(spelled)
    with pytest.raises(ValueError, match=r"the model's words end at 299"):
        prompt_ids(pipe.tokenizer, DOG, 40, 300)


def test_plain_words_spell_img_in_pieces():
    from impasto.models.mmdit import train_tokenizer

    plain = train_tokenizer(tiny_tokenflow_lm.CAPTIONS * 4, vocab_size=320)
    own = pieces(plain, "<img>")
    assert len(own) > 1 and plain.decode(own).strip() == "<img>"
    with pytest.raises(ValueError, match="no BOS"):
        prompt_ids(plain, DOG, 8, 323)


# ------------------------------------------------------------------------------ drawing


@pytest.fixture(scope="module")
def official():
    """The published ways, as the benchmark has them."""
    sys.path.insert(0, BENCHMARKS)
    try:
        yield importlib.import_module("official_tokenflow")
    finally:
        sys.path.remove(BENCHMARKS)


def test_the_published_quantiser_finds_the_same_ids(official):
    vae, x = tiny_tokenflow.tokenizer(), torch.rand(2, 3, 32, 32)
    theirs = official.official_encode(vae, x)
    assert all(torch.equal(a, b) for a, b in zip(theirs, vae.encode(x), strict=True))


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_cached_drawing_equals_drawing_anew(passes, monkeypatch, official):
    """The very same ids, of two prompts of different lengths, under guidance; and the places that
    go through the network are as many as `positions` says."""
    pipe = tiny_tokenflow_lm.generator(passes)
    lengths, forward = [], TokenFlowTransformer.forward

    def counted(self, x, start, **others):
        lengths.append((len(x), x.shape[1]))
        return forward(self, x, start, **others)

    monkeypatch.setattr(TokenFlowTransformer, "forward", counted)
    state = start(pipe, [DOG, CUPS], [3, 4], guidance=5.0)
    assert [n for n, _ in lengths] == [1, 1, 1]  # each text once
    del lengths[:]
    drawn = through(pipe, state)
    rows = sum(length for _, length in lengths) // 2
    assert all(n == 2 for n, _ in lengths)
    assert PREFIX + rows == positions(SIZES, PREFIX + 1, passes, cached=True)
    ids, count = official.official_draw(pipe, [DOG, CUPS], [3, 4], 5.0)
    assert count == positions(SIZES, PREFIX + 1, passes, cached=False)
    assert torch.equal(drawn.f_hat, sum(pipe.vae.summand(own, size)
                                        for own, size in zip(ids, SIZES, strict=True)))
    torch.testing.assert_close(drawn.f_hat, pipe.vae.features_of(ids, SIZES))
    other, _ = official.official_draw(pipe, [DOG, CUPS], [3, 9], 5.0)
    assert torch.equal(other[2][0], ids[2][0]) and not torch.equal(other[2][1], ids[2][1])


@torch.no_grad()
def test_what_it_is_told_is_enlarged_step_by_step(monkeypatch):
    """Through every map between; what is decoded is enlarged at once."""
    pipe = TokenFlowGenerator(
        transformer=tiny_tokenflow_lm.transformer(patches=(1, 2, 3, 4)),
        vae=tiny_tokenflow.tokenizer(scales=(1, 2, 3, 4)), tokenizer=tiny_tokenflow_lm.words(),
        defaults=Defaults(),
    )  # fmt: skip
    ids, drawn = [], pipe._drawn
    monkeypatch.setattr(pipe, "_drawn", lambda *a: ids.append(drawn(*a)) or ids[-1])
    state = through(pipe, start(pipe), 3)
    last = ids[0], ids[3], ids[6]  # one pass, then three each
    a, b, c = (from_tokens(pipe.vae.codes(own), (k, k)) for k, own in enumerate(last, 1))
    stepwise = bicubic(bicubic(bicubic(a, (2, 2)) + b, (3, 3)) + c, (4, 4))
    torch.testing.assert_close(state.running, stepwise)
    at_once = sum(bicubic(part, (4, 4)) for part in (a, b, c))
    torch.testing.assert_close(state.f_hat, at_once)
    assert (stepwise - at_once).abs().max() > 0.02


def test_passes_feed_the_scale_back_to_itself():
    one, three = (tiny_tokenflow_lm.generator(passes, guidance=1.0) for passes in (1, 3))
    same = tiny_tokenflow_lm.changed(one, top_k=(20,), top_p=(0.9,))
    first = [through(p, start(p, [DOG], [5]), 1).f_hat for p in (same, three)]
    assert torch.equal(*first)  # the first scale has one pass
    after = [through(p, start(p, [DOG], [5]), 2).f_hat for p in (same, three)]
    assert not torch.equal(*after)


def test_every_pass_has_numbers_of_its_own():
    logits = torch.zeros(1, 50, 32)
    drawn = [draw_tokens(logits, [1], 2, refinement=j) for j in range(3)]
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])
    assert torch.equal(drawn[0], draw_tokens(logits, [1], 2))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_row_does_not_depend_on_its_batch(pipe, guidance):
    settings, prompts = Sampling(guidance=guidance), [DOG, CUPS, DOG, BENCH]
    _, cost = drawing.drawn_in_any_batch(pipe, prompts, settings)
    assert cost.row_steps == 12 and cost.tokens == 4 * (1 + 3 * 20)


def test_all_rows_at_once_draw_the_same_tokens(pipe, monkeypatch):
    """As on a GPU: one batch. The same tokens, since no sum lies near its number."""
    alone = through(pipe, start(pipe, [DOG, CUPS, BENCH]))
    calls, forward = [], TokenFlowTransformer.forward
    monkeypatch.setattr(TokenFlowGenerator, "rows_at_once", None)
    monkeypatch.setattr(TokenFlowTransformer, "forward",
                        lambda self, x, *a, **k: calls.append(len(x)) or forward(self, x, *a, **k))
    together = through(pipe, start(pipe, [DOG, CUPS, BENCH]))
    assert calls == [1] * 4 + [6] * 7  # four texts; one call a pass, both halves in it
    torch.testing.assert_close(together.f_hat, alone.f_hat)


def test_a_text_is_read_once_whoever_draws_from_it(pipe, monkeypatch):
    asked, read = [], TokenFlowTransformer.read
    monkeypatch.setattr(TokenFlowTransformer, "read",
                        lambda self, ids, n: asked.append(len(ids)) or read(self, ids, n))
    state = start(pipe, [DOG, CUPS, DOG, DOG])
    through(pipe, state)
    assert len(asked) == 3 and state.prompt_of == (0, 1, 0, 0)


# ------------------------------------------------------------------------------ guidance


def test_guidance_is_a_ramp_of_the_published_cfg(pipe):
    assert start(pipe, guidance=8.5).guidance == (1.0, 4.75, 8.5)  # 1 + 7.5 k / 2
    assert Defaults().guidance == 8.5
    constant = tiny_tokenflow_lm.changed(pipe, guidance=(4.0, 4.0, 4.0))
    base = through(pipe, start(pipe)).f_hat
    assert not torch.equal(through(constant, start(constant)).f_hat, base)


def test_the_negative_prompt_is_the_unconditional_branch(pipe):
    other = tiny_tokenflow_lm.changed(pipe, negative="red red")
    a, b = (through(p, start(p, seeds=[1])) for p in (pipe, other))
    assert not torch.equal(a.f_hat, b.f_hat)
    first = [through(p, start(p, seeds=[1]), 1).f_hat for p in (pipe, other)]
    assert torch.equal(*first)  # the ramp begins at 1
    plain = [through(p, start(p, seeds=[1], guidance=1.0)).f_hat for p in (pipe, other)]
    assert torch.equal(*plain)
    alone = [through(p, start(p, [text], [1], guidance=0.0)).f_hat for p, text in
             ((pipe, DOG), (pipe, CUPS), (other, DOG))]  # fmt: skip
    assert torch.equal(alone[0], alone[1]) and not torch.equal(alone[0], alone[2])


def test_one_leaves_the_unconditional_branch_out(pipe):
    guided, plain = (through(pipe, start(pipe, guidance=g)) for g in (5.0, 1.0))
    assert len(start(pipe, guidance=5.0).cache[0][0]) == 2
    assert len(start(pipe, guidance=1.0).cache[0][0]) == 1
    twin = sum(scale_flops(pipe.transformer, k, PREFIX) * (3 if k else 1) for k in range(3))
    assert guided.cost.flops - plain.cost.flops == twin


# ------------------------------------------------------------------------------ the protocol


def test_select_re_indexes_everything(pipe):
    drawing.selected_as_drawn(pipe, [DOG, CUPS, BENCH], 1, ("f_hat", "running"))


def test_rows_are_selected_before_the_first_scale_too(pipe):
    kept = through(pipe, pipe.select(start(pipe, [DOG, CUPS], [7, 8]), [1, 1, 0]))
    direct = through(pipe, start(pipe, [CUPS, CUPS, DOG], [8, 8, 7]))
    assert torch.equal(kept.f_hat, direct.f_hat)


def test_twins_part_when_given_other_seeds(pipe):
    drawing.twins_part(pipe, 1)


def test_states_are_values(pipe):
    for steps in (0, 1):
        drawing.states_are_values(pipe, steps, ("f_hat", "running"))


def test_passes_leave_the_first_ones_keys_in_the_cache(pipe):
    """The cache after a scale of three passes is that of one pass that drew the same."""
    state = through(pipe, start(pipe, guidance=1.0), 1)
    after = pipe.advance(state)
    with torch.no_grad():
        into = pipe._scale.extended(state, state.cache)
        pipe._scale.logits(state, range(1), state.cache, into)
    for a, b in zip(after.cache, into, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    assert after.cache.length == PREFIX + 1 + 4


def test_previews_are_the_partial_sum_through_the_same_decoder(pipe):
    drawing.previews_are_partial_sums(pipe, 3, 32)


def test_cost_is_what_torch_counts(pipe):
    """Every scale: torch's own counter, on the meta device, of the same calls, three a scale."""
    states = [start(pipe, guidance=1.0)]
    model, vae = (copy.deepcopy(part).to("meta") for part in (pipe.transformer, pipe.vae))
    for k, (h, w) in enumerate(SIZES):
        states.append(pipe.advance(states[-1]))
        held = PREFIX + tokens(SIZES[: k + 1])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in range(3 if k else 1):
                told = torch.empty(1, h * w, 10, device="meta") if k else torch.zeros(
                    1, 1, dtype=torch.long, device="meta")  # fmt: skip
                x = model.embed(k, told)
                past = torch.empty(2, 1, held - h * w, 2, 16, device="meta")
                kv = [(own.transpose(1, 2), own.transpose(1, 2)) for own in past]
                mask = torch.ones(1, 1, 1, held, dtype=torch.bool, device="meta")
                model.code_logits(model(x, held - h * w, mask=mask, past=kv))
            if k == 2:
                vae.decode(torch.empty(1, 10, 4, 4, device="meta"))
        assert states[-1].cost.flops - states[-2].cost.flops == counter.get_total_flops()
    one, two = (pipe.advance(start(pipe, [DOG] * n, guidance=3.0)).cost for n in (1, 2))
    assert two.flops == 2 * one.flops and two.row_steps == 2


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("settings, message", [
    ({"steps": 4}, "draws in 3 scales, so steps must be 3 or left out, given 4"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"height": 64}, "draws 32 x 32, so height x width must be that or left out, given 64 x 32"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


@pytest.mark.parametrize("changes, message", [
    ({"guidance": (3.0, 3.0)}, "guidance has 2 values for 3 scales"),
    ({"guidance": -1.0}, "guidance must be >= 0 at every scale"),
    ({"top_p": (0.8,)}, "one number a pass"), ({"top_k": (), "top_p": ()}, "one number a pass"),
    ({"top_k": (-1, 1, 1)}, "top_k must be >= 0"), ({"top_p": (0.0, 2.0, 0.0)}, "top_p 0 to 1"),
])  # fmt: skip
def test_bad_defaults(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_tokenflow_lm.changed(pipe, **changes)


def test_networks_that_do_not_belong_together(pipe):
    other = {"vae": tiny_tokenflow.tokenizer(vocabulary=16)}
    with pytest.raises(ValueError, match=r"takes 32 codes of 10 channels on maps of \[1, 2, 4\]; "
                                         r"the tokenizer makes 16 codes"):
        TokenFlowGenerator(**pipe.components | other, defaults=pipe.defaults)


def test_another_tokenizer_is_refused(pipe):
    assert pipe.defaults.tokens == pipe.vae.token_digest()
    other = tiny_tokenflow.tokenizer(seed=5)
    with pytest.raises(ValueError, match=rf"ids of the tokenizer {pipe.defaults.tokens[:12]}, and "
                                         rf"this is {other.token_digest()[:12]}.*give the tok"):
        TokenFlowGenerator(**pipe.components | {"vae": other}, defaults=pipe.defaults)
    decoder = copy.deepcopy(pipe.vae)
    with torch.no_grad():
        decoder.decoder.conv_in.weight.add_(1)  # tuned alone, it changes no ids
    TokenFlowGenerator(**pipe.components | {"vae": decoder}, defaults=pipe.defaults)


# ------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("defaults", [{}, {"guidance": (1.0, 2.0, 3.0), "negative": ""}])
def test_a_saved_model_draws_the_same(tmp_path, defaults):
    pipe = tiny_tokenflow_lm.generator(**defaults)
    pipe.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert isinstance(again, TokenFlowGenerator) and again.defaults == pipe.defaults
    assert again.provenance() == pipe.provenance()
    before, after = (p([DOG], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)


def test_other_formats_load_though_they_round_the_codes(pipe, tmp_path):
    """The digest recorded is of the tokenizer as it was written."""
    recorded = pipe.defaults.tokens
    for name, format in (("half", "bfloat16"), ("eighth", "int8"), ("whole", "float32")):
        pipe.save_pretrained(tmp_path / name, format)
        for dtype in ("bfloat16", "float32"):
            image = load_generator(tmp_path / name, torch_dtype=dtype)(
                DOG, seeds=[0], output_type="pt").images  # fmt: skip
            assert image.shape == (1, 3, 32, 32) and torch.isfinite(image).all()
    assert pipe.defaults.tokens == recorded
    tokens = {name: json.loads((tmp_path / name / "config.json").read_text())["tokens"]
              for name in ("half", "eighth", "whole")}  # fmt: skip
    assert tokens["half"] != tokens["whole"] == recorded
    (tmp_path / "whole" / "vae").rename(tmp_path / "own")
    (tmp_path / "half" / "vae").rename(tmp_path / "whole" / "vae")
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_generator(tmp_path / "whole")


@pytest.mark.parametrize("file, change, message", [
    ("config.json", {"tau": 1}, "must have the keys .*negative"),
    ("transformer/config.json", {"depth": 4}, "missing keys .*layers.3"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(pipe, tmp_path, file, change, message):
    drawing.folder_is_refused(pipe, tmp_path, file, change, message)


def test_parts_from_different_places(pipe, tmp_path):
    """As the published files come: two converted folders, and words."""
    for name in ("transformer", "vae"):
        save_network(pipe.components[name], tmp_path / name, "float32")
    pipe.tokenizer.save_pretrained(tmp_path / "words")
    parts = ",".join(f"{name}={tmp_path}/{name}" for name in ("transformer", "vae", "words"))
    again = load_generator(f"tokenflow:{parts},passes=2,guidance=4,negative=(a red dog, two cups)")
    assert again.defaults == Defaults(negative="a red dog, two cups", guidance=4,
                                      top_k=(1200, 1), top_p=(0.8, 0.0),
                                      tokens=pipe.defaults.tokens)  # fmt: skip
    want = tiny_tokenflow_lm.changed(pipe, **{
        key: getattr(again.defaults, key) for key in ("negative", "guidance", "top_k", "top_p")})
    draw = [p([DOG], seeds=[5], output_type="pt").images for p in (again, want)]
    assert torch.equal(*draw)
    with pytest.warns(UserWarning, match="is cut"):  # the tiny model has 8 slots
        assert load_generator(f"tokenflow:{parts}").defaults.negative == DEFECTS
    assert load_generator(f"tokenflow:{parts},negative=()").defaults.negative == ""
    with pytest.raises(ValueError, match="passes must be one of 1, 2, 3, given 4"):
        load_generator(f"tokenflow:{parts},passes=4")
    with pytest.raises(ValueError, match="its codes mean other things"):
        load_generator(f"tokenflow:{parts},tokens=abc")


def test_from_config_makes_the_presets():
    made = TokenFlowGenerator.from_config(tiny_tokenflow_lm.CONFIG, tiny_tokenflow_lm.words())
    assert made.default_size() == (32, 32) and made.defaults.negative == ""
    sticker = meta(**asdict(TRANSFORMERS["sticker"]()))
    assert len(sticker.model.layers) == 8 and sticker.model.pos_1LC.shape == (530, 384)
    assert sum(p.numel() for p in sticker.parameters()) == 16_892_416


# ------------------------------------------------------------------------------ speed, searches


def test_what_is_compiled_draws_the_same(monkeypatch):
    pipe, compiled = tiny_tokenflow_lm.generator(), []

    def stand_in(function, **options):
        compiled.append((function.__name__, options))
        return function

    plain = through(pipe, start(pipe, [DOG], [1]))
    monkeypatch.setattr(torch, "compile", stand_in)
    assert pipe.compile() is pipe
    assert [name for name, _ in compiled] == ["opening", "closing"] * 2 + ["decode"]
    same = through(pipe, start(pipe, [DOG], [1]))
    assert torch.equal(pipe.finish(plain), pipe.finish(same))


def test_graphs_are_told_apart_by_what_they_read(pipe, monkeypatch):
    """Of one scale two: one that writes to the cache, one that reads it alone. Nothing but tensors
    changes from call to call."""
    keys, called = [], pipe._scale._called

    def kept(state, network, inputs, cache, *fixed):
        keys.append((state.step, *fixed))
        assert all(isinstance(x, torch.Tensor) for x in inputs)
        return called(state, network, inputs, cache, *fixed)

    monkeypatch.setattr(pipe._scale, "_called", kept)
    through(pipe, start(pipe))
    assert keys == [(0, False), (1, False), (1, True), (1, True), *[(2, True)] * 3]
    with pytest.raises(ValueError, match="need the model on a GPU; it is on cpu"):
        pipe.use_graphs()


def test_tts_var_searches_among_its_drawings(pipe):
    drawing.searched_among_others(pipe)
