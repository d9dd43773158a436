"""Training what surgery left: each kind goes on from the folder of an edited generator.

    graft-regression      stage 1 of grafting: fresh operators learn from the host's activations,
                          as do blocks that lost parts and those that stay of an interval (PPCL)
    finetune              stage 2: all of it, or low-rank additions, by the diffusion loss
    prune-distillation    HierarchicalPrune: a pruned network learns from the host

Only the transformer learns. Weights are saved as they are (float32), so that frozen ones keep
their bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from impasto import files
from impasto.models import load_generator
from impasto.models.edited.grafts import operator_path
from impasto.models.edited.hosts import Host, host_of
from impasto.models.edited.record import check_base
from impasto.models.edited.stock import RECORD
from impasto.surgery import sensitivity as ways
from impasto.surgery.contribution import read_contributions
from impasto.surgery.distillation import distil, shared_blocks
from impasto.surgery.finetune import finetune
from impasto.surgery.listening import Gates
from impasto.surgery.noised import Cache, Noised, cache_noiseless, noised_latents, split_off
from impasto.surgery.options import Distillation, Regression, Tuning
from impasto.surgery.regression import regress
from impasto.train import processes
from impasto.train.checkpoint import Checkpoint
from impasto.train.kinds.common import numbers, pictures
from impasto.train.loop import SCHEDULES, Loop
from impasto.train.recipe import Recipe, check_keys, kind

__all__: list[str] = []

GATES = {"attention": 1, "mlp": 4, "attention2": 6}
"""Place -> which output of a block's modulation is its gate."""
KEYS = ("initial", "time_mean", "time_std")
Options = TypeVar("Options")


def _options(of: type[Options], recipe: Recipe, key: str) -> Options:
    values: Mapping[str, Any] = getattr(recipe, key)
    check_keys(of, values, key)
    return of(**values)


# ---------------------------------------------------------------------- what all three share


def _generator(recipe: Recipe, key: str, device: torch.device) -> Any:
    name = getattr(recipe, key)
    if name is None:
        what = {"initial": "the folder of an edited generator", "teacher": "its host, a folder or "
                "a name such as sticker-mmdit,"}[key]  # fmt: skip
        raise ValueError(f"{recipe.kind} needs {what} in {key}")
    return load_generator(name, device=device)


def _edits(pipe: Any, kinds: Sequence[str], recipe: Recipe) -> list[Mapping[str, Any]]:
    done = list(pipe.transformer.config.get("edits") or [])
    found = [edit for edit in done if edit["edit"] in kinds]
    if not found and (Path(str(recipe.initial)) / "transformer" / RECORD).is_file():
        raise ValueError(f"{recipe.kind} needs blocks with the numbers that they had, and those "
                         f"of {recipe.initial} were numbered anew; make it by 'impasto prune "
                         f"--identities', and 'impasto prune --renumber' what is trained"
                         )  # fmt: skip
    if not found:
        raise ValueError(f"{recipe.kind} trains what {' or '.join(kinds)} left, and the edits of "
                         f"{recipe.initial} are {[edit['edit'] for edit in done]}")  # fmt: skip
    return found


def _check_teacher(pipe: Any, teacher: Any, recipe: Recipe) -> None:
    """Raises ValueError for a teacher that the edits were not made of, where that is recorded: one
    with other weights than the base or, edited itself, with edits that these do not go on from.
    """
    ours, theirs = (list(each.transformer.config.get("edits") or []) for each in (pipe, teacher))
    config = pipe.transformer.config
    try:
        if not theirs and config.get("edits_base"):
            check_base(config, teacher.transformer)
    except ValueError as error:
        raise ValueError(f"teacher {recipe.teacher} is not what {recipe.initial} was made of: "
                         f"{error}") from error  # fmt: skip
    base = teacher.transformer.config.get("edits_base")
    if theirs and (ours[: len(theirs)] != theirs or base != config.get("edits_base")):
        raise ValueError(f"teacher {recipe.teacher} has edits that {recipe.initial} was not made "
                         f"after; give the model that was edited")  # fmt: skip


def _latents(recipe: Recipe, pipe: Any, device: torch.device) -> Cache:
    cache, captions, _ = pictures(recipe, device)
    return cache_noiseless(pipe, cache, captions)


def _batches(recipe: Recipe, pipe: Any, cache: Cache) -> Callable[[], Noised]:
    return noised_latents(pipe, cache, recipe.batch // processes.count(),
                          time_mean=recipe.time_mean, time_std=recipe.time_std)  # fmt: skip


def _numbers(recipe: Recipe, checkpoint: Checkpoint, options: Any) -> dict[str, Any]:
    """What `train.kinds.common.numbers` and the options say to all trainings of surgery."""
    given = numbers(recipe, checkpoint)
    del given["batch"]  # it is in the batches
    return given | {"compile": given.pop("compiled"), "schedule": SCHEDULES[options.schedule],
                    "clip": options.clip, "weight_decay": options.weight_decay}  # fmt: skip


def _ended(pipe: Any, out: Path, record: tuple[str, Any] | None = None) -> None:
    if not processes.first():
        return
    pipe.save_pretrained(out, "float32")
    if record:
        files.write_json(out / record[0], record[1])


# ---------------------------------------------------------------------- the kinds


