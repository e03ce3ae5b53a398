"""The paper's Tables 1-5: regimes, similarity, final loss, first entries, agreement."""

from __future__ import annotations

from typing import NamedTuple

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.analysis.study.agreement import Agreement, agreement
from leapverify.analysis.study.seeds import FirstEntry, RegimeSimilarity, first_entries, mean_similarities
from leapverify.analysis.vocabulary import LABELS, REGIMES
from leapverify.report.kit import columns as c
from leapverify.report.kit import table as t
from leapverify.report.kit.run import Run
from leapverify.report.kit.table import Cell, Column, Table
from leapverify.report.kit.words import words
from leapverify.report.study.analysis import no_checkpoint
from leapverify.report.study.paper import paper_cell, paper_columns, paper_value, printed

ALL_REGIMES = (*REGIMES, LABELS[0])


def tables_of_runs(run: Run) -> list[Table]:
    """Tables 1 to 5."""
    return [regime_counts(run), similarities(run), final_loss(run), entries(run), fractions(run)]


def regime_counts(run: Run) -> Table:
    """Table 1: checkpoints per seed in each regime."""
    columns = [
        c.key("regime", c.ITSELF),
        c.spread("this run", "checkpoints", lambda regime: _per_seed(run, regime, share=False), ".1f"),
        *printed("regime_counts", lambda regime: [regime]),
    ]
    return words("study").table("table-01", columns, ALL_REGIMES, keys=0, checkpoints=len(run.steps))


def similarities(run: Run) -> Table:
    """Table 2: mean similarity per regime."""
    columns = [
        c.key("regime"),
        c.spread("this run", "similarity", c.ITSELF, ".5f", why=_never, of="checkpoints"),
        *printed("mean_similarity", lambda row: [row.regime]),
    ]
    return words("study").table("table-02", columns, mean_similarities(run.checkpoints), keys=0)


class _Quantity(NamedTuple):
    """A row of Table 3: where the paper has the number, and its place in a pair."""

    quantity: str
    value: float | int | None
    form: str
    place: str
    end: int | None = None


def final_loss(run: Run) -> Table:
    """Table 3: the last checkpoint's validation loss over seeds."""
    found = run.final_loss
    values = [value for _, value in found.per_seed]
    rows = [
        _Quantity("seeds", found.seeds, "d", "seeds"),
        _Quantity("mean, nats per token", found.mean, ".4f", "mean"),
        _Quantity("standard deviation", found.std, ".4f", "std"),
        _Quantity("lowest", min(values), ".4f", "range", 0),
        _Quantity("highest", max(values), ".4f", "range", 1),
        _Quantity("CV, %", found.cov_percent, ".2f", "cv_percent"),
    ]

    def in_paper(model: str, key: str, row: _Quantity) -> Cell:
        node = paper_value("final_val_loss", model, row.place)
        return paper_cell(key, node if row.end is None else node[row.end])

    columns = [
        c.key("quantity"),
        Column("this run", cell=lambda row: t.number("this_run", row.value, row.form, why=found.reason or "")),
        *paper_columns(in_paper),
    ]
    last = ", ".join(map(str, sorted({rows[-1].step for rows in run.of_seed.values()})))
    return words("study").table("table-03", columns, rows, keys=0, last=last, seeds=found.seeds)


def entries(run: Run) -> Table:
    """Table 4: the step at which each seed first enters each regime."""

    def in_paper(model: str, key: str, row: FirstEntry) -> Cell:
        node = paper_value("first_entry_step", model, row.regime)
        cell, (low, high) = paper_cell(key, (node["mean"], node["std"])), node["range"]
        fields = {**cell.fields, f"{key}_earliest": low, f"{key}_latest": high}
        return Cell(cell.text, f"{low} to {high}", cell.kind, fields)

    columns = [
        c.key("first", "regime", "regime"),
        c.spread("this run, step", "step", c.ITSELF, ".4g", why=_never),
        c.number("earliest", "earliest", why=_never),
        c.number("latest", "latest", why=_never),
        c.text("seeds that never enter", "seeds_never", lambda row: ", ".join(map(str, row.never)) or "none"),
        *paper_columns(in_paper),
    ]
    rows = first_entries(run.checkpoints, regimes=("transition", "stable"))
    return words("study").table("table-04", columns, rows, keys=0)


def fractions(run: Run) -> Table:
    """Table 5: share of training in each regime, and the seeds' agreement."""
    found = agreement(run.checkpoints)
    rows = [
        *((f"{regime}, %", regime, t.spread("this_run", _per_seed(run, regime, share=True), ".1f", scale=100.0))
          for regime in ALL_REGIMES),
        ("agreement, modal, %", "agreement", _agreed(found, found.modal, found.modal_chance)),
        ("agreement, unanimous, %", "unanimous", _agreed(found, found.unanimous, found.unanimous_chance)),
    ]  # fmt: skip
    columns = [
        c.key("quantity", lambda row: row[0]),
        Column("this run", cell=lambda row: row[2]),
        *printed("fraction_percent", lambda row: [row[1]]),
    ]
    return words("study").table("table-05", columns, rows, keys=0)


def _agreed(found: Agreement, value: float | None, chance: tuple[float, float, float] | None) -> Cell:
    """The seeds' agreement in one of its two forms, beside what chance gives."""
    cell = t.number("this_run_mean", t.scaled(value, 100.0), ".1f", why=found.reason or "")
    below = f"n = {found.n} checkpoints of {found.seeds} seeds"
    fields = {**cell.fields, "this_run_n": found.n, "this_run_seeds": found.seeds}
    if chance:
        mean, low, high = (100 * level for level in chance)
        below += f"; by chance {mean:.1f} (95 % {low:.1f} to {high:.1f})"
        fields |= {"chance_mean": mean, "chance_low": low, "chance_high": high}
    fields["this_run_why"] = fields.pop("this_run_mean_why")
    return Cell(cell.text, below if cell.kind == "number" else "", cell.kind, fields)


def _per_seed(run: Run, regime: str, *, share: bool) -> OverSeeds:
    counts = {seed: sum(row.regime == regime for row in rows) for seed, rows in run.of_seed.items()}
    values = {seed: count / len(run.of_seed[seed]) if share else float(count) for seed, count in counts.items()}
    return summarise(values, n=len(run.checkpoints))


def _never(row: FirstEntry | RegimeSimilarity) -> str:
    return no_checkpoint(row.regime)
