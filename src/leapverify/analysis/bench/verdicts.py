"""Published claims against the bench and the race, by rules that were fixed before any of it was measured.

Two corners were settled after the first rows were seen, and changed no verdict on them: a seed whose median
diverged decides `persists` as it decides `lowers`, and equal differences in all seeds leave it to Wilson's intervals.

Five questions are asked of every predictor at the headline K over every regime; each is answered with `holds`, `does
not hold` or `not decided`, from at least three seeds:

- `lowers`: does it lower the held-out loss where it is applied unconditionally? Mean of L_t - L_hat over all attempts:
  the interval over seeds above 0 holds, below 0 does not. One prediction that is not finite: does not hold.
- `beats_random`: does `paired` accept it more often than `random` on the same seeds? Difference by seed: the interval
  above 0 holds, below 0 does not; where every seed has the same difference, Wilson's intervals of the two rates apart.
- `persists`: is most of the gain left after R more real steps? Median persistence: the interval above 0.5 holds, below
  0.5 does not, nor does it where the median of a seed is of a run that diverged.
- `pays`: is an attempt under verification worth more than it costs? Verified value: the interval above 0 holds, below 0
  does not.
- `against_shortened`: does a run with it end below the same schedule shortened by the steps saved? From the race, where
  its arm was run: the interval of the paired difference below 0 holds, above 0 does not.

An interval that contains the null decides nothing. p and intervals are not corrected for the number of predictors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from leapverify.analysis.bench.published import Claim, claim_of
from leapverify.analysis.bench.rows import Bench
from leapverify.analysis.bench.values import Ranking, standing
from leapverify.analysis.over_seeds import FEWEST_SEEDS, OverSeeds, summarise
from leapverify.analysis.race.arms import (
    ALWAYS,
    BASELINE,
    VERIFIED,
    Arms,
    RaceCase,
    by_case,
    control_row,
    finals,
)
from leapverify.analysis.race.paired import Paired, paired_difference
from leapverify.core.statistics import wilson
from leapverify.io.records import RaceRun

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
MOST = 0.5
"""Of the gain: what persists keeps more than this share."""


@dataclass(frozen=True, slots=True)
class PublishedVerdict:
    """One answer with the numbers behind it."""

    word: str
    """holds | does not hold | not decided."""
    why: str


NOT_RACED = PublishedVerdict(OPEN, "not raced")


@dataclass(frozen=True, slots=True)
class Raced:
    """What a race says of one predictor."""

    unconditional: PublishedVerdict = NOT_RACED
    """Applied at every checkpoint, against the shortened schedule."""
    verified: PublishedVerdict = NOT_RACED
    """Verified first, against the shortened schedule."""
    ends_lower: PublishedVerdict = NOT_RACED
    """Applied at every checkpoint, against the baseline."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One predictor with its claim and every answer."""

    predictor: str
    claim: Claim | None
    in_setting: bool
    """Whether the task is one that the claim was made for."""
    lowers: PublishedVerdict
    beats_random: PublishedVerdict
    persists: PublishedVerdict
    pays: PublishedVerdict
    raced: Raced = field(default_factory=Raced)

    @property
    def verdict(self) -> PublishedVerdict:
        """On the published claim, by its kind."""
        match self.claim.kind if self.claim else "":
            case "loss":
                return self.lowers
            case "steps":
                return self.raced.unconditional
            case "end":
                return self.raced.ends_lower
            case "elsewhere":
                return PublishedVerdict(OPEN, "of something not measured here")
        return PublishedVerdict(OPEN, "nothing was claimed")


def judge_claims(bench: Bench, races: Mapping[str, Raced] | None = None) -> list[Judged]:
    """Every contender of a bench against what its authors claim, in the order of the names.

    Args:
        bench: the bench of one task.
        races: predictor, without a file's name -> what a race of the same task says of it, as `raced` finds it.
    """
    known = races or {}
    rows = [standing(bench, name) for name in bench.predictors]
    random = next((row for row in rows if row.predictor == "random"), None)
    return [_judged(bench, row, random, known.get(_bare(row.predictor), Raced())) for row in rows if not row.control]


def _judged(bench: Bench, row: Ranking, random: Ranking | None, raced: Raced) -> Judged:
    claim = claim_of(row.predictor)
    return Judged(
        predictor=row.predictor,
        claim=claim,
        in_setting=claim is not None and bench.task in claim.tasks,
        lowers=_lowers(row),
        beats_random=_beats(row, random),
        persists=_persists(row),
        pays=_against(row.verified_value, 0.0, " steps an attempt", "+.2f"),
        raced=raced,
    )


def _lowers(row: Ranking) -> PublishedVerdict:
    if row.nonfinite:
        return PublishedVerdict(FAILS, f"{row.nonfinite} of {row.n} predictions not finite")
    return _against(row.gain, 0.0, " nats", "+.4f")


