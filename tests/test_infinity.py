"""Infinity as a generator: the protocol's rules, guidance, folder, and what it refuses."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5EncoderModel

from impasto.models import load_generator
from impasto.models.infinity import Defaults, InfinityGenerator
from impasto.models.infinity.model import Condition
from impasto.models.infinity.sampler import draw_bits
from impasto.models.storage import save_network
from impasto.sample.flops import count_flops
from impasto.sample.protocol import Sampling, generate
from impasto.zoo.weights import load_state, load_weights, save_weights
from tests import drawing, tiny_infinity, tiny_mmdit
from tests.drawing import requests, through

SHORT, LONG = "a red dog", "four purple cats"


@pytest.fixture(scope="module")
def pipe():
    return tiny_infinity.generator()


def start(pipe, prompts=(SHORT,), seeds=None, **settings):
    return drawing.start(pipe, prompts, seeds, **settings)


def with_defaults(pipe, **changes):
    return InfinityGenerator(**pipe.components, defaults=replace(pipe.defaults, **changes))


# ------------------------------------------------------------------------------ drawing


def test_steps_are_scales_and_sums_are_codes(pipe):
    state = start(pipe, [SHORT, LONG])
    assert state.steps == 4 and not state.f_hat.any() and state.f_hat.shape == (2, 4, 6, 6)
    first = pipe.advance(state)
    # One code everywhere, of +- 1 / sqrt(4).
    code = first.f_hat[..., :1, :1].sign() / 2
    torch.testing.assert_close(first.f_hat, code.expand(-1, -1, 6, 6))
    assert first.cache[0][0].shape == (4, 2, 1, 16) and through(pipe, first).cache is None


def test_cached_drawing_equals_drawing_from_scratch(pipe):
    """Bits of every scale, from a network that sees everything anew under the training mask, for
    two texts of different lengths together."""
    state = start(pipe, [SHORT, LONG], [3, 4])
    assert len(set(state.lengths)) == 2
    pairs, lengths = state.text, [state.lengths[i // 2] for i in range(4)]
    assert pairs.seen.sum(1).tolist() == lengths
    codes, f_hat = [], torch.zeros_like(state.f_hat)
    for k, size in enumerate(state.schedule.sizes):
        plan = state.schedule._replace(sizes=state.schedule.sizes[: k + 1])
        with torch.no_grad():
            logits = pipe.transformer.teacher_forced(pairs, codes, plan)[:, -size[0] * size[1] :]
        guided = 3 * logits[0::2] - 2 * logits[1::2]
        f_hat = pipe.vae.add_codes(f_hat, draw_bits(guided, [3, 4], k), size)
        state = pipe.advance(state)
        assert torch.equal(state.f_hat, f_hat), k
        if k + 1 < state.steps:
            told = pipe.vae.next_input(f_hat, state.schedule.sizes[k + 1])
            codes.append(told.repeat_interleave(2, dim=0))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_row_does_not_depend_on_its_batch(pipe, guidance, layer):
    pipe = with_defaults(pipe, guidance_layer=layer)
    prompts, settings = [SHORT, LONG, SHORT, "a bench"], Sampling(guidance=guidance)
    _, cost = drawing.drawn_in_any_batch(pipe, prompts, settings)
    assert cost.row_steps == 16


def test_all_rows_at_once_draw_the_same_bits(pipe, monkeypatch):
    """As on a GPU: texts padded, one batch. The same bits, since no logit lies near its number."""
    alone = through(pipe, start(pipe, [SHORT, LONG, "a bench"]))
    calls = []
    forward = pipe.transformer.forward
    monkeypatch.setattr(InfinityGenerator, "rows_at_once", None)
    monkeypatch.setattr(pipe.transformer, "forward",
                        lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k))
    together = through(pipe, start(pipe, [SHORT, LONG, "a bench"]))
    assert calls == [6, 6, 6, 6]  # one call a scale, both halves in it
    torch.testing.assert_close(together.f_hat, alone.f_hat)


def test_text_is_done_once_a_prompt(pipe, monkeypatch):
    encoded, conditions = [], []
    encode, condition = pipe.encode_text, pipe.transformer.condition
    monkeypatch.setattr(pipe, "encode_text", lambda text: encoded.append(text) or encode(text))
    monkeypatch.setattr(pipe.transformer, "condition",
                        lambda *a: conditions.append(a) or condition(*a))
    state = start(pipe, [SHORT, LONG, SHORT, SHORT])
    keys = state.text.keys
    state = through(pipe, state)
    assert encoded == [SHORT, LONG] and len(conditions) == 2 and state.text.keys is keys
    # The unconditional text is as long as the prompt beside it.
    for (states, _), length in zip(conditions, state.lengths, strict=True):
        assert torch.equal(states[1], pipe.transformer.cfg_uncond[:length])


def test_states_of_a_prompt_have_no_padding(pipe):
    states = pipe.encode_text(SHORT)
    ids = pipe.tokenizer(SHORT).input_ids
    assert states.shape == (1, len(ids), 32) and ids[-1] == pipe.tokenizer.eos_token_id


# ------------------------------------------------------------------------------ bits


def test_bits_follow_their_odds():
    logits = torch.zeros(1, 20_000, 1, 2)
    logits[..., 1] = 1.0  # p(1) = e / (1 + e) = .7311
    assert draw_bits(logits, [0], 0).float().mean().item() == pytest.approx(0.7311, abs=0.01)
    logits[..., 1] = 3.4  # p = .9677 < .97: still drawn
    assert draw_bits(logits, [0], 0, top_p=0.97).float().mean() < 1
    logits[..., 1] = 3.5  # p = .9707: the rarer class is dropped
    assert draw_bits(logits, [0], 0, top_p=0.97).all()
    assert not draw_bits(-logits[..., [0, 1]], [0], 0, top_p=0.97).any()
    assert draw_bits(logits, [0], 0, top_p=1.0).float().mean() < 1
    logits[..., 1] = 0.1
    assert draw_bits(logits, [0], 0, top_k=1).all()
    few = draw_bits(logits, [0], 0)
    assert torch.equal(draw_bits(logits, [0], 0, top_k=900), few)  # inert on two classes


def test_bits_hang_on_seed_and_scale():
    logits = torch.zeros(2, 50, 4, 2)
    a, b = draw_bits(logits, [1, 2], 0), draw_bits(logits, [1, 2], 1)
    assert not torch.equal(a[0], a[1]) and not torch.equal(a, b)
    assert torch.equal(draw_bits(logits[:1], [2], 0)[0], a[1])


def test_guidance_and_temperature_may_be_lists(pipe):
    """Only the scale that differs draws otherwise; one value for all is the list of it."""
    same = with_defaults(pipe, guidance=(3.0,) * 4, temperature=(1.0,) * 4)
    base = through(pipe, start(pipe), 3)
    assert torch.equal(through(same, start(same), 3).f_hat, base.f_hat)
    for change in ({"guidance": (3.0, 3.0, 9.0, 3.0)}, {"temperature": (1.0, 1.0, 0.05, 1.0)}):
        other = with_defaults(pipe, **change)
        state = through(other, start(other), 2)
        assert torch.equal(state.f_hat, through(pipe, start(pipe), 2).f_hat)
        assert not torch.equal(other.advance(state).f_hat, base.f_hat)


def test_a_scale_without_guidance_ignores_the_unconditional_half(pipe):
    other = with_defaults(pipe, guidance=(1.0, 3.0, 3.0, 3.0))
    first = other.advance(start(other))
    assert torch.equal(first.f_hat, pipe.advance(start(pipe, guidance=1.0)).f_hat)
    assert len(first.cache[0][0]) == 2  # which the later scales need all the same
    assert len(pipe.advance(start(pipe, guidance=1.0)).cache[0][0]) == 1


def test_guidance_zero_draws_without_the_prompt(pipe):
    """Two prompts of one length: the unconditional text is the same for both."""
    texts = ("x y", "y x")
    a, b = (through(pipe, start(pipe, [text], guidance=0.0)).f_hat
            for text in texts)
    other = (through(pipe, start(pipe, [text], guidance=1.0)).f_hat
             for text in texts)
    assert len({len(pipe.tokenizer(text).input_ids) for text in texts}) == 1
    assert torch.equal(a, b) and not torch.equal(*other)


def test_guidance_inside_a_block_is_another_guidance(pipe):
    inside = with_defaults(pipe, guidance_layer=-2)
    a, b = (through(p, start(p)).f_hat for p in (pipe, inside))
    assert not torch.equal(a, b)
    one = (through(p, start(p, guidance=1.0)).f_hat for p in (pipe, inside))
    assert torch.equal(*one)


# ------------------------------------------------------------------------------ the protocol


def test_select_re_indexes_everything(pipe):
    drawing.selected_as_drawn(pipe, [SHORT, LONG, "a bench"], 2)


def test_twins_part_when_given_other_seeds(pipe):
    drawing.twins_part(pipe, 2)


def test_states_are_values(pipe):
    drawing.states_are_values(pipe, 1)


def test_previews_are_the_partial_sum_through_the_same_decoder(pipe):
    drawing.previews_are_partial_sums(pipe, 4, 48)


def test_cost_is_what_torch_counts(pipe):
    """Every scale, with the text's keys in the cache of the state: torch's own counter, on the
    meta device, of the same call."""
    states = [start(pipe, guidance=1.0)]
    model = copy.deepcopy(pipe.transformer).to("meta")
    cache = model.no_past(1)
    text = Condition(*(part[:1].to("meta") for part in states[0].text))
    for k, (h, w) in enumerate(states[0].schedule.sizes):
        states.append(pipe.advance(states[-1]))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            x = model.embed(k, text, torch.empty(1, h * w, 4, device="meta") if k else None)
            cache = cache.extended(h * w, 57)
            model(x, text, level=torch.empty(h * w, 32, device="meta"), into=cache, padded=False,
                  turn=(torch.empty(h * w, 1, 8, device="meta"),) * 2)
        want = counter.get_total_flops()
        if k == 3:
            want += count_flops(pipe.vae.decoder, torch.empty(1, 4, 6, 6))
        assert states[-1].cost.flops - states[-2].cost.flops == want
    both = pipe.advance(start(pipe, [SHORT, SHORT])).cost
    assert both.flops == 4 * states[1].cost.flops and both.row_steps == 2


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("height, width", [(40, 24), (24, 40), (96, 96)])
def test_other_sizes_than_the_templates_are_refused(pipe, height, width):
    with pytest.raises(ValueError, match=rf"one of .*48 x 48.*given {height} x {width}; nearest"):
        start(pipe, height=height, width=width)


def test_a_high_picture(pipe):
    image, _ = generate(pipe, requests(SHORT), [0], Sampling(height=40, width=32))
    assert image.shape == (1, 3, 40, 32)
    assert start(pipe, height=40, width=32).schedule.grid == (70, 56)


@pytest.mark.parametrize("settings, message", [
    ({"steps": 3}, "draws in 4 scales, so steps must be 4 or left out, given 3"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"guidance": float("nan")}, "given nan"),
    ({"height": 0}, "given 0 x 48"),
    ({"width": 48.0}, "given 48 x 48.0"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


@pytest.mark.parametrize("changes, message", [
    ({"guidance": (3.0, 3.0)}, "guidance has 2 values for 4 scales"),
    ({"guidance": -1.0}, "guidance must be >= 0 at every scale"),
    ({"temperature": 0.0}, "temperature must be positive"),
    ({"temperature": float("inf")}, "temperature must be finite"),
    ({"guidance_layer": -3}, "guidance_layer must be 0 .logits. or -1 to -2, given -3"),
    ({"guidance_layer": 1}, "given 1"),
    ({"scales": 14}, "scales must be 1 to 13"),
    ({"top_p": 1.5}, "top_p 0 to 1"),
])  # fmt: skip
def test_bad_defaults(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        with_defaults(pipe, **changes)


def test_networks_that_do_not_belong_together(pipe):
    other = {"transformer": tiny_infinity.transformer(bits=8)}
    with pytest.raises(ValueError, match=r"takes 8 bits a token .* the tokenizer makes 4"):
        InfinityGenerator(**pipe.components | other, defaults=pipe.defaults)
    other = {"tokenizer": tiny_mmdit.tokenizer(17)}
    with pytest.raises(ValueError, match="up to 17 tokens need as many rows"):
        InfinityGenerator(**pipe.components | other, defaults=pipe.defaults)
    other = {"transformer": tiny_infinity.transformer(levels=3)}
    with pytest.raises(ValueError, match="knows 3 scales, not 4"):
        InfinityGenerator(**pipe.components | other, defaults=pipe.defaults)


# ------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("defaults", [{}, {"guidance": (1.0, 2.0, 3.0, 4.0), "top_p": 0.9}])
def test_a_saved_model_draws_the_same(tmp_path, defaults):
    pipe = tiny_infinity.generator(**defaults)
    pipe.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert isinstance(again, InfinityGenerator) and again.defaults == pipe.defaults
    assert again.provenance() == pipe.provenance()
    before, after = (p([LONG], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)


def test_other_formats_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "half")
    pipe.save_pretrained(tmp_path / "eighth", "int8")
    for name in ("half", "eighth"):
        image = load_generator(tmp_path / name, torch_dtype="bfloat16")(
            SHORT, seeds=[0], output_type="pt").images  # fmt: skip
        assert image.shape == (1, 3, 48, 48) and torch.isfinite(image).all()


@pytest.mark.parametrize("file, change, message", [
    ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "must be .*InfinityTokenizer"),
    ("config.json", {"tau": 1}, "must have the keys .*temperature"),
    ("transformer/config.json", {"depth": 4}, "missing keys .*blocks.3"),
    ("vae/config.json", {"bits": 5}, "has shape"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(pipe, tmp_path, file, change, message):
    drawing.folder_is_refused(pipe, tmp_path, file, change, message)


def test_parts_from_different_places(pipe, tmp_path):
    """As the published files come: two converted folders, and a T5 with its tokenizer."""
    for name in ("transformer", "vae"):
        save_network(pipe.components[name], tmp_path / name, "float32")
    for part in (pipe.text_encoder, pipe.tokenizer):
        part.save_pretrained(tmp_path / "t5")
    parts = f"transformer={tmp_path}/transformer,vae={tmp_path}/vae,text={tmp_path}/t5"
    text = f"infinity:{parts},scales=4,temperature=1.0,top_p=0.0"
    again = load_generator(text)
    assert again.defaults == pipe.defaults and again.tokenizer.model_max_length == 16
    before, after = (p([LONG], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)
    with pytest.raises(ValueError, match="needs 'text'"):
        load_generator("infinity:transformer=a,vae=b")
    weights = load_file(tmp_path / "t5" / "model.safetensors")
    weights.pop("encoder.final_layer_norm.weight")
    save_file(weights, tmp_path / "t5" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="final_layer_norm"):
        load_generator(text)


def test_tied_weights_are_stored_once(pipe, tmp_path):
    save_weights(tmp_path / "x", pipe.text_encoder.state_dict(), "float32")
    stored = load_state(tmp_path / "x")
    tied = {"shared.weight", "encoder.embed_tokens.weight"}
    assert len(tied & set(stored)) == 1
    other = T5EncoderModel(pipe.text_encoder.config)
    load_weights(other, tmp_path / "x")
    assert all(torch.equal(tensor, pipe.text_encoder.state_dict()[key])
               for key, tensor in other.state_dict().items())


def test_defaults_survive_json():
    for defaults in (Defaults(scales=7), Defaults(scales=2, guidance=(1.0, 2.0))):
        assert Defaults.from_dict(json.loads(json.dumps(defaults.to_dict()))) == defaults
