"""GEdit's and ImgEdit's rules against hand-computed cases."""

import pytest

from impasto.bench import IncompleteError
from impasto.bench.edits import (
    GEditAnswer,
    gedit_summary,
    imgedit_score,
    imgedit_summary,
    vie_score,
)


def gedit(**changes):
    answers = {
        "a": GEditAnswer("ps_human", (9, 4), (9, 9)),
        "b": GEditAnswer("ps_human", (8, 8), (2, 5), intersection=False),
        "c": GEditAnswer("text_change", (1,), (4, 4)),
    }
    return answers | changes


def test_gedit_by_hand():
    """O: sqrt(4 * 9) = 6, sqrt(8 * 2) = 4, sqrt(1 * 4) = 2; groups 5 and 2; 3.5, and 4 shared."""
    assert [vie_score((9, 4), (9, 9)), vie_score((8, 8), (2, 5))] == [6, 4]
    found = gedit_summary(gedit())
    assert found["full"]["overall"]["score"] == pytest.approx(3.5)  # not 4, the mean of pictures
    assert {k: v["score"] for k, v in found["full"]["groups"].items()} == {"ps_human": 5,
                                                                           "text_change": 2}
    assert found["full"]["sc"]["score"] == pytest.approx((6 + 1) / 2)
    assert found["full"]["pq"]["score"] == pytest.approx((5.5 + 4) / 2)
    assert found["intersection"]["overall"]["score"] == pytest.approx(4)
    assert found["full"]["groups_of_11"] == 2


def test_gedit_never_guesses():
    broken = gedit(c=GEditAnswer("text_change", None, (4, 4)))
    with pytest.raises(IncompleteError, match="2/3 judged pictures; missing: c"):
        gedit_summary(broken)
    found = gedit_summary(broken, allow_incomplete=True)["full"]
    assert found["coverage"] == {"judged": 2, "unreadable": 1, "of": 3}
    assert found["overall"]["score"] == pytest.approx(5)
    with pytest.raises(ValueError, match="unknown group"):
        gedit_summary({"a": GEditAnswer("zh", (1,), (1,))})


def test_imgedit_by_hand():
    """4.67 and 3 -> add 3.835; style 1; pictures (4.67 + 3 + 1) / 3, types (3.835 + 1) / 2."""
    assert imgedit_score((5, 5, 4)) == 4.67
    types = {"1": "add", "2": "add", "3": "style"}
    found = imgedit_summary({"1": (5, 5, 4), "2": (3, 3, 3), "3": (1,)}, types)
    assert found["over_pictures"]["score"] == pytest.approx(8.67 / 3)
    assert found["over_types"]["score"] == pytest.approx(4.835 / 2)
    assert found["types"]["add"]["score"] == pytest.approx(3.835)
    for bad in (None, (), (0, 3, 3), (9,)):
        with pytest.raises(IncompleteError):
            imgedit_summary({"1": (5, 5, 4), "2": bad, "3": (1,)}, types)
    part = imgedit_summary({"1": (5, 5, 4), "2": None}, types, allow_incomplete=True)
    assert part["coverage"] == {"judged": 1, "unreadable": 1, "of": 3}
    with pytest.raises(ValueError, match="unknown group"):
        imgedit_summary({"1": (5,)}, {"1": "paint"})
