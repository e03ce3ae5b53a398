"""The paper's Tables 6-10: momentum, strict and proximity acceptance, and its variation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.analysis.study.acceptance import SweepCell
from leapverify.report.kit import columns as c
from leapverify.report.kit import table as t
from leapverify.report.kit.run import Run, stored_as
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis, why_empty
from leapverify.report.study.paper import PAPER, PREDICTORS, none_printed, paper_columns, paper_value, printed

EXTRAPOLATORS = ("linear", "quadratic-paper", "quadratic", "quadratic-clamped", "adam", "hold", "random")
IN_STABLE = ("momentum", "linear", "quadratic-paper", "quadratic", "hold", "random")
MOMENTUM_ROWS = ("momentum", "adam-constant", "adam")
WHY = attrgetter("why")


class SweptRow(NamedTuple):
    """One cell of the sweep in a table: what was found there, or why nothing was."""

    regime: str
    predictor: str
    K: int
    found: OverSeeds
    why: str
    """Said where the cell is empty."""

    @property
    def in_paper(self) -> tuple[str, ...]:
        """Where the paper's number of the cell stands."""
        return self.regime, PREDICTORS.get(self.predictor, ""), str(self.K)


def tables_of_predictions(analysis: Analysis) -> list[Table]:
    """Tables 6 to 10, and beside Table 8 what survived of the updates where that was recorded."""
    both = ("transition", "stable")
    return [
        momentum(analysis),
        _rates(analysis, "table-07", "strict", both, EXTRAPOLATORS),
        _rates(analysis, "table-08", "strict", ("stable",), IN_STABLE, survived=survived(analysis)),
        *([updates(analysis)] if analysis.survivals else []),
        _rates(analysis, "table-09", "proximity", both, EXTRAPOLATORS, epsilon=_epsilon(analysis.run)),
        variation(analysis),
    ]


def _rates(
    analysis: Analysis, name: str, criterion: str, regimes: Sequence[str], predictors: Sequence[str], **values: str
) -> Table:
    """One of the paper's tables of acceptance rates."""
    columns = [
        *map(c.key, ("regime", "predictor", "K")),
        c.spread("this run, %", "percent", "found", ".1f", scale=100.0, why=WHY, of="tries"),
        *printed(f"{criterion}_percent", lambda row: row.in_paper),
    ]
    return words("study").table(name, columns, swept_rows(analysis, criterion, regimes, predictors), keys=2, **values)


def swept_rows(analysis: Analysis, criterion: str, regimes: Sequence[str], predictors: Sequence[str]) -> list[SweptRow]:
    """The acceptance rates of every cell that a table of the paper has, or the run."""
    rows = []
    for cell in (SweepCell(r, name, k) for r in regimes for name in predictors for k in horizons(analysis.run)):
        found = analysis.rates[criterion].get(cell)
        why = why_empty(analysis.run, cell, found)
        rows.append(SweptRow(*cell, found or summarise({}, n=0, missing=why), why))
    return rows


def survived(analysis: Analysis) -> str:
    """What Table 8 has to be read beside: how much of the updates the stable weights took up."""
    if not analysis.survivals:
        return ""
    found = analysis.survivals["stable"]
    if found.share.mean is None or found.projection.mean is None:
        return words("study").say("table-08", "none_survived", reason=found.share.reason or found.projection.reason)
    share = t.spread("share", found.share, ".1f", scale=100.0, of="checkpoints")
    along = t.spread("projection", found.projection, ".2f")
    return words("study").say("table-08", "survived", share=share.text, basis=share.below, along=along.text)


def updates(analysis: Analysis) -> Table:
    """What survived of the optimizer's updates when the weights were stored."""
    columns = [
        c.key("regime"),
        c.spread("changed, %", "survival_percent", "share", ".1f", scale=100.0, of="checkpoints"),
        c.spread("movement along the update", "projection", form=".3f", of="checkpoints"),
    ]
    rows, stored = analysis.survivals.values(), stored_as(analysis.run)
    return words("study").table("updates", columns, rows, keys=0, stored=stored)


class _MomentumRow(NamedTuple):
    """A row of Table 6."""

    predictor: str
    K: int
    predicted: OverSeeds
    present: OverSeeds
    ratio: OverSeeds
    why: str


def momentum(analysis: Analysis) -> Table:
    """Table 6: predicted and present loss of momentum, and of the Adam recurrences beside it."""
    run = analysis.run
    measured = [analysis.settled(name) for name in ("loss_predicted", "loss_now", "loss_ratio")]
    rows = []
    for name in MOMENTUM_ROWS:
        for horizon in horizons(run):
            why = _why_settled(run, name, horizon)
            nothing = summarise({}, n=0, missing=why)
            predicted, present, ratio = (of_cell.get((name, horizon), nothing) for of_cell in measured)
            rows.append(_MomentumRow(name, horizon, predicted, present, ratio, why))
    columns = [
        *map(c.key, ("predictor", "K")),
        c.spread("predicted loss", "predicted", form=".5g", why=WHY, of="tries"),
        c.spread("present loss", "present", form=".4f", why=WHY),
        c.spread("ratio", "ratio", form=".5g", why=WHY),
        c.number("not finite, left out", "nonfinite", lambda row: getattr(row.predicted, "nonfinite", 0)),
        *paper_columns(_momentum_in_paper),
    ]
    return words("study").table("table-06", columns, rows)


def _momentum_in_paper(model: str, key: str, row: _MomentumRow) -> Cell:
    loss = paper_value("momentum", model, "predicted", str(row.K)) if row.predictor == "momentum" else None
    if loss is None:
        return none_printed(key, "predicted", "actual", "ratio")
    actual = paper_value("momentum", model, "actual")
    fields: dict[str, t.Raw] = {f"{key}_predicted": loss, f"{key}_actual": actual, f"{key}_ratio": loss / actual}
    return Cell(f"{loss / actual:,.0f}", f"{loss:,} / {actual}", "number", fields)


def variation(analysis: Analysis) -> Table:
    """Table 10: coefficient of variation of proximity acceptance over seeds, in transition."""
    columns = [
        *map(c.key, ("predictor", "K")),
        Column("this run, CoV %", cell=_cov),
        *printed("proximity_cov_percent", lambda row: row.in_paper),
    ]
    rows = swept_rows(analysis, "proximity", ("transition",), EXTRAPOLATORS)
    return words("study").table("table-10", columns, rows)


def _cov(row: SweptRow) -> Cell:
    found, why = row.found, row.why
    if found.mean is not None and found.cov_percent is None:
        why = "one seed only: no spread" if found.seeds == 1 else "no prediction accepted in any seed: CoV of 0 / 0"
    cell = t.number("cov_percent", found.cov_percent, ".1f", why)
    below = f"n = {found.n} tries in {found.seeds} seeds" if cell.kind == "number" else ""
    return Cell(cell.text, below, cell.kind, {**cell.fields, "n": found.n, "seeds": found.seeds})


def horizons(run: Run) -> tuple[int, ...]:
    """The horizons of the run and of the paper."""
    return tuple(sorted({*run.horizons, *PAPER["horizons"]}))


def _epsilon(run: Run) -> str:
    return f"{100 * float(run.setting('verify.epsilon', 0.05)):g} %"


def _why_settled(run: Run, predictor: str, horizon: int) -> str:
    occurring = {row.regime for row in run.checkpoints}
    for regime in ("transition", "stable"):
        if regime in occurring:
            why = why_empty(run, SweepCell(regime, predictor, horizon), None)
            return "" if why == "no prediction was made here" else why
    return "no transition or stable checkpoint in any seed"
