"""Figures of the course of training: regimes, similarity, losses, straightness, Lyapunov exponent."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable

from leapverify.analysis.study.skill import Correlation
from leapverify.analysis.wording import counted, verdict
from leapverify.io.records import Checkpoint
from leapverify.report.kit.panels import Axis, Figure, FigureView, LegendKey, Panel, Spec, axis_title, chart, grid
from leapverify.report.kit.run import Run, stored_as
from leapverify.report.kit.theme import REGIME_MARKS, Mark, plain
from leapverify.report.kit.traces import curve, horizontal_bars, line_at, markers, mean_of_known
from leapverify.report.kit.words import words

SEED_LINE = Mark("@muted", "circle", "solid")
MEAN_LINE = Mark("@ink", "circle", "solid")
SEED_KEYS = (LegendKey("one seed", SEED_LINE), LegendKey("mean over seeds", MEAN_LINE))
STEPS = Axis("training step")


def regimes(run: Run) -> Figure:
    """The regime strip: one row per seed, one cell per checkpoint."""
    width = min((b - a for a, b in itertools.pairwise(run.steps)), default=run.steps[0])
    counts = {regime: sum(row.regime == regime for row in run.checkpoints) for regime in REGIME_MARKS}
    layout = chart(
        34 * len(run.seeds) + 70,
        {"l": 64, "r": 14, "t": 8, "b": 48},
        {"title": axis_title("training step"), "range": [0, run.steps[-1]], "ticks": "outside", "gridcolor": "@grid"},
        {"autorange": "reversed", "ticklabelstandoff": 6},
        barmode="overlay",
        bargap=0.14,
        uniformtext={"mode": "hide", "minsize": 7},
    )
    return words("study").figure(
        "regimes",
        [FigureView((), [_strip(run, regime, mark, width) for regime, mark in REGIME_MARKS.items()], layout, layout)],
        legend=[LegendKey(regime, mark, filled=True) for regime, mark in REGIME_MARKS.items() if counts[regime]],
        checkpoints=len(run.checkpoints),
        seeds=counted(len(run.seeds), "seed"),
        total=", ".join(f"{count} {regime}" for regime, count in counts.items() if count),
    )


def _strip(run: Run, regime: str, mark: Mark, width: int) -> Spec:
    rows = [row for row in run.checkpoints if row.regime == regime]
    pattern = {"shape": mark.pattern, "bgcolor": mark.color, "fgcolor": "@paper", "fgopacity": 0.5, "size": 7,
               "solidity": 0.14}  # fmt: skip
    return horizontal_bars(
        [width] * len(rows),
        [f"seed {row.seed}" for row in rows],
        [mark.letter] * len(rows),
        name=regime,
        base=[row.step - width for row in rows],
        textposition="inside",
        textangle=0,
        insidetextanchor="middle",
        insidetextfont={"color": "@paper", "size": 12, "weight": "bold"},
        customdata=[_similarity_text(row) for row in rows],
        hovertemplate=f"%{{y}}, step %{{base}} + {width}<br>{regime}, %{{customdata}}<extra></extra>",
        marker={"color": mark.color, "pattern": pattern, "line": {"width": 0}},
    )


def similarity(run: Run) -> Figure:
    """1 - s on a logarithmic axis that runs downwards, with the thresholds."""
    known = {seed: [row for row in rows if _distance(row) is not None] for seed, rows in run.of_seed.items()}
    traces = [
        curve([r.step for r in rows], [_distance(r) for r in rows], SEED_LINE, width=0.8, hoverinfo="skip")
        for rows in known.values()
    ]
    for regime, mark in REGIME_MARKS.items():
        rows = [row for row in run.checkpoints if row.regime == regime and _distance(row) is not None]
        hover = f"seed %{{customdata[0]}}, step %{{x}}<br>{regime}, %{{customdata[1]}}<extra></extra>"
        said = [[row.seed, _similarity_text(row)] for row in rows]
        heights = [_distance(row) for row in rows]
        traces.append(
            markers([row.step for row in rows], heights, mark, regime, 7, customdata=said, hovertemplate=hover)
        )
    lines = [line_at(1 - tau, dash="dash", color="@ink") for tau in run.thresholds or ()]
    y = Axis("1 − similarity", {"type": "log", "autorange": "reversed", "exponentformat": "power", "dtick": 1})
    low, high = run.thresholds or (None, None)
    occurring = {row.regime for row in run.checkpoints}
    shown = [row.similarity for row in run.checkpoints if row.similarity is not None]
    bad = sum(not math.isfinite(value) for value in shown)
    return words("study").figure(
        "similarity",
        [grid([Panel("", traces, lines)], STEPS, y, columns=1, height_px=300)],
        legend=[LegendKey(name, mark) for name, mark in REGIME_MARKS.items() if name in occurring],
        cut=words("study").say(
            "similarity",
            "constant" if run.thresholds else "moving",
            low=low,
            high=high,
            thresholds=plain(run.setting("regimes.thresholds", "unknown")),
        ),
        n=len(shown) - bad,
        seeds=counted(len(run.seeds), "seed"),
        bad=f"; {bad} not finite, counted as chaotic" if bad else "",
    )


def losses(run: Run) -> Figure:
    """Held-out and validation loss, every seed and the mean."""
    panels = [
        Panel("Held-out (decisions read it)", _course(run, "heldout_loss")),
        Panel("Validation (only reported)", _course(run, "val_loss")),
    ]
    view = grid(panels, STEPS, Axis("nats per token"), columns=2, height_px=240)
    seeds = counted(len(run.seeds), "seed")
    return words("study").figure("losses", [view], legend=SEED_KEYS, seeds=seeds, checkpoints=len(run.steps))


def updates(run: Run) -> Figure:
    """The share of the optimizer's updates that survived being stored, and how far the weights moved along them."""
    panels = [
        Panel("Weights that changed, of those meant to", _course(run, "update_survival")),
        Panel("Movement along the intended update", _course(run, "update_projection"), [line_at(1)]),
    ]
    view = grid(panels, STEPS, Axis("share", {"rangemode": "tozero"}), columns=2, height_px=230)
    seeds = counted(len(run.seeds), "seed")
    return words("study").figure("updates", [view], legend=SEED_KEYS, stored=stored_as(run), seeds=seeds)


