"""The paper's Tables 6-10: momentum, strict and proximity acceptance, and its variation over seeds."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.report.kit import table as t
from leapverify.report.kit.run import Run, stored_as
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.tables import MODELS, PAPER, PAPER_COLUMNS, SPREAD, model_key, no_checkpoint, paper_value

PAPER_NAME = {"linear": "linear", "quadratic-paper": "quadratic", "momentum": "momentum"}
"""The predictors that the paper has, by its own names; its quadratic is eq. 5 as printed."""
EXTRAPOLATORS = ("linear", "quadratic-paper", "quadratic", "quadratic-clamped", "adam", "hold", "random")
IN_STABLE = ("momentum", "linear", "quadratic-paper", "quadratic", "hold", "random")
QUADRATIC = (
    "The paper's quadratic stands beside quadratic-paper, eq. 5 as printed; its published code is quadratic-clamped."
)
RATES = (
    f"{SPREAD} Where every seed's rate is 0 or 100 %, it is Wilson's interval of the pooled tries instead, as if tries "
    "were independent. The mean over seeds is not the pooled share where seeds have different numbers of tries."
)
"""What is said of every acceptance rate."""
RANDOM = (
    "The control is random, a step of linear's length in a random direction; hold changes nothing and can never pass."
)
HOLD = "The control is hold, which changes nothing: what it passes, no skill is needed for."
CONTROL = {
    "strict": RANDOM,
    "paired": RANDOM,
    "adaptive": f"{HOLD} Its sigma contains the loss's own trend, so hold and random pass it nearly always.",
    "proximity": HOLD,
}
"""Which control belongs to which criterion."""


def tables_of_predictions(analysis: Analysis) -> list[Table]:
    """Tables 6 to 10, and beside Table 8 what survived of the updates where that was recorded."""
    strict = Table(
        "table-07",
        "Table 7. Strict acceptance in transition and stable regimes, %",
        f"Predicted loss below the present one. {RATES} {QUADRATIC} {RANDOM}",
        [
            Column("regime", False),
            Column("predictor", False),
            Column("K", False),
            Column("this run, %"),
            *PAPER_COLUMNS,
        ],
        t.grouped(_rates(analysis, "strict", "strict_percent", ("transition", "stable"), EXTRAPOLATORS), 2),
    )
    stable = Table(
        "table-08",
        "Table 8. Strict acceptance in the stable regime, %",
        f"The paper gives this table for its 7B model. {RATES} {QUADRATIC} {RANDOM}{survived(analysis)}",
        strict.columns,
        t.grouped(
            _rates(analysis, "strict", "strict_percent", ("stable",), IN_STABLE),
            2,
        ),
    )
    proximity = Table(
        "table-09",
        "Table 9. Proximity acceptance, %",
        f"Predicted loss within {_epsilon(analysis.run)} of the present one. {RATES} {QUADRATIC} {HOLD}",
        strict.columns,
        t.grouped(_rates(analysis, "proximity", "proximity_percent", ("transition", "stable"), EXTRAPOLATORS), 2),
    )
    beside = [updates(analysis)] if analysis.survivals else []
    return [momentum(analysis), strict, stable, *beside, proximity, variation(analysis)]


def survived(analysis: Analysis) -> str:
    """What Table 8 has to be read beside: how much of the updates the stable weights took up."""
    if not analysis.survivals:
        return ""
    found = analysis.survivals["stable"]
    if found.share.mean is None or found.projection.mean is None:
        return f" Updates that survive: {found.share.reason or found.projection.reason}."
    share = t.spread("share", found.share, ".1f", scale=100.0, of="checkpoints")
    along = t.spread("projection", found.projection, ".2f")
    return (
        f" To be read beside it: at stable checkpoints {share.text} % of the weights that the optimizer meant to move "
        f"changed when they were stored ({share.below}), and the weights moved {along.text} of the intended update."
    )


def updates(analysis: Analysis) -> Table:
    """What survived of the optimizer's updates when the weights were stored."""
    rows = []
    for regime, found in analysis.survivals.items():
        cells = [t.name("regime", regime)]
        cells.append(t.spread("survival_percent", found.share, ".1f", scale=100.0, of="checkpoints"))
        cells.append(t.spread("projection", found.projection, ".3f", of="checkpoints"))
        rows.append(cells)
    note = (
        f"Weights in {stored_as(analysis.run)}. Changed: of a sample of the weights that the optimizer meant to move "
        "in the step that led to a checkpoint, the share whose stored value is another one. Movement: stored change "
        "· u / u · u, with u the update that AdamW meant; 1 is as meant, at least in the mean. Where weights hardly "
        "move, a prediction may pass for that reason alone, whatever K is. Checkpoints at which eta is below a "
        f"hundredth of its peak are left out. Mean within each seed, then over seeds. {SPREAD}"
    )
    columns = [Column("regime", False), Column("changed, %"), Column("movement along the update")]
    return Table("updates", "Updates that survive being stored", note, columns, t.grouped(rows, 0))


