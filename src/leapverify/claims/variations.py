"""The variations behind the findings: one preset with one thing changed at a time, each to decide a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapverify.claims.evidence import (
    BASE,
    BFLOAT16,
    CONSTANT,
    HALF_MOMENTS,
    LARGER,
    LENGTHS,
    PAPER_RATE,
    RATES_AND_INTERVALS,
    SHARED_INIT,
    STOCHASTIC,
    Evidence,
    Records,
    beyond_first,
)
from leapverify.config.overrides import with_settings
from leapverify.config.resolved import Resolved
from leapverify.config.study import ALL_REGIMES, StudyConfig
from leapverify.errors import ConfigError, hint
from leapverify.io.untrusted import escape as words
from leapverify.runs import AUTOMATIC, Deadline, Execution
from leapverify.runs.failure import in_one_line
from leapverify.runs.progress import Watcher
from leapverify.study.folder import Study
from leapverify.study.run_many import run_many

ETA_OF_THE_PAPER = 5e-5
BASE_SEEDS = 8
"""Of the base study, unless seeds are named: a sign-flip p of 2^-8 then remains significant among a dozen tests."""
OTHER_SEEDS = 4
"""Of every other study: the first ones of the base study's, so that differences are paired."""

SWEEP: Mapping[str, Any] = {
    "sweep.predictors": ["hold", "random", "linear", "quadratic", "momentum", "adam", "adam-constant"],
    "sweep.horizons": [5, 25, 100],
    "sweep.regimes": list(ALL_REGIMES),
    "sweep.curve_every_steps": None,
    "cascade.kinds": [],
    "snapshots.weights": "last",
    "snapshots.optimizer": "last",
}
"""What the claims need of a sweep, and no more."""
BASE_SWEEP: Mapping[str, Any] = {
    "sweep.predictors": ["hold", "random", "linear", "quadratic", "quadratic-paper", "momentum", "adam",
                         "adam-constant"],
    "sweep.horizons": [5, 10, 25, 50, 75, 100],
    "observe.lyapunov": True,
}  # fmt: skip


@dataclass(frozen=True)
class Variation:
    """One study of the set."""

    name: str
    reason: str
    """What it is run for."""
    settings: Mapping[str, Any]
    """What it changes, against the base study."""
    config: StudyConfig


Change = Callable[[StudyConfig], dict[str, Any]]


def _rate(factor: float, **more: Any) -> Change:
    return lambda config: {"training.lr": config.training.lr * factor, **more}


