"""The paper's Tables 1-5: regimes, similarity, final loss, first entries, agreement."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.analysis.study.agreement import agreement
from leapverify.analysis.study.seeds import first_entries, mean_similarities
from leapverify.report.kit import table as t
from leapverify.report.kit.run import REGIMES, Run
from leapverify.report.kit.table import Cell, Column, Table

PAPER: Mapping[str, Any] = MappingProxyType(
    json.loads(resources.files("leapverify.report").joinpath("paper.json").read_text(encoding="utf-8"))
)
MODELS: Mapping[str, str] = MappingProxyType(PAPER["models"])
"""The paper's models: key to name."""


def paper_value(table: str, *keys: str) -> Any:
    """One number of the paper (or a [mean, std] pair), or None where it prints none."""
    node: Any = PAPER[table]
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


SPREAD = (
    "Mean ± sample standard deviation over seeds; below it n and the 95 % interval over seeds (bootstrap; with fewer "
    "than eight seeds widened by Student's t, so that it may be wider than the range of the seeds)."
)
PAPER_COLUMNS = tuple(Column(f"paper, {label}") for label in MODELS.values())
ALL_REGIMES = (*REGIMES, "unknown")


def model_key(model: str) -> str:
    """The prefix of the CSV fields of one of the paper's models."""
    return "paper_" + "".join(sign if sign.isalnum() else "_" for sign in model)


def tables_of_runs(run: Run) -> list[Table]:
    """Tables 1 to 5."""
    return [regime_counts(run), similarities(run), final_loss(run), entries(run), fractions(run)]


def regime_counts(run: Run) -> Table:
    """Table 1: checkpoints per seed in each regime."""
    rows = [
        [
            t.name("regime", regime),
            t.spread("checkpoints", _per_seed(run, regime, share=False), ".1f"),
            *_paper("regime_counts", regime),
        ]
        for regime in ALL_REGIMES
    ]
    note = f"Checkpoints per seed, of {len(run.steps)} here and of 40 in the paper. {SPREAD}"
    columns = [Column("regime", False), Column("this run"), *PAPER_COLUMNS]
    return Table("table-01", "Table 1. Checkpoints in each regime", note, columns, t.grouped(rows, 0))


def similarities(run: Run) -> Table:
    """Table 2: mean similarity per regime."""
    found = {row.regime: row for row in mean_similarities(run.checkpoints)}
    rows = [
        [
            t.name("regime", regime),
            t.spread("similarity", found[regime], ".5f", why=no_checkpoint(regime), of="checkpoints"),
            *_paper("mean_similarity", regime),
        ]
        for regime in REGIMES
    ]
    note = f"Similarity to the previous checkpoint, mean within each seed, then over the seeds that have any. {SPREAD}"
    columns = [Column("regime", False), Column("this run"), *PAPER_COLUMNS]
    return Table("table-02", "Table 2. Mean similarity in each regime", note, columns, t.grouped(rows, 0))


def final_loss(run: Run) -> Table:
    """Table 3: the last checkpoint's validation loss over seeds."""
    found = summarise({seed: rows[-1].val_loss for seed, rows in run.of_seed.items()}, n=len(run.seeds))
    values = [value for _, value in found.per_seed]
    papers = [("seeds",), ("mean",), ("std",), ("range", 0), ("range", 1), ("cv_percent",)]
    shown: list[tuple[str, float | int | None, str]] = [
        ("seeds", found.seeds, "d"),
        ("mean, nats per token", found.mean, ".4f"),
        ("standard deviation", found.std, ".4f"),
        ("lowest", min(values), ".4f"),
        ("highest", max(values), ".4f"),
        ("CV, %", found.cov_percent, ".2f"),
    ]
    rows = []
    for (label, value, form), place in zip(shown, papers, strict=True):
        cells = [t.name("quantity", label), t.number("this_run", value, form, why=found.reason or "")]
        for model in MODELS:
            node = paper_value("final_val_loss", model, str(place[0]))
            cells.append(t.paper(model_key(model), node[place[1]] if len(place) == 2 else node))
        rows.append(cells)
    last = sorted({checkpoints[-1].step for checkpoints in run.of_seed.values()})
    ends = ", ".join(str(step) for step in last)
    note = (
        f"Validation loss at each seed's last checkpoint (step {ends}); sample standard deviation; n = "
        f"{found.seeds} seeds. The paper's published code starts every seed from the same pretrained weights, so "
        "its CV is no yardstick here."
    )
    columns = [Column("quantity", False), Column("this run"), *PAPER_COLUMNS]
    return Table("table-03", "Table 3. Final validation loss over seeds", note, columns, t.grouped(rows, 0))