def _targets(host: Host, edits: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Target -> (where its scion is in the edited network, its kind: attention, mlp or blocks).

    What is removed leaves blocks: one without some parts learns what it did with them, the first
    of an interval what all of that did."""
    found: dict[str, tuple[str, str]] = {}
    for edit in edits:
        if edit["edit"] == "remove":
            left = [i for i, parts in edit["removed"].items() if "all" not in parts]
            found |= {(path := host.path(int(i))): (path, "blocks") for i in left}
            found |= {f"{host.path(first)}>{host.path(end - 1)}": (host.path(first), "blocks")
                      for first, end in edit.get("intervals") or ()}  # fmt: skip
        elif edit["edit"] == "pairs":
            found |= {f"{host.path(a)}>{host.path(b)}": (host.path(a), "blocks")
                      for a, b in edit["pairs"]}  # fmt: skip
        else:
            paths = [operator_path(host, i, edit["place"]) for i in edit["blocks"]]
            found |= {path: (path, edit["place"].rstrip("2")) for path in paths}
    return found


def _gates(host: Host, edits: Sequence[Mapping[str, Any]]) -> Gates:
    """Where an operator's gates come from. Raises ValueError where no module gives them."""
    found: dict[str, list[tuple[str, int] | None]] = {}
    for i, place in ((i, edit["place"]) for edit in edits if edit["edit"] == "graft"
                     for i in edit["blocks"]):  # fmt: skip
        path, joint = host.path(i), host.kind(i) in ("joint", "double")
        if not joint and host.family.name != "DiT":
            raise ValueError(f"regression: gated is for blocks whose modulation is a module; "
                             f"{path} of {host.family.name} has none, leave it out")  # fmt: skip
        image, text = (f"{path}.norm1", GATES[place]), (f"{path}.norm1_context", 1)
        ends = getattr(host.block(i), "context_pre_only", False)
        both = joint and place == "attention"
        found[operator_path(host, i, place)] = [image, *([None if ends else text] if both else ())]
    return found


@kind("graft-regression", keys=(*KEYS, "teacher", "regression"))
def _regression(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    options = _options(Regression, recipe, "regression")
    pipe, teacher = (_generator(recipe, key, device) for key in ("initial", "teacher"))
    edits, host = _edits(pipe, ("graft", "pairs", "remove"), recipe), host_of(teacher.transformer)
    _check_teacher(pipe, teacher, recipe)
    targets = _targets(host, edits)
    if not targets:
        raise ValueError(f"nothing in {recipe.initial} stands in for something: whole blocks are "
                         f"removed and no interval is kept; give one whose blocks lost parts, or "
                         f"of impasto prune --order intervals")  # fmt: skip
    kept, learnt = split_off(_latents(recipe, teacher, device), options.held_out)
    draw, check = (_batches(recipe, teacher, part) for part in (learnt, kept))
    torch.manual_seed(recipe.seed + 1)
    held_out = [check().given for _ in range(max(1, options.held_out // recipe.batch))]
    found = regress(
        teacher.transformer,
        {target: pipe.transformer.get_submodule(path) for target, (path, _) in targets.items()},
        lambda: draw().given, held_out=held_out, delta=options.delta,
        losses={target: getattr(options, what) for target, (_, what) in targets.items()},
        gates=_gates(host, edits) if options.gated else None,
        **_numbers(recipe, checkpoint, options),
    )  # fmt: skip
    _ended(pipe, out, ("regression.json", {"before": found.before, "after": found.after}))
    return found.loop


@kind("prune-distillation", keys=(*KEYS, "teacher", "distillation"))
def _distillation(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    options = _options(Distillation, recipe, "distillation")
    pipe, teacher = (_generator(recipe, key, device) for key in ("initial", "teacher"))
    edits, host = _edits(pipe, ("remove",), recipe), host_of(teacher.transformer)
    _check_teacher(pipe, teacher, recipe)
    student, blocks = pipe.transformer, [host.path(i) for i in range(host.depth)]
    removed = {path for edit in edits for i, components in edit["removed"].items()
               for each in components for path in host.modules(int(i), each)}
    if options.preserve:
        ways.preserve(student, blocks, removed)
    compression = ways.compression(student, teacher.transformer)
    multipliers = _multipliers(options, options.way(compression), host)
    factors = ways.scale_updates(student, blocks, multipliers)
    learning = sum(p.numel() for p in student.parameters() if p.requires_grad)
    shared = shared_blocks(teacher.transformer, student, blocks)
    loop = distil(
        student, teacher.transformer, _batches(recipe, teacher, _latents(recipe, teacher, device)),
        blocks, losses=options.losses, factors=factors, ema=options.ema,
        **_numbers(recipe, checkpoint, options),
    )  # fmt: skip
    _ended(pipe, out, ("distillation.json", {
        "compression": compression, "learning": learning, "shared_blocks": shared,
        "multipliers": multipliers}))  # fmt: skip
    return loop


def _multipliers(options: Distillation, way: str, host: Host) -> dict[str, float]:
    if way == "binary":
        ends = list(options.range or ())
        if len(ends) != 2:
            raise ValueError(f"distillation: range is [first, end], given {ends}")
        return ways.binary_multipliers([host.path(i) for i in range(host.depth)], *ends)
    if way == "none":
        return {}
    scores = read_contributions(str(options.scores), options.base)
    drops = {path: drop for (i, component), drop in scores.drops.items()
             for path in host.modules(i, component)}  # fmt: skip
    return ways.sensitivity_multipliers(drops, options.kappa, options.cut_off)


@kind("finetune", keys=(*KEYS, "tuning"))
def _finetune(recipe: Recipe, device: torch.device, out: Path, checkpoint: Checkpoint) -> Loop:
    options = _options(Tuning, recipe, "tuning")
    pipe = _generator(recipe, "initial", device)
    batches = _batches(recipe, pipe, _latents(recipe, pipe, device))
    loop = finetune(pipe.transformer, batches, rank=options.rank, targets=options.targets,
                    ema=options.ema, **_numbers(recipe, checkpoint, options))  # fmt: skip
    _ended(pipe, out)
    return loop
