"""The bench's tables: the leaderboard, its regimes, every cell, and the published claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from leapverify.analysis.bench.rows import Bench
from leapverify.analysis.bench.values import ALL_HORIZONS, FEWEST_SEEDS, Place, Ranking, standing
from leapverify.analysis.bench.verdicts import Judged
from leapverify.analysis.study.acceptance import ALL, CRITERIA
from leapverify.analysis.wording import counted
from leapverify.report.kit import cells as c
from leapverify.report.kit import table as t
from leapverify.report.kit.run import seeds_text
from leapverify.report.kit.table import Cell, Column, Table

DEFINITIONS = (
    "Means over seeds, 95 % interval over seeds below. An attempt is a prediction that was made; declined ones are "
    "counted beside. Steps gained: real steps that the run needed from t to reach the predicted loss, 0 without a "
    "gain; where it never did, the steps it had left. Persistence: share of the gain that is left after R = Delta more "
    "real steps, median, of attempts that lowered the loss. Cost: forward-token equivalents of prediction + "
    "verification, over those of a training step. Verified value of an attempt: steps gained × persistence (between 0 "
    "and 1) where paired accepts it, 0 where not, less the cost. Unconditional value: (L_t - L_hat) over the run's own "
    "fall per step, accepted or not and at no cost, median; harm is negative."
)
"""What every number of the bench means."""
QUESTIONS = (
    "published claim", "does it hold here?", "unverified, lowers the loss at once", "accepted more often than random",
    "most of the gain persists", "verified, worth more than it costs", "race: unverified, below the shortened schedule",
    "race: verified, below the shortened schedule",
)  # fmt: skip
"""The columns of the claims."""


def leaderboard_table(bench: Bench, places: Sequence[Place]) -> Table:
    """One row a predictor at the headline K, the best verified value first."""
    rows = [_place(place) for place in places]
    columns = [Column("#"), Column("predictor", False), Column("verified value, steps"),
               Column("the same, mean over all K"), Column("accepted by paired, %"), Column("steps gained"),
               Column("persistence"), Column("cost, steps"), Column("net steps, all kept"),
               Column("unconditional value, steps"), Column("gain fraction, median"), Column("attempts"),
               Column("declined", False)]  # fmt: skip
    by = "lower end of the interval of the" if len(bench.seeds) >= FEWEST_SEEDS else "mean"
    ranked = sum(place.rank is not None for place in places)
    note = (
        f"{_where(bench)} K = {bench.headline_steps}, nearest to Delta, fixed beforehand; every regime. Ranked by the "
        f"{by} verified value among {counted(ranked, 'predictor')}, which flatters the "
        "first: no interval is corrected for their number. hold and random are controls: what they reach takes no "
        f"skill. {DEFINITIONS}"
    )
    return Table("bench-leaderboard", f"Leaderboard: {bench.label}", note, columns, t.grouped(rows, 0))


def _place(place: Place) -> list[Cell]:
    row = place.headline
    rank = "control" if row.control else "" if place.rank is None else str(place.rank)
    cells = [
        Cell(rank, kind="number", fields={"rank": place.rank, "control": row.control}),
        t.name("predictor", row.predictor),
        c.estimate("verified_value", row.verified_value, "+.2f"),
        c.estimate("verified_value_all_k", place.over_horizons.verified_value, "+.2f"),
        c.estimate("paired_percent", row.accepted, ".0f", scale=100.0),
        *_worth(row),
    ]
    return c.said_once(row, cells)


def regimes_table(bench: Bench, places: Iterable[Place]) -> Table:
    """Every predictor in every regime at the headline K."""
    rows = [_cell(standing(bench, place.predictor, regime=regime)) for place in places for regime in bench.regimes]
    note = f"{_where(bench)} K = {bench.headline_steps}, predictors in the order of the leaderboard. {DEFINITIONS}"
    return Table("bench-regimes", "Regime by regime", note, _columns("predictor", "regime"), t.grouped(rows))


def cells_table(bench: Bench, places: Iterable[Place]) -> Table:
    """Every predictor x K x regime, all regimes and all K included."""
    found = [
        standing(bench, place.predictor, regime=regime, horizon=horizon)
        for place in places
        for horizon in (*_horizons(bench, place.predictor), ALL_HORIZONS)
        for regime in (*bench.regimes, ALL)
    ]
    rows = [[*_cell(row)[:1], _horizon(bench, row), *_cell(row)[1:]] for row in found]
    note = f"{_where(bench)} A predictor that is the same for every K stands there once. {DEFINITIONS}"
    columns = _columns("predictor", "K", "regime")
    return Table("bench-cells", "Every predictor, K and regime", note, columns, t.grouped(rows))


def _horizons(bench: Bench, predictor: str) -> Sequence[int]:
    return () if predictor in bench.horizon_free else bench.horizons


def _horizon(bench: Bench, row: Ranking) -> Cell:
    if row.horizon != ALL_HORIZONS:
        return t.name("K", row.horizon)
    return t.name("K", "any" if row.predictor in bench.horizon_free else "all")


def _columns(*names: str) -> list[Column]:
    criteria = [Column(f"{name}, %") for name in CRITERIA]
    return [*(Column(name, False) for name in names), Column("verified value, steps"), *criteria,
            Column("steps gained"), Column("persistence"), Column("cost, steps"), Column("net steps, all kept"),
            Column("unconditional value, steps"), Column("gain fraction, median"), Column("attempts"),
            Column("declined", False)]  # fmt: skip


def _worth(row: Ranking) -> list[Cell]:
    """What every table says of a predictor after its value and acceptance."""
    return [
        c.estimate("steps_gained", row.steps_gained, ".1f"),
        c.persistence(row),
        c.cost(row),
        c.estimate("net_steps", row.net_steps, "+.1f"),
        c.estimate("unconditional_value", row.unconditional_value, "+.1f"),
        c.estimate("gain_fraction", row.gain_fraction, ".2f"),
        c.attempts(row),
        c.declined(row),
    ]


def _cell(row: Ranking) -> list[Cell]:
    cells = [
        t.name("predictor", row.predictor),
        t.name("regime", row.regime),
        c.estimate("verified_value", row.verified_value, "+.2f"),
        *(c.estimate(f"{name}_percent", row.rates[name], ".0f", scale=100.0) for name in CRITERIA),
        *_worth(row),
    ]
    return c.said_once(row, cells)


def claims_table(bench: Bench, judged: Sequence[Judged]) -> Table:
    """What is claimed of each predictor, and what the bench and the race say to it."""
    rows = [_judged(row) for row in judged]
    columns = [Column("predictor", False), *(Column(label, False) for label in QUESTIONS)]
    note = (
        f"{_where(bench)} K = {bench.headline_steps}, every regime. Holds or does not hold: the interval over at least "
        f"{FEWEST_SEEDS} seeds lies on that side of 0 (of a half for persistence); otherwise not decided. The claim "
        "itself is decided by what it is of: a lower loss at once by the bench, fewer steps by the race against the "
        "shortened schedule, a lower end by the race against the baseline. The rules were fixed before anything was "
        "measured; no interval is corrected for the number of predictors."
    )
    return Table("bench-claims", "Published claims", note, columns, t.grouped(rows, 0))


def _judged(row: Judged) -> list[Cell]:
    return [
        t.name("predictor", row.predictor),
        c.claim(row.claim, row.in_setting),
        c.verdict("verdict", row.verdict) if row.claim else Cell("", fields={"verdict": "", "verdict_why": ""}),
        c.verdict("lowers", row.lowers),
        c.verdict("beats_random", row.beats_random),
        c.verdict("persists", row.persists),
        c.verdict("pays", row.pays),
        c.verdict("race_unverified", row.raced.unconditional),
        c.verdict("race_verified", row.raced.verified),
    ]


def _where(bench: Bench) -> str:
    steps = len({(row.prediction.seed, row.prediction.step) for row in bench.tried})
    return f"{bench.label}: {steps} checkpoints of {seeds_text(len(bench.seeds))}."
