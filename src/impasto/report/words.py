"""Numbers and results in words, the same on the page and in the terminal.

    0.83 [0.79, 0.87]           a score with its 95 % interval
    +0.12 [+0.05, +0.19]        a paired difference with its own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from impasto.run.budget import Entry
from impasto.run.compare import Difference
from impasto.score.power import Power
from impasto.score.statistics import Interval

__all__ = [
    "DASH",
    "am_of",
    "at_budget",
    "change",
    "compared_by",
    "digits",
    "directions",
    "estimate",
    "excludes_zero",
    "interval_of",
    "not_independent",
    "p_value",
    "plan_text",
    "quantity",
    "result",
    "rewriting",
    "size",
]

DASH = "–"
"""Where a number is not known."""
PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def interval_of(score: Mapping[str, Any]) -> Interval:
    """The interval in a `summary.json` entry with score, low, high."""
    return Interval(score["score"], score["low"], score["high"])


def am_of(summary: Mapping[str, Any]) -> Interval:
    """Soft-TIFA's AM, in [0, 1] as GM is among the scores."""
    am = summary["soft_tifa"]["am"]
    return Interval(*(am[key] / 100 for key in ("score", "low", "high")))


def digits(number: float) -> int:
    """Decimals of a second score: three, or two where the scale is in tens (CLIP's)."""
    return 3 if abs(number) < 10 else 2


def estimate(interval: Interval, decimals: int = 2) -> str:
    """ "0.83 [0.79, 0.87]". """
    score, low, high = (f"{number:z.{decimals}f}" for number in interval)
    return f"{score} [{low}, {high}]"


def change(interval: Interval, decimals: int = 2) -> str:
    """ "+0.12 [+0.05, +0.19]". """
    score, low, high = (f"{number:+z.{decimals}f}" for number in interval)
    return f"{score} [{low}, {high}]"


def excludes_zero(interval: Interval) -> bool:
    """Whether the interval says that there is a difference."""
    return interval.low > 0 or interval.high < 0


def p_value(p: float) -> str:
    """ ".012", at least "<.001". """
    return "<.001" if p < 0.001 else f"{p:.3f}".removeprefix("0") if p < 1 else "1"


def plan_text(plan: Power, label: str = "") -> str:
    """How many prompts show the difference asked about, and what those that there are show."""
    of = f" of {label}" if label else ""
    return (f"To see a difference of {plan.x:g} in the overall score{of} "
            f"({plan.power:.0%} power, alpha {plan.alpha:g}): {size(plan.prompts, 'prompt')}, by "
            f"{plan.basis}; {size(plan.have, 'prompt')} show {plan.smallest:.2g}.")  # fmt: skip


def directions(base: str, label: str, difference: Difference, scorers: Sequence[str]) -> list[str]:
    """A warning wherever the verdicts and the second score do not point the same way.

    scorers: the names of the verdicts' and the second scorer.
    """
    lines = []
    for one in difference.disagreements:
        where = "" if one.where == "overall" else f" in {one.where.replace('_', ' ')}"
        up, down = scorers if one.verdicts.value > 0 else scorers[::-1]
        sure = ("Neither interval excludes zero, so chance explains it.",
                "One of the two intervals excludes zero.",
                "Both intervals exclude zero: look at the pictures before believing either.")
        lines.append(f"The scorers disagree{where}: {label} is above {base} by {up}, below by "
                     f"{down} (verdicts {change(one.verdicts)}, second score "
                     f"{change(one.second, digits(one.second.value))}). {sure[one.clear]}")
    return lines


def at_budget(entry: Entry) -> str:
    """A run's score at a budget: with its interval, as a range, or a dash."""
    if entry.score is not None:
        return estimate(entry.score)
    if entry.between is not None:
        return f"{entry.between[0]:.2f} to {entry.between[1]:.2f}"
    return DASH


def quantity(number: float | None, unit: str) -> str:
    """Three digits with an SI prefix: "1.23 TFLOP"; a dash for None."""
    if number is None:
        return DASH
    power = 0
    while abs(number) >= 999.5 and power < len(PREFIXES) - 1:
        number, power = number / 1000, power + 1
    return f"{number:.3g} {PREFIXES[power]}{unit}"


def size(count: float, noun: str) -> str:
    """ "1 prompt", "1,200 prompts". """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _points(numbers: Sequence[float]) -> list[str]:
    """Shares as points in a hundred: whole ones, unless that would hide a small one."""
    points = [100 * number for number in numbers]
    decimals = 0 if all(abs(p) >= 1 or p == 0 for p in points) else 1
    return [f"{point:z.{decimals}f}".replace("-", "−") for point in points]


