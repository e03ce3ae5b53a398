"""The engine put together from what a user gave, each thing checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from leapverify.core.batch_tree import same_form
from leapverify.core.ranks import Ranks
from leapverify.core.undisturbed import random_streams
from leapverify.leap.alerts import Alerts
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.anneal.live import Annealing
from leapverify.leap.attempt import Attempter, Unit
from leapverify.leap.commit import Trial
from leapverify.leap.config import AUTO_BUDGET, Options
from leapverify.leap.engine import Engine
from leapverify.leap.leakage import Overlap
from leapverify.leap.ledger import Ledger
from leapverify.leap.observer import Observer
from leapverify.leap.optimizers import refuse_unsuited
from leapverify.leap.parallel import inner, resharding, same_probes
from leapverify.leap.parameters import Storage, Trajectory
from leapverify.leap.policy.base import Policy
from leapverify.leap.policy.registry import make_policy
from leapverify.leap.recognizer import Recognizer, probes_of, tried
from leapverify.leap.schedule.advance import check_scheduler
from leapverify.leap.transaction import exact_in
from leapverify.observe import Thresholds
from leapverify.predict import STRAIGHTNESS, Needs, predictor
from leapverify.trajectory.averages import AVERAGED
from leapverify.trajectory.milestones import MILESTONES
from leapverify.verify.comparison import losses_of, positions_of
from leapverify.verify.distributed import DealtBatches, SharedLoss
from leapverify.verify.heldout import LossFunction, LossOutput
from leapverify.verify.sampling import FreshBatches
from leapverify.verify.sequential import MINIMUM


def build_engine(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    options: Options,
    *,
    heldout: Any,
    loss: LossFunction | None,
    probes: Any,
    tokenizer: Any,
    layer: str | None,
    scheduler: Any,
    policy: str | Policy,
    wishes: Mapping[str, Any],
    thresholds: Thresholds,
    anneal: AnnealMemory | None,
    seed: int,
    ranks: Ranks,
) -> Engine:
    """An engine at the beginning of a run; arguments as for `LeapVerify`, and the ranks that build theirs now.

    Raises:
        ValueError: something does not fit; the message names the remedy.
        Apart: another rank was given something else, or could not go on.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: pass a torch.nn.Module")
    model = inner(model)
    if options.mode == "live":
        refuse_unsuited(optimizers)
    schedulers = _schedulers(scheduler, optimizers)
    chosen = make_policy(policy, **wishes) if options.tries else None
    _require_heldout(options, heldout, loss, probes, anneal)
    asked = [predictor(name).needs for name in chosen.predictors] if chosen else []
    wanted = Needs.union([STRAIGHTNESS, *asked])
    storage = Storage(wanted.snapshots, options.history_dtype, options.history_device, wanted)
    trajectory = Trajectory(model, optimizers, options.include, storage, ranks)
    trajectory.start(0)
    ledger = Ledger(options.clock, _budget(options, chosen), options.step_tokens, ranks)
    fresh = None if heldout is None else _dealt(FreshBatches(heldout, seed=seed), ranks)
    loss = None if loss is None else resharding(loss, model)
    unit, first = None, None
    if fresh is not None and loss is not None:
        unit, first = _first_look(model, loss, fresh, ledger)
    elif fresh is not None and probes is None:
        first = fresh.draw()
    observed = same_probes(probes_of(first) if probes is None else probes, ranks)
    run = loss if ranks.broadcast("form of probes", probes is None or same_form(probes, first)) else None

    def make_recognizer(some: Any = observed) -> Recognizer:
        return Recognizer(model, some, thresholds, tokenizer=tokenizer, layer=layer, run=run, run_first=probes is None)

    recognizer = _checked(model, observed, make_recognizer, ledger)
    engine = Engine(
        model=model,
        optimizers=optimizers,
        options=options,
        trajectory=trajectory,
        ledger=ledger,
        observer=Observer(make_recognizer, recognizer, trajectory, optimizers, schedulers, ledger, options.interval),
        alerts=Alerts(),
        overlap=Overlap(),
        fresh=fresh,
    )
    if first is not None:
        engine.drew(first)
    if unit is not None and fresh is not None and (options.tries or anneal is not None):
        fresh.require(unit.sequences, MINIMUM + (1 + wanted.selection + wanted.gradients) * unit.sequences)
    if unit is not None and loss is not None:
        _equip(engine, loss, unit, chosen, anneal)
    return engine


