"""The arms of a race: what each does to the learning rate and the weights, and what it needs of the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from leapverify.analysis.race.arms import ALWAYS, BASELINE, SHORTENED, VERIFIED, is_of_predictor
from leapverify.errors import hint

DECAYS = (0.05, 0.1, 0.2, 0.4)
"""Shares of the steps over which WSD decays, among which tuning chooses."""
FIRST_DECAY = 0.2
"""The share at which WSD's learning rate is tuned."""
EMA_WINDOWS = (0.01, 0.02, 0.05, 0.1)
"""Time constants of EMA, shares of the steps."""
LAWA_WINDOWS = (0.05, 0.1, 0.2)
"""Spans of LAWA, shares of the steps."""
LAWA_STATES = 10
"""States in LAWA's mean."""
ANNEAL_WINDOWS = (0.05, 0.1, 0.2)
"""Spans of the states that `anneal` keeps, shares of the steps."""
ANNEAL_STATES = 8
"""States that `anneal` keeps."""
LOOKAHEAD_STEPS, LOOKAHEAD_ALPHA = 5, 0.5
FIXED_PREDICTOR = "linear"
"""Of the policy `fixed`, whose K is one interval."""

SCHEDULE_FREE_MISSING = (
    "the package schedulefree is missing, so the arm schedule-free is left out: pip install 'leapverify[race]'"
)

