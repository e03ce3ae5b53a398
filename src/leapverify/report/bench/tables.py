"""The bench's tables: the leaderboard, its regimes, every cell, and the published claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from leapverify.analysis.bench.rows import Bench
from leapverify.analysis.bench.values import ALL_HORIZONS, Place, Ranking, standing
from leapverify.analysis.bench.verdicts import Judged, PublishedVerdict
from leapverify.analysis.over_seeds import FEWEST_SEEDS
from leapverify.analysis.vocabulary import ALL, CRITERIA
from leapverify.analysis.wording import counted
from leapverify.report.kit import cells
from leapverify.report.kit import columns as c
from leapverify.report.kit import table as t
from leapverify.report.kit.columns import Get, getter
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.kit.words import words


def leaderboard_table(bench: Bench, places: Sequence[Place]) -> Table:
    """One row a predictor at the headline K, the best verified value first."""
    columns = [
        Column("#", cell=_rank),
        c.key("predictor"),
        c.estimate("verified value, steps", "verified_value", "headline.verified_value", "+.2f"),
        c.estimate("the same, mean over all K", "verified_value_all_k", "over_horizons.verified_value", "+.2f"),
        c.estimate("accepted by paired, %", "paired_percent", "headline.accepted", ".0f", scale=100.0),
        *_worth("headline"),
    ]
    by = "lower end of the interval of the" if len(bench.seeds) >= FEWEST_SEEDS else "mean"
    ranked = counted(sum(place.rank is not None for place in places), "predictor")
    return _once(_table(bench, "bench-leaderboard", columns, places, 0, label=bench.label, by=by, ranked=ranked))


def _rank(place: Place) -> Cell:
    control = place.headline.control
    text = "control" if control else "" if place.rank is None else str(place.rank)
    return Cell(text, kind="number", fields={"rank": place.rank, "control": control})


def regimes_table(bench: Bench, places: Iterable[Place]) -> Table:
    """Every predictor in every regime at the headline K."""
    rows = [standing(bench, place.predictor, regime=regime) for place in places for regime in bench.regimes]
    columns = [c.key("predictor"), c.key("regime"), *_values()]
    return _once(_table(bench, "bench-regimes", columns, rows))


def cells_table(bench: Bench, places: Iterable[Place]) -> Table:
    """Every predictor x K x regime, all regimes and all K included."""
    free = bench.horizon_free
    rows = [
        standing(bench, place.predictor, regime=regime, horizon=horizon)
        for place in places
        for horizon in (*(() if place.predictor in free else bench.horizons), ALL_HORIZONS)
        for regime in (*bench.regimes, ALL)
    ]

    def steps(row: Ranking) -> int | str:
        return row.horizon if row.horizon != ALL_HORIZONS else "any" if row.predictor in free else "all"

    columns = [c.key("predictor"), c.key("K", steps), c.key("regime"), *_values()]
    return _once(_table(bench, "bench-cells", columns, rows))


def _values() -> list[Column]:
    """What is said of every cell."""

    def rate(name: str) -> Column:
        return c.estimate(f"{name}, %", f"{name}_percent", lambda row: row.rates[name], ".0f", scale=100.0)

    return [
        c.estimate("verified value, steps", "verified_value", form="+.2f"),
        *map(rate, CRITERIA),
        *_worth(""),
    ]  # fmt: skip


def _worth(where: str) -> list[Column]:
    """What every table says of a predictor after its value and acceptance; `where` a row keeps its `Ranking`."""
    ranking = getter(where) if where else getter(c.ITSELF)

    def mean(label: str, field: str, form: str) -> Column:
        return c.estimate(label, field, lambda row: getattr(ranking(row), field), form)

    return [
        mean("steps gained", "steps_gained", ".1f"),
        persistence_column("persistence", ranking),
        Column("cost, steps", cell=lambda row: _cost(ranking(row))),
        mean("net steps, all kept", "net_steps", "+.1f"),
        mean("unconditional value, steps", "unconditional_value", "+.1f"),
        mean("gain fraction, median", "gain_fraction", ".2f"),
        attempts_column("attempts", ranking),
        Column("declined", False, lambda row: _declined(ranking(row))),
    ]


def persistence_column(label: str, get: Get) -> Column:
    """Median persistence with its own n, and how often training from the predicted state diverged."""
    ranking = getter(get)

    def cell(place: object) -> Cell:
        row: Ranking = ranking(place)
        found = cells.estimate("persistence", row.persistence, ".2f", count=True)
        return replace(found, fields={**found.fields, "diverged": row.diverged, "unmeasured": row.unmeasured})

    return Column(label, cell=cell)


def attempts_column(label: str, get: Get) -> Column:
    """How many predictions were made, and how many of them could not be measured."""
    ranking = getter(get)

    def cell(place: object) -> Cell:
        row: Ranking = ranking(place)
        below = f"{row.nonfinite} not finite" if row.nonfinite else ""
        fields: dict[str, t.Raw] = {"n": row.n, "nonfinite": row.nonfinite, "beyond": row.beyond}
        return Cell(str(row.n), below, "number", fields)

    return Column(label, cell=cell)


def _cost(row: Ranking) -> Cell:
    """Cost of an attempt in steps, with the tokens of prediction and verification below."""
    found, predict, verify = row.cost_steps, row.predict_tokens.mean, row.verify_tokens.mean
    fields = {**t.spread("cost_steps", found).fields, "predict_tokens": predict, "verify_tokens": verify}
    if found.mean is None or predict is None or verify is None:
        return Cell(found.reason or "no value", kind="why", fields=fields)
    return Cell(f"{found.mean:.2f}", f"{_short(predict)} + {_short(verify)}", "number", fields)


def _short(value: float) -> str:
    """'912', '12.3 k' or '1.2 M'."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _declined(row: Ranking) -> Cell:
    """The share of requests that were declined, with the commonest reason."""
    share = 100.0 * row.declined / len(row.tried) if row.tried else 0.0
    fields: dict[str, t.Raw] = {"declined_percent": share, "declined_reason": row.declined_reason}
    text = f"{share:.0f} %: {row.declined_reason}" if share else "none"
    return Cell(text, kind="wide" if share else "", fields=fields)


