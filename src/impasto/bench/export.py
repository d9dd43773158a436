"""What a bench about given pictures hands out, for editing or answering elsewhere.

    DIR/items.jsonl         {"key", "task", "prompt", "pictures": ["sources/KEY.png", …]}
    DIR/sources/KEY.png     what is to be edited or asked about; a second one is KEY_2.png, …
    DIR/targets/KEY.png     the one right result, where the bench knows it
    DIR/truth.jsonl         {"key", "answer"}: the right answers, where the bench asks

Edited pictures go, named KEY.png, to a folder for `impasto eval BENCH --images`. Judging targets/
shows the most that its scorer gives, sources/ what doing nothing gets. Answers go, in the form of
truth.jsonl, to `impasto eval BENCH --answers`; "prompt" is then what is asked, instructions
included.
"""

from __future__ import annotations

import json
from pathlib import Path

from impasto.bench.base import Bench
from impasto.files import write_text
from impasto.images import write_png
from impasto.spec import Spec

__all__ = ["export_bench"]


def export_bench(bench: Bench, folder: str | Path) -> list[Path]:
    """Write GenEval's two files and, where the bench has sources, the above; returns the texts'.

    Errors: those of reading the bench's own pictures, and StorageError.
    """
    root = Path(folder)
    paths = list(bench.export(root))
    if bench.sources is None:
        return paths
    lines = [_item(bench, spec, root) for spec in bench.specs]
    write_text(root / "items.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    if bench.asks is None:
        return [*paths, root / "items.jsonl"]
    truth = [{"key": spec.key, "answer": bench.asks(spec).truth} for spec in bench.specs]
    write_text(root / "truth.jsonl", "".join(json.dumps(line) + "\n" for line in truth))
    return [*paths, root / "items.jsonl", root / "truth.jsonl"]


def _item(bench: Bench, spec: Spec, root: Path) -> dict[str, object]:
    """Writes an item's pictures; its line."""
    assert bench.sources is not None
    names = []
    for number, image in enumerate(bench.sources(spec), 1):
        names.append(f"sources/{spec.key}{f'_{number}' if number > 1 else ''}.png")
        write_png(root / names[-1], image)
    if bench.targets is not None:
        write_png(root / f"targets/{spec.key}.png", bench.targets(spec))
    prompt = spec.prompt if bench.asks is None else bench.asks(spec).text
    return {"key": spec.key, "task": spec.tag, "prompt": prompt, "pictures": names}
