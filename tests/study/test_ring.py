"""Where the ring of snapshots lies changes no number of a sweep or a cascade."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leapverify.config.study import CascadeConfig, SweepConfig
from leapverify.core.weights import trainable
from leapverify.io.records import CascadeLink, Prediction
from leapverify.study.cascade import Cascader, Start
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.batches import make_batch
from leapverify.train.loop import train_step
from leapverify.train.losses import sequence_losses
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verifier
from marks import slow
from micro import timeless

SWEEP = SweepConfig(horizons=(5, 50), momentum_scales=(0.8, 1.2))
CASCADE = CascadeConfig(shapes=((3, 4),), predictors=("linear", "quadratic", "adam"), trained_predictors=("linear",))


def swept(dtype: torch.dtype, **ring: Any) -> tuple[list[Prediction], list[CascadeLink], list[torch.Tensor]]:
    """A few steps, then a sweep and cascades with the ring in some place; the run then goes on."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    spec = ModelSpec(layers=1, hidden=16, heads=2, context=32)
    model: nn.Module = build_model(spec, seed=0, vocab_size=64, sequence_length=16).to(dtype)
    parameters = list(trainable(model).values())
    optimizer = build_optimizer(parameters, 1e-2)
    if ring.get("device") == "one each":
        ring["device"] = [torch.device("cpu")] * len(parameters)
    history = History(parameters, 3, dtype=dtype, **ring)
    batches = [make_batch(torch.randint(64, (8, 16), generator=generator) % 9) for _ in range(6)]

    def train(first: int, step: int, count: int) -> None:
        for index in range(count):
            train_step(model, optimizer, batches[(first + index) % 4], 1e-2 / (step + index))

    def state(step: int) -> OptimizerState:
        return OptimizerState.from_optimizer(optimizer, parameters, step=step)

    verifier = Verifier(model, batches, sequence_losses, sequences=16, budget=48)
    predictions: list[Prediction] = []
    links: list[CascadeLink] = []
    sweeper = Sweeper(parameters, history, verifier, SWEEP)
    cascader = Cascader(
        model, optimizer, parameters, history, verifier, train, state, CASCADE, restorer=sweeper.restorer
    )
    for step in (4, 8, 12, 16):
        train(step, step, 4)
        history.push(step, parameters)
        history.optimizer = state(step)
        now = verifier.measure()
        predictions += sweeper.sweep(SweepPoint(1, step, "stable", now, 0.01))
        links += cascader.run(Start(1, step, now.loss))
    return predictions, links, [parameter.detach().clone() for parameter in parameters]


@pytest.mark.parametrize("dtype", [slow(torch.float32), torch.bfloat16])
def test_every_place_gives_the_same_numbers_and_the_same_run(dtype: torch.dtype) -> None:
    predictions, links, weights = swept(dtype)
    assert {row.status for row in predictions} >= {"ok", "declined"}
    assert sum(link.status == "ok" for link in links) >= 3 * len(CASCADE.predictors)
    for ring in ({"device": "cpu"}, {"device": "one each"}, {"pinned": True}, {"device": "one each", "pinned": True}):
        other = swept(dtype, **ring)
        assert timeless(other[0]) == timeless(predictions)
        assert timeless(other[1]) == timeless(links)
        assert all(map(torch.equal, other[2], weights))


def test_sweeps_and_cascades_leave_the_run_as_if_they_had_not_been(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, weights = swept(torch.bfloat16)
    monkeypatch.setattr(Sweeper, "sweep", lambda *_: [])
    monkeypatch.setattr(Cascader, "run", lambda *_: [])
    _, _, alone = swept(torch.bfloat16)
    assert all(map(torch.equal, weights, alone))
