"""One checkpoint on the bench: every predictor x K verified, its cost counted, its gain trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from leapverify.bench.measures import CountedLoss, Meter, Persistence, share_left
from leapverify.bench.options import BenchOptions
from leapverify.io.records import Benched, Prediction
from leapverify.leap.ledger import PASS_TOKENS, copies, network_tokens
from leapverify.predict import Predictor, predictor
from leapverify.study.apparatus import Apparatus
from leapverify.study.restore import WeightRestorer
from leapverify.study.sweep import Sweeper, SweepPoint


@dataclass(frozen=True)
class _Entry:
    """One predictor, and a sweeper for each K that is measured: one K where the prediction is the same for all."""

    label: str
    method: Predictor
    sweepers: Mapping[int, Sweeper]


@dataclass(frozen=True)
class Tried:
    """One predictor x K at one checkpoint; what the run itself reaches after R more steps is not known yet."""

    row: Prediction
    benched: Benched

    def with_real(self, loss_real: float) -> Benched:
        """The row with what the run itself has reached."""
        if self.benched.persist_steps is None:
            return self.benched
        assert self.row.loss_predicted is not None
        share = share_left(self.row.loss_now, self.row.loss_predicted, loss_real, self.benched.loss_leapt)
        return dataclasses.replace(self.benched, loss_real=loss_real, persistence=share)


class Bench:
    """Tries predictors at the checkpoints of one seed; model and optimizer are bit-identical after each.

    A prediction costs what it would cost alone: nothing that another predictor, or the same one for another K, has left
    in the history is used.

    Args:
        apparatus: stands at the checkpoint, which the history ends with, whenever `run` is called.
        options: predictors and horizons.
    """

    def __init__(self, apparatus: Apparatus, options: BenchOptions) -> None:
        self._a, self._options = apparatus, options
        self._counted = CountedLoss(apparatus.verifier.loss)
        apparatus.verifier.loss = self._counted
        self._parameters = sum(each.numel() for each in apparatus.model.parameters())
        tensors = list(apparatus.moved.values())
        self._restorer = WeightRestorer(tensors, apparatus.history)
        self._persistence = Persistence(apparatus, self._restorer)
        self._entries = [self._entry(label, name) for label, name in options.labels.items()]

    def run(self, point: SweepPoint, wanted: Collection[tuple[str, int]], persist_steps: int | None) -> list[Tried]:
        """The rows of a checkpoint.

        Args:
            point: the checkpoint.
            wanted: label x K that are to be measured.
            persist_steps: R; None: persistence is not measured here.
        """
        if persist_steps is not None:
            self._persistence.save()
        return [
            tried
            for entry in self._entries
            if (horizons := [each for each in self._options.horizons if (entry.label, each) in wanted])
            for tried in self._tried(entry, point, horizons, persist_steps)
        ]

    def _entry(self, label: str, name: str) -> _Entry:
        method = predictor(name)
        horizons = self._options.horizons if method.needs.horizon else self._options.horizons[:1]
        return _Entry(label, method, {horizon: self._sweeper(name, horizon) for horizon in horizons})

    def _sweeper(self, name: str, horizon: int) -> Sweeper:
        a = self._a
        settings = a.config.sweep.model_copy(update={"predictors": (name,), "horizons": (horizon,)})
        return Sweeper(list(a.moved.values()), a.history, a.verifier, settings, self._restorer)

    def _tried(
        self, entry: _Entry, point: SweepPoint, horizons: Iterable[int], persist_steps: int | None
    ) -> Iterable[Tried]:
        if not entry.method.needs.horizon:
            (measured,) = entry.sweepers
            tried = self._one(entry, point, measured, persist_steps)
            yield from (_at(tried, horizon) for horizon in horizons)
            return
        yield from (self._one(entry, point, horizon, persist_steps) for horizon in horizons)

    def _one(self, entry: _Entry, point: SweepPoint, horizon: int, persist_steps: int | None) -> Tried:
        self._a.history.forget()
        verified, searched = Meter(lambda: self._counted.positions), Meter(self._search_tokens)
        (row,) = entry.sweepers[horizon].sweep(point)
        row = dataclasses.replace(row, predictor=entry.label)
        found = searched.since()
        alone = 0.0 if row.status == "declined" else self._alone(entry.method)
        benched = Benched(
            seed=row.seed,
            step=row.step,
            predictor=row.predictor,
            horizon=row.horizon,
            any_horizon=not entry.method.needs.horizon,
            predict_tokens=alone + found,
            verify_tokens=2.0 * verified.since(),
            persist_steps=None,
            loss_real=None,
            loss_leapt=None,
            persistence=None,
        )
        if persist_steps is not None and row.strict:
            leapt = self._persistence.loss_after(entry.method, horizon, point.step, persist_steps)
            benched = dataclasses.replace(benched, persist_steps=persist_steps, loss_leapt=leapt)
        return Tried(row, benched)

    def _alone(self, method: Predictor) -> float:
        """What a prediction costs beside its search: reading, writing, and a network where it runs one."""
        history = self._a.history
        return PASS_TOKENS * copies(method.needs, history) + network_tokens(method, history, self._parameters)

    def _search_tokens(self) -> float:
        """What searching has cost so far: losses of candidates, and gradients, which count three passes each."""
        history = self._a.history
        return _positions(history.selection) + _positions(history.gradients)


def _positions(counter: Any) -> float:
    return float(getattr(counter, "positions", 0.0))


def _at(tried: Tried, horizon: int) -> Tried:
    """The same measurement as the row of another K."""
    return Tried(dataclasses.replace(tried.row, horizon=horizon), dataclasses.replace(tried.benched, horizon=horizon))
