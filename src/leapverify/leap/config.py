"""The options of `LeapVerify`, listed and checked in one place."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import torch

from leapverify.core.ranks import PATIENCE_S
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.ledger import Clock
from leapverify.leap.policy.base import Policy
from leapverify.observe import Thresholds
from leapverify.trajectory.history import STORAGE
from leapverify.verify.comparison import CRITERIA
from leapverify.verify.sequential import MINIMUM, PairedTest

Mode = Literal["off", "monitor", "shadow", "live"]
AfterSchedule = Literal["advance", "keep"]
AfterMoments = Literal["keep", "reset"]

AUTO_BUDGET = 0.01
"""Share of the run's time that the policy `auto` may spend unless it is told otherwise."""
PER_RANK = ("include", "log", "loggers", "mesh", "patience_s")
"""Options in which ranks may differ, or which cannot be compared; all others must be equal on every rank."""


@dataclass(frozen=True)
class LeapConfig:
    """The options of `LeapVerify`; the meaning and unit of each stand beside it in this file and in `meanings()`.

    Raises:
        ValueError: a value that is unknown or makes no sense; the message names the remedy.

    Example:
        >>> config = LeapConfig(mode="shadow", policy="fixed", predictor="linear", horizon=20)
        >>> config.interval, config.alpha
        (50, 0.05)
        >>> LeapConfig(interval=0)
        Traceback (most recent call last):
        ValueError: interval is 0: give a whole number of at least 1
    """

    # When to act
    mode: Mode = "live"
    """`off`; `monitor`, fingerprints and regimes; `shadow`, also predictions and verdicts, never carried out; `live`.
    """
    interval: int = 50
    """Delta, real steps between checkpoints."""
    total_steps: int | None = None
    """Effective steps of the whole run, if known: no leap goes beyond."""
    leap_in_decay: bool = False
    """Leap in the schedule's final decay too."""

    # What to predict
    policy: str | Policy = "auto"
    """`auto`, `fixed`, `line-search`, or an object with the methods of `Policy`."""
    predictor: str | None = None
    """The predictor of `fixed` and `line-search`, or the only one of `auto`."""
    predictors: Sequence[str] | None = None
    """Those that `auto` may use."""
    horizon: int | None = None
    """K of `fixed`, the first K of `line-search`, the only one of `auto`, steps; None: from the interval."""
    horizons: Sequence[int] | None = None
    """The only Ks that `auto` may use, steps; None: half the interval and its doublings."""
    include: Callable[[str], bool] | None = None
    """Whether the parameter of a name is predicted; None: all that are trained."""

    # What to observe
    layer: str | None = None
    """Name of the module whose output is the fingerprint; None: the last norm, else the input of the head."""
    thresholds: Thresholds | None = None
    """How similarities become regimes; None: learnt while the run goes on."""

    # How to verify
    alpha: float = 0.05
    """Rate of false accepts of a verdict."""
    sequences: int = 256
    """Most held-out sequences of one verdict."""
    criterion: str = "paired"
    """`paired`, the sequential test; `strict`; and the controls `always` and `never`."""
    seed: int = 0
    """Seed of the random numbers that the held-out data draw."""

    # After an accepted leap of K steps
    schedule: AfterSchedule = "advance"
    """`advance` the schedulers by K steps, or `keep` them."""
    moments: AfterMoments = "keep"
    """`keep` the optimizer's moments, or `reset` them with their step counts."""

    # Budget
    budget: float | None = None
    """Share of the run's time that may be spent; None: 0.01 for `auto` where it predicts, no limit else. Half of the
    time that leaps have saved may be spent beyond it."""
    clock: Clock = "wall"
    """What the budget counts: `wall` seconds, or forward `tokens`, with which decisions repeat exactly."""
    step_tokens: float | None = None
    """Forward-token equivalents of one training step (3 x its positions, on all ranks), for the clock `tokens`."""

    # Memory
    history_device: str | None = None
    """None: snapshots beside the weights; `cpu`: in (pinned) host memory."""
    history_dtype: torch.dtype = torch.float32
    """float32, or bfloat16 for half the memory: differences then carry 0.4 % rounding of each weight."""
    anneal: AnnealMemory | bool | None = None
    """Which averages are kept for `anneal()`: an `AnnealMemory`, True for its defaults, None for none."""

    # Logging
    log: str | os.PathLike[str] | None = None
    """File that events are appended to, one JSON object a line."""
    loggers: Any = ()
    """One or several objects with `log(dict, step)`: tensorboard writers, wandb or trackio runs, mlflow."""

    # Ranks
    mesh: Any = None
    """On several ranks, the data-parallel DeviceMesh: ranks at the same place in it run the same data. None: it follows
    from the model. With DistributedDataParallel, and where nothing is distributed but the process, every rank runs data
    of its own. With `fully_shard` the mesh is its own (both dimensions of a HSDP mesh), so that tensor-parallel ranks
    run the same. With tensor-parallel parameters alone all ranks of their mesh do. Give it where the mesh of the
    parameters has a data-parallel dimension too."""
    patience_s: float = PATIENCE_S
    """On several ranks, seconds that one waits for the others in a collective call before it gives up."""

    def __post_init__(self) -> None:
        for name, known in (
            ("mode", get_args(Mode)),
            ("schedule", get_args(AfterSchedule)),
            ("moments", get_args(AfterMoments)),
            ("criterion", CRITERIA),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: use one of {', '.join(known)}")
        for name in ("interval", "sequences"):
            if not _is_whole(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}: give a whole number of at least 1")
        if self.criterion == "paired" and self.sequences < MINIMUM:
            raise ValueError(
                f"sequences is {self.sequences}: the paired test looks at {MINIMUM} of them first, so give at least as "
                "many"
            )
        if self.total_steps is not None and not _is_whole(self.total_steps):
            raise ValueError(
                f"total_steps is {self.total_steps!r}: give the optimizer steps of the whole run, a whole number"
            )
        if self.history_dtype not in STORAGE:
            raise ValueError(f"history_dtype {self.history_dtype} is not kept: use float32, float16 or bfloat16")
        _require_device(self.history_device)
        if not _is_number(self.alpha):
            raise ValueError(f"alpha is {self.alpha!r}: give a number between 0 and 0.5, such as 0.05")
        PairedTest(self.alpha)
        self._check_budget()

    def _check_budget(self) -> None:
        budget, step_tokens = self.budget, self.step_tokens
        if self.clock not in get_args(Clock):
            raise ValueError(f"clock {self.clock!r} is unknown: use wall or tokens")
        if budget is not None and not (_is_number(budget) and budget > 0.0):
            raise ValueError(f"budget is {budget!r}: give a share of the run's time above 0 and up to 1, such as 0.01")
        if budget is not None and 1.0 < budget < math.inf:
            raise ValueError(
                f"budget {budget} is no share of the run's time: give one above 0 and up to 1, such as 0.01"
            )
        if step_tokens is not None and not _is_number(step_tokens):
            raise ValueError(f"step_tokens is {step_tokens!r}: give a number, 3 x the positions of one training step")
        if step_tokens is not None and not 0.0 < step_tokens < math.inf:
            raise ValueError(f"step_tokens {step_tokens} is no cost of a training step: give 3 x its positions")
        if self.clock == "tokens" and step_tokens is None:
            raise ValueError("clock 'tokens' needs step_tokens: give 3 x the positions of one training step")

    @classmethod
    def of(cls, config: LeapConfig | None, options: Mapping[str, Any]) -> LeapConfig:
        """A config with some options in place of its own; of the defaults where there is none.

        Raises:
            TypeError: an unknown option; the message names the nearest one.
            ValueError: a value that is unknown or makes no sense.
        """
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
                raise TypeError(f"unknown option {name!r}: did you mean {near!r}? LeapConfig lists all options")
        return replace(cls() if config is None else config, **options)

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """Each option's name with its meaning and unit, as they stand in this file.

        Example:
            >>> LeapConfig.meanings()["interval"]
            'Delta, real steps between checkpoints.'
        """
        found: dict[str, str] = {}
        for node, text in pairwise(ast.parse(inspect.getsource(cls)).body[0].body):  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(text, ast.Expr):
                found[ast.unparse(node.target)] = " ".join(ast.literal_eval(text.value).split())
        return found

    @property
    def shared(self) -> dict[str, Any]:
        """What every rank has to be given alike, as plain values."""
        every = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in PER_RANK}
        every |= {"policy": self.policy_name, "thresholds": repr(self.thresholds), "anneal": self.anneal_memory}
        return {**every, "history_dtype": str(self.history_dtype)}

    @property
    def tries(self) -> bool:
        """Whether predictions are made at all."""
        return self.mode in ("shadow", "live")

    @property
    def policy_name(self) -> str:
        """The policy's name, also where it is an object."""
        return str(getattr(self.policy, "name", self.policy))

    @property
    def spendable(self) -> float | None:
        """Share of the run's time that may be spent; None for no limit."""
        if self.budget is None:
            return AUTO_BUDGET if self.tries and self.policy_name == "auto" else None
        return None if math.isinf(self.budget) else self.budget

    @property
    def anneal_memory(self) -> AnnealMemory | None:
        """Which averages are kept; None for none."""
        return AnnealMemory() if self.anneal is True else (self.anneal or None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_device(name: object) -> None:
    """Refuse what is neither None nor the name of a device in this machine that holds memory."""
    if name is None:
        return
    try:
        if not isinstance(name, str) or torch.device(name).type == "meta":
            raise ValueError("no memory")
        torch.empty(0, device=name)
    except Exception as error:  # what torch raises depends on how it was built
        raise ValueError(
            f"history_device is {name!r}, which holds no memory here: give None for beside the weights, or 'cpu'"
        ) from error