def _beats(row: Ranking, random: Ranking | None) -> PublishedVerdict:
    if random is None or not random.n:
        return PublishedVerdict(OPEN, "random was not tried")
    null = dict(random.accepted.per_seed)
    shared = {seed: 100.0 * (value - null[seed]) for seed, value in row.accepted.per_seed if seed in null}
    found = summarise(shared, n=row.accepted.n, missing=row.accepted.reason or "no seed has both")
    if len({round(value, 9) for value in shared.values()}) == 1:
        return _apart(row, random, found)
    within = replace(found, low=_points(found.low), high=_points(found.high))
    return _against(within, 0.0, " points", "+.0f")


def _persists(row: Ranking) -> PublishedVerdict:
    diverged, seeds = row.diverged_seeds
    if diverged and seeds >= FEWEST_SEEDS:
        return PublishedVerdict(FAILS, f"after most of its leaps training diverged on {diverged} of {seeds} seeds")
    return _against(row.persistence, MOST, "", ".2f")


def _points(end: float | None) -> float | None:
    return None if end is None else min(max(end, -100.0), 100.0)


def _apart(row: Ranking, random: Ranking, found: OverSeeds) -> PublishedVerdict:
    """Every seed has the same difference: its bootstrap has no width, so Wilson's intervals of both rates decide."""
    if found.seeds < FEWEST_SEEDS:
        return PublishedVerdict(OPEN, _few(found))
    mine, null = (wilson(each.accepted.accepted, each.accepted.n) for each in (row, random))
    word = HOLDS if mine.low > null.high else FAILS if mine.high < null.low else OPEN
    shown = [f"{100 * each.low:.0f} to {100 * each.high:.0f} %" for each in (mine, null)]
    return PublishedVerdict(word, f"{shown[0]} against {shown[1]}; {_basis(found)}")


def _against(found: OverSeeds, null: float, unit: str, form: str) -> PublishedVerdict:
    """Above the null holds, below it does not, both by the interval over seeds."""
    if found.mean is None:
        return PublishedVerdict(OPEN, found.reason or "no value")
    if found.seeds < FEWEST_SEEDS or found.low is None or found.high is None:
        return PublishedVerdict(OPEN, f"{found.mean:{form}}{unit}; {_few(found)}")
    word = HOLDS if found.low > null else FAILS if found.high < null else OPEN
    return PublishedVerdict(
        word, f"{found.mean:{form}}{unit}; {found.low:{form}} to {found.high:{form}}; {_basis(found)}"
    )


def _few(found: OverSeeds) -> str:
    return f"n = {found.n}, {found.seeds} of at least {FEWEST_SEEDS} seeds"


def _basis(found: OverSeeds) -> str:
    return f"n = {found.n}, {found.seeds} seeds"


def raced(runs: Iterable[RaceRun], task: str) -> dict[str, Raced]:
    """What a race says of each predictor of one task, from its arms `always:NAME` and `leap:NAME`.

    Args:
        runs: the race's records, of any tasks.
        task: pretrain | finetune | lora. Of several races of it the first counts, in the order of the race's tables.
    """
    cases = by_case(runs, predictors=True)
    case = next((case for case in cases if case.task == task), None)
    if case is None:
        return {}
    arms = cases[case]
    found: dict[str, Raced] = {}
    for arm in arms:
        if arm.startswith((ALWAYS, VERIFIED)):
            full = arm.removeprefix(ALWAYS).removeprefix(VERIFIED)
            found.setdefault(_bare(full), _raced(case, full, arms))
    return found


def _bare(predictor: str) -> str:
    """The name without the file that it was told."""
    return predictor.partition(":")[0]


def _raced(case: RaceCase, name: str, arms: Arms) -> Raced:
    always, verified = f"{ALWAYS}{name}", f"{VERIFIED}{name}"
    return Raced(
        unconditional=_shortened(case, always, arms),
        verified=_shortened(case, verified, arms),
        ends_lower=_against_baseline(always, arms),
    )


def _shortened(case: RaceCase, arm: str, arms: Arms) -> PublishedVerdict:
    if arm not in arms:
        return NOT_RACED
    found = control_row(case, arm, arms)
    return _below(found.difference, found.absent, found.n)


def _against_baseline(arm: str, arms: Arms) -> PublishedVerdict:
    own, base = arms.get(arm, {}), arms.get(BASELINE, {})
    if not own:
        return NOT_RACED
    found = paired_difference(finals(own), finals(base), "no baseline was run")
    return _below(found, len(own.keys() - base.keys()), len(own))


def _below(found: Paired, absent: int, n: int) -> PublishedVerdict:
    """Whether an arm ends below its control: the interval below 0 holds, above 0 does not; nor if it diverged."""
    if found.arm_failed:
        return PublishedVerdict(FAILS, f"{found.arm_failed} of {n} seeds ended without a finite loss")
    if absent:
        return PublishedVerdict(OPEN, f"its control was not run on {absent} of {n} seeds")
    turned = _against(found, 0.0, "", "+.4f")
    return PublishedVerdict({HOLDS: FAILS, FAILS: HOLDS, OPEN: OPEN}[turned.word], turned.why)
