"""The engine put together from what a user gave, each thing checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from leapverify.core.batch_tree import same_form
from leapverify.core.ranks import Ranks
from leapverify.core.undisturbed import streams_kept
from leapverify.leap.anneal.live import LiveAnnealing
from leapverify.leap.attempt import Attempter, BatchSize
from leapverify.leap.config import LeapConfig
from leapverify.leap.engine import Engine
from leapverify.leap.ledger import Ledger
from leapverify.leap.live_weights import LiveWeights, Storage
from leapverify.leap.observer import Observer
from leapverify.leap.optimizers import refuse_unsuited
from leapverify.leap.parallel import inner, resharding, same_probes
from leapverify.leap.policy.base import Policy
from leapverify.leap.policy.registry import make_policy
from leapverify.leap.recognizer import Recognizer, checked_recognizer, probes_of
from leapverify.leap.schedule.advance import check_scheduler
from leapverify.observe import Thresholds
from leapverify.predict import STRAIGHTNESS, Needs, predictor
from leapverify.verify.comparison import losses_of, positions_of
from leapverify.verify.distributed import DealtBatches, SharedLoss
from leapverify.verify.heldout import LossFunction, LossOutput
from leapverify.verify.sampling import FreshBatches
from leapverify.verify.sequential import MINIMUM


def build_engine(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    config: LeapConfig,
    ranks: Ranks,
    *,
    heldout: Any,
    loss: LossFunction | None,
    scheduler: Any,
    probes: Any,
    tokenizer: Any,
) -> Engine:
    """An engine at the beginning of a run; arguments as for `LeapVerify`, and the ranks that build theirs now.

    Raises:
        ValueError: something does not fit; the message names the remedy.
        RanksDivergedError: another rank was given something else, or could not go on.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}: pass a torch.nn.Module")
    model = inner(model)
    if config.mode == "live":
        refuse_unsuited(optimizers)
    schedulers = _schedulers(scheduler, optimizers)
    policy = _policy(config) if config.tries else None
    _require_heldout(config, heldout, loss, probes)
    wanted = Needs.union([STRAIGHTNESS, *(predictor(name).needs for name in (policy.predictors if policy else ()))])
    storage = Storage(wanted.snapshots, config.history_dtype, config.history_device, wanted)
    weights = LiveWeights(model, optimizers, config.include, storage, ranks)
    weights.start(0)
    ledger = Ledger(config.clock, config.spendable, config.step_tokens, ranks)
    fresh = None if heldout is None else _dealt(FreshBatches(heldout, seed=config.seed), ranks)
    loss = None if loss is None else resharding(loss, model)
    batch_size, first = None, None
    if fresh is not None and loss is not None:
        batch_size, first = _first_look(model, loss, fresh, ledger)
    elif fresh is not None and probes is None:
        first = fresh.draw()
    observed = same_probes(probes_of(first) if probes is None else probes, ranks)
    run = loss if ranks.broadcast("form of probes", probes is None or same_form(probes, first)) else None
    make_recognizer = partial(
        Recognizer,
        model,
        thresholds=config.thresholds or Thresholds.online(),
        tokenizer=tokenizer,
        layer=config.layer,
        run=run,
        run_first=probes is None,
    )
    recognizer = _first_fingerprint(model, observed, make_recognizer, ledger)
    observer = Observer(
        partial(make_recognizer, observed), recognizer, weights, optimizers, schedulers, ledger, config.interval
    )
    engine = Engine(model, optimizers, config, weights, ledger, observer, fresh, policy)
    if first is not None:
        engine.drew(first)
    if batch_size is not None and fresh is not None and (config.tries or config.anneal_memory is not None):
        extra = wanted.selection + wanted.gradients
        fresh.require(batch_size.sequences, MINIMUM + (1 + extra) * batch_size.sequences)
    if batch_size is not None and loss is not None:
        _add_heldout_parts(engine, SharedLoss(loss, ranks), batch_size)
    return engine


