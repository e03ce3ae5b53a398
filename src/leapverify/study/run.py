"""The whole study: seeds side by side, their records joined, seeds compared, report written."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leapverify import records
from leapverify.analysis.seeds import compare_seeds
from leapverify.observe import Thresholds
from leapverify.records import CascadeLink, Checkpoint, LossPoint, Prediction, SeedMeasure
from leapverify.report import build_report
from leapverify.storage import Damaged, NotWritten, read_json, write_json, write_text
from leapverify.study import cascade, sweep
from leapverify.study.config import ConfigError, StudyConfig
from leapverify.study.environment import cpu_count, describe, resolve_device
from leapverify.study.executor import Deadline, Failure, Paused, StudyError, Task, exclusive, run_tasks
from leapverify.study.folder import (
    CASCADES,
    CHECKPOINTS,
    CURVE,
    DONE,
    PREDICTIONS,
    SEEDS,
    Rows,
    SeedFolder,
    Study,
)
from leapverify.study.presets import preset as preset_named
from leapverify.study.progress import Progress, Watcher, ignore
from leapverify.study.settings import differences, dump_config, effective, load_config, with_settings

NARROW = 256
"""Models below this width compute with one thread."""


def run_study(
    preset: str | StudyConfig = "tiny",
    out: Path | str | None = None,
    *,
    seeds: Sequence[int] | None = None,
    steps: int | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    watcher: Watcher = ignore,
    minutes: float | None = None,
) -> Study:
    """Run a study, or go on with one that was stopped, and write its report.

    Several seeds on a CPU run in processes of their own: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        preset: a preset's name or a whole configuration.
        out: the run folder; runs/PRESET by default.
        seeds: instead of the preset's.
        steps: optimizer steps, instead of the preset's; a named preset's warm-up keeps its share.
        device: auto, cpu or cuda.
        settings: dotted keys, such as {"training.lr": 1e-3}.
        watcher: is told how every seed gets on.
        minutes: after so many every seed stops at its next state; None: it runs to its end.

    Returns: the finished study.

    Raises:
        ConfigError: wrong settings, or `out` holds something else.
        StudyError: a seed failed; what it had is kept.
        Paused: the minutes are over; the same call goes on.
    """
    config = preset if isinstance(preset, StudyConfig) else preset_named(preset, steps)
    changes = dict(settings or {})
    if seeds is not None:
        changes["seeds"] = list(seeds)
    if isinstance(preset, StudyConfig) and steps is not None:
        changes["training.steps"] = steps
    config = with_settings(config, changes)
    return _run(config, Path(out or f"runs/{config.preset}"), device, watcher, deadline_of(config, minutes))


def deadline_of(config: StudyConfig, minutes: float | None) -> Deadline:
    """The time after which the seeds of a study stop.

    Raises:
        ConfigError: no positive number of minutes, or a study that keeps nothing to go on from.
    """
    if minutes is None:
        return None
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes {minutes:g} is no time to work: give a positive number of minutes")
    if config.snapshots.every is None:
        raise ConfigError(
            "--minutes stops where a study can go on, and snapshots.every is null, which keeps no such place: "
            "set snapshots.every, or leave --minutes out"
        )
    return time.time() + 60 * minutes


def minutes_until(deadline: Deadline) -> float | None:
    """What is left, for a further study under the same deadline; never nothing, since one that is done may say so."""
    return None if deadline is None else max(1e-6, (deadline - time.time()) / 60)


def _run(config: StudyConfig, out: Path, device: str, watcher: Watcher, deadline: Deadline) -> Study:
    device = resolve_device(device)
    require_free(config, out)
    if finished(config, out):
        return Study(out)
    rehearse(config)
    with exclusive(out, patience_s=5.0):
        claim(config, out)
        workers, threads = layout(config, device, out)
        from leapverify.study.planning import plan_of, say_plan
        from leapverify.study.setup import parameters_of

        say_plan(plan_of(config, device, workers), config, out, watcher)

        present = describe(device, threads=threads, workers=workers)
        _write_environment(out, {**present, "parameters": parameters_of(effective(config))})
        thresholds = resolve_thresholds(config, out)
        arguments = {"config": config, "thresholds": thresholds, "run": out, "device": device, "threads": threads}
        failures = _record(config, out, workers, {**arguments, "deadline": deadline}, watcher)
        complete = [seed for seed in config.seeds if seed not in failures]
        if complete:
            join_records(out, complete)
            build_report(out)
        raise_failures(failures)
        write_json(out / DONE, {"seeds": list(config.seeds), "steps": config.training.steps})
    return Study(out)


def require_free(config: StudyConfig, out: Path) -> None:
    """Refuse a run folder that is another study's, or no run folder at all.

    Raises:
        ConfigError: it holds checkpoints of another configuration, or other files.
    """
    path = out / "config.yaml"
    if path.is_file():
        found = differences(load_config(path), config)
        if found and _begun(out):
            raise ConfigError(
                f"{out} holds a study with another configuration ({'; '.join(found[:3])}"
                f"{'; ...' if len(found) > 3 else ''}): name another --out, or delete that folder"
            )
        return
    if out.exists() and (not out.is_dir() or any(not item.name.startswith(".") for item in out.iterdir())):
        raise ConfigError(f"{out} is not empty and holds no study: name another --out")


def _begun(out: Path) -> bool:
    """Whether any seed has a checkpoint: until then a folder's configuration may still be corrected."""
    return any(out.glob(f"seed-*/records/{CHECKPOINTS}"))


