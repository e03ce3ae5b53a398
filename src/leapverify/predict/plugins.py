"""Predictors of other packages, found through the entry points of the group `leapverify.predictors`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.predictor import Needs, Predictor, Prepares
from leapverify.trajectory.history import History

GROUP = "leapverify.predictors"
"""Each entry is a name and a function that makes the predictor of that name."""


@dataclass(frozen=True)
class HeldToOut:
    """A predictor of another package; one that does not write into `out` would be judged by what stood there before."""

    made: Predictor
    where: str

    @property
    def name(self) -> str:
        """See `Predictor.name`."""
        return self.made.name

    @property
    def needs(self) -> Needs:
        """See `Predictor.needs`."""
        return self.made.needs

    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`.

        Raises:
            ValueError: besides, other tensors came back than were given.
        """
        found = self.made.predict(history, horizon, out=out)
        given = [id(each) for each in found] if isinstance(found, Sequence) else []
        if out is not None and given != [id(each) for each in out]:
            raise ValueError(f"{self.where} did not give back the out that it was given: let it write there")
        return found

    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        if isinstance(self.made, Prepares):
            self.made.prepare(history, out)


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
    except (Exception, SystemExit) as error:  # whatever the other package raises on import
        raise ValueError(f"{where} cannot be loaded ({error}): repair or uninstall that package") from error
    if not callable(factory):
        raise ValueError(f"{where} is a {type(factory).__name__}: register a function that returns the predictor")

    @wraps(factory, assigned=(), updated=())  # only so that its own words can be found
    def make(**options: Any) -> Predictor:
        try:
            made = factory(**options)
            fits = isinstance(made, Predictor) and isinstance(made.needs, Needs) and not inspect.isclass(made)
        except ValueError:
            raise  # a refusal, in its own words
        except (Exception, SystemExit) as error:  # whatever the other package raises
            if options and isinstance(error, TypeError):
                raise  # an option that it does not take
            raise ValueError(f"{where} cannot be made ({error}): repair or uninstall that package") from error
        if not fits:
            raise ValueError(
                f"{where} made a {type(made).__name__} that is no predictor: give it name, needs (a Needs) and predict"
            )
        if made.name != name:
            raise ValueError(f"{where} calls itself {made.name!r}: its name must be that of its entry point")
        return HeldToOut(made, where)

    return make


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "an unknown package"
