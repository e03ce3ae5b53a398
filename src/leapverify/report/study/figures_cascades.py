"""The figure of the cascades: loss along the links, beside hold and beside the run itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean

from leapverify.analysis.over_seeds import OverSeeds, summarise
from leapverify.io.records import CascadeLink
from leapverify.report.kit.panels import Axis, Figure, Key, Panel, Spec, grid
from leapverify.report.kit.run import seeds_text
from leapverify.report.kit.theme import series_mark
from leapverify.report.study.analysis import Analysis
from leapverify.report.study.figures_predict import with_marks

CONTROL = "hold"
"""As a trained cascade it predicts nothing, yet its schedule jumps and it trains: what is left is the prediction."""
NO_CONTROL = "hold was not run as a trained cascade in this run"
Start = tuple[int, int, int, int, int]
"""(seed, step, depth, horizon, link)."""


def start_of(row: CascadeLink) -> Start:
    """What names a link but its kind and predictor."""
    return row.seed, row.step, row.depth, row.horizon, row.link


def hold_losses(rows: Iterable[CascadeLink]) -> Mapping[Start, float]:
    """Losses of hold's trained cascades, to pair others with; empty where none was run."""
    chosen = (row for row in rows if row.kind == "trained" and row.predictor == CONTROL)
    return {start_of(row): row.loss for row in chosen if row.loss is not None and math.isfinite(row.loss)}


def over_starts(
    rows: Sequence[CascadeLink], value: Callable[[CascadeLink], float | None], missing: str = "no value"
) -> OverSeeds:
    """A value's mean over the starts of each seed, summarised over seeds; n counts starts."""
    known: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        found = value(row)
        if found is not None and math.isfinite(found):
            known[row.seed].append(found)
    return summarise({seed: fmean(v) for seed, v in known.items()}, n=sum(map(len, known.values())), missing=missing)


def difference(loss: float | None, other: float | None) -> float | None:
    """loss - other, where both exist and are finite."""
    if loss is None or other is None or not (math.isfinite(loss) and math.isfinite(other)):
        return None
    return loss - other


TITLE = "Predictions upon predictions"
LABELS = (
    "cascade",
    "hold: the same without prediction (trained)",
    "the run itself after as many real steps",
    "the run itself at the step claimed",
)


def cascades(analysis: Analysis) -> Figure:
    """Loss along the links of each cascade, one state per predictor."""
    rows = analysis.run.cascades
    if not rows:
        why = "no cascade was run: cascades start from stable checkpoints, or were switched off"
        return Figure("cascades", TITLE, "", why=why)
    names = [name for name in dict.fromkeys(row.predictor for row in rows) if name != CONTROL] or [CONTROL]
    shapes = sorted({(row.kind, row.depth, row.horizon) for row in rows})
    hold, views = hold_losses(rows), []
    for name in names:
        panels = []
        for kind, depth, horizon in shapes:
            chosen = [r for r in rows if (r.predictor, r.kind, r.depth, r.horizon) == (name, kind, depth, horizon)]
            if chosen:
                panels.append(Panel(f"{kind}, {depth} × {horizon}", _links(chosen, kind, hold)))
        axis = Axis("loss change", {"tickformat": ".3~g"})
        links = Axis("link", {"dtick": 2})
        views.append(grid(panels, links, axis, columns=3, narrow_columns=1, height_px=150, choice=(name,)))
    trained = any(row.kind == "trained" for row in rows)
    shown = [index for index in range(len(LABELS)) if hold or index != 1]
    return Figure(
        "cascades",
        TITLE,
        _caption(rows, trained, bool(hold)),
        views,
        {"predictor": names} if len(names) > 1 else {},
        [Key(LABELS[index], series_mark(index)) for index in shown],
    )


def _caption(rows: Sequence[CascadeLink], trained: bool, hold: bool) -> str:
    starts = len({(row.seed, row.step) for row in rows})
    text = (
        "Held-out loss minus the loss at the start, mean over the starts of each seed, then over seeds (bars: 95 % "
        "interval over seeds); below 0 is better than not having begun. chained: each link predicts from the last "
        "prediction; trained: each link predicts K steps and then trains K real ones. That a cascade lies below the "
        "run's own loss after as many real steps is necessary, not sufficient: a trained cascade also advances the "
        "schedule, and a lower learning rate alone lowers the loss. "
    )
    if trained:
        text += "The decisive control of trained is hold: the same jump of the schedule without a prediction"
        text += "; point at a mark for the difference. " if hold else f", but {NO_CONTROL}: nothing follows from it. "
    count = seeds_text(len({row.seed for row in rows}))
    return f"{text}Panels: links × K. n = {starts} starts in {count}; below, in numbers."


def _links(rows: Sequence[CascadeLink], kind: str, hold: Mapping[Start, float]) -> list[Spec]:
    series: list[tuple[int, str, Callable[[CascadeLink], float | None]]] = [
        (0, "cascade", lambda row: row.loss),
        (2, "run after as many real steps", lambda row: row.loss_same_real_steps),
        (3, "run at the step claimed", lambda row: row.loss_same_effective_step),
    ]
    if hold and kind == "trained":
        series.insert(1, (1, "hold", lambda row: hold.get(start_of(row))))
    traces = []
    for index, label, loss in series:
        cells, text = [], []
        for link in sorted({row.link for row in rows}):
            here = [row for row in rows if row.link == link]
            found = over_starts(here, lambda row, loss=loss: difference(loss(row), row.loss_start))  # type: ignore[misc]
            if found.mean is None:
                continue
            # Only the cascade has its interval drawn; the lines beside it are paired with it start by start.
            ends = (found.low, found.high) if index == 0 else (None, None)
            cells.append((link, found.mean, *ends))
            lost = len(here) - found.n
            said = f"{label}, {kind}, link {link}<br>{found.mean:+.4g}, n = {found.n} starts, seeds: {found.seeds}"
            said += f", {lost} without" if lost else ""
            text.append(said + (_beside(here, hold) if index == 0 and kind == "trained" else ""))
        traces.append(with_marks(cells, series_mark(index), label, text))
    return traces


def _beside(rows: Sequence[CascadeLink], hold: Mapping[Start, float]) -> str:
    found = over_starts(rows, lambda row: difference(row.loss, hold.get(start_of(row))))
    if found.mean is None:
        return ""
    ends = f" (95 % {found.low:+.4g} to {found.high:+.4g})" if found.low is not None and found.high is not None else ""
    return f"<br>against hold {found.mean:+.4g}{ends}"
