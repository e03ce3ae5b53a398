"""AdamW on the absolute error, stopped where held-out histories stop getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leapverify.core.statistics import Interval, bootstrap_interval
from leapverify.nowcast.pairs import Pairs
from leapverify.predict.learnt.networks import LearntNetwork


@dataclass(frozen=True)
class FitOptions:
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


def fit(network: LearntNetwork, train: Pairs, heldout: Pairs, options: FitOptions) -> Fitted:
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
def loss(network: LearntNetwork, weights: Mapping[str, Tensor], pairs: Pairs, chunk: int = 1 << 16) -> float:
    """Mean |unit f(x) - target| over all pairs, summed in float64."""
    return float(errors(network, weights, pairs, chunk).double().mean())


@torch.no_grad()
def errors(network: LearntNetwork, weights: Mapping[str, Tensor], pairs: Pairs, chunk: int = 1 << 16) -> Tensor:
    """|unit f(x) - target| of every pair."""
    parts = [network.forward(weights, pairs.x[:, start : start + chunk]) for start in range(0, len(pairs), chunk)]
    return (torch.cat(parts) * pairs.unit - pairs.target).abs_()


def _copy(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in weights.items()}


@dataclass(frozen=True)
class Score:
    """The error of one method, and the network's beside it."""

    method: str
    l1: float
    """Mean |displacement predicted - come| per weight, in units of the tensor's movement; mean over seeds."""
    l1_interval: Interval | None
    """95 % over seeds."""
    ratio: float
    """The network's L1 over this one: below 1 the network is nearer to what came."""
    ratio_interval: Interval | None
    """95 % over seeds, paired."""
    seeds: int
    pairs: int


def score(network: LearntNetwork, weights: Mapping[str, Tensor], seeds: Sequence[Pairs], slope: float) -> list[Score]:
    """The network's score, then those of the controls.

    Controls: `hold`, no displacement; `linear`, the line through the two newest states that are read; `linear, scaled`,
    `slope` times that, one number learnt from the same histories.

    Args:
        network, weights: what is judged.
        seeds: the pairs of each test seed.
        slope: from `best_slope`.
    """
    found = {
        network.kind: [_mean(errors(network, weights, each)) for each in seeds],
        "hold": [_mean(each.target.abs()) for each in seeds],
        "linear": [_mean((each.line - each.target).abs()) for each in seeds],
        "linear, scaled": [_mean((slope * each.line - each.target).abs()) for each in seeds],
    }
    pairs, learnt = sum(map(len, seeds)), found[network.kind]
    return [
        Score(method, *_ratio(values, [1.0] * len(seeds)), *_ratio(learnt, values), seeds=len(seeds), pairs=pairs)
        for method, values in found.items()
    ]


def best_slope(pairs: Pairs) -> float:
    """c that makes mean |c line - target| smallest: the median of target/line, weighted by |line|."""
    moving = pairs.line != 0
    line, target = pairs.line[moving].double(), pairs.target[moving].double()
    if not line.numel():
        return 0.0
    ratio, order = (target / line).sort()
    below = line.abs()[order].cumsum(0)
    return float(ratio[int(torch.searchsorted(below, below[-1:] / 2))])


def as_lines(scores: Sequence[Score]) -> list[str]:
    """A table in Markdown."""
    network = scores[0]
    rows = [
        f"| {each.method} | {each.l1:.4f}{_within(each.l1_interval, 4)} | "
        + ("-" if each is network else f"{each.ratio:.3f}{_within(each.ratio_interval, 3)}")
        + " |"
        for each in scores
    ]
    head = f"| method | L1 per weight (95 % over seeds) | {network.method} over it (95 % over seeds) |"
    return [head, "|---|---|---|", *rows, "", f"n = {network.seeds} seeds, {network.pairs:,} pairs."]


def _within(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" ({interval.low:.{digits}f} to {interval.high:.{digits}f})"


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _ratio(values: Sequence[float], control: Sequence[float]) -> tuple[float, Interval | None]:
    """Sum over sum, and its interval over seeds."""
    groups = list(zip(values, control, strict=True))

    def ratio(drawn: Sequence[tuple[float, float]]) -> float:
        below = sum(each[1] for each in drawn)
        return sum(each[0] for each in drawn) / below if below else float("nan")

    return ratio(groups), bootstrap_interval(groups, ratio, seed=0)
