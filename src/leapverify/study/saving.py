"""What a seed writes at its checkpoints, and how it goes on from there (SPEC 6.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.storage import Damaged
from leapverify.study import remembered
from leapverify.study.folder import Rows, SeedFolder, has_state, in_a_ring, keep_only, needed_to_resume
from leapverify.study.lyapunov import Shadow
from leapverify.study.setup import Apparatus, build, open_corpus
from leapverify.train.state import (
    load_snapshot,
    load_state,
    save_snapshot,
    save_state,
    snapshot_path,
    snapshot_steps,
)
from leapverify.weights import copy_


@dataclass(frozen=True)
class Resumed:
    """Where a seed goes on; model, optimizer, history and random streams stand there already."""

    step: int
    rows: Rows
    fingerprints: dict[int, Tensor]
    elapsed_s: float


class Saver:
    """Writes snapshots, states and rows of one seed, lets go of what no resume needs, and resumes.

    Args:
        apparatus: what is saved and put back.
        folder: the seed's.
        shadow: the perturbed copy, where one runs alongside.
        note: is told what the user should know.
    """

    def __init__(
        self, apparatus: Apparatus, folder: SeedFolder, shadow: Shadow | None, note: Callable[[str], None]
    ) -> None:
        self._a, self._folder, self._shadow, self._note = apparatus, folder, shadow, note
        self._kept = apparatus.config.snapshots
        self._interval = apparatus.config.observe.interval_steps
        self._remembered = remembered.folder_of(folder.path)

    def holds_state(self, number: int) -> bool:
        """Whether a stopped seed can go on from checkpoint `number`, counted from 1."""
        return has_state(number, self._kept.every)

    def save(self, step: int, number: int) -> None:
        """Write the tensors of checkpoint `number`: weights, then the optimizer, which is what a resume looks for.

        Raises:
            NotWritten: the disk is full, or the folder cannot be written.
        """
        a = self._a
        if self._kept.weights == "all" or in_a_ring(number, self._kept.every, a.history.length):
            save_snapshot(self._folder.snapshots, step, dict(a.parameters))
        if not self.holds_state(number):
            return
        remembered.save(self._remembered, step, a.history, self._interval)
        save_state(snapshot_path(self._folder.states, step), a.model, a.optimizer, step=step, weights=False)
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            save_state(path, self._shadow.model, self._shadow.optimizer, step=step)

    def commit(self, rows: Rows, fingerprints: dict[int, Tensor]) -> None:
        """Write the rows, then let go of what a resume does not need any more."""
        self._folder.write_fingerprints(fingerprints, self._a.fingerprinter.identity)
        self._folder.write_rows(rows)
        steps = [row.step for row in rows.checkpoints]
        snapshots, states = needed_to_resume(steps, self._a.history.length, self._kept.every)
        if self._kept.weights == "last":
            keep_only(self._folder.snapshots, snapshots)
        if self._kept.optimizer == "last":
            keep_only(self._folder.states, states)
        keep_only(self._folder.path / "shadow", states)
        keep_only(self._remembered, states)

    def resume(self) -> Resumed | None:
        """Put back the newest whole state and everything that led to it.

        Returns: None where there is none; model and optimizer are then untrained, a shadow is to be made anew.
        """
        try:
            rows = self._folder.read_rows()
        except Damaged as error:
            self._note(f"{error}; this seed begins again")
            return None
        recorded, tried = {row.step for row in rows.checkpoints}, False
        for step in reversed(snapshot_steps(self._folder.states)):
            if step not in recorded:
                continue
            tried = True
            try:
                found = self._restored(step, rows.until(step))
            except Damaged as error:
                self._note(f"{error}; going back to an earlier checkpoint")
                self._a.history.reset()
                continue
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
        fresh = build(a.config, a.seed, str(a.device), open_corpus(a.config))
        a.model.load_state_dict(fresh.model.state_dict())
        a.optimizer.state.clear()
        torch.manual_seed(a.seed)

    def _restored(self, step: int, rows: Rows) -> Resumed:
        a, steps = self._a, [row.step for row in rows.checkpoints]
        weights: dict[str, Tensor] = {}
        for earlier in steps[-a.history.length :]:
            weights = load_snapshot(self._folder.snapshots, earlier)
            a.history.push(earlier, [weights[name] for name in a.moved])
        remembered.load(self._remembered, step, a.history, self._interval)
        fingerprints = self._read_fingerprints(steps)
        if self._shadow is not None:
            path = snapshot_path(self._folder.path / "shadow", step)
            load_state(path, self._shadow.model, self._shadow.optimizer)
        # Last, for it sets the random streams.
        load_state(snapshot_path(self._folder.states, step), a.model, a.optimizer, weights=weights)
        known = {at: value for at, value in fingerprints.items() if at <= step}
        return Resumed(step, rows, known, rows.checkpoints[-1].elapsed_s)

    def _read_fingerprints(self, steps: list[int]) -> dict[int, Tensor]:
        """The fingerprints so far; taken again from the snapshots where their file is damaged.

        Raises:
            Damaged: neither the file nor every snapshot is whole.
        """
        try:
            return self._folder.read_fingerprints()
        except Damaged as error:
            untrained = build(self._a.config, self._a.seed, str(self._a.device), open_corpus(self._a.config))
            found = {0: untrained.fingerprinter()}
            for step in steps:
                weights = load_snapshot(self._folder.snapshots, step)
                copy_(list(untrained.parameters.values()), [weights[name] for name in untrained.parameters])
                found[step] = untrained.fingerprinter()
            self._note(f"{error}; the fingerprints are taken again from the snapshots")
            return found
