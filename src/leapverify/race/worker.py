"""What a worker process does: the units of one seed, in order, each kept as soon as it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from leapverify.analysis.race.arms import Case
from leapverify.core.collective import on_all_ranks, on_rank0
from leapverify.io.storage import Damaged
from leapverify.race.arms import controls_of
from leapverify.race.config import RaceConfig
from leapverify.race.plan import (
    AS_ANOTHER,
    RACE,
    TUNE,
    Choices,
    Result,
    Unit,
    arms_in,
    cases,
    controls,
    digest,
    first_round,
    race_units,
    second_round,
)
from leapverify.race.results import Store
from leapverify.race.tasks import Task, build_tasks
from leapverify.race.unit import run_unit, warm_up
from leapverify.runs import require_leave
from leapverify.runs.progress import RaceProgress, Watcher
from leapverify.runs.world import present
from leapverify.study.apparatus import threads_of


@dataclass(frozen=True)
class Place:
    """Where a worker works."""

    config: RaceConfig
    folder: Path
    """race/ of the run folder."""
    threads: int
    """CPU threads."""


def tune_seed(watcher: Watcher, *, place: Place, seed: int, rates: Mapping[tuple[str, str], float] | None) -> None:
    """The tuning runs of a seed: the first round, or with WSD's best rates the second."""
    desk, config = _Desk(watcher, place, seed, TUNE), place.config
    first = rates is None
    units = list(
        first_round(config, desk.tasks, seed) if first else second_round(config, desk.tasks, seed, rates or {})
    )
    desk.total = len(units)
    with desk.at_work():
        for unit in units:
            desk.done(unit)


def race_seed(watcher: Watcher, *, place: Place, seed: int, choices: Choices, targets: Mapping[Case, float]) -> None:
    """All arms of a seed in all cases, each case's shortened controls behind them."""
    desk = _Desk(watcher, place, seed, RACE)
    names = [arms_in(place.config, case.optimizer) for case in cases(desk.tasks)]
    desk.total = sum(len(arms) + len(controls_of(arms)) for arms in names)
    with desk.at_work():
        for case in cases(desk.tasks):
            task = desk.tasks[case.task]
            units = race_units(place.config, task, case, seed, choices, targets[case])
            results = {unit.arm: desk.done(unit) for unit in units}
            for name, found in controls(task, case, seed, choices, targets[case], results, desk.done):
                if found is None or found.run.setting.startswith(AS_ANOTHER):
                    desk.passed(case, name)


def results_of(
    store: Store, config: RaceConfig, task: Task, case: Case, seed: int, choices: Choices, target: float
) -> Iterator[Result]:
    """What a seed gave in a case: its arms, then its controls.

    Raises:
        Damaged: a unit's file is missing or altered.
    """
    results = {unit.arm: store.need(unit) for unit in race_units(config, task, case, seed, choices, target)}
    yield from results.values()
    every = controls(task, case, seed, choices, target, results, store.need)
    yield from (found for _, found in every if found is not None)


class _Desk:
    """Runs units one after another, or takes them from their files, and tells how far the seed is."""

    def __init__(self, watcher: Watcher, place: Place, seed: int, stage: str) -> None:
        self._watcher, self._place, self._seed, self._stage = watcher, place, seed, stage
        self._store = Store(place.folder / "units", digest(place.config))
        self._bases = place.folder / "base"
        self._prepared: set[str] = set()
        self._ranks = present()
        self.tasks = build_tasks(place.config)
        self.count, self.total = 0, 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """A block with the race's number of threads."""
        with threads_of(self._place.threads):
            self._tell("waiting", "")
            yield
            self._tell("done", "")

    def done(self, unit: Unit) -> Result:
        """The unit's result, from its file or by training it."""
        result = on_rank0(self._ranks, "kept unit", lambda: self._kept(unit))
        if result is None:
            on_all_ranks(self._ranks, "leave", lambda: require_leave(f"before the next run of seed {self._seed}"))
            result = self._written(unit, self._run(unit))
        self.count += 1
        self._tell("unit", _named(unit.case, unit.arm), loss=result.run.final_loss)
        return result

    def _written(self, unit: Unit, result: Result) -> Result:
        """Keep a result; on several ranks it is rank 0's, from which all of them go on."""

        def write() -> Result:
            self._store.write(unit, result)
            for note in result.notes:
                self._tell("note", "", note=note)
            return result

        return on_rank0(self._ranks, "unit", write)

    def passed(self, case: Case, name: str) -> None:
        """A control that needs no training."""
        self.count += 1
        self._tell("unit", _named(case, name))

    def _kept(self, unit: Unit) -> Result | None:
        try:
            return self._store.read(unit)
        except Damaged as error:
            self._tell("note", "", note=str(error))
            return None

    def _run(self, unit: Unit) -> Result:
        task, name = self.tasks[unit.case.task], _named(unit.case, unit.arm)
        if task.name not in self._prepared:
            self._tell("train", f"{task.name} preparing")
            on_rank0(self._ranks, "prepared", lambda: task.prepare(self._seed, self._bases))
            self._prepared.add(task.name)
            warm_up(unit, task, self._place.config, self._bases)

        def look(step: int, loss: float | None) -> None:
            self._tell("train", name, loss=loss, share=step / unit.steps)

        return run_unit(unit, task, self._place.config, self._bases, look)

    def _tell(
        self, phase: str, what: str, *, loss: float | None = None, note: str | None = None, share: float = 0.0
    ) -> None:
        self._watcher(
            RaceProgress(
                self._seed,
                self.count,
                self.total,
                phase,
                loss=loss,
                note=note,
                stage=self._stage,
                what=what,
                share=share,
            )
        )


def _named(case: Case, arm: str) -> str:
    return f"{case.task} {case.optimizer} {case.rate} {arm}"
