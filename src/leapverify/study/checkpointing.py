"""What a seed writes at its checkpoints, and how it goes on from there (SPEC 6.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from leapverify.core.partition import partitioned_like
from leapverify.core.shards import local
from leapverify.core.weights import copy_
from leapverify.errors import Damaged
from leapverify.io.storage import save_tensors
from leapverify.landscape.lyapunov import Shadow
from leapverify.study.apparatus import Apparatus, build, open_corpus
from leapverify.study.async_writer import Writer
from leapverify.study.checkpoint_files import files_of
from leapverify.study.folder import Rows, SeedFolder, keep_only
from leapverify.train.sharded_folder import holds
from leapverify.train.state import (
    load_state,
    snapshot_path,
    snapshot_steps,
    state_tensors,
)
from leapverify.trajectory.state import packed, unpack


@dataclass(frozen=True)
class Resumed:
    """Where a seed goes on; model, optimizer, history and random streams stand there already."""

    step: int
    rows: Rows
    fingerprints: dict[int, Tensor]
    elapsed_s: float


class Saver:
    """Writes snapshots, states and rows of one seed, lets go of what no resume needs, and resumes.

    Where saves overlap training, the tensors are copied and a checkpoint is written while the next interval is trained,
    in the same order as without: weights, state, rows. At most one is in flight. An error of the writer is raised by
    the next save. Use it as a context manager, whose end waits for what is in flight.

    Args:
        apparatus: what is saved and put back.
        folder: the seed's.
        shadow: the perturbed copy, where one runs alongside.
        note: is told what the user should know.
        overlap: whether saves overlap training, for which the memory plan must have room.
    """

    def __init__(
        self,
        apparatus: Apparatus,
        folder: SeedFolder,
        shadow: Shadow | None,
        note: Callable[[str], None],
        *,
        overlap: bool = False,
    ) -> None:
        self._a, self._folder, self._shadow, self._note = apparatus, folder, shadow, note
        self._kept, self._retention = apparatus.config.snapshots, apparatus.config.retention
        self._interval = apparatus.config.observe.interval_steps
        self._writer, self._files = Writer(overlap), files_of(apparatus)
        self._work: list[Callable[[], object]] = []
        """What is to be written of the checkpoint before its rows."""
        self._stop: int | None = None
        """The step of the newest state that was written because the run was told to stop there."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def holds_state(self, number: int) -> bool:
        """Whether a stopped seed can go on from checkpoint `number`, counted from 1."""
        return self._retention.has_state(number)

    def save(self, step: int, number: int, *, stop: bool = False) -> None:
        """Take the tensors of checkpoint `number`, which `commit` writes.

        Args:
            step: of the checkpoint.
            number: counted from 1.
            stop: write a state whatever `snapshots.every` says: the run is to stop here.

        Raises:
            NotWritten: the disk was full for the checkpoint before, or the folder could not be written.
        """
        self._writer.wait()
        a, self._work = self._a, []
        holds = self.holds_state(number)
        if stop and not holds:
            self._stop = step
            self._complete_ring()
        if stop or self._retention.has_snapshot(number):
            weights = self._writer.taken("weights", dict(a.parameters))
            path = snapshot_path(self._folder.snapshots, step)
            self._work.append(partial(self._files.write, path, weights, step=step))
        if not (stop or holds):
            return
        if (rest := packed(a.history, self._interval)) is not None:
            kept = self._writer.taken("remembered", self._files.remembered(rest[0]))
            path = snapshot_path(self._folder.remembered, step)
            self._work.append(partial(self._files.write, path, kept, state=rest[1], step=step))
        # Last of all, since it is what a resume looks for.
        state = self._writer.taken("state", self._files.state())
        self._work.append(partial(self._files.write, snapshot_path(self._folder.states, step), state, step=step))
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            tensors = state_tensors(self._shadow.model, self._shadow.optimizer)
            self._work.append(partial(save_tensors, path, self._writer.taken("shadow", tensors), step=step))

    def _complete_ring(self) -> None:
        """Write the snapshots of the history that were not to be kept: a state is about to need them.

        They hold what the history holds: the tensors that predictions move, in its precision.
        """
        a = self._a
        for snapshot in list(a.history)[:-1]:
            path = snapshot_path(self._folder.snapshots, snapshot.step)
            if not self._files.on_rank0("kept snapshot", partial(holds, path)):
                pairs = zip(a.moved.items(), snapshot.tensors, strict=True)
                tensors = {name: partitioned_like(each, parameter) for (name, parameter), each in pairs}
                self._files.write(path, tensors, step=snapshot.step)

    def commit(self, rows: Rows, fingerprints: dict[int, Tensor]) -> None:
        """Write what `save` has taken, then the rows, and let go of what a resume does not need any more.

        Raises:
            NotWritten: as for `save`; without overlap, of this checkpoint.
        """
        work, self._work = self._work, []
        self._writer.start(partial(self._write, work, rows.copy(), dict(fingerprints)))

    def _write(self, work: list[Callable[[], object]], rows: Rows, fingerprints: dict[int, Tensor]) -> None:
        for each in work:
            each()
        self._files.on_rank0("rows", partial(self._write_rows, rows, fingerprints))

    def _write_rows(self, rows: Rows, fingerprints: dict[int, Tensor]) -> None:
        self._folder.write_fingerprints(fingerprints, self._a.fingerprinter.identity)
        self._folder.write_rows(rows)
        steps = [row.step for row in rows.checkpoints]
        snapshots, states = self._retention.needed_to_resume(steps, self._stop)
        if self._kept.weights == "last":
            keep_only(self._folder.snapshots, snapshots)
        if self._kept.optimizer == "last":
            keep_only(self._folder.states, states)
        keep_only(self._folder.path / "shadow", states)
        keep_only(self._folder.remembered, states)

    def resume(self) -> Resumed | None:
        """Put back the newest whole state and everything that led to it.

        Returns: None where there is none; model and optimizer are then untrained, a shadow is to be made anew.
        """
        try:
            rows = self._files.on_rank0("rows so far", self._folder.read_rows)
        except Damaged as error:
            self._note(f"{error}; this seed begins again")
            return None
        recorded, tried = {row.step for row in rows.checkpoints}, False
        for step in reversed(self._files.on_rank0("states", partial(snapshot_steps, self._folder.states))):
            if step not in recorded:
                continue
            tried = True
            try:
                found = self._restored(step, rows.until(step))
            except Damaged as error:
                self._note(f"{error}; going back to an earlier checkpoint")
                self._a.history.reset()
                continue
            if not self.holds_state(step // self._interval):
                self._stop = step
            self._note(f"going on from step {step}")
            return found
        if rows.checkpoints:
            self._note("no checkpoint is whole: beginning again" if tried else "no state was kept: beginning again")
        if tried:
            self._begin_anew()
        return None

    def _begin_anew(self) -> None:
        """The untrained state, which a file that was read before a damaged one may have changed."""
        a = self._a
        fresh = build(a.config, a.seed, str(a.device), open_corpus(a.config), a.ranks)
        for ours, theirs in ((a.model.parameters, fresh.model.parameters), (a.model.buffers, fresh.model.buffers)):
            copy_([local(each) for each in ours()], [local(each) for each in theirs()])
        a.optimizer.state.clear()
        torch.manual_seed(a.seed if a.spread is None else a.spread.ranks.stream_seed(a.seed))

    def _restored(self, step: int, rows: Rows) -> Resumed:
        a, steps = self._a, [row.step for row in rows.checkpoints]
        weights: dict[str, Tensor] = {}
        for earlier in steps[-a.history.length :]:
            weights = self._files.read_snapshot(self._folder.snapshots, earlier)
            a.history.push(earlier, [weights[name] for name in a.moved])
        path = snapshot_path(self._folder.remembered, step)
        unpack(partial(self._files.read_remembered, path), a.history, self._interval)
        fingerprints = self._read_fingerprints(steps)
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            load_state(path, self._shadow.model, self._shadow.optimizer)
        # Last, for it sets the random streams.
        self._files.read_state(snapshot_path(self._folder.states, step), weights)
        known = {at: value for at, value in fingerprints.items() if at <= step}
        return Resumed(step, rows, known, rows.checkpoints[-1].elapsed_s)

    def _read_fingerprints(self, steps: list[int]) -> dict[int, Tensor]:
        """The fingerprints so far; taken again from the snapshots where their file is damaged.

        Raises:
            Damaged: neither the file nor every snapshot is whole.
        """
        try:
            return self._files.on_rank0("fingerprints so far", self._folder.read_fingerprints)
        except Damaged as error:
            a = self._a
            untrained = build(a.config, a.seed, str(a.device), open_corpus(a.config), a.ranks)
            found = {0: untrained.fingerprinter()}
            held = [local(each) for each in untrained.parameters.values()]
            for step in steps:
                weights = self._files.read_snapshot(self._folder.snapshots, step)
                copy_(held, [weights[name] for name in untrained.parameters])
                found[step] = untrained.fingerprinter()
            self._note(f"{error}; the fingerprints are taken again from the snapshots")
            # At once: a seed that stands at its end commits no more.
            self._files.on_rank0(
                "fingerprints again", lambda: self._folder.write_fingerprints(found, a.fingerprinter.identity)
            )
            return found
