"""Tables beyond the paper's: acceptance and gain in full, skill, sensitivity, seeds, cascades, costs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from leapverify.analysis.over_seeds import OverSeeds
from leapverify.analysis.study.acceptance import CellAverage, CellSummary
from leapverify.analysis.study.cascades import HOLD, NO_HOLD, LinkStart, difference, hold_losses, over_starts, start_of
from leapverify.analysis.study.costs import PartCost
from leapverify.analysis.study.sensitivity import SensitivityPoint
from leapverify.analysis.study.skill import CLOCK, Skill
from leapverify.analysis.vocabulary import CRITERIA, REGIMES
from leapverify.analysis.wording import FEWEST_VALUES, verdict
from leapverify.io.records import CascadeLink, SeedMeasure
from leapverify.report.kit import columns as c
from leapverify.report.kit import table as t
from leapverify.report.kit.run import Run
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import Analysis, why_empty
from leapverify.report.study.figures_recognize import SIGNAL_NAMES


def further_tables(analysis: Analysis) -> list[Table]:
    """The tables that the paper does not have."""
    makers = (acceptance, gains, skill, sensitivity, seeds, cascades, costs)
    return [make(analysis) for make in makers]


def acceptance(analysis: Analysis) -> Table:
    """Acceptance of every predictor by regime, horizon and criterion."""

    def why(rate: CellSummary) -> str:
        return why_empty(analysis.run, rate.cell, rate)

    columns = [
        *map(c.key, ("criterion", "regime", "predictor")),
        c.key("K", "horizon"),
        c.spread("accepted, %", "percent", c.ITSELF, ".1f", scale=100.0, why=why, of="tries"),
        c.number("accepted", "accepted"),
        c.number("declined", "declined"),
        c.number("not finite", "nonfinite"),
    ]
    rows = [rate for criterion in CRITERIA for rate in analysis.rates[criterion].values()]
    return words("study").table("acceptance", columns, rows, keys=3)


class _GainRow(NamedTuple):
    """A row of the gain table."""

    fraction: CellAverage
    steps: CellAverage
    fewest: int
    """Values of the seed that has the fewest."""
    why: str

    @property
    def against_0(self) -> str:
        """On which side of 0 the gain fraction lies, as far as that can be said."""
        found = self.fraction
        said = verdict(found.low, found.high, found.seeds) if self.fewest >= FEWEST_VALUES else None
        return f"{said} 0" if said else "cannot say"

    @property
    def why_no_steps(self) -> str:
        """Why there is no median of the steps gained."""
        return (self.steps.reason or "") if self.steps.n else self.why


def gains(analysis: Analysis) -> Table:
    """Median gain fraction and median steps gained of every predictor by regime and horizon."""
    rows = [
        _GainRow(
            found, analysis.steps_gained[cell], analysis.fewest_gains.get(cell, 0), why_empty(analysis.run, cell, found)
        )
        for cell, found in analysis.gain_fractions.items()
    ]
    columns = [
        c.key("regime", "fraction.regime"),
        c.key("predictor", "fraction.predictor"),
        c.key("K", "fraction.horizon"),
        c.spread("gain fraction", "gain_fraction", "fraction", ".3f", why=attrgetter("why"), of="tries"),
        c.text("against 0", "against_0"),
        c.number("left out: the run did not improve or ended", "missing", "fraction.missing"),
        c.number("fewest in a seed", "fewest_in_a_seed", "fewest"),
        c.spread("steps gained, median", "steps_gained", "steps", ".3g", why=attrgetter("why_no_steps"), of="tries"),
        c.number("never reached before the end", "never_reached", "steps.missing"),
    ]
    known = f"every {analysis.resolution} steps" if analysis.resolution else "at no step"
    return words("study").table("gain", columns, rows, keys=2, known=known, fewest=FEWEST_VALUES)


def skill(analysis: Analysis) -> Table:
    """AUC of every signal by criterion, predictor and horizon."""

    def why(row: Skill) -> str:
        return row.reason or ""

    def beside(row: Skill) -> str:
        return "this is the clock" if row.signal == CLOCK else why(row) or "no interval"

    columns = [
        c.key("criterion"),
        c.key("signal", lambda row: SIGNAL_NAMES.get(row.signal, row.signal)),
        c.key("predictor"),
        c.key("K", "horizon"),
        c.number("AUC", "auc", form=".3f", why=why),
        c.number("95 % low", "low", form=".3f", why=why),
        c.number("95 % high", "high", form=".3f", why=why),
        c.number("clock, better direction", "clock", form=".3f", why=beside),
        c.number("beyond the clock", "beyond_clock", form="+.3f", why=beside),
        c.number("95 % low", "beyond_low", form="+.3f", why=beside),
        c.number("95 % high", "beyond_high", form="+.3f", why=beside),
        c.number("n", "n"),
        c.number("accepted", "accepted", "successes"),
        c.number("seeds", "seeds"),
    ]
    rows = [found for criterion in CRITERIA for found in analysis.skills[criterion]]
    return words("study").table("skill", columns, rows, keys=3)


def sensitivity(analysis: Analysis) -> Table:
    """Shares, agreement and acceptance for every pair of thresholds."""

    def accepted(label: str, regime: str) -> Column:
        return c.spread(label, f"accepted_{regime}", lambda row: row.rate(regime), ".1f", scale=100.0, of="tries")

    def share(regime: str) -> Column:
        return c.number(f"{regime}, %", f"{regime}_percent", lambda row: row.share(regime), ".1f", scale=100.0)

    predictor, horizon = analysis.sensitivity_of or ("none", 0)
    columns = [
        c.key("tau_low", lambda row: f"{row.tau_low:.7f}"),
        c.key("tau_high", lambda row: f"{row.tau_high:.7f}"),
        *map(share, REGIMES),
        c.number("modal agreement, %", "modal_agreement_percent", "agreement.modal", ".1f", scale=100.0,
                 why=_no_agreement),
        accepted("accepted in transition, %", "transition"),
        accepted("accepted when stable, %", "stable"),
    ]  # fmt: skip
    return words("study").table("sensitivity", columns, analysis.sensitivity, predictor=predictor, horizon=horizon)


def _no_agreement(point: SensitivityPoint) -> str:
    return point.agreement.reason or ""


def seeds(analysis: Analysis) -> Table:
    """Every measure between seeds, in long form."""

    def bare(label: str, field: str, form: str = "") -> Column:
        """A column whose empty fields are empty for everyone to see: not every measure has every field."""

        def cell(row: SeedMeasure) -> Cell:
            value = getattr(row, field)
            return Cell("" if value is None else f"{value:{form}}", "", "number" * bool(form), {field: value})

        return Column(label, bool(form), cell)

    columns = [
        c.key("measure"),
        *(bare(label, field)
          for label, field in (("step", "step"), ("regime", "regime"), ("seed", "seed_a"), ("seed", "seed_b"))),
        c.number("value", "value", form=".5g", why=_no_measure),
        bare("null mean", "null_mean", ".4g"),
        bare("null 2.5 %", "null_low", ".4g"),
        bare("null 97.5 %", "null_high", ".4g"),
        bare("untrained", "untrained", ".4g"),
    ]  # fmt: skip
    return words("study").table("seeds", columns, analysis.run.measures)


def _no_measure(row: SeedMeasure) -> str:
    return "not in this regime" if row.regime else "needs two seeds"


ENDED = "no link here was made: declined or not finite"


def cascades(analysis: Analysis) -> Table:
    """Loss change, its controls and acceptance of every link of every cascade."""
    groups: dict[tuple[str, str, int, int, int], list[CascadeLink]] = {}
    for row in analysis.run.cascades:
        groups.setdefault((row.kind, row.predictor, row.depth, row.horizon, row.link), []).append(row)
    hold = hold_losses(analysis.run.cascades)

    def link(field: str) -> Column:
        return c.key({"horizon": "K", "depth": "D"}.get(field, field), lambda rows: getattr(rows[0], field),
                     "K" if field == "horizon" else field)  # fmt: skip

    columns = [
        *map(link, ("kind", "predictor", "depth", "horizon", "link")),
        c.spread("loss change", "loss_change", _change, "+.4f", of="starts"),
        c.spread("against hold, trained", "against_hold", lambda rows: _against_hold(rows, hold), "+.4f", of="starts"),
        c.spread("against the run after as many real steps", "against_same_real_steps", _against_run, "+.4f",
                 of="starts"),
        c.number("links accepted, %", "strict_percent", _accepted, ".1f", scale=100.0, why=ENDED),
        c.number("weight drift", "weight_drift", lambda rows: over_starts(rows, _drift).mean, ".4f", why=ENDED),
        c.number("starts", "starts", len),
    ]  # fmt: skip
    rows = [found for _, found in sorted(groups.items())]
    return words("study").table("cascades", columns, rows, keys=4)


def _change(rows: Sequence[CascadeLink]) -> OverSeeds:
    return over_starts(rows, lambda row: difference(row.loss, row.loss_start), ENDED)


def _against_run(rows: Sequence[CascadeLink]) -> OverSeeds:
    missing = "the run has no loss at that step" if _change(rows).n else ENDED
    return over_starts(rows, lambda row: difference(row.loss, row.loss_same_real_steps), missing)


def _accepted(rows: Sequence[CascadeLink]) -> float | None:
    return over_starts(rows, lambda row: None if row.strict is None else float(row.strict)).mean


def _drift(row: CascadeLink) -> float | None:
    return row.weight_drift


def _against_hold(rows: Sequence[CascadeLink], hold: Mapping[LinkStart, float]) -> OverSeeds:
    trained, control = rows[0].kind == "trained", rows[0].predictor == HOLD
    if trained and not control:
        return over_starts(rows, lambda row: difference(row.loss, hold.get(start_of(row))), ENDED if hold else NO_HOLD)
    return over_starts((), _drift, "this is the control" if trained else "chained: hold would stand still")


def costs(analysis: Analysis) -> Table:
    """Seconds and shares of every part."""

    def seconds(label: str, field: str, get: str, form: str, scale: float = 0.0) -> Column:
        return c.number(
            label, field, lambda cost: getattr(cost, get) if cost.ran else None, form, scale=scale, why=_idle
        )

    columns = [
        c.key("part"),
        seconds("seconds, all seeds", "seconds", "seconds", ".4g"),
        seconds("share of all, %", "share_percent", "share", ".2f", 100.0),
        seconds("of training, %", "of_training_percent", "of_training", ".2f", 100.0),
        seconds("s per checkpoint", "per_checkpoint_s", "per_checkpoint_s", ".4g"),
        c.number("checkpoints", "n"),
    ]
    return words("study").table("costs", columns, analysis.costs, keys=0)


def _idle(cost: PartCost) -> str:
    return "" if cost.ran else "this part did not run"


def ladder(run: Run) -> Table | None:
    """What each switch does to Tables 3, 6, 7 and 9, a column per switch; None where no ladder was run."""
    rungs: dict[tuple[str, str], dict[str, Mapping[str, str]]] = {}
    for row in run.ladder:
        rungs.setdefault((row.get("table", ""), row.get("quantity", "")), {})[row.get("variant", "")] = row
    variants = dict.fromkeys(row.get("variant", "") for row in run.ladder)
    columns = [
        Column("table", False, lambda rung: Cell(rung[0][0], kind="heading")),
        Column("quantity", False, lambda rung: Cell(rung[0][1], kind="heading")),
        *(Column(name, cell=functools.partial(_rung, name)) for name in variants),
    ]
    return words("study").table("ladder", columns, rungs.items()) if rungs else None


def _rung(variant: str, rung: tuple[tuple[str, str], Mapping[str, Mapping[str, str]]]) -> Cell:
    row = rung[1].get(variant, {})
    if not row.get("mean"):
        return Cell(row.get("reason") or "not run", kind="why")
    mean, std, low, high = (float(row[key]) if row.get(key) else None for key in ("mean", "std", "low", "high"))
    shown = f"{mean:.4g}" + ("" if std is None else f" ± {std:.2g}")
    ends = t.ends_text(low, high, ".4g")
    below = f"n = {row.get('n', '?')} in {row.get('seeds', '?')} seeds" + (f"; 95 % {ends}" if ends else "")
    return Cell(shown, below, "number")
