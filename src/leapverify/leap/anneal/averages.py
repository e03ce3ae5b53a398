"""What annealing averages: the newest weights, kept whole, and exponential running averages (EMAs)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from leapverify.core.weights import Tensors, copy_, require_same_shapes
from leapverify.predict.blockwise import Workspace, apply
from leapverify.predict.combination import chained
from leapverify.predict.decay_shapes import SHAPES, coefficients
from leapverify.trajectory.history import STORAGE, History


@dataclass(frozen=True)
class AnnealMemory:
    """Which weights are kept for annealing; `AnnealStore.planned_bytes` says how much memory that takes.

    Raises:
        ValueError: a value makes no sense, or nothing would be averaged.

    Example:
        >>> AnnealMemory(snapshots=4, every=10, emas=(0.99,)).emas
        (0.99,)
        >>> AnnealMemory(snapshots=1)
        Traceback (most recent call last):
        ValueError: snapshots = 1 without an EMA average nothing: keep at least 2 snapshots or an EMA
    """

    snapshots: int = 8
    """Past weights that are kept whole; 0 for none."""
    every: int = 5
    """Steps from one snapshot, and from one update of the running averages, to the next."""
    emas: tuple[float, ...] = ()
    """Decays per step of exponential running averages, each kept whole in float32."""
    device: str | None = None
    """Where all of it lies; None leaves each tensor beside its parameter."""
    dtype: torch.dtype = torch.float32
    """Type of the snapshots."""

    def __post_init__(self) -> None:
        if self.snapshots < 0:
            raise ValueError(f"snapshots = {self.snapshots} cannot be kept: give 0 for none, or at least 2")
        if self.every < 1:
            raise ValueError(f"every = {self.every} is no number of steps: give at least 1")
        object.__setattr__(self, "emas", tuple(self.emas))
        wrong = [decay for decay in self.emas if not 0.0 < decay < 1.0]
        if wrong:
            raise ValueError(f"EMA decay {wrong[0]} is not between 0 and 1: give a share per step, such as 0.99")
        if self.snapshots < 2 and not self.emas:
            raise ValueError(
                f"snapshots = {self.snapshots} without an EMA average nothing: keep at least 2 snapshots or an EMA"
            )
        if self.dtype not in STORAGE:
            raise ValueError(f"snapshot dtype {self.dtype} is not kept: use float32, float16 or bfloat16")
        try:
            torch.device(self.device or "cpu")
        except RuntimeError as error:
            raise ValueError(f"device {self.device!r} is unknown: use None, 'cpu' or an accelerator's name") from error


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to average what a store holds."""

    kind: Literal["ring", "ema"]
    count: int
    """Weights that go into it: snapshots of the ring, or updates of the EMA."""
    shape: str
    """linear | cosine | sqrt; an EMA is exponential."""
    window_steps: int
    """Steps of the decay that it stands for; of an EMA its time constant 1 / (1 - decay), or all steps if fewer."""
    decay: float | None = None
    """Of an EMA, per step."""


