"""Figures that compare seeds: fingerprints at the same step, and the spread of their losses."""

from __future__ import annotations

from collections.abc import Sequence

from leapverify.io.records import SeedMeasure
from leapverify.report.kit.panels import Axis, Figure, LegendKey, Panel, Spec, grid
from leapverify.report.kit.run import Run
from leapverify.report.kit.theme import Mark
from leapverify.report.kit.traces import band, curve, mean_of_known
from leapverify.report.kit.words import words
from leapverify.report.study.paper import PAPER

PAIR, NULL, FRESH = Mark("@c0", "circle", "solid"), Mark("@band", "square", "solid"), Mark("@c1", "square", "dash")
GEOMETRY = {
    "cka": "Linear CKA (1 is the same)",
    "procrustes": "Procrustes distance (0 is the same)",
    "rsa": "RSA, rank correlation (1 is the same)",
}


def geometry(run: Run) -> Figure:
    """CKA, Procrustes distance and RSA between seeds, with the null band and the untrained models."""
    rows = {name: [row for row in run.measures if row.measure == name and row.step is not None] for name in GEOMETRY}
    panels = [Panel(GEOMETRY[name], _pairs(found)) for name, found in rows.items() if found]
    if not panels:
        return words("study").empty("cka", _why(run, "there is nothing to compare"))
    legend = [
        LegendKey("pairs of seeds: mean and range", PAIR),
        LegendKey("shuffled probes, 95 %", NULL, filled=True),
        LegendKey("untrained", FRESH),
    ]
    view = grid(panels, Axis("training step"), Axis(""), columns=1, height_px=170, shared_y=False)
    pairs = {(row.seed_a, row.seed_b) for found in rows.values() for row in found}
    return words("study").figure("cka", [view], legend=legend, pairs=len(pairs), seeds=len(run.seeds))


def collapse(run: Run) -> Figure:
    """Coefficient of variation of the validation loss over seeds, step by step."""
    found = {row.step: row.value for row in run.measures if row.measure == "loss_cv_percent" and row.step}
    if not found:
        return words("study").empty("collapse", _why(run, "there is no spread"))
    steps = sorted(found)
    hover = "step %{x}: %{y:.2f} %<extra></extra>"
    trace = curve(steps, [found[step] for step in steps], PAIR, hovertemplate=hover)
    trace |= {"mode": "lines+markers", "marker": {"color": PAIR.color, "size": 5}}
    paper = PAPER["ensemble_collapse_7b_cv_percent"]
    course = ", ".join(f"{value:g} % at {step if step == 'final' else 'step ' + step}" for step, value in paper.items())
    y = Axis("CV, %", {"rangemode": "tozero"})
    view = grid([Panel("", [trace])], Axis("training step"), y, columns=1, height_px=220)
    return words("study").figure("collapse", [view], paper=course, seeds=len(run.seeds))


def _why(run: Run, alone: str) -> str:
    return f"one seed only: {alone}" if len(run.seeds) < 2 else "not measured in this run"


def _pairs(rows: Sequence[SeedMeasure]) -> list[Spec]:
    steps = sorted({row.step for row in rows if row.step is not None})
    at = {step: [row for row in rows if row.step == step] for step in steps}
    values = [[row.value for row in at[step] if row.value is not None] for step in steps]
    low, high, fresh = (
        [mean_of_known([getattr(row, name) for row in at[step]]) for step in steps]
        for name in ("null_low", "null_high", "untrained")
    )
    traces = [
        band(steps, low, high),
        band(steps, [min(v, default=None) for v in values], [max(v, default=None) for v in values], "@band0"),
        curve(steps, list(map(mean_of_known, values)), PAIR, width=2.4,
              hovertemplate="step %{x}: mean over pairs %{y:.3f}<extra></extra>"),
    ]  # fmt: skip
    if any(value is not None for value in fresh):
        traces.append(curve(steps, fresh, FRESH, width=1.5, hovertemplate="untrained: %{y:.3f}<extra></extra>"))
    return traces
