"""Figures of the course of training: regimes, similarity, losses, straightness, Lyapunov exponent."""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Callable, Sequence

from leapverify.analysis.study.skill import Correlation
from leapverify.analysis.wording import verdict
from leapverify.io.records import Checkpoint
from leapverify.report.kit.panels import (
    Axis,
    Figure,
    Key,
    Panel,
    Spec,
    View,
    axis_title,
    base_layout,
    curve,
    grid,
    line_at,
)
from leapverify.report.kit.run import Run, seeds_text, stored_as
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain

SEED_LINE = Mark("@muted", "circle", "solid")
MEAN_LINE = Mark("@ink", "circle", "solid")
SEED_KEYS = (Key("one seed", SEED_LINE), Key("mean over seeds", MEAN_LINE))


def regimes(run: Run) -> Figure:
    """The regime strip: one row per seed, one cell per checkpoint."""
    width = _interval(run)
    data: list[Spec] = []
    for regime, mark in REGIME_MARKS.items():
        rows = [row for row in run.checkpoints if row.regime == regime]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": regime,
                "y": [f"seed {row.seed}" for row in rows],
                "base": [row.step - width for row in rows],
                "x": [width] * len(rows),
                "text": [mark.letter] * len(rows),
                "textposition": "inside",
                "textangle": 0,
                "insidetextanchor": "middle",
                "insidetextfont": {"color": "@paper", "size": 12, "weight": "bold"},
                "customdata": [_similarity_text(row) for row in rows],
                "hovertemplate": "%{y}, step %{base} + " + str(width) + f"<br>{regime}, %{{customdata}}<extra></extra>",
                "marker": _pattern(mark),
            }
        )
    layout = base_layout(34 * len(run.seeds) + 70)
    layout |= {
        "barmode": "overlay",
        "bargap": 0.14,
        "margin": {"l": 64, "r": 14, "t": 8, "b": 48},
        "xaxis": {"title": axis_title("training step"), "range": [0, run.steps[-1]], "fixedrange": True,
                  "ticks": "outside", "gridcolor": "@grid", "tickfont": {"size": 11, "color": "@muted"}},
        "yaxis": {"autorange": "reversed", "fixedrange": True, "ticklabelstandoff": 6,
                  "tickfont": {"size": 11, "color": "@ink"}},
        "uniformtext": {"mode": "hide", "minsize": 7},
    }  # fmt: skip
    counts = {regime: sum(row.regime == regime for row in run.checkpoints) for regime in REGIME_MARKS}
    total = ", ".join(f"{count} {regime}" for regime, count in counts.items() if count)
    return Figure(
        "regimes",
        "Regimes, seed by seed",
        "Each cell is the interval that ends at a checkpoint, each row a seed. Look for columns of one kind: there "
        f"the seeds agree. n = {len(run.checkpoints)} checkpoints of {seeds_text(len(run.seeds))}: {total}.",
        [View((), data, layout, layout)],
        legend=[Key(regime, mark, filled=True) for regime, mark in REGIME_MARKS.items() if counts[regime]],
    )


def similarity(run: Run) -> Figure:
    """1 - s on a logarithmic axis that runs downwards, with the thresholds."""
    traces: list[Spec] = []
    for seed in run.seeds:
        rows = [row for row in run.of_seed[seed] if _distance(row) is not None]
        traces.append(
            curve([r.step for r in rows], [_distance(r) for r in rows], SEED_LINE, width=0.8, hoverinfo="skip")
        )
    for regime, mark in REGIME_MARKS.items():
        rows = [row for row in run.checkpoints if row.regime == regime and _distance(row) is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": regime,
                "x": [row.step for row in rows],
                "y": [_distance(row) for row in rows],
                "marker": {"color": mark.color, "symbol": mark.symbol, "size": 7},
                "customdata": [[row.seed, _similarity_text(row)] for row in rows],
                "hovertemplate": f"seed %{{customdata[0]}}, step %{{x}}<br>{regime}, %{{customdata[1]}}<extra></extra>",
            }
        )
    lines = [line_at(1 - tau, dash="dash", color="@ink") for tau in run.thresholds or ()]
    view = grid(
        [Panel("", traces, lines)],
        Axis("training step"),
        Axis("1 − similarity", {"type": "log", "autorange": "reversed", "exponentformat": "power", "dtick": 1}),
        columns=1,
        height_px=300,
    )
    bad = sum(row.similarity is not None and not math.isfinite(row.similarity) for row in run.checkpoints)
    cut = (
        f"Dashed: the thresholds, {run.thresholds[0]:.7g} and {run.thresholds[1]:.8g}; stable lies above both."
        if run.thresholds
        else f"The cut points ({plain(run.setting('regimes.thresholds', 'unknown'))}) are no two constant similarities."
    )
    shown = [row.similarity for row in run.checkpoints]
    return Figure(
        "similarity",
        "Similarity of consecutive fingerprints",
        f"Higher is more alike; one decade up is ten times closer to 1. {cut} n = "
        f"{sum(s is not None for s in shown) - bad} "
        f"similarities of {seeds_text(len(run.seeds))}" + (f"; {bad} not finite, counted as chaotic." if bad else "."),
        [view],
        legend=[
            Key(name, mark) for name, mark in REGIME_MARKS.items() if any(r.regime == name for r in run.checkpoints)
        ],
    )


