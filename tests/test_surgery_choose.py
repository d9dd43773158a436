"""What is chosen: the published scores give the published units; rankings, intervals, presets."""

import functools
import json
import math

import pytest
import torch

from impasto.models.edited.hosts import host_of, parameters
from impasto.models.edited.record import apply
from impasto.surgery.choose import (
    Plan,
    at_random,
    by_score,
    by_similarity,
    collapsed,
    greedy,
    hpp,
    units,
)
from impasto.surgery.contribution import Contributions, read_contributions
from impasto.surgery.presets import (
    PRESETS,
    parse_blocks,
    parse_components,
    removal,
)
from impasto.surgery.redundancy import intervals, probe_cka, similarities, tokens
from tests.test_edited_hosts import full
from tests.tiny_hosts import inputs, tiny

NAMES = ("w_norm1", "w_norm1_context", "attn", "ff", "ff_context")
TABLE = """
7.077 14.951 7.263 8.537 28.782 ; 6.326 10.508 28.895 20.171 29.098
6.542 22.980 30.040 23.212 30.128 ; 12.403 27.543 30.023 29.731 29.791
9.203 29.139 26.502 28.782 29.941 ; 10.741 30.218 29.980 28.811 30.090
10.357 28.812 30.034 27.277 29.880 ; 10.792 29.987 30.051 21.586 30.019
8.459 30.182 29.696 30.162 30.055 ; 8.999 29.309 10.727 30.067 30.125
6.359 29.223 30.069 30.073 30.195 ; 9.278 30.194 16.444 30.516 30.060
8.846 28.838 28.739 30.561 30.013 ; 8.970 27.040 29.269 30.659 30.089
6.911 30.014 29.116 30.050 30.022 ; 7.474 29.718 29.043 30.141 29.833
7.903 29.676 27.865 30.049 30.230 ; 8.077 29.322 19.367 30.155 29.406
6.973 28.901 28.021 29.831 29.428 ; 8.147 28.625 14.590 29.733 28.160
7.337 27.687 25.491 30.080 26.413 ; 8.825 27.785 19.099 29.588 25.613
11.454 28.111 24.506 28.729 27.721 ; 17.017 28.162 16.334 20.120 28.528
18.991 29.692 15.050 20.100 29.762 ; 24.128 29.265 24.156 25.039 29.527
26.337 29.296 23.386 27.116 29.572 ; 25.712 29.394 23.028 29.145 29.351
26.061 29.372 27.976 27.782 29.852 ; 22.909 29.989 27.513 27.923 29.444
20.911 30.546 20.756 28.876 30.024 ; 28.730 29.630 24.973 30.792 29.832
28.861 30.042 26.850 30.592 30.114 ; 26.516 29.612 26.340 29.581 30.089
27.827 29.624 27.838 29.776 30.095 ; 7.097 27.896 8.345 29.947 30.095
28.138 29.453 27.260 30.004 30.049 ; 27.537 28.774 30.057 27.172 30.029
"""
"""P of SD3.5-Large-Turbo's components, HPSv2 x 100, two blocks a line, as HierarchicalPrune has
released them; the whole model's is 30.29 (table of the paper)."""


@functools.cache
def published():
    rows = [row.split() for line in TABLE.strip().splitlines() for row in line.split(";")]
    return Contributions({(i, name): float(value) for i, row in enumerate(rows)
                          for name, value in zip(NAMES, row, strict=True)}, 30.29)  # fmt: skip


def large():
    return full("sd3.5-large")


EIGHT = (25, 26, 27, 28, 31, 32, 33, 34)


def sets(removed):
    return {i: set(names) for i, names in removed.items()}


# ---------------------------------------------------------------- the published choices


def test_the_published_twenty_per_cent():
    plan = Plan.of(large(), PRESETS["sd3.5-large-turbo-20"].removed)
    assert plan.removed == dict.fromkeys(EIGHT, ("all",))
    assert (plan.after, round(100 * plan.share, 2)) == (6_352_630_080, 78.85)


