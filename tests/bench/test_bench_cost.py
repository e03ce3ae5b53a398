"""What a network that a predictor runs on each weight costs beside a training step."""

import pytest
import torch

from leapverify.leap.ledger import network_tokens
from leapverify.predict import predictor
from leapverify.predict.nino.mlp import LastLayer, MlpNetwork, per_parameter_form
from leapverify.trajectory.history import History

SHAPES = ((3, 5), (7,))
WEIGHTS = 22


@pytest.fixture
def history() -> History:
    tensors = [torch.zeros(shape) for shape in SHAPES]
    found = History(tensors, 2)
    found.push(10, tensors)
    return found


@pytest.mark.parametrize(("name", "multiplications"), [("introspection", 4 * 40 + 40), ("wnn", 80 + 64 + 512 + 528)])
def test_a_multiplication_and_addition_for_each_weight_is_a_forward_token(history, name, multiplications):
    assert network_tokens(predictor(name), history, WEIGHTS) == multiplications
    # Adapters: the frozen weights take part in the forward pass, and in no prediction.
    assert network_tokens(predictor(name), history, 10 * WEIGHTS) == multiplications / 10


def test_the_network_of_nino_costs_what_its_layers_take(history):
    width = 32
    square = (torch.zeros(width, width), torch.zeros(width))
    last = LastLayer(torch.zeros(40, width), (0.0,) * 40)
    network = MlpNetwork(torch.zeros(15, 6, width), (square, square), last)
    assert network_tokens(per_parameter_form(network), history, WEIGHTS) == width * (6 + 2 * width + 1)


@pytest.mark.parametrize("name", ["hold", "linear", "adam", "subspace"])
def test_without_a_network_nothing_is_added(history, name):
    assert network_tokens(predictor(name), history, WEIGHTS) == 0.0
