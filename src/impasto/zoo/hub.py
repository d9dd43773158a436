"""Weights and data by a folder's path or a hub id: no other way, and nothing pickled is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["fetched", "model_folder"]

TEXTS, WEIGHTS = ("*.json", "*.txt"), ("*.safetensors",)
"""What is fetched of a hub's repository."""


def model_folder(given: str, option: str, of_a_file: str = "", *, weights: bool = True) -> Path:
    """The folder of a path or hub id.

    option: what the user calls it, for errors; of_a_file: what to do with a file, likewise.
    weights: fetch them as well. Raises ValueError for a file, and for what is neither here nor on
    the hub.
    """
    path = Path(str(given))  # an option such as 2024 arrives as a number
    if path.is_dir():
        return path
    if path.is_file():
        raise ValueError(f"{option}={given} is a file, not a folder{of_a_file}")
    return fetched(str(given), [*TEXTS, *(WEIGHTS if weights else ())],
                   f"{option}={given} is neither a folder nor to be had from the model hub"
                   )  # fmt: skip


def fetched(name: str, patterns: Sequence[str], lacking: str, *, data: bool = False) -> Path:
    """The hub's repository `name` in the local cache, of its files those that fit `patterns`.

    data: a data set, not a model. Raises ValueError of the words `lacking` and the reason.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    kind = "dataset" if data else "model"
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns), repo_type=kind))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{lacking}: {reason}") from error
