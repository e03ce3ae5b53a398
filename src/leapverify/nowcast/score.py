"""How far a learnt predictor is from what came, on histories that it has not seen, beside controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.nowcast.fit import errors
from leapverify.nowcast.pairs import Pairs
from leapverify.predict.learnt.networks import Network
from leapverify.statistics import Interval, bootstrap_interval


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


def score(network: Network, weights: Mapping[str, Tensor], seeds: Sequence[Pairs], slope: float) -> list[Score]:
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