def test_the_published_thirty_per_cent_is_what_its_scores_give():
    whole = PRESETS["sd3.5-large-turbo-20"].removed
    plan = greedy(large(), by_score(published()), 0.71, first=whole,
                  eligible=parse_blocks("13-19"), exclude=["attn"])  # fmt: skip
    assert (plan.after, round(100 * plan.share, 2)) == (5_678_173_248, 70.48)
    few, more = {"ff", "ff_context"}, {"ff", "ff_context", "w_norm1_context"}
    parts = {13: few, 14: more, 15: more, 16: more, 17: few, 18: few}
    assert sets(plan.removed) == parts | {i: {"all"} for i in EIGHT}
    assert sets(PRESETS["sd3.5-large-turbo-30"].removed) == sets(plan.removed)


def test_the_other_list_is_what_its_scores_give():
    plan = greedy(large(), by_score(published()), 0.71, first=dict.fromkeys(EIGHT, ("all",)),
                  eligible=(16, 17, 18, 30, 36), exclude=["attn", "w_norm1"])  # fmt: skip
    assert sets(plan.removed) == sets(PRESETS["sd3.5-large-turbo-30-spread"].removed)
    assert round(100 * plan.share, 2) == 70.77


def test_hpp_as_printed_and_as_meant():
    """The first ten of the printed form are those that the sheet computed from the same table."""
    def first(position, n=10):
        return [f"{i}:{name}" for i, name in hpp(published(), 38, position)[:n]]

    assert first("printed") == [
        "5:w_norm1_context", "16:ff_context", "10:ff_context", "11:w_norm1_context",
        "8:w_norm1_context", "8:ff", "2:ff_context", "9:ff_context", "17:ff", "15:ff"]
    assert {f"{i}:ff_context" for i in (32, 33, 34, 35)} | {"37:attn"} <= set(first("late", 12))
    late, printed = (sum(i for i, _ in hpp(published(), 38, p)[:40]) for p in ("late", "printed"))
    assert late > printed
    assert hpp(published(), 38) == hpp(published(), 38, "late")


def test_hpp_is_its_equation():
    scores = Contributions({(0, "ff"): 9.0, (3, "ff"): 8.0, (2, "attn"): 11.5}, 10.0)
    cost = {(0, "ff"): 1 * math.exp(4 / 4), (3, "ff"): 2 * math.exp(1 / 4),
            (2, "attn"): 1.5 * math.exp(2 / 4)}  # fmt: skip
    assert hpp(scores, 4) == sorted(cost, key=cost.get)
    assert hpp(scores, 4, "printed")[0] == (0, "ff")
    with pytest.raises(ValueError, match="late, printed, given 'early'"):
        hpp(scores, 4, "early")
    with pytest.raises(ValueError, match="scores of block 3, and blocks are 0 to 2"):
        hpp(scores, 3)
    with pytest.raises(ValueError, match="say nothing of the whole network's"):
        hpp(Contributions({(0, "ff"): 1.0}), 4)


def test_the_released_file_of_scores_is_read(tmp_path):
    path = tmp_path / "scores.json"
    published().save(path, released=True)
    assert next(iter(json.loads(path.read_text()))) == "31<tab>ff"
    assert by_score(read_contributions(path)) == by_score(published())


def test_presets_belong_to_a_depth():
    preset = PRESETS["sd3.5-medium"]
    preset.check(full("sd3.5-medium"), "sd3.5-medium")
    assert [*preset.removed] == [13, 15, 16, 18, 20, 21]
    with pytest.raises(ValueError, match="SD3 with 24 blocks, and this one is of SD3 with 38"):
        preset.check(large(), "sd3.5-medium")
    with pytest.raises(ValueError, match="is of FLUX with 57"):
        preset.check(full("flux-schnell"), "sd3.5-medium")


@pytest.mark.parametrize("name", [*PRESETS])
def test_presets_can_be_applied(name):
    preset = PRESETS[name]
    host = full("sd3.5-medium" if preset.depth == 24 else "sd3.5-large")
    with torch.device("meta"):
        model = type(host.model).from_config(host.model.config)
    apply(model, removal(preset.removed))
    assert parameters(model) == Plan.of(host, preset.removed).after
    assert f"{100 * Plan.of(host, preset.removed).share:.2f} %" in preset.about or (
        name == "sd3.5-medium")  # fmt: skip


