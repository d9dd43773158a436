"""The step `ask`: several judges answer a bench's questions about given pictures.

    OUT/STEP/NAME/       a run of `impasto eval BENCH --judge …`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from impasto.bench import Bench, read_results
from impasto.run.answer import JudgeAnswers, evaluate_answers
from impasto.run.directory import RunDirectory
from impasto.score.statistics import Estimates, Outcome, bootstrap, paired_difference
from impasto.stack.base import STEPS, Done, Step, Tools, of_step
from impasto.stack.drawing import slug, whole
from impasto.zoo.registry import nearest

__all__ = ["Ask"]


@STEPS.register("ask")
@dataclass(frozen=True, kw_only=True)
class Ask(Step):
    """Ask several judges a bench's questions: the share of right answers by kind of question.

    judges: names to be shown -> judges; step:NAME in one is the folder of an earlier step's model.
    base: the one that differences are from. bench: one that asks. limit: questions, of all kinds.
    An answer that cannot be read is not right, and is counted.
    """

    judges: Mapping[str, str]
    base: str
    bench: str = "sticker-questions"
    limit: int | None = None
    title: str = ""
    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.judges, Mapping) or not self.judges:
            raise ValueError(f"judges must be names -> judges, given {self.judges!r}")
        if self.base not in self.judges:
            raise ValueError(f"base {self.base!r} is none of the judges: "
                             f"{nearest(self.base, list(self.judges))}")  # fmt: skip
        if len(set(map(slug, self.judges))) < len(self.judges):
            raise ValueError(f"judges are called the same, {', '.join(self.judges)}; give each "
                             f"its own name")  # fmt: skip
        if self.limit is not None:
            whole("limit", self.limit)

    @property
    def uses(self) -> Mapping[str, str]:
        return of_step(self.judges)

    @property
    def settings(self) -> dict[str, Any]:
        return {"bench": self.bench, "limit": self.limit} | {
            f"judge {name}": text for name, text in self.judges.items()}  # fmt: skip

    def shares(self) -> Mapping[str, Step]:
        return {name: replace(self, judges={name: text}, base=name)
                for name, text in self.judges.items()}  # fmt: skip

    def check(self, tools: Tools, earlier: Sequence[Step]) -> None:
        if self._asked(tools).asks is None:
            raise ValueError(f"{self.name}: {self.bench} asks no questions; draw it with a step "
                             f"eval, or take one that asks, such as sticker-questions")
        for text in self.judges.values():
            tools.check_name("judges", text, "device")
            if not of_step(text):
                tools.build.filled("judges").create(text, device=tools.device)

    def _asked(self, tools: Tools) -> Bench:
        bench = tools.bench(self.bench)
        return bench if self.limit is None else bench.stratified(self.limit)

    def finished(self, out: Path) -> bool:
        return all(RunDirectory(out / self.name / slug(name)).summary.is_file()
                   for name in self.judges)  # fmt: skip

    def run(self, tools: Tools) -> Done:
        bench, answers = self._asked(tools), {}
        for name, text in self.judges.items():
            judge = tools.model_name(text)
            made = tools.build.filled("judges").create(judge, device=tools.device)
            run = evaluate_answers(
                bench, JudgeAnswers(made), judge, tools.out / self.name / slug(name),
                allow_incomplete=True,
                progress=lambda what, *at, name=name: tools.progress(f"{self.name}: {name}", *at),
            )  # fmt: skip
            answers[name] = run
        first = _right(answers[self.base])
        names = [self.base, *(name for name in answers if name != self.base)]
        return Done(table={
            "kind": "ask", "name": self.name, "title": self.title or self.name,
            "bench": bench.provenance(), "base": self.base,
            "rows": [_row(name, answers[name], None if name == self.base else first)
                     for name in names],
        })  # fmt: skip


def _right(run: RunDirectory) -> list[Outcome]:
    """1 for a right answer, 0 for a wrong one and for one that cannot be read."""
    return [Outcome(r.tag, r.metadata, r.sample, r.number or 0.0)
            for r in read_results(run.results)]  # fmt: skip


def _row(name: str, run: RunDirectory, base: Sequence[Outcome] | None) -> dict[str, Any]:
    right, records = _right(run), read_results(run.results)
    row = {"name": name, "run": str(Path(run.path)), "judge": run.record["model"]["name"],
           "unreadable": sum(r.number is None for r in records), "questions": len(records),
           "score": _lists(bootstrap(right, bounds=(0.0, 1.0))), "difference": None}  # fmt: skip
    if base is None:
        return row
    return row | {"difference": _lists(paired_difference(base, right))}


def _lists(found: Estimates) -> dict[str, Any]:
    return {"overall": list(found.overall),
            "tasks": {task: list(own) for task, own in found.tasks.items()}}  # fmt: skip
