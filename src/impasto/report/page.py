"""The report page: one HTML file that opens offline and asks the network for nothing.

Everything that comes from a run (prompts, names, reasons) goes through jinja2's autoescape; the
page's Content-Security-Policy allows its own script and style by their hashes, pictures from
data: URIs, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from impasto.files import write_text
from impasto.report import provenance, scores, tables, words
from impasto.report.bars import COLORS
from impasto.report.costs import COSTS, costs
from impasto.report.data import Run, check_differences, read_runs
from impasto.report.gallery import gallery
from impasto.run.budget import Budgets
from impasto.run.compare import Difference
from impasto.score.power import Power

__all__ = ["MAX_PICTURES", "write_report"]

MAX_PICTURES = 480
"""Pictures on a page unless told otherwise; at most some 30 MB, and 8 for pictures of 128 px.
Trees of searches come on top, one a prompt and run, of 10 to 100 kB."""
FILTERS = {"": "any", "right": "all right", "wrong": "some wrong", "disagree": "runs disagree",
           "scorers": "scorers disagree"}  # fmt: skip
"""Verdict filter of the pictures -> its name; see `impasto.report.gallery.Row.flags`."""
HERE = Path(__file__).parent


def write_report(
    runs: Sequence[Path],
    page: Path,
    differences: Sequence[Difference],
    max_pictures: int | None = MAX_PICTURES,
    *,
    budgets: Budgets | None = None,
    plans: Sequence[Power] = (),
) -> Path:
    """Write the page of finished runs side by side, whole or not at all; returns its path.

    differences: one per further run, from the first, as `impasto.run.compare.compare` gives them.
    max_pictures: above so many, pictures of a part of the prompts are shown, and the page says so;
    None shows all. budgets, plans: the runs at equal cost, and prompts that show a difference, as
    `impasto.run.budget` and `impasto.run.compare.planned` give them. The same runs give the
    same bytes. Raises ValueError for folders that are no runs, IncompleteError for an unfinished
    run, ImageError for a damaged picture and StorageError when the page cannot be written.
    """
    read = read_runs(runs)
    check_differences(read, differences)
    text = _environment().get_template("page.html").render(
        **_source("page.css", "style"), **_source("page.js", "script"),
        **_content(read, differences, Path(page), max_pictures),
        **_comparison(read, differences, budgets, plans),
    )  # fmt: skip
    write_text(page, text)
    return Path(page)


def _environment() -> Environment:
    loader = PackageLoader("impasto", "report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {
        "task": lambda tag: tag.replace("_", " "),
        "minus": lambda text: text.replace("-", "−"),
        "run_color": lambda number: f"run-{number % COLORS}",
    }
    return environment


def _source(name: str, kind: str) -> dict[str, str]:
    """The file's text to put between tags, and the hash by which the policy allows it."""
    text = (HERE / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {kind: Markup(text), f"{kind}_hash": f"sha256-{digest}"}


def _content(
    runs: Sequence[Run], differences: Sequence[Difference], page: Path, max_pictures: int | None
) -> dict[str, Any]:
    names = [run.label for run in runs]
    return {
        "runs": runs,
        "version": version("impasto"),
        "result": words.result(names, runs[0].summary["overall"], differences,
                               None if _shares(runs) else runs[0].scale, _of(runs)),
        "of": _of(runs),
        "paired_by": differences[0].paired_by if differences else "",
        "kicker": _kicker(runs),
        "reach": scores.axis(differences),
        "groups": scores.groups(runs, differences),
        "second": scores.second(runs, differences),
        "notes": {"scorer": [*_notes(runs, "scorer"), *_if(words.compared_by(runs, differences))],
                  "second": _notes(runs, "second")},
        "costs": costs(runs, COSTS),
        "ends": ["%g" % (runs[0].scale[0] + x * (runs[0].scale[1] - runs[0].scale[0]))
                 for x in (0, 0.5, 1)],
        "verdicts": _verdicts(runs),
        "soft": "soft_tifa" in runs[0].summary,
        "pooled": bool(runs[0].summary.get("pooled")),
        "sorted": all("failures" in run.summary for run in runs),
        "gallery": gallery(runs, max_pictures),
        "filters": _filters(runs),
        "failures": tables.failures(runs),
        "classes": tables.class_table(runs),
        "colors": tables.color_table(runs),
        "confusions": [(run.label, tables.confusion(run)) for run in runs],
        "settings": provenance.settings(runs),
        "records": [(run.label, provenance.whole(run), provenance.files(run, page))
                    for run in runs],
    }  # fmt: skip


def _comparison(
    runs: Sequence[Run], differences: Sequence[Difference], budgets: Budgets | None,
    plans: Sequence[Power],
) -> dict[str, Any]:  # fmt: skip
    """Warnings where the scorers disagree, prompts needed, and the tables of equal cost."""
    scorers = [(runs[0].record[role] or {}).get("name", "") for role in ("scorer", "second")]
    names = [run.label for run in runs[1:]] if len(plans) > 1 else [""]
    return {
        "directions": [line for run, difference in zip(runs[1:], differences, strict=True)
                       for line in words.directions(runs[0].label, run.label, difference,
                                                    scorers)],
        "plans": [words.plan_text(plan, name)
                  for plan, name in zip(plans, names, strict=bool(plans))],
        "at_cost": tables.at_cost(budgets) if budgets and budgets.equal_samples else None,
    }  # fmt: skip


def _verdicts(runs: Sequence[Run]) -> bool:
    return all(run.verdicts for run in runs)


def _shares(runs: Sequence[Run]) -> bool:
    """Whether a score is the share of what is right."""
    return _verdicts(runs) and all(run.scale == (0, 1) for run in runs)


def _of(runs: Sequence[Run]) -> str:
    """What is right or wrong, a key of `words.CLAIMS`."""
    if any(record.answer is not None for run in runs for record in run.records):
        return "questions"
    return "edits" if all("edits" in run.summary for run in runs) else "prompts"


def _filters(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The verdict filters that can find something here."""
    kept = {""}
    if _verdicts(runs):
        kept |= {"right", "wrong"} | ({"disagree"} if len(runs) > 1 else set())
        kept |= {"scorers"} if any(run.second for run in runs) else set()
    return [(key, text) for key, text in FILTERS.items() if key in kept]


def _if(note: str) -> list[str]:
    return [note] if note else []


def _notes(runs: Sequence[Run], role: str) -> list[str]:
    """What must be known to believe the score, or the second one."""
    told = words.rewriting(runs) if role == "scorer" else []
    return [*told, *filter(None, (words.not_independent(run.label, run.record, role)
                                  for run in runs))]  # fmt: skip


def _kicker(runs: Sequence[Run]) -> list[str]:
    """What all runs share: bench, its size, and the model where it is one and not in the title."""
    bench = runs[0].record["bench"]
    size = (f"{words.size(bench['prompts'], 'prompt')}, "
            f"{words.size(bench['samples_per_prompt'], 'picture')} each")  # fmt: skip
    models = {run.record["model"]["name"] for run in runs}
    shared = models if len(runs) > 1 and len(models) == 1 else ()
    return [bench["name"], size, *shared]
