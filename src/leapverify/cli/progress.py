"""Watching a study or a race: a live table with a row for each seed, or plain lines where the output is no terminal."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leapverify.io.untrusted.escape import inert
from leapverify.runs.progress import Progress, RaceProgress

REGIME_STYLES = {"chaotic": "bold red", "transition": "yellow", "stable": "green", "unknown": "dim"}


@dataclass(frozen=True)
class LiveColumn:
    """One column of the live table."""

    heading: str
    cell: Callable[[Any], RenderableType]
    """Of where a seed stands."""
    justify: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Layout:
    """What is shown of one kind of run."""

    of: type[Progress]
    columns: Sequence[LiveColumn]
    """The time left comes behind them."""
    line: Callable[[Any], str]
    """The plain line, empty where nothing is printed."""
    timed: Callable[[Progress], bool]
    """Whether the time that work takes may be counted from here on."""
    kept: Sequence[str] = ()
    """Fields that stay in the table until they are told anew."""


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _regime(progress: Progress) -> Text:
    regime = progress.regime or progress.phase
    return Text(inert(regime), style=REGIME_STYLES.get(regime, ""))


def _study_line(progress: Progress) -> str:
    if progress.phase == "done":
        return f"{progress.whose}  done"
    if progress.phase != "checkpoint":
        return ""
    speed = f"  {progress.steps_per_s:.1f} steps/s" if progress.steps_per_s else ""
    return (
        f"{progress.whose}  step {progress.step}/{progress.steps}  loss {_number(progress.loss, '.4f')}  "
        f"similarity {_number(progress.similarity, '.6f')}  {progress.regime}{speed}"
    )


def _race_line(progress: RaceProgress) -> str:
    if progress.phase == "done":
        return f"{progress.stage}  seed {progress.seed}  done"
    if progress.phase != "unit":
        return ""
    loss = "" if progress.loss is None else f"  loss {progress.loss:.4f}"
    return f"{progress.stage}  seed {progress.seed}  run {progress.step}/{progress.steps}  {progress.what}{loss}"


_BAR = LiveColumn("", lambda each: ProgressBar(total=each.steps, completed=each.reached, width=24), "left")
_LOSS = LiveColumn("loss", lambda each: _number(each.loss, ".4f"))

STUDY = Layout(
    Progress,
    columns=(
        LiveColumn("seed", lambda each: Text(inert(each.whose.removeprefix("seed ")))),
        _BAR,
        LiveColumn("step", lambda each: f"{each.step}/{each.steps}"),
        _LOSS,
        LiveColumn("similarity", lambda each: _number(each.similarity, ".6f")),
        LiveColumn("regime", _regime, "left"),
        LiveColumn("steps/s", lambda each: _number(each.steps_per_s, ".1f")),
    ),
    line=_study_line,
    # Over all the work, sweeps and cascades included, not over training alone.
    timed=lambda _: True,
    kept=("loss", "similarity", "regime", "steps_per_s"),
)

RACE = Layout(
    RaceProgress,
    columns=(
        LiveColumn("stage", lambda each: each.stage, "left"),
        LiveColumn("seed", lambda each: str(each.seed)),
        _BAR,
        LiveColumn("run", lambda each: f"{each.step}/{each.steps}"),
        LiveColumn("training", lambda each: Text(inert(each.what)), "left"),
        _LOSS,
    ),
    line=_race_line,
    # What lay there from an earlier call takes no time: counting begins with the first run that is trained.
    timed=lambda each: each.phase == "train",
)


class PlainView:
    """Plain lines: one a checkpoint or a training run, ends and notes."""

    def __init__(self, console: Console, layout: Layout = STUDY) -> None:
        self._console, self._layout = console, layout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def update(self, progress: Progress) -> None:
        """Print what is new of one seed."""
        note = f"{progress.whose}: {progress.note}" if progress.note else ""
        # An executor's word about a task that has not told anything yet is of no kind.
        line = self._layout.line(progress) if isinstance(progress, self._layout.of) else ""
        for text in filter(None, (note, line)):
            self._console.print(inert(text), markup=False, highlight=False, soft_wrap=True)


class LiveView:
    """A table with a row for each seed, drawn anew while the view is entered.

    Args:
        console: a terminal.
        layout: of its kind of run.
        waiting: the seeds that are known before they begin.
    """

    def __init__(self, console: Console, layout: Layout, waiting: Sequence[Progress] = ()) -> None:
        self._console, self._layout = console, layout
        self._latest = {each.whose: each for each in waiting}
        self._started: dict[str, tuple[float, int]] = {}
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        del error
        self._live.stop()

    def update(self, progress: Progress) -> None:
        """Keep the latest of every seed; notes stay above the table."""
        if progress.note:
            self._console.print(inert(f"{progress.whose}: {progress.note}"), markup=False, highlight=False)
        elif isinstance(progress, self._layout.of):
            self._take(progress)

    def _take(self, progress: Progress) -> None:
        who = progress.whose
        if progress.study and not all(each.study for each in self._latest.values()):
            # Of several studies there may be more seeds than lines: each is there from its beginning to its end.
            self._latest.clear()
        before = self._latest.get(who)
        if before is not None:
            if progress.step < before.step:
                self._started.pop(who, None)
            kept = {name: getattr(before, name) for name in self._layout.kept if getattr(progress, name) is None}
            progress = dataclasses.replace(progress, **kept)
        if self._layout.timed(progress):
            self._started.setdefault(who, (time.monotonic(), progress.step))
        self._latest[who] = progress
        if progress.study and progress.phase == "done":
            del self._latest[who]

    def table(self) -> Table:
        """The present state as a table."""
        columns = (*self._layout.columns, LiveColumn("left", self._time_left))
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column.heading, justify=column.justify, no_wrap=True)
        for progress in self._latest.values():
            table.add_row(*(column.cell(progress) for column in columns))
        return table

    def _time_left(self, progress: Progress) -> str:
        """Minutes and seconds that the rest takes at the pace so far."""
        if progress.phase == "done":
            return "done"
        started, first = self._started.get(progress.whose, (0.0, progress.reached))
        if progress.reached <= first:
            return "–"
        seconds = (time.monotonic() - started) / (progress.reached - first) * (progress.steps - progress.reached)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def view(console: Console, seeds: Sequence[int], steps: int) -> LiveView | PlainView:
    """The live view of a study on a terminal, plain lines elsewhere.

    Args:
        console: where it is shown.
        seeds: of the study.
        steps: of each.
    """
    if not console.is_terminal:
        return PlainView(console, STUDY)
    return LiveView(console, STUDY, [Progress(seed, 0, steps, "waiting") for seed in seeds])


def race_view(console: Console) -> LiveView | PlainView:
    """The live view of a race on a terminal, plain lines elsewhere."""
    return LiveView(console, RACE) if console.is_terminal else PlainView(console, RACE)
