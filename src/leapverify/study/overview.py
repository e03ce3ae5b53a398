"""The presets side by side: what each costs, and what of it fits a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.study.cost import Cost, cost, vocabulary_of
from leapverify.study.machine import Machine, duration
from leapverify.study.memory import GB
from leapverify.study.memory_remedies import Option, options
from leapverify.study.memory_sizes import model_shapes
from leapverify.study.presets import PRESETS

RINGS = {"device": "ring on the GPU", "split": "ring split", "host": "ring in host memory", "memory": "host memory"}


@dataclass(frozen=True)
class Sheet:
    """A table in words."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int
    """Columns that are set flush left, the first ones; the others are numbers."""
    note: str


def overview(machine: Machine) -> list[Sheet]:
    """Two tables: what every preset costs, and which precisions and rings fit the machine.

    Args:
        machine: what they would run on.
    """
    configs = {name: make(None) for name, make in PRESETS.items()}
    bills = {name: cost(config, vocabulary_of(config), machine.room) for name, config in configs.items()}
    seeds = {name: f"{len(config.seeds)} × {config.training.steps}" for name, config in configs.items()}
    return [_bills(bills, seeds, machine), _fits(machine)]


def _bills(bills: dict[str, Cost], seeds: dict[str, str], machine: Machine) -> Sheet:
    rows = [
        (
            name,
            scaled(bill.parameters),
            seeds[name],
            scaled(bill.tokens),
            *(f"{part:.1e}" for part in (bill.train_flops, bill.evaluate_flops, bill.sweep_flops, bill.cascade_flops)),
            f"{bill.disk_bytes / GB:.2f} GB",
            duration(bill.flops / machine.flops),
        )
        for name, bill in bills.items()
    ]
    return Sheet(
        "Operations, disk and time of all seeds",
        ("preset", "parameters", "seeds × steps", "tokens", "train", "evaluate", "sweep", "cascades", "disk", "time"),
        tuple(rows),
        1,
        f"sweep: if no paired test stops early; cascades: if every checkpoint is stable\ntime: at {machine.rate}",
    )


def _fits(machine: Machine) -> Sheet:
    rows: list[tuple[str, ...]] = []
    headings: Sequence[str] = ()
    for name, make in PRESETS.items():
        config = make(None)
        found = options(config, model_shapes(config, vocabulary_of(config)), machine.room)
        headings = [RINGS[ring] for ring in dict.fromkeys(option.ring for option in found)]
        for number, precision in enumerate(dict.fromkeys(option.precision for option in found)):
            cells = [_cell(option) for option in found if option.precision == precision]
            rows.append((name if number == 0 else "", precision, *cells))
    sizes = "GB" if machine.room.device_bytes is None else "GB on the GPU + GB in host memory"
    return Sheet(
        f"Memory of one seed: what fits {machine.words}",
        ("preset", "weights", *headings),
        tuple(rows),
        2,
        f"{sizes}, at the fullest moment\n*: what the preset says; no: does not fit, and what it would take",
    )


def _cell(option: Option) -> str:
    plan = option.plan
    device = "" if plan.room.device_bytes is None else f"{gigabytes(plan.device_bytes)} + "
    sizes = f"{device}{gigabytes(plan.host_bytes)}"
    if option.ring == "split" and plan.fits and "host" not in plan.ring_places:
        sizes = "all on the GPU"
    return f"{'' if plan.fits else 'no: '}{sizes}{'*' if option.chosen else ' '}"


def gigabytes(nbytes: int) -> str:
    """Bytes in GB, with as many digits as say something."""
    return f"{nbytes / GB:.{2 if nbytes < GB else 1}f}"


def scaled(count: float) -> str:
    """A count with the letter of its size."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"
