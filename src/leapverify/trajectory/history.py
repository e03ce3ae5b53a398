"""A bounded ring of weight snapshots with their true steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from leapverify.core.pinned import host_memory, wait_for, wait_for_all
from leapverify.core.shards import Shards, is_spread
from leapverify.core.weights import Tensors, copy_, require_same_shapes
from leapverify.trajectory.averages import PowerAverages
from leapverify.trajectory.context import Gradients, Layout, Selection
from leapverify.trajectory.milestones import Milestones
from leapverify.trajectory.optimizer_state import GroupHyper, OptimizerState
from leapverify.trajectory.snapshot import Buffers, Snapshot, as_state

__all__ = ["GroupHyper", "History", "OptimizerState", "Snapshot"]

Value = TypeVar("Value")
Place: TypeAlias = torch.device | str

STORAGE = (torch.float32, torch.float16, torch.bfloat16)


class History:
    """The newest snapshots of a list of tensors, oldest first; buffers are allocated once and used again.

    >>> weights = [torch.zeros(2)]
    >>> history = History(weights, length=2)
    >>> for step in (10, 20, 30):
    ...     history.push(step, [weights[0] + step])
    >>> history.steps, history[-1].tensors
    ((20, 30), (tensor([30., 30.]),))

    Args:
        like: tensors whose shapes and devices the snapshots take.
        length: snapshots kept, at least 1; a further push drops the oldest.
        dtype: float32, float16 or bfloat16; predictors compute in float32 from each of them.
        device: where the snapshots lie; a sequence of devices, one per tensor, splits them between several places, for
            good; None leaves each beside its tensor.
        pinned: those that lie on the CPU lie in page-locked memory, which an accelerator reads and writes faster and
            without the host's waiting for each copy; ordinary memory where there is no CUDA.

    Raises:
        ValueError: a length below 1, no tensors, none that are local parts, another type, or not one device per tensor.
    """

    optimizer: OptimizerState | None
    """State of the optimizer at the newest step, set by the caller before predicting."""
    shards: Shards | None = None
    """How the tensors are spread over the ranks of the run, of which the snapshots are the local parts; None: one
    process holds them whole. Set once."""
    layout: Layout | None = None
    """Which tensors these are; set once by the caller, like all that follows, for the predictors that ask for it."""
    selection: Selection | None = None
    """Held-out losses of candidates."""
    gradients: Gradients | None = None
    """Gradients on fresh training batches."""
    recent: History | None = None
    """The weights after the newest steps one by one; the caller pushes to it too. This and what follows: see `keep`."""
    averages: PowerAverages | None = None
    """Running averages, fed by `push`."""
    milestones: Milestones | None = None
    """Early states, fed by `push` and `start`."""

    def __init__(
        self,
        like: Tensors,
        length: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: Place | Sequence[Place] | None = None,
        pinned: bool = False,
    ) -> None:
        if length < 1:
            raise ValueError(f"history length {length} is too short: keep at least 1 snapshot")
        if not like:
            raise ValueError("a history of no tensors holds nothing: pass the parameters that are to be predicted")
        _require_local(like)
        if dtype not in STORAGE:
            raise ValueError(f"history dtype {dtype} is not kept: use float32, float16 or bfloat16")
        self.optimizer = None
        self._length, self._pinned = length, pinned
        self._dtype, self._places = dtype, _places(like, device)
        self._shapes = tuple(torch.empty(each.shape, device="meta") for each in like)
        self._ring: deque[Snapshot] = deque()
        self._buffers = Buffers()
        self._borrowed = 0
        self._parent: History | None = None
        self._derived: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        return len(self._ring)

    def __getitem__(self, position: int) -> Snapshot:
        return self._ring[position]

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self._ring)

    @property
    def length(self) -> int:
        """Snapshots kept at most."""
        return self._length

    @property
    def dtype(self) -> torch.dtype:
        """Type of the snapshots."""
        return self._dtype

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the snapshots, oldest first."""
        return tuple(snapshot.step for snapshot in self._ring)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers allocated so far, those of branches included."""
        return self._buffers.nbytes

    def keep(self, *, recent: int = 0, averages: bool = False, milestones: bool = False) -> None:
        """Keep more than snapshots, empty so far, for the predictors that read it.

        Args:
            recent: newest steps one by one; 0: none.
            averages: running averages.
            milestones: early states.
        """
        if recent:
            self.recent = History(self._shapes, recent, dtype=self._dtype, device=self._places, pinned=self._pinned)
        self.averages = PowerAverages() if averages else None
        self.milestones = Milestones() if milestones else None

    def start(self, step: int, tensors: Tensors) -> None:
        """Take in the state that the run begins with, where early states are kept; it is no snapshot."""
        if self.milestones is not None:
            # They say in which type and where the copy is kept, and take no memory.
            like = [
                torch.empty((), dtype=self._dtype, device=place).expand(each.shape)
                for place, each in zip(self._places, self._shapes, strict=True)
            ]
            self.milestones.push(step, tensors, like)

    def push(self, step: int, tensors: Tensors) -> None:
        """Copy the weights after `step` in; the oldest snapshot makes room when the ring is full.

        Args:
            step: number of the step, above the newest one's.
            tensors: the weights, of the history's shapes.

        Raises:
            ValueError: the step does not increase, the shapes differ, or the tensors are no local parts.
        """
        if self._ring and step <= self._ring[-1].step:
            raise ValueError(
                f"step {step} does not follow step {self._ring[-1].step}: push increasing steps, or reset()"
            )
        _require_local(tensors)
        require_same_shapes(self._shapes, tensors, "the pushed weights")
        if len(self._ring) == self._length:
            self._drop_oldest()
        self.forget()
        buffers = self._buffers.take(self._allocate)
        self._fill(buffers, tensors)
        self._ring.append(Snapshot(step, buffers))
        for each in (self.averages, self.milestones):
            if each is not None:
                each.push(step, buffers)

    def reset(self) -> None:
        """Forget the snapshots and the optimizer state, keep the buffers."""
        while self._ring:
            self._drop_oldest()
        self.forget()
        self.optimizer = None
        self._reset_companions()

    def state_dict(self) -> dict[str, Any]:
        """Snapshots and what else is kept, for a file; the tensors are the history's own: copy them before a push.

        Returns:
            `steps` and `states` of the snapshots; `recent` and `milestones`, likewise, and `averages`: None for what is
            not kept.
        """
        recent, averages, milestones = self.recent, self.averages, self.milestones
        return {
            **as_state(self),
            "recent": None if recent is None else as_state(recent),
            "averages": None if averages is None else averages.state_dict(),
            "milestones": None if milestones is None else as_state(milestones),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, on whatever device its tensors lie.

        Without `steps` the snapshots stay as they are. What is kept here and missing there begins anew.

        Raises:
            ValueError: steps that do not increase, or tensors of other shapes.
        """
        if "steps" in state:
            self.reset()
            for step, tensors in zip(state["steps"], state["states"], strict=True):
                self.push(step, tensors)
        self._reset_companions()
        like = self[-1].tensors if len(self) else None
        if self.recent is not None and state.get("recent") is not None:
            self.recent.load_state_dict(state["recent"])
        if self.averages is not None and state.get("averages") is not None:
            self.averages.load_state_dict(state["averages"], like)
        if self.milestones is not None and (early := state.get("milestones")) is not None:
            for step, tensors in zip(early["steps"], early["states"], strict=True):
                self.milestones.push(step, tensors, like)

    def branch(self, length: int | None = None) -> Branch:
        """A history that goes on from the newest snapshots without copying them, for predictions on predictions.

        Use it as a context manager: `with history.branch() as chain: chain.push(...)`. Leaving it hands its buffers
        back, so that the next branch allocates nothing. This history must not be pushed to meanwhile.

        Args:
            length: snapshots the branch keeps; None for as many as this history.
        """
        return Branch(self, self._length if length is None else length)

    def derived(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """A value that follows from the present snapshots, computed once until the next push or reset.

        Args:
            key: what the value is.
            compute: gives it; not called where it is known.
        """
        if key not in self._derived:
            self._derived[key] = compute()
        return self._derived[key]

    def forget(self) -> None:
        """Drop what `derived` keeps; it is computed again when asked for."""
        self._derived.clear()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor shares memory with a snapshot, or with what predictors read beside snapshots."""
        kept = (self._buffers, self.recent, self.averages, self.milestones, self._parent)
        return any(each is not None and each.holds(tensor) for each in kept)

    def _reset_companions(self) -> None:
        for each in (self.recent, self.averages, self.milestones):
            if each is not None:
                each.reset()

    def _drop_oldest(self) -> None:
        oldest = self._ring.popleft()
        if self._borrowed:
            self._borrowed -= 1
        else:
            self._buffers.give_back(oldest)

    def _fill(self, buffers: Tensors, tensors: Tensors) -> None:
        if not self._pinned:
            copy_(buffers, tensors)
        elif all(each.device.type == "cuda" for each in tensors):
            # All copies are on their way before the host waits for the last one.
            with torch.no_grad():
                torch._foreach_copy_(list(buffers), list(tensors), non_blocking=True)
            wait_for(tensors)
        else:
            # A device may still have to read these buffers, which the host is about to write.
            wait_for_all()
            copy_(buffers, tensors)

    def _allocate(self) -> tuple[Tensor, ...]:
        hosted = [self._pinned and place.type == "cpu" for place in self._places]
        locked = iter(host_memory([each for each, host in zip(self._shapes, hosted, strict=True) if host], self._dtype))
        return tuple(
            next(locked) if host else torch.empty(shape.shape, dtype=self._dtype, device=place)
            for shape, place, host in zip(self._shapes, self._places, hosted, strict=True)
        )


def _require_local(tensors: Tensors) -> None:
    if is_spread(tensors):
        raise ValueError(
            "a history holds what this rank holds, and DTensors were given: pass their local parts "
            "(leapverify.core.shards.local), and set history.shards"
        )


def _places(like: Tensors, device: Place | Sequence[Place] | None) -> tuple[torch.device, ...]:
    """The device of each tensor's snapshots."""
    if device is None:
        return tuple(each.device for each in like)
    if isinstance(device, str | torch.device):
        return (torch.device(device),) * len(like)
    if len(device) != len(like):
        raise ValueError(
            f"{len(device)} devices are given for the snapshots of {len(like)} tensors: give one device, or one per "
            "tensor"
        )
    return tuple(map(torch.device, device))


class Branch(History):
    """What `History.branch` gives."""

    def __init__(self, parent: History, length: int) -> None:
        if length < 1:
            raise ValueError(f"branch length {length} is too short: keep at least 1 snapshot")
        self.optimizer, self.shards = parent.optimizer, parent.shards
        # What follows from real steps alone (`recent` and its like) does not go on in thought.
        self.layout, self.selection, self.gradients = parent.layout, parent.selection, parent.gradients
        self._length, self._pinned = length, parent._pinned
        self._dtype, self._places, self._shapes = parent._dtype, parent._places, parent._shapes
        self._ring = deque(list(parent)[-length:])
        self._buffers = parent._buffers
        self._borrowed = len(self._ring)
        self._parent = parent
        self._derived = {}

    def __enter__(self) -> Branch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.reset()
