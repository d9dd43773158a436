"""A bench whose prompts are given to the model in other words; what is demanded stays.

GPT-4o's rewritings, some 100 words each, lift GenEval by several points to more than ten, so their
scores are another column and never GenEval's own: another name, another label, other hashes. A
picture is drawn from the rewriting, with the seed that the prompt itself has, and judged against
the demands and the prompt as they are. Three kinds of file:

    FILE.json     {"a photo of a dog": "A shaggy dog …", …}
    FILE.jsonl    {"prompt": "a photo of a dog", "rewritten": "A shaggy dog …"}     a line each
    FILE.jsonl    the bench's metadata in its order, with another "prompt"; so BAGEL's
                  evaluation_metadata_long.jsonl is published
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from impasto.bench.base import Bench
from impasto.bench.geneval_prompts import geneval
from impasto.bench.layout import listed
from impasto.bench.results import Record
from impasto.files import sha256_file
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["geneval_rewritten", "rewritten"]


def _pairs(path: Path, specs: Sequence[Spec]) -> Iterator[tuple[str, object]]:
    """(prompt, its rewriting) as the file has them. Raises ValueError naming the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".json":
            yield from dict(json.loads(text)).items()
            return
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is neither a JSON object of prompts nor JSON Lines "
                         f"({error})") from error  # fmt: skip
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or "prompt" not in row:
            raise ValueError(f'{path}, line {number} must be an object with a key "prompt"')
        yield (row["prompt"], row["rewritten"]) if "rewritten" in row else (
            _prompt_of(row, number, specs, path), row["prompt"])  # fmt: skip


def _prompt_of(row: Mapping[str, Any], number: int, specs: Sequence[Spec], path: Path) -> str:
    """The prompt that a line of metadata rewrites: that of the spec in its place."""
    spec = specs[number - 1] if number <= len(specs) else None
    if spec is None or _demands(row) != _demands(spec.to_dict()):
        wanted = "no more prompts" if spec is None else f"the demands of {spec.prompt!r}"
        raise ValueError(f'{path}, line {number}: without a key "rewritten" a line is the '
                         f"bench's metadata with another prompt; here the bench has {wanted}")
    return spec.prompt


def _demands(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "prompt"}


def rewritten(bench: Bench, path: str | Path, name: str = "") -> Bench:
    """The bench with the prompts of a file in place of its own, one for each.

    name: what it is called; by default the bench's with "-rewritten", and always with the file's
    hash. Raises ValueError for prompts that are missing, not the bench's, there twice or empty.
    """
    path = Path(path)
    found: dict[str, str] = {}
    for prompt, text in _pairs(path, bench.specs):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{path}: the rewriting of {prompt!r} is empty or no text")
        if found.setdefault(prompt, text.strip()) != text.strip():
            raise ValueError(f"{path} has two rewritings of {prompt!r}; keep one")
    own = dict.fromkeys(spec.prompt for spec in bench.specs)
    for what, names in (("lacks rewritings of", [p for p in own if p not in found]),
                        ("rewrites what is no prompt of the bench:",
                         [str(p) for p in found if p not in own])):  # fmt: skip
        if names:
            raise ValueError(f"{path} {what} {listed([repr(n[:60]) for n in names])}; "
                             f"{bench.name} has {len(own)} prompts")  # fmt: skip
    digest = sha256_file(path)
    return replace(
        bench, name=f"{name or f'{bench.name}-rewritten'}:sha256={digest[:8]}",
        rule=partial(_rule, of=bench.rule), rewrites=found,
        rewriter={"file": path.name, "sha256": digest},
    )  # fmt: skip


def _rule(records: Sequence[Record], of: Any) -> dict[str, Any]:
    """The bench's own rule; its overall score is called by what it is."""
    summary = of(records)
    label = f"{summary['overall']['label']} (rewritten prompts)"
    return summary | {"overall": summary["overall"] | {"label": label}}


@BENCHES.register("geneval-rewritten")
def geneval_rewritten(path: str = "", limit: int | None = None) -> Bench:
    """GenEval drawn from rewritten prompts, path=FILE: another column than GenEval's own score.

    Raises ValueError without a path, or for a file that does not rewrite all 553 prompts.
    """
    if not path:
        raise ValueError("geneval-rewritten needs a file of rewritings, "
                         "geneval-rewritten:path=FILE: JSON {prompt: rewriting}, or JSON Lines as "
                         "BAGEL's evaluation_metadata_long.jsonl")  # fmt: skip
    bench = rewritten(geneval(), str(path), "geneval-rewritten")
    return bench if limit is None else bench.stratified(limit)
