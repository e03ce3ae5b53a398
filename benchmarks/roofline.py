"""The floor: operations and bytes of every part of a study, and the least time they take, for each preset and device.

Nothing is measured here: the numbers follow from the presets, the architectures and the makers' data sheets. What lies
above the floor is what a measurement (benchmarks/gpu) has to explain.

    python benchmarks/roofline.py [--tokenizer FOLDER] [--markdown | --write]
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _floors import Floors, Phases, seconds, total
from torch.utils._python_dispatch import TorchDispatchMode

from leapverify.capacity.machine import ACCELERATORS, Accelerator
from leapverify.config.presets import PRESETS, preset
from leapverify.observe import paper_probes
from leapverify.train.batches import make_batch
from leapverify.train.losses import mean_loss
from leapverify.train.models import build_model
from leapverify.train.tokenizers import load_tokenizer

PAGE = Path(__file__).with_suffix(".md")
NAMES = [name for name in PRESETS if not name.startswith("tiny")]
SMALL = "gpt2-124m"
SHARE_OF_STEP = {name: 0.45 if name == SMALL else 0.60 for name in NAMES}
"""Goals: the floor of a training step over its measured time."""
SHARE_OF_FINGERPRINTS, SWEEP_OVER_FORWARDS, TIMES_FASTER = 0.005, 1.1, 10.0
GPT2_PROBE_TOKENS = 1312
"""Of the 100 probes by GPT-2's tokenizer, 7 to 34 each."""
NO_ROOM = "no room"
LAUNCH_S = 5e-6
"""About what PyTorch and the driver take to launch one operation."""