CLAIMS = {
    "prompts": ("draws what the prompt says", "draws"),
    "edits": ("does the edit and keeps the rest", "does"),
    "questions": ("answers right", "answers"),
}
"""What verdicts are about -> what a right one says, and the verb of how many there are."""


def _alone(
    label: str, overall: Mapping[str, Any], scale: tuple[float, float] | None, of: str
) -> str:  # fmt: skip
    if scale is not None:
        return (f"{label} scores {estimate(interval_of(overall))} on the bench's scale from "
                f"{scale[0]:g} to {scale[1]:g}, 95 % interval in brackets.")  # fmt: skip
    score, low, high = _points(interval_of(overall))
    if "Soft-TIFA" in overall["label"]:
        return (f"{label} has a Soft-TIFA GM of {score} in a hundred, "
                f"95 % interval {low} to {high}.")  # fmt: skip
    return (f"{label} {CLAIMS[of][0]} {score} times in a hundred, "
            f"95 % interval {low} to {high}.")  # fmt: skip


def _compared(base: str, label: str, difference: Difference, numbers: bool, of: str) -> str:
    interval = difference.score.overall
    if numbers:
        shown = "" if excludes_zero(interval) else "; no difference is shown"
        return (f"{label} scores {change(interval)} against {base}, 95 % interval in "
                f"brackets{shown}.")  # fmt: skip
    if not excludes_zero(interval):
        points, low, high = _points(interval)
        return (f"No difference is shown between {label} and {base}: {points} points, "
                f"95 % interval {low} to {high}.")  # fmt: skip
    word = "more" if interval.value > 0 else "fewer"
    points, low, high = _points(_magnitudes(interval))
    if difference.soft:
        return (f"{label} scores {points} points {word} than {base} by Soft-TIFA's GM, "
                f"95 % interval {low} to {high}.")  # fmt: skip
    return (f"{label} {CLAIMS[of][1]} {points} points {word} of the {of} right than {base}, "
            f"95 % interval {low} to {high}.")  # fmt: skip


def _magnitudes(interval: Interval) -> list[float]:
    """Value, near end and far end without their common sign."""
    return [abs(interval.value), *sorted((abs(interval.low), abs(interval.high)))]


def result(
    names: Sequence[str], overall: Mapping[str, Any], differences: Sequence[Difference],
    scale: tuple[float, float] | None = None, of: str = "prompts",
) -> list[str]:  # fmt: skip
    """The result in plain sentences: one for each difference, or one for a run alone.

    names: the runs'. overall: the first one's entry in `summary.json`. scale: lowest and highest
    score where that is no share of right ones, else None. of: what is right or wrong, a key of
    `CLAIMS`.
    """
    if not differences:
        return [_alone(names[0], overall, scale, of)]
    return [_compared(names[0], name, difference, scale is not None, of)
            for name, difference in zip(names[1:], differences, strict=True)]  # fmt: skip


def _same(reward: Mapping[str, Any], scorer: Mapping[str, Any], *keys: str) -> bool:
    return any(reward.get(key) and reward.get(key) == scorer.get(key) for key in keys)


def rewriting(runs: Sequence[Any]) -> list[str]:
    """Which of the runs were given rewritten prompts: their scores are no others'."""
    told = {run.label: run.record.get("rewriter") for run in runs}
    notes = [f"Rewritten prompts: {label} was given those of {by['file']} (sha256 "
             f"{by['sha256'][:8]}); its score is not one of the bench's own prompts."
             for label, by in told.items() if by is not None]  # fmt: skip
    if 0 < len(notes) < len(told):
        notes.append("Differences between the two hold what the rewriting does.")
    return notes


def compared_by(runs: Sequence[Any], differences: Sequence[Any]) -> str:
    """What must be said of differences that are not of the score beside them; else ""."""
    if not differences or "dpg" not in runs[0].summary:
        return ""
    return ("Differences are of verdicts, whether every question about a picture is answered yes, "
            "and not of the DPG score.")  # fmt: skip


def not_independent(label: str, record: Mapping[str, Any], role: str) -> str:
    """What must be said of a run whose search was rewarded by one of its own judges; else "".

    role: "scorer", which gives the verdicts, or "second". record: the run's `run.json`.
    """
    reward = (record["search"] or {}).get("reward")
    if reward is None or record[role] is None:
        return ""
    judge = record[role]
    chosen_by = f"{judge['name']}, which also"
    if not _same(reward, judge, "id", "name"):
        if not _same(reward, judge, "sha256"):
            return ""
        chosen_by = f"{reward['name']}, of the same weights as {judge['name']}, which"
    also, number = {"scorer": ("gives the verdicts", "score"),
                    "second": ("is the second scorer", "second score")}[role]  # fmt: skip
    return (f"Not independent: {label} chose its pictures by {chosen_by} {also}. Its {number} is "
            f"what it was selected for.")  # fmt: skip
