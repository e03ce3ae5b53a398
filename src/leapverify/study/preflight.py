"""Whose a run folder is, and what is settled in it before the first step: settings, cut points, machine, threads."""

from __future__ import annotations

from pathlib import Path

from leapverify.config.overrides import differences, dump_config, identity_of, load_config, with_settings
from leapverify.config.resolved import Resolved
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError, Damaged, NotWritten
from leapverify.io import records
from leapverify.io.records import Checkpoint
from leapverify.io.storage import read_json, write_json, write_sealed
from leapverify.observe import Thresholds
from leapverify.runs.driver import other_configuration, read_environment, require_empty
from leapverify.runs.environment import cpu_count
from leapverify.runs.progress import Watcher, ignore, say
from leapverify.runs.world import present, ranks_here
from leapverify.study.folder import CHECKPOINTS, DONE, SeedFolder, Study

NARROW = 256
"""Models below this width compute with one thread."""


def require_free(config: StudyConfig, out: Path, watcher: Watcher = ignore) -> None:
    """Refuse a run folder that is another study's, or no run folder at all.

    Raises:
        Damaged: its configuration is damaged, and nothing says that it was this one.
        ConfigError: it is missing, and the study was another one; or the folder holds checkpoints of another
            configuration, or other files.
    """
    path = out / "config.yaml"
    if path.is_file() or (out / "environment.json").is_file():
        found = _other_study(_standing(config, out, watcher), config)
        if found and _begun(out):
            raise other_configuration(out, "study", found, "that folder")
        return
    require_empty(out, "no study")


def _other_study(there: StudyConfig, config: StudyConfig) -> list[str]:
    """The settings that make it another study; how the ranks hold the model is of no account."""
    return differences(with_settings(there, {"training.parallel": config.training.parallel}), config)


def _standing(config: StudyConfig, out: Path, watcher: Watcher) -> StudyConfig:
    """The folder's configuration; damaged or gone it is written again where the study began with this one."""
    path = out / "config.yaml"
    try:
        return load_config(path)
    except (Damaged, ConfigError) as error:
        try:
            begun = read_json(out / "environment.json").get("config_sha256")
        except (Damaged, AttributeError):
            begun = None
        if begun != identity_of(config) and not path.exists():
            remedy = "put back a copy of it, or name another --out"
            raise ConfigError(f"{path} is missing, of a study with another configuration: {remedy}") from error
        if begun != identity_of(config):
            raise
        say(watcher, config, f"{error}; it is written again, for this study began with the same one")
        write_sealed(path, dump_config(config))
        return config


def _begun(out: Path) -> bool:
    """Whether any seed has a checkpoint: until then a folder's configuration may still be corrected."""
    return any(out.glob(f"seed-*/records/{CHECKPOINTS}"))


def take_folder(config: StudyConfig, out: Path) -> None:
    """Make `out` the run folder of this configuration; what an earlier one left before its first checkpoint goes."""
    path = out / "config.yaml"
    if path.is_file() and _other_study(load_config(path), config):
        for name in ("thresholds.json", "environment.json"):
            (out / name).unlink(missing_ok=True)
    write_sealed(path, dump_config(config))


def rehearse(config: Resolved) -> None:
    """Look at everything that can be wrong with the input before anything is written or started.

    Raises:
        ConfigError: text, tokenizer, probes or calibration run cannot be used.
    """
    from leapverify.study.apparatus import check_input
    from leapverify.study.parallel import require_parallel

    require_parallel(config, present())
    try:
        check_input(config)
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
        read_json(out / DONE)
        rows = (study.checkpoints, study.curve, study.predictions, study.cascades, study.seeds)
    except ValueError:
        return False
    return all(rows[:2]) and all(SeedFolder(out, seed).done for seed in config.seeds)


def threads_of_seeds(config: StudyConfig, device: str, out: Path) -> int:
    """CPU threads for each seed, on which the last bits of every number depend.

    They follow from the numbers of seeds and cores, whatever runs the seeds and how many at a time; and a resumed study
    keeps those that it began with.
    """
    begun = read_environment(out / "environment.json")
    ranks = present()
    if begun.get("device") == device and begun.get("ranks", 1) == ranks.size:
        return int(begun["threads_per_seed"])
    cores = max(1, cpu_count() // ranks_here())
    if device == "cuda":
        return max(1, min(cores, 8))
    # Operations on narrow models end before a second thread has woken up: it would only slow them down.
    seeds = min(len(config.seeds), cores) if ranks.alone else 1
    return max(1, cores // seeds) if config.model.hidden >= NARROW else 1


def resolve_thresholds(config: Resolved, out: Path, watcher: Watcher = ignore) -> Thresholds:
    """The cut points of the configured method; written once, so that a resumed study uses the same.

    Where their file is damaged they are worked out again, which is said.

    Raises:
        ConfigError: the calibration run cannot be read.
    """
    path = out / "thresholds.json"
    try:
        return Thresholds.from_dict(read_json(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if path.exists():
            why = error if isinstance(error, Damaged) else f"{path} holds no thresholds"
            say(watcher, config.settings, f"{why}; the cut points are worked out again")
    thresholds = _thresholds(config)
    write_json(path, thresholds.to_dict())
    return thresholds


def _thresholds(config: Resolved) -> Thresholds:
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
    kind = config.observe.similarity.replace("-", "_")
    seen = [(row, value) for row in rows if (value := getattr(row, f"similarity_{kind}")) is not None]
    similarities = [value for _, value in seen]
    percentiles = {"low": 30.0 if r.low is None else r.low, "high": 70.0 if r.high is None else r.high}
    if r.thresholds == "percentile":
        return Thresholds.percentile(similarities, **percentiles)
    return Thresholds.rate(similarities, [row.eta_sum for row, _ in seen], **percentiles)
