"""The whole race: tuning, targets, then all arms of every seed, records and report; it goes on where it stopped."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import RaceCase
from leapverify.analysis.race.verdicts import verdicts
from leapverify.config.overrides import dump_config, with_settings
from leapverify.errors import ConfigError, Damaged, NotWritten
from leapverify.io import records
from leapverify.io.manifest import sweep_leftovers
from leapverify.io.records import RacePoint, RaceRun
from leapverify.io.storage import write_json, write_sealed
from leapverify.race.arms import SCHEDULE_FREE_MISSING, has_schedule_free, with_needs
from leapverify.race.config import RaceConfig
from leapverify.race.entry import choices_as_json, rates_as_json, targets_as_json
from leapverify.race.overrides import load_config, other_race
from leapverify.race.parallel import PARALLEL, require_parallel
from leapverify.race.plan import (
    RaceUnit,
    Result,
    SeedCase,
    TunedChoice,
    cases,
    digest,
    first_round,
    second_round,
)
from leapverify.race.presets import preset as preset_named
from leapverify.race.results import Store
from leapverify.race.tasks import build_tasks
from leapverify.race.tasks.text import FINETUNE_SHARES, PRETRAIN_SHARES, Reader
from leapverify.race.tune import best_wsd_rates, choose_all, edges, state_targets
from leapverify.race.worker import results_of
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Execution, Failure, Task
from leapverify.runs.driver import (
    Runner,
    drive_one,
    other_configuration,
    raise_failures,
    require_empty,
    seed_tasks,
    write_environment,
)
from leapverify.runs.environment import cpu_count, resolve_device
from leapverify.runs.progress import Progress, Watcher, ignore
from leapverify.runs.world import present

FOLDER = "race"
"""Of a run folder: a race may lie in a study's, whose report then shows it."""
RUNS, CURVE = "runs.parquet", "curve.parquet"
STUDY = "config.yaml"


@dataclass(frozen=True)
class Race:
    """A finished race."""

    path: Path
    """The run folder."""
    runs: tuple[RaceRun, ...]
    points: tuple[RacePoint, ...]
    overhead: float
    """Share of the cost that `leap-auto` was allowed."""

    @property
    def verdicts(self) -> list[str]:
        """What the race says, in sentences."""
        return verdicts(self.runs, self.points, budget_percent=100.0 * self.overhead)


def run_race(
    preset: str | RaceConfig = "tiny",
    out: Path | str | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    watcher: Watcher = ignore,
    execution: Execution = AUTOMATIC,
) -> Race:
    """Run a race, or go on with one that was stopped, and write its report.

    Seeds run side by side in processes of their own: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        preset: a preset's name or a whole configuration.
        out: the run folder; runs/race-PRESET by default. The race lies in its folder race/.
        settings: dotted keys, such as {"pretrain.steps": 800}.
        watcher: is told how every seed gets on.
        execution: what runs the seeds.

    Returns:
        The finished race.

    Raises:
        ConfigError: wrong settings, or `out` holds something else.
        StudyError: a seed failed; what it had is kept.
    """
    config = with_settings(preset if isinstance(preset, RaceConfig) else preset_named(preset), settings or {})
    folder = Path(out or f"runs/race-{config.preset}")
    require_free(config, folder)
    check_input(config)
    device = resolve_device(config.device)
    return drive_one(_RaceJob(config, folder, watcher, device), device=device, watcher=watcher, execution=execution)


def threads_of_a_race(device: str) -> int:
    """CPU threads of each seed.

    Narrow models end an operation before a second thread has woken up, and seeds side by side use all cores.
    """
    return 1 if device == "cpu" else min(cpu_count(), 8)


def check_input(config: RaceConfig) -> None:
    """Look at everything that can be wrong with the input before anything is written or started.

    Raises:
        ConfigError: a task without an optimizer, a missing device or package, text that cannot be read or is too short,
            more ranks than held-out rows.
    """
    try:
        build_tasks(config)
        require_parallel(config, present())
        if "lora" in config.tasks and importlib.util.find_spec("peft") is None:
            raise ConfigError("the task lora needs the package peft: pip install 'leapverify[race]', or leave it out")
        device, chosen = resolve_device(config.device), {*config.tasks}
        texts = [(config.text.source, PRETRAIN_SHARES)] if chosen & {"pretrain", "finetune", "lora"} else []
        texts += [(config.data, FINETUNE_SHARES)] if chosen & {"finetune", "lora"} else []
        for source, shares in texts:
            reader = Reader(config.text, source, shares, device)
            _ = reader.train, reader.heldout, reader.val
    except (Damaged, NotWritten):
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def require_free(config: RaceConfig, out: Path) -> None:
    """Refuse a folder that holds another race, or something that is neither a race nor a study.

    The same race with more tasks, optimizers, arms or seeds goes on in its folder: no number of it changes.

    Raises:
        ConfigError: its race has other settings or runs what this one leaves out, or there are other files.
    """
    path = out / FOLDER / "config.yaml"
    if path.is_file():
        found = other_race(load_config(path), config)
        if found and any((out / FOLDER / "units").glob("*.json")):
            raise other_configuration(out, "race", found, out / FOLDER)
    elif not (out / STUDY).is_file():
        require_empty(out, "neither a race nor a study")