def losses(run: Run) -> Figure:
    """Held-out and validation loss, every seed and the mean."""
    panels = [
        Panel("Held-out (decisions read it)", _course(run, lambda row: row.heldout_loss)),
        Panel("Validation (only reported)", _course(run, lambda row: row.val_loss)),
    ]
    view = grid(panels, Axis("training step"), Axis("nats per token"), columns=2, height_px=240)
    return Figure(
        "losses",
        "Held-out and validation loss",
        "Thin lines are seeds, the thick one is their mean. The two sets share no document. n = "
        f"{seeds_text(len(run.seeds))}, {len(run.steps)} checkpoints each.",
        [view],
        legend=SEED_KEYS,
    )


def updates(run: Run) -> Figure:
    """The share of the optimizer's updates that survived being stored, and how far the weights moved along them."""
    panels = [
        Panel("Weights that changed, of those meant to", _course(run, lambda row: row.update_survival)),
        Panel("Movement along the intended update", _course(run, lambda row: row.update_projection), [line_at(1)]),
    ]
    return Figure(
        "updates",
        "Updates that survive being stored",
        f"Weights in {stored_as(run)}; of a sample of them, in the step that led to each checkpoint. Left: where an "
        "update is below half the distance to the next number, rounding to nearest stores the old weight again. "
        "Right: 1 is as meant, in the mean at least; 0 is no movement. "
        f"n = {seeds_text(len(run.seeds))}.",
        [grid(panels, Axis("training step"), Axis("share", {"rangemode": "tozero"}), columns=2, height_px=230)],
        legend=SEED_KEYS,
    )


def signals(run: Run, correlation: Correlation) -> Figure:
    """Straightness and, where it was recorded, the local Lyapunov exponent with its correlation to the similarity."""
    title = "Straightness and Lyapunov exponent"
    offered = {"straightness": ("cosine", "straightness"), "Lyapunov exponent": ("per step", "lyapunov")}
    views = []
    for label, (unit, name) in offered.items():
        if any(getattr(row, name) is not None for row in run.checkpoints):
            panel = Panel("", _course(run, operator.attrgetter(name)), [line_at(0)])
            y = Axis(unit, {"rangemode": "tozero"})
            views.append(grid([panel], Axis("training step"), y, columns=1, height_px=230, choice=(label,)))
    if not views:
        return Figure("signals", title, "", why="neither signal was recorded")
    drawn = [view.choice[0] for view in views]
    about = "Straightness 1: the weights moved on in the same direction; 0: at a right angle. "
    about += "" if "straightness" in drawn else "Straightness was not recorded. "
    if "Lyapunov exponent" in drawn:
        about += f"A positive exponent: two nearby copies of the run drift apart. {_rank_correlation(correlation)} "
    else:
        about += "The local Lyapunov exponent was not recorded (observe.lyapunov). "
    controls = {"signal": drawn} if len(drawn) > 1 else {}
    return Figure("signals", title, f"{about}n = {seeds_text(len(run.seeds))}.", views, controls, SEED_KEYS)


def _rank_correlation(found: Correlation) -> str:
    if found.rho is None:
        return f"Its rank correlation with the similarity cannot be said: {found.reason}."
    if found.low is None or found.high is None:
        return f"Its rank correlation with the similarity is {found.rho:.2f} (no interval: {found.reason})."
    clear = verdict(found.low, found.high, found.seeds)
    doubt = "" if clear else ", cannot say that there is any"
    interval = f"95 % {found.low:.2f} to {found.high:.2f}"
    return f"Its rank correlation with the similarity is {found.rho:.2f} ({interval}, n = {found.n}{doubt})."


def _course(run: Run, value: Callable[[Checkpoint], float | None]) -> list[Spec]:
    traces = []
    for seed in run.seeds:
        rows = run.of_seed[seed]
        hover = f"seed {seed}, step %{{x}}: %{{y:.4f}}<extra></extra>"
        traces.append(
            curve([r.step for r in rows], [value(r) for r in rows], SEED_LINE, width=0.9, hovertemplate=hover)
        )
    means = [_mean([value(row) for row in run.checkpoints if row.step == step]) for step in run.steps]
    hover = "mean, step %{x}: %{y:.4f}<extra></extra>"
    return [*traces, curve(run.steps, means, MEAN_LINE, width=2.4, hovertemplate=hover)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(known) if known else None


def _interval(run: Run) -> int:
    gaps = [b - a for a, b in zip(run.steps, run.steps[1:], strict=False)]
    return min(gaps, default=run.steps[0])


def _distance(row: Checkpoint) -> float | None:
    # A logarithmic axis has no place for 0: two equal fingerprints are shown at the rounding of float32.
    if row.similarity is None or not math.isfinite(row.similarity):
        return None
    return max(1 - row.similarity, 1e-8)


def _similarity_text(row: Checkpoint) -> str:
    if row.similarity is None:
        return "first checkpoint"
    return f"s = {row.similarity:.6f}" if math.isfinite(row.similarity) else "s is not finite"


def _pattern(mark: Mark) -> Spec:
    pattern = {
        "shape": mark.pattern,
        "bgcolor": mark.color,
        "fgcolor": "@paper",
        "fgopacity": 0.5,
        "size": 7,
        "solidity": 0.14,
    }
    return {"color": mark.color, "pattern": pattern, "line": {"width": 0}}
