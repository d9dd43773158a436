"""The benchmark's re-statement of the official loops, and what is compiled: the same bits."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from impasto.sample.protocol import Request, Sampling, generate
from tests import tiny_infinity

BENCHMARKS = str(Path(__file__).parent.parent / "benchmarks")
PROMPT = "four purple cats"


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, BENCHMARKS)
    try:
        yield {name: importlib.import_module(name)
               for name in ("official_infinity", "infinity_bits", "infinity_parts", "tts_var")}
    finally:
        sys.path.remove(BENCHMARKS)


@pytest.fixture(scope="module")
def pipe():
    return tiny_infinity.generator(top_p=0.9, top_k=900)


def drawn(pipe, scripts, seeds, **settings):
    compared = scripts["infinity_bits"]
    loop = scripts["official_infinity"].OfficialLoop(pipe, compared.uniforms("cpu"))
    return loop.draw(PROMPT, seeds, keep=True, **settings)


def test_the_official_loop_and_ours_draw_the_same_bits(pipe, scripts):
    """Concatenated caches, text anew at every block, top-p by sorting: and not one bit differs."""
    official = drawn(pipe, scripts, [1, 2])
    told = scripts["infinity_bits"].differing(pipe, PROMPT, [1, 2], official)
    assert told["bits"] == 2 * 57 * 4
    for name in ("alone", "same text", "same past"):
        assert told[name]["differ"] == 0 and told[name]["farthest"] is None
    image, _ = generate(pipe, [Request.of(PROMPT)] * 2, [1, 2])
    assert (official.pictures.permute(0, 3, 1, 2) - 255 * image).abs().max() <= 1  # truncated
    # Other noise is another picture, or the comparison would say nothing.
    other = drawn(pipe, scripts, [3, 4])
    assert any(not torch.equal(a, b) for a, b in zip(official.bits, other.bits, strict=True))


def test_bits_that_differ_are_told_by_their_margin(pipe, scripts):
    """Another text: bits differ until ours is told the loop's. Then one turned round by hand."""
    differing = scripts["infinity_bits"].differing
    official = drawn(pipe, scripts, [1])
    told = differing(pipe, "a red dog", [1], official)
    assert told["alone"]["differ"] > 0 and told["same text"]["differ"] == 0
    official.bits[2] = official.bits[2].clone()
    official.bits[2][0, 3, 1].logical_not_()
    told = differing(pipe, PROMPT, [1], official)["same past"]
    assert told["by_scale"] == [0, 0, 1, 0]
    assert told["farthest"] == float(official.margins[2][0, 3, 1]) > 0


def test_a_number_moved_past_its_margin_turns_its_bit_round(pipe, scripts):
    plain = type(pipe)(**pipe.components, defaults=replace(pipe.defaults, top_p=0.0))
    before, limited = drawn(plain, scripts, [1]), drawn(pipe, scripts, [1])
    margin, towards = before.margins[0].flatten(), 1 - 2 * before.bits[0].flatten().double()
    assert (limited.margins[0] <= before.margins[0]).all()  # top-p's threshold is one more
    assert (limited.margins[0] < before.margins[0]).any()
    own = scripts["infinity_bits"].uniforms("cpu")
    for share, turned in ((0.99, False), (1.01, True)):
        def moved(seeds, scale, n, share=share):
            u = own(seeds, scale, n)
            return u if scale else u + share * margin * towards

        loop = scripts["official_infinity"].OfficialLoop(plain, moved)
        bits = loop.draw(PROMPT, [1], keep=True).bits[0]
        assert ((bits != before.bits[0]) == turned).all()


def test_sorting_is_not_the_same_as_no_top_p(pipe, scripts):
    """Top-p has a say here, so that the threshold was tested against the sorting."""
    without = type(pipe)(**pipe.components, defaults=replace(pipe.defaults, top_p=0.0))
    with_p, all_p = (drawn(p, scripts, [1, 2]) for p in (pipe, without))
    assert any(not torch.equal(a, b) for a, b in zip(with_p.bits, all_p.bits, strict=True))