def said_once(row: Sequence[Cell]) -> list[Cell]:
    """A predictor's cells; where no prediction was made, the reason stands in the first empty one alone."""
    made = any(cell.fields.get("n") for cell in row)
    repeated = () if made else [index for index, cell in enumerate(row) if cell.kind == "why"][1:]
    return [replace(cell, text="") if index in repeated else cell for index, cell in enumerate(row)]


def _once(table: Table) -> Table:
    return replace(table, rows=[replace(line, cells=said_once(line.cells)) for line in table.rows])


def claims_table(bench: Bench, judged: Sequence[Judged]) -> Table:
    """What is claimed of each predictor, and what the bench and the race say to it."""

    def answer(question: str, field: str, get: str = "") -> Column:
        return Column(question, False, lambda row: _verdict(field, attrgetter(get or field)(row)))

    columns = [
        c.key("predictor"),
        Column("published claim", False, _claim),
        Column("does it hold here?", False, lambda row: _verdict("verdict", row.verdict if row.claim else None)),
        answer("unverified, lowers the loss at once", "lowers"),
        answer("accepted more often than random", "beats_random"),
        answer("most of the gain persists", "persists"),
        answer("verified, worth more than it costs", "pays"),
        answer("race: unverified, below the shortened schedule", "race_unverified", "raced.unconditional"),
        answer("race: verified, below the shortened schedule", "race_verified", "raced.verified"),
    ]
    return _table(bench, "bench-claims", columns, judged, 0, fewest=FEWEST_SEEDS)


def _claim(row: Judged) -> Cell:
    """What is claimed, by whom and where; whether the bench is of that kind of training."""
    found = row.claim
    if found is None:
        return Cell("none", kind="wide", fields={"source": "", "claim": "", "setting": "", "in_setting": False})
    fields: dict[str, t.Raw] = {"source": found.source, "claim": found.claim, "setting": found.setting}
    where = "setting" if row.in_setting else "another setting"
    text = f"{found.claim} ({found.source}); {where}: {found.setting}"
    return Cell(text, kind="wide", fields={**fields, "in_setting": row.in_setting})


def _verdict(key: str, found: PublishedVerdict | None) -> Cell:
    """The word, and the numbers behind it."""
    word, why = (found.word, found.why) if found else ("", "")
    return Cell(word, why, "", {key: word, f"{key}_why": why})


def _table(
    bench: Bench, name: str, columns: Sequence[Column], rows: Iterable[object], keys: int = 1, **values: object
) -> Table:
    steps = len({(row.prediction.seed, row.prediction.step) for row in bench.tried})
    where = f"{bench.label}: {steps} checkpoints of {counted(len(bench.seeds), 'seed')}."
    return words("bench").table(name, columns, rows, keys=keys, where=where, K=bench.headline_steps, **values)
