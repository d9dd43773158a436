"""A model's card: what it is, what made it, and how to tell that these are its bytes.

`README.md` beside the weights, with the front matter that model hubs read. `impasto train` writes
it; what was measured afterwards is added below by hand, each figure with its command.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from impasto import files

__all__ = ["card", "hashes", "write_card"]

LICENCE = """\
CC BY-SA 4.0: trained only on pictures of the sticker world, whose drawings are OpenMoji's
(openmoji.org, CC BY-SA 4.0), recoloured and composed by impasto, and impasto's own. See NOTICE.md.
"""


def hashes(folder: str | Path) -> dict[str, str]:
    """Path below `folder` -> sha256, of every safetensors file in it but a training's checkpoints,
    which go when it is done."""
    folder = Path(folder)
    inside = (path.relative_to(folder) for path in sorted(folder.rglob("*.safetensors")))
    return {path.as_posix(): files.sha256_file(folder / path)
            for path in inside if "checkpoint" not in path.parts}  # fmt: skip


def _facts(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    recipe = record["recipe"]
    return [("command", f"`{record['command']}`"), ("steps", record["steps"]),
            ("pictures seen", f"{record['images']:,}"),
            ("scenes drawn", f"{recipe['scenes']:,} from seed {recipe['data_seed']}, "
                             f"split {recipe['split']}"),
            ("training seed", recipe["seed"]), ("seconds", record["seconds"]),
            ("device", record["device"]), ("torch", record["torch"])]  # fmt: skip


def card(name: str, record: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    """The card's text. record: `training.json`. sums: file -> sha256."""
    front = yaml.safe_dump({"license": "cc-by-sa-4.0", "library_name": "impasto",
                            "tags": ["text-to-image", record["recipe"]["kind"]]})  # fmt: skip
    facts = "\n".join(f"| {key} | {value} |" for key, value in _facts(record))
    rows = "\n".join(f"| `{file}` | `{digest}` |" for file, digest in sums.items())
    recipe = yaml.safe_dump(dict(record["recipe"]), sort_keys=False)
    return (f"---\n{front}---\n\n# {name}\n\n| made by | |\n|---|---|\n{facts}\n\n"
            f"```yaml\n{recipe}```\n\n| file | sha256 |\n|---|---|\n{rows}\n\n"
            f"## Licence\n\n{LICENCE}\n## Measured\n")  # fmt: skip


def write_card(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Write `folder`/README.md from its weights and `record`; returns its path."""
    folder = Path(folder)
    files.write_text(folder / "README.md", card(folder.name, record, hashes(folder)))
    return folder / "README.md"
