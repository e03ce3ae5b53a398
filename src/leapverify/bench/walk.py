"""Going along a recorded run again: the same steps, checked against the kept snapshots bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from leapverify.storage import Damaged
from leapverify.study.executor import StudyError
from leapverify.study.folder import SeedFolder
from leapverify.study.setup import Apparatus
from leapverify.train.state import load_snapshot, load_state, snapshot_path


class Walk:
    """Brings model, optimizer and history from checkpoint to checkpoint of one seed, oldest first.

    Between checkpoints the run's own steps are trained, so that predictors find the single steps before each of them.
    At a checkpoint the model then holds what was recorded: where another machine has led elsewhere, what was kept is
    put in (the single steps before it are then this machine's).

    Args:
        apparatus: the seed's, untrained.
        folder: where its snapshots and optimizer states lie, one for each checkpoint.
        note: is told what the user should know.
    """

    def __init__(self, apparatus: Apparatus, folder: SeedFolder, note: Callable[[str], None]) -> None:
        self._a, self._folder, self._note = apparatus, folder, note
        self.at = 0
        """The step at which the model stands."""
        self.repeated: set[int] = set()
        """Checkpoints reached bit by bit."""
        self.loaded: set[int] = set()
        """Checkpoints whose recorded state was put in."""
        apparatus.after_step(0)

    def go_on(self, steps: int) -> None:
        """So many real steps."""
        for step in range(self.at + 1, self.at + steps + 1):
            self._a.train(step, step, 1)
            self._a.after_step(step)
        self.at += steps

    def arrive(self, step: int) -> None:
        """Stand at a checkpoint as it was recorded, with it in the history; trains up to it what is still to be.

        Raises:
            StudyError: another state was reached than was recorded, and what was recorded is damaged.
        """
        self.go_on(step - self.at)
        try:
            weights = load_snapshot(self._folder.snapshots, step, self._a.parameters)
        except Damaged as error:
            if self.loaded:
                raise StudyError(
                    f"{error}; this machine does not repeat the run, so that it cannot stand in"
                ) from error
            self._note(f"{error}; the state that the same steps have led to stands in for it")
        else:
            self._compare(step, weights)
        self._push(step)

    def jump(self, step: int) -> None:
        """Stand at a checkpoint without training up to it; where its files are damaged, train after all."""
        try:
            weights = load_snapshot(self._folder.snapshots, step, self._a.parameters)
            self._load(step, weights)
        except Damaged:
            self.arrive(step)
            return
        self.at = step
        self._push(step)

    def _compare(self, step: int, weights: Mapping[str, Tensor]) -> None:
        parameters = self._a.parameters
        if all(torch.equal(parameter.detach().cpu(), weights[name]) for name, parameter in parameters.items()):
            self.repeated.add(step)
            return
        if not self.loaded:
            self._note(f"the same steps lead elsewhere here than when they were recorded: step {step} is loaded")
        self.loaded.add(step)
        try:
            self._load(step, weights)
        except Damaged as error:
            raise StudyError(f"{error}; this machine does not repeat the run, so that it cannot stand in") from error

    def _load(self, step: int, weights: Mapping[str, Tensor]) -> None:
        load_state(snapshot_path(self._folder.states, step), self._a.model, self._a.optimizer, weights=weights)

    def _push(self, step: int) -> None:
        self._a.history.push(step, list(self._a.moved.values()))
        self._a.history.optimizer = self._a.optimizer_state(step)
