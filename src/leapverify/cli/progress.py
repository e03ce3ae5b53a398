"""Watching a study or a race: a live view with a bar per seed, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leapverify.io.untrusted.escape import inert
from leapverify.runs.progress import Progress, RaceProgress

REGIME_STYLES = {"chaotic": "bold red", "transition": "yellow", "stable": "green", "unknown": "dim"}


class View(Protocol):
    """Something that shows progress while it is entered."""

    def __enter__(self) -> Self:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop showing."""

    def update(self, progress: Progress) -> None:
        """Take in where one seed stands."""


def view(console: Console, seeds: tuple[int, ...], steps: int) -> View:
    """The live view on a terminal, plain lines elsewhere."""
    return LiveView(console, seeds, steps) if console.is_terminal else PlainView(console)


class PlainView:
    """One line a checkpoint."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace

    def update(self, progress: Progress) -> None:
        """Print checkpoints, ends and notes."""
        if progress.note:
            self._print(f"{progress.whose}: {progress.note}")
        if progress.phase == "checkpoint":
            speed = f"  {progress.steps_per_s:.1f} steps/s" if progress.steps_per_s else ""
            self._print(
                f"{progress.whose}  step {progress.step}/{progress.steps}  loss {_number(progress.loss, '.4f')}  "
                f"similarity {_number(progress.similarity, '.6f')}  {progress.regime}{speed}"
            )
        if progress.phase == "done":
            self._print(f"{progress.whose}  done")

    def _print(self, line: str) -> None:
        self._console.print(inert(line), markup=False, highlight=False, soft_wrap=True)


class LiveTable:
    """A table that is drawn anew while it is entered; already its making draws it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        self._live.stop()

    def table(self) -> Table:
        """The present state as a table."""
        raise NotImplementedError


class LiveView(LiveTable):
    """A bar per seed with loss, similarity, regime, speed and time left."""

    def __init__(self, console: Console, seeds: tuple[int, ...], steps: int) -> None:
        self._steps = steps
        waiting = [Progress(seed, 0, steps, "waiting") for seed in seeds]
        self._latest: dict[str, Progress] = {each.whose: each for each in waiting}
        self._started: dict[str, tuple[float, int]] = {}
        super().__init__(console)

    def update(self, progress: Progress) -> None:
        """Keep the latest of every seed; notes stay above the table."""
        who = progress.whose
        if progress.study and not all(each.study for each in self._latest.values()):
            # Of several studies there may be more seeds than lines: each is there from its beginning to its end.
            self._latest.clear()
        before = self._latest.get(who, Progress(progress.seed, 0, progress.steps, "waiting"))
        if who not in self._started or progress.step < before.step:
            self._started[who] = (time.monotonic(), progress.step)
        self._latest[who] = Progress(
            progress.seed,
            progress.step,
            progress.steps,
            progress.phase,
            progress.loss if progress.loss is not None else before.loss,
            progress.similarity if progress.similarity is not None else before.similarity,
            progress.regime or before.regime,
            progress.steps_per_s or before.steps_per_s,
            study=progress.study,
        )
        if progress.study and progress.phase in ("done", "note"):
            del self._latest[who]
        if progress.note:
            self._console.print(inert(f"{who}: {progress.note}"), markup=False, highlight=False)

    def table(self) -> Table:
        """The present state as a table."""
        table = Table(box=None, pad_edge=False)
        for heading in ("seed", "", "step", "loss", "similarity", "regime", "steps/s", "left"):
            table.add_column(heading, justify="left" if heading in ("", "regime") else "right", no_wrap=True)
        for who, progress in self._latest.items():
            regime = progress.regime or progress.phase
            table.add_row(
                Text(inert(who.removeprefix("seed "))),
                ProgressBar(total=progress.steps, completed=progress.step, width=24),
                f"{progress.step}/{progress.steps}",
                _number(progress.loss, ".4f"),
                _number(progress.similarity, ".6f"),
                Text(inert(regime), style=REGIME_STYLES.get(regime, "")),
                _number(progress.steps_per_s, ".1f"),
                self._time_left(progress),
            )
        return table

    def _time_left(self, progress: Progress) -> str:
        # Over all the work so far, sweeps and cascades included, not over training alone.
        started, first = self._started.get(progress.whose, (0.0, progress.step))
        return _left(progress.phase, started, progress.step - first, progress.steps - progress.step)


def race_view(console: Console) -> View:
    """The live view of a race on a terminal, plain lines elsewhere."""
    return LiveRace(console) if console.is_terminal else PlainRace(console)


class PlainRace(PlainView):
    """One line a training run."""

    def update(self, progress: Progress) -> None:
        """Print finished runs, ends and notes."""
        if progress.note:
            self._print(f"{progress.whose}: {progress.note}")
        if not isinstance(progress, RaceProgress):  # Of an executor, about a task that has not said a word yet.
            return
        if progress.phase == "unit":
            loss = "" if progress.loss is None else f"  loss {progress.loss:.4f}"
            self._print(
                f"{progress.stage}  seed {progress.seed}  run {progress.step}/{progress.steps}  {progress.what}{loss}"
            )
        if progress.phase == "done":
            self._print(f"{progress.stage}  seed {progress.seed}  done")


class LiveRace(LiveTable):
    """A bar per seed with its stage, the run that is going on, the last reported loss and the time left."""

    def __init__(self, console: Console) -> None:
        self._latest: dict[int, RaceProgress] = {}
        self._started: dict[int, tuple[float, float]] = {}
        super().__init__(console)

    def update(self, progress: Progress) -> None:
        """Keep the latest of every seed; notes stay above the table."""
        if progress.note or not isinstance(progress, RaceProgress):
            self._console.print(inert(f"{progress.whose}: {progress.note}"), markup=False, highlight=False)
            return
        before = self._latest.get(progress.seed)
        if before is not None and progress.step < before.step:
            self._started.pop(progress.seed, None)
        self._latest[progress.seed] = progress
        # What lay there from an earlier call takes no time: counting begins with the first run that is trained.
        if progress.phase == "train":
            self._started.setdefault(progress.seed, (time.monotonic(), progress.step))

    def table(self) -> Table:
        """The present state as a table."""
        table = Table(box=None, pad_edge=False)
        for heading in ("stage", "seed", "", "run", "training", "loss", "left"):
            table.add_column(heading, justify="left" if heading in ("stage", "", "training") else "right", no_wrap=True)
        for seed, progress in self._latest.items():
            table.add_row(
                progress.stage,
                str(seed),
                ProgressBar(total=progress.steps, completed=progress.step + progress.share, width=24),
                f"{progress.step}/{progress.steps}",
                Text(inert(progress.what)),
                _number(progress.loss, ".4f"),
                self._time_left(progress),
            )
        return table

    def _time_left(self, progress: RaceProgress) -> str:
        done = progress.step + progress.share
        started, first = self._started.get(progress.seed, (0.0, done))
        return _left(progress.phase, started, done - first, progress.steps - done)


def _left(phase: str, started: float, done: float, to_do: float) -> str:
    """Minutes and seconds that the rest takes at the pace so far."""
    if phase == "done":
        return "done"
    if done <= 0:
        return "–"
    seconds = (time.monotonic() - started) / done * to_do
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