@dataclass(frozen=True)
class Table:
    """A heading and rows; the first row names the columns."""

    title: str
    rows: list[list[str]]

    def markdown(self) -> str:
        """As a page holds it."""
        head, *rest = (f"| {' | '.join(row)} |" for row in self.rows)
        return "\n".join([f"**{self.title}**", "", head, "|---|" + "---:|" * (len(self.rows[0]) - 1), *rest])

    def plain(self) -> str:
        """As a terminal shows it."""
        widths = [max(len(row[column]) for row in self.rows) for column in range(len(self.rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in self.rows
        ]
        return "\n".join([self.title, *lines])


def probe_lengths(tokenizer: str | None) -> list[int]:
    """Tokens of each probe; GPT-2's number spread evenly where no tokenizer is given."""
    texts = paper_probes().texts
    if tokenizer is None:
        whole, rest = divmod(GPT2_PROBE_TOKENS, len(texts))
        return [whole + (number < rest) for number in range(len(texts))]
    encoder = load_tokenizer(tokenizer)
    return [len(encoder.encode(text)) for text in texts]


def parts(floors: Floors) -> dict[str, Phases]:
    """The parts of a study by what the tables call them."""
    v = floors.config.verify
    return {
        "training step": floors.training_step(),
        f"held-out loss, {v.sequences} sequences": floors.evaluation(v.sequences),
        f"baseline, {v.budget} sequences": floors.evaluation(v.budget),
        f"validation, {v.val_sequences} sequences": floors.evaluation(v.val_sequences),
        f"fingerprint, {len(floors.probe_lengths)} probes, {sum(floors.probe_lengths)} tokens": floors.fingerprint(),
        "prediction, linear": floors.prediction("linear"),
        "prediction, adam": floors.prediction("adam"),
        "sweep, every prediction, fixed set each": floors.sweep(),
        f"sweep, whole budget of {v.budget} each": floors.sweep(v.budget),
        "all cascades from one start": floors.cascade(),
    }


def devices() -> Table:
    rows = [["device", "bf16 TFLOP/s", "memory TB/s", "link GB/s", "source"]]
    for each in ACCELERATORS:
        figures = [f"{each.flops / 1e12:.0f}", f"{each.bandwidth / 1e12:.3f}", f"{each.link / 1e9:.0f}"]
        rows.append([each.name, *figures, each.source])
    return Table("Devices, by their makers", rows)


def works(all_floors: dict[str, Floors]) -> Table:
    rows = [["part", *(f"{name}: {unit}" for name in all_floors for unit in ("TFLOP", "GB"))]]
    for at, part in enumerate(parts(all_floors[SMALL])):
        cells = []
        for floors in all_floors.values():
            work = total(list(parts(floors).values())[at])
            cells += [_number(work.flops / 1e12), _number(work.bytes / 1e9)]
        rows.append([part, *cells])
    return Table("Operations and bytes of each part, ring on the device", rows)


def times(floors: Floors) -> Table:
    rows = [["part", *(device.name for device in ACCELERATORS)]]
    for part, phases in parts(floors).items():
        rows.append(
            [part, *(_time(seconds(phases, device)) if _room(floors, device) else NO_ROOM for device in ACCELERATORS)]
        )
    return Table(f"Least time, {floors.config.preset}", rows)


def _room(floors: Floors, device: Accelerator) -> bool:
    """Whether weights, gradients and moments, the least that training holds, fit the device."""
    return 4 * floors.weights < device.memory_bytes


def _roomy(floors: Floors) -> list[Accelerator]:
    return [device for device in ACCELERATORS if _room(floors, device)]


def _shares(floors: Floors, hosted: Floors, device: Accelerator) -> Iterator[str]:
    interval = floors.config.observe.interval_steps * seconds(floors.training_step(), device)
    sweep = seconds(floors.sweep(), device)
    yield f"{seconds(floors.fingerprint(), device) / interval:.2%}"
    yield f"{sweep / interval:.2f}"
    yield f"{sweep / seconds(floors.sweep_forwards(), device):.2f}"
    yield f"{seconds(hosted.sweep(), device) / seconds(hosted.sweep_forwards(), device):.2f}"
    yield f"{seconds(floors.paper_sweep(), device) / sweep:.1f}"
    yield f"{seconds(hosted.cascade(), device) / interval:.1f}"


def shares(all_floors: dict[str, Floors], hosted: dict[str, Floors]) -> Table:
    head = [
        "preset, device",
        f"fingerprint / training (goal {SHARE_OF_FINGERPRINTS:.1%})",
        "sweep / training",
        f"sweep / its forwards (goal {SWEEP_OVER_FORWARDS})",
        "the same, ring on the host",
        f"paper's way / ours (goal {TIMES_FASTER:.0f})",
        "cascades of one start / training",
    ]
    rows = [head]
    for name, floors in all_floors.items():
        rows += [[f"{name}, {device.name}", *_shares(floors, hosted[name], device)] for device in _roomy(floors)]
    return Table("Ratios of least times; training is that of one checkpoint interval", rows)


def studies(all_floors: dict[str, Floors]) -> Table:
    head = ["preset, device", "step at the floor", "step at the goal", "tokens/s at the goal"]
    head += ["hours, one seed", "five seeds", "one seed with every cascade"]
    rows = [head]
    for name, floors in all_floors.items():
        t, checkpoints = floors.config.training, len(floors.config.checkpoint_steps)
        for device in _roomy(floors):
            floor = seconds(floors.training_step(), device)
            wanted = floor / SHARE_OF_STEP[name]
            hours = floors.study(device) / 3600
            cells = [_time(floor), _time(wanted), f"{t.batch_size * t.sequence_length / wanted:,.0f}"]
            cells += [_number(hours), _number(len(floors.config.seeds) * hours)]
            cells.append(_number(floors.study(device, starts=checkpoints) / 3600))
            rows.append([f"{name}, {device.name}", *cells])
    return Table("Training, and a whole study at the floor (every checkpoint swept, fixed set)", rows)


def launched(all_floors: dict[str, Floors]) -> Table:
    rows = [["preset", "operations a step", f"at {LAUNCH_S * 1e6:.0f} µs each", "floor of the step, H100"]]
    device = next(each for each in ACCELERATORS if each.name.startswith("H100"))
    for name, floors in all_floors.items():
        count = launches(name)
        rows.append([name, str(count), _time(count * LAUNCH_S), _time(seconds(floors.training_step(), device))])
    return Table("Operations that an eager forward and backward pass launches, without casts and optimizer", rows)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations that compute: what only makes another view of a tensor launches nothing."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = any(each.alias_info and not each.alias_info.is_write for each in func._schema.returns)
        self.count += not view and "empty" not in str(func)
        return func(*args, **(kwargs or {}))


@cache
def launches(name: str) -> int:
    """Operations of one forward and backward pass of a preset: those of a narrow model with as many layers."""
    spec = preset(name).model
    narrow = {"hidden": 2 * spec.heads, "intermediate": 8, "vocab_size": 16, "context": 8}
    model = build_model(spec.model_copy(update=narrow), seed=0, vocab_size=16, sequence_length=8)
    batch = make_batch(torch.zeros(2, 8, dtype=torch.int64))
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        mean_loss(model, batch).backward()  # type: ignore[no-untyped-call]
    return counter.count


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 or not value else f"{value:.1e}"


def _time(taken: float) -> str:
    if taken >= 1:
        return f"{_number(taken)} s"
    return f"{_number(1e3 * taken)} ms" if taken >= 1e-3 else f"{_number(1e6 * taken)} µs"


def tables(lengths: Sequence[int]) -> list[Table]:
    """Everything that is printed."""
    plain = {name: Floors(preset(name), lengths) for name in NAMES}
    hosted = {name: Floors(preset(name), lengths, host_ring=True) for name in NAMES}
    each = [times(floors) for floors in plain.values()]
    return [devices(), works(plain), *each, shares(plain, hosted), launched(plain), studies(plain)]


def filled(page: str, found: Sequence[Table]) -> str:
    """The page with each table in the place of the one that has its title."""
    for table in found:
        old = re.compile(rf"^\*\*{re.escape(table.title)}\*\*\n\n(?:\|.*\n)+", re.MULTILINE)
        page, count = old.subn(f"{table.markdown()}\n".replace("\\", r"\\"), page)
        if count != 1:
            raise ValueError(f"{PAGE.name} holds the table {table.title!r} {count} times: it must be there once")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=None, help="Folder or name whose tokens of the probes are counted.")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--write", action="store_true", help="Put the tables into roofline.md beside this file.")
    options = parser.parse_args()
    found = tables(probe_lengths(options.tokenizer))
    if options.write:
        PAGE.write_text(filled(PAGE.read_text(), found))
        return
    print("\n\n".join(table.markdown() if options.markdown else table.plain() for table in found))


if __name__ == "__main__":
    main()
