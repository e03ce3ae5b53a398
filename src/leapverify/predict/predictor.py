"""What a predictor is, and the checks that all of them share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leapverify.core.shards import Shards
from leapverify.core.weights import Tensors, require_same_shapes
from leapverify.trajectory.history import History, OptimizerState, Snapshot


class Declined(Exception):
    """A predictor has less than it needs; no verdict on the weights."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Needs:
    """What a predictor must be given; with less it declines."""

    snapshots: int
    """Snapshots, the newest included."""
    optimizer_state: bool = False
    """Whether Adam's moments are read (`History.optimizer`)."""
    upto: int = 0
    """Snapshots that are read where the history holds them; 0: no more than `snapshots`."""
    even: bool = False
    """Whether the snapshots must lie evenly spaced."""
    recent: int = 0
    """Weights after consecutive optimizer steps, the newest included (`History.recent`); 0: none."""
    averages: bool = False
    """Whether running averages of the trajectory are read (`History.averages`)."""
    milestones: tuple[float, ...] = ()
    """Shares of t at which early states are read (`History.milestones`)."""
    layout: bool = False
    """Whether the tensors' names and the model's heads are read (`History.layout`)."""
    selection: bool = False
    """Whether held-out losses of candidates are read (`History.selection`)."""
    gradients: bool = False
    """Whether gradients on fresh training batches are read (`History.gradients`)."""
    whole: bool = False
    """Whether whole tensors are read, so that the parts that a rank holds will not do; without it a predictor goes
    element by element, or sums up over all ranks what it has to know of whole tensors (`Request.over_ranks`)."""
    horizon: bool = True
    """Whether the prediction depends on K; False: it is the same state for every K."""

    @property
    def reach(self) -> int:
        """Snapshots that are read at most: what a history is to hold."""
        return max(self.snapshots, self.upto)

    @property
    def on_predictions(self) -> Needs:
        """What is left on a history of predictions: single steps, averages and early states come from real steps."""
        return replace(self, recent=0, averages=False, milestones=())

    @classmethod
    def union(cls, needs: Iterable[Needs]) -> Needs:
        """What all of them read together; `snapshots` is what the history is to hold.

        >>> both = Needs.union([Needs(2, upto=9), Needs(5, recent=3, milestones=(0.0, 0.5))])
        >>> both.snapshots, both.recent, both.milestones
        (9, 3, (0.0, 0.5))
        """
        every = list(needs)
        return cls(
            snapshots=max((each.reach for each in every), default=0),
            optimizer_state=any(each.optimizer_state for each in every),
            even=any(each.even for each in every),
            recent=max((each.recent for each in every), default=0),
            averages=any(each.averages for each in every),
            milestones=tuple(sorted({share for each in every for share in each.milestones})),
            layout=any(each.layout for each in every),
            selection=any(each.selection for each in every),
            gradients=any(each.gradients for each in every),
            whole=any(each.whole for each in every),
            horizon=any(each.horizon for each in every),
        )


STRAIGHTNESS = Needs(snapshots=3)
"""What the straightness of the path reads, which every run records."""


