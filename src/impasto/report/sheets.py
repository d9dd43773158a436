"""A stack's tables in words: of each table of `table.json`, by its "kind", what is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from impasto.report.answer_sheets import answers
from impasto.report.cost_sheets import costs
from impasto.report.set_sheets import distances
from impasto.report.sheet import Sheet, Values, changed, numbered, percented, scored
from impasto.report.tokenizer_sheets import tokenizers
from impasto.report.words import digits, not_independent, quantity, size

__all__ = ["Sheet", "sheets"]

COSTS: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "flops": ("FLOPs", lambda value: quantity(value, "FLOP")),
    "images": ("finished", numbered),
    "row_steps": ("row-steps", numbered),
    "tokens": ("tokens", numbered),
    "decodes": ("decodes", numbered),
    "reward_calls": ("reward calls", numbered),
    "feature_calls": ("feature calls", numbered),
    "reward_flops": ("their FLOPs", lambda value: quantity(value, "FLOP")),
}
"""Key of a cost -> its column, for each picture kept."""


def _compare(table: Values) -> list[Sheet]:
    found = [_side_by_side(table), _costs(table), _by_task(table)]
    if table["pairs"]:
        found.append(_pairs(table))
    if table["equal_flops"]:
        found.append(_equal_flops(table))
    return found


def _side_by_side(table: Values) -> Sheet:
    rows, bench = table["rows"], table["bench"]
    seconds = [row["second"][0] for row in rows if row["second"]]
    decimals = digits(seconds[0]) if seconds else 3
    columns = (_kind(table), "score", f"difference from {table['base']}", "relative",
               *(["second score"] if seconds else []))  # fmt: skip
    lines = [(row["name"], scored(row["score"]), changed(row["difference"]),
              percented(row.get("relative")),
              *([scored(row["second"], decimals)] if seconds else [])) for row in rows]
    pictures, of = bench["samples_per_prompt"], table["model"]
    drawn = f"{of} on {bench['name']}" if of else bench["name"]
    return Sheet(table["title"], columns, tuple(lines), (
        f"{drawn}: {size(bench['prompts'], 'prompt')}, "
        f"{size(table['seeds'], 'seed')}, {size(pictures, 'picture')} each; verdicts by "
        f"{table['scorer']['name']}; 95 % intervals over prompts; differences paired "
        f"by prompt and seed, * the interval excludes zero.",
        f"Relative: the difference and its interval over the score of {table['base']}.",
        *_dependent(table),
    ))  # fmt: skip


def _kind(table: Values) -> str:
    """What the rows are: runs of one model differ in their search."""
    return "search" if table["model"] else "model"


def _dependent(table: Values) -> list[str]:
    """What must be said where pictures were chosen by one of their own judges."""
    judges = {"scorer": table["scorer"], "second": table["second"]}
    notes = []
    for role in judges:
        chosen = [row["name"] for row in table["rows"]
                  if not_independent("", judges | {"search": row["search"]}, role)]  # fmt: skip
        if chosen:
            search = next(row["search"] for row in table["rows"] if row["name"] == chosen[0])
            notes.append(not_independent(", ".join(chosen), judges | {"search": search}, role))
    return notes


def _costs(table: Values) -> Sheet:
    rows = table["rows"]
    keys = [key for key in COSTS if any(row["cost"].get(key) for row in rows)]
    return Sheet(
        f"{table['title']}: cost of a picture", (_kind(table), *(COSTS[key][0] for key in keys)),
        tuple((row["name"], *(COSTS[key][1](row["cost"].get(key)) for key in keys))
              for row in rows),
        ("Means of one picture kept, with all that was drawn and asked for it. FLOPs: of drawing, "
         "previews included. Finished: pictures drawn to the end. Row-steps: steps, each counted "
         "once for every candidate alive in it. Decodes: previews and finished pictures. Reward "
         "and feature calls: pictures rated, and pictures looked at to tell layouts apart.",),
    )  # fmt: skip


def _by_task(table: Values) -> Sheet:
    """The base's score in each task, and the others' differences from it."""
    base, *others = table["rows"]
    tasks = list(base["tasks"])
    names = (task.replace("_", " ") for task in tasks)
    first = (base["name"], *(scored(base["tasks"][task], 2) for task in tasks))
    rows = [(f"{row['name']}, difference",
             *(changed(row["task_differences"].get(task), 2) for task in tasks))
            for row in others]  # fmt: skip
    return Sheet(f"{table['title']}: by task", (_kind(table), *names), (first, *rows))


def _pairs(table: Values) -> Sheet:
    seconds = [pair["second_difference"] for pair in table["pairs"] if pair["second_difference"]]
    rows = [(f"{pair['run']} − {pair['from']}", changed(pair["difference"]),
             *([changed(pair["second_difference"])] if seconds else []))
            for pair in table["pairs"]]  # fmt: skip
    columns = ("difference", "score", *(["second score"] if seconds else []))
    return Sheet(f"{table['title']}: in pairs", columns, tuple(rows))


def _equal_flops(table: Values) -> Sheet:
    scores = {row["name"]: row["score"] for row in table["rows"]}
    rows = [(row["run"], scored(scores[row["run"]]), quantity(row["flops"], "FLOP"),
             f"{row['k']}{'' if row['enough'] else ' (all there are)'}",
             scored(row["best"]), quantity(row["best_flops"], "FLOP"), changed(row["difference"]))
            for row in table["equal_flops"]]  # fmt: skip
    counted = ("drawing, rewards and features" if all(row["rewards"] for row in
               table["equal_flops"]) else "drawing; rewards that count no FLOPs are left out")
    notes = [f"Best of k: of the first k candidates of the pool by its rewards, with the largest "
             f"k that costs no more FLOPs. Counted: {counted}."]
    if not all(row["enough"] for row in table["equal_flops"]):
        notes.append("All there are: the FLOPs would pay for more candidates than the pool has.")
    return Sheet(f"{table['title']}: against best of k at equal FLOPs",
                 (_kind(table), "score", "FLOPs", "k", "best of k", "its FLOPs",
                  f"{_kind(table)} − best of k"),
                 tuple(rows), tuple(notes))  # fmt: skip


def _reliability(table: Values) -> list[Sheet]:
    names = ("after step", "ρ with final reward", "within prompts", "ρ with verdict",
             "within prompts")  # fmt: skip
    rewards = [*table["with_reward"], {"all": None, "within": None}]
    rows = [
        (f"{s}" if s < table["steps"] else "finished",
         *(scored(row[key], 2) for row in (reward, value) for key in ("all", "within")))
        for s, (reward, value) in enumerate(zip(rewards, table["with_value"], strict=True))
    ]  # fmt: skip
    mixed = table["with_value"][-1]["prompts"]
    return [Sheet(
        f"{table['name']}: when {table['reward']} knows", names, tuple(rows),
        (f"Spearman's rank correlation of the reward of what is there after each step (from 0), "
         f"of {size(table['candidates'], 'candidate')} of {size(table['prompts'], 'prompt')}; "
         f"verdicts by {table['scorer']}; 95 % intervals, bootstrap over prompts.",
         f"Within prompts: the mean over prompts whose candidates differ, as only these can be "
         f"chosen among; right and wrong ones are there in {size(mixed, 'prompt')}."),
    ), _potentials(table)]  # fmt: skip


def _potentials(table: Values) -> Sheet:
    """Within prompts, what resampling would go by after each step."""
    found = {"value": table["with_reward"], **table["potentials"]}
    rows = [(f"{s}", *(scored(steps[s]["within"], 2) for steps in found.values()))
            for s in range(table["steps"])]  # fmt: skip
    return Sheet(f"{table['name']}: potentials after each step", ("after step", *found),
                 tuple(rows), ("Rank correlation with the final reward within prompts, of a "
                               "candidate that is scored after every step.",))  # fmt: skip


MEASURES = {"seen": "distance, when chosen", "finished": "distance, finished",
            "kinds": "different outcomes"}  # fmt: skip


def _subsets(table: Values) -> list[Sheet]:
    rows = []
    for measure, title in MEASURES.items():
        for name, of in table["measures"][measure].items():
            rows.append((f"{title}: {name}", scored(of["value"]), changed(of.get("difference"))))
    return [Sheet(
        f"{table['name']}: {table['k']} of {table['candidates']} candidates after step "
        f"{table['step']}", ("kept by", "mean", "− random"), tuple(rows),
        (f"Distances between features of {table['features']}; outcomes are the numbers of objects "
         f"found of each class; {size(table['prompts'], 'prompt')}; random is the expectation "
         f"over all subsets, the others are clusters of {table['clusters_of']}.",),
    )]  # fmt: skip


DIVERSITY = {"within": "distance between candidates of a prompt",
             "between": "distance between different prompts'",
             "kinds": "different outcomes of a prompt",
             "mixed": "share of prompts with right and wrong", "mean": "score of one candidate",
             "any": "score of a perfect chooser"}  # fmt: skip


def _diversity(table: Values) -> list[Sheet]:
    seeds = table["seeds"]
    rows = [(title, *(scored(one[key]) for one in seeds)) for key, title in DIVERSITY.items()]
    rows.append(("pairs of equal pictures", *(f"{one['identical']:,}" for one in seeds)))
    return [Sheet(
        f"{table['name']}: how much {seeds[0]['candidates']} finished candidates differ",
        ("", *(f"seed {one['seed']}" for one in seeds)), tuple(rows),
        (f"Distances between features of {table['features']}; outcomes are the numbers of objects "
         f"found of each class; means over tasks with 95 % intervals over prompts.",),
    )]  # fmt: skip


KINDS: dict[str, Callable[[Values], list[Sheet]]] = {
    "compare": _compare, "reliability": _reliability, "subsets": _subsets,
    "diversity": _diversity, "tokenizers": tokenizers, "distances": distances,
    "ask": answers, "costs": costs,
}  # fmt: skip


def sheets(tables: Sequence[Values]) -> list[Sheet]:
    """What is shown of a stack's tables, in order."""
    return [sheet for table in tables for sheet in KINDS[table["kind"]](table)]
