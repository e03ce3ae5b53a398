"""AdamW on the absolute error, stopped where held-out histories stop getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leapverify.nowcast.pairs import Pairs
from leapverify.predict.learnt.networks import Network


@dataclass(frozen=True)
class Options:
    """How a network is trained."""

    steps: int = 8000
    """At most."""
    batch: int = 4096
    """Pairs a step."""
    lr: float = 2e-3
    """Peak; a cosine takes it to 0 over the steps."""
    weight_decay: float = 0.01
    look_every_steps: int = 250
    """Steps from one look at the held-out loss to the next."""
    patience: int = 8
    """Looks in a row without a better one after which it stops."""
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """The network at its best look."""

    weights: Mapping[str, Tensor] = field(repr=False)
    best_step: int
    last_step: int
    train_loss: float
    heldout_loss: float


def fit(network: Network, train: Pairs, heldout: Pairs, options: Options) -> Fitted:
    """Train from He's initialisation; deterministic from the seed, and no global generator is touched.

    Loss: mean |unit f(x) - target|.

    Raises:
        ValueError: fewer than one step.
    """
    if options.steps < 1:
        raise ValueError(f"--steps {options.steps} is no number of training steps: give at least 1")
    weights = {name: each.requires_grad_() for name, each in network.untrained(options.seed).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=options.lr, weight_decay=options.weight_decay)
    generator = torch.Generator().manual_seed(options.seed)
    best, kept, best_step, waited, step = math.inf, _copy(weights), 0, 0, 0
    for step in range(1, options.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * 0.5 * (1 + math.cos(math.pi * (step - 1) / options.steps))
        chosen = torch.randint(len(train), (options.batch,), generator=generator)
        error = train.unit[chosen] * network.forward(weights, train.x[:, chosen]) - train.target[chosen]
        optimizer.zero_grad()
        error.abs().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % options.look_every_steps == 0 or step == options.steps:
            found = loss(network, weights, heldout)
            waited = 0 if found < best else waited + 1
            if found < best:
                best, kept, best_step = found, _copy(weights), step
            if waited == options.patience:
                break
    return Fitted(kept, best_step, step, loss(network, kept, train), best)


@torch.no_grad()
def loss(network: Network, weights: Mapping[str, Tensor], pairs: Pairs, chunk: int = 1 << 16) -> float:
    """Mean |unit f(x) - target| over all pairs, summed in float64."""
    return float(errors(network, weights, pairs, chunk).double().mean())


@torch.no_grad()
def errors(network: Network, weights: Mapping[str, Tensor], pairs: Pairs, chunk: int = 1 << 16) -> Tensor:
    """|unit f(x) - target| of every pair."""
    parts = [network.forward(weights, pairs.x[:, start : start + chunk]) for start in range(0, len(pairs), chunk)]
    return (torch.cat(parts) * pairs.unit - pairs.target).abs_()


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in weights.items()}
