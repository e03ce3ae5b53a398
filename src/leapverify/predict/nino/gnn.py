"""NiNo's graph network, its linear layers joined where nothing lies between them.

    e = Linear(45 -> H)(features) + Emb[type]          n = Linear(8 -> H)(eigenvectors)
    (scale, shift) = Linear(H -> 2H)(e)                message = scale Linear(2H -> H)([n_t; n_s]) + shift
    n = SiLU(Linear(Linear(2H -> H)([n; mean message])))
    e = Linear(SiLU(Linear(e) + Linear(n)_s + Linear(n)_t))
    delta = Linear(SiLU(Linear(e)))

Two rounds of n and e; a third convolution, which the files hold too, changes no edge and is left out. A weight fills
the first of nine features, so five of 45 columns count. Edge features are kept as a state z with e = read z + const:
the five values, a one and the type at first, the activations inside the edge's own layer after that.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from leapverify.predict.nino.checkpoint import CONTEXT, FEATURES, Parameters
from leapverify.predict.nino.layers import LastLayer, linear
from leapverify.predict.nino.parameter_types import ParameterType
from leapverify.predict.nino.schedule import REACH

ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Affine:
    """x -> x W^T + b; one bias, or one per type."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it to rows."""
        return linear(x, self.weight, self.bias)

    def to(self, device: torch.device) -> Affine:
        """The same on a device, in float32."""
        return Affine(self.weight.to(device, torch.float32).contiguous(), self.bias.to(device, torch.float32))


@dataclass(frozen=True, eq=False)
class Round:
    """One convolution and the change of the edges after it."""

    scale: Affine
    shift: Affine
    at_target: Affine
    at_source: Affine
    node: Affine
    edge: Affine
    edge_source: Affine
    edge_target: Affine

    def to(self, device: torch.device) -> Round:
        """The same on a device, in float32."""
        return Round(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True, eq=False)
class GraphNetwork:
    """The parameters on one device."""

    nodes: Affine
    """From eigenvectors."""
    rounds: tuple[Round, ...]
    out: Affine
    last: LastLayer

    def first_state(self, x: Tensor, kind: ParameterType) -> Tensor:
        """z of edges with these values, (n, 6 + 15): the values, a one, and the type.

        Args:
            x: (6, n), five states and ones.
            kind: of the edges.
        """
        z = x.new_zeros(x.shape[1], self.rounds[0].edge.weight.shape[1])
        z[:, : len(x)] = x.T
        z[:, len(x) + kind] = 1.0
        return z

    def next_state(self, number: int, z: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """z after a round, from z before it.

        Args:
            number: of the round.
            z: (t * s, .)
            source: (1 or t, s, H), what the source nodes add, from `edge_source`.
            target: (t, 1, H), what the target nodes add, from `edge_target`.
        """
        u = self.rounds[number].edge(z)
        u.view(len(target), source.shape[1], -1).add_(source).add_(target)
        return F.silu(u, inplace=True)

    def delta(self, z: Tensor, row: Tensor, shift: float) -> Tensor:
        """The predicted change of x_5, from z after the last round."""
        return torch.mv(F.silu(self.out(z), inplace=True), row).add_(shift)


def fold(state: Parameters) -> GraphNetwork:
    """The network of a file's parameters; layers are joined in float64."""
    layers = {
        name.removesuffix(".weight"): Affine(weight.double(), state[name.removesuffix("weight") + "bias"].double())
        for name, weight in state.items()
        if name.endswith(".weight") and name != "layer_embed.weight"
    }
    project = layers["edge_proj.fc.0"]
    embedding = state["layer_embed.weight"].double()
    # Reads (five values, a one, one of 15 types).
    read = Affine(
        torch.cat([project.weight[:, :CONTEXT], project.bias.unsqueeze(1), embedding.T], dim=1),
        torch.zeros(len(project.weight), dtype=torch.float64),
    )
    rounds = []
    for number in range(ROUNDS):
        rounds.append(_round(layers, number, read))
        read = layers[f"gnn.edge_update.{number}.lin1"]
    last = layers["edge_out.fc.2"]
    return GraphNetwork(
        layers["node_proj.fc.0"],
        tuple(rounds),
        _after(layers["edge_out.fc.0"], read),
        LastLayer(last.weight.view(FEATURES, REACH, -1)[0], tuple(last.bias.view(FEATURES, REACH)[0].tolist())),
    )


def _round(layers: dict[str, Affine], number: int, read: Affine) -> Round:
    convolution, update = f"gnn.convs.{number}", f"gnn.edge_update.{number}"
    encoder = layers[f"{convolution}.edge_encoder"]
    scale, shift = (
        _after(Affine(weight, bias), read)
        for weight, bias in zip(encoder.weight.chunk(2), encoder.bias.chunk(2), strict=True)
    )
    pre = layers[f"{convolution}.pre_nns.0.0"]
    at_target, at_source = pre.weight.chunk(2, dim=1)
    source, target = layers[f"{update}.lin_s"], layers[f"{update}.lin_t"]
    return Round(
        scale,
        shift,
        Affine(at_target, pre.bias),
        Affine(at_source, torch.zeros_like(pre.bias)),
        _after(layers[f"{convolution}.lin"], layers[f"{convolution}.post_nns.0.0"]),
        _after(layers[f"{update}.lin_e"], read),
        source,
        target,
    )


def _after(second: Affine, first: Affine) -> Affine:
    """Both as one layer."""
    return Affine(second.weight @ first.weight, second.weight @ first.bias + second.bias)


@lru_cache(maxsize=8)
def on(network: GraphNetwork, device: torch.device) -> GraphNetwork:
    """The network on a device, in float32."""
    rounds = tuple(each.to(device) for each in network.rounds)
    return GraphNetwork(network.nodes.to(device), rounds, network.out.to(device), network.last.to(device))
