"""The two small networks, applied to many weights at once; one weight is one column.

`introspection` (Sinha 2017), 4 -> 40 -> 1:
    y = o . relu(H x + h) + b
`wnn` (Jang and Han, ICML 2023), (5 -> 16 -> 16 | 4 -> 16 -> 16) -> 16 -> 1:
    s_k = relu(B_k relu(A_k x_k + a_k) + b_k), k = values, differences
    y = o . relu(J [s_values; s_differences] + j) + c

The number of layers and their width are Sinha's for the first. Jang and Han's are not given in the formula that this
was written from: 16 is our choice, 1,200 multiplications a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
"""Name -> matrix (out, in) or bias (out,)."""

HIDDEN = 40
STREAM = 16
EPS = 1e-5
"""Of `wnn`, added to the range of a weight's values."""


@dataclass(frozen=True)
class LearntNetwork:
    """What a file must hold, and what is computed with it."""

    kind: str
    shapes: Mapping[str, tuple[int, ...]]
    forward: Callable[[Weights, Tensor], Tensor]
    """(weights, (features, n)) -> (n,)."""

    def untrained(self, seed: int) -> dict[str, Tensor]:
        """He's initialisation from a seed, without touching the global generator; the last layer gives 0."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for name, shape in self.shapes.items():
            last, bias = name.startswith("out."), len(shape) == 1
            scale = 0.0 if last or bias else (2.0 / shape[1]) ** 0.5
            found[name] = torch.randn(shape, generator=generator) * scale
        return found


def _layer(weights: Weights, name: str, x: Tensor) -> Tensor:
    return torch.addmm(weights[f"{name}.bias"][:, None], weights[f"{name}.weight"], x)


def forward_introspection(weights: Weights, x: Float[Tensor, "4 n"]) -> Float[Tensor, " n"]:
    """o . relu(H x + h) + b."""
    return _layer(weights, "out", _layer(weights, "hidden", x).relu_())[0]


def forward_wnn(weights: Weights, x: Float[Tensor, "9 n"]) -> Float[Tensor, " n"]:
    """o . relu(J [s_values; s_differences] + j) + c."""
    streams = [
        _layer(weights, f"{stream}.1", _layer(weights, f"{stream}.0", part).relu_()).relu_()
        for stream, part in (("values", x[:5]), ("differences", x[5:]))
    ]
    return _layer(weights, "out", _layer(weights, "joint", torch.cat(streams)).relu_())[0]


def introspection_features(states: Sequence[Float[Tensor, " n"]], size: float, moved: float) -> Float[Tensor, "4 n"]:
    """w_t / size, and (w_t - w_s) / moved for the three older states.

    Args:
        states: w_t, w_0.7t, w_0.4t, w_0.
        size: root mean square of the tensor's w_t.
        moved: root mean square of its w_t - w_0.

    A constant that multiplies all states of a tensor changes nothing: it stands in for Sinha's fixed factor. Where
    size or moved is 0, so are the features of it.
    """
    now, *older = states
    x = now.new_empty(4, now.numel())
    torch.mul(now, inverse(size), out=x[0])
    for row, state in zip(x[1:], older, strict=True):
        torch.sub(now, state, out=row).mul_(inverse(moved))
    return x


def wnn_features(states: Sequence[Float[Tensor, " n"]]) -> tuple[Float[Tensor, "9 n"], Float[Tensor, " n"]]:
    """a_j = (w_j - w_1) / (range + 1e-5) / 2 and a_{j+1} - a_j; and 2 range, the unit of what is predicted.

    Args:
        states: w_1 ... w_5, oldest first.

    The unit has no 1e-5 in it, so that a weight at rest stays at rest.
    """
    first = states[0]
    x = first.new_empty(9, first.numel())
    for row, state in zip(x[:5], states, strict=True):
        torch.sub(state, first, out=row)
    low, high = torch.aminmax(x[:5], dim=0)
    spread = high.sub_(low)
    x[:5].div_((spread + EPS).mul_(2))
    torch.sub(x[1:5], x[0:4], out=x[5:])
    return x, spread.mul_(2)


def inverse(scale: float) -> float:
    """1/scale; 0 for a scale that is 0 or whose inverse float32 does not hold."""
    return 1.0 / scale if not 0.0 <= scale < 1e-37 else 0.0


def _shapes(layers: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (wide, into) in layers.items():
        found |= {f"{name}.weight": (wide, into), f"{name}.bias": (wide,)}
    return found


_WNN_LAYERS = {
    "values.0": (STREAM, 5),
    "values.1": (STREAM, STREAM),
    "differences.0": (STREAM, 4),
    "differences.1": (STREAM, STREAM),
    "joint": (STREAM, 2 * STREAM),
    "out": (1, STREAM),
}

NETWORKS: Mapping[str, LearntNetwork] = {
    "introspection": LearntNetwork(
        "introspection", _shapes({"hidden": (HIDDEN, 4), "out": (1, HIDDEN)}), forward_introspection
    ),
    "wnn": LearntNetwork("wnn", _shapes(_WNN_LAYERS), forward_wnn),
}
"""Name of the predictor -> its network."""
