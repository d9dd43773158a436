"""VAR as a generator: classes, the protocol's rules, guidance, folder, and what it refuses."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from impasto.models import load_generator
from impasto.models.classes import named_classes, read_class
from impasto.models.storage import save_network
from impasto.models.var import Defaults, VARGenerator
from impasto.models.var.costs import scale_flops
from impasto.models.var.model import Condition
from impasto.models.var.sampler import draw_tokens, ramp
from impasto.sample.protocol import Sampling
from impasto.spec import CLASSES
from tests import drawing, tiny_var
from tests.drawing import start, through

DOG, CAT, BENCH = "a photo of a dog", "cat", "a photo of a bench"


@pytest.fixture(scope="module")
def pipe():
    return tiny_var.generator()


def with_defaults(pipe, **changes):
    return VARGenerator(**pipe.components, defaults=replace(pipe.defaults, **changes))


# ------------------------------------------------------------------------------ classes


@pytest.mark.parametrize(("text", "name"), [
    ("dog", "dog"), ("a photo of a dog", "dog"), ("A  Photo of a DOG.", "dog"), ("16", "dog"),
    (" 0 ", "person"), ("a photo of four dogs", "dog"), ("two benchs", "bench"),
    ("a photo of a hot dog", "hot dog"), ("a photo of a tv remote", "tv remote"),
    ("a teddy bear", "teddy bear"), ("a dog beside a dog", "dog"), ("skis", "skis"),
    ("a photo of a blue tennis racket", "tennis racket"),
])  # fmt: skip
def test_a_text_is_read_as_the_class_that_it_names(text, name):
    assert CLASSES[read_class(text, CLASSES, 80)] == name


@pytest.mark.parametrize(("text", "message"), [
    ("a photo of a dgo", r"names none: did you mean 'dog'"),
    ("a photo of a unicorn", "names none"), ("hotdog", r"did you mean 'hot dog'"),
    ("a scar", "names none"), ("catdog", "names none"), ("two", "names none"),
    ("a dog and a cat", r"names several: 15 \(cat\), 16 \(dog\); give one name or index"),
    ("an orange kite", r"several: 33 \(kite\), 49 \(orange\)"),
    ("80", "classes 0 to 79, given 80"), ("-1", "given -1"),
])  # fmt: skip
def test_texts_of_no_class_or_several_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_class(text, CLASSES, 80)


def test_every_class_is_read_by_its_own_prompt():
    assert [read_class(f"a photo of a {name}", CLASSES, 80) for name in CLASSES] == [*range(80)]


def test_a_class_may_have_several_names_and_a_name_several_classes():
    names = ("tench, Tinca tinca", "crane", "crane, sarus")
    assert named_classes("a tinca tinca", names) == named_classes("TENCH", names) == {0}
    assert read_class("sarus", names, 3) == 2
    with pytest.raises(ValueError, match=r"several: 1 \(crane\), 2 \(crane, sarus\)"):
        read_class("crane", names, 3)
    assert read_class("2", (), 3) == 2
    with pytest.raises(ValueError, match="knows indices 0 to 2 only"):
        read_class("crane", (), 3)


# ------------------------------------------------------------------------------ drawing


def test_steps_are_scales_and_sums_are_codes(pipe):
    state = start(pipe, [DOG, CAT])
    assert state.steps == 3 and not state.f_hat.any() and state.f_hat.shape == (2, 8, 4, 4)
    first = pipe.advance(state)
    every = torch.stack([pipe.vae.quantize.summand(torch.tensor([[i]]), 0, tiny_var.SIZES)[0]
                         for i in range(32)])  # fmt: skip
    assert all((first.f_hat[row] == every).flatten(1).all(1).any() for row in range(2))
    assert first.cache[0][0].shape == (4, 2, 1, 16) and through(pipe, first).cache is None


def test_cached_drawing_equals_drawing_from_scratch(pipe):
    """Tokens of every scale, from a network that sees everything anew under the training mask,
    for two classes together, guided by the ramp."""
    state = start(pipe, [DOG, CAT], [3, 4], guidance=5.0)
    assert state.guidance == (1, 3, 5)
    labels = torch.tensor([16, 80, 15, 80])
    codes, f_hat = [], torch.zeros_like(state.f_hat)
    for k, (h, w) in enumerate(tiny_var.SIZES):
        with torch.no_grad():
            condition = pipe.transformer.condition(labels)
            logits = pipe.transformer.teacher_forced(condition, codes)[:, -h * w :]
            t = 4 * k / 2  # cfg 4, as the published code has it
            guided = (1 + t) * logits[0::2] - t * logits[1::2]
            f_hat = pipe.vae.add_codes(f_hat, draw_tokens(guided, [3, 4], k), k, tiny_var.SIZES)
        state = pipe.advance(state)
        torch.testing.assert_close(state.f_hat, f_hat)
        if k + 1 < state.steps:
            told = pipe.vae.next_input(f_hat, tiny_var.SIZES[k + 1])
            codes.append(told.repeat_interleave(2, dim=0))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_row_does_not_depend_on_its_batch(guidance):
    pipe, settings = tiny_var.generator(top_k=20, top_p=0.9), Sampling(guidance=guidance)
    _, cost = drawing.drawn_in_any_batch(pipe, [DOG, CAT, DOG, BENCH], settings)
    assert cost.row_steps == 12


def test_all_rows_at_once_draw_the_same_tokens(pipe, monkeypatch):
    """As on a GPU: one batch. The same tokens, since no sum lies near its number."""
    alone = through(pipe, start(pipe, [DOG, CAT, BENCH]))
    calls = []
    forward = pipe.transformer.forward
    monkeypatch.setattr(VARGenerator, "rows_at_once", None)
    monkeypatch.setattr(pipe.transformer, "forward",
                        lambda x, *a, **k: calls.append(len(x)) or forward(x, *a, **k))
    together = through(pipe, start(pipe, [DOG, CAT, BENCH]))
    assert calls == [6, 6, 6]  # one call a scale, both halves in it
    torch.testing.assert_close(together.f_hat, alone.f_hat)


def test_a_class_is_done_once(pipe, monkeypatch):
    asked, condition = [], pipe.transformer.condition
    monkeypatch.setattr(pipe.transformer, "condition",
                        lambda labels: asked.append(labels.tolist()) or condition(labels))
    state = start(pipe, [DOG, CAT, "16", "dog"])
    through(pipe, state)
    assert asked == [[16], [15], [80]] and state.prompt_of == (0, 1, 0, 0)


# ------------------------------------------------------------------------------ tokens


def frequencies(logits, **settings):
    drawn = draw_tokens(logits.expand(1, 20_000, -1), [0], 0, **settings)
    return torch.bincount(drawn[0], minlength=logits.shape[-1]) / 20_000


def test_tokens_follow_their_probabilities():
    p = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
    close = lambda got, want: torch.testing.assert_close(  # noqa: E731
        got, torch.tensor(want, dtype=torch.float32), atol=0.01, rtol=0)
    close(frequencies(p.log()), p.tolist())
    # The two likeliest, renormalised; a k of all tokens or more leaves them all.
    close(frequencies(p.log(), top_k=2), [0, 4 / 7, 0, 3 / 7, 0])
    close(frequencies(p.log(), top_k=900), p.tolist())
    # Of .05 .1 .15 .3 .4 the first two add up to .15 <= 1 - .84, three to .3.
    close(frequencies(p.log(), top_p=0.84), [0, 40 / 85, 0, 30 / 85, 15 / 85])
    close(frequencies(p.log(), top_p=0.2), [0, 1, 0, 0, 0])  # the likeliest is never dropped
    close(frequencies(p.log(), top_p=1.0), p.tolist())
    # Top-k first: of 4/7 and 3/7 the lesser is at most 1 - .55; without top-k .3 and .15 are not.
    close(frequencies(p.log(), top_k=2, top_p=0.55), [0, 1, 0, 0, 0])
    close(frequencies(p.log(), top_p=0.55), [0, 4 / 7, 0, 3 / 7, 0])


def test_tokens_hang_on_seed_and_scale():
    logits = torch.zeros(2, 50, 32)
    a, b = draw_tokens(logits, [1, 2], 0), draw_tokens(logits, [1, 2], 1)
    assert not torch.equal(a[0], a[1]) and not torch.equal(a, b)
    assert torch.equal(draw_tokens(logits[:1], [2], 0)[0], a[1])


def test_no_number_draws_a_token_that_is_left_out(monkeypatch):
    """Nearly 1 times a sum rounds to the sum: still the last token with any probability."""
    nearly = torch.full((1, 1), 1 - 2**-53, dtype=torch.float64)
    monkeypatch.setattr("impasto.models.var.sampler.row_uniforms", lambda *a: nearly)
    logits = torch.tensor([[[0.3, 0.2, 0.1, -50.0, -60.0]]])
    assert draw_tokens(logits, [0], 0, top_k=3).item() == 2


# ------------------------------------------------------------------------------ guidance


def test_guidance_is_a_ramp():
    """The published `cfg` of 1.5 is a guidance of 2.5: weight 1 + cfg k / (K - 1)."""
    assert ramp(2.5, 10) == pytest.approx([1 + 1.5 * k / 9 for k in range(10)])
    assert ramp(1.0, 3) == (1, 1, 1) and ramp(0.0, 3) == (0, 0, 0) and ramp(0.5, 2) == (0.5, 0.5)
    assert ramp((2.0, 2.0, 2.0), 3) == (2, 2, 2) and ramp(3.0, 1) == (1,)


def test_guidance_may_be_a_list(pipe):
    """Constant instead of a ramp; equal to it where the list says the same."""
    same = with_defaults(pipe, guidance=(1.0, 1.75, 2.5))
    base = through(pipe, start(pipe)).f_hat
    assert torch.equal(through(same, start(same)).f_hat, base)
    constant = with_defaults(pipe, guidance=(2.5, 2.5, 2.5))
    assert not torch.equal(through(constant, start(constant)).f_hat, base)


def test_one_leaves_the_unconditional_branch_out(pipe):
    first, unguided = (pipe.advance(start(pipe, guidance=g)) for g in (5.0, 1.0))
    assert torch.equal(first.f_hat, unguided.f_hat)  # the ramp begins at 1
    assert len(first.cache[0][0]) == 2 and len(unguided.cache[0][0]) == 1
    guided, plain = through(pipe, first), through(pipe, unguided)
    assert not torch.equal(guided.f_hat, plain.f_hat)
    twin = sum(scale_flops(pipe.transformer, k) for k in range(3))
    assert guided.cost.flops - plain.cost.flops == twin


def test_guidance_zero_draws_without_the_class(pipe):
    a, b = (through(pipe, start(pipe, [text], guidance=0.0)).f_hat for text in (DOG, CAT))
    other = (through(pipe, start(pipe, [text], guidance=1.0)).f_hat for text in (DOG, CAT))
    assert torch.equal(a, b) and not torch.equal(*other)


# ------------------------------------------------------------------------------ the protocol


def test_select_re_indexes_everything(pipe):
    drawing.selected_as_drawn(pipe, [DOG, CAT, BENCH], 1)


def test_twins_part_when_given_other_seeds(pipe):
    drawing.twins_part(pipe, 1)


def test_states_are_values(pipe):
    drawing.states_are_values(pipe, 1)


def test_previews_are_the_partial_sum_through_the_same_decoder(pipe):
    drawing.previews_are_partial_sums(pipe, 3, 32)


def test_cost_is_what_torch_counts(pipe):
    """Every scale: torch's own counter, on the meta device, of the same calls."""
    states, past = [start(pipe, guidance=1.0)], None
    model, vae = (copy.deepcopy(part).to("meta") for part in (pipe.transformer, pipe.vae))
    classes = Condition(*(part[:1].to("meta") for part in states[0].classes))
    f_hat = torch.empty(1, 8, 4, 4, device="meta")
    for k, (h, w) in enumerate(tiny_var.SIZES):
        states.append(pipe.advance(states[-1]))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            told = torch.empty(1, h * w, 8, device="meta") if k else classes.start
            past = past or model.no_past(1)
            into = past.extended(h * w, 21)
            model(model.embed(k, told), classes, into=into)
            past = into
            ids = torch.zeros(1, h * w, dtype=torch.long, device="meta")
            vae.add_codes(f_hat, ids, k, tiny_var.SIZES)
            if k == 2:
                vae.decode(f_hat)
        assert states[-1].cost.flops - states[-2].cost.flops == counter.get_total_flops()
    one, two = (pipe.advance(start(pipe, [DOG] * n, guidance=3.0)).cost for n in (1, 2))
    assert two.flops == 2 * one.flops and two.row_steps == 2


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("settings, message", [
    ({"steps": 4}, "draws in 3 scales, so steps must be 3 or left out, given 4"),
    ({"guidance": -1.0}, "guidance must be a finite number >= 0"),
    ({"guidance": float("nan")}, "given nan"),
    ({"height": 64}, "draws 32 x 32, so height x width must be that or left out, given 64 x 32"),
    ({"width": "32"}, "given 32 x '32'"),
])  # fmt: skip
def test_bad_settings(pipe, settings, message):
    with pytest.raises(ValueError, match=message):
        start(pipe, **settings)


