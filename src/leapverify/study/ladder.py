"""The ladder: the same seeds with each of the paper's artefacts turned on alone, and with all of them together."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.analysis.study.acceptance import acceptance, averages
from leapverify.config.overrides import with_settings
from leapverify.config.study import SWITCH_SETTINGS, StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.storage import replace_marked, write_text
from leapverify.io.untrusted import escape as words
from leapverify.report import build_report
from leapverify.runs import AUTOMATIC, Execution
from leapverify.runs.driver import rewriting
from leapverify.runs.failure import in_one_line
from leapverify.runs.progress import Watcher, ignore
from leapverify.study.folder import Study
from leapverify.study.run import deadline_of
from leapverify.study.run_many import run_many

BASE, ALL = "none", "all"
MOMENTUM = ("momentum", "adam", "adam-constant")


@dataclass(frozen=True)
class Rung:
    """One number of one variant."""

    variant: str
    table: str
    """The paper's table that it belongs to."""
    quantity: str
    value: OverSeeds

    @property
    def text(self) -> str:
        """The number as mean ± std, or why there is none."""
        v = self.value
        if v.mean is None:
            return f"– ({v.reason})"
        spread = "" if v.std is None else f" ± {v.std:.3g}"
        return f"{v.mean:.4g}{spread} (n={v.n})"


def variants(config: StudyConfig) -> Mapping[str, StudyConfig]:
    """The configuration with each switch alone, and with all.

    Raises:
        ConfigError: a switch is on already, so that nothing could be compared with it.
    """
    if any(on for _, on in config.switches):
        raise ConfigError("a ladder begins with every switch off: leave the switches out of --set")
    alone = {name: with_settings(config, {f"switches.{name}": True}) for name in SWITCH_SETTINGS}
    together = with_settings(config, {f"switches.{name}": True for name in SWITCH_SETTINGS})
    return {**alone, ALL: together}


def run_ladder(
    config: StudyConfig,
    out: Path,
    *,
    device: str = "auto",
    watcher: Watcher = ignore,
    minutes: float | None = None,
    execution: Execution = AUTOMATIC,
) -> Path:
    """Run the study in `out` and every variant below `out`/ladder, and write one table of them.

    Returns: tables/ladder.md, beside ladder.csv.

    Raises:
        ConfigError, StudyError: the study itself failed; a variant that did has the reason in its column.
        Paused: the minutes are over; the same call goes on.
    """
    wanted = {BASE: (config, out)} | {name: (each, out / "ladder" / name) for name, each in variants(config).items()}
    deadline = deadline_of(config, minutes)
    ran = run_many(wanted, out / "ladder", device=device, watcher=watcher, deadline=deadline, execution=execution)
    base = ran.pop(BASE)
    if not isinstance(base, Study):
        raise base
    rungs = list(rungs_of(BASE, base))
    for name, study in ran.items():
        if isinstance(study, Study):
            rungs += rungs_of(name, study)
            continue
        failed = summarise({}, n=0, missing=in_one_line(study))
        rungs += [dataclasses.replace(rung, variant=name, value=failed) for rung in rungs_of(BASE, base)]
    path = out / "tables" / "ladder.md"
    with rewriting(out):
        with replace_marked(path.with_suffix(".csv"), rows=len(rungs)) as handle:
            handle.write(as_csv(rungs).encode())
        write_text(path, as_markdown(rungs))
        build_report(out)
    return path


def rungs_of(name: str, study: Study) -> Iterator[Rung]:
    """What the variant does to the paper's Tables 3, 6, 7 and 9."""
    final = {row.seed: row.val_loss for row in study.checkpoints if row.step == study.checkpoints[-1].step}
    yield Rung(name, "3", "final validation loss", summarise(final, n=len(final)))
    horizons = study.config.sweep.horizons
    ends = sorted({min(horizons), max(horizons)})
    for row in averages(study.predictions, "loss_ratio", regimes=["all"], predictors=MOMENTUM, horizons=ends):
        yield Rung(name, "6", f"L_hat/L_t of {row.predictor} at K={row.horizon}", row)
    regimes = ["transition", "stable"]
    for table, criterion, horizon in (("7", "strict", min(horizons)), ("9", "proximity", _near(horizons, 25))):
        rates = acceptance(
            study.predictions, criterion, regimes=regimes, predictors=["linear", "quadratic-paper"], horizons=[horizon]
        )
        for rate in rates:
            yield Rung(name, table, f"{criterion}, {rate.predictor}, {rate.regime}, K={rate.horizon}", rate)


def as_csv(rungs: Sequence[Rung]) -> str:
    """Long form: one number a line."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "table", "quantity", "mean", "std", "low", "high", "n", "seeds", "reason"])
    for rung in rungs:
        v = rung.value
        cells = [v.mean, v.std, v.low, v.high, v.n, v.seeds, v.reason]
        row = [rung.variant, rung.table, rung.quantity, *("" if cell is None else cell for cell in cells)]
        writer.writerow(map(words.field, row))
    return text.getvalue()


def as_markdown(rungs: Sequence[Rung]) -> str:
    """Wide form: a row per number, a column per variant."""
    names = list(dict.fromkeys(rung.variant for rung in rungs))
    cells = {(rung.table, rung.quantity, rung.variant): rung.text for rung in rungs}
    rows = list(dict.fromkeys((rung.table, rung.quantity) for rung in rungs))
    lines = ["| table | quantity | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for table, quantity in rows:
        line = " | ".join(cells.get((table, quantity, name), "–") for name in names)
        lines.append(f"| {table} | {words.markdown(quantity)} | {line} |")
    return "\n".join(lines) + "\n"


def _near(horizons: Sequence[int], wanted: int) -> int:
    return min(horizons, key=lambda horizon: abs(horizon - wanted))