def signals(run: Run, correlation: Correlation) -> Figure:
    """Straightness and, where it was recorded, the local Lyapunov exponent with its correlation to the similarity."""
    offered = {"straightness": ("cosine", "straightness"), "Lyapunov exponent": ("per step", "lyapunov")}
    views, said = [], {}
    for label, (unit, name) in offered.items():
        there = any(getattr(row, name) is not None for row in run.checkpoints)
        about = _rank_correlation(correlation)
        said[name] = words("study").say("signals", name if there else f"no_{name}", correlation=about)
        if there:
            panel, y = Panel("", _course(run, name), [line_at(0)]), Axis(unit, {"rangemode": "tozero"})
            views.append(grid([panel], STEPS, y, columns=1, height_px=230, choice=(label,)))
    if not views:
        return words("study").empty("signals", "neither signal was recorded")
    controls = {"signal": [view.choice[0] for view in views]} if len(views) > 1 else {}
    seeds = counted(len(run.seeds), "seed")
    return words("study").figure("signals", views, controls=controls, legend=SEED_KEYS, seeds=seeds, **said)


def _rank_correlation(found: Correlation) -> str:
    doubt = "" if verdict(found.low, found.high, found.seeds) else ", cannot say that there is any"
    known = "unknown" if found.rho is None else "no_interval" if found.low is None else "correlation"
    return words("study").say("signals", known, rho=found.rho, low=found.low, high=found.high, n=found.n, doubt=doubt,
                              reason=found.reason)  # fmt: skip


def _course(run: Run, name: str) -> list[Spec]:
    """One field of the checkpoints along each seed, and its mean over the seeds."""
    value: Callable[[Checkpoint], float | None] = operator.attrgetter(name)
    traces = []
    for seed, rows in run.of_seed.items():
        hover = f"seed {seed}, step %{{x}}: %{{y:.4f}}<extra></extra>"
        traces.append(curve([r.step for r in rows], list(map(value, rows)), SEED_LINE, width=0.9, hovertemplate=hover))
    means = [mean_of_known([value(row) for row in run.checkpoints if row.step == step]) for step in run.steps]
    hover = "mean, step %{x}: %{y:.4f}<extra></extra>"
    return [*traces, curve(run.steps, means, MEAN_LINE, width=2.4, hovertemplate=hover)]


def _distance(row: Checkpoint) -> float | None:
    # A logarithmic axis has no place for 0: two equal fingerprints are shown at the rounding of float32.
    if row.similarity is None or not math.isfinite(row.similarity):
        return None
    return max(1 - row.similarity, 1e-8)


def _similarity_text(row: Checkpoint) -> str:
    if row.similarity is None:
        return "first checkpoint"
    return f"s = {row.similarity:.6f}" if math.isfinite(row.similarity) else "s is not finite"
