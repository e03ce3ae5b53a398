"""Steps that leave no trace: train on from a state, then have that state back bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leapverify.shards import local
from leapverify.study.aside import Aside
from leapverify.train.state import capture_rng, restore_rng


class Standing:
    """Where a run stands, put aside once and gone back to as often as wanted.

    That is weights, buffers, moments, step counts, rates, training modes and random streams. On a GPU the moments are
    copied beside whatever else it does: say `leave` before anything of this changes, `settle` before they are read.

    Args:
        model, optimizer: the run.
        apart: weights that the caller brings back itself, or what this rank holds of them.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, apart: Sequence[Tensor] = ()) -> None:
        self._model, self._optimizer = model, optimizer
        self._apart = {_place(tensor) for tensor in apart}
        self._moments, self._rest = Aside(), Aside()
        self._left = False

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that hold the tensors."""
        return self._moments.nbytes + self._rest.nbytes

    def keep(self) -> None:
        """Put aside where the run stands now."""
        trained = [local(each) for each in self._model.parameters() if each.requires_grad]
        weights = [each for each in trained if _place(each) not in self._apart]
        groups = self._optimizer.param_groups
        states = [self._optimizer.state.get(each, {}) for group in groups for each in group["params"]]
        moments = [local(value) for state in states for value in state.values() if isinstance(value, Tensor)]
        # Looking at a model may write these, and writes them back: they cannot be read meanwhile.
        self._rest.save([*weights, *self._model.buffers()])
        self._rest.wait()
        self._moments.save(moments)
        self._known = set(self._optimizer.state)
        self._rates = [group["lr"] for group in groups]
        self._modes = [(module, module.training) for module in self._model.modules()]
        self._streams = capture_rng()
        self._left = False

    def leave(self) -> None:
        """Something of it is about to change."""
        self.settle()
        self._left = True

    def settle(self) -> None:
        """What is asked of the device from here on finds everything in its place."""
        self._moments.wait()

    def go_back(self) -> None:
        """Start going back to where the run stood, if it has been left; any number of times."""
        if not self._left:
            return
        self._left = False
        self._moments.restore()
        self._rest.restore()
        self._rest.wait()
        for parameter in [each for each in self._optimizer.state if each not in self._known]:
            del self._optimizer.state[parameter]
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        for module, training in self._modes:
            module.training = training
        restore_rng(self._streams)


def _place(tensor: Tensor) -> tuple[int, int]:
    """Where a tensor lies; all that are empty lie nowhere."""
    part = local(tensor)
    return (part.data_ptr(), part.numel()) if part.numel() else (0, 0)
