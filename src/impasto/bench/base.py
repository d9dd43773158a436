"""What a bench is: an ordered set of specs, pictures per prompt and a rule that sums verdicts up.

A bench is known by the sha256 of its texts, which are a property of its specs: two benches of one
name and different prompts cannot be mistaken for each other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from torch import Tensor

from impasto.bench.asking import Asking
from impasto.bench.layout import IncompleteError
from impasto.bench.results import Record
from impasto.bench.summary import summarise
from impasto.files import write_text
from impasto.spec import Spec

__all__ = ["Bench"]


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A named set of prompts with their demands.

    name: its registry text, "geneval:seed=44,limit=12". rule: records -> scores and tables.
    scorer, second: names of the scorers that judge it unless others are named; "" for none.
    verdicts: whether its results are right or wrong; else they are numbers.
    sources: of a spec the pictures that it is about, (3, H, W) each: to be edited, taken from or
    asked about; None where it is about none. asks: of a spec what is asked, where the results are
    answers in words. targets: of a spec the one right result, where it is known. foreign: pattern
    of files that may lie beside pictures named by keys.
    rewrites: prompt -> the text that a model is given in its place; rewriter: where from.
    """

    name: str
    specs: tuple[Spec, ...]
    samples_per_prompt: int = 4
    rule: Callable[[Sequence[Record]], dict[str, Any]] = summarise
    scorer: str = "sticker"
    second: str = "sticker-clip"
    verdicts: bool = True
    sources: Callable[[Spec], tuple[Tensor, ...]] | None = None
    asks: Callable[[Spec], Asking] | None = None
    targets: Callable[[Spec], Tensor] | None = None
    foreign: str = ""
    rewrites: Mapping[str, str] = field(default_factory=dict, repr=False)
    rewriter: Mapping[str, Any] | None = None

    @cached_property
    def given(self) -> tuple[Spec, ...]:
        """The specs with the texts that a model is given as their prompts."""
        if not self.rewrites:
            return self.specs
        return tuple(replace(spec, prompt=self.rewrites[spec.prompt]) for spec in self.specs)

    @cached_property
    def metadata_text(self) -> str:
        """`evaluation_metadata.jsonl`: one JSON object a line."""
        return _lines(spec.to_json() for spec in self.given)

    @cached_property
    def prompts_text(self) -> str:
        """`generation_prompts.txt`: one prompt a line."""
        return _lines(spec.prompt for spec in self.given)

    @property
    def keyed(self) -> bool:
        """Whether pictures drawn elsewhere are named after its items' keys."""
        return any(spec.key for spec in self.specs)

    @property
    def metadata_sha256(self) -> str:
        return hashlib.sha256(self.metadata_text.encode()).hexdigest()

    @property
    def prompts_sha256(self) -> str:
        return hashlib.sha256(self.prompts_text.encode()).hexdigest()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tags, in order of first appearance."""
        return tuple(dict.fromkeys(spec.tag for spec in self.specs))

    def provenance(self) -> dict[str, Any]:
        """What a score must be stored with."""
        return {
            "name": self.name,
            "prompts": len(self.specs),
            "samples_per_prompt": self.samples_per_prompt,
            "metadata_sha256": self.metadata_sha256,
            "prompts_sha256": self.prompts_sha256,
            **({"specs_sha256": self._specs_sha256} if self.rewrites else {}),
        }

    @property
    def _specs_sha256(self) -> str:
        """What `metadata_sha256` is without rewriting."""
        return hashlib.sha256(_lines(spec.to_json() for spec in self.specs).encode()).hexdigest()

    def stratified(self, limit: int) -> Bench:
        """The bench of `limit` prompts, spread over the tasks as evenly as their sizes allow.

        Deterministic, in this bench's order, and a smaller limit's prompts are among a larger
        one's. Raises ValueError unless 1 <= limit <= number of prompts.
        """
        if not isinstance(limit, int) or not 1 <= limit <= len(self.specs):
            raise ValueError(
                f"limit is {limit!r}; {self.name} has {len(self.specs)} prompts, "
                f"so give 1 to {len(self.specs)} or leave it out for all"
            )
        if limit == len(self.specs):
            return self
        by_task = [[i for i, s in enumerate(self.specs) if s.tag == t] for t in self.tasks]
        in_turn = [i for i in chain(*zip_longest(*by_task)) if i is not None]
        specs = tuple(self.specs[i] for i in sorted(in_turn[:limit]))
        separator = "," if ":" in self.name else ":"
        return replace(self, name=f"{self.name}{separator}limit={limit}", specs=specs)

    def export(self, folder: str | Path) -> tuple[Path, Path]:
        """Write the two official files into `folder`; their paths, metadata first."""
        paths = Path(folder) / "evaluation_metadata.jsonl", Path(folder) / "generation_prompts.txt"
        for path, text in zip(paths, (self.metadata_text, self.prompts_text), strict=True):
            write_text(path, text)
        return paths

    def summarise(
        self, records: Sequence[Record], allow_incomplete: bool = False
    ) -> dict[str, Any]:
        """The rule's scores and tables, with the bench's provenance and the coverage beside them.

        What could not be read is left out and counted. Raises IncompleteError below full coverage
        or for anything unreadable unless `allow_incomplete`, and ValueError for a record that is
        not of this bench or is there twice, or where nothing can be read.
        """
        expected = len(self.specs) * self.samples_per_prompt
        self._check(records)
        if len(records) < expected and not allow_incomplete:
            have = Counter(record.metadata for record in records)
            short = [s.prompt for s in self.specs if have[s.to_json()] < self.samples_per_prompt]
            raise IncompleteError(len(records), expected, short, what="judged pictures")
        unread = [record.filename for record in records if record.number is None]
        readable = len(records) - len(unread)
        if unread and not allow_incomplete:
            raise IncompleteError(readable, expected, unread, what="readable judgements",
                                  note=" The same command asks again.")  # fmt: skip
        if unread and not readable:
            raise ValueError("no answer of the judge could be read: there is nothing to sum up")
        coverage = {"images": readable, "of": expected}
        if unread:
            coverage["unreadable"] = len(unread)
        return {"bench": self.provenance(), "coverage": coverage} | self.rule(records)

    def _check(self, records: Sequence[Record]) -> None:
        known = {spec.to_json() for spec in self.specs}
        seen: dict[tuple[str, int], str] = {}
        for record in records:
            key = record.metadata, record.sample
            if record.metadata not in known:
                raise ValueError(f"{record.filename}: its prompt {record.prompt!r} with these "
                                 f"demands is not in {self.name}")  # fmt: skip
            if not 0 <= record.sample < self.samples_per_prompt:
                raise ValueError(f"{record.filename}: {self.name} has samples 0 to "
                                 f"{self.samples_per_prompt - 1} only")  # fmt: skip
            if self.verdicts and record.correct is None and record.value is not None:
                raise ValueError(f"{record.filename} has the value {record.value} but no verdict, "
                                 f"which {self.name} needs; take a scorer that says correct or "
                                 f"not")  # fmt: skip
            if key in seen:
                raise ValueError(f"{record.filename} and {seen[key]} are the same sample of "
                                 f"{record.prompt!r}; keep one")  # fmt: skip
            seen[key] = record.filename
