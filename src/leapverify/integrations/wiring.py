"""What the callbacks of all frameworks share: checks of their options, refusals, numbers for logs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from leapverify.core.ranks import Ranks
from leapverify.leap.api import LeapVerify
from leapverify.leap.event import LeapEvent

BY_THE_FRAMEWORK = ("self", "model", "optimizer", "scheduler")
"""Arguments of LeapVerify that the callback finds for itself."""

LOGGED = (
    "similarity",
    "straightness",
    "gain",
    "steps_gained",
    "raw_loss",
    "annealed_loss",
    "heldout_passes",
    "overhead",
)
"""Numbers of an event that go into a framework's log."""


def not_installed(what: str, extra: str) -> ImportError:
    """The error to raise where a framework is missing; it holds the line that installs it."""
    return ImportError(f"{what} is not installed: pip install 'leapverify[{extra}]'")


def checked(options: Mapping[str, Any], heldout: Any) -> dict[str, Any]:
    """The engine's options, after a look at what can be told before training begins.

    Args:
        options: keyword arguments of LeapVerify.
        heldout: the held-out batches.

    Returns:
        A copy.

    Raises:
        ValueError: an option that LeapVerify has not, or that the callback finds for itself; no held-out data in a
            mode that needs them.
    """
    known = [name for name in inspect.signature(LeapVerify.__init__).parameters if name not in BY_THE_FRAMEWORK]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is unknown to LeapCallback: use {', '.join(known)}")
    mode = options.get("mode", "live")
    if heldout is None and mode in ("live", "shadow"):
        raise ValueError(
            f"LeapCallback got no held-out data, which mode {mode!r} needs: pass heldout=batches that training never "
            "sees, or use mode='monitor'"
        )
    return dict(options)


def refuse_plugin(name: str) -> None:
    """Refuse a way of training in which a leap would be undone or would reach a part of the weights alone.

    Args:
        name: of the plugin or strategy.

    Raises:
        ValueError: DeepSpeed, Megatron, or a way of sharding.
    """
    plain = name.lower().replace("_", "")
    if "deepspeed" in plain or "megatron" in plain:
        raise ValueError(
            f"{name} rewrites the weights from master copies of its own, so a leap would be undone at the next step: "
            "train without it, or leave LeapCallback out"
        )
    if "fsdp" in plain or "modelparallel" in plain or "tensorparallel" in plain:
        raise ValueError(
            f"{name} shards the weights over processes, which LeapCallback does not serve: train without it, or leave "
            "LeapCallback out"
        )


def ranks_met_by(leap: LeapVerify) -> Ranks:
    """The ranks that an engine meets; one where it is off."""
    return Ranks() if leap._driver is None else leap._driver.engine.ranks


def refuse_processes(count: int, mode: str) -> None:
    """Refuse to leap in several processes, which the engine can, but no framework has been tried with.

    Raises:
        ValueError: more than one process in mode live.
    """
    if count > 1 and mode == "live":
        raise ValueError(
            f"{count} processes train together, where leaps have not been tried under a framework: use mode='monitor' "
            "or 'shadow', or LeapVerify in a loop of your own"
        )


def numbers_of(leap: LeapVerify, effective_step: int, event: LeapEvent | None) -> dict[str, float]:
    """What goes into a framework's log: where the run is, and what an event says.

    Args:
        leap: the engine.
        effective_step: real steps, as the framework counts them, and leapt ones.
        event: the newest one; None where it has been logged already.
    """
    found = {"leap/effective_step": float(effective_step), "leap/leapt_steps": float(leap.leapt)}
    for name in LOGGED if event is not None else ():
        value = getattr(event, name)
        if value is not None:
            found[f"leap/{name}"] = float(value)
    return found
