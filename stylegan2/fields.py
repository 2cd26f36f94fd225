"""Settings and options as dataclasses whose values are checked where they come in, whether from a
command line, a file or Python.
"""

import math
import types
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


def flag(name: str) -> Any:
    """For an annotation: what the command line calls a field whose name Python will not have."""
    try:
        from tyro.conf import arg
    except ImportError:  # without the [train] extra there is no command line
        return None
    return arg(name=name)


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included unless `above` leaves `low` out."""

    low: int | float
    high: int | float
    above: bool = False

    def __contains__(self, value: int | float) -> bool:
        return (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        low, high = f"{self.low:,.10g}", f"{self.high:,.10g}"
        return f"greater than {low} and at most {high}" if self.above else f"from {low} to {high}"


def check_fields(settings: Any) -> None:
    """Check every field of a dataclass against its annotation: its type, for a number its `Range`,
    for a Literal its choices; numbers are finite, texts and lists not empty.

    Raises:
        ValueError: a value does not fit; the message names the field, the value and what fits.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for field in fields(settings):
        value = getattr(settings, field.name)
        why = misfit(value, hints[field.name])
        if why:
            raise ValueError(f"{field.name} is {shown(value)}: it must be {why}")


def misfit(value: Any, hint: Any, allowed: Range | None = None) -> str:
    """What a value must be that does not fit an annotation; nothing for one that fits."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        allowed = next((found for found in arguments[1:] if isinstance(found, Range)), allowed)
        return misfit(value, arguments[0], allowed)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return ""
        reasons = [misfit(value, kind, allowed) for kind in arguments if kind is not type(None)]
        return "" if "" in reasons else reasons[0]
    if origin is Literal:
        return "" if value in arguments else f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return misfit_of_tuple(value, arguments, allowed)
    if is_dataclass(hint):  # which checks itself
        return ""
    return misfit_of_one(value, hint, allowed)


def misfit_of_tuple(value: Any, arguments: tuple[Any, ...], allowed: Range | None) -> str:
    """As `misfit`, for a list with one kind of entry, or with a kind for each place."""
    if not isinstance(value, tuple) or not value:
        return "a list with something in it"
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        return f"a list of {len(arguments)}"
    return first(misfit(v, a, allowed) for v, a in zip(value, arguments, strict=True))


def misfit_of_one(value: Any, kind: type, allowed: Range | None) -> str:
    """As `misfit`, for a truth value, a number, a text or a path."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
             Path: "a path"}
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):
        return names[kind]
    if kind is str and not value.strip():
        return "a text that is not empty"
    if kind is float and not math.isfinite(value):
        return "a finite number"
    if allowed is not None and value not in allowed:
        return str(allowed)
    return ""


def first(reasons: Iterable[str]) -> str:
    """The first that says something."""
    return next((reason for reason in reasons if reason), "")


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return (text if len(text) <= 60 else text[:57] + "…") or "empty"


Count = Annotated[int, Range(1, 10**12)]
"""Of images, steps, bytes."""
Few = Annotated[int, Range(1, 1000)]
"""Of rows, columns, keyframes: what a person looks at."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
Colour = tuple[Annotated[int, Range(0, 255)], Annotated[int, Range(0, 255)],
               Annotated[int, Range(0, 255)]]
"""Red, green, blue."""
Psi = Annotated[float, Range(-100, 100)]
"""Truncation ψ; negative for the opposite of a latent."""