@pytest.mark.parametrize("changes, message", [
    ({"guidance": (3.0, 3.0)}, "guidance has 2 values for 3 scales"),
    ({"guidance": -1.0}, "guidance must be >= 0 at every scale"),
    ({"top_p": 1.5}, "top_p 0 to 1"), ({"top_k": -1}, "top_k must be >= 0"),
    ({"classes": ("dog", "cat")}, "2 names were given for 80 classes"),
])  # fmt: skip
def test_bad_defaults(pipe, changes, message):
    with pytest.raises(ValueError, match=message):
        with_defaults(pipe, **changes)


def test_networks_that_do_not_belong_together(pipe):
    other = {"vae": tiny_var.tokenizer(vocabulary=16)}
    with pytest.raises(ValueError, match=r"takes tokens of .*32.* the tokenizer makes .*16"):
        VARGenerator(**pipe.components | other, defaults=pipe.defaults)


# ------------------------------------------------------------------------------ the folder


@pytest.mark.parametrize("defaults", [{}, {"guidance": (1.0, 2.0, 3.0), "top_p": 0.9}])
def test_a_saved_model_draws_the_same(tmp_path, defaults):
    pipe = tiny_var.generator(**defaults)
    pipe.save_pretrained(tmp_path, "float32")
    again = load_generator(tmp_path)
    assert isinstance(again, VARGenerator) and again.defaults == pipe.defaults
    assert again.provenance() == pipe.provenance()
    before, after = (p([DOG], seeds=[5], output_type="pt").images for p in (pipe, again))
    assert torch.equal(before, after)
    assert not (tmp_path / "tokenizer").exists()


