"""TTS-VAR: begin many rows, give up some at coarse steps by clusters and at fine ones by reward.

    begin b_0 rows -> clusters keep what differs -> resampling keeps by potential -> argmax reward

(arXiv 2507.18537.) At coarse steps a reward says little and a layout much; later it is the other
way round. `impasto.search.schedule` has the numbers of rows, `impasto.search.cluster` and
`impasto.search.selectors` the choices. It works on any model with previews. Where steps draw no
noise of their own (diffusion by an ODE) copies stay the same: take copies=false there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from impasto.score.base import Scorer
from impasto.search.best_of_n import check_n
from impasto.search.cluster import Cluster
from impasto.search.engine import Selector, Stop, TreeSearch
from impasto.search.reward import REWARD, TIMEOUT, Reward
from impasto.search.schedule import START, Plan, plan
from impasto.search.selectors import Best, Resample
from impasto.zoo.registry import PATCHES, SCORERS, SEARCHES, numbers

if TYPE_CHECKING:
    from impasto.score.features.patches import Patches

__all__ = ["TTSVar"]


def _named(text: str) -> Patches:
    """Patch features by name, loaded when first asked for: they bring transformers along."""
    import impasto.score.features.patches  # noqa: F401  these register

    return PATCHES.create(text)


class TTSVar(TreeSearch):
    """TTS-VAR with N = `n`.

    schedule: rows at each step for N = 1. cluster, resample: steps after which rows are chosen,
    () for none. None for any of them: the default for the model's number of steps. potential,
    lam, copies: of `Resample`. features: patch features or their name, projection: see `Cluster`.
    """

    def __init__(
        self, n: int, reward: Scorer | str = REWARD, *,
        schedule: Sequence[int] | None = None, cluster: Sequence[int] | None = None,
        resample: Sequence[int] | None = None, potential: str = "value", lam: float = 10.0,
        copies: bool = True, features: Patches | str = "clip-patches",
        projection: str | None = None, timeout: float = TIMEOUT,
        scorers: Callable[[str], Scorer] = SCORERS.create,
        patches: Callable[[str], Patches] = _named,
    ) -> None:  # fmt: skip
        """scorers, patches: how names become scorers and features. timeout: see `Reward`.

        Raises ValueError for n < 1, for a schedule and steps that do not fit each other, for an
        unknown potential, projection or name, and what `Reward` does.
        """
        self.n = check_n("tts-var", n)
        self.steps = (schedule, cluster, resample)
        if schedule is not None:
            self.plan(len(schedule))
        self.width = self.n * (START if schedule is None else schedule[0])
        judge = Reward(reward, scorers, timeout)
        self.final = Best(judge)
        self.selectors: dict[str, Selector] = {}
        if resample is None or len(resample):
            self.selectors["resample"] = Resample(judge, potential, lam, copies=copies)
        elif (potential, lam, copies) != ("value", 10.0, True):
            raise ValueError("potential, lam and copies are of resampling, and there is none")
        if cluster is None or len(cluster):
            made = patches(features) if isinstance(features, str) else features
            self.selectors["cluster"] = Cluster(made, projection)
        elif projection is not None:
            raise ValueError("projection is of clusters, and there are none")

    @property
    def needs_previews(self) -> bool:
        return True

    def plan(self, steps: int) -> Plan:
        """Rows and choices of a drawing of `steps` steps. Raises ValueError."""
        return plan(steps, self.n, *self.steps)

    def stops(self, steps: int) -> Mapping[int, Stop]:
        return {step: Stop(self.selectors[kind], keep)
                for step, (kind, keep) in self.plan(steps).stops.items()}  # fmt: skip

    def provenance(self) -> dict[str, Any]:
        names = ("schedule", "cluster", "resample")
        given = {name: "default" if value is None else list(value)
                 for name, value in zip(names, self.steps, strict=True)}  # fmt: skip
        found: dict[str, Any] = {"n": self.n} | given | self.final.provenance()
        for selector in self.selectors.values():
            found |= selector.provenance()
        return found


@SEARCHES.register("tts-var")
def tts_var(
    *, n: int = 1, schedule: Any = None, cluster: Any = None, resample: Any = None,
    potential: str = "value", lam: float = 10.0, copies: bool = True,
    features: str = "clip-patches", projection: str | None = None,
    reward: Scorer | str = REWARD, timeout: float = TIMEOUT,
    scorers: Callable[[str], Scorer] = SCORERS.create,
    patches: Callable[[str], Patches] = _named,
) -> TTSVar:  # fmt: skip
    """Begins 8 n, keeps what differs, then what the reward likes; options n, reward, schedule, …

    schedule=8/6/6/4/2/1/1 (times n), cluster=1/3 or none, resample=4/5 or none, potential=value,
    diff, max or sum; n, lam, copies, features, projection, reward, timeout.
    """
    given = {name: None if value is None else numbers(name, value, int)
             for name, value in (("schedule", schedule), ("cluster", cluster),
                                 ("resample", resample))}  # fmt: skip
    return TTSVar(n, reward, **given, potential=potential, lam=lam, copies=copies,
                  features=features, projection=projection, timeout=timeout, scorers=scorers,
                  patches=patches)  # fmt: skip
