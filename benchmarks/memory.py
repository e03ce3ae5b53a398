"""The memory plan against measured peaks: whole small seeds of the paper's three shapes, phase by phase.

On a CPU every allocation and release of torch's allocator counts, as its profiler reports them: tensors that autograd
keeps and temporaries inside kernels too. On a GPU torch.cuda.max_memory_allocated says it (not run on a GPU yet).

    python benchmarks/memory.py [--device cpu] [--case weights]
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import torch

from leapverify.capacity.activations import model_shapes
from leapverify.capacity.memory import BUILDING, CASCADE, CHECKPOINT, TRAINING, MemoryPlan, Place, Room
from leapverify.capacity.plan import memory_plan
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.observe import Fingerprinter, Thresholds
from leapverify.runs.progress import ignore
from leapverify.study import apparatus as setup
from leapverify.study.apparatus import Apparatus
from leapverify.study.cascade import Cascader
from leapverify.study.record import record_seed
from leapverify.study.sweep import Sweeper
from leapverify.verify import Verifier

Result = TypeVar("Result")
PREFIX = "phase: "

COMMON: Mapping[str, Any] = {
    "seeds": [0],
    "data.tokenizer": "bytes",
    "training.steps": 25,
    "training.warmup_steps": 2,
    "observe.interval_steps": 5,
    "sweep.horizons": [5],
    "sweep.predictors": ["quadratic-clamped", "adam", "taylor-3"],
    "cascade.shapes": [[3, 2]],
    "cascade.predictors": ["quadratic"],
    "cascade.trained_predictors": ["linear"],
    "snapshots.every": None,
    "verify.sequences": 8,
    "verify.budget": 8,
    "verify.batch_sequences": 8,
    "verify.val_sequences": 8,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "gpt2-124m": {},
    "qwen2.5-1.5b": {"model.kv_heads": 2},
    "qwen2.5-7b": {"model.kv_heads": 1},
}
PRECISIONS: Mapping[str, Mapping[str, Any]] = {
    "float32": {"training.weights": "float32", "training.precision": "float32"},
    "autocast": {"training.weights": "float32", "training.precision": "bfloat16"},
    "bfloat16": {"training.weights": "bfloat16"},
}
CASES: Mapping[str, Mapping[str, Any]] = {
    "weights": {
        "model.layers": 3,
        "model.hidden": 256,
        "model.heads": 4,
        "model.intermediate": 1024,
        "model.vocab_size": 1000,
        "training.batch_size": 2,
        "training.sequence_length": 16,
    },
    "activations": {
        "model.layers": 4,
        "model.hidden": 96,
        "model.heads": 4,
        "model.intermediate": 320,
        "model.vocab_size": 300,
        "training.batch_size": 8,
        "training.sequence_length": 64,
    },
    "logits": {
        "model.layers": 1,
        "model.hidden": 32,
        "model.heads": 4,
        "model.intermediate": 64,
        "model.vocab_size": 20000,
        "training.batch_size": 4,
        "training.sequence_length": 64,
    },
}
"""What takes the most: the weights and their copies, the activations, or the logits."""


class Meter:
    """The most bytes of tensors alive during each phase, above what stood when it began; outermost phases count.

    Use it as a context manager around everything that allocates, then read `peaks`.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._inside: str | None = None
        self._found: dict[str, int] = {}
        self._profiler: Any = None
        self._start = 0

    def __enter__(self) -> Meter:
        # What an earlier run left in cycles would be let go of inside, as if there were less than nothing.
        gc.collect()
        if self._cuda:
            self._start = torch.cuda.memory_allocated()
        else:
            self._profiler = torch.autograd.profiler.profile(use_kineto=True, profile_memory=True)
            self._profiler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._cuda:
            self._profiler.__exit__(*error)
            self._found = _by_phase(self._profiler.kineto_results.events())

    @property
    def peaks(self) -> Mapping[str, int]:
        """Phase -> bytes, once the context is left."""
        return self._found

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside towards a phase."""
        if self._inside:
            yield
            return
        self._inside = name
        try:
            if self._cuda:
                torch.cuda.reset_peak_memory_stats()
                yield
                peak = torch.cuda.max_memory_allocated() - self._start
                self._found[name] = max(self._found.get(name, 0), peak)
            else:
                with torch.profiler.record_function(PREFIX + name):
                    yield
        finally:
            self._inside = None

    def metered(self, name: str, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, counted towards a phase."""

        def counted(*arguments: Any, **named: Any) -> Result:
            with self.phase(name):
                return function(*arguments, **named)

        return counted


