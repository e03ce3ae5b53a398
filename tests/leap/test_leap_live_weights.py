"""The weights that move: which they are, and what is told when they change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leapverify.leap.live_weights import LiveWeights, Storage


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


def _weights(model: nn.Module, include: object = None) -> tuple[LiveWeights, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return LiveWeights(model, [optimizer], include, Storage(3)), optimizer


def test_nothing_is_told_while_nothing_changes() -> None:
    model = _model()
    weights, optimizer = _weights(model)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    model.load_state_dict(_model().state_dict())
    history = weights.history
    assert weights.refresh() is None
    assert weights.history is history


def test_a_replaced_module_of_the_same_shape_is_noticed() -> None:
    model = _model()
    weights, optimizer = _weights(model)
    weights.history.push(1, weights.tensors)
    model[2] = nn.Linear(8, 2)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    assert weights.refresh() == "2 parameters were replaced (2.weight ...)"
    assert weights.tensors[-1] is model[2].bias
    assert len(weights.history) == 0
    assert weights.refresh() is None
    model[2].bias = nn.Parameter(torch.zeros(2))
    optimizer.param_groups[0]["params"] = list(model.parameters())
    assert weights.refresh() == "parameter 2.bias was replaced"


def test_other_changes_are_told_apart() -> None:
    model = _model()
    weights, _ = _weights(model)
    model[0].weight.requires_grad_(False)
    assert weights.refresh() == "parameter 0.weight no longer moves"
    model[0].weight.requires_grad_(True)
    assert weights.refresh() == "parameter 0.weight moves now that did not"
    model.double()
    assert weights.refresh() == "6 parameters have another form (0.weight ...)"


class Waves(nn.Module):
    """A real and a complex parameter, and frozen ones of odd types."""

    def __init__(self) -> None:
        super().__init__()
        self.real = nn.Linear(2, 2)
        self.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)
        self.small = nn.Parameter(torch.zeros(3).to(torch.float8_e4m3fn), requires_grad=False)


def test_complex_parameters_are_refused_before_the_run_unless_left_out() -> None:
    model = Waves()
    with pytest.raises(ValueError, match=r"parameter waves is of type torch.complex64, .* include="):
        _weights(model)
    weights, _ = _weights(model, lambda name: name != "waves")
    assert list(weights.parameters) == ["real.weight", "real.bias"]
    weights.history.push(1, weights.tensors)
    assert weights.refresh() is None


def test_lazy_parameters_are_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"0\.weight .* is not initialised yet: run one forward pass first"):
        LiveWeights(model, [optimizer], None, Storage(3))