def test_the_search_keeps_the_same_rows(pipe, scripts):
    """Selections with repetitions and other seeds: caches, sums and text of the survivors."""
    selection = scripts["official_infinity"].Selection
    plan = {0: selection((2, 0, 2), (3, 1, 50)), 2: selection((1, 1), (1, 60))}
    official = drawn(pipe, scripts, [1, 2, 3], selections=plan, every_scale=True)
    compared = scripts["infinity_bits"]
    with compared.recorded(pipe) as bits:
        state = compared.begin(pipe, PROMPT, [1, 2, 3])
        while not state.done:
            state = pipe.advance(state)
            if state.step - 1 in plan:
                at = plan[state.step - 1]
                state = replace(pipe.select(state, at.rows), seeds=at.seeds)
    assert [len(b) for b in bits] == [3, 3, 3, 2]
    assert all(torch.equal(a, b) for a, b in zip(bits, official.bits, strict=True))


def test_rows_of_the_search_are_the_papers(scripts):
    tts = scripts["tts_var"]
    rows = [2 * count for count in tts.ROWS[13]]
    plan = tts.selections(rows, tts.DISTINCT[13])
    assert rows == [16, 16, 16, 12, 12, 12, 8, 4, 4, 4, 2, 2, 2] and sorted(plan) == [2, 5, 6, 9]
    assert sum(rows[k] for k in plan) + rows[-1] == 42  # pictures that are looked at
    for k, (at, seeds) in plan.items():
        assert len(at) == len(seeds) == len(set(seeds)) == rows[k + 1]
        assert k not in (2, 5) or len(set(at)) == len(at)


def test_the_floor_is_the_sheets_arithmetic(scripts):
    """115.3 TFLOP a picture with 50 tokens of text, 148.8 a search of N = 1: of the shapes."""
    parts, tts = scripts["infinity_parts"], scripts["tts_var"]
    big = parts.build("2B", "meta", torch.bfloat16)
    assert parts.floor(big, [1] * 13, 0, 50).tflop == pytest.approx(115.3, abs=0.05)
    assert parts.floor(big, tts.ROWS[13], 0, 50).tflop == pytest.approx(148.8, abs=0.05)
    one = parts.floor(big, [1] * 13, 1, 50)
    assert one.tflop == pytest.approx(115.3 + 9.85, abs=0.05)
    assert one.seconds > one.tflop * 1e12 / parts.FLOPS


def test_compiled_blocks_are_one_and_draw_the_same(monkeypatch):
    """Through dynamo, without the code it would make: no break, and three stretches for all
    blocks and all scales of more than one token. The decoder, which dynamo takes seconds to go
    through, stays as it is."""
    pipe, compiled, compile_ = tiny_infinity.generator(scales=3), [], torch.compile

    def but_the_decoder(function, **options):
        compiled.append(function.__name__)
        return function if function.__name__ == "decode" else compile_(function, **options)

    def finished(state):
        return pipe.finish(pipe.advance(pipe.advance(state)))

    monkeypatch.setattr(torch, "compile", but_the_decoder)
    first = pipe.advance(pipe.start([Request.of(PROMPT)] * 2, [1, 2], Sampling()))
    plain = finished(first)
    with torch.random.fork_rng():
        torch._dynamo.reset()
        counters.clear()
        assert pipe.compile(backend="eager") is pipe
        same = finished(first)
    assert compiled == ["opening", "middle", "closing"] * len(pipe.transformer.blocks) + ["decode"]
    assert torch.equal(plain, same) and counters["stats"]["unique_graphs"] == 3


def test_graphs_are_refused_off_a_gpu():
    with pytest.raises(ValueError, match="need the model on a GPU; it is on cpu"):
        tiny_infinity.generator().use_graphs()


@pytest.mark.parametrize("setting", [Sampling(), Sampling(guidance=1.0)])
def test_not_compiled_unless_asked(pipe, setting):
    counters.clear()
    generate(pipe, [Request.of(PROMPT)], [1], setting)
    assert not counters["stats"]