class AnnealStore:
    """The newest weights and running averages of them, as an `AnnealMemory` says; allocated when first used.

    An EMA starts from the first weights it sees, so it needs no bias correction. An update after n steps has the decay
    d^n. Weights that are not finite must not be pushed: they stay in an EMA until `reset`.

    Args:
        parameters: tensors whose shapes and devices are taken.
        memory: what to keep.
        pinned: page-locked host memory for what lies on the CPU.

    Raises:
        ValueError: no parameters.

    Example:
        >>> store = AnnealStore([torch.zeros(2)], AnnealMemory(snapshots=2, every=1))
        >>> [store.push(step, [torch.full((2,), float(step))]) for step in (1, 2, 3)]
        [True, True, True]
        >>> decay = store.candidates()[0]
        >>> decay.shape, decay.count
        ('linear', 2)
        >>> out = [torch.empty(2)]
        >>> store.write(decay, out)
        >>> out[0].tolist()
        [2.5, 2.5]
    """

    def __init__(self, parameters: Tensors, memory: AnnealMemory, pinned: bool = False) -> None:
        if not parameters:
            raise ValueError("no parameters are given: pass the tensors whose averages are wanted")
        self.memory = memory
        self._pinned = pinned and torch.accelerator.is_available()
        self._shapes = [torch.empty(each.shape, device="meta") for each in parameters]
        self._devices = [torch.device(memory.device or each.device) for each in parameters]
        self._ring: History | None = None
        if memory.snapshots:
            self._ring = History(
                parameters, memory.snapshots, dtype=memory.dtype, device=memory.device, pinned=self._pinned
            )
        self._emas: list[list[Tensor]] = []
        self._first = self._last = 0
        self._updates = 0

    @property
    def held(self) -> int:
        """Snapshots in the ring."""
        return len(self._ring) if self._ring is not None else 0

    @property
    def planned_bytes(self) -> int:
        """Bytes of everything, once the ring is full."""
        elements = sum(each.numel() for each in self._shapes)
        return elements * (self.memory.snapshots * self.memory.dtype.itemsize + 4 * len(self.memory.emas))

    @property
    def nbytes(self) -> int:
        """Bytes allocated so far."""
        emas = sum(each.nbytes for average in self._emas for each in average)
        return emas + (self._ring.nbytes if self._ring is not None else 0)

    def due(self, step: int) -> bool:
        """Whether the weights after this step are to be taken: the first ones, then every `every` steps."""
        return not self._updates or step - self._last >= self.memory.every

    def push(self, step: int, parameters: Tensors) -> bool:
        """Take the weights after a step, if it is due.

        Args:
            step: its number; any number of steps may lie between two calls.
            parameters: the weights, finite.

        Returns:
            Whether they were taken.

        Raises:
            ValueError: the step lies before the last one, or the shapes differ.
        """
        if self._updates and step < self._last:
            raise ValueError(f"step {step} lies before step {self._last}: push increasing steps, or reset()")
        if not self.due(step):
            return False
        require_same_shapes(self._shapes, parameters, "the pushed weights")
        if self._ring is not None:
            self._ring.push(step, parameters)
        self._average(step - self._last, parameters)
        self._first = self._first if self._updates else step
        self._last = step
        self._updates += 1
        return True

    def reset(self) -> None:
        """Forget all weights, keep the buffers: averages are not taken across a leap."""
        if self._ring is not None:
            self._ring.reset()
        self._first = self._last = self._updates = 0

    def candidates(self) -> list[Candidate]:
        """All that could be written now: windows of 2, 3, 4, 6, 8, 12 .. snapshots and all, each shape; every EMA."""
        found: list[Candidate] = []
        steps = self._ring.steps if self._ring is not None else ()
        for count in _windows(len(steps)):
            known: list[list[float]] = []
            for shape in SHAPES:
                weights = coefficients(count, shape)
                # Of two snapshots the cosine is the mean again: not to be measured twice.
                if not any(_close(weights, other) for other in known):
                    known.append(weights)
                    found.append(Candidate("ring", count, shape, steps[-1] - steps[-count]))
        if self._updates > 1:
            seen = self._last - self._first
            for decay in self.memory.emas:
                window = min(round(1.0 / (1.0 - decay)), seen)
                found.append(Candidate("ema", self._updates, "exponential", window, decay))
        return found

    @torch.no_grad()
    def write(self, candidate: Candidate, out: Tensors) -> None:
        """Write theta_hat = sum_j c_j theta_j, computed in float32 block by block where the snapshots lie.

        Args:
            candidate: one of `candidates()`, as long as nothing was pushed since.
            out: tensors of the parameters' shapes; any floating type and device.

        Raises:
            ValueError: the store does not hold what the candidate needs, or the shapes differ.
        """
        require_same_shapes(self._shapes, out, "out")
        if candidate.kind == "ema":
            copy_(out, self._ema(candidate))
            return
        if self._ring is None or candidate.count > self.held:
            raise ValueError(
                f"{candidate.count} snapshots are to be averaged and {self.held} are held: take one of candidates()"
            )
        weights = coefficients(candidate.count, candidate.shape)
        newest_first = [self._ring[-1 - j].tensors for j in range(candidate.count)]
        # Through running averages from the newest state on: equal states average to themselves, bit for bit.
        kernel = chained(weights[-2::-1])
        for place, targets, inputs in _by_device(out, newest_first):
            workspace = Workspace(place)
            for target, *pieces in zip(targets, *inputs, strict=True):
                apply(kernel, target, pieces, workspace)

    def state_dict(self) -> dict[str, Any]:
        """Everything held, as plain values and tensors.

        As in torch the tensors are the store's own: save or copy them before the next push.
        """
        memory = self.memory
        return {
            "memory": {"every": memory.every, "emas": list(memory.emas), "dtype": str(memory.dtype)},
            "first": self._first,
            "last": self._last,
            "updates": self._updates,
            "steps": list(self._ring.steps) if self._ring is not None else [],
            "snapshots": [list(each.tensors) for each in self._ring or ()],
            "emas": [list(each) for each in self._emas] if self._updates else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, bit for bit; of more snapshots than are kept, the newest.

        Raises:
            ValueError: the state was taken with another memory or of another model.
        """
        memory = self.memory
        here = {"every": memory.every, "emas": list(memory.emas), "dtype": str(memory.dtype)}
        if state["memory"] != here:
            raise ValueError(
                f"the annealing state was kept with {state['memory']}, and this memory is {here}: use the same one"
            )
        kept = -memory.snapshots or len(state["steps"])
        snapshots, emas = ([self._apart(each) for each in state[name]] for name in ("snapshots", "emas"))
        for tensors in (*snapshots, *emas):
            require_same_shapes(self._shapes, tensors, "the annealing state")
        self.reset()
        if self._ring is not None:
            for step, tensors in zip(state["steps"][kept:], snapshots[kept:], strict=True):
                self._ring.push(step, tensors)
        for average, saved in zip(self._allocated() if emas else (), emas, strict=True):
            copy_(average, saved)
        self._first, self._last, self._updates = state["first"], state["last"], state["updates"]

    def _apart(self, tensors: Tensors) -> list[Tensor]:
        # A state may be this very store's, whose buffers are about to be written.
        own = {each.data_ptr() for average in self._emas for each in average}
        held = [each.data_ptr() in own or (self._ring is not None and self._ring.holds(each)) for each in tensors]
        return [each.clone() if mine else each for each, mine in zip(tensors, held, strict=True)]

    def _ema(self, candidate: Candidate) -> list[Tensor]:
        if candidate.decay not in self.memory.emas or not self._updates:
            raise ValueError(f"no EMA of decay {candidate.decay} is held: take one of candidates()")
        return self._emas[self.memory.emas.index(candidate.decay)]

    def _allocated(self) -> list[list[Tensor]]:
        if not self._emas:
            self._emas = [self._buffers() for _ in self.memory.emas]
        return self._emas

    def _buffers(self) -> list[Tensor]:
        return [
            torch.empty(shape.shape, device=device, pin_memory=self._pinned and device.type == "cpu")
            for shape, device in zip(self._shapes, self._devices, strict=True)
        ]

    @torch.no_grad()
    def _average(self, steps: int, parameters: Tensors) -> None:
        """Move every EMA on by a number of steps; the first weights are taken as they are."""
        for decay, average in zip(self.memory.emas, self._allocated(), strict=True):
            if self._updates:
                _lerp(average, parameters, 1.0 - decay**steps)
            else:
                copy_(average, parameters)


def _windows(held: int) -> Iterator[int]:
    """2, 3, 4, 6, 8, 12, 16 ... up to what is held, and that."""
    size, beside = 2, 3
    while size < held:
        yield size
        size, beside = beside, 2 * size
    if held > 1:
        yield held


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) < 1e-12 for x, y in zip(a, b, strict=True))


def _lerp(average: list[Tensor], parameters: Tensors, weight: float) -> None:
    """average += weight (parameters - average), in float32."""
    alike = all(
        each.dtype == torch.float32 and each.device == kept.device
        for each, kept in zip(parameters, average, strict=True)
    )
    if alike:
        torch._foreach_lerp_(average, [each.detach() for each in parameters], weight)
        return

    def kernel(out: Tensor, pieces: Sequence[Tensor], _: Workspace) -> None:
        torch.lerp(pieces[0], pieces[1], weight, out=out)

    for _, targets, (kept, new) in _by_device(average, [average, parameters]):
        workspace = Workspace(kept)
        for target, before, after in zip(targets, kept, new, strict=True):
            apply(kernel, target, [before, after], workspace)


def _by_device(
    out: Tensors, inputs: Sequence[Tensors]
) -> Iterator[tuple[list[Tensor], list[Tensor], list[list[Tensor]]]]:
    """For each device of the first inputs: those inputs, the outputs and all inputs at their positions."""
    places: dict[torch.device, list[int]] = {}
    for position, tensor in enumerate(inputs[0]):
        places.setdefault(tensor.device, []).append(position)
    for positions in places.values():
        chosen = [[tensors[i] for i in positions] for tensors in inputs]
        yield chosen[0], [out[i] for i in positions], chosen
