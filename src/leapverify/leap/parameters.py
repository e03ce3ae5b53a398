"""The weights that a run moves, by name, and their history; noticed when the model changes under it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from leapverify.core.ranks import Ranks
from leapverify.core.shards import Shards
from leapverify.core.weights import trainable
from leapverify.leap.ledger import Ledger
from leapverify.leap.optimizers import held_by
from leapverify.leap.parallel import before_writes, layout_of, require_same_parameters, writable
from leapverify.predict import STRAIGHTNESS, Needs
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""Types of parameters that can be moved by a prediction."""
RECENT_SHARE = 0.2
"""Of all that may be spent, keeping the last steps before a checkpoint one by one takes at most so much."""
AVERAGING_PASSES = 5.0
"""Copies of all weights that a state in both running averages takes: two are moved on, and two kept."""


@dataclass(frozen=True)
class Storage:
    """Where snapshots lie, and in which type."""

    snapshots: int
    dtype: torch.dtype = torch.float32
    device: str | None = None
    """None: beside the weights; `cpu`: host memory, pinned where an accelerator is in use."""
    wanted: Needs = STRAIGHTNESS
    """What is kept beside the snapshots."""

    @property
    def pinned(self) -> bool:
        """Whether snapshots lie in page-locked memory."""
        return self.device == "cpu" and torch.cuda.is_available()

    def history(self, parameters: Sequence[Tensor]) -> History:
        """An empty history of such snapshots, and of all that is to be kept beside them."""
        history = History(parameters, self.snapshots, dtype=self.dtype, device=self.device, pinned=self.pinned)
        wanted = self.wanted
        history.keep(recent=wanted.recent, averages=wanted.averages, milestones=bool(wanted.milestones))
        return history


class Trajectory:
    """The parameters that predictions move, looked up anew at every checkpoint, and their snapshots.

    Args:
        model: the model.
        optimizers: what they do not hold is not trained and not predicted.
        include: keeps a parameter by its name.
        storage: of the history.
        ranks: of the run; all of them make the same calls.

    Raises:
        ValueError: no trainable parameter, none that the optimizers hold, or some that are not initialised, or no real
            floating-point numbers.
        Apart: the ranks hold other parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        include: Callable[[str], bool] | None,
        storage: Storage,
        ranks: Ranks | None = None,
    ) -> None:
        self._model, self._optimizers, self._include = model, optimizers, include
        self.storage, self.ranks = storage, Ranks() if ranks is None else ranks
        self.before_writes = before_writes(model)
        """Called before weights are written: under `fully_shard` the modules must hold their shards."""
        _refuse_lazy(model)
        self.before_writes()
        self.parameters = self._look_up()
        self._signature = _signature(self.parameters)
        self.history = self._begin()

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters in order; of those that are DTensors the parts that this rank holds, sharing memory."""
        return [writable(each) for each in self.parameters.values()]

    @property
    def whole(self) -> list[nn.Parameter]:
        """The parameters in order, as model and optimizers hold them."""
        return list(self.parameters.values())

    @property
    def elements(self) -> int:
        """Numbers that this rank holds of all of them."""
        return sum(each.numel() for each in self.tensors)

    @property
    def shards(self) -> Shards | None:
        """How they are spread over ranks; None in one process."""
        return self.history.shards

    @property
    def layout(self) -> str | None:
        """Of which rank of which layout the parts are; None where every rank holds whole tensors."""
        return layout_of(self.whole, self.ranks)

    @property
    def device(self) -> torch.device:
        """Where the first parameter lies."""
        return self.tensors[0].device

    def release(self) -> None:
        """Give the snapshots' memory back."""
        self.history = self.storage.history(self.tensors)

    def refresh(self) -> str | None:
        """Look the parameters up again; what has changed, in words, if anything has: the history then begins anew."""
        self.before_writes()
        self.parameters = self._look_up()
        signature = _signature(self.parameters)
        changes = self.ranks.all_gather("changes of the model", _difference(self._signature, signature))
        change = next((each for each in changes if each is not None), None)
        self._signature = signature
        if change is None:
            return None
        self.history = self._begin()
        return change

    def start(self, step: int) -> None:
        """Keep the present weights as the state that the run began with, where early states are kept at all."""
        self.history.start(step, self.tensors)

    def push(self, step: int, ledger: Ledger) -> None:
        """Take the weights of a checkpoint into the history, and into what is kept beside it."""
        history = self.history
        with ledger.part("snapshot", self.device):
            history.push(step, self.tensors)
            if history.recent is not None:
                history.recent.push(step, self.tensors)
        averaging = AVERAGING_PASSES if history.averages is not None else 0.0
        ledger.passes("snapshot", 1.0 + averaging + (history.recent is not None) + (history.milestones is not None))

    def push_recent(self, step: int, ledger: Ledger) -> None:
        """Keep the weights of a step shortly before a checkpoint, if the budget covers it."""
        recent = self.history.recent
        if recent is None or not ledger.within("recent", ledger.mean_cost("recent", 0.0), RECENT_SHARE):
            return
        if _difference(self._signature, _signature(self.parameters)) is not None:
            return  # the checkpoint looks the parameters up again, and says so
        with ledger.part("recent", self.device):
            recent.push(step, self.tensors)
        ledger.passes("recent", 1.0)

    def _begin(self) -> History:
        history = self.storage.history(self.tensors)
        if not self.ranks.alone:
            require_same_parameters(self.parameters, self.ranks)
            history.shards = Shards.of(self.whole, self.ranks)
        if self.storage.wanted.layout:
            history.layout = Layout.of(self._model, list(self.parameters))
        return history

    def _look_up(self) -> dict[str, nn.Parameter]:
        held = held_by(self._optimizers)
        moving = trainable(self._model, self._include)
        found = {_plain(name): parameter for name, parameter in moving.items() if id(parameter) in held}
        if not found:
            names = ", ".join(type(each).__name__ for each in self._optimizers)
            raise ValueError(
                f"{names} holds none of the {len(moving)} trainable parameters of {type(self._model).__name__}: pass "
                "the optimizer that was built with this model's parameters"
            )
        other = next((name for name, each in found.items() if each.dtype not in FLOATS), None)
        if other is not None:
            raise ValueError(
                f"parameter {other} is of type {found[other].dtype}, which is not predicted: leave it out with "
                f"include=lambda name: name != {other!r}"
            )
        return found


