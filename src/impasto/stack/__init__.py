"""Stacks: several steps, one recipe. Importing this registers the kinds of steps by name."""

from impasto.stack import (  # noqa: F401
    asked,
    compared,
    costed,
    drawn,
    edited,
    measured,
    studied,
    tokenized,
    trained,
)
from impasto.stack.base import STEPS, Done, Step, Tools
from impasto.stack.recipe import Stack, is_stack, load_stack
from impasto.stack.run import run_stack, trainings

__all__ = ["STEPS", "Done", "Stack", "Step", "Tools", "is_stack", "load_stack", "run_stack",
           "trainings"]  # fmt: skip
