"""The whole race: tuning, targets, then all arms of every seed, records and report; it goes on where it stopped."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.analysis.race.arms import Case
from leapverify.analysis.race.verdicts import verdicts
from leapverify.errors import ConfigError
from leapverify.io import records
from leapverify.io.manifest import Manifest, sweep_leftovers
from leapverify.io.records import RacePoint, RaceRun
from leapverify.io.storage import Damaged, NotWritten, read_json, write_json, write_sealed
from leapverify.race.arms import SCHEDULE_FREE_MISSING, has_schedule_free, with_needs
from leapverify.race.config import RaceConfig
from leapverify.race.entry import choices_as_json, rates_as_json, targets_as_json
from leapverify.race.overrides import differences, dump_config, left_out, load_config, with_settings
from leapverify.race.parallel import PARALLEL, require_spreadable
from leapverify.race.plan import Result, TunedChoice, Unit, cases, digest, first_round, second_round
from leapverify.race.presets import preset as preset_named
from leapverify.race.results import Store
from leapverify.race.tasks import build_tasks
from leapverify.race.tasks.text import FINETUNE_SHARES, PRETRAIN_SHARES, Reader
from leapverify.race.tune import best_wsd_rates, choose_all, edges, state_targets
from leapverify.race.worker import results_of
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Execution, Executor, Failure, Task, by_seed, exclusive
from leapverify.runs.driver import raise_failures
from leapverify.runs.environment import cpu_count, describe, resolve_device
from leapverify.runs.progress import Watcher, ignore
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
    threads = threads_of_a_race(device)
    workers = execution.side_by_side(len(config.seeds), threads, device)
    with execution.open(folder, workers) as executor, exclusive(folder, patience_s=5.0):
        for place, below in ((folder, False), (folder / FOLDER, True)):
            sweep_leftovers(place, below=below)
        manifest = Manifest(folder)
        write_sealed(folder / FOLDER / "config.yaml", dump_config(config))
        race = _Race(config, folder, watcher, executor, device, threads, workers).run()
        manifest.write()
    return race


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
        require_spreadable(config, present())
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
        there = load_config(path)
        found = differences(there, config) or left_out(there, config)
        if found and any((out / FOLDER / "units").glob("*.json")):
            raise ConfigError(
                f"{out} holds a race with another configuration ({'; '.join(found[:3])}"
                f"{'; ...' if len(found) > 3 else ''}): name another --out, or delete {out / FOLDER}"
            )
        return
    strange = out.exists() and (not out.is_dir() or any(not item.name.startswith(".") for item in out.iterdir()))
    if strange and not (out / STUDY).is_file():
        raise ConfigError(f"{out} is not empty and holds neither a race nor a study: name another --out")


class _Race:
    """A race that goes on in a folder that is its own."""

    def __init__(
        self,
        config: RaceConfig,
        out: Path,
        watcher: Watcher,
        executor: Executor,
        device: str,
        threads: int,
        workers: int,
    ) -> None:
        self.config, self.out, self.watcher, self.executor = config, out, watcher, executor
        self.device, self.threads, self.workers = device, threads, workers
        self.folder = out / FOLDER
        self.tasks = build_tasks(config)
        self.store = Store(self.folder / "units", digest(config))

    def run(self) -> Race:
        """All stages."""
        self._write_environment()
        tuning = self._tune()
        choices = choose_all(self.config, self.tasks, tuning)
        self._write_notes(edges(self.tasks, choices))
        targets = state_targets(self.folder / "targets.json", self.tasks, choices, tuning)
        arguments = {"choices": choices_as_json(choices), "targets": targets_as_json(targets)}
        failures = self._side_by_side("race", self.config.seeds, arguments)
        race = self._join(tuning, choices, targets, [seed for seed in self.config.seeds if seed not in failures])
        raise_failures(failures)
        return race

    def _tune(self) -> list[Result]:
        seeds = self.config.tuning_seeds
        raise_failures(self._side_by_side("tune", seeds, {"rates": None}))
        first = [unit for seed in seeds for unit in first_round(self.config, self.tasks, seed)]
        found = [self.store.need(unit) for unit in first]
        rates = best_wsd_rates(self.config, self.tasks, found)
        second = [unit for seed in seeds for unit in second_round(self.config, self.tasks, seed, rates)]
        if any(self._missing(unit) for unit in second):
            raise_failures(self._side_by_side("tune", seeds, {"rates": rates_as_json(rates)}))
        return found + [self.store.need(unit) for unit in second]

    def _missing(self, unit: Unit) -> bool:
        try:
            return self.store.read(unit) is None
        except Damaged:
            return True

    def _side_by_side(self, work: str, seeds: Sequence[int], arguments: Mapping[str, Any]) -> dict[int, Failure]:
        place = {
            "config": self.config.model_dump(mode="json"),
            "folder": str(self.folder),
            "threads": self.threads,
        }
        gpus = int(self.device == "cuda")
        tasks = [
            Task(
                seed,
                f"leapverify.race.entry:{work}",
                {**place, **arguments, "seed": seed},
                threads=self.threads,
                gpus=gpus,
            )
            for seed in seeds
        ]
        return by_seed(tasks, self.executor.run(tasks, self.watcher))

    def _join(
        self,
        tuning: Sequence[Result],
        choices: Mapping[tuple[str, str, str], TunedChoice],
        targets: Mapping[Case, float],
        seeds: Sequence[int],
    ) -> Race:
        """Write the records of the seeds that are whole, and the report."""
        raced = [
            result
            for seed in seeds
            for case in cases(self.tasks)
            for result in results_of(self.store, self.config, self.tasks[case.task], case, seed, choices, targets[case])
        ]
        every = [*tuning, *raced]
        runs = tuple(run for result in every for run in result.runs)
        points = tuple(point for result in every for point in result.points)
        records.write(self.folder / RUNS, RaceRun, runs)
        records.write(self.folder / CURVE, RacePoint, points)
        if seeds:
            build_report(self.out)
        return Race(self.out, runs, points, self.config.overhead)

    def _write_notes(self, found: Sequence[str]) -> None:
        """What a reader should know beside the numbers."""
        asked = "schedule-free" in with_needs(self.config.arms) and "adamw" in self.config.optimizers
        missing = [SCHEDULE_FREE_MISSING] if asked and not has_schedule_free() else []
        write_json(self.folder / "notes.json", {"notes": [*missing, *found]})

    def _write_environment(self) -> None:
        """What the race runs on; the start of one that goes on stays, other machines are listed."""
        path = self.folder / "environment.json"
        ranks = present()
        spread = {} if ranks.alone else {"ranks": ranks.size, "parallel": PARALLEL}
        machine = describe(self.device, threads=self.threads, workers=self.workers) | spread
        try:
            first: dict[str, Any] = read_json(path)
            same = all(first[key] == machine[key] for key in ("device", "cpu", "gpu", "versions"))
            same = same and all(first.get(key) == machine.get(key) for key in ("ranks", "parallel"))
        except (Damaged, KeyError, TypeError):
            write_json(path, machine)
            return
        if not same:
            first.setdefault("continued_on", []).append(machine)
            write_json(path, first)
