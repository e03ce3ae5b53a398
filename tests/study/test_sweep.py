"""The sweep that runs ahead of the device: the numbers of one evaluation after another, and no wait between them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from leapverify.config.study import SweepConfig
from leapverify.core.weights import all_finite, trainable
from leapverify.errors import Declined
from leapverify.io.records import Prediction
from leapverify.predict import Predictor, predictor
from leapverify.study import sweep as module
from leapverify.study.sweep import Sweeper, SweepPoint
from leapverify.train.batches import make_batch
from leapverify.train.losses import mean_loss, sequence_losses
from leapverify.train.models import ModelSpec, build_model
from leapverify.train.optimizer import build_optimizer
from leapverify.trajectory.history import History, OptimizerState
from leapverify.verify import Verdict, Verifier
from micro import timeless

EVERY = ("hold", "random", "linear", "quadratic", "quadratic-paper", "quadratic-clamped", "momentum", "adam")
EVERY += ("adam-constant", "taylor-3", "taylor-4")
SETTINGS = SweepConfig(predictors=EVERY, horizons=(1, 5, 50), momentum_scales=(0.8, 1.0, 1.2))


class Tiny:
    """A language model that has taken a few steps, its history, and a verifier."""

    def __init__(
        self,
        snapshots: int = 4,
        *,
        history: torch.dtype = torch.float32,
        weights: torch.dtype = torch.float32,
        loss: Callable[[nn.Module, Any], Any] = sequence_losses,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        spec = ModelSpec(layers=1, hidden=16, heads=2, context=32)
        self.model = build_model(spec, seed=0, vocab_size=64, sequence_length=16).to(weights)
        self.parameters = list(trainable(self.model).values())
        self.optimizer = build_optimizer(self.parameters, 1e-3)
        self.history = History(self.parameters, 4, dtype=history)
        batches = [make_batch(torch.randint(64, (8, 16), generator=generator) % 7) for _ in range(8)]
        for step in range(1, snapshots + 1):
            mean_loss(self.model, batches[0]).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.history.push(50 * step, self.parameters)
        self.passes = 0

        def counted(model: nn.Module, batch: Any) -> Any:
            self.passes += 1
            return loss(model, batch)

        self.verifier = Verifier(self.model, batches, counted, sequences=16, budget=64)
        self.take_state()

    def take_state(self) -> None:
        step = self.history.steps[-1]
        self.history.optimizer = OptimizerState.from_optimizer(
            self.optimizer, self.parameters, step=step, schedule=lambda _: 1e-3
        )

    def point(self) -> SweepPoint:
        return SweepPoint(1, self.history.steps[-1], "stable", self.verifier.measure(), 0.01)

    def sweeper(self, settings: SweepConfig = SETTINGS) -> Sweeper:
        return Sweeper(self.parameters, self.history, self.verifier, settings)


def one_after_another(tiny: Tiny, point: SweepPoint, settings: SweepConfig) -> list[dict[str, Any]]:
    """The plain form: predict, look whether it is finite, verify to the end, then the next."""
    kept = [parameter.detach().clone() for parameter in tiny.parameters]
    rows = []
    for name in settings.predictors:
        for horizon in settings.horizons:
            scales = settings.momentum_scales if name == "momentum" else (None,)
            methods = [predictor(name) if scale is None else predictor(name, scale=scale) for scale in scales]
            found = [one(tiny, point, method, horizon) for method in methods]
            best = min(found, key=lambda row: math.inf if row["loss_predicted"] is None else row["loss_predicted"])
            rows.append({"predictor": name, "horizon": horizon, **best})
    with torch.no_grad():
        for parameter, value in zip(tiny.parameters, kept, strict=True):
            parameter.copy_(value)
    return rows


FIELDS = ("loss_predicted", "strict", "adaptive", "proximity", "paired", "paired_lower", "paired_sequences")
REFUSED = dict.fromkeys(("strict", "adaptive", "proximity", "paired"), False)


def one(tiny: Tiny, point: SweepPoint, method: Predictor, horizon: int) -> dict[str, Any]:
    blank = dict.fromkeys(FIELDS)
    try:
        method.predict(tiny.history, horizon, out=tiny.parameters)
    except Declined as declined:
        return {**blank, "status": "declined", "reason": str(declined)}
    if not all_finite(tiny.parameters):
        return {**blank, **REFUSED, "status": "nonfinite", "reason": "the predicted weights are not finite"}
    verdict: Verdict = tiny.verifier.verify(point.now, point.sigma)
    if not verdict.finite:
        return {**blank, **REFUSED, "status": "nonfinite", "reason": "the predicted loss is not finite"}
    judged = {field: getattr(verdict, field) for field in FIELDS[1:]}
    return {**judged, "loss_predicted": verdict.loss, "status": "ok", "reason": None}


def assert_same(rows: Sequence[Prediction], expected: Sequence[dict[str, Any]]) -> None:
    assert [{key: row[key] for key in expected[0]} for row in timeless(list(rows))] == list(expected)


def weights_of(tiny: Tiny) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in tiny.parameters]


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("history", [torch.float32, torch.float16])
def test_running_ahead_gives_the_numbers_of_one_after_another(history: torch.dtype) -> None:
    tiny = Tiny(history=history)
    point, before = tiny.point(), weights_of(tiny)
    rows = tiny.sweeper().sweep(point)
    assert all(map(torch.equal, before, weights_of(tiny)))
    assert_same(rows, one_after_another(tiny, point, SETTINGS))
    # What is compared has something of everything in it.
    assert {row.status for row in rows} == {"ok", "declined"}
    assert {row.paired for row in rows} == {True, False, None}
    assert len({row.paired_sequences for row in rows if row.status == "ok"} - {16}) > 1


def test_declined_predictors_say_what_they_lack_and_cost_nothing() -> None:
    tiny = Tiny(snapshots=1)
    tiny.history.optimizer = None
    point = tiny.point()
    rows = tiny.sweeper().sweep(point)
    assert_same(rows, one_after_another(tiny, point, SETTINGS))
    assert {row.predictor for row in rows if row.status == "ok"} == {"hold"}
    assert {row.predict_s + row.verify_s for row in rows if row.status == "declined"} == {0.0}


@pytest.mark.failure(8)
def test_weights_that_are_not_finite_are_rejected_by_name() -> None:
    tiny = Tiny()
    for state in tiny.optimizer.state.values():
        state["exp_avg_sq"].zero_()
        state["exp_avg"].fill_(3e38)
    tiny.take_state()
    point, before = tiny.point(), weights_of(tiny)
    rows = tiny.sweeper().sweep(point)
    assert all(map(torch.equal, before, weights_of(tiny)))
    assert_same(rows, one_after_another(tiny, point, SETTINGS))
    reasons = {row.predictor: row.reason for row in rows if row.status == "nonfinite"}
    assert reasons == dict.fromkeys(("momentum", "adam", "adam-constant"), "the predicted weights are not finite")


@pytest.mark.failure(8)
def test_losses_that_are_not_finite_are_rejected_by_name() -> None:
    tiny = Tiny()
    for state in tiny.optimizer.state.values():
        state["exp_avg"].fill_(3e28)
        state["exp_avg_sq"].fill_(1.0)
    tiny.take_state()
    point = tiny.point()
    rows = tiny.sweeper().sweep(point)
    assert_same(rows, one_after_another(tiny, point, SETTINGS))
    assert "the predicted loss is not finite" in {row.reason for row in rows if row.predictor == "momentum"}


def test_of_several_scales_the_best_makes_way_when_its_later_losses_are_not_finite() -> None:
    """The best scale fails beyond the fixed set only, where the paired test is still open: the next one is taken."""
    tiny = Tiny()
    bias = next(each for each in tiny.parameters if each.ndim == 1)
    batches = [make_batch(torch.full((16, 16), number)) for number in range(2)]
    spoilt: list[float] = []
    seen: list[float] = []

    def tricky(_: nn.Module, batch: Any) -> Tensor:
        value = float(bias.detach()[0])
        seen.append(value)
        if batch is not batches[0] and value in spoilt:
            return torch.full((16,), math.nan)
        return 2.0 + (0.1 * torch.tensor([1, -1] * 8, dtype=torch.float64) - 1e-3) * value

    tiny.verifier = Verifier(tiny.model, batches, tricky, sequences=16, budget=32)
    settings = SweepConfig(predictors=("momentum",), horizons=(5,), momentum_scales=(0.8, 1.0, 1.2))
    point, now = tiny.point(), seen[0]
    (first,) = tiny.sweeper(settings).sweep(point)
    spoilt.append(max(value for value in seen if value != now))
    rows = tiny.sweeper(settings).sweep(point)
    assert_same(rows, one_after_another(tiny, point, settings))
    assert (rows[0].status, rows[0].paired_sequences) == ("ok", 32)
    assert rows[0].loss_predicted > first.loss_predicted
    spoilt += seen
    spoilt.remove(now)
    rows = tiny.sweeper(settings).sweep(point)
    assert_same(rows, one_after_another(tiny, point, settings))
    assert rows[0].reason == "the predicted loss is not finite"


# --- no more than is needed -------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what makes a host wait for its device; these calls are the same on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::nonzero"}:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls that bring a tensor's values to the host without any operation that a dispatch mode would see."""
    found: list[str] = []
    for name in ("cpu", "tolist", "numpy", "item"):
        plain = getattr(Tensor, name)

        def noted(self: Tensor, *args: Any, _plain: Any = plain, _name: str = name, **kwargs: Any) -> Any:
            found.append(_name)
            return _plain(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, noted)
    return found