def _equip(engine: Engine, loss: LossFunction, unit: Unit, policy: Policy | None, anneal: AnnealMemory | None) -> None:
    """Give the engine what works on held-out data."""
    options, ledger = engine.options, engine.ledger
    attempter = Attempter(
        engine.model,
        loss,
        engine.draw,
        ledger,
        alpha=options.alpha,
        sequences=options.sequences,
        criterion=options.criterion,
    )
    engine.watch, engine.unit = attempter, unit
    if policy is not None:
        engine.trial = Trial(policy, attempter, unit)
    if anneal is not None:
        engine.annealing = Annealing(
            engine.model,
            engine.trajectory,
            anneal,
            pinned=anneal.device == "cpu" and torch.cuda.is_available(),
            loss=SharedLoss(loss, engine.ranks),
            draw=engine.draw,
            left=lambda: _least_left(engine),
            ledger=ledger,
            alpha=options.alpha,
            unit=unit,
        )


def engine_report(engine: Engine) -> dict[str, Any]:
    """What an engine has done and cost so far, as JSON values."""
    ledger, fresh = engine.ledger, engine.fresh
    return {
        "policy": engine.trial.policy.name if engine.trial else None,
        "leapt": engine.leapt,
        "attempts": engine.attempts,
        "accepted": engine.accepted,
        "overhead": ledger.overhead,
        "budget": ledger.budget,
        "seconds": dict(ledger.seconds),
        "tokens": dict(ledger.tokens),
        "overhead_s": sum(ledger.seconds.values()),
        "overhead_tokens": sum(ledger.tokens.values()),
        "elapsed_s": ledger.elapsed_s,
        "saved": ledger.saved,
        "heldout_batches": fresh.draws if fresh else 0,
        "heldout_passes": fresh.passes if fresh else None,
    }


def memory_sentence(engine: Engine) -> str:
    """What the engine holds beside the model, in bytes, before any of it is taken."""
    trajectory, storage = engine.trajectory, engine.trajectory.storage
    size = torch.empty(0, dtype=storage.dtype).element_size()
    one = trajectory.elements * size
    place = "pinned host memory" if storage.pinned else (storage.device or str(trajectory.device))
    parts = [f"{_bytes(storage.snapshots * one)} for {storage.snapshots} snapshots in {place} ({storage.dtype})"]
    parts += _beside(engine, one, place)
    if engine.options.tries and not exact_in(trajectory.tensors, storage.dtype):
        exact = sum(each.nbytes for each in trajectory.tensors)
        parts.append(f"{_bytes(exact)} for an exact copy during an attempt on {trajectory.device}")
    if engine.annealing is not None:
        where = engine.annealing.memory.device or str(trajectory.device)
        parts.append(f"{_bytes(engine.annealing.store.planned_bytes)} for averages in {where}")
        both = trajectory.elements * 4 + sum(each.nbytes for each in trajectory.tensors)
        parts.append(f"{_bytes(both)} while anneal() runs")
    model = _bytes(sum(each.nbytes for each in trajectory.whole))
    if trajectory.shards is not None and trajectory.shards.parts:
        own = _bytes(sum(each.nbytes for each in trajectory.tensors))
        return f"this rank's leapverify will hold {', '.join(parts)}, beside its {own} of the {model} that move"
    return f"leapverify will hold {', '.join(parts)}, beside weights of {model} that move"


