"""What a worker process does: the units of one seed, in order, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import RaceCase
from leapverify.core.collective import on_all_ranks, on_rank0
from leapverify.errors import Damaged
from leapverify.race.config import RaceConfig
from leapverify.race.plan import RaceUnit, Result, SeedCase, digest
from leapverify.race.results import Store
from leapverify.race.tasks import build_tasks
from leapverify.race.unit import run_unit, warm_up
from leapverify.runs import require_leave
from leapverify.runs.environment import threads_of
from leapverify.runs.progress import RaceProgress, Watcher
from leapverify.runs.world import present


def results_of(store: Store, config: RaceConfig, which: SeedCase) -> Iterator[Result]:
    """What a seed gave in a case: its arms, then its controls.

    Raises:
        Damaged: a unit's file is missing or altered.
    """
    results = {unit.arm: store.need(unit) for unit in which.units(config)}
    yield from results.values()
    yield from (found for _, found in which.controls(results, store.need) if found is not None)


class SeedWorker:
    """Runs the units of one seed, or takes them from their files, and tells how far the seed is.

    Args:
        watcher: is told.
        config: of the race.
        folder: race/ of the run folder.
        seed: of tuning, or of the race.
        stage: tune or race.
    """

    def __init__(self, watcher: Watcher, config: RaceConfig, folder: Path, seed: int, stage: str) -> None:
        self._watcher, self._config, self._seed, self._stage = watcher, config, seed, stage
        self._store = Store(folder / "units", digest(config))
        self._bases = folder / "base"
        self._prepared: set[str] = set()
        self._ranks = present()
        self.tasks = build_tasks(config)
        self._count, self._total = 0, 1

    @contextmanager
    def at_work(self, units: int, threads: int) -> Iterator[None]:
        """A block in which so many units are done with so many CPU threads."""
        self._total = units
        with threads_of(threads):
            self._tell("waiting")
            yield
            self._tell("done")

    def done(self, unit: RaceUnit) -> Result:
        """The unit's result, from its file or by training it."""
        result = on_rank0(self._ranks, "kept unit", lambda: self._kept(unit))
        if result is None:
            on_all_ranks(self._ranks, "leave", lambda: require_leave(f"before the next run of seed {self._seed}"))
            result = self._written(unit, self._run(unit))
        self._count += 1
        self._tell("unit", _named(unit.case, unit.arm), loss=result.run.final_loss)
        return result

    def _written(self, unit: RaceUnit, result: Result) -> Result:
        """Keep a result; on several ranks it is rank 0's, from which all of them go on."""

        def write() -> Result:
            self._store.write(unit, result)
            for note in result.notes:
                self._tell("note", note=note)
            return result

        return on_rank0(self._ranks, "unit", write)

    def passed(self, case: RaceCase, name: str) -> None:
        """Count a control that needs no training."""
        self._count += 1
        self._tell("unit", _named(case, name))

    def _kept(self, unit: RaceUnit) -> Result | None:
        try:
            return self._store.read(unit)
        except Damaged as error:
            self._tell("note", note=str(error))
            return None

    def _run(self, unit: RaceUnit) -> Result:
        task, name = self.tasks[unit.case.task], _named(unit.case, unit.arm)
        if task.name not in self._prepared:
            self._tell("train", f"{task.name} preparing")
            on_rank0(self._ranks, "prepared", lambda: task.prepare(self._seed, self._bases))
            self._prepared.add(task.name)
            warm_up(unit, task, self._config, self._bases)

        def look(step: int, loss: float | None) -> None:
            self._tell("train", name, loss=loss, share=step / unit.steps)

        return run_unit(unit, task, self._config, self._bases, look)

    def _tell(self, phase: str, what: str = "", **more: Any) -> None:
        told = RaceProgress(self._seed, self._count, self._total, phase, stage=self._stage, what=what, **more)
        self._watcher(told)


def _named(case: RaceCase, arm: str) -> str:
    return f"{case.task} {case.optimizer} {case.rate} {arm}"