def _interval(numerator: int, denominator: int) -> Change:
    return lambda config: {"observe.interval_steps": config.observe.interval_steps * numerator // denominator}


def _length(factor: float) -> Change:
    """The whole schedule stretched, nothing swept: only when regimes begin is asked."""

    def change(config: StudyConfig) -> dict[str, Any]:
        interval = config.observe.interval_steps
        steps = max(1, round(config.training.steps * factor / interval)) * interval
        warmup = round(config.training.warmup_steps * steps / config.training.steps)
        return {"training.steps": steps, "training.warmup_steps": warmup, "sweep.regimes": []}

    return change


def _wider(config: StudyConfig) -> dict[str, Any]:
    """Twice the width and the heads: about four times the parameters of the blocks."""
    spec = config.model
    names = ("hidden", "heads", "kv_heads", "intermediate")
    return {f"model.{name}": 2 * value for name in names if (value := getattr(spec, name)) is not None}


def _fixed(**settings: Any) -> Change:
    return lambda _: {name.replace("__", "."): value for name, value in settings.items()}


_CONSTANT = {"training.schedule": "constant"}
_BF16 = {"training__lr": ETA_OF_THE_PAPER, "training__weights": "bfloat16"}

CHANGES: Mapping[str, tuple[str, Change]] = {
    RATES_AND_INTERVALS[0]: ("does a label survive half the learning rate?", _rate(0.5)),
    RATES_AND_INTERVALS[1]: ("does a label survive twice the learning rate?", _rate(2.0)),
    RATES_AND_INTERVALS[2]: ("does a label survive half the checkpoint interval?", _interval(1, 2)),
    RATES_AND_INTERVALS[3]: ("does a label survive twice the checkpoint interval?", _interval(2, 1)),
    CONSTANT[0]: ("do regimes change while the rate stays at its peak?", _rate(1.0, **_CONSTANT)),
    CONSTANT[1]: ("do regimes change while the rate stays at a quarter of the peak?", _rate(0.25, **_CONSTANT)),
    CONSTANT[2]: ("do regimes change while the rate stays at a sixteenth of the peak?", _rate(0.0625, **_CONSTANT)),
    LARGER: ("do the regimes scale as the paper's do? Twice as wide, about four times the parameters", _wider),
    SHARED_INIT: ("one initialisation for all seeds: what is left when they differ in their batches only",
                  _fixed(switches__shared_init=True)),
    HALF_MOMENTS: ("what float16 moments do to the predictors that read them", _fixed(switches__half_moments=True)),
    PAPER_RATE: ("the paper's learning rate in float32: the control of the next two",
                 _fixed(training__lr=ETA_OF_THE_PAPER)),
    BFLOAT16: ("the paper's learning rate with weights, gradients and moments in bfloat16", _fixed(**_BF16)),
    STOCHASTIC: ("the same with stochastic rounding, which loses no update on average",
                 _fixed(**_BF16, training__rounding="stochastic")),
    LENGTHS[0]: ("a schedule of 0.6 of the length: do the boundaries move with it?", _length(0.6)),
    LENGTHS[1]: ("a schedule of 0.8 of the length", _length(0.8)),
    LENGTHS[2]: ("a schedule of 1.2 of the length", _length(1.2)),
}  # fmt: skip
"""Name -> (what it is run for, what it changes)."""


def base_config(config: StudyConfig, settings: Mapping[str, Any], seeds: Sequence[int] | None) -> StudyConfig:
    """The preset with a sweep of what the claims need, then the user's settings.

    Raises:
        ConfigError: a switch is on, or the intervals do not divide.
    """
    # The fixed sequences are all: no verdict here rests on the paired criterion, which may ask for more.
    fixed = {**SWEEP, **BASE_SWEEP, "verify.budget": settings.get("verify.sequences", config.verify.sequences)}
    first = config.seeds[0]
    fixed["seeds"] = list(range(first, first + BASE_SEEDS) if seeds is None else seeds)
    found = with_settings(config, {**fixed, **settings})
    if any(on for _, on in found.switches):
        raise ConfigError("findings begin with every switch off: leave the switches out of the settings")
    interval = found.observe.interval_steps
    if interval % 2 or found.training.steps % (2 * interval):
        raise ConfigError(
            f"findings halve and double observe.interval_steps, and {interval} steps in {found.training.steps} do not "
            "allow both: take an even interval, and a number of steps that twice the interval divides"
        )
    return found


def variations(base: StudyConfig) -> list[Variation]:
    """The base study and everything that is changed about it, in the order in which they run.

    Raises:
        ConfigError: a change does not fit the preset.
    """
    found = [Variation(BASE, "what everything is compared with", {}, base)]
    narrow = {
        "seeds": list(base.seeds[:OTHER_SEEDS]),
        "observe.lyapunov": False,
        "sweep.predictors": _those(SWEEP["sweep.predictors"], base.sweep.predictors),
        "sweep.horizons": _those(SWEEP["sweep.horizons"], base.sweep.horizons),
    }
    for name, (reason, change) in CHANGES.items():
        settings = change(base)
        found.append(Variation(name, reason, settings, with_settings(base, {**narrow, **settings})))
    return found


def _those(wanted: Sequence[Any], present: Sequence[Any]) -> list[Any]:
    """The wanted ones that the base study has; all that it has, where it has none of them."""
    return [item for item in wanted if item in present] or list(present)


def chosen(every: Sequence[Variation], only: Sequence[str] | None, skip: Sequence[str] | None) -> list[Variation]:
    """The variations to run.

    Raises:
        ConfigError: a name that is none of them, or nothing is left.
    """
    names = [variation.name for variation in every]
    for option, given in (("--only", only or ()), ("--skip", skip or ())):
        for name in given:
            if name not in names:
                raise ConfigError(f"{option} names {name!r}, which is no variation: {hint(name, names)}")
    left = [v for v in every if (only is None or v.name in only) and v.name not in (skip or ())]
    if not left:
        raise ConfigError("--only and --skip leave no variation: name at least one to run")
    return left


def run_variations(
    wanted: Sequence[Variation],
    every: Sequence[Variation],
    folder: Path,
    *,
    device: str,
    watcher: Watcher,
    deadline: Deadline | None = None,
    execution: Execution = AUTOMATIC,
) -> Evidence:
    """Run the wanted variations below `folder`, and read those that an earlier call finished there.

    Returns: the records of all that are whole, and why the others are not.

    Raises:
        Paused: the deadline passed; the same call goes on.
    """
    configs = {variation.name: (variation.config, folder / variation.name) for variation in wanted}
    ran = run_many(configs, folder, device=device, watcher=watcher, deadline=deadline, execution=execution)
    found = {name: study for name, study in ran.items() if isinstance(study, Study)}
    missing = {name: in_one_line(study) for name, study in ran.items() if not isinstance(study, Study)}
    for name in [v.name for v in every if v.name not in ran]:
        if (folder / name / "done.json").is_file():
            found[name] = Study(folder / name)
        else:
            missing[name] = "was not run"
    order = [v.name for v in every if v.name in found]
    return Evidence({name: _records(found[name]) for name in order}, missing)


def _records(study: Study) -> Records:
    from leapverify.study.apparatus import parameters_of

    config = study.config
    prints = {
        seed: {step: values.numpy() for step, values in study.fingerprints(seed).items()} for seed in config.seeds
    }
    return Records(
        checkpoints=study.checkpoints,
        predictions=study.predictions,
        measures=[*study.seeds, *beyond_first(prints)],
        peak=config.training.lr,
        warmup_steps=config.training.warmup_steps,
        steps=config.training.steps,
        interval_steps=config.observe.interval_steps,
        parameters=parameters_of(Resolved.of(config)),
    )


def as_lines(every: Sequence[Variation]) -> Iterator[str]:
    """The set as Markdown lines: name, change, reason."""
    yield "| variation | changes | run for | seeds |"
    yield "|---|---|---|---|"
    for variation in every:
        changed = ", ".join(f"{key}={_short(value)}" for key, value in variation.settings.items()) or "–"
        yield f"| {variation.name} | {changed} | {variation.reason} | {len(variation.config.seeds)} |"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else words.markdown(str(value))