def _beside(engine: Engine, one: int, place: str) -> list[str]:
    """What is kept beside snapshots because a predictor asks for it."""
    wanted = engine.trajectory.storage.wanted
    averages = (2 + 2 * AVERAGED) * 4 * engine.trajectory.elements * wanted.averages
    kept = {
        f"the last {wanted.recent} steps before a checkpoint": wanted.recent * one,
        "running averages": averages,
        "early states": MILESTONES * one * bool(wanted.milestones),
    }
    return [f"{_bytes(size)} for {what} in {place}" for what, size in kept.items() if size]


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def _dealt(fresh: FreshBatches, ranks: Ranks) -> FreshBatches | DealtBatches:
    return fresh if ranks.alone else DealtBatches(fresh, ranks)


def _least_left(engine: Engine) -> int | None:
    """Batches that a rank may still draw, on the rank that has the fewest."""
    every = engine.ranks.all_gather("held-out batches left", engine.fresh.left if engine.fresh else None)
    return min((each for each in every if each is not None), default=None)


def _schedulers(scheduler: Any, optimizers: Sequence[Optimizer]) -> list[Any]:
    given = [] if scheduler is None else list(scheduler) if isinstance(scheduler, Sequence) else [scheduler]
    for each in given:
        check_scheduler(each, optimizers)
    return given


def _require_heldout(
    options: Options, heldout: Any, loss: LossFunction | None, probes: Any, anneal: AnnealMemory | None
) -> None:
    needs = f"mode {options.mode!r}" if options.tries else "anneal" if anneal is not None else None
    if needs is not None and heldout is None:
        raise ValueError(
            f"{needs} needs held-out data: pass heldout, a list of batches that are not trained on or a function that "
            "gives a fresh one"
        )
    if needs is not None and loss is None:
        raise ValueError(f"{needs} needs a loss: pass loss, a function of (model, batch)")
    if heldout is None and probes is None:
        raise ValueError("there is nothing to observe the model with: pass probes, or heldout, whose inputs then serve")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss is a {type(loss).__name__}: pass a function of (model, batch)")


def _budget(options: Options, policy: Policy | None) -> float | None:
    if options.budget is None and policy is not None and policy.name == "auto":
        return AUTO_BUDGET
    return options.ruled_by


def _first_look(
    model: nn.Module, loss: LossFunction, fresh: FreshBatches | DealtBatches, ledger: Ledger
) -> tuple[Unit, Any]:
    """Run the loss function once, so that what is wrong with it is said before the run and not in it."""
    batch = fresh.draw()
    start = time.perf_counter()
    with ledger.part("verify"):
        losses = losses_of(model, SharedLoss(partial(_called, loss), ledger.ranks), [batch]).losses
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("the loss of the first held-out batch is not finite: check the loss function and the data")
    positions = positions_of(batch)
    unit = Unit(len(losses), sum(ledger.ranks.gather_shares("positions of a batch", positions)))
    ledger.positions("verify", positions)
    ledger.pace(time.perf_counter() - start, unit.positions)
    return unit, batch


def _called(loss: LossFunction, model: nn.Module, batch: Any) -> LossOutput:
    try:
        return loss(model, batch)
    except Exception as error:
        raise ValueError(
            f"the loss function failed on the first held-out batch ({type(error).__name__}: {error}): it is called "
            "as loss(model, batch)"
        ) from error


def _checked(model: nn.Module, probes: Any, make: Callable[[Any], Recognizer], ledger: Ledger) -> Recognizer:
    """The recognizer, after a look at one probe, so that a layer that is never reached is said before the run."""
    undo = random_streams(model)
    try:
        with ledger.part("verify"):
            trial = tried(make, probes)
        ledger.positions("verify", trial.positions)
        return make(probes).like(trial)
    finally:
        for restore in undo:
            restore()
