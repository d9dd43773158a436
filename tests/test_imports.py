"""Imports point downwards: the picture in docs/architecture.md, kept."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "impasto"
FILES = sorted(SOURCE.rglob("*.py"))


def levels():
    """Package -> line number, from below, read from the picture itself."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"## Imports point downwards\n\n```\n(.*?)```", text, re.DOTALL).group(1)
    lines = [line.split() for line in block.strip().splitlines()]
    return {name.split(".")[0]: level for level, line in enumerate(reversed(lines))
            for name in line}  # fmt: skip


LEVELS = levels()


def package(module):
    """"impasto.run.cost" -> "run"; the top package itself -> ""."""
    return [*module.split("."), ""][1]


def imported(path):
    """Every impasto module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("impasto"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "impasto":
                yield from (f"impasto.{alias.name}" for alias in node.names)
            elif (node.module or "").startswith("impasto."):
                yield node.module


def violations(own, modules):
    for module in modules:
        other = package(module)
        if other == own or not other:
            continue
        if other in ("cli", "serve", "report") and own != "cli":
            yield f"{own} imports {module}: only cli may"
        elif LEVELS[other] > LEVELS[own]:
            yield f"{own} imports {module}, which lies above it"


def test_the_picture_names_every_package():
    there = {p.relative_to(SOURCE).parts[0].removesuffix(".py") for p in FILES}
    assert there - {"__init__", "__main__"} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return
    assert not list(violations(own, imported(path)))


def test_the_test_itself_can_fail():
    assert list(violations("spec", ["impasto.run.cost"]))
    assert list(violations("run", ["impasto.report"]))
    assert list(violations("serve", ["impasto.cli"]))
    assert not list(violations("run", ["impasto.spec", "impasto.search.base"]))


def test_help_comes_without_the_heavy_libraries():
    """`impasto --help` answers at once: the networks' libraries load when a command needs them."""
    code = "import sys, impasto.cli; print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_searches_come_without_the_networks_libraries():
    """Nor do TTS-VAR's features, until they are asked for by name."""
    code = ("import sys, impasto.run.evaluate; from impasto.search import TTSVar\n"
            "print({'transformers', 'diffusers'} & set(sys.modules))\n"
            "print(TTSVar(1).provenance()['features']['name'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\nclip-patches\n"