def test_other_formats_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "half")
    pipe.save_pretrained(tmp_path / "eighth", "int8")
    for name in ("half", "eighth"):
        image = load_generator(tmp_path / name, torch_dtype="bfloat16")(
            DOG, seeds=[0], output_type="pt").images  # fmt: skip
        assert image.shape == (1, 3, 32, 32) and torch.isfinite(image).all()


@pytest.mark.parametrize("file, change, message", [
    ("model_index.json", {"vae": ["diffusers", "AutoencoderKL"]}, "must be .*VARTokenizer"),
    ("config.json", {"tau": 1}, "must have the keys .*guidance"),
    ("transformer/config.json", {"depth": 4}, "missing keys .*blocks.3"),
    ("vae/config.json", {"channels": 5}, "has shape"),
])  # fmt: skip
def test_folders_that_do_not_fit_are_refused_by_name(pipe, tmp_path, file, change, message):
    drawing.folder_is_refused(pipe, tmp_path, file, change, message)


def test_parts_from_different_places(pipe, tmp_path):
    """As the published files come: two converted folders, and perhaps a list of names."""
    for name in ("transformer", "vae"):
        save_network(pipe.components[name], tmp_path / name, "float32")
    names = tmp_path / "classes.txt"
    names.write_text("\n".join(CLASSES))
    parts = f"var:transformer={tmp_path}/transformer,vae={tmp_path}/vae,top_k=0,top_p=0"
    again = load_generator(f"{parts},classes={names}")
    assert again.defaults == pipe.defaults
    nameless = load_generator(f"{parts},guidance=2.5")
    want = pipe([DOG], seeds=[5], output_type="pt").images
    assert torch.equal(again([DOG], seeds=[5], output_type="pt").images, want)
    assert torch.equal(nameless(["16"], seeds=[5], output_type="pt").images, want)
    with pytest.raises(ValueError, match="needs 'vae'"):
        load_generator("var:transformer=a")
    names.write_text("dog\n\ncat\n")
    with pytest.raises(ValueError, match=r"classes.txt: line 2 is empty"):
        load_generator(f"{parts},classes={names}")
    with pytest.raises(FileNotFoundError, match="one name a line"):
        load_generator(f"{parts},classes=no.txt")