Shape = Literal["task", "wsd", "constant", "none"]
Reported = Literal["plain", "ema", "lawa", "lookahead", "schedule-free", "leap", "anneal"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train, compared with the others on the same seeds."""

    name: str
    schedule: Shape = "task"
    """task: the shape of the task's own baseline; none: the optimizer has its own."""
    tuned_as: str = BASELINE
    """The arm whose tuned learning rate and setting it takes."""
    factor: float = 1.0
    """Of that learning rate."""
    read: Reported = "plain"
    """How the weights whose loss is reported come about."""
    leap: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the engine."""
    needs: tuple[str, ...] = ()
    """Arms without which it says nothing."""
    optimizers: tuple[str, ...] | None = None
    """None: every one."""


_FIXED: Mapping[str, Any] = {"policy": "fixed", "predictor": FIXED_PREDICTOR, "leap_in_decay": True}
_AUTO: Mapping[str, Any] = {"policy": "auto"}

_TABLE = (
    Arm(BASELINE),
    Arm("lr-x0.5", factor=0.5),
    Arm("lr-x2", factor=2.0),
    Arm("lr-x4", factor=4.0),
    Arm("wsd", "wsd", "wsd"),
    Arm("constant", "constant", "constant"),
    Arm("anneal", "constant", "anneal", read="anneal", needs=("wsd",)),
    Arm("schedule-free", "none", "schedule-free", read="schedule-free", optimizers=("adamw",)),
    Arm("ema", "constant", "ema", read="ema"),
    Arm("lawa", "constant", "lawa", read="lawa"),
    Arm("lookahead", read="lookahead"),
    Arm("always-accept", read="leap", leap={**_FIXED, "criterion": "always"}),
    Arm("always-reject", read="leap", leap={**_FIXED, "criterion": "never"}),
    Arm("leap-fixed", read="leap", leap=_FIXED),
    Arm("leap-line-search", read="leap", leap={"policy": "line-search", "leap_in_decay": True}),
    Arm("leap-auto", read="leap", leap=_AUTO),
    Arm("shadow", read="leap", leap={**_AUTO, "mode": "shadow"}),
)

ARMS: Mapping[str, Arm] = {arm.name: arm for arm in _TABLE}
"""Name -> arm, in the order in which a seed runs them."""

LEAPING = tuple(arm.name for arm in _TABLE if arm.leap and "mode" not in arm.leap and arm.name != "always-reject")
"""Those that may take fewer real steps: each has a control of its own, the baseline's schedule shortened to them."""

CONTROLS: Mapping[str, Arm] = {
    **{SHORTENED + name: Arm(SHORTENED + name, needs=(name,)) for name in LEAPING},
    SHORTENED + "anneal": Arm(SHORTENED + "anneal", "wsd", "wsd", needs=("anneal", "wsd")),
}
"""The decisive controls: they train what the arm before the colon has saved, and nothing else."""


def arms_of(predictor: str) -> tuple[str, str]:
    """The two arms of a predictor: `always:NAME` and `leap:NAME`, at every checkpoint by one interval."""
    return ALWAYS + predictor, VERIFIED + predictor


def _of_predictor(name: str) -> Arm:
    if name.startswith(SHORTENED):
        return Arm(name, needs=(name.removeprefix(SHORTENED),))
    mark = ALWAYS if name.startswith(ALWAYS) else VERIFIED
    leap = {**_FIXED, "predictor": name.removeprefix(mark)}
    return Arm(name, read="leap", leap={**leap, "criterion": "always"} if mark == ALWAYS else leap)


def arm_named(name: str) -> Arm:
    """The arm or control of that name.

    Raises:
        ValueError: there is none.
    """
    if is_of_predictor(name):
        return _of_predictor(name)
    known = {**ARMS, **CONTROLS}
    if name not in known:
        raise ValueError(f"there is no arm {name!r}: {hint(name, known, listed=ARMS)}")
    return known[name]


def with_needs(names: Iterable[str] | None, predictors: Iterable[str] = ()) -> tuple[str, ...]:
    """The chosen arms, the baseline and all that they need, in the order in which a seed runs them.

    Args:
        names: of arms; None: every one but those of predictors.
        predictors: whose two arms each are added.

    Raises:
        ValueError: an unknown name.
    """
    own = dict.fromkeys(arm for each in predictors for arm in arms_of(each))
    if names is None:
        return (*ARMS, *own)
    wanted, waiting = {BASELINE: None}, list(names)[::-1]
    while waiting:
        arm = arm_named(waiting.pop())
        wanted[arm.name] = None
        waiting += [name for name in arm.needs if name not in wanted]
    own = dict.fromkeys([*filter(is_of_predictor, wanted), *own])
    return (*(name for name in ARMS if name in wanted), *(name for name in own if not name.startswith(SHORTENED)))


def arms_for(names: Iterable[str] | None, optimizer: str, predictors: Iterable[str] = ()) -> tuple[str, ...]:
    """Those of the chosen arms that run with an optimizer on this machine."""
    return tuple(
        name
        for name in with_needs(names, predictors)
        if (fits := arm_named(name).optimizers) is None or optimizer in fits
        if name != "schedule-free" or has_schedule_free()
    )


def controls_of(arms: Iterable[str]) -> list[str]:
    """The controls that some arms ask for."""
    present = dict.fromkeys(arms)
    known = [name for name, control in CONTROLS.items() if present.keys() >= {*control.needs}]
    return [*known, *(SHORTENED + name for name in present if is_of_predictor(name))]


def has_schedule_free() -> bool:
    """Whether the library schedulefree is installed."""
    return importlib.util.find_spec("schedulefree") is not None


def values_of(name: str) -> tuple[float, ...]:
    """What tuning chooses among for an arm beside the learning rate; empty where there is nothing."""
    return {"wsd": DECAYS, "ema": EMA_WINDOWS, "lawa": LAWA_WINDOWS, "anneal": ANNEAL_WINDOWS}.get(name, ())


def setting_of(name: str, value: float | None, steps: int, interval: int) -> str:
    """What a record says of an arm beside its learning rate.

    Args:
        name: of the arm.
        value: the tuned setting.
        steps: planned.
        interval: Delta, steps.
    """
    arm = arm_named(name)
    if name.startswith(SHORTENED):
        return f"{steps} steps"
    if name == "wsd":
        return f"decay {value:g}"
    if name in ("ema", "lawa", "anneal"):
        return f"window {span(value, steps)}"
    if name == "lookahead":
        return f"k {LOOKAHEAD_STEPS}, alpha {LOOKAHEAD_ALPHA:g}"
    if arm.leap.get("policy") == "fixed":
        return f"{arm.leap['predictor']}, K {interval}"
    return ""


def span(share: float | None, steps: int) -> int:
    """A share of the steps in steps, at least 1."""
    assert share is not None
    return max(1, round(share * steps))
