"""What a configuration costs before it is run: parameters, tokens, operations, memory, disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.capacity.activations import ModelShapes, model_shapes
from leapverify.capacity.buffers import buffer_kinds
from leapverify.capacity.machine import Machine, duration
from leapverify.capacity.memory import GB, MemoryPlan, Room
from leapverify.capacity.plan import Option, memory_plan, options
from leapverify.config.presets import PRESETS
from leapverify.config.resolved import Resolved

FLOAT = 4
REMEMBERED = ("averages", "early states")
"""What lies beside a state on the disk."""
VOCABULARY = {"bytes": 256, "gpt2": 50257}
"""Of tokenizers that a bill can be made for without loading them."""


@dataclass(frozen=True)
class Cost:
    """The bill of a study; operations of all seeds, 6 per parameter and trained token (4 for one that is frozen), 2 per
    evaluated one. What predictors ask for themselves is not counted."""

    parameters: int
    tokens: int
    """Training tokens of all seeds."""
    train_flops: float
    evaluate_flops: float
    """Of the loss curve, the baselines and the validation losses."""
    sweep_flops: float
    """Forward passes of the sweep, if every checkpoint is swept and no paired test stops early."""
    cascade_flops: float
    """Of the cascades, if they start from every checkpoint but the first, or as many as `cascade.max_starts` allows."""
    plan: MemoryPlan
    """Of one seed."""
    disk_bytes: int
    """Of all seeds, at most at once."""

    @property
    def flops(self) -> float:
        """Everything together."""
        return self.train_flops + self.evaluate_flops + self.sweep_flops + self.cascade_flops

    @property
    def memory_bytes(self) -> int:
        """Of one seed, on the device and in host memory."""
        return self.plan.device_bytes + self.plan.host_bytes


def cost(config: Resolved, vocab_size: int, room: Room) -> Cost:
    """The bill of a study.

    Args:
        config: the study.
        vocab_size: the tokenizer's, where the model names none.
        room: the memory that there is for its tensors.
    """
    t, seeds = config.training, len(config.seeds)
    shapes = model_shapes(config, vocab_size)
    tokens = t.steps * t.batch_size * t.sequence_length
    # Frozen weights have no gradients of their own: two of the three products.
    trained = (6.0 * shapes.total + 4.0 * shapes.frozen) * seeds
    evaluated = 2.0 * shapes.whole * t.sequence_length * seeds
    steps, verified = _cascade_work(config)
    return Cost(
        parameters=shapes.whole,
        tokens=seeds * tokens,
        train_flops=trained * tokens,
        evaluate_flops=evaluated * _evaluated(config),
        sweep_flops=evaluated * _swept(config),
        cascade_flops=trained * steps * t.batch_size * t.sequence_length + evaluated * verified,
        plan=memory_plan(config, shapes, room),
        disk_bytes=seeds * _disk_bytes(config, shapes),
    )


def _evaluated(config: Resolved) -> int:
    """Sequences of all losses that are measured beside the sweep."""
    v, checkpoints = config.verify, config.checkpoint_steps
    return len(config.curve_steps - set(checkpoints)) * v.sequences + len(checkpoints) * (v.budget + v.val_sequences)


def _swept(config: Resolved) -> int:
    """Sequences that the sweep runs, momentum once for each of its scales."""
    s = config.sweep
    variants = sum(len(s.momentum_scales) if name == "momentum" else 1 for name in s.predictors)
    return variants * len(s.horizons) * len(config.checkpoint_steps) * config.verify.budget


def _cascade_work(config: Resolved) -> tuple[int, int]:
    """Real steps and verified sequences of the cascades."""
    c, after_first = config.cascade, len(config.checkpoint_steps) - 1
    starts = after_first if c.max_starts is None else min(after_first, c.max_starts)
    links = sum(depth for depth, _ in c.shapes)
    trained = len(c.trained_predictors) if "trained" in c.kinds else 0
    chained = len(c.predictors) if "chained" in c.kinds else 0
    real = trained * sum(depth * length for depth, length in c.shapes)
    return starts * real, starts * links * (chained + 2 * trained) * config.verify.sequences


def _disk_bytes(config: Resolved, shapes: ModelShapes) -> int:
    weights = shapes.total * config.weights_dtype.itemsize
    snapshots, states = _most_files(config)
    copies = snapshots + 2 * states + (3 * states if config.observe.lyapunov else 0)
    remembered = sum(each.copies * each.itemsize for each in buffer_kinds(config) if each.name in REMEMBERED)
    nbytes = remembered * sum(shapes.moved) * _most_states(config)
    fingerprints = 100 * shapes.hidden * FLOAT * (len(config.checkpoint_steps) + 1)
    return weights * copies + nbytes + fingerprints


def _most_states(config: Resolved) -> int:
    """States that a resume needs at once, at most, and the one that is being written."""
    steps, needed = config.checkpoint_steps, config.retention.needed_to_resume
    most = max((len(needed(steps[:number])[1]) for number in range(len(steps) + 1)), default=0)
    return most + 1 if most else 0


def _most_files(config: Resolved) -> tuple[int, int]:
    """Snapshots and states that lie on the disk at once, at most: a checkpoint's are written before older ones go."""
    s, retention, steps = config.snapshots, config.retention, config.checkpoint_steps
    buffer_kinds: tuple[set[int], set[int]] = set(), set()
    most = [0, 0]
    for number, step in enumerate(steps, start=1):
        written = (retention.has_snapshot(number), retention.has_state(number))
        needed = retention.needed_to_resume(steps[:number])
        for index, keeps_all in enumerate((s.weights == "all", s.optimizer == "all")):
            before = buffer_kinds[index] | ({step} if written[index] else set())
            most[index] = max(most[index], len(before))
            buffer_kinds[index].clear()
            buffer_kinds[index].update(before if keeps_all else before & needed[index])
    return most[0], most[1]


def vocabulary_of(config: Resolved) -> int:
    """The vocabulary of a preset without loading its tokenizer."""
    return config.model.vocab_size or VOCABULARY.get(config.data.tokenizer, 50257)


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
    configs = {name: Resolved.of(make(None)) for name, make in PRESETS.items()}
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
        config = Resolved.of(make(None))
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
