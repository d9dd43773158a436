"""GenEval's prompts from their seed, and benches as values."""

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from impasto.bench import IncompleteError, Record, geneval, geneval_specs
from impasto.bench.geneval_prompts import METADATA_SHA256, PROMPTS_SHA256
from impasto.score.base import Score
from impasto.spec import RELATIONS, Spec
from impasto.zoo.registry import BENCHES

DATA = Path(__file__).parents[2] / "shared" / "data" / "geneval-evaluation-metadata.jsonl"
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def test_the_official_hashes():
    bench = BENCHES.create("geneval")
    assert hashlib.sha256(bench.metadata_text.encode()).hexdigest() == METADATA_SHA256
    assert hashlib.sha256(bench.prompts_text.encode()).hexdigest() == PROMPTS_SHA256
    assert (bench.name, len(bench.specs), bench.samples_per_prompt) == ("geneval", 553, 4)


@pytest.mark.skipif(not DATA.is_file(), reason="../shared/data is not there")
def test_the_official_file_line_by_line():
    assert geneval().metadata_text == DATA.read_text()


def test_what_the_prompts_are():
    specs = geneval_specs()
    assert Counter(s.tag for s in specs) == dict(
        zip(TASKS, (80, 99, 80, 94, 100, 100), strict=True)
    )
    assert len({s.prompt for s in specs}) == 553
    counts = Counter(s.include[0].count for s in specs if s.tag == "counting")
    assert counts == {2: 26, 3: 28, 4: 26}
    places = Counter(s.include[1].position[0] for s in specs if s.tag == "position")
    assert [places[r] for r in RELATIONS] == [19, 27, 26, 28]
    assert specs[277].prompt == "a photo of an orange orange"
    assert not any(i.color and i.cls == "person" for s in specs for i in s.include)


@pytest.mark.parametrize(("seed", "number"), [(42, 559), (0, 548), (1, 554)])
def test_other_seeds_are_other_prompts_under_another_name(seed, number):
    bench = BENCHES.create(f"geneval:seed={seed}")
    assert len(bench.specs) == number
    assert bench.name == f"geneval:seed={seed}"
    assert bench.metadata_sha256 != METADATA_SHA256


def test_a_task_alone_has_another_name():
    bench, whole = BENCHES.create("geneval:task=single_object"), BENCHES.create("geneval")
    assert bench.name == "geneval:task=single_object" and bench.tasks == ("single_object",)
    assert bench.specs == tuple(spec for spec in whole.specs if spec.tag == "single_object")
    other = BENCHES.create("geneval:seed=1,task=colors,limit=3")
    assert other.name == "geneval:seed=1,task=colors,limit=3" and len(other.specs) == 3
    with pytest.raises(ValueError, match="task is 'single': did you mean 'single_object'"):
        BENCHES.create("geneval:task=single")


@pytest.mark.parametrize("seed", ["-1", "x", "1.5", "true"])
def test_a_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="whole number >= 0"):
        BENCHES.create(f"geneval:seed={seed}")


def test_metadata_reads_back():
    for spec in geneval_specs():
        assert Spec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("limit", [1, 5, 6, 13, 48, 500, 552])
def test_a_subset_is_even_ordered_nested_and_named(limit):
    bench = geneval()
    part = bench.stratified(limit)
    sizes = Counter(s.tag for s in part.specs)
    full = Counter(s.tag for s in bench.specs)
    roomy = [sizes[t] for t in TASKS if sizes[t] < full[t]]
    assert len(part.specs) == limit
    assert max(roomy) - min(roomy) <= 1
    assert [s for s in bench.specs if s in set(part.specs)] == list(part.specs)
    assert set(part.specs) <= set(bench.stratified(limit + 1).specs)
    assert part.name == f"geneval:limit={limit}"
    assert BENCHES.create(part.name) == part


def test_a_subset_of_all_is_the_bench_and_of_another_seed_keeps_its_name():
    assert geneval().stratified(553) == geneval()
    part = geneval(seed=44).stratified(7)
    assert part.name == "geneval:seed=44,limit=7"
    assert BENCHES.create(part.name) == part


@pytest.mark.parametrize("limit", [0, -1, 554, 2.5])
def test_a_limit_that_cannot_be_is_refused(limit):
    with pytest.raises(ValueError, match="give 1 to 553"):
        geneval().stratified(limit)


def test_export_has_the_official_bytes(tmp_path):
    paths = geneval().export(tmp_path / "new")
    assert [p.name for p in paths] == ["evaluation_metadata.jsonl", "generation_prompts.txt"]
    hashes = [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths]
    assert hashes == [METADATA_SHA256, PROMPTS_SHA256]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [p.name for p in paths]


# Coverage


@pytest.fixture
def part():
    return geneval(limit=6)


def records(bench):
    good = Score(value=1.0, correct=True)
    return [Record.of(f"{i:05d}/samples/{k:05d}.png", spec, good)
            for i, spec in enumerate(bench.specs) for k in range(4)]  # fmt: skip


def test_a_summary_says_which_prompts_and_how_many(part):
    summary = part.summarise(records(part))
    assert summary["bench"] == part.provenance()
    assert summary["bench"]["metadata_sha256"] == part.metadata_sha256
    assert summary["coverage"] == {"images": 24, "of": 24}
    assert summary["overall"]["score"] == 1.0


def test_an_incomplete_set_has_no_summary_unless_asked(part):
    short = records(part)[:-1]
    with pytest.raises(IncompleteError, match="23/24 judged pictures") as error:
        part.summarise(short)
    assert error.value.missing == (part.specs[-1].prompt,)
    assert part.summarise(short, allow_incomplete=True)["coverage"] == {"images": 23, "of": 24}


def test_records_of_another_set_are_refused(part):
    other = geneval(seed=44, limit=6)
    with pytest.raises(ValueError, match="is not in geneval:limit=6"):
        part.summarise(records(part)[:-1] + records(other)[-1:])
    with pytest.raises(ValueError, match="the same sample"):
        part.summarise(records(part)[:-1] + records(part)[:1])
    extra = Record.of("00000/samples/00004.png", part.specs[0], Score(value=1.0, correct=True))
    with pytest.raises(ValueError, match="samples 0 to 3 only"):
        part.summarise([*records(part), extra])
