"""A micro study that is killed somewhere, goes on by the same call, and is compared with one that ran through."""

from __future__ import annotations

import errno
import random
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faulty_disk import ALIVE, Disk, Fault, Model, kill, power_cut, raises, refuses
from forked import Ended, Told, forked
from leapverify import load_study, run_study
from leapverify.config.overrides import with_settings
from leapverify.config.presets import preset
from leapverify.config.study import StudyConfig
from leapverify.io.storage import load_tensors
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import Rows, SeedFolder
from micro import MICRO, same_numbers

SMALL: Mapping[str, Any] = {
    **MICRO,
    "training.steps": 20,
    "observe.interval_steps": 5,
    "sweep.horizons": [5],
    "sweep.curve_every_steps": None,
    "sweep.predictors": ["hold", "linear", "adam", "lawa-3"],
    "cascade.kinds": ["chained"],
    "observe.lyapunov": True,
    "model.dropout": 0.1,
}
"""A second's work with everything in it that is written: snapshots, states, averages, a perturbed copy, all records."""


def small(text: Path, **changes: Any) -> StudyConfig:
    """The configuration; names with __ for dots."""
    settings = {**SMALL, "data.source": f"text:{text}"}
    return with_settings(preset("tiny"), settings | {name.replace("__", "."): v for name, v in changes.items()})


REMEDY = re.compile(r"name another folder|free some space|raise the limit|name a folder that you may write")
"""What a sentence about a disk that says no tells to do."""


@dataclass
class Outcome:
    """What became of one fault."""

    kind: str
    fired: bool
    """Whether the run was still there to be hit."""
    lost: str | None
    """What is not as in the run that ran through; None: nothing."""
    steps_lost: int = 0
    """Steps from the last checkpoint that was written to where the run went on."""


