"""results.jsonl: the official bytes, both ways."""

import dataclasses
import json
import math

import pytest

from impasto.bench import (
    Bench,
    IncompleteError,
    Record,
    geneval_specs,
    outcomes,
    read_results,
    write_results,
)
from impasto.score.base import Score
from impasto.spec import Item, Spec

ODD = 'a "photo" of </script> \\ café 🎨 \x01\ttab\nline \u2028 a/b'
KEYS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]


def some_records():
    specs = [*geneval_specs()[::61], Spec(tag="odd", include=(Item(cls="dog"),), prompt=ODD)]
    details = {"dog": [[0.1, 2.0, 1 / 3, 4e-7, 0.95], [1.0, 2.0, 3.0, 4.0, 0.5]], "cup": []}
    scores = [
        Score(value=1.0, correct=True, details=details),
        Score(value=0.0, correct=False, reason="expected dog>=1, found 0\nno target for …"),
    ]
    return [Record.of(f"00000/samples/{i:05d}.png", spec, scores[i % 2])
            for i, spec in enumerate(specs)]  # fmt: skip


def test_the_bytes_are_pandas_own(tmp_path):
    pandas = pytest.importorskip("pandas")
    write_results(tmp_path / "ours.jsonl", some_records())
    frame = pandas.DataFrame([{key: getattr(r, key) for key in KEYS} for r in some_records()])
    with open(tmp_path / "theirs.jsonl", "w") as file:
        frame.to_json(file, orient="records", lines=True)
    assert (tmp_path / "ours.jsonl").read_bytes() == (tmp_path / "theirs.jsonl").read_bytes()
    assert read_results(tmp_path / "theirs.jsonl") == some_records()


def test_pandas_reads_ours(tmp_path):
    pandas = pytest.importorskip("pandas")
    write_results(tmp_path / "r.jsonl", some_records())
    frame = pandas.read_json(tmp_path / "r.jsonl", orient="records", lines=True)
    assert list(frame.columns) == KEYS
    assert frame["correct"].dtype == bool
    assert [Record(**row) for row in frame.to_dict("records")] == some_records()


def test_one_line_in_full():
    spec = Spec(tag="single_object", include=(Item(cls="dog"),), prompt="a photo of a dog")
    score = Score(value=1.0, correct=True, details={"dog": [[1.0, 2.0, 3.0, 4.5, 0.5]]})
    assert Record.of("a/0.png", spec, score).to_line() == (
        r'{"filename":"a\/0.png","tag":"single_object","prompt":"a photo of a dog","correct":true,'
        r'"reason":"","metadata":"{\"tag\": \"single_object\", \"include\": [{\"class\": \"dog\", '
        r'\"count\": 1}], \"prompt\": \"a photo of a dog\"}",'
        r'"details":"{\"dog\": [[1.0, 2.0, 3.0, 4.5, 0.5]]}"}'
    )


def test_what_a_record_holds():
    record = some_records()[0]
    assert record.spec == geneval_specs()[0]
    assert record.objects["dog"][1] == [1.0, 2.0, 3.0, 4.0, 0.5]
    assert dataclasses.replace(record, filename="x/0003.png").sample == 3
    with pytest.raises(ValueError, match="does not begin with the sample's number"):
        _ = dataclasses.replace(record, filename="3/x.png").sample
    assert outcomes([record])[0] == ("single_object", record.metadata, 0, 1.0)


def test_a_number_its_parts_and_an_answer_follow_the_seven_keys(tmp_path):
    """{value} only without a verdict, {scores} and {answer} only where there are any."""
    spec = geneval_specs()[0]
    number = Record.of("0.png", spec, Score(value=7.5, scores={"sc.1": 9.0}))
    unread = Record.of("1.png", spec, Score(value=math.nan))
    said = Record.of("2.png", spec, Score(value=1.0, correct=True), answer="a/b")
    write_results(tmp_path / "r.jsonl", [number, unread, said])
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [list(json.loads(line))[7:] for line in lines] == [["value", "scores"], ["value"],
                                                              ["answer"]]
    assert lines[0].endswith(',"value":7.5,"scores":{"sc.1":9.0}}') and r"a\/b" in lines[2]
    assert '"correct":null' in lines[0] and '"value":null' in lines[1]
    assert read_results(tmp_path / "r.jsonl") == [number, unread, said]
    assert [r.number for r in (number, unread, said)] == [7.5, None, 1.0]
    assert [o.value for o in outcomes([number, unread, said])] == [7.5, 1.0]


def test_unreadable_results_are_counted_and_a_verdicts_bench_takes_no_numbers():
    bench = Bench(name="b", specs=geneval_specs()[:3], samples_per_prompt=1, verdicts=False,
                  rule=lambda records: {"values": [o.value for o in outcomes(records)]})
    values = [Score(value=4.0), Score(value=math.nan), Score(value=8.0)]
    records = [Record.of(f"{i}/0.png", spec, score)
               for i, (spec, score) in enumerate(zip(bench.specs, values, strict=True))]
    with pytest.raises(IncompleteError, match=r"2/3 readable judgements; missing: 1/0\.png"):
        bench.summarise(records)
    found = bench.summarise(records, allow_incomplete=True)
    assert found["values"] == [4, 8]
    assert found["coverage"] == {"images": 2, "of": 3, "unreadable": 1}
    with pytest.raises(ValueError, match="nothing to sum up"):
        bench.summarise(records[1:2], allow_incomplete=True)
    with pytest.raises(ValueError, match="no verdict"):
        dataclasses.replace(bench, verdicts=True).summarise(records, allow_incomplete=True)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda line: line[:-9], "not JSON"),
        (lambda line: line.replace('"reason"', '"why"'), "'reason' is None"),
        (lambda line: line.replace('"correct":true', '"correct":1'), "'correct' is 1"),
        (lambda line: "[1]", "'filename' is None"),
        (lambda line: line.replace('"correct":true', '"correct":null'), "'correct' is None"),
        (lambda line: line[:-1] + ',"scores":{"a":"b"}}', "'scores' is"),
        (lambda line: line[:-1] + ',"answer":1}', "'answer' is 1"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, damage, words):
    lines = [record.to_line() for record in some_records()]
    lines[2] = damage(lines[2])
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"r\.jsonl:3.*{words}"):
        read_results(tmp_path / "r.jsonl")


def test_further_keys_and_empty_lines_are_left_out(tmp_path):
    line = some_records()[0].to_line()
    (tmp_path / "r.jsonl").write_text(line[:-1] + ',"seed":3}\n\n')
    assert read_results(tmp_path / "r.jsonl") == some_records()[:1]
