"""The scorers of the sticker world: networks trained on it, loaded from the package.

The networks' libraries load when a scorer is made, not when this module is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from impasto.files import sha256_file
from impasto.score.verdict import Thresholds
from impasto.zoo.registry import SCORERS
from impasto.zoo.weights import shipped_folder

if TYPE_CHECKING:
    from impasto.score.clip import ClipScorer
    from impasto.score.geneval import GenEvalScorer
    from impasto.score.match import MatchScorer

__all__ = ["sticker", "sticker_clip", "sticker_match", "sticker_plus"]

CLIP = "sticker-clip"
THRESHOLD = 0.3
"""GenEval's. The sticker detector gives an object one class, so counting needs no stricter limit;
0.1 to 0.3 judge 600 scenes of the training seed alike, but for one in a hundred of a task."""
DETECTOR = "sticker-detector"
MATCH = "sticker-match"


def _hashes(name: str) -> dict[str, str]:
    """"NAME/FILE" -> sha256 of the shipped weights called `name`."""
    return {f"{name}/{path.name}": sha256_file(path)
            for path in sorted(shipped_folder(name).glob("*.safetensors"))}  # fmt: skip


def _scorer(name: str, rule: str, limits: Thresholds, device: str) -> GenEvalScorer:
    folder, weights = shipped_folder(CLIP), _hashes(DETECTOR) | _hashes(CLIP)
    from impasto.score.clip import load_clip
    from impasto.score.color import ClipColorClassifier
    from impasto.score.geneval import GenEvalScorer
    from impasto.score.voting import VotingDetector

    model, tokenizer, _ = load_clip(folder, device)
    colors = ClipColorClassifier(model, tokenizer)
    detector = VotingDetector.from_pretrained(shipped_folder(DETECTOR), device)
    return GenEvalScorer(detector, colors, limits, name=name, weights=weights, rule=rule)


@SCORERS.register("sticker")
def sticker(
    *, threshold: float = THRESHOLD, counting_threshold: float = THRESHOLD, device: str = "cpu"
) -> GenEvalScorer:
    """GenEval's verdict on sticker-world pictures, by the small detector and CLIP.

    threshold, counting_threshold: GenEval's knobs. Raises FileNotFoundError when the weights are
    not in this installation.
    """
    limits = Thresholds(threshold=threshold, counting_threshold=counting_threshold)
    return _scorer("sticker", "GenEval", limits, device)


@SCORERS.register("sticker-plus")
def sticker_plus(*, threshold: float = THRESHOLD, device: str = "cpu") -> GenEvalScorer:
    """GenEval++'s demands (numbers, halves, sizes) judged by rule on sticker-world pictures.

    threshold: of objects. Raises FileNotFoundError when the weights are not in this installation.
    """
    limits = Thresholds(threshold=threshold, counting_threshold=threshold)
    return _scorer("sticker-plus", "GenEval++", limits, device)


@SCORERS.register(CLIP)
def sticker_clip(*, device: str = "cpu") -> ClipScorer:
    """100 times the cosine of picture and prompt, by the CLIP trained on the sticker world.

    Raises FileNotFoundError when the weights are not in this installation.
    """
    folder = shipped_folder(CLIP)
    from impasto.score.clip import ClipScorer

    return ClipScorer.from_folder(folder, name=CLIP, device=device)


@SCORERS.register(MATCH)
def sticker_match(*, weights: str = MATCH, device: str = "cpu") -> MatchScorer:
    """Log-odds that a picture shows its prompt: a search's reward that is not the judge.

    weights: a folder of a recipe of kind match, or the name of what ships. Raises
    FileNotFoundError when it is neither a folder nor in this installation.
    """
    folder = weights if Path(weights).is_dir() else shipped_folder(weights)
    from impasto.score.match import MatchScorer

    return MatchScorer.from_folder(folder, name=MATCH, device=device)