def test_the_host_waits_once_between_the_first_prediction_and_the_criteria(
    reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny()
    sweeper, point, waits = tiny.sweeper(), tiny.point(), Waits()
    plain_queue, plain_fetch = sweeper._queue, module.fetch
    during: list[int] = []
    transfers: list[int] = []

    def queue(*args: Any) -> None:
        before = len(reads)
        with waits:
            plain_queue(*args)
        during.append(len(reads) - before)

    def fetch(*args: Any) -> Any:
        before = len(reads)
        found = plain_fetch(*args)
        transfers.append(reads[before:].count("cpu"))
        return found

    monkeypatch.setattr(sweeper, "_queue", queue)
    monkeypatch.setattr(module, "fetch", fetch)
    rows = sweeper.sweep(point)
    assert waits.found == []
    assert during == [0] * (len(EVERY) + 2) * 3
    assert transfers == [1]
    assert sum(row.status == "ok" for row in rows) == 30
    with waits:  # that it would have seen one
        tiny.verifier.verify(point.now, 0.0)
        all_finite(tiny.parameters)
    assert "aten::_local_scalar_dense" in waits.found


def test_measuring_is_one_transfer(reads: list[str]) -> None:
    tiny = Tiny()
    for measure in (tiny.verifier.measure, tiny.verifier.loss_of):
        reads.clear()
        measure()
        assert reads.count("cpu") == 1


def test_no_forward_pass_more_than_verifying_to_the_end() -> None:
    tiny = Tiny()
    settings = SETTINGS.model_copy(update={"momentum_scales": (1.0,)})
    point = tiny.point()
    tiny.passes = 0
    tiny.sweeper(settings).sweep(point)
    ahead, tiny.passes = tiny.passes, 0
    one_after_another(tiny, point, settings)
    assert ahead == tiny.passes


def test_predictions_are_made_again_only_while_their_test_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Tiny()
    made: list[tuple[str, int]] = []

    class Counting:
        def __init__(self, name: str) -> None:
            self.plain = predictor(name)
            self.name, self.needs = self.plain.name, self.plain.needs

        def predict(self, history: History, horizon: int, out: Any = None) -> Any:
            made.append((self.name, horizon))
            return self.plain.predict(history, horizon, out)

    monkeypatch.setattr(module, "predictor", Counting)
    settings = SweepConfig(predictors=("hold", "linear"), horizons=(1, 5))
    rows = tiny.sweeper(settings).sweep(tiny.point())
    assert [row.paired_sequences for row in rows] == [64, 64, 16, 16]
    assert made == [("hold", 1), ("hold", 5), ("linear", 1), ("linear", 5), ("hold", 1), ("hold", 5)]


# --- theta_t comes back -----------------------------------------------------------------------------------------------

PRECISIONS = [
    (torch.float32, torch.float32, 0),
    (torch.bfloat16, torch.bfloat16, 0),
    (torch.bfloat16, torch.float32, 0),
    (torch.float32, torch.bfloat16, 4),
    (torch.float32, torch.float16, 4),
    (torch.bfloat16, torch.float16, 2),
]


@pytest.mark.parametrize(("weights", "history", "bytes_kept"), PRECISIONS)
def test_a_backup_is_held_only_where_the_history_rounds(
    weights: torch.dtype, history: torch.dtype, bytes_kept: int
) -> None:
    tiny = Tiny(weights=weights, history=history)
    sweeper, before = tiny.sweeper(), weights_of(tiny)
    for _ in range(2):
        sweeper.sweep(tiny.point())
        assert all(map(torch.equal, before, weights_of(tiny)))
        kept = bytes_kept * sum(each.numel() for each in tiny.parameters)
        assert kept <= sweeper.restorer.nbytes <= kept + (256 * len(before) if kept else 0)
    assert sweeper.restorer.exact == (bytes_kept == 0)


@pytest.mark.failure(9)
@pytest.mark.parametrize("history", [torch.float32, torch.float16])
def test_a_loss_function_that_fails_leaves_theta_t(history: torch.dtype) -> None:
    calls = []

    def failing(model: nn.Module, batch: Any) -> Any:
        calls.append(1)
        if len(calls) > 20:
            raise RuntimeError("out of memory")
        return sequence_losses(model, batch)

    tiny = Tiny(history=history, loss=failing)
    before, point = weights_of(tiny), tiny.point()
    with pytest.raises(RuntimeError, match="out of memory"):
        tiny.sweeper().sweep(point)
    assert all(map(torch.equal, before, weights_of(tiny)))


def test_times_are_of_what_was_done() -> None:
    tiny = Tiny()
    rows = tiny.sweeper().sweep(tiny.point())
    for row in rows:
        times = dataclasses.astuple(row)[-2:]
        assert all(time > 0.0 for time in times) == (row.status != "declined")
