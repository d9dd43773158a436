"""Options in names, and names with options in them."""

import pytest

from impasto.zoo.registry import parse_options


def options(text):
    return parse_options(text, where="search 'best-of-n'")


def test_values_are_yaml_scalars():
    assert options("") == {}
    assert options("n=4,reward=clip,deep=true,,x=") == {"n": 4, "reward": "clip", "deep": True,
                                                        "x": None}  # fmt: skip
    assert options("base_url=http://a:1/v1?b=c") == {"base_url": "http://a:1/v1?b=c"}


def test_a_name_with_options_of_its_own_stands_in_parentheses():
    text = "n=2,reward=(a:weights=/x/y (1).pth,clip=(b:c=d,e=f)),k=3"
    assert options(text) == {"n": 2, "reward": "a:weights=/x/y (1).pth,clip=(b:c=d,e=f)", "k": 3}
    assert options("path=/x/y (1).pth") == {"path": "/x/y (1).pth"}
    assert options(options("reward=(a:b=(c:d=1,e=2))")["reward"].removeprefix("a:")) == {
        "b": "c:d=1,e=2"}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), [
    ("n", "'n' is not key=value"), ("=4", "'=4' is not key=value"),
    ("x,n=4", "'x' is not key=value"), ("n=1,n=2", "key 'n' is given twice"),
    ("a=(b", "parenthesis of '\\(b' is not closed"), ("a=(b)c", "'c' follows a closing"),
])  # fmt: skip
def test_what_is_no_option_is_named(text, words):
    with pytest.raises(ValueError, match=f"search 'best-of-n': .*{words}"):
        options(text)