def _policy(config: LeapConfig) -> Policy:
    return make_policy(
        config.policy,
        predictor=config.predictor,
        predictors=config.predictors,
        horizon=config.horizon,
        horizons=config.horizons,
        leap_in_decay=config.leap_in_decay,
    )


def _add_heldout_parts(engine: Engine, loss: SharedLoss, batch_size: BatchSize) -> None:
    """Give the engine what works on held-out data."""
    config, memory = engine.config, engine.config.anneal_memory
    engine.attempter = Attempter(
        engine.model,
        engine.weights,
        loss,
        engine.draw,
        engine.ledger,
        batch_size,
        engine.optimizer_state,
        alpha=config.alpha,
        sequences=config.sequences,
        criterion=config.criterion,
    )
    if memory is not None:
        engine.annealing = LiveAnnealing(
            engine.model,
            engine.weights,
            memory,
            loss,
            engine.draw,
            partial(_least_left, engine),
            engine.ledger,
            batch_size,
            alpha=config.alpha,
        )


def _dealt(fresh: FreshBatches, ranks: Ranks) -> FreshBatches | DealtBatches:
    return fresh if ranks.alone else DealtBatches(fresh, ranks)


def _least_left(engine: Engine) -> int | None:
    """Batches that a rank may still draw, on the rank that has the fewest; None if unknown."""
    every = engine.ranks.all_gather("held-out batches left", engine.fresh.left if engine.fresh else None)
    return min((each for each in every if each is not None), default=None)


def _schedulers(scheduler: Any, optimizers: Sequence[Optimizer]) -> list[Any]:
    given = [] if scheduler is None else list(scheduler) if isinstance(scheduler, Sequence) else [scheduler]
    for each in given:
        check_scheduler(each, optimizers)
    return given


def _require_heldout(config: LeapConfig, heldout: Any, loss: LossFunction | None, probes: Any) -> None:
    asks = f"mode {config.mode!r}" if config.tries else "anneal" if config.anneal_memory is not None else None
    if asks is not None and heldout is None:
        raise ValueError(
            f"{asks} needs held-out data: pass heldout, a list of batches that are not trained on or a function that "
            "gives a fresh one"
        )
    if asks is not None and loss is None:
        raise ValueError(f"{asks} needs a loss: pass loss, a function of (model, batch)")
    if heldout is None and probes is None:
        raise ValueError("there is nothing to observe the model with: pass probes, or heldout, whose inputs then serve")
    if loss is not None and not callable(loss):
        raise ValueError(f"loss is a {type(loss).__name__}: pass a function of (model, batch)")


def _first_look(
    model: nn.Module, loss: LossFunction, fresh: FreshBatches | DealtBatches, ledger: Ledger
) -> tuple[BatchSize, Any]:
    """Run the loss function once, so that what is wrong with it is said before the run and not in it."""
    batch = fresh.draw()
    start = time.perf_counter()
    with ledger.part("verify"):
        losses = losses_of(model, SharedLoss(partial(_called, loss), ledger.ranks), [batch]).losses
    if not bool(torch.isfinite(losses).all()):
        raise ValueError("the loss of the first held-out batch is not finite: check the loss function and the data")
    positions = positions_of(batch)
    size = BatchSize(len(losses), sum(ledger.ranks.gather_shares("positions of a batch", positions)))
    ledger.positions("verify", positions)
    ledger.measured(time.perf_counter() - start, size.positions)
    return size, batch


def _called(loss: LossFunction, model: nn.Module, batch: Any) -> LossOutput:
    try:
        return loss(model, batch)
    except Exception as error:
        raise ValueError(
            f"the loss function failed on the first held-out batch ({type(error).__name__}: {error}): it is called "
            "as loss(model, batch)"
        ) from error


def _first_fingerprint(model: nn.Module, probes: Any, make: Callable[[Any], Recognizer], ledger: Ledger) -> Recognizer:
    """The recognizer, after a look at one probe, so that a layer that is never reached is said before the run."""
    with streams_kept(model):
        with ledger.part("verify"):
            checked = checked_recognizer(make, probes)
        ledger.positions("verify", checked.positions)
        return make(probes).like(checked)
