"""Predictors of other packages, found through the entry points of the group `leapverify.predictors`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from leapverify.predict.predictor import Needs, Predictor

GROUP = "leapverify.predictors"
"""Each entry is a name and a function that makes the predictor of that name."""


@cache
def plugins() -> dict[str, EntryPoint]:
    """Name -> entry point of what is installed; nothing is imported. Of equal names the first is taken."""
    found: dict[str, EntryPoint] = {}
    for each in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        found.setdefault(each.name, each)
    return found


def plugin(name: str) -> Callable[..., Predictor]:
    """The factory of an installed predictor, which checks what comes out of it.

    Args:
        name: one of `plugins()`.

    Raises:
        ValueError: the package cannot be imported, or what it registered is no factory.
    """
    entry = plugins()[name]
    where = f"predictor {name} of {_package(entry)} ({entry.value})"
    try:
        factory = entry.load()
    except Exception as error:  # whatever the other package raises on import
        raise ValueError(f"{where} cannot be loaded ({error}): repair or uninstall that package") from error
    if not callable(factory):
        raise ValueError(f"{where} is a {type(factory).__name__}: register a function that returns the predictor")

    def make(**options: Any) -> Predictor:
        try:
            made = factory(**options)
        except ValueError:
            raise  # a refusal, in its own words
        except Exception as error:  # whatever the other package raises
            raise ValueError(f"{where} cannot be made ({error}): repair or uninstall that package") from error
        if not isinstance(made, Predictor) or not isinstance(made.needs, Needs):
            raise ValueError(
                f"{where} made a {type(made).__name__} that is no predictor: give it name, needs (a Needs) and predict"
            )
        if made.name != name:
            raise ValueError(f"{where} calls itself {made.name!r}: its name must be that of its entry point")
        return made

    return make


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown package"
