"""Progress goes to stderr, in lines where there is no terminal, and not at all when quiet."""

import pytest

from impasto.cli import progress as module


def test_lines_are_sparse(capsys, monkeypatch):
    clock = iter(range(0, 1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with module.progress(prefix="base: ") as report:
        for done in range(0, 41):
            report("drawing", done, 40)
        report("judging", 0, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["base: drawing: 0/40", "base: drawing: 10/40",
                                "base: drawing: 20/40", "base: drawing: 30/40",
                                "base: drawing: 40/40", "base: judging: 0/2"]  # fmt: skip


def test_quiet_is_silent(capsys):
    with module.progress(quiet=True) as report:
        report("drawing", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_bars(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with module.progress() as report:
        report("drawing", 1, 3)
        report("drawing", 3, 3)
    out, err = capsys.readouterr()
    assert out == "" and "drawing" in err and "3/3" in err


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt(), 130), (OSError(5, "x"), 4),
                                         (FileNotFoundError("x"), 2), (ValueError("x"), 2),
                                         (KeyError("x"), None)])
def test_exit_codes(error, code):
    from impasto.cli.errors import exit_code

    assert exit_code(error) == code
