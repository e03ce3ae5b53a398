"""Figures that compare seeds: fingerprints at the same step, and the spread of their losses."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from leapverify.io.records import SeedMeasure
from leapverify.report.kit.panels import Axis, Figure, Key, Panel, Spec, band, curve, grid
from leapverify.report.kit.run import Run
from leapverify.report.kit.theme import Mark
from leapverify.report.study.tables import PAPER

PAIR, NULL, FRESH = Mark("@c0", "circle", "solid"), Mark("@band", "square", "solid"), Mark("@c1", "square", "dash")
GEOMETRY = {
    "cka": "Linear CKA (1 is the same)",
    "procrustes": "Procrustes distance (0 is the same)",
    "rsa": "RSA, rank correlation (1 is the same)",
}


def geometry(run: Run) -> Figure:
    """CKA, Procrustes distance and RSA between seeds, with the null band and the untrained models."""
    title = "Do different seeds reach the same representation?"
    rows = {name: [row for row in run.measures if row.measure == name and row.step is not None] for name in GEOMETRY}
    panels = [Panel(GEOMETRY[name], _pairs(found)) for name, found in rows.items() if found]
    if not panels:
        why = "one seed only: there is nothing to compare" if len(run.seeds) < 2 else "not measured in this run"
        return Figure("cka", title, "", why=why)
    pairs = {(row.seed_a, row.seed_b) for found in rows.values() for row in found}
    return Figure(
        "cka",
        title,
        "Fingerprints of two seeds at the same step, by measures that do not care how the hidden space is turned. "
        "Line: mean over pairs, with the range of the pairs. Grey: what shuffled probes give (95 %). Dashed: the "
        f"two untrained models. Seeds share a representation only as far as the line leaves both. n = {len(pairs)} "
        f"pairs of {len(run.seeds)} seeds.",
        [grid(panels, Axis("training step"), Axis(""), columns=1, height_px=170, shared_y=False)],
        legend=[
            Key("pairs of seeds: mean and range", PAIR),
            Key("shuffled probes, 95 %", NULL, filled=True),
            Key("untrained", FRESH),
        ],
    )


def collapse(run: Run) -> Figure:
    """Coefficient of variation of the validation loss over seeds, step by step."""
    rows = sorted((r for r in run.measures if r.measure == "loss_cv_percent" and r.step), key=lambda r: r.step or 0)
    title = "Ensemble collapse: does the spread between seeds shrink?"
    if not rows:
        why = "one seed only: there is no spread" if len(run.seeds) < 2 else "not measured in this run"
        return Figure("collapse", title, "", why=why)
    hover = "step %{x}: %{y:.2f} %<extra></extra>"
    trace = curve([r.step or 0 for r in rows], [r.value for r in rows], PAIR, hovertemplate=hover)
    trace |= {"mode": "lines+markers", "marker": {"color": PAIR.color, "size": 5}}
    paper = PAPER["ensemble_collapse_7b_cv_percent"]
    course = ", ".join(f"{value:g} % at {step if step == 'final' else 'step ' + step}" for step, value in paper.items())
    return Figure(
        "collapse",
        title,
        "Sample standard deviation over mean of the validation loss across seeds, in per cent. The paper calls a "
        f"falling course collapse; for its 7B model it gives {course}. n = {len(run.seeds)} seeds, so each point is "
        "itself uncertain.",
        [
            grid(
                [Panel("", [trace])],
                Axis("training step"),
                Axis("CV, %", {"rangemode": "tozero"}),
                columns=1,
                height_px=220,
            )
        ],
    )


def _pairs(rows: Sequence[SeedMeasure]) -> list[Spec]:
    steps = sorted({row.step for row in rows if row.step is not None})
    at = {step: [row for row in rows if row.step == step] for step in steps}
    values = [[row.value for row in at[step] if row.value is not None] for step in steps]
    traces = [
        band(steps, [_mean(at[s], "null_low") for s in steps], [_mean(at[s], "null_high") for s in steps]),
        band(steps, [min(v, default=None) for v in values], [max(v, default=None) for v in values], "@band0"),
        curve(steps, [statistics.fmean(v) if v else None for v in values], PAIR, width=2.4,
              hovertemplate="step %{x}: mean over pairs %{y:.3f}<extra></extra>"),
    ]  # fmt: skip
    fresh = [_mean(at[step], "untrained") for step in steps]
    if any(value is not None for value in fresh):
        traces.append(curve(steps, fresh, FRESH, width=1.5, hovertemplate="untrained: %{y:.3f}<extra></extra>"))
    return traces


def _mean(rows: Sequence[SeedMeasure], name: str) -> float | None:
    known = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return statistics.fmean(known) if known else None