def entries(run: Run) -> Table:
    """Table 4: the step at which each seed first enters each regime."""
    found = {row.regime: row for row in first_entries(run.checkpoints)}
    rows = []
    for regime in ("transition", "stable"):
        entry = found[regime]
        why = no_checkpoint(regime)
        never = ", ".join(str(seed) for seed in entry.never) or "none"
        cells = [
            t.name("regime", regime),
            t.spread("step", entry, ".4g", why=why),
            t.number("earliest", entry.earliest, "d", why),
            t.number("latest", entry.latest, "d", why),
            t.text("seeds_never", never),
        ]
        rows.append(cells + [_paper_entry(model, regime) for model in MODELS])
    columns = [Column("first", False), Column("this run, step"), Column("earliest"), Column("latest"),
               Column("seeds that never enter", False), *PAPER_COLUMNS]  # fmt: skip
    note = f"Step of the first checkpoint with the label; seeds that never get there are left out of the mean. {SPREAD}"
    return Table("table-04", "Table 4. First entry into each regime", note, columns, t.grouped(rows, 0))


def fractions(run: Run) -> Table:
    """Table 5: share of training in each regime, and the seeds' agreement."""
    rows = [
        [
            t.name("quantity", f"{regime}, %"),
            t.spread("this_run", _per_seed(run, regime, share=True), ".1f", scale=100.0),
            *_paper("fraction_percent", regime),
        ]
        for regime in ALL_REGIMES
    ]
    found = agreement(run.checkpoints)
    forms = (("agreement, modal, %", found.modal, found.modal_chance, "agreement"),
             ("agreement, unanimous, %", found.unanimous, found.unanimous_chance, "unanimous"))  # fmt: skip
    for label, value, chance, key in forms:
        cell = t.number("this_run_mean", t.scaled(value, 100.0), ".1f", why=found.reason or "")
        extra: dict[str, t.Raw] = {"this_run_n": found.n, "this_run_seeds": found.seeds}
        below = f"n = {found.n} checkpoints of {found.seeds} seeds"
        if chance:
            below += f"; by chance {100 * chance[0]:.1f} (95 % {100 * chance[1]:.1f} to {100 * chance[2]:.1f})"
            extra |= {"chance_mean": 100 * chance[0], "chance_low": 100 * chance[1], "chance_high": 100 * chance[2]}
        fields = {**cell.fields, **extra}
        fields["this_run_why"] = fields.pop("this_run_mean_why")
        cell = Cell(cell.text, below if cell.kind == "number" else "", cell.kind, fields)
        rows.append([t.name("quantity", label), cell, *_paper("fraction_percent", key)])
    columns = [Column("quantity", False), Column("this run"), *PAPER_COLUMNS]
    note = (
        f"Share of checkpoints. {SPREAD} Agreement: modal is the share of seeds in the most common regime (what the "
        "paper's figures must be), unanimous the share of checkpoints where all seeds agree (what its text says); "
        "by chance: with each seed's labels shifted circularly in time. All seeds share one learning-rate schedule, "
        "which alone can bring labels together; thresholds=rate takes that out."
    )
    return Table(
        "table-05", "Table 5. Share of training in each regime, and agreement", note, columns, t.grouped(rows, 0)
    )


def no_checkpoint(regime: str) -> str:
    """Why a cell of a regime is empty when no seed was ever in it."""
    return f"no {regime} checkpoint in any seed"


def _per_seed(run: Run, regime: str, *, share: bool) -> OverSeeds:
    counts = {seed: sum(row.regime == regime for row in rows) for seed, rows in run.of_seed.items()}
    values = {seed: count / len(run.of_seed[seed]) if share else float(count) for seed, count in counts.items()}
    return summarise(values, n=len(run.checkpoints))


def _paper(table: str, key: str) -> Sequence[Cell]:
    return [t.paper(model_key(model), paper_value(table, model, key)) for model in MODELS]


def _paper_entry(model: str, regime: str) -> Cell:
    node = paper_value("first_entry_step", model, regime)
    cell = t.paper(model_key(model), (node["mean"], node["std"]))
    low, high = node["range"]
    key = model_key(model)
    fields = {**cell.fields, f"{key}_earliest": low, f"{key}_latest": high}
    return Cell(cell.text, f"{low} to {high}", cell.kind, fields)