def claim(config: StudyConfig, out: Path) -> None:
    """Make `out` the run folder of this configuration; what an earlier one left before its first checkpoint goes."""
    path = out / "config.yaml"
    if path.is_file() and differences(load_config(path), config):
        for name in ("thresholds.json", "environment.json"):
            (out / name).unlink(missing_ok=True)
    write_text(path, dump_config(config))


def rehearse(config: StudyConfig) -> None:
    """Look at everything that can be wrong with the input before anything is written or started.

    Raises:
        ConfigError: text, tokenizer, probes or calibration run cannot be used.
    """
    from leapverify.study.setup import check_input

    try:
        check_input(effective(config))
        _thresholds(config)
    except (Damaged, NotWritten):
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def finished(config: StudyConfig, out: Path) -> bool:
    """Whether the folder holds this study whole: every seed, every record, the report."""
    if not ((out / DONE).is_file() and (out / "report.html").is_file()):
        return False
    study = Study(out)
    try:
        rows = (study.checkpoints, study.curve, study.predictions, study.cascades, study.seeds)
    except ValueError:
        return False
    return all(rows[:2]) and all(SeedFolder(out, seed).done for seed in config.seeds)


def raise_failures(failures: Mapping[int, Failure]) -> None:
    """Say which seeds failed and why.

    Raises:
        ConfigError: all of them for wrong use.
        Paused: all of them because their time was over.
        StudyError: any of them for another reason.
    """
    if not failures:
        return
    if all(failure.paused for failure in failures.values()):
        raise Paused(str(next(iter(failures.values()))))
    text = "; ".join(f"seed {seed}: {failure}" for seed, failure in failures.items())
    raise ConfigError(text) if all(failure.wrong_use for failure in failures.values()) else StudyError(text)


def layout(config: StudyConfig, device: str, out: Path) -> tuple[int, int]:
    """Seeds side by side, and CPU threads for each.

    A resumed study keeps the thread count that it began with, on which the last bits of every number depend.
    """
    cores = cpu_count()
    begun = _read_if_whole(out / "environment.json")
    if begun.get("device") == device:
        return min(begun["seeds_side_by_side"], cores), begun["threads_per_seed"]
    if device == "cuda":
        return 1, max(1, min(cores, 8))
    workers = min(len(config.seeds), cores)
    # Operations on narrow models end before a second thread has woken up: it would only slow them down.
    threads = cores // workers if config.model.hidden >= NARROW else 1
    return workers, max(1, threads)


def resolve_thresholds(config: StudyConfig, out: Path) -> Thresholds:
    """The cut points of the configured method; written once, so that a resumed study uses the same.

    Raises:
        ConfigError: the calibration run cannot be read.
    """
    path = out / "thresholds.json"
    if kept := _read_if_whole(path):
        return Thresholds.from_dict(kept)
    thresholds = _thresholds(config)
    write_json(path, thresholds.to_dict())
    return thresholds


