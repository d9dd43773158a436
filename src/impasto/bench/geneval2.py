"""GenEval 2 (Kamath et al. 2025, arXiv 2512.16853): 800 prompts of 3 to 10 atoms, a picture each.

An atom is an object, a count, an attribute, a position or a verb. A prompt's score is the
geometric mean of a judge's probabilities of the right answers to its questions
(`impasto.score.tifa`), the bench's the mean over prompts (`impasto.bench.tifa_summary`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from impasto.bench.base import Bench
from impasto.bench.tifa_summary import tifa_summary
from impasto.score.geneval2 import Item2, read_items
from impasto.score.tifa import Ask
from impasto.spec import Spec
from impasto.zoo.registry import BENCHES

__all__ = ["geneval2", "geneval2_bench"]


def geneval2_bench(items: Sequence[Item2], name: str = "geneval2") -> Bench:
    """The bench of these items; a prompt's task is its number of atoms."""
    of: dict[str, Item2] = {item.prompt: item for item in items}

    def asks_of(spec: Spec) -> tuple[Ask, ...]:
        return of[spec.prompt].asks

    def atoms_of(spec: Spec) -> int:
        return of[spec.prompt].atoms

    specs = tuple(Spec(tag=f"{item.atoms} atoms", include=(), prompt=item.prompt)
                  for item in items)  # fmt: skip
    return Bench(name=name, specs=specs, samples_per_prompt=1, scorer="",
                 rule=partial(tifa_summary, asks_of=asks_of, atoms_of=atoms_of))  # fmt: skip


@BENCHES.register("geneval2")
def geneval2(path: str = "") -> Bench:
    """GenEval 2's 800 prompts, from its own file: path=FILE; judged by scorer geneval2.

    Raises ValueError without a path, or for a file that is not the official one.
    """
    return geneval2_bench(read_items(path))
