"""Looking at a model leaves no trace: every claim is tested on bits, after good and after bad endings."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leapverify.core.undisturbed import repeated_streams, undisturbed, unwritten


class Noisy(nn.Module):
    """Draws from every global stream, moves BatchNorm statistics, writes and replaces buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))
        self.register_buffer("counter", torch.tensor([1.0, float("nan")]))
        self.register_buffer("scratch", torch.arange(3), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        self.counter += random.random()
        self.scratch = torch.zeros(7)
        self.absent = torch.zeros(2)
        self.register_buffer("added", torch.zeros(1))
        np.random.rand(3)
        random.gauss(0, 1)
        self.norm.running_mean.add_(1.0)
        return self.inner(self.drop(self.norm(x))) + torch.randn(4)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything that must not change, as comparable values."""
    return {
        "modes": [module.training for module in model.modules()],
        "buffers": {name: (id(buffer), buffer.dtype, bits(buffer)) for name, buffer in model.named_buffers()},
        "slots": [list(module._buffers) for module in model.modules()],
        "parameters": {name: bits(parameter) for name, parameter in model.named_parameters()},
        "python": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()[2:]] + [np.random.get_state()[1].tobytes()],
        "torch": bits(torch.get_rng_state()),
        "grad": torch.is_grad_enabled(),
    }


def mixed(model: nn.Module) -> None:
    model.train()
    model.norm.eval()
    model.inner[1].eval()


@pytest.mark.failure(6, 7, 9)
@pytest.mark.parametrize("mode", [nn.Module.train, nn.Module.eval, mixed], ids=["train", "eval", "mixed"])
@pytest.mark.parametrize("ending", ["well", "raises"])
def test_leaves_modes_buffers_and_streams_bit_identical(mode, ending):
    model = Noisy()
    mode(model)
    before = state_of(model)
    expected = pytest.raises(RuntimeError, match="in the middle") if ending == "raises" else nullcontext()
    with expected, undisturbed(model) as same:
        assert same is model
        model(torch.randn(5, 4))
        during = state_of(model)
        assert all(during[what] != before[what] for what in ("buffers", "slots", "python", "numpy", "torch", "grad"))
        if ending == "raises":
            raise RuntimeError("in the middle")
    assert state_of(model) == before


def test_inside_all_modules_are_in_eval_mode_and_nothing_has_a_gradient():
    model = Noisy()
    mixed(model)
    with undisturbed(model):
        assert not any(module.training for module in model.modules())
        assert not model(torch.randn(5, 4)).requires_grad
    assert torch.is_grad_enabled()


def test_the_streams_go_on_as_if_nothing_had_been_drawn():
    model = Noisy()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    random.gauss(0, 1)
    np.random.standard_normal()
    wanted_state = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    wanted = (random.gauss(0, 1), np.random.standard_normal(), torch.randn(4).tolist())
    random.setstate(wanted_state[0])
    np.random.set_state(wanted_state[1])
    torch.set_rng_state(wanted_state[2])
    with undisturbed(model):
        model(torch.randn(5, 4))
    assert (random.gauss(0, 1), np.random.standard_normal(), torch.randn(4).tolist()) == wanted


def test_does_not_call_an_overridden_train():
    class Merging(nn.Linear):
        def train(self, mode: bool = True) -> Merging:
            raise AssertionError("train() may merge adapters into the weights, and is not to be called")

    with undisturbed(Merging(2, 2)) as model:
        assert not model.training
    assert model.training


def test_a_graph_that_waits_for_its_backward_pass_is_not_upset():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

        def forward(self) -> Tensor:
            return (self.weight * self.scale).sum()

    model = Scaled()
    loss = model()
    with undisturbed(model):
        model()
    loss.backward()
    assert model.weight.grad.tolist() == [1.0, 2.0, 3.0]


def test_shared_buffers_stay_shared():
    model = nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(2)])
    model[1].running_mean = model[0].running_mean
    with undisturbed(model):
        model[0].running_mean.add_(1.0)
    assert model[1].running_mean is model[0].running_mean
    assert model[0].running_mean.tolist() == [0.0, 0.0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_leaves_the_cuda_streams_bit_identical():
    model = nn.Linear(2, 2).cuda()
    torch.randn(3, device="cuda")
    before = torch.cuda.get_rng_state()
    with undisturbed(model):
        torch.randn(5, device="cuda")
        assert bits(torch.cuda.get_rng_state()) != bits(before)
    assert bits(torch.cuda.get_rng_state()) == bits(before)


def test_weights_that_a_forward_pass_shortens_come_back():
    model = nn.Sequential(nn.Embedding(6, 4, max_norm=0.1), nn.Linear(4, 2))
    before = bits(model[0].weight)
    with undisturbed(model), unwritten(model):
        model(torch.arange(6))
        assert bits(model[0].weight) != before
    assert bits(model[0].weight) == before


def test_a_buffer_registered_where_there_was_none_goes_again():
    model = nn.Linear(2, 2)
    with undisturbed(model):
        model.register_buffer("late", torch.zeros(1))
    assert list(model.state_dict()) == ["weight", "bias"]


@pytest.mark.failure(7)
def test_a_written_parameter_is_found_out():
    class Clips(nn.Linear):
        """Keeps its weights small, in eval mode, too."""

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
            return super().forward(x)

    model = nn.Sequential(nn.Linear(2, 2), Clips(2, 2))
    with pytest.raises(ValueError, match=r"parameter 1\.weight was written by a forward pass"), unwritten(model):
        model(torch.ones(1, 2))
    with unwritten(model):
        model[0](torch.ones(1, 2))


def test_frozen_parameters_of_any_type_do_not_disturb():
    model = nn.Linear(2, 2)
    model.table = nn.Parameter(torch.arange(3), requires_grad=False)
    model.small = nn.Parameter(torch.zeros(3).to(torch.float8_e4m3fn), requires_grad=False)
    with undisturbed(model), unwritten(model):
        model(torch.ones(1, 2))


def test_repeated_streams_repeat_and_come_back():
    model = nn.Linear(2, 2)
    before = state_of(model)
    drawn = []
    for _ in range(2):
        with repeated_streams(model):
            drawn.append((torch.randn(2).tolist(), random.random(), float(np.random.rand())))
        torch.randn(3)
    assert drawn[0] == drawn[1]
    assert state_of(model)["python"] == before["python"]