def _thresholds(config: StudyConfig) -> Thresholds:
    r = config.regimes
    if r.thresholds == "fixed":
        assert r.low is not None
        assert r.high is not None
        return Thresholds.fixed(r.low, r.high)
    if r.thresholds == "paper":
        return Thresholds.paper()
    if r.thresholds == "online":
        return Thresholds.online()
    try:
        rows = records.read(Path(str(r.calibration)) / CHECKPOINTS, Checkpoint)
    except ValueError as error:
        raise ConfigError(f"regimes.calibration {r.calibration}: {error}") from error
    # Of the kind that this study cuts, whichever kind decided the labels of the calibration run.
    kind = effective(config).observe.similarity.replace("-", "_")
    seen = [(row, value) for row in rows if (value := getattr(row, f"similarity_{kind}")) is not None]
    similarities = [value for _, value in seen]
    percentiles = {"low": 30.0 if r.low is None else r.low, "high": 70.0 if r.high is None else r.high}
    if r.thresholds == "percentile":
        return Thresholds.percentile(similarities, **percentiles)
    return Thresholds.rate(similarities, [row.eta_sum for row, _ in seen], **percentiles)


def _read_if_whole(path: Path) -> dict[str, Any]:
    """A JSON file's mapping, empty where there is none or it is damaged: it can be made again."""
    try:
        found = read_json(path)
    except Damaged:
        return {}
    return found if isinstance(found, dict) else {}


def _record(
    config: StudyConfig, out: Path, workers: int, arguments: dict[str, Any], watcher: Watcher
) -> dict[int, Failure]:
    from leapverify.study.record import record_seed

    steps = config.training.steps
    todo = [seed for seed in config.seeds if not _whole(SeedFolder(out, seed), steps, watcher)]
    tasks = [Task(seed, record_seed, {**arguments, "seed": seed}) for seed in todo]
    return run_tasks(tasks, workers=min(workers, max(1, len(todo))), watcher=watcher)


def _whole(folder: SeedFolder, steps: int, watcher: Watcher) -> bool:
    """Whether a seed has finished and its records are whole; a damaged one is opened again."""
    if not folder.done:
        return False
    try:
        folder.read_rows()
        folder.read_fingerprints()
    except Damaged as error:
        watcher(Progress(folder.seed, 0, steps, "note", note=str(error)))
        (folder.path / DONE).unlink()
        return False
    watcher(Progress(folder.seed, steps, steps, "done"))
    return True


def join_records(out: Path, seeds: Sequence[int]) -> None:
    """Join the seeds' records, fill in what only their future tells, and compare the seeds."""
    parts = [SeedFolder(out, seed).read_rows() for seed in seeds]
    checkpoints = [row for part in parts for row in part.checkpoints]
    records.write(out / CHECKPOINTS, Checkpoint, checkpoints)
    records.write(out / CURVE, LossPoint, [row for part in parts for row in part.curve])
    write_predictions(out, parts)
    links = [row for part in parts for row in cascade.complete(part.cascades, part.curve)]
    records.write(out / CASCADES, CascadeLink, links)
    fingerprints = {
        seed: {step: value.numpy() for step, value in SeedFolder(out, seed).read_fingerprints().items()}
        for seed in seeds
    }
    records.write(out / SEEDS, SeedMeasure, compare_seeds(checkpoints, fingerprints))


def write_predictions(out: Path, parts: Sequence[Rows]) -> None:
    """Write the sweep's rows of all seeds, completed from each seed's own loss curve."""
    rows = [row for part in parts for row in sweep.complete(part.predictions, part.curve)]
    records.write(out / PREDICTIONS, Prediction, rows)


def _write_environment(out: Path, present: dict[str, Any]) -> None:
    """Write what the study runs on; the start of a resumed study stays, other machines are listed."""
    path = out / "environment.json"
    if first := _read_if_whole(path):
        same = {key: present[key] for key in ("device", "cpu", "gpu", "versions")}
        if {key: first.get(key) for key in same} == same:
            return
        first.setdefault("continued_on", []).append(present)
        present = first
    write_json(path, present)
