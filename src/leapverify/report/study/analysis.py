"""What the analysis rooms say of a run, computed once for the tables, the figures and the summary."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from leapverify.analysis.over_seeds import fields_of, summarise
from leapverify.analysis.study.acceptance import Average, Rate, acceptance, averages
from leapverify.analysis.study.costs import Cost, costs
from leapverify.analysis.study.sensitivity import SensitivityPoint, threshold_grid, threshold_sensitivity
from leapverify.analysis.study.skill import Correlation, Skill, lyapunov_correlation, recognizer_skill
from leapverify.analysis.study.survival import Survival, recorded, survival
from leapverify.report.kit.run import CRITERIA, REGIMES, Run, seeds_text

Key = tuple[str, str, int]
"""(regime, predictor, horizon)."""
PERCENTILES = (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)


@dataclass(frozen=True)
class Analysis:
    """Every analysis of one run that more than one part of the report needs."""

    run: Run

    @cached_property
    def rates(self) -> Mapping[str, Mapping[Key, Rate]]:
        """Acceptance rates by criterion and cell, over chaotic, transition and stable."""
        return {
            criterion: {
                (rate.regime, rate.predictor, rate.horizon): rate
                for rate in acceptance(self.run.predictions, criterion, regimes=REGIMES)
            }
            for criterion in CRITERIA
        }

    @cached_property
    def gain_fractions(self) -> Mapping[Key, Average]:
        """Median gain fraction within a seed, averaged over seeds."""
        rows = averages(self.run.predictions, "gain_fraction", centre="median", regimes=REGIMES)
        return {(row.regime, row.predictor, row.horizon): row for row in rows}

    @cached_property
    def fewest_gains(self) -> Mapping[Key, int]:
        """The fewest gain fractions that any seed with a judged prediction has in a cell."""
        counts: dict[Key, Counter[int]] = defaultdict(Counter)
        for row in self.run.predictions:
            if row.status != "declined":
                known = row.status == "ok" and row.gain_fraction is not None and math.isfinite(row.gain_fraction)
                counts[row.regime, row.predictor, row.horizon][row.seed] += known
        return {key: min(of_seed.values()) for key, of_seed in counts.items()}

    @cached_property
    def steps_gained(self) -> Mapping[Key, Average]:
        """Median steps gained within a seed, averaged over seeds, where every seed's median was reached in time.

        A prediction whose loss the run never reached before its end gained more steps than can be counted: it stays
        in the median as larger than all others and is counted as `missing`.
        """
        values: dict[Key, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in self.run.predictions:
            if row.status == "ok":
                gained = math.inf if row.steps_gained is None else float(row.steps_gained)
                values[row.regime, row.predictor, row.horizon][row.seed].append(gained)
        found = {}
        for cell in averages(self.run.predictions, "steps_gained", centre="median", regimes=REGIMES):
            key = (cell.regime, cell.predictor, cell.horizon)
            medians = {seed: statistics.median(of_seed) for seed, of_seed in values[key].items()}
            beyond = sum(math.isinf(median) for median in medians.values())
            missing = cell.reason or "no finite prediction"
            if beyond:
                missing, medians = f"the median of {seeds_text(beyond)} lies beyond the end of the run", {}
            summary = summarise(medians, n=cell.n + cell.missing, missing=missing)
            found[key] = dataclasses.replace(cell, **fields_of(summary))
        return found

    @cached_property
    def resolution(self) -> int | None:
        """The widest gap in steps between recorded losses of the course, to which steps gained are known."""
        steps = sorted({row.step for row in self.run.curve})
        return max((b - a for a, b in itertools.pairwise(steps)), default=None)

    def settled(self, quantity: str) -> Mapping[tuple[str, int], Average]:
        """A quantity's mean by (predictor, horizon) over transition and stable checkpoints, which the paper sweeps."""
        rows = [row for row in self.run.predictions if row.regime in ("transition", "stable")]
        found = averages(rows, quantity, regimes=["all"], predictors=self.run.predictors, horizons=self.run.horizons)
        return {(row.predictor, row.horizon): row for row in found}

    @cached_property
    def loss_ratios(self) -> Mapping[tuple[str, int], Average]:
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
    def survivals(self) -> Mapping[str, Survival]:
        """What survived of the optimizer's updates, by regime; empty where the study sampled none."""
        rows = self.run.checkpoints
        return {regime: survival(rows, regime) for regime in REGIMES} if recorded(rows) else {}

    @cached_property
    def costs(self) -> Sequence[Cost]:
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
