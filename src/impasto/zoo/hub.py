"""Weights by a folder's path or a hub id: no other way, and nothing pickled is taken."""

from __future__ import annotations

from pathlib import Path

__all__ = ["model_folder"]

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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        wanted = [*TEXTS, *(WEIGHTS if weights else ())]
        return Path(snapshot_download(str(given), allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ValueError(f"{option}={given} is neither a folder nor to be had from the model hub: "
                         f"{str(error).splitlines()[0]}") from error  # fmt: skip
