"""The sticker world: GenEval's vocabulary as pictures that are exact by construction."""

from impasto.world.alter import alter, alterations
from impasto.world.render import Packed, Rendered, Renderer, pack, render
from impasto.world.scenes import Background, Placed, Scene, compose
from impasto.world.splits import Split
from impasto.world.sprites import Sprites
from impasto.world.tasks import sample_spec

__all__ = [
    "Background",
    "Packed",
    "Placed",
    "Rendered",
    "Renderer",
    "Scene",
    "Split",
    "Sprites",
    "alter",
    "alterations",
    "compose",
    "pack",
    "render",
    "sample_spec",
]
