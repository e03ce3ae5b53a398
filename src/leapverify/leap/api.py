"""`LeapVerify`: the four parts in a training run that goes on, in anybody's loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from torch import nn

from leapverify.core.ranks import Ranks
from leapverify.core.shards import local
from leapverify.core.state_hash import sum_of
from leapverify.core.undisturbed import streams_kept
from leapverify.core.weights import copy_
from leapverify.leap.anneal.search import Annealed
from leapverify.leap.assemble import build_engine
from leapverify.leap.config import LeapConfig
from leapverify.leap.driver import Driver
from leapverify.leap.event import LeapEvent
from leapverify.leap.loggers import EventLog
from leapverify.leap.optimizers import as_optimizers
from leapverify.leap.parallel import like, ranks_of, same_options, sharing_failures
from leapverify.leap.state import VERSION, checked_state, state_of_all_ranks
from leapverify.leap.step_counter import StepCounter
from leapverify.leap.summary import engine_report, memory_sentence
from leapverify.leap.transaction import Transaction
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
        scheduler: the learning-rate scheduler, or a list, each of one of the optimizers.
        probes: what the fingerprint is taken of: texts (with `tokenizer`), token ids (n, T), or any batch that the
            model takes; None for the first held-out batch.
        tokenizer: object with `encode(text)`.
        config: the options, as a `LeapConfig`.
        options: single options by name, in place of those of `config`: `mode`, `policy`, `interval`, `budget` and so
            on. `LeapConfig` (leapverify/leap/config.py) lists them all; `LeapConfig.meanings()` gives their meanings.

    On several ranks every rank makes the same calls (`step`, `anneal`, `load_state_dict` ...) with the same options and
    held-out set; docs/live.md says more.

    Raises:
        TypeError: an unknown option.
        ValueError: a choice that is unknown or does not fit the others; no held-out data; a loss function that gives
            nothing, NaN or a wrong shape; an optimizer that does not hold the model's parameters or undoes leaps; a
            scheduler of another optimizer. The message names the remedy.
        RanksDivergedError: the ranks were given different options, or one of them could not go on.

    Source: arXiv 2602.19580; the transaction and the leap over the decay: docs/live.md.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> def losses(model, batch):
        ...     return model(batch).square()[:, 0]
        >>> heldout = [torch.randn(16, 2) for _ in range(8)]
        >>> leap = LeapVerify(model, optimizer, heldout=heldout, loss=losses, interval=5, policy="fixed", horizon=10)
        >>> for _ in range(20):
        ...     losses(model, torch.randn(16, 2)).mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     event = leap.step()  # None, or what happened at this checkpoint
        >>> [event.step for event in leap.events], leap.real_step
        ([5, 10, 15, 20], 20)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        heldout: Iterable[Any] | Callable[[], Any] | None = None,
        loss: LossFunction | None = None,
        scheduler: Any = None,
        probes: Any = None,
        tokenizer: Any = None,
        config: LeapConfig | None = None,
        **options: Any,
    ) -> None:
        self._driver: Driver | None = None
        self._kept: Mapping[str, Any] | None = None
        # The ranks come first: what is wrong with the options of one of them, the others have to learn.
        given = {**vars(config or LeapConfig()), **options}
        ranks = Ranks() if given["mode"] == "off" else ranks_of(model, given["mesh"], given["patience_s"])
        with sharing_failures(ranks):
            self.config = LeapConfig.of(config, options)
            self._event_log = EventLog(self.config.log, self.config.loggers, heard=ranks.rank == 0)
            optimizers = as_optimizers(optimizer)
            self._counter = StepCounter(optimizers)
            if self.config.mode == "off":
                return
            same_options(ranks, self.config.shared)
            engine = build_engine(
                model,
                optimizers,
                self.config,
                ranks,
                heldout=heldout,
                loss=loss,
                scheduler=scheduler,
                probes=probes,
                tokenizer=tokenizer,
            )
            logger.info("%s", memory_sentence(engine))
            self._driver = Driver(engine, self._counter, self._event_log)
            ranks.all_gather("the engine is built", None)

    @property
    def events(self) -> list[LeapEvent]:
        """The newest thousand events."""
        return self._event_log.events

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
        if batch is not None and driver.engine.leakage.watching:
            driver.show(batch)
        count = driver.counter.count
        if count < driver.next or count == driver.counter.seen:
            return None
        return driver.turn()

    def anneal(self) -> Annealed:
        """The weights that a decay of the learning rate would give: an average of past ones, verified on held-out data.

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
        with driver.charged(), streams_kept(engine.model), sharing_failures(engine.ranks):
            engine.refresh()
            assert engine.fresh is not None
            engine.fresh.open_window()
            found = engine.annealing.anneal(self.real_step, self.config.sequences)
            engine.weights.before_writes()
            engine.ranks.assert_same(
                "annealed", (found.accepted, found.window_steps, found.shape), "the verdict of anneal()"
            )
        held = engine.weights.parameters
        return replace(found, weights={name: like(held[name], part) for name, part in found.weights.items()})

    @contextmanager
    def annealed(self) -> Iterator[Annealed]:
        """The model with the annealed weights inside the block; bit-identical to what it was afterwards."""
        found = self.anneal()
        assert self._driver is not None
        weights = self._driver.engine.weights
        kept = [each.detach().clone() for each in weights.tensors]
        with Transaction(weights.tensors, kept, weights.before_writes) as transaction:
            copy_(transaction.target, [local(each) for each in found.weights.values()])
            yield found

    def finish(self) -> Annealed:
        """Write the annealed weights into the model for good, if they were verified: in place of the decay phase."""
        found = self.anneal()
        if found.accepted and self._driver is not None:
            engine = self._driver.engine
            copy_([each.data for each in engine.weights.tensors], [local(each) for each in found.weights.values()])
            engine.begin_after_leap()
        return found

    def report(self) -> dict[str, Any]:
        """What the engine has done and cost so far, as JSON values."""
        found = {"overhead": 0.0, "attempts": 0, "accepted": 0, "leapt": 0}
        found |= engine_report(self._driver.engine) if self._driver else {}
        steps = {"real_steps": self.real_step, "effective_steps": self.effective_step}
        return {"mode": self.config.mode, **steps, **found, "disabled": self.disabled}

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
        driver = state_of_all_ranks(state, ranks)
        if driver is not None:
            with sharing_failures(ranks):
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