# ---------------------------------------------------------------- the walk


def test_a_walk_stops_below_its_budget_and_not_before():
    host, order = host_of(tiny("sd3", layers=6)), units(host_of(tiny("sd3", layers=6)))
    plan = greedy(host, order, 0.7)
    taken = sum(len(host.components(i)) if names == ("all",) else len(names)
                for i, names in plan.removed.items())  # fmt: skip
    before = Plan.of(host, collapsed(host, _grouped(order[: taken - 1])))
    assert plan.share < 0.7 <= before.share
    assert plan.removed[0] == ("all",)  # all five of it were taken


def _grouped(some):
    found = {}
    for i, name in some:
        found[i] = (*found.get(i, ()), name)
    return found


def test_blocks_collapse_only_when_nothing_is_left():
    host = host_of(tiny("sd3"))
    assert collapsed(host, {0: NAMES, 1: NAMES[1:], 3: NAMES[:4]}) == {
        0: ("all",), 1: NAMES[1:], 3: ("all",)}  # the last has no text MLP
    assert collapsed(host, {0: ("ff", "w_norm1")}) == {0: ("w_norm1", "ff")}
    single = {2: ("w_norm", "attn", "proj_mlp_out")}
    assert collapsed(host_of(tiny("flux")), single) == {2: ("all",)}
    pixart = {1: ("attn", "ff")}  # its attention to the text is still there
    assert collapsed(host_of(tiny("pixart")), pixart) == pixart
    assert collapsed(host_of(tiny("dit")), {0: ("w_norm1", "attn", "ff")}) == {0: ("all",)}


def test_what_removes_nothing_is_passed_over():
    host = host_of(tiny("sd3"))
    plan = greedy(host, [(3, "ff_context"), (0, "ff"), (0, "ff"), (0, "all"), (0, "attn")], 0.8)
    assert plan.removed == {0: ("all",)}
    assert (3, "ff_context") not in units(host) and len(units(host)) == 19


@pytest.mark.parametrize("options, message", [
    ({"budget": 1.2}, r"between 0 and 1, given 1.2"), ({"budget": 0}, "given 0"),
    ({"budget": 0.1}, r"leave \d+.\d\d% of the parameters, and the budget is less than 10.00%"),
    ({"budget": 0.5, "first": {9: ("all",)}}, "no block 9"),
    ({"budget": 0.5, "eligible": [4]}, "no block 4"),
    ({"budget": 0.5, "exclude": ["mlp"]}, "no block has a component 'mlp' to exclude; allowed"),
])  # fmt: skip
def test_what_cannot_be_walked_is_refused(options, message):
    host = host_of(tiny("sd3"))
    budget = options.pop("budget")
    with pytest.raises(ValueError, match=message):
        greedy(host, [(0, "ff"), (1, "ff")], budget, **options)


def test_at_random_is_a_shuffle_by_seed():
    every = units(host_of(tiny("flux")), whole=True)
    assert every == [(i, "all") for i in range(5)]
    assert at_random(every, 3) == at_random(reversed(every), 3) != at_random(every, 4)
    assert sorted(at_random(every, 3)) == every


# ---------------------------------------------------------------- written lists


def test_ranges_leave_out_their_end():
    assert parse_blocks("25-29,31-35") == EIGHT
    assert parse_blocks("3") == (3,)
    assert parse_components("13:ff+ff_context, 17-19:attn") == {
        13: ("ff", "ff_context"), 17: ("attn",), 18: ("attn",)}  # fmt: skip
    edit = removal({13: ("ff",), 2: ("all",)})
    assert edit == {"edit": "remove", "removed": {"2": ["all"], "13": ["ff"]}}


@pytest.mark.parametrize("text, message", [
    ("29-25", "holds no block: its end is left out"), ("3-3", "holds no block"), ("", "''"),
    ("a", "'a' in 'a' is no block number"), ("1,,2", "no block number"), ("-3", "no block number"),
    ("1-4,2", "block 2 is named twice"),
])  # fmt: skip
def test_what_is_no_list_of_blocks_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_blocks(text)