def _refuse_lazy(model: nn.Module) -> None:
    lazy = next((name for name, each in model.named_parameters() if is_lazy(each)), None)
    lazy = lazy or next((name for name, each in model.named_buffers() if is_lazy(each)), None)
    if lazy is not None:
        raise ValueError(
            f"{lazy} of {type(model).__name__} is not initialised yet: run one forward pass first, then build the "
            "optimizer and this"
        )


def _plain(name: str) -> str:
    """A parameter's name without what torch.compile puts before it."""
    return name.replace("_orig_mod.", "")


@dataclass(frozen=True, eq=False)
class _Form:
    """What a parameter is, and which: another one of the same shape is another model."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    which: weakref.ref[nn.Parameter]
    """Not its id alone, which a later parameter may take over."""

    @classmethod
    def of(cls, parameter: nn.Parameter) -> _Form:
        """The form of a parameter as it is now."""
        return cls(tuple(parameter.shape), parameter.dtype, parameter.device, weakref.ref(parameter))

    def like(self, other: _Form) -> bool:
        """Whether shape, type and device are the same."""
        return (self.shape, self.dtype, self.device) == (other.shape, other.dtype, other.device)


Signature = dict[str, _Form]


def _signature(parameters: dict[str, nn.Parameter]) -> Signature:
    return {name: _Form.of(each) for name, each in parameters.items()}


def _difference(before: Signature, after: Signature) -> str | None:
    """What has changed, in words; None if nothing has."""
    both = [name for name in after if name in before]
    alike = {name for name in both if before[name].like(after[name])}
    changes = (
        ([name for name in before if name not in after], "no longer moves", "no longer move"),
        ([name for name in after if name not in before], "moves now that did not", "move now that did not"),
        ([name for name in both if name not in alike], "has another form", "have another form"),
        (
            [n for n in both if n in alike and before[n].which() is not after[n].which()],
            "was replaced",
            "were replaced",
        ),
    )
    parts = [
        f"parameter {names[0]} {one}" if len(names) == 1 else f"{len(names)} parameters {many} ({names[0]} ...)"
        for names, one, many in changes
        if names
    ]
    if not parts and list(before) != list(after):
        return "the order of the parameters"
    return "; ".join(parts) or None
