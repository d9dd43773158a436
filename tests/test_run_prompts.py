"""Prompt files: what is read, and what is refused by line."""

import json

import pytest

from impasto.run.prompts import check_prompts, read_prompts


def write(tmp_path, data, name="prompts.txt"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def test_one_a_line_with_bom_crlf_emoji_and_odd_separators(tmp_path):
    data = b"\xef\xbb\xbfa red apple\r\n" + "zwei 🍎 Äpfel\u2028oben\r\n".encode() + b"a dog"
    expected = ["a red apple", "zwei 🍎 Äpfel\u2028oben", "a dog"]
    assert read_prompts(write(tmp_path, data)) == expected


def test_json_lines(tmp_path):
    lines = [{"prompt": "a cat", "tag": "x"}, {"prompt": "a ümlaut"}]
    data = "\r\n".join(map(json.dumps, lines)).encode()
    assert read_prompts(write(tmp_path, data, "p.jsonl")) == ["a cat", "a ümlaut"]


@pytest.mark.parametrize("name, data, message", [
    ("p.txt", b"a\n\nb\n", "line 2 is empty"),
    ("p.txt", b"a\n  \t\n", "line 2 is empty"),
    ("p.txt", b"a\n\n", "line 2 is empty"),
    ("p.txt", b"", "line 1 is empty"),
    ("p.txt", b"a\nsm\xf6rg\xe5s\n", "not UTF-8 text"),
    ("p.jsonl", b'{"prompt": "a"}\n{"text": "b"}\n', "line 2 is not a JSON object with a key"),
    ("p.jsonl", b"a cat\n", "line 1 is not a JSON object"),
    ("p.jsonl", b'{"prompt": ""}\n', "line 1: the prompt is empty"),
    ("p.jsonl", b'{"prompt": 3}\n', "line 1: the prompt is empty or not a text"),
])  # fmt: skip
def test_bad_lines_are_named(tmp_path, name, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(write(tmp_path, data, name))
    assert name in str(caught.value)


def test_duplicates_are_named_in_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="'a cat'"):
        assert len(read_prompts(write(tmp_path, b"a cat\na dog\na cat\n"))) == 3


@pytest.mark.parametrize("prompts", [[], [""], ["a", " \n"]])
def test_nothing_to_draw(prompts):
    with pytest.raises(ValueError, match="prompt"):
        check_prompts(prompts, "the command line")
