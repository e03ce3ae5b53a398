"""`LeapVerify`: the four parts in a training run that goes on, in anybody's loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from leapverify.core.ranks import PATIENCE_S, Ranks
from leapverify.core.shards import local
from leapverify.core.state_hash import sum_of
from leapverify.core.weights import copy_
from leapverify.leap.anneal.averages import AnnealMemory
from leapverify.leap.anneal.search import Annealed
from leapverify.leap.assemble import build_engine, engine_report, memory_sentence
from leapverify.leap.config import AfterMoments, AfterSchedule, Mode, Options
from leapverify.leap.driver import Driver
from leapverify.leap.event import LeapEvent
from leapverify.leap.ledger import Clock
from leapverify.leap.loggers import Teller
from leapverify.leap.optimizers import as_optimizers
from leapverify.leap.parallel import like, ranks_of, same_options, telling
from leapverify.leap.policy.base import Policy
from leapverify.leap.state import VERSION, agreed_state, checked_state
from leapverify.leap.step_counter import StepCounter
from leapverify.leap.transaction import Transaction
from leapverify.observe import Thresholds
from leapverify.verify.heldout import LossFunction

logger = logging.getLogger(__name__)


class LeapVerify:
    """Watches a training run, predicts where its weights go, and leaps ahead when a held-out check says so.

    Call `step()` once in every turn of the training loop, after the optimizer, the scheduler and `zero_grad`; or use
    the object as a context manager, which hooks the optimizer instead. It acts once per real optimizer step, whatever
    gradient accumulation or a gradient scaler do. A failure of its own never ends the training: the weights are put
    back, the engine switches itself off, one warning is logged, and the reason stands in `disabled`.

    Args:
        model: any module. Its parameters are looked up by name at every checkpoint.
        optimizer: what trains it, or a list (the last one closes a step).
        heldout: batches that are not trained on, or a function that gives a fresh one a call; needed to predict.
            Predictors that choose among candidates, or take gradients, draw further batches from it for that.
        loss: (model, batch) -> a scalar, one loss per sequence (B,), or (losses, tokens); nats per token. Losses per
            sequence make verdicts cheaper: the paired test needs 16 of them.
        probes: what the fingerprint is taken of: texts (with `tokenizer`), token ids (n, T), or any batch that the
            model takes; None for the first held-out batch.
        tokenizer: object with `encode(text)`.
        layer: name of the module whose output is the fingerprint; None for the last norm, else the input of the head.
        scheduler: the learning-rate scheduler, or a list, each of one of the optimizers.
        mode: `off`; `monitor`, fingerprints and regimes; `shadow`, also predictions and verdicts, never carried out;
            `live`.
        policy: `auto`, `fixed`, `line-search`, or an object with the methods of `Policy`.
        predictor: of `fixed` and `line-search`.
        predictors: that `auto` may use.
        horizon: K of `fixed`, steps; a multiple or fraction of the interval serves the others as their first.
        horizons: Ks that `auto` begins with.
        interval: Delta, real steps between checkpoints.
        budget: share of the run's time that may be spent; by default 0.01 for `auto` where it predicts, no limit else.
            Half of the time that leaps have saved may be spent beyond it.
        alpha: rate of false accepts of a verdict.
        sequences: most held-out sequences of one verdict.
        criterion: `paired`, the sequential test; `strict`; and the controls `always` and `never`.
        thresholds: how similarities become regimes; by default learnt while the run goes on.
        include: keeps a parameter by its name; others are not predicted.
        history_device: None, snapshots beside the weights; `cpu`, in (pinned) host memory.
        history_dtype: float32, or bfloat16 for half the memory: differences then carry 0.4 % rounding of each weight.
        schedule: after a leap of K, `advance` the schedulers by K steps, or `keep` them.
        moments: after a leap, `keep` the optimizer's moments or `reset` them with their step counts.
        leap_in_decay: leap in the schedule's final decay too.
        total_steps: effective steps of the whole run, if known: no leap goes beyond.
        anneal: which averages are kept for `anneal()`: an `AnnealMemory`, True for its defaults, or None for none.
        log: file that events are appended to, one JSON object a line.
        loggers: one or several objects with `log(dict, step)`: tensorboard writers, wandb or trackio runs, mlflow.
        seed: of whatever random numbers the held-out data draw.
        clock: what the budget counts: `wall` seconds, or forward `tokens`, with which decisions repeat exactly.
        step_tokens: forward-token equivalents of one training step (3 x its positions, on all ranks), for the clock
            `tokens`.
        mesh: on several ranks, the data-parallel DeviceMesh: ranks at the same place in it run the same data. None:
            it follows from the model. With DistributedDataParallel, and where nothing is distributed but the process,
            every rank runs data of its own; with `fully_shard` the mesh is its own (both dimensions of a HSDP mesh), so
            that tensor-parallel ranks run the same; with tensor-parallel parameters alone all ranks of their mesh do.
            To be given where parameters lie on a mesh that has a data-parallel dimension beside.
        patience_s: on several ranks, how long one waits for the others at a meeting before it gives up.

    On several ranks every rank makes the same calls (`step`, `anneal`, `load_state_dict` ...) with the same options and
    held-out set; docs/live.md says more.

    Raises:
        ValueError: a choice that is unknown or does not fit the others; no held-out data; a loss function that gives
            nothing, NaN or a wrong shape; an optimizer that does not hold the model's parameters or undoes leaps; a
            scheduler of another optimizer. The message names the remedy.
        Apart: the ranks were given different options, or one of them could not go on.

    Source: arXiv 2602.19580; the transaction and the leap over the decay: docs/live.md.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        heldout: Iterable[Any] | Callable[[], Any] | None = None,
        loss: LossFunction | None = None,
        probes: Any = None,
        tokenizer: Any = None,
        layer: str | None = None,
        scheduler: Any = None,
        mode: Mode = "live",
        policy: str | Policy = "auto",
        predictor: str | None = None,
        predictors: Sequence[str] | None = None,
        horizon: int | None = None,
        horizons: Sequence[int] | None = None,
        interval: int = 50,
        budget: float | None = None,
        alpha: float = 0.05,
        sequences: int = 256,
        criterion: str = "paired",
        thresholds: Thresholds | None = None,
        include: Callable[[str], bool] | None = None,
        history_device: str | None = None,
        history_dtype: torch.dtype = torch.float32,
        schedule: AfterSchedule = "advance",
        moments: AfterMoments = "keep",
        leap_in_decay: bool = False,
        total_steps: int | None = None,
        anneal: AnnealMemory | bool | None = None,
        log: str | os.PathLike[str] | None = None,
        loggers: Any = (),
        seed: int = 0,
        clock: Clock = "wall",
        step_tokens: float | None = None,
        mesh: Any = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        ranks = Ranks() if mode == "off" else ranks_of(model, mesh, patience_s)
        self._driver: Driver | None = None
        self._kept: Mapping[str, Any] | None = None
        with telling(ranks):
            self.options = Options(
                mode=mode,
                interval=interval,
                budget=budget,
                alpha=alpha,
                sequences=sequences,
                criterion=criterion,
                history_device=history_device,
                history_dtype=history_dtype,
                schedule=schedule,
                moments=moments,
                total_steps=total_steps,
                clock=clock,
                step_tokens=step_tokens,
                include=include,
            )
            self._teller = Teller(log, loggers, heard=ranks.rank == 0)
            optimizers = as_optimizers(optimizer)
            self._counter = StepCounter(optimizers)
            if mode == "off":
                return
            wishes = {
                "predictor": predictor,
                "predictors": predictors,
                "horizon": horizon,
                "horizons": horizons,
                "leap_in_decay": leap_in_decay,
            }
            memory = AnnealMemory() if anneal is True else (anneal or None)
            shown = {"policy": getattr(policy, "name", policy), "thresholds": repr(thresholds), "anneal": memory}
            same_options(ranks, {**self.options.shared, **wishes, **shown, "layer": layer, "seed": seed})
            engine = build_engine(
                model,
                optimizers,
                self.options,
                heldout=heldout,
                loss=loss,
                probes=probes,
                tokenizer=tokenizer,
                layer=layer,
                scheduler=scheduler,
                policy=policy,
                wishes=wishes,
                thresholds=thresholds or Thresholds.online(),
                anneal=memory,
                seed=seed,
                ranks=ranks,
            )
            logger.info("%s", memory_sentence(engine))
            self._driver = Driver(engine, self._counter, self._teller)
            ranks.all_gather("the engine is built", None)

    @property
    def events(self) -> list[LeapEvent]:
        """The newest thousand events."""
        return self._teller.events

    @property
    def disabled(self) -> str | None:
        """Why the engine switched itself off; None while it works."""
        return self._driver.disabled if self._driver else None

    @property
    def real_step(self) -> int:
        """Real optimizer steps since the engine was built, and before it where a state was loaded."""
        return self._driver.real_step if self._driver else self._counter.pending + _counted(self._kept, "real")

    @property
    def leapt(self) -> int:
        """Steps leapt over."""
        return self._driver.engine.leapt if self._driver else _counted(self._kept, "leapt")

    @property
    def effective_step(self) -> int:
        """Real steps and those leapt over."""
        return self.real_step + self.leapt

    @property
    def memory(self) -> str:
        """What the engine holds or will hold beside the model, and where."""
        return memory_sentence(self._driver.engine) if self._driver else "the engine is off and holds nothing"

    def step(self, batch: Any = None) -> LeapEvent | None:
        """Tell the engine that the loop has turned once.

        Args:
            batch: the training batch of this turn, if held-out data are to be checked against it.

        Returns:
            What happened, if this was a checkpoint.
        """
        driver = self._driver
        if driver is None or not driver.active:
            return None
        if batch is not None and driver.engine.overlap.watching:
            driver.show(batch)
        count = driver.counter.count
        if count < driver.next or count == driver.counter.seen:
            return None
        return driver.turn()

    def anneal(self) -> Annealed:
        """The weights after a decay of the learning rate that never was: averaged, and verified on held-out data.

        The run is not disturbed. Window and shape are chosen on some held-out sequences and verified on others.

        Raises:
            ValueError: the engine keeps no averages, has no held-out data, or is off.
        """
        driver = self._driver
        if driver is None or self.disabled is not None:
            raise ValueError(f"the engine is off ({self.disabled or 'mode off'}): there is nothing to anneal with it")
        engine = driver.engine
        if engine.annealing is None:
            raise ValueError("annealing needs averages, held-out data and a loss: pass anneal=True, heldout and loss")
        with driver.charged(), driver.traceless(), telling(engine.ranks):
            engine.refresh()
            assert engine.fresh is not None
            engine.fresh.open_window()
            found = engine.annealing.anneal(self.real_step, self.options.sequences)
            engine.trajectory.before_writes()
            engine.ranks.assert_same(
                "annealed", (found.accepted, found.window_steps, found.shape), "the verdict of anneal()"
            )
        held = engine.trajectory.parameters
        return replace(found, weights={name: like(held[name], part) for name, part in found.weights.items()})

    @contextmanager
    def annealed(self) -> Iterator[Annealed]:
        """The model with the annealed weights inside the block; bit-identical to what it was afterwards."""
        found = self.anneal()
        assert self._driver is not None
        trajectory = self._driver.engine.trajectory
        kept = [each.detach().clone() for each in trajectory.tensors]
        with Transaction(trajectory.tensors, kept, trajectory.before_writes) as transaction:
            copy_(transaction.target, [local(each) for each in found.weights.values()])
            yield found

    def finish(self) -> Annealed:
        """Write the annealed weights into the model for good, if they were verified: in place of the decay phase."""
        found = self.anneal()
        if found.accepted and self._driver is not None:
            engine = self._driver.engine
            copy_([each.data for each in engine.trajectory.tensors], [local(each) for each in found.weights.values()])
            engine.begin_after_leap()
        return found

    def report(self) -> dict[str, Any]:
        """What the engine has done and cost so far, as JSON values."""
        found = {"overhead": 0.0, "attempts": 0, "accepted": 0, "leapt": 0}
        found |= engine_report(self._driver.engine) if self._driver else {}
        steps = {"real_steps": self.real_step, "effective_steps": self.effective_step}
        return {"mode": self.options.mode, **steps, **found, "disabled": self.disabled}

    def state_dict(self) -> dict[str, Any]:
        """All that the engine needs to go on: tensors, numbers and strings, which `weights_only=True` loads."""
        driver = self._driver.state_dict() if self._driver else self._kept
        return {"version": VERSION, "driver": driver, "sum": sum_of(driver)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; load model, optimizer and scheduler as well.

        On several ranks every one loads its own. With a state from another number of ranks (that of any of them) all
        goes on but history and averages, where these are parts of the weights.

        Raises:
            ValueError: it is no state of an engine, of another version, incomplete, altered since it was saved, or of
                another moment than other ranks' states; nothing is then changed.
        """
        if self._driver is None:
            self._kept = checked_state(state)  # what an engine that is off was given, it hands on
            return
        ranks = self._driver.engine.ranks
        driver = agreed_state(state, ranks)
        if driver is not None:
            with telling(ranks):
                self._driver.load_state_dict(driver)
                ranks.all_gather("the state is loaded", None)

    def close(self) -> None:
        """Take the hook out of the optimizer; the counts stay, on several ranks connections are given back."""
        if self._driver is not None:
            self._driver.close()
            self._driver.engine.ranks.leave()
        self._counter.close()

    def __enter__(self) -> Self:
        if self._counter.closed:
            raise ValueError("the engine was closed and its hook taken out: make a new LeapVerify for another block")
        if self._driver is not None:
            self._driver.engine.observer.ahead = 1
            self._driver.counter.after = self.step
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _counted(state: Mapping[str, Any] | None, name: str) -> int:
    """A count in the state that an engine that is off was given."""
    return 0 if state is None else int(state["engine"]["counts"][name])
