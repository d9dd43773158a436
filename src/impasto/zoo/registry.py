"""Names for things (models, benches, scorers, …), each registered by decorator.

Options in a name follow a colon: "best-of-n:n=4,reward=sticker-clip". A value that is a name with
several options of its own stands in parentheses: "best-of-n:reward=(geneval:detector=A,clip=B)".
Several numbers have / between them: "tts-var:schedule=8/4/2/1".
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import yaml

__all__ = ["BENCHES", "FEATURES", "JUDGES", "MODELS", "PATCHES", "PERCEPTUAL", "SCORERS",
           "SEARCHES", "TOKENIZERS", "Origin", "Registry", "nearest", "numbers",
           "parse_options"]  # fmt: skip

T = TypeVar("T")
N = TypeVar("N", int, float)


def nearest(given: str, allowed: list[str]) -> str:
    """The tail of an error message: what was probably meant, then all that is allowed."""
    close = difflib.get_close_matches(given, allowed, n=3, cutoff=0.4)
    known = ", ".join(sorted(allowed)) or "none"
    if not close:
        return f"allowed: {known}."
    return f"did you mean {' or '.join(map(repr, close))}? Allowed: {known}."


class Origin(NamedTuple):
    """Where weights come from. published: whether others' can be loaded by the name, as `impasto
    convert` or a library leaves them. trained: kinds of recipes that make what it loads."""

    published: bool = False
    trained: tuple[str, ...] = ()


class Registry(Generic[T]):
    """A table from name to factory. `kind` is the noun used in error messages."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}
        self._origins: dict[str, Origin] = {}

    def register(
        self, name: str, *, published: bool = False, trained: tuple[str, ...] = ()
    ) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Decorator: make the decorated class or function available as `name`; see `Origin`."""

        def decorate(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._factories:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._factories[name] = factory
            self._origins[name] = Origin(published, trained)
            return factory

        return decorate

    def __contains__(self, name: str) -> bool:
        return name in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._factories))

    def describe(self, name: str) -> str:
        """First line of the registered thing's docstring."""
        return (inspect.getdoc(self.factory(name)) or "").split("\n", 1)[0]

    def origin(self, name: str) -> Origin:
        """Where the weights of a registered name come from."""
        return self._origins[name]

    def factory(self, name: str) -> Callable[..., T]:
        """What was registered as `name`. Raises ValueError with the nearest names."""
        if name not in self._factories:
            raise ValueError(f"unknown {self.kind} {name!r}: {nearest(name, list(self))}")
        return self._factories[name]

    def create(self, text: str, **context: Any) -> T:
        """Build from "name" or "name:key=value,key=value"; `context` goes in beside the options.

        Raises ValueError for an unknown name, an unknown key, one given twice or one that is
        needed and not given.
        """
        factory, options = self.parsed(text, context)
        return factory(**context, **options)

    def parsed(
        self, text: str, context: Collection[str] = ()
    ) -> tuple[Callable[..., T], dict[str, Any]]:
        """What `create` would call and by which options, with its errors; context: keys."""
        name, _, rest = text.partition(":")
        factory = self.factory(name)
        options = parse_options(rest, where=f"{self.kind} {name!r}")
        parameters = inspect.signature(factory).parameters
        allowed = [p for p in parameters if p not in context]
        for key in options:
            if key not in allowed:
                raise ValueError(f"unknown key {key!r} for {self.kind} {name!r}: "
                                 f"{nearest(key, allowed)}")  # fmt: skip
        for key in self.needs(name):
            if key in allowed and key not in options:
                raise ValueError(f"{self.kind} {name!r} needs {key!r}: {name}:{key}=…")
        return factory, options

    def needs(self, name: str) -> list[str]:
        """The options that a registered name cannot do without."""
        parameters = inspect.signature(self.factory(name)).parameters
        return [key for key, parameter in parameters.items() if _required(parameter)]


def _required(parameter: inspect.Parameter) -> bool:
    variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variadic


def parse_options(text: str, where: str) -> dict[str, Any]:
    """"n=4,reward=clip" as {"n": 4, "reward": "clip"}; values are YAML scalars, those in
    parentheses text."""
    options: dict[str, Any] = {}
    while text := text.lstrip(","):
        key, equals, value = text.partition("=")
        if not equals or not key or "," in key:
            raise ValueError(f"{where}: {text.partition(',')[0]!r} is not key=value")
        if key in options:
            raise ValueError(f"{where}: key {key!r} is given twice")
        if value.startswith("("):
            options[key], text = _in_parentheses(value, where)
        else:
            value, _, text = value.partition(",")
            options[key] = yaml.safe_load(value)
    return options


def _in_parentheses(text: str, where: str) -> tuple[str, str]:
    """What the first parentheses of "(a(b)c),d" hold, and what follows them."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            inside, rest = text[1:i], text[i + 1 :]
            if rest and not rest.startswith(","):
                raise ValueError(f"{where}: {rest[:40]!r} follows a closing parenthesis; allowed: "
                                 f"a comma")  # fmt: skip
            return inside, rest
    raise ValueError(f"{where}: the parenthesis of {text[:40]!r} is not closed")


def numbers(name: str, given: Any, kind: type[N]) -> tuple[N, ...]:
    """"8/6/4", 8 or a list as numbers; "none" as (). Raises ValueError for anything else."""
    parts = given
    if isinstance(given, str):
        parts = [] if given == "none" else given.split("/")
    elif isinstance(given, int | float):
        parts = [given]
    try:
        return tuple(kind(str(part)) for part in parts)
    except (TypeError, ValueError):
        of = "integers" if kind is int else "numbers"
        raise ValueError(f"{name} must be {of} with / between them, given {given!r}") from None


MODELS: Registry[Any] = Registry("model")
SCORERS: Registry[Any] = Registry("scorer")
SEARCHES: Registry[Any] = Registry("search")
BENCHES: Registry[Any] = Registry("bench")
JUDGES: Registry[Any] = Registry("judge")
FEATURES: Registry[Any] = Registry("feature extractor")
PATCHES: Registry[Any] = Registry("patch features")
PERCEPTUAL: Registry[Any] = Registry("perceptual distance")
TOKENIZERS: Registry[Any] = Registry("tokenizer")
