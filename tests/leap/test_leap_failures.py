"""The engine's own failures never end the training, and wrong use is said before it begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leap_loops import STEPS, HomeMade, Mlp, classified, fingerprint_of, make, next_token, rows
from leapverify.leap.api import LeapVerify
from leapverify.leap.recognizer import Observation
from leapverify.predict import predictor

ALWAYS = {"policy": "fixed", "predictor": "linear", "horizon": 3}


def _plain(name: str) -> str:
    loop = make(name)
    loop.run(STEPS)
    return fingerprint_of(loop)


def _breaking(error: Exception, after: int = 3) -> Any:
    calls = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) > after:
            for parameter in model.parameters():  # a failure in the midst of it all
                assert torch.isfinite(parameter).all()
            raise error
        return classified(model, batch)

    return loss


@pytest.mark.failure(9)
@pytest.mark.parametrize(
    "error", [RuntimeError("of the user's own"), torch.OutOfMemoryError("no memory left"), MemoryError(), KeyError("x")]
)
@pytest.mark.parametrize("mode", ["shadow", "live"])
def test_an_exception_in_the_loss_switches_off_once_and_leaves_the_run_as_it_was(
    error: Exception, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = _plain("mlp")
    loop = make("mlp")
    leap = loop.leap(mode=mode, loss=_breaking(error), **ALWAYS)
    events = loop.run(STEPS, leap)
    assert fingerprint_of(loop) == wanted
    assert type(error).__name__ in (leap.disabled or "")
    assert [event.status for event in events].count("off") == 1
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "switched itself off, training goes on" in warnings[0].getMessage()
    assert leap.step() is None
    assert leap.effective_step == STEPS


@pytest.mark.failure(8)
def test_a_loss_that_becomes_nan_is_a_rejection_and_no_more() -> None:
    wanted = _plain("mlp")
    loop = make("mlp")
    calls = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        return classified(model, batch) * (float("nan") if len(calls) > 2 else 1.0)

    leap = loop.leap(loss=loss, **ALWAYS, criterion="always")
    events = loop.run(STEPS, leap)
    assert {event.status for event in events if event.predictor} == {"nonfinite"}
    assert leap.disabled is None
    assert fingerprint_of(loop) == wanted


@pytest.mark.failure(8)
def test_predicted_weights_that_are_not_finite_are_rejected_before_any_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    class Infinite:
        """Predicts what cannot be."""

        name, needs = "linear", predictor("linear").needs

        def predict(self, history: Any, horizon: int, out: Any) -> Any:
            for each in out:
                each.fill_(float("inf"))
            return out

    wanted = _plain("mlp")
    loop = make("mlp")
    leap = loop.leap(**ALWAYS, criterion="always")
    monkeypatch.setattr("leapverify.leap.attempt.predictor", lambda name: Infinite())
    events = loop.run(STEPS, leap)
    assert {event.status for event in events if event.predictor} == {"nonfinite"}
    assert all("weights that are not finite" in event.reason for event in events if event.predictor)
    assert fingerprint_of(loop) == wanted


@pytest.mark.failure(8)
def test_weights_that_are_not_finite_are_told_and_history_begins_anew() -> None:
    loop = make("mlp")
    leap = loop.leap(mode="monitor")
    loop.run(8, leap)
    with torch.no_grad():
        next(iter(loop.model.parameters()))[0] = float("nan")
    events = loop.run(4, leap, start=8)
    assert events[-1].status == "nonfinite"
    assert [alert.kind for alert in events[-1].alerts] == ["non-finite"]
    assert leap.disabled is None


@pytest.mark.failure(4, 9)
def test_a_log_that_cannot_be_written_stops_and_training_and_leaping_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    loop = make("mlp")
    leap = loop.leap(log=tmp_path / "file" / "events.jsonl", **ALWAYS, criterion="always")
    loop.run(STEPS, leap)
    assert leap.disabled is None
    assert leap.leapt > 0
    assert len([r for r in caplog.records if "logs" in r.getMessage() or "its log" in r.getMessage()]) == 1


@pytest.mark.failure(9)
def test_a_logger_that_fails_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    def broken(record: dict[str, Any], step: int) -> None:
        raise ConnectionError("gone")

    loop = make("mlp")
    leap = loop.leap(mode="monitor", loggers=[broken])
    loop.run(STEPS, leap)
    assert leap.disabled is None
    assert len([r for r in caplog.records if "gone" in r.getMessage()]) == 1


@pytest.mark.failure(13)
@pytest.mark.parametrize("change", ["freeze", "new", "dtype"])
def test_a_model_that_changes_begins_a_new_history(change: str) -> None:
    loop = make("mlp")
    leap = loop.leap(mode="shadow", **ALWAYS, anneal=True)
    loop.run(12, leap)
    first = loop.model.body[0]
    if change == "freeze":
        first.weight.requires_grad_(False)
    elif change == "new":
        loop.model.extra = nn.Parameter(torch.zeros(3))
        loop.optimizer.add_param_group({"params": [loop.model.extra]})
    else:
        loop.model.double()
        loop.batch = lambda i: (rows(i, (12,))[0].double(), rows(i, (12,))[1])
        loop.optimizer.state.clear()
        double = lambda m, b: classified(m, (b[0].double(), b[1]))  # noqa: E731
        engine = leap._driver.engine
        engine.attempter.loss = engine.annealing.loss = double
        engine.observer.make = lambda: engine.observer.recognizer
        engine.observer.look = lambda: Observation("unknown", None)
    events = loop.run(4, leap, start=12)
    assert "the model changed" in events[-1].reason or events[-1].reason.startswith("needs")
    assert len(leap._driver.engine.weights.history) == 1
    loop.run(12, leap, start=16)
    assert leap.disabled is None
    assert leap.report()["attempts"] > 0


def test_an_optimizer_that_puts_the_weights_back_is_found_out() -> None:
    class Masters(torch.optim.SGD):
        """Steps on copies of its own, and writes the weights from them."""

        def step(self, closure: Any = None) -> None:
            held = [p for group in self.param_groups for p in group["params"]]
            if not hasattr(self, "copies"):
                self.copies = [p.detach().clone() for p in held]
            with torch.no_grad():
                for p, own in zip(held, self.copies, strict=True):
                    own.sub_(p.grad, alpha=0.01)
                    p.copy_(own)

    loop = make("mlp")
    loop.optimizer = Masters(loop.model.parameters(), lr=0.01)
    loop.scheduler = torch.optim.lr_scheduler.ConstantLR(loop.optimizer)
    leap = loop.leap(policy="fixed", predictor="linear", horizon=40, criterion="always")
    loop.run(STEPS, leap)
    assert "put the weights back" in (leap.disabled or "")


HELDOUT = [rows(i, (12,)) for i in range(3)]


def _engine(model: Any = None, optimizer: Any = None, **options: Any) -> LeapVerify:
    model = Mlp() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters()) if optimizer is None else optimizer
    return LeapVerify(model, optimizer, **{"heldout": HELDOUT, "loss": classified, **options})


class DeepSpeedZeroOptimizer(torch.optim.SGD):
    """Has what gives such optimizers away."""

    single_partition_of_fp32_groups = ()


class AdamWScheduleFree(torch.optim.SGD):
    """Named like the one that keeps a second point."""


def _scheduler_of_another() -> Any:
    other = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    return torch.optim.lr_scheduler.ConstantLR(other)


def _frozen() -> nn.Module:
    return Mlp().requires_grad_(False)


WRONG: dict[str, tuple[Any, str]] = {
    "mode": (lambda: _engine(mode="turbo"), "mode 'turbo' is unknown: use one of off, monitor, shadow, live"),
    "policy": (lambda: _engine(policy="autoo"), "autoo"),
    "predictor": (lambda: _engine(policy="fixed", predictor="linaer", horizon=5), "did you mean linear"),
    "no heldout": (lambda: _engine(heldout=None), "needs held-out data: pass heldout"),
    "empty heldout": (lambda: _engine(heldout=[]), "held-out set is empty"),
    "one-shot heldout": (lambda: _engine(heldout=iter(HELDOUT)), "can be read only once"),
    "no loss": (lambda: _engine(loss=None), "needs a loss"),
    "nan loss": (lambda: _engine(loss=lambda m, b: torch.tensor(float("nan"))), "is not finite"),
    "loss of a wrong shape": (lambda: _engine(loss=lambda m, b: torch.zeros(2, 2)), "shape (2, 2)"),
    "loss gives nothing": (lambda: _engine(loss=lambda m, b: None), "returned nothing"),
    "loss fails": (lambda: _engine(loss=lambda m, b: 1 / 0), "failed on the first held-out batch"),
    "frozen": (lambda: _engine(_frozen(), torch.optim.SGD(nn.Linear(1, 1).parameters())), "no trainable parameter"),
    "other optimizer": (
        lambda: _engine(optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)),
        "holds none of the",
    ),
    "no optimizer": (lambda: _engine(optimizer="adam"), "optimizer is a str"),
    "no model": (lambda: _engine(model=HELDOUT, optimizer=torch.optim.SGD([torch.zeros(1)])), "pass a torch.nn.Module"),
    "other scheduler": (lambda: _engine(scheduler=_scheduler_of_another()), "another optimizer"),
    "interval": (lambda: _engine(interval=0), "interval is 0"),
    "budget": (lambda: _engine(budget=-0.1), "budget is -0.1"),
    "alpha": (lambda: _engine(alpha=0.9), "alpha = 0.9"),
    "schedule": (lambda: _engine(schedule="jump"), "schedule 'jump' is unknown"),
    "moments": (lambda: _engine(moments="halve"), "moments 'halve' is unknown"),
    "criterion": (lambda: _engine(criterion="maybe"), "criterion 'maybe' is unknown"),
    "clock": (lambda: _engine(clock="tokens"), "needs step_tokens"),
    "dtype": (lambda: _engine(history_dtype=torch.int8), "history_dtype"),
    "layer": (lambda: _engine(layer="body.99"), "layer 'body.99' is no module"),
    "nothing to observe": (lambda: _engine(mode="monitor", heldout=None, loss=None), "nothing to observe"),
    "texts": (
        lambda: _engine(HomeMade(), probes=["a"], loss=next_token, heldout=[torch.ones(2, 9).long()]),
        "tokenizer",
    ),
    "logger": (lambda: _engine(loggers=[3]), "is no logger"),
    "anneal without data": (lambda: _engine(mode="monitor", heldout=None, probes=HELDOUT[0][0], anneal=True), "anneal"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_one_clear_sentence(case: str) -> None:
    call, text = WRONG[case]
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        call()
    assert text in str(error.value)


@pytest.mark.parametrize("kind", [DeepSpeedZeroOptimizer, AdamWScheduleFree])
def test_optimizers_that_undo_leaps_are_refused_live_and_served_otherwise(kind: type[torch.optim.SGD]) -> None:
    model = Mlp()
    optimizer = kind(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="use mode='monitor' or 'shadow'"):
        _engine(model, optimizer)
    assert _engine(model, optimizer, mode="shadow").disabled is None


@pytest.mark.failure(14)
def test_heldout_sequences_that_are_trained_on_are_found(caplog: pytest.LogCaptureFixture) -> None:
    loop = make("mlp")
    loop.heldout = [rows(i, (12,)) for i in range(6)]
    leap = loop.leap(mode="shadow", **ALWAYS)
    events = loop.run(STEPS, leap)
    found = [alert for event in events for alert in event.alerts if alert.kind == "overlap"]
    assert len(found) == 1
    assert "also occurred among" in found[0].text
    assert any("also occurred among" in record.getMessage() for record in caplog.records)


def test_events_are_json_lines(tmp_path: Path) -> None:
    loop = make("mlp")
    leap = loop.leap(log=tmp_path / "leap.jsonl", **ALWAYS, criterion="always")
    events = loop.run(STEPS, leap)
    lines = [json.loads(line) for line in (tmp_path / "leap.jsonl").read_text().splitlines()]
    assert [line["status"] for line in lines] == [event.status for event in events]
    assert any(line["status"] == "accepted" and line["horizon"] == 3 for line in lines)


@pytest.mark.failure(7)
def test_off_does_nothing() -> None:
    loop = make("mlp")
    leap = loop.leap(mode="off", heldout=None, loss=None)
    assert loop.run(STEPS, leap) == []
    assert leap.effective_step == STEPS
    leap.close()
    assert not loop.optimizer._optimizer_step_post_hooks
    with pytest.raises(ValueError, match="the engine is off"):
        leap.anneal()
