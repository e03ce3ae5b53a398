"""NiNo's graph network over the graph of a model, one tile of one tensor's edges at a time.

What is kept for the whole graph is one row of H numbers per node and round. Edge features are computed anew from the
weights in each of three passes: the first gives the nodes after one round, the second those after two, the third the
prediction. A tile is some targets by some sources, and no larger than a few thousand edges.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from leapverify.predict.nino.checkpoint import CONTEXT
from leapverify.predict.nino.gnn import ROUNDS, GraphNetwork
from leapverify.predict.nino.layers import linear, rows_of
from leapverify.predict.nino.neural_graph import Bundle, NeuralGraph
from leapverify.predict.nino.scaling import Scale, scaled, unscaled
from leapverify.predict.predictor import Request

TILE_SOURCES = 64


@dataclass(frozen=True)
class GraphPass:
    """A graph, its values in a request, and the network that is run over it."""

    request: Request
    graph: NeuralGraph
    network: GraphNetwork
    scales: Sequence[Scale]

    def nodes(self, eigenvectors: Tensor) -> list[Tensor]:
        """Node features before and after each round, (nodes, H) each."""
        features = [self.network.nodes(eigenvectors)]
        incoming = self.graph.incoming().clamp_(min=1).to(self.request.device).unsqueeze(1)
        for number in range(ROUNDS):
            total = torch.zeros_like(features[0])
            for bundle in self.graph.bundles:
                self._collect(bundle, features, total)
            mean = total.div_(incoming)
            features.append(F.silu(self.network.rounds[number].node(torch.cat([features[-1], mean], dim=1))))
        return features

    def write(self, features: Sequence[Tensor], row: Tensor, shift: float) -> None:
        """Predict every tensor of the graph into the request's `out`."""
        for bundle in self.graph.bundles:
            if bundle.part is None:
                continue
            scale = self.scales[bundle.part.position]
            target, now = (bundle.of(each[bundle.part.position]) for each in (self.request.out, self.request.now))
            if scale.std == 0:
                target.copy_(now)
                continue
            for tile in self._tiles(bundle):
                delta = self.network.delta(self._state(tile, features), row, shift)
                unscaled(target[tile.index], now[tile.index], tile.x, delta, scale)

    def _collect(self, bundle: Bundle, features: Sequence[Tensor], total: Tensor) -> None:
        """Add the messages of a bundle's edges to their targets' sums.

        With scale = S z + s and shift = T z + t, messages sum to at_t (S sum z + |s| s) + sum (S z + s) at_s
        + T sum z + |s| t: only the middle term needs a product per edge.
        """
        layer = self.network.rounds[len(features) - 1]
        for tile in self._tiles(bundle):
            at_target = layer.at_target(features[-1][tile.targets])
            at_source = tile.broadcast(layer.at_source(features[-1][tile.sources]))
            z = self._state(tile, features)
            wide = linear(z, layer.scale.weight, layer.scale.bias).view(len(at_target), at_source.shape[1], -1)
            z_sum = z.view(len(at_target), at_source.shape[1], -1).sum(1)
            count = at_source.shape[1]
            outer = linear(z_sum, layer.scale.weight, count * layer.scale.bias)
            outer.mul_(at_target).add_(linear(z_sum, layer.shift.weight, count * layer.shift.bias))
            total[tile.targets] += outer.add_(wide.mul_(at_source).sum(1))

    def _state(self, tile: EdgeTile, features: Sequence[Tensor]) -> Tensor:
        """z of a tile's edges after as many rounds as there are node features."""
        z = self.network.first_state(tile.x, tile.bundle.kind)
        for number, nodes in enumerate(features[1:]):
            layer = self.network.rounds[number]
            source = tile.broadcast(layer.edge_source(nodes[tile.sources]))
            z = self.network.next_state(number, z, source, layer.edge_target(nodes[tile.targets]).unsqueeze(1))
        return z

    def _tiles(self, bundle: Bundle) -> Iterator[EdgeTile]:
        limit = rows_of(self.request.device)
        sources = 1 if bundle.diagonal else bundle.sources.length
        # Few wide tiles where targets are few, tall ones where sources are.
        width = max(1, min(sources, max(TILE_SOURCES, limit // max(1, bundle.targets.length))))
        height = max(1, limit // width)
        rows = torch.empty(CONTEXT + 1, height * width, device=self.request.device)
        for top in range(0, bundle.targets.length, height):
            for left in range(0, sources, width):
                index = (slice(top, min(top + height, bundle.targets.length)), slice(left, min(left + width, sources)))
                yield EdgeTile(bundle, index, self._values(bundle, index, rows))

    def _values(self, bundle: Bundle, index: tuple[slice, slice], rows: Tensor) -> Tensor:
        """(6, n): the five states of a tile's edges, scaled, and ones."""
        if bundle.part is None:
            x = rows[:, : (index[0].stop - index[0].start) * (index[1].stop - index[1].start)]
            x[:-1], x[-1] = bundle.value, 1.0
            return x
        position = bundle.part.position
        pieces = [bundle.of(each.tensors[position])[index] for each in self.request.snapshots]
        return scaled(rows, pieces, self.scales[position])


@dataclass(frozen=True)
class EdgeTile:
    """Some edges of a bundle."""

    bundle: Bundle
    index: tuple[slice, slice]
    """Targets and sources, counted within the bundle."""
    x: Tensor

    @property
    def targets(self) -> slice:
        """Rows of the target nodes."""
        return _shifted(self.index[0], self.bundle.targets.start)

    @property
    def sources(self) -> slice:
        """Rows of the source nodes; on a diagonal each target has its own."""
        return _shifted(self.index[0] if self.bundle.diagonal else self.index[1], self.bundle.sources.start)

    def broadcast(self, rows: Tensor) -> Tensor:
        """Rows of the source nodes in the shape that meets the targets' edges: (1, s, H), diagonal (t, 1, H)."""
        return rows.unsqueeze(1 if self.bundle.diagonal else 0)


def _shifted(each: slice, start: int) -> slice:
    return slice(each.start + start, each.stop + start)
