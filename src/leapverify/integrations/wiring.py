"""What the callbacks of all frameworks share: checks of their options, refusals, numbers for logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from leapverify.core.ranks import Ranks
from leapverify.leap.api import LeapVerify
from leapverify.leap.config import LeapConfig
from leapverify.leap.event import LeapEvent

INPUTS = ("heldout", "loss", "probes", "tokenizer", "config")
"""Arguments of LeapVerify beside its options that a callback passes on; it finds the others for itself."""

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
        options: options of LeapVerify, and what else it is given by name.
        heldout: the held-out batches.

    Returns:
        A copy.

    Raises:
        ValueError: an option that LeapVerify has not, or that the callback finds for itself; no held-out data in a
            mode that needs them.
    """
    known = [*INPUTS, *(field.name for field in fields(LeapConfig))]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"option {unknown[0]!r} is unknown to LeapCallback: use {', '.join(known)}")
    mode = mode_of(options)
    if heldout is None and mode in ("live", "shadow"):
        raise ValueError(
            f"LeapCallback got no held-out data, which mode {mode!r} needs: pass heldout=batches that training never "
            "sees, or use mode='monitor'"
        )
    return dict(options)


def mode_of(options: Mapping[str, Any]) -> str:
    """off, monitor, shadow or live, as the options say or the config among them."""
    return str(options.get("mode", (options.get("config") or LeapConfig()).mode))


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
