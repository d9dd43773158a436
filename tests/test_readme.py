"""The docs are true: the README's Python runs as written, command lines are ones that exist.

A ```python block is run in an empty folder, as a new process, with the shipped models. In a
```console block every line `$ impasto …` is parsed by the command line (not run). A block is left
out when the line before it is `<!-- not run: WHY -->`.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from impasto.cli import app

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n+)?```(?P<kind>python|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(text, kind):
    return [m["text"] for m in BLOCK.finditer(text) if m["kind"] == kind and not m["skip"]]


def lines(text):
    """The `$ impasto` and `$ make` command lines of all console blocks, continuations joined."""
    joined = "\n".join(blocks(text, "console")).replace("\\\n", " ")
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


def parse(line):
    """Let the command line parse `line` without running it. Raises SystemExit on a bad one."""
    words = shlex.split(line, comments=True)
    assert words[0] == "impasto"
    command, rest = typer.main.get_command(app), words[1:]
    context = None
    while hasattr(command, "commands"):
        assert rest and rest[0] in command.commands, f"no such command: {line}"
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(line, rest, resilient_parsing=False)
    context.close()


def make_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


TEXT = README.read_text(encoding="utf-8")
DOCS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = [line for path in DOCS for line in lines(path.read_text(encoding="utf-8"))]


def test_there_is_something_to_check():
    assert lines(TEXT) and blocks(TEXT, "python")


@pytest.mark.parametrize("line", COMMANDS)
def test_console_lines_exist(line):
    if line.startswith("impasto "):
        parse(line)
    elif line.startswith("make "):
        assert set(line.split("#")[0].split()[1:]) <= make_targets()


@pytest.mark.parametrize("code", blocks(TEXT, "python"))
def test_python_blocks_run(code, tmp_path):
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", ["impasto genrate x", "impasto eval geneval --modell x",
                                  "impasto bench", "impasto generate -n none"])
def test_wrong_lines_are_found(line):
    with pytest.raises((AssertionError, Exception)):
        parse(line)


def test_blocks_are_found():
    text = "```console\n$ impasto eval x \\\n  --limit 3\nout\n$ make demo\n```\n\n" \
           "<!-- not run: a GPU -->\n```python\n1/0\n```\n\n```python\nx = 1\n```\n"  # fmt: skip
    assert [line.split() for line in lines(text)] == [["impasto", "eval", "x", "--limit", "3"],
                                                      ["make", "demo"]]  # fmt: skip
    assert blocks(text, "python") == ["x = 1\n"]
