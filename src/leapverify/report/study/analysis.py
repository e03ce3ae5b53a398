"""What the analysis rooms say of a run, computed once for the tables, the figures and the summary."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from leapverify.analysis.over_seeds import OverSeeds, by_seed, fields_of, summarise
from leapverify.analysis.study.acceptance import CellAverage, Rate, SweepCell, acceptance, averages
from leapverify.analysis.study.costs import PartCost, costs
from leapverify.analysis.study.sensitivity import SensitivityPoint, threshold_grid, threshold_sensitivity
from leapverify.analysis.study.skill import Correlation, Skill, lyapunov_correlation, recognizer_skill
from leapverify.analysis.study.survival import RegimeSurvival, recorded, survival
from leapverify.analysis.vocabulary import ALL, CRITERIA, REGIMES
from leapverify.analysis.wording import counted
from leapverify.report.kit.run import Run

PERCENTILES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)


@dataclass(frozen=True)
class Analysis:
    """Every analysis of one run that more than one part of the report needs."""

    run: Run

    @cached_property
    def rates(self) -> Mapping[str, Mapping[SweepCell, Rate]]:
        """Acceptance rates by criterion and cell, over chaotic, transition and stable."""
        rows = self.run.predictions
        return {name: {rate.cell: rate for rate in acceptance(rows, name, regimes=REGIMES)} for name in CRITERIA}

    def medians(self, quantity: str) -> Mapping[SweepCell, CellAverage]:
        """A quantity's median within a seed, averaged over seeds."""
        rows = averages(self.run.predictions, quantity, centre="median", regimes=REGIMES)
        return {row.cell: row for row in rows}

    @cached_property
    def gain_fractions(self) -> Mapping[SweepCell, CellAverage]:
        """Median gain fraction within a seed, averaged over seeds."""
        return self.medians("gain_fraction")

    @cached_property
    def fewest_gains(self) -> Mapping[SweepCell, int]:
        """The fewest gain fractions that any seed with a judged prediction has in a cell."""
        known: dict[SweepCell, list[tuple[int, bool]]] = {}
        for row in self.run.predictions:
            if row.status != "declined":
                gained = row.status == "ok" and row.gain_fraction is not None and math.isfinite(row.gain_fraction)
                known.setdefault(SweepCell(row.regime, row.predictor, row.horizon), []).append((row.seed, gained))
        return {cell: int(min(map(sum, by_seed(found).values()))) for cell, found in known.items()}

    @cached_property
    def steps_gained(self) -> Mapping[SweepCell, CellAverage]:
        """Median steps gained within a seed, averaged over seeds, where every seed's median was reached in time.

        A prediction whose loss the run never reached before its end gained more steps than can be counted: it stays
        in the median as larger than all others and is counted as `missing`.
        """
        values: dict[SweepCell, list[tuple[int, float]]] = {}
        for row in self.run.predictions:
            if row.status == "ok":
                gained = math.inf if row.steps_gained is None else float(row.steps_gained)
                values.setdefault(SweepCell(row.regime, row.predictor, row.horizon), []).append((row.seed, gained))
        found = {}
        for cell, average in self.medians("steps_gained").items():
            medians = {seed: statistics.median(column) for seed, column in by_seed(values.get(cell, ())).items()}
            beyond = sum(math.isinf(median) for median in medians.values())
            missing = average.reason or "no finite prediction"
            if beyond:
                missing, medians = f"the median of {counted(beyond, 'seed')} lies beyond the end of the run", {}
            summary = summarise(medians, n=average.n + average.missing, missing=missing)
            found[cell] = dataclasses.replace(average, **fields_of(summary))
        return found

    @cached_property
    def resolution(self) -> int | None:
        """The widest gap in steps between recorded losses of the course, to which steps gained are known."""
        steps = sorted({row.step for row in self.run.curve})
        return max((b - a for a, b in itertools.pairwise(steps)), default=None)

    def settled(self, quantity: str) -> Mapping[tuple[str, int], CellAverage]:
        """A quantity's mean by (predictor, horizon) over transition and stable checkpoints, which the paper sweeps."""
        rows = [row for row in self.run.predictions if row.regime in ("transition", "stable")]
        found = averages(rows, quantity, regimes=[ALL], predictors=self.run.predictors, horizons=self.run.horizons)
        return {(row.predictor, row.horizon): row for row in found}

    @cached_property
    def loss_ratios(self) -> Mapping[tuple[str, int], CellAverage]:
        """L_hat / L_t by (predictor, horizon), transition and stable checkpoints."""
        return self.settled("loss_ratio")

    @cached_property
    def skills(self) -> Mapping[str, Sequence[Skill]]:
        """Recognizer skill by criterion."""
        run = self.run
        return {name: recognizer_skill(run.checkpoints, run.predictions, name) for name in CRITERIA}

    @cached_property
    def lyapunov(self) -> Correlation:
        """Rank correlation of the local Lyapunov exponent with the similarity."""
        return lyapunov_correlation(self.run.checkpoints)

    @cached_property
    def survivals(self) -> Mapping[str, RegimeSurvival]:
        """What survived of the optimizer's updates, by regime; empty where the study sampled none."""
        rows = self.run.checkpoints
        return {regime: survival(rows, regime) for regime in REGIMES} if recorded(rows) else {}

    @cached_property
    def costs(self) -> Sequence[PartCost]:
        """Seconds and shares of every part."""
        return costs(self.run.checkpoints)

    @cached_property
    def sensitivity_of(self) -> tuple[str, int] | None:
        """The predictor and horizon whose acceptance the sensitivity shows: linear at the shortest horizon."""
        names = self.run.predictors
        return ("linear" if "linear" in names else names[0], self.run.horizons[0]) if names else None

    @cached_property
    def sensitivity(self) -> Sequence[SensitivityPoint]:
        """Labels, agreement and acceptance on a grid of thresholds; empty without similarities."""
        predictor, horizon = self.sensitivity_of or ("linear", 5)
        try:
            pairs = threshold_grid(self.run.checkpoints, low=PERCENTILES[:6], high=PERCENTILES[5:])
        except ValueError:
            # A run of one checkpoint has no similarity to cut; the figure says so.
            return ()
        return threshold_sensitivity(
            self.run.checkpoints, self.run.predictions, pairs, predictor=predictor, horizon=horizon
        )


def no_checkpoint(regime: str) -> str:
    """Why a cell of a regime is empty when no seed was ever in it."""
    return f"no {regime} checkpoint in any seed"


def why_empty(run: Run, cell: SweepCell, found: OverSeeds | None) -> str:
    """Why a cell of the sweep has no value, from the largest cause to the smallest."""
    if not run.predictions:
        return "no predictions were made in this run"
    if not any(row.regime == cell.regime for row in run.checkpoints):
        return no_checkpoint(cell.regime)
    if cell.predictor not in run.predictors:
        return f"{cell.predictor} is not among this study's predictors"
    if cell.horizon not in run.horizons:
        return f"K = {cell.horizon} was not swept"
    if cell.regime not in run.swept_regimes:
        return f"{cell.regime} checkpoints were not swept"
    return (found.reason if found else None) or "no prediction was made here"