class _RaceJob:
    """A race that is to be run: tuning, then the targets, then every seed."""

    def __init__(self, config: RaceConfig, out: Path, watcher: Watcher, device: str) -> None:
        self.out, self.seeds, self.threads = out, config.seeds, threads_of_a_race(device)
        self._config, self._watcher = config, watcher
        self._folder = out / FOLDER
        self._tasks = build_tasks(config)
        self._store = Store(self._folder / "units", digest(config))
        self._choices: dict[tuple[str, str, str], TunedChoice] = {}
        self._targets: dict[RaceCase, float] = {}
        self._tuning: list[Result] = []
        self._found: Race | None = None

    def tasks(self, runner: Runner) -> list[Task]:
        """The races of all seeds, behind everything that is chosen on the seeds of tuning.

        Raises:
            ConfigError, StudyError: tuning failed, or no rate trains the baseline.
        """
        sweep_leftovers(self._folder)
        write_sealed(self._folder / "config.yaml", dump_config(self._config))
        environment = runner.environment(self.threads, PARALLEL)
        write_environment(self._folder / "environment.json", environment, self._note)
        self._tuning = self._tune(runner)
        self._choices = choose_all(self._config, self._tasks, self._tuning)
        self._write_notes(edges(self._tasks, self._choices))
        self._targets = state_targets(self._folder / "targets.json", self._tasks, self._choices, self._tuning)
        chosen = {"choices": choices_as_json(self._choices), "targets": targets_as_json(self._targets)}
        return self._tasks_of("race", self.seeds, runner, **chosen)

    def join(self, failures: Mapping[int, Failure]) -> None:
        """Write the records of the seeds that are whole, and the report."""
        seeds = [seed for seed in self.seeds if seed not in failures]
        every = [*self._tuning, *(result for seed in seeds for result in self._raced(seed))]
        runs = tuple(run for result in every for run in result.runs)
        points = tuple(point for result in every for point in result.points)
        records.write(self._folder / RUNS, RaceRun, runs)
        records.write(self._folder / CURVE, RacePoint, points)
        if seeds:
            build_report(self.out)
        self._found = Race(self.out, runs, points, self._config.overhead)

    def result(self) -> Race:
        """The finished race."""
        assert self._found is not None
        return self._found

    def _tune(self, runner: Runner) -> list[Result]:
        seeds = self._config.tuning_seeds
        raise_failures(runner.run(self._tasks_of("tune", seeds, runner, rates=None)))
        first = [unit for seed in seeds for unit in first_round(self._config, self._tasks, seed)]
        found = [self._store.need(unit) for unit in first]
        rates = best_wsd_rates(self._config, self._tasks, found)
        second = [unit for seed in seeds for unit in second_round(self._config, self._tasks, seed, rates)]
        if any(self._missing(unit) for unit in second):
            raise_failures(runner.run(self._tasks_of("tune", seeds, runner, rates=rates_as_json(rates))))
        return found + [self._store.need(unit) for unit in second]

    def _missing(self, unit: RaceUnit) -> bool:
        try:
            return self._store.read(unit) is None
        except Damaged:
            return True

    def _tasks_of(self, work: str, seeds: Sequence[int], runner: Runner, **arguments: Any) -> list[Task]:
        place = {
            "config": self._config.model_dump(mode="json"),
            "folder": str(self._folder),
            "threads": self.threads,
        }
        return seed_tasks(seeds, f"leapverify.race.entry:{work}", {**place, **arguments}, runner)

    def _raced(self, seed: int) -> Iterator[Result]:
        for case in cases(self._tasks):
            which = SeedCase(self._tasks[case.task], case, seed, self._choices, self._targets[case])
            yield from results_of(self._store, self._config, which)

    def _write_notes(self, found: Sequence[str]) -> None:
        """What a reader should know beside the numbers."""
        asked = "schedule-free" in with_needs(self._config.arms) and "adamw" in self._config.optimizers
        missing = [SCHEDULE_FREE_MISSING] if asked and not has_schedule_free() else []
        write_json(self._folder / "notes.json", {"notes": [*missing, *found]})

    def _note(self, text: str) -> None:
        self._watcher(Progress(self.seeds[0], 0, 1, "note", note=text))