def momentum(analysis: Analysis) -> Table:
    """Table 6: predicted and present loss of momentum, and of the Adam recurrences beside it."""
    run = analysis.run
    predicted, ratio, present = (analysis.settled(name) for name in ("loss_predicted", "loss_ratio", "loss_now"))
    rows = []
    for name in ("momentum", "adam-constant", "adam"):
        for horizon in horizons(run):
            key = (name, horizon)
            why = _why_settled(run, name, horizon)
            found = [table.get(key, _nothing(why)) for table in (predicted, present, ratio)]
            cells = [
                t.name("predictor", name),
                t.name("K", horizon),
                t.spread("predicted", found[0], ".5g", why=why, of="tries"),
                t.spread("present", found[1], ".4f", why=why),
                t.spread("ratio", found[2], ".5g", why=why),
                t.number("nonfinite", getattr(found[0], "nonfinite", 0), "d"),
            ]
            rows.append(cells + [_paper_momentum(model, name, horizon) for model in MODELS])
    columns = [Column("predictor", False), Column("K", False), Column("predicted loss"),
               Column("present loss"), Column("ratio"), Column("not finite, left out"), *PAPER_COLUMNS]  # fmt: skip
    note = (
        f"All transition and stable checkpoints, nats per token. {SPREAD} The paper's 'actual' loss is the present "
        "one. momentum: eq. 3 as printed; adam: the optimizer's recurrences run K steps on with zero gradient; "
        "adam-constant: constant velocity at the schedule's learning rates."
    )
    return Table("table-06", "Table 6. Momentum against the Adam recurrences", note, columns, t.grouped(rows))


def variation(analysis: Analysis) -> Table:
    """Table 10: coefficient of variation of proximity acceptance over seeds, in transition."""
    rates, rows = analysis.rates["proximity"], []
    for name in EXTRAPOLATORS:
        for horizon in horizons(analysis.run):
            rate = rates.get(("transition", name, horizon))
            why = why_empty(analysis.run, "transition", name, horizon, rate)
            cov = rate.cov_percent if rate else None
            if rate and rate.mean is not None and cov is None:
                why = (
                    "one seed only: no spread"
                    if rate.seeds == 1
                    else "no prediction accepted in any seed: CoV of 0 / 0"
                )
            cell = t.number("cov_percent", cov, ".1f", why)
            n, seeds = (rate.n, rate.seeds) if rate else (0, 0)
            below = f"n = {n} tries in {seeds} seeds" if cell.kind == "number" else ""
            fields = {**cell.fields, "n": n, "seeds": seeds}
            cells = [t.name("predictor", name), t.name("K", horizon), Cell(cell.text, below, cell.kind, fields)]
            for model in MODELS:
                value = paper_value(
                    "proximity_cov_percent", model, "transition", PAPER_NAME.get(name, ""), str(horizon)
                )
                cells.append(t.paper(model_key(model), value))
            rows.append(cells)
    columns = [Column("predictor", False), Column("K", False), Column("this run, CoV %"), *PAPER_COLUMNS]
    note = f"100 × sample standard deviation over mean of the seeds' proximity rates, transition regime. {QUADRATIC}"
    return Table(
        "table-10", "Table 10. Variation of proximity acceptance over seeds, %", note, columns, t.grouped(rows)
    )


def horizons(run: Run) -> tuple[int, ...]:
    """The horizons of the run and of the paper."""
    return tuple(sorted({*run.horizons, *PAPER["horizons"]}))


def why_empty(run: Run, regime: str, predictor: str, horizon: int, found: OverSeeds | None) -> str:
    """Why a cell of (regime, predictor, horizon) has no value, from the largest cause to the smallest."""
    if not run.predictions:
        return "no predictions were made in this run"
    if not any(row.regime == regime for row in run.checkpoints):
        return no_checkpoint(regime)
    if predictor not in run.predictors:
        return f"{predictor} is not among this study's predictors"
    if horizon not in run.horizons:
        return f"K = {horizon} was not swept"
    if regime not in run.swept_regimes:
        return f"{regime} checkpoints were not swept"
    return (found.reason if found else None) or "no prediction was made here"


def _rates(
    analysis: Analysis, criterion: str, table: str, regimes: Sequence[str], predictors: Sequence[str]
) -> list[list[Cell]]:
    rows = []
    for regime in regimes:
        for name in predictors:
            for horizon in horizons(analysis.run):
                found = analysis.rates[criterion].get((regime, name, horizon))
                why = why_empty(analysis.run, regime, name, horizon, found)
                cells = [t.name("regime", regime), t.name("predictor", name), t.name("K", horizon)]
                cells.append(t.spread("percent", found or _nothing(why), ".1f", scale=100.0, why=why, of="tries"))
                for model in MODELS:
                    value = paper_value(table, model, regime, PAPER_NAME.get(name, ""), str(horizon))
                    cells.append(t.paper(model_key(model), value))
                rows.append(cells)
    return rows


def _nothing(why: str) -> OverSeeds:
    return OverSeeds(mean=None, std=None, cov_percent=None, low=None, high=None, n=0, per_seed=(), reason=why)


def _why_settled(run: Run, predictor: str, horizon: int) -> str:
    if not any(row.regime in ("transition", "stable") for row in run.checkpoints):
        return "no transition or stable checkpoint in any seed"
    for regime in ("transition", "stable"):
        if any(row.regime == regime for row in run.checkpoints):
            why = why_empty(run, regime, predictor, horizon, None)
            return "" if why == "no prediction was made here" else why
    return ""


def _paper_momentum(model: str, predictor: str, horizon: int) -> Cell:
    key = model_key(model)
    loss = paper_value("momentum", model, "predicted", str(horizon)) if predictor == "momentum" else None
    actual = paper_value("momentum", model, "actual")
    if loss is None:
        return Cell(
            t.NOT_IN_PAPER, kind="none", fields=dict.fromkeys((f"{key}_predicted", f"{key}_actual", f"{key}_ratio"))
        )
    fields: dict[str, t.Raw] = {f"{key}_predicted": loss, f"{key}_actual": actual, f"{key}_ratio": loss / actual}
    return Cell(f"{loss / actual:,.0f}", f"{loss:,} / {actual}", "number", fields)


def _epsilon(run: Run) -> str:
    return f"{100 * float(run.setting('verify.epsilon', 0.05)):g} %"
