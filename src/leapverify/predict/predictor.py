"""What a predictor is, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from leapverify.history import History, OptimizerState, Snapshot
from leapverify.weights import Tensors, require_same_shapes


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
    """Whether Adam's moments are read."""


@runtime_checkable
class Predictor(Protocol):
    """Says where the weights will be K steps on, tensor by tensor, in float32."""

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
            Declined: too little history or no optimizer state.
            ValueError: a horizon below 1, or an `out` that does not fit.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """A predictor that has to read numbers from the device, once per history, before it can write."""

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

    snapshots: tuple[Snapshot, ...]
    """The newest ones, newest first, as many as are needed."""
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
    def lags(self) -> tuple[int, ...]:
        """Steps from each snapshot to the newest: 0, Delta, ..."""
        return tuple(self.snapshots[0].step - snapshot.step for snapshot in self.snapshots)


def require_request(needs: Needs, history: History, horizon: int, out: Tensors | None) -> Request:
    """Check the arguments of `predict` and give what it computes from.

    Raises:
        Declined: fewer snapshots than needed.
        ValueError: a horizon below 1, or an `out` that does not fit.
    """
    if horizon < 1:
        raise ValueError(f"horizon {horizon} is too short: predict at least 1 step on")
    if len(history) < needs.snapshots:
        raise Declined(f"needs {needs.snapshots} snapshots, the history holds {len(history)}")
    snapshots = tuple(history[-1 - age] for age in range(needs.snapshots))
    return Request(snapshots, horizon, _buffers(history, snapshots[0].tensors, out))


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