class Victim:
    """A study and what it is when nothing happens to it.

    Args:
        config: the study.
        folder: for runs.
        work: runs it in a folder, and goes on there when it is called again; a whole study unless given.
    """

    def __init__(self, config: StudyConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.unbroken = folder / "unbroken"
        self.unbroken.mkdir()
        # In this process, so that those forked from it find everything imported.
        with Disk(self.unbroken).watched() as disk:
            self._study(self.unbroken)
        self.kinds = disk.kinds
        self._number = 0

    def kill_at(self, at: int) -> Outcome:
        """Killed in the n-th primitive."""
        return self._outcome(lambda out: self._run(out, at, kill), self.kinds[at - 1])

    def cut_power_at(self, at: int, chance: random.Random | None) -> Outcome:
        """The power fails in the n-th primitive."""
        kind = "power, nothing more" if chance is None else "power, some of the rest"
        return self._outcome(lambda out: self._run(out, at, None, chance=chance, power=True), kind)

    def refuse_at(self, at: int, number: int, *, lasting: bool) -> Outcome:
        """The system refuses the n-th primitive; where that lasts, also those after it that it would refuse."""
        kind = f"{errno.errorcode[number]}, {'lasting' if lasting else 'once'}"
        fault = refuses(number) if lasting else raises(number)
        return self._outcome(lambda out: self._run(out, at, fault, lasting=lasting), kind, refused=True)

    def kill_after(self, seconds: float) -> Outcome:
        """Killed after a while."""
        return self._outcome(lambda out: self._run(out, None, None, after_s=seconds), "any time")

    def _run(
        self,
        out: Path,
        at: int | None,
        fault: Fault | None,
        *,
        power: bool = False,
        chance: random.Random | None = None,
        after_s: float | None = None,
        lasting: bool = False,
    ) -> Ended:
        def work(told: Told) -> list[str]:
            model = Model(out) if power else None
            disk = Disk(out, at, power_cut(model, chance) if model is not None else fault, model, lasting=lasting)
            tell_commits(told)
            with disk.watched():
                self._study(out)
            return disk.kinds

        out.mkdir(exist_ok=True)
        return forked(work, kill_after_s=after_s)

    def _outcome(self, hit: Callable[[Path], Ended], kind: str, *, refused: bool = False) -> Outcome:
        self._number += 1
        out = self.folder / f"run-{self._number}"
        ended = hit(out)
        assert refused or not ended.failed, ended.value
        written = max(ended.said, default=0)
        lost = no_sentence(ended) if refused else None
        kept = {p: p.stat().st_mtime_ns for p in out.rglob("step-*.safetensors") if refused and step_of(p) <= written}
        again = forked(lambda _: self._resume(out))
        lost = again.value if again.failed else lost
        begun = 0 if again.failed else again.value
        fired = ended.killed or ended.failed
        if lost is None and fired and begun < written < self.config.training.steps:
            lost = f"step {written} was written, and the run went on from {begun}"
        if lost is None and any(path.exists() and path.stat().st_mtime_ns != then for path, then in kept.items()):
            lost = "a snapshot that was saved was written again"
        if lost is None:
            lost = forked(lambda _: differences(self.unbroken, out)).value
        if lost is None:
            shutil.rmtree(out)
        over = not fired or written == self.config.training.steps
        return Outcome(kind, fired, lost, 0 if over else max(0, written - begun))

    def _study(self, out: Path, watcher: Watcher = ignore) -> None:
        # A study seeds torch. The other streams are part of a state too, and begin where the process left them.
        random.seed(0)
        np.random.seed(0)
        run_study(self.config, out, device="cpu", watcher=watcher)

    def _resume(self, out: Path) -> int:
        """Go on; the step from which."""
        notes: list[str] = []
        self._study(out, lambda p: notes.append(p.note or ""))
        found = [int(note.split()[-1]) for note in notes if note.startswith("going on from step")]
        return found[-1] if found else 0


def no_sentence(ended: Ended) -> str | None:
    """What is wrong with the end of a run to which the disk said no; None: it is one sentence with a remedy."""
    if not ended.failed:
        return "the run ended well, as if nothing had been refused"
    kind, _, said = str(ended.value).partition(": ")
    if kind not in ("NotWritten", "StudyError"):
        return f"not a sentence of ours: {ended.value}"
    return None if "\n" not in said and REMEDY.search(said) else f"no remedy, or several lines: {said}"


def step_of(snapshot: Path) -> int:
    """The step in a snapshot's name."""
    return int(re.findall(r"\d+", snapshot.name)[0])


def tell_commits(told: Told) -> None:
    """Have every checkpoint tell its step as soon as it is written."""
    real = SeedFolder.write_rows

    def write_rows(folder: SeedFolder, rows: Rows) -> None:
        real(folder, rows)
        told(rows.checkpoints[-1].step)

    SeedFolder.write_rows = write_rows  # type: ignore[method-assign]


def differences(wanted: Path, found: Path) -> str | None:
    """What of a finished run is not, to the bit, as in another; times excluded."""
    try:
        same_numbers(load_study(found), load_study(wanted))
    except (AssertionError, ValueError) as error:
        return f"records: {str(error)[:300]}"
    names = [{p.relative_to(run) for p in run.rglob("*.safetensors")} for run in (wanted, found)]
    if names[0] - names[1]:
        return f"files: {sorted(map(str, names[0] - names[1]))}"
    for name in names[1] - names[0]:
        # What was let go may come back when the power fails: its removal is not waited for. But it must be whole.
        load_tensors(found / name)
    for name in sorted(names[0]):
        one, two = (load_tensors(run / name)[0] for run in (wanted, found))
        if one.keys() != two.keys() or not all(same_bits(one[key], two[key]) for key in one):
            return f"tensors: {name}"
    for path in sorted((wanted / "tables").glob("table-*.csv")):
        if (found / "tables" / path.name).read_text() != path.read_text():
            return f"table: {path.name}"
    left = [str(p.relative_to(found)) for p in found.rglob(".*") if p.is_file() and not p.name.startswith(ALIVE)]
    return f"left behind: {left}" if left else None


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN equals NaN."""
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes() and a.shape == b.shape