def _by_phase(events: Any) -> dict[str, int]:
    windows: list[tuple[int, int, str]] = []
    changes: list[tuple[int, int]] = []
    for event in events:
        name, start = event.name(), event.start_ns()
        if name == "[memory]":
            changes.append((start, event.nbytes()))
        elif name.startswith(PREFIX):
            windows.append((start, start + event.duration_ns(), name.removeprefix(PREFIX)))
    found: dict[str, int] = {}
    live, waiting = 0, iter(sorted(windows))
    window = next(waiting, None)
    for time, nbytes in sorted(changes):
        live += nbytes
        while window is not None and time > window[1]:
            window = next(waiting, None)
        if window is not None and time >= window[0]:
            found[window[2]] = max(found.get(window[2], 0), live)
    return found


def case(name: str, precision: str, size: str) -> StudyConfig:
    """A preset at reduced size, its dropout and its tying kept."""
    settings = {**COMMON, **CASES[size], **PRESETS[name], **PRECISIONS[precision]}
    return with_settings(preset(name), settings)


def text_folder(folder: Path) -> Path:
    """Enough small documents, all different."""
    chance = random.Random(0)
    for number in range(100):
        lines = [" ".join(str(chance.randrange(10**6)) for _ in range(40)) for _ in range(8)]
        (folder / f"document-{number:02d}.txt").write_text("\n\n".join(lines))
    return folder


def measured(config: StudyConfig, text: Path, folder: Path, device: str = "cpu") -> Mapping[str, int]:
    """The peaks of one seed, recorded as any study records it, every checkpoint but the first called stable."""
    config = with_settings(config, {"data.source": f"text:{text}"})
    with Meter(device) as meter:
        places: list[tuple[Any, str, str]] = [
            (setup, "first_model", BUILDING),
            (Apparatus, "step", TRAINING),
            (Sweeper, "sweep", CHECKPOINT),
            (Verifier, "measure", CHECKPOINT),
            (Fingerprinter, "__call__", CHECKPOINT),
            (Cascader, "run", CASCADE),
        ]
        patches = [patch.object(at, name, meter.metered(phase, getattr(at, name))) for at, name, phase in places]
        for each in patches:
            each.start()
        try:
            record_seed(
                ignore,
                config=Resolved.of(config),
                thresholds=Thresholds.fixed(-1.0, -0.99),
                seed=0,
                run=folder,
                device=device,
                threads=1,
            )
        finally:
            for each in patches:
                each.stop()
    return meter.peaks


def planned(config: StudyConfig, device: str = "cpu") -> MemoryPlan:
    """The plan of the same seed, with all the room that it wants."""
    room = Room(10**15 if device == "cuda" else None, 10**15)
    resolved = Resolved.of(config)
    return memory_plan(resolved, model_shapes(resolved, 256), room)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--case", default=None, choices=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    place: Place = "device" if options.device == "cuda" else "host"
    phases = (TRAINING, CHECKPOINT, CASCADE)
    print(f"{'':42}" + "".join(f"{phase:>28}" for phase in phases))
    print(f"{'preset, precision, what takes the most; MB':42}" + f"{'plan':>10}{'measured':>10}{'':8}" * len(phases))
    for size in [options.case] if options.case else CASES:
        for name in PRESETS:
            for precision in PRECISIONS:
                config = case(name, precision, size)
                with tempfile.TemporaryDirectory() as folder:
                    text = text_folder(Path(folder))
                    peaks = measured(config, text, Path(folder) / "run", options.device)
                plan = planned(config, options.device)
                columns = [(plan.peak(place, phase), peaks[phase]) for phase in phases]
                cells = "".join(f"{a / 1e6:10.2f}{b / 1e6:10.2f}{100 * (a / b - 1):+7.1f}%" for a, b in columns)
                print(f"{f'{name}, {precision}, {size}':42}{cells}", flush=True)


if __name__ == "__main__":
    main()
