"""The bench of one seed, resumable at every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from leapverify.bench.checkpoint import Bench, Tried
from leapverify.bench.options import BenchOptions
from leapverify.bench.results import BenchRows, BenchSeed
from leapverify.config.resolved import Resolved
from leapverify.errors import Damaged
from leapverify.io.manifest import sweep_leftovers
from leapverify.io.records import Checkpoint
from leapverify.runs import Deadline, StudyError, exclusive
from leapverify.runs.environment import threads_of
from leapverify.runs.progress import Progress, Watcher
from leapverify.study.apparatus import Apparatus, build, open_corpus
from leapverify.study.folder import SeedFolder
from leapverify.study.record import require_time
from leapverify.study.replay import Replay
from leapverify.study.source import SeedTrajectory
from leapverify.study.sweep import SweepPoint
from leapverify.verify import recent_sigma


class Walk:
    """Goes along one seed's run so that every checkpoint is benched from the state that was recorded.

    Between checkpoints the run's own steps are trained, so that predictors find the single steps before each of them.
    Where another machine has led elsewhere, the recorded state is put in (the single steps before it are then this
    machine's); where a snapshot is damaged, the state that the same steps have led to stands in for it.

    Args:
        apparatus: the seed's, untrained.
        source: what it recorded, with a state for each checkpoint.
        note: is told what the user should know.
    """

    def __init__(self, apparatus: Apparatus, source: SeedTrajectory, note: Callable[[str], None]) -> None:
        self._a, self._source, self._note = apparatus, source, note
        self._replay = Replay(apparatus, source)
        self.repeated: set[int] = set()
        """Checkpoints reached bit by bit."""
        self.loaded: set[int] = set()
        """Checkpoints whose recorded state was put in."""

    @property
    def at(self) -> int:
        """The step at which the run stands."""
        return self._replay.at or 0

    def go_on(self, steps: int) -> None:
        """So many real steps."""
        self._replay.go_on(self.at + steps)

    def arrive(self, step: int) -> None:
        """Stand at a checkpoint as it was recorded, with it in the history; trains up to it what is still to be.

        Raises:
            StudyError: another state was reached than was recorded, and what was recorded is damaged.
        """
        self._replay.go_on(step)
        try:
            self._compare(step, self._source.weights(step))
        except Damaged as error:
            if self.loaded:
                raise StudyError(
                    f"{error}; this machine does not repeat the run, so that it cannot stand in"
                ) from error
            self._note(f"{error}; the state that the same steps have led to stands in for it")
        self._push(step)

    def jump(self, step: int) -> None:
        """Stand at a checkpoint without training up to it; where its files are damaged, train after all."""
        try:
            self._replay.put_in(step, self._source.weights(step))
        except Damaged:
            self.arrive(step)
        else:
            self._push(step)

    def _compare(self, step: int, weights: Mapping[str, Tensor]) -> None:
        if self._replay.stands_at(weights):
            self.repeated.add(step)
            return
        if not self.loaded:
            self._note(f"the same steps lead elsewhere here than when they were recorded: step {step} is loaded")
        self.loaded.add(step)
        self._replay.put_in(step, weights)

    def _push(self, step: int) -> None:
        self._replay.push(step)
        self._a.history.optimizer = self._a.optimizer_state(step)


def bench_seed(
    watcher: Watcher,
    *,
    config: Resolved,
    options: BenchOptions,
    run: Path,
    seed: int,
    device: str,
    threads: int,
    deadline: Deadline | None = None,
) -> None:
    """Bench one seed, but for the checkpoints of which every row is there.

    Raises:
        Paused: the deadline passed; the same call goes on.
        StudyError: this machine does not repeat the run, and a recorded state is damaged.
    """
    part = BenchSeed(run, seed)
    with exclusive(part.path), threads_of(threads):
        sweep_leftovers(part.path)
        steps = config.training.steps
        rows = part.read(lambda text: watcher(Progress(seed, 0, steps, "note", note=text)))
        checkpoints = SeedFolder(run, seed).read_rows().checkpoints
        if any(options.keys - rows.done(each.step) for each in checkpoints):
            require_time(deadline, seed)
            apparatus = build(config, seed, device, open_corpus(config))
            source = SeedTrajectory(SeedFolder(run, seed), apparatus.parameters)
            SeedBench(apparatus, options, source, part, rows, watcher, deadline).run(checkpoints)
        watcher(Progress(seed, steps, steps, "done"))


class SeedBench:
    """Goes along one seed's run and benches every checkpoint.

    Args:
        apparatus: the seed's, untrained.
        options: what is benched.
        source: what the study's seed recorded.
        part: takes the rows.
        rows: those that are there already.
        watcher: is told how it gets on.
        deadline: see `bench_seed`.
    """

    def __init__(
        self,
        apparatus: Apparatus,
        options: BenchOptions,
        source: SeedTrajectory,
        part: BenchSeed,
        rows: BenchRows,
        watcher: Watcher,
        deadline: Deadline | None = None,
    ) -> None:
        self._a, self._options, self._part, self._rows = apparatus, options, part, rows
        self._watcher, self._deadline = watcher, deadline
        self._interval = apparatus.config.observe.interval_steps
        self._walk = Walk(apparatus, source, self._note)
        self._bench = Bench(apparatus, options)
        self._clock = time.perf_counter()

    def run(self, checkpoints: list[Checkpoint]) -> None:
        """Every checkpoint, oldest first; those that are whole are passed over."""
        todo = [bool(self._options.keys - self._rows.done(each.step)) for each in checkpoints]
        recent = self._a.history.recent
        # Checkpoints whose single steps a later one reads are trained up to, although they are whole.
        ahead = 0 if recent is None else (recent.length - 1) // self._interval
        for number, row in enumerate(checkpoints):
            if not any(todo[number:]):
                break
            if not any(todo[number : number + 1 + ahead]):
                self._walk.jump(row.step)
                continue
            self._walk.arrive(row.step)
            if todo[number]:
                self._checkpoint(number, checkpoints)

    def _checkpoint(self, number: int, checkpoints: list[Checkpoint]) -> None:
        row, last = checkpoints[number], number == len(checkpoints) - 1
        persist = not last and (number + 1) % self._options.persist_every == 0
        sigma = recent_sigma([each.heldout_loss for each in checkpoints[: number + 1]], self._window)
        point = SweepPoint(row.seed, row.step, row.regime, self._a.verifier.measure(), sigma)
        wanted = self._options.keys - self._rows.done(row.step)
        tried = self._bench.run(point, wanted, self._interval if persist else None)
        self._write(tried, self._real(persist))
        self._watcher(
            Progress(row.seed, row.step, checkpoints[-1].step, "checkpoint", point.now.loss, row.similarity, row.regime)
        )
        if not last:
            require_time(self._deadline, row.seed, row.step)

    def _real(self, persist: bool) -> float:
        """The run's own loss after R more steps, which are those to the next checkpoint; 0 where nobody asks."""
        if not persist:
            return 0.0
        self._walk.go_on(self._interval)
        return self._a.verifier.loss_of()

    def _write(self, tried: list[Tried], loss_real: float) -> None:
        rows, now = self._rows, time.perf_counter()
        rows.add((each.row for each in tried), (each.with_real(loss_real) for each in tried))
        rows.repeated |= self._walk.repeated
        rows.loaded |= self._walk.loaded
        rows.seconds, self._clock = rows.seconds + now - self._clock, now
        self._part.write(rows)

    @property
    def _window(self) -> int:
        return self._a.config.verify.sigma_window

    def _note(self, text: str) -> None:
        self._watcher(Progress(self._a.seed, self._walk.at, self._a.config.training.steps, "note", note=text))