@pytest.mark.parametrize("text, message", [
    ("13", "does not name components"), ("13:", "does not name"), ("1:ff+", "does not name"),
    ("1:ff,1:attn", "block 1 is named twice"),
])  # fmt: skip
def test_what_is_no_list_of_components_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_components(text)


# ---------------------------------------------------------------- redundancy


def idle(model, *blocks):
    """Blocks that change their input hardly at all."""
    with torch.no_grad():
        for i in blocks:
            for norm in (model.transformer_blocks[i].norm1, model.transformer_blocks[i].attn):
                for parameter in norm.parameters():
                    parameter.mul_(1e-3)
    return model


def run_of(model, family, calls=4):
    def run():
        for seed in range(calls):
            model(**inputs(family, rows=3, seed=seed))

    return run


@pytest.mark.parametrize("family", ["sd3", "flux", "pixart", "dit", "sana"])
def test_similarities_are_the_cosines_of_what_passes(family):
    model = tiny(family)
    host = host_of(model)
    found = similarities(host, run_of(model, family))
    assert len(found) == host.depth and all(-1 <= value <= 1 for value in found)
    h = tokens(host, run_of(model, family), per_call=10**6)
    for i, value in enumerate(found):
        cosine = torch.cosine_similarity(h[i], h[i + 1], dim=1).mean()
        if host.kind(i) != "single" or i + 1 == host.depth:
            assert value == pytest.approx(cosine.item(), abs=1e-5)


def test_an_idle_block_is_the_most_similar():
    model = idle(tiny("sd3"), 2)
    found = similarities(host_of(model), run_of(model, "sd3"))
    assert by_similarity(found)[0] == (2, "all") and found[2] > 0.999
    assert greedy(host_of(model), by_similarity(found), 0.9).removed == {2: ("all",)}
    with pytest.raises(ValueError, match="block 0 was not called"):
        similarities(host_of(model), lambda: None)
    model.proj_out.bias.data.fill_(1)
    model.transformer_blocks[1].ff.net[2].bias.data.fill_(torch.nan)
    with pytest.raises(ValueError, match="block 1 gives NaN or infinity"):
        similarities(host_of(model), run_of(model, "sd3"))


def test_probes_see_linear_maps_and_nothing_else():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 6, generator=rng)
    linear = x @ torch.randn(6, 6, generator=rng) + 3
    noise = torch.randn(4000, 6, generator=rng)
    cka = probe_cka([x, linear, noise, x.square()])
    assert cka[0, 1] > 0.999 and cka[0, 2] < 0.05 and cka[0, 3] < 0.05
    assert bool(cka.isnan().tril(-1).eq(torch.ones(4, 4).tril(-1)).all())
    with pytest.raises(ValueError, match="at least 4 tokens, given 2"):
        probe_cka([x[:2], x[:2]])


def test_idle_blocks_make_an_interval():
    model = idle(tiny("sd3", layers=6), 2, 3)
    host = host_of(model)
    cka = probe_cka(tokens(host, run_of(model, "sd3"), per_call=48))
    chosen, plan = intervals(host, cka, 0.99)
    assert len(chosen) == 1 and chosen[0].first <= 2 < chosen[0].end
    assert {*plan.removed} <= {2, 3} and plan.share < 0.99
    _, more = intervals(host, cka, 0.5)
    assert more.share < 0.5 and len(more.removed) > len(plan.removed)
    with pytest.raises(ValueError, match=r"one block of each kind in a row \d+"):
        intervals(host, cka, 0.05)
    with pytest.raises(ValueError, match="between 0 and 1, given 1"):
        intervals(host, cka, 1)


def test_intervals_keep_kinds_apart_and_no_longer_than_needed():
    host = host_of(tiny("flux", layers=4, singles=4))
    cka = torch.ones(9, 9).double()  # everything is as good as linear
    chosen, plan = intervals(host, cka, 0.9)
    (interval,) = chosen
    assert interval.end - interval.first == len(plan.removed) + 1
    assert Plan.of(host, dict([*plan.removed.items()][:-1])).share >= 0.9 > plan.share
    chosen, plan = intervals(host, cka, 0.4)
    assert len(chosen) == 2 and all(
        {host.kind(i) for i in range(*interval)} in ({"double"}, {"single"})
        for interval in chosen)  # fmt: skip
