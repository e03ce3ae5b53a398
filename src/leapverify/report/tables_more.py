"""Tables beyond the paper's: acceptance and gain in full, skill, sensitivity, seeds, cascades, costs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from leapverify.records import CascadeLink
from leapverify.report import table as t
from leapverify.report.analysis import Analysis
from leapverify.report.figures_recognize import SIGNAL_NAMES
from leapverify.report.run import CRITERIA, Run
from leapverify.report.table import Cell, Column, Table
from leapverify.report.tables import SPREAD
from leapverify.report.tables_predict import why_empty


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
    note = f"{SPREAD} Declined predictions are no part of the rate; those that are not finite count as rejected."
    return Table("acceptance", "Acceptance in full", note, columns, t.grouped(rows, 3))


def gains(analysis: Analysis) -> Table:
    """Median gain fraction of every predictor by regime and horizon."""
    rows = []
    for (regime, predictor, horizon), found in analysis.gain_fractions.items():
        why = why_empty(analysis.run, regime, predictor, horizon, found)
        cell = t.spread("gain_fraction", found, ".3f", why=why, of="tries")
        keys = (t.name("regime", regime), t.name("predictor", predictor), t.name("K", horizon))
        rows.append([*keys, cell, t.number("missing", found.missing, "d")])
    columns = _columns("regime predictor K", "gain fraction", "without: the run did not improve or ended")
    note = f"Median within each seed, then over seeds. {SPREAD}"
    return Table("gain", "Gain fraction in full", note, columns, t.grouped(rows, 2))


def skill(analysis: Analysis) -> Table:
    """AUC of every signal by criterion, predictor and horizon."""
    rows = []
    for criterion in CRITERIA:
        for found in analysis.skills[criterion]:
            why = found.reason or ""
            keys = (t.name("criterion", criterion), t.name("signal", SIGNAL_NAMES.get(found.signal, found.signal)))
            cells = [*keys, t.name("predictor", found.predictor), t.name("K", found.horizon)]
            cells += [
                t.number(k, v, ".3f", why) for k, v in (("auc", found.auc), ("low", found.low), ("high", found.high))
            ]
            counts = (("n", found.n), ("accepted", found.successes), ("seeds", found.seeds))
            rows.append(cells + [t.number(key, value, "d") for key, value in counts])
    columns = _columns("criterion signal predictor K", "AUC", "95 % low", "95 % high", "n", "accepted", "seeds")
    return Table("skill", "Recognizer skill", "ROC AUC; 0.5 recognises nothing.", columns, t.grouped(rows, 3))


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
    note = f"Relabelled from the recorded similarities; acceptance is strict, {predictor} at K = {horizon}. {SPREAD}"
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
    """Mean loss change and acceptance of every link of every cascade."""
    groups: dict[tuple[str, str, int, int, int], list[CascadeLink]] = {}
    for row in analysis.run.cascades:
        groups.setdefault((row.kind, row.predictor, row.depth, row.horizon, row.link), []).append(row)
    rows = []
    for (kind, predictor, depth, horizon, link), found in sorted(groups.items()):
        ended = "no link here was made: declined or not finite"
        losses = [(row.loss, row.loss_same_real_steps, row.loss_start) for row in found]
        change = _mean(loss - start for loss, _, start in losses if loss is not None)
        control = _mean(loss - same for loss, same, _ in losses if loss is not None and same is not None)
        judged = [row.strict for row in found if row.strict is not None]
        cells = [t.name("kind", kind), t.name("predictor", predictor), t.name("depth", depth), t.name("K", horizon)]
        cells += [
            t.name("link", link),
            t.number("loss_change", change, "+.4f", ended),
            t.number("against_same_real_steps", control, "+.4f", "the run has no loss at that step"),
            t.number("strict_percent", 100 * statistics.fmean(judged) if judged else None, ".1f", ended),
            t.number("weight_drift", _mean(r.weight_drift for r in found if r.weight_drift is not None), ".4f", ended),
            t.number("n", len(found), "d"),
        ]
        rows.append(cells)
    columns = _columns("kind predictor D K link", "loss change", "against the run after as many real steps",
                       "links accepted, %", "weight drift", "starts")  # fmt: skip
    note = "Means over starts, nats per token; drift is relative to the norm of the starting weights."
    return Table("cascades", "Cascades, link by link", note, columns, t.grouped(rows, 4))


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


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.fmean(known) if known else None