@runtime_checkable
class Predictor(Protocol):
    """Says where the weights will be K steps on, tensor by tensor, in float32.

    Where tensors are spread over ranks (`History.shards`), each rank predicts the parts that it holds; all of them ask
    for the same predictions, in the same order, and all predict or decline.
    """

    @property
    def name(self) -> str:
        """Name in the catalogue."""
        ...

    @property
    def needs(self) -> Needs:
        """What history and state it reads."""
        ...

    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """theta_hat, the weights predicted for `horizon` steps after the newest snapshot.

        Args:
            history: snapshots and, where needed, the optimizer state; neither is changed.
            horizon: K, steps, at least 1.
            out: tensors to write into, such as the model's own parameters; any floating type; none may share memory
                with the history. All is computed on its device. None allocates float32 tensors beside the newest
                snapshot.

        Returns:
            `out`, or the new tensors.

        Raises:
            Declined: something that it needs is not there, or what is there does not serve it.
            ValueError: a horizon below 1, or an `out` that does not fit.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """A predictor that has to read numbers from the device, once per history, before it can write.

    Numbers about whole tensors are summed up over the ranks then, so that all ranks must prepare, or predict, the same.
    """

    def prepare(self, history: History, out: Tensors) -> None:
        """Read them now; predictions from this history into `out` then wait for nothing.

        Args:
            history: as for `predict`.
            out: as for `predict`.

        Raises:
            Declined: too little history.
        """
        ...


def prepare(predictors: Iterable[Predictor], history: History, out: Tensors) -> None:
    """Have all predictors read what they need on the host, so that a queue of predictions is not cut up by it."""
    for each in predictors:
        if isinstance(each, Prepares):
            with suppress(Declined):  # it says so again when it is asked for a prediction
                each.prepare(history, out)


@dataclass(frozen=True)
class Request:
    """A checked call: all that a predictor computes from."""

    history: History
    snapshots: tuple[Snapshot, ...]
    """The newest ones, newest first: as many as are needed, and up to as many as are of use."""
    horizon: int
    out: Sequence[Tensor]

    @property
    def now(self) -> tuple[Tensor, ...]:
        """theta_t."""
        return self.snapshots[0].tensors

    @property
    def device(self) -> torch.device:
        """Where it is computed: on the device of what is written, wherever the snapshots lie."""
        return self.out[0].device

    @property
    def shards(self) -> Shards | None:
        """How the tensors are spread over ranks; None: they are whole."""
        return self.history.shards

    @property
    def elements(self) -> tuple[int, ...]:
        """Elements of each whole tensor, of which this rank may hold a part."""
        return tuple(each.numel() for each in self.now) if self.shards is None else self.shards.elements

    def over_ranks(self, what: str, sums: Tensor) -> Tensor:
        """Sums of the parts that this rank holds of each tensor, as those of the whole tensors.

        Args:
            what: a name for them: ranks that do not ask for the same find out here.
            sums: (P, ...) of the P tensors.

        Returns:
            Float64, the same bits on every rank.
        """
        return sums if self.shards is None else self.shards.sum(f"{what} at step {self.snapshots[0].step}", sums)

    @property
    def lags(self) -> tuple[int, ...]:
        """Steps from each snapshot to the newest: 0, Delta, ..."""
        return tuple(self.snapshots[0].step - snapshot.step for snapshot in self.snapshots)

    @property
    def spacing(self) -> int:
        """Steps between snapshots that lie evenly spaced."""
        return self.lags[1]


def missing(needs: Needs, history: History) -> str | None:
    """What a history lacks that a predictor needs, as the reason for declining; None: nothing.

    Whether early states lie near enough to the shares of t that are asked for, only the prediction itself finds out.
    """
    if len(history) < needs.snapshots:
        return f"needs {needs.snapshots} snapshots, the history holds {len(history)}"
    if needs.even and len(gaps := _gaps(history, needs.reach)) > 1:
        return f"needs evenly spaced snapshots, these lie {', '.join(map(str, gaps))} steps apart"
    if needs.recent and (lack := _no_recent(needs.recent, history)):
        return lack
    parts = history.shards is not None and history.shards.parts
    untrained = "they are not taken of parts" if parts else "there is nothing to train on"
    lacking = (
        (needs.whole and parts, "whole tensors, a rank holds parts"),
        (needs.averages and history.averages is None, "running averages, this history keeps none"),
        (bool(needs.milestones) and history.milestones is None, "states of early steps, this history keeps none"),
        (needs.layout and history.layout is None, "the names of the tensors, the history has none"),
        (needs.selection and history.selection is None, "held-out losses, there is nothing to measure on"),
        (needs.gradients and history.gradients is None, f"gradients, {untrained}"),
    )
    return next((f"needs {what}" for lacks, what in lacking if lacks), None)


def require_request(needs: Needs, history: History, horizon: int, out: Tensors | None) -> Request:
    """Check the arguments of `predict` and give what it computes from.

    Raises:
        Declined: something is missing (not looked at: the optimizer state, see `require_moments`).
        ValueError: a horizon below 1, or an `out` that does not fit.
    """
    if horizon < 1:
        raise ValueError(f"horizon {horizon} is too short: predict at least 1 step on")
    reason = missing(needs, history)
    if reason is not None:
        raise Declined(reason)
    snapshots = tuple(history[-1 - age] for age in range(min(needs.reach, len(history))))
    return Request(history, snapshots, horizon, _buffers(history, snapshots[0].tensors, out))


def _gaps(history: History, reach: int) -> list[int]:
    """The different distances between the newest snapshots, in steps."""
    return sorted({after - before for before, after in itertools.pairwise(history.steps[-reach:])})


def _no_recent(count: int, history: History) -> str | None:
    """Why the consecutive newest steps are not there; None if they are."""
    recent = history.recent
    if recent is None or len(recent) < count:
        held = 0 if recent is None else len(recent)
        return f"needs the weights after the last {count} steps one by one, the history holds {held} of them"
    newest = history.steps[-1]
    wanted = tuple(range(newest - count + 1, newest + 1))
    if recent.steps[-count:] != wanted:
        return f"needs the weights after steps {wanted[0]} to {newest} one by one, these are of {recent.steps[-count:]}"
    return None


def require_moments(history: History, tensors: Tensors) -> OptimizerState:
    """The optimizer state of a history, if it has moments.

    Raises:
        Declined: no state, or no moments in it.
        ValueError: moments of other tensors.
    """
    state = history.optimizer
    if state is None:
        raise Declined("needs the optimizer state, the history has none")
    if not state.m:
        raise Declined("needs Adam's moments, the optimizer has taken no step yet")
    state.require_shapes(tensors)
    if state.step != history.steps[-1]:
        raise ValueError(
            f"the optimizer state is of step {state.step}, the newest snapshot of step {history.steps[-1]}: "
            "set history.optimizer at each push"
        )
    return state


def _buffers(history: History, like: Tensors, out: Tensors | None) -> Sequence[Tensor]:
    if out is None:
        return tuple(torch.empty(each.shape, dtype=torch.float32, device=each.device) for each in like)
    require_same_shapes(like, out, "out")
    for position, each in enumerate(out):
        if not each.is_floating_point():
            raise ValueError(f"out has type {each.dtype} at position {position}: pass floating-point tensors")
        if history.holds(each):
            raise ValueError(f"out shares memory with the history at position {position}: pass other buffers")
    return out
