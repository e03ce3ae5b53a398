"""What the records of a race say: arms, decisive controls, annealing against WSD, tuning grids, verdicts.

Every number comes with n and an interval over seeds, or the reason why there is none. p-values are one-sided, paired by
seed, and not corrected for the number of comparisons, which `comparisons` gives.
"""

from leapverify.analysis.race.anneal import AnnealRow, anneal_against_wsd, first_reached
from leapverify.analysis.race.arms import (
    ArmRow,
    Case,
    ControlRow,
    against_shortened,
    arm_table,
    by_case,
    case_text,
    is_leap,
)
from leapverify.analysis.race.judge import Judgement, best_rival, judge
from leapverify.analysis.race.paired import Paired, Ratio, one_sided_p, paired_difference, paired_ratio
from leapverify.analysis.race.predictors import CONTROL_PREDICTORS, PredictorRow, Tried, against_schedule
from leapverify.analysis.race.tuning import TuningRow, tuning_grid
from leapverify.analysis.race.verdicts import ArmVerdict, comparisons, race_verdicts, verdicts

__all__ = [
    "CONTROL_PREDICTORS",
    "AnnealRow",
    "ArmRow",
    "ArmVerdict",
    "Case",
    "ControlRow",
    "Judgement",
    "Paired",
    "PredictorRow",
    "Ratio",
    "Tried",
    "TuningRow",
    "against_schedule",
    "against_shortened",
    "anneal_against_wsd",
    "arm_table",
    "best_rival",
    "by_case",
    "case_text",
    "comparisons",
    "first_reached",
    "is_leap",
    "judge",
    "one_sided_p",
    "paired_difference",
    "paired_ratio",
    "race_verdicts",
    "tuning_grid",
    "verdicts",
]
