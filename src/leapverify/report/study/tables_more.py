"""Tables beyond the paper's: acceptance and gain in full, skill, sensitivity, seeds, cascades, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leapverify.analysis.wording import FEWEST_VALUES, verdict
from leapverify.io.records import CascadeLink
from leapverify.report.kit import table as t
from leapverify.report.kit.run import CRITERIA, Run
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures_cascades import (
    CONTROL,
    NO_CONTROL,
    Start,
    difference,
    hold_losses,
    over_starts,
    start_of,
)
from leapverify.report.study.figures_recognize import SIGNAL_NAMES
from leapverify.report.study.tables import SPREAD
from leapverify.report.study.tables_predict import CONTROL as CONTROL_OF
from leapverify.report.study.tables_predict import RATES, why_empty

BEYOND = ("beyond_clock", "beyond_low", "beyond_high")


def further_tables(analysis: Analysis) -> list[Table]:
    """The tables that the paper does not have."""
    return [
        acceptance(analysis),
        gains(analysis),
        skill(analysis),
        sensitivity(analysis),
        seeds(analysis),
        cascades(analysis),
        costs(analysis),
    ]


def acceptance(analysis: Analysis) -> Table:
    """Acceptance of every predictor by regime, horizon and criterion."""
    rows = []
    for criterion in CRITERIA:
        for (regime, predictor, horizon), rate in analysis.rates[criterion].items():
            why = why_empty(analysis.run, regime, predictor, horizon, rate)
            cell = t.spread("percent", rate, ".1f", scale=100.0, why=why, of="tries")
            keys = (t.name("criterion", criterion), t.name("regime", regime), t.name("predictor", predictor))
            counts = (("accepted", rate.accepted), ("declined", rate.declined), ("nonfinite", rate.nonfinite))
            rows.append([*keys, t.name("K", horizon), cell, *(t.number(key, value, "d") for key, value in counts)])
    columns = _columns("criterion regime predictor K", "accepted, %", "accepted", "declined", "not finite")
    controls = " ".join(f"{name}: {text}" for name, text in CONTROL_OF.items())
    note = (
        f"{RATES} Declined predictions are no part of the rate; those that are not finite count as rejected. {controls}"
    )
    return Table("acceptance", "Acceptance in full", note, columns, t.grouped(rows, 3))


def gains(analysis: Analysis) -> Table:
    """Median gain fraction and median steps gained of every predictor by regime and horizon."""
    rows = []
    for (regime, predictor, horizon), found in analysis.gain_fractions.items():
        key = (regime, predictor, horizon)
        why = why_empty(analysis.run, regime, predictor, horizon, found)
        fewest = analysis.fewest_gains.get(key, 0)
        said = verdict(found.low, found.high, found.seeds) if fewest >= FEWEST_VALUES else None
        steps = analysis.steps_gained[key]
        rows.append(
            [
                t.name("regime", regime),
                t.name("predictor", predictor),
                t.name("K", horizon),
                t.spread("gain_fraction", found, ".3f", why=why, of="tries"),
                t.text("against_0", f"{said} 0" if said else "cannot say"),
                t.number("missing", found.missing, "d"),
                t.number("fewest_in_a_seed", fewest, "d"),
                t.spread("steps_gained", steps, ".3g", why=(steps.reason or "") if steps.n else why, of="tries"),
                t.number("never_reached", steps.missing, "d"),
            ]
        )
    columns = [
        *_columns("regime predictor K", "gain fraction"),
        Column("against 0", False),
        *_columns("", "left out: the run did not improve or ended", "fewest in a seed", "steps gained, median",
                  "never reached before the end"),
    ]  # fmt: skip
    known = f"every {analysis.resolution} steps" if analysis.resolution else "at no step"
    note = (
        f"Median within each seed, then over seeds. {SPREAD} Cannot say: the interval includes 0, or a seed has fewer "
        f"than {FEWEST_VALUES} values. Steps gained: real steps that the run needed to first reach the predicted loss, "
        f"0 without gain; losses are recorded {known}, which is its resolution. Predictions that the run never reached "
        "before its end stay in the median as larger than all others."
    )
    return Table("gain", "Gain fraction and steps gained in full", note, columns, t.grouped(rows, 2))


def skill(analysis: Analysis) -> Table:
    """AUC of every signal by criterion, predictor and horizon."""
    rows = []
    for criterion in CRITERIA:
        for found in analysis.skills[criterion]:
            why = found.reason or ""
            beside = "this is the clock" if found.signal == "step" else why or "no interval"
            keys = (t.name("criterion", criterion), t.name("signal", SIGNAL_NAMES.get(found.signal, found.signal)))
            cells = [*keys, t.name("predictor", found.predictor), t.name("K", found.horizon)]
            cells += [
                t.number(k, v, ".3f", why) for k, v in (("auc", found.auc), ("low", found.low), ("high", found.high))
            ]
            cells.append(t.number("clock", found.clock, ".3f", beside))
            cells += [t.number(key, getattr(found, key), "+.3f", beside) for key in BEYOND]
            counts = (("n", found.n), ("accepted", found.successes), ("seeds", found.seeds))
            rows.append(cells + [t.number(key, value, "d") for key, value in counts])
    columns = _columns("criterion signal predictor K", "AUC", "95 % low", "95 % high", "clock, better direction",
                       "beyond the clock", "95 % low", "95 % high", "n", "accepted", "seeds")  # fmt: skip
    note = (
        "ROC AUC; 0.5 recognises nothing. The clock is the step's AUC in its better direction, max(AUC, 1 - AUC), on "
        "the same checkpoints; a signal beats it only where the interval over seeds of the difference lies above 0. "
        "Cells share checkpoints and are near-copies of each other."
    )
    return Table("skill", "Recognizer skill", note, columns, t.grouped(rows, 3))


def sensitivity(analysis: Analysis) -> Table:
    """Shares, agreement and acceptance for every pair of thresholds."""
    predictor, horizon = analysis.sensitivity_of or ("none", 0)
    rows = []
    for point in analysis.sensitivity:
        cells = [t.name("tau_low", f"{point.tau_low:.7f}"), t.name("tau_high", f"{point.tau_high:.7f}")]
        cells += [t.number(f"{regime}_percent", 100 * share, ".1f") for regime, share in point.shares]
        modal = t.scaled(point.agreement.modal, 100.0)
        cells.append(t.number("modal_agreement_percent", modal, ".1f", point.agreement.reason or ""))
        for rate in point.acceptance:
            if rate.regime in ("transition", "stable"):
                cells.append(t.spread(f"accepted_{rate.regime}", rate, ".1f", scale=100.0, of="tries"))
        rows.append(cells)
    columns = _columns("tau_low tau_high", "chaotic, %", "transition, %", "stable, %", "modal agreement, %",
                       "accepted in transition, %", "accepted when stable, %")  # fmt: skip
    note = f"Relabelled from the recorded similarities; acceptance is strict, {predictor} at K = {horizon}. {RATES}"
    return Table("sensitivity", "Threshold sensitivity", note, columns, t.grouped(rows))


def seeds(analysis: Analysis) -> Table:
    """Every measure between seeds, in long form."""
    rows = []
    for row in analysis.run.measures:
        cells = [t.name("measure", row.measure)]
        for key in ("step", "regime", "seed_a", "seed_b"):
            value = getattr(row, key)
            cells.append(Cell("" if value is None else str(value), fields={key: value}))
        reason = "not in this regime" if row.regime else "needs two seeds"
        cells.append(t.number("value", row.value, ".5g", reason))
        for key in ("null_mean", "null_low", "null_high", "untrained"):
            value = getattr(row, key)
            cells.append(Cell("" if value is None else f"{value:.4g}", kind="number", fields={key: value}))
        rows.append(cells)
    columns = _columns("measure step regime seed seed", "value", "null mean", "null 2.5 %", "null 97.5 %", "untrained")
    return Table("seeds", "Measures between seeds", "As recorded in seeds.parquet.", columns, t.grouped(rows))


def cascades(analysis: Analysis) -> Table:
    """Loss change, its controls and acceptance of every link of every cascade."""
    groups: dict[tuple[str, str, int, int, int], list[CascadeLink]] = {}
    for row in analysis.run.cascades:
        groups.setdefault((row.kind, row.predictor, row.depth, row.horizon, row.link), []).append(row)
    hold = hold_losses(analysis.run.cascades)
    ended = "no link here was made: declined or not finite"
    rows = []
    for (kind, predictor, depth, horizon, link), found in sorted(groups.items()):
        change = over_starts(found, lambda row: difference(row.loss, row.loss_start), ended)
        same = over_starts(found, lambda row: difference(row.loss, row.loss_same_real_steps),
                           "the run has no loss at that step" if change.n else ended)  # fmt: skip
        strict = over_starts(found, lambda row: None if row.strict is None else float(row.strict), ended)
        drift = over_starts(found, lambda row: row.weight_drift, ended)
        cells = [t.name("kind", kind), t.name("predictor", predictor), t.name("depth", depth), t.name("K", horizon)]
        cells += [
            t.name("link", link),
            t.spread("loss_change", change, "+.4f", of="starts"),
            _against_hold(found, hold, ended),
            t.spread("against_same_real_steps", same, "+.4f", of="starts"),
            t.number("strict_percent", t.scaled(strict.mean, 100.0), ".1f", ended),
            t.number("weight_drift", drift.mean, ".4f", ended),
            t.number("starts", len(found), "d"),
        ]
        rows.append(cells)
    columns = _columns("kind predictor D K link", "loss change", "against hold, trained",
                       "against the run after as many real steps", "links accepted, %", "weight drift",
                       "starts")  # fmt: skip
    note = (
        f"Nats per token, paired by start; mean over the starts of each seed first, then over seeds. {SPREAD} Against "
        "the run after as many real steps is a necessary control, not a sufficient one: a trained cascade also "
        "advances the schedule. hold, the same jump of the schedule without a prediction, is the decisive control. "
        "Drift is relative to the norm of the starting weights."
    )
    return Table("cascades", "Cascades, link by link", note, columns, t.grouped(rows, 4))


def _against_hold(rows: Sequence[CascadeLink], hold: Mapping[Start, float], ended: str) -> Cell:
    if rows[0].kind != "trained":
        why = "chained: hold would stand still"
    elif rows[0].predictor == CONTROL:
        why = "this is the control"
    else:
        why = ended if hold else NO_CONTROL
    held = hold if rows[0].kind == "trained" and rows[0].predictor != CONTROL else {}
    found = over_starts(rows, lambda row: difference(row.loss, held.get(start_of(row))), why)
    return t.spread("against_hold", found, "+.4f", of="starts")


def costs(analysis: Analysis) -> Table:
    """Seconds and shares of every part."""
    rows = []
    for cost in analysis.costs:
        why = "" if cost.ran else "this part did not run"
        rows.append(
            [
                t.name("part", cost.part),
                t.number("seconds", cost.seconds if cost.ran else None, ".4g", why),
                t.number("share_percent", t.scaled(cost.share, 100.0) if cost.ran else None, ".2f", why),
                t.number("of_training_percent", t.scaled(cost.of_training, 100.0) if cost.ran else None, ".2f", why),
                t.number("per_checkpoint_s", cost.per_checkpoint_s if cost.ran else None, ".4g", why),
                t.number("n", cost.n, "d"),
            ]
        )
    columns = _columns(
        "part", "seconds, all seeds", "share of all, %", "of training, %", "s per checkpoint", "checkpoints"
    )
    return Table(
        "costs", "Cost of each part", "Seconds of wall clock, all seeds together.", columns, t.grouped(rows, 0)
    )


def ladder(run: Run) -> Table | None:
    """What each switch does to Tables 3, 6, 7 and 9, a column per switch; None where no ladder was run."""
    variants = list(dict.fromkeys(row.get("variant", "") for row in run.ladder))
    cells = {(row.get("table", ""), row.get("quantity", ""), row.get("variant", "")): row for row in run.ladder}
    rows = []
    for number, quantity in dict.fromkeys((row.get("table", ""), row.get("quantity", "")) for row in run.ladder):
        found = [_rung(cells.get((number, quantity, variant), {})) for variant in variants]
        rows.append([Cell(number, kind="heading"), Cell(quantity, kind="heading"), *found])
    columns = [Column("table", False), Column("quantity", False), *(Column(variant) for variant in variants)]
    note = "The same seeds with each switch turned on alone, and with all together; rates are shares of 1. " + SPREAD
    return Table("ladder", "The ladder of switches", note, columns, t.grouped(rows)) if rows else None


def _rung(row: Mapping[str, str]) -> Cell:
    if not row.get("mean"):
        return Cell(row.get("reason") or "not run", kind="why")
    shown = f"{float(row['mean']):.4g}"
    shown += f" ± {float(row['std']):.2g}" if row.get("std") else ""
    interval = (
        f"; 95 % {float(row['low']):.4g} to {float(row['high']):.4g}" if row.get("low") and row.get("high") else ""
    )
    return Cell(shown, f"n = {row.get('n', '?')} in {row.get('seeds', '?')} seeds{interval}", "number")


def _columns(names: str, *numbers: str) -> Sequence[Column]:
    return [*(Column(name, False) for name in names.split()), *(Column(label) for label in numbers)]