def test_defaults_survive_json():
    for defaults in (Defaults(), Defaults(classes=("a",), guidance=(1.0, 2.0))):
        assert Defaults.from_dict(json.loads(json.dumps(defaults.to_dict()))) == defaults


# ------------------------------------------------------------------------------ speed


def test_what_is_compiled_draws_the_same(monkeypatch):
    """Two stretches a block, around the attention, and the decoder; through dynamo in
    test_infinity_speed.py, as the way is the same."""
    pipe, compiled = tiny_var.generator(), []

    def stand_in(function, **options):
        compiled.append((function.__name__, options))
        return function

    plain = through(pipe, start(pipe, [DOG], [1]))
    monkeypatch.setattr(torch, "compile", stand_in)
    assert pipe.compile(mode="reduce-overhead") is pipe
    assert [name for name, _ in compiled] == ["opening", "closing"] * 3 + ["decode"]
    blocks = {"dynamic": True, "fullgraph": True, "mode": "reduce-overhead"}
    assert compiled[0][1] == blocks and compiled[-1][1] == {"mode": "reduce-overhead"}
    same = through(pipe, start(pipe, [DOG], [1]))
    assert torch.equal(pipe.finish(plain), pipe.finish(same))


def test_graphs_are_refused_off_a_gpu(pipe):
    with pytest.raises(ValueError, match="need the model on a GPU; it is on cpu"):
        pipe.use_graphs()


# ------------------------------------------------------------------------------ searches


def test_tts_var_searches_among_drawings_by_class(pipe):
    """Rows are chosen after scales and go on by other seeds, as in any family of scales; a draw
    does not depend on those beside it."""
    found = drawing.searched_among_others(pipe)
    for one in found:
        assert one.cost.tokens == 4 * 1 + 4 * 4 + 2 * 16
        assert len(one.candidates) == 2 and one.cost.decodes == 4 + 2
    best = max(range(2), key=lambda i: found[0].candidates[i].value)
    assert found[0].chosen == best and not torch.equal(found[0].image, found[1].image)
