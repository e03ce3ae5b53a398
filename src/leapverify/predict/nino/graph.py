"""NiNo with its graph: each weight is predicted from its own five states and from what its neurons pass on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict.nino.checkpoint import read, require_file
from leapverify.predict.nino.eigenvectors import laplacian_eigenvectors
from leapverify.predict.nino.gnn import GraphNetwork, fold, on
from leapverify.predict.nino.layerwise import Stream
from leapverify.predict.nino.mlp import NEEDS as PER_PARAMETER
from leapverify.predict.nino.mlp import Network, needs_with, parts_of, require_names, write
from leapverify.predict.nino.mlp import fold as fold_mlp
from leapverify.predict.nino.neural_graph import Wiring, wire
from leapverify.predict.nino.parameter_types import listed, say_once
from leapverify.predict.nino.scaling import scales
from leapverify.predict.nino.schedule import ahead, require_k
from leapverify.predict.predictor import Needs, Request, require_request
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History

NEEDS = replace(PER_PARAMETER, whole=True)
OPERATIONS = 115e3
"""Floating-point operations for each weight that is an edge, at the first K."""


@dataclass(frozen=True)
class Graph:
    """theta_hat = (x_5 + delta) std + mean, delta from a network on the graph of the model's neurons.

    Nodes are neurons, with eight eigenvectors of the graph's Laplacian; edges are weights, with five states x scaled as
    in `nino-mlp`. Two rounds of messages between both; delta = Linear(SiLU(Linear(e)))[k - 1] of each edge, k as there.
    The graph of GPT-2 is the authors'; in that of Llama, Qwen2 and Pythia each tensor joins the neurons that it joins
    in the model. Tensors outside of it (adapters, another family, a model of which only some tensors are held) are
    predicted like `nino-mlp` where `rest` gives a file of it and stay theta_t otherwise; the log says so once. Messages
    cross tensors from neuron to neuron, so that parts of tensors will not do.

    Source: Knyazev et al., "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025;
    github.com/SamsungSAILMontreal/nino (MIT), whose nino_no_posw.pt it reads.
    Claim: up to about 50 % fewer Adam steps to a loss, against constant learning rates, jumping every 1,000 steps with
    k falling from 40 to 1 and never verified; the author's own modded-nanogpt run ended worse with it (3.3314 against
    3.2954).
    Cost: about 115 kFLOP per parameter at the first K, 71 kFLOP at a further one from the same history; seven rows of
    128 numbers per neuron and embedded word (GPT-2 small: 0.45 GB), and one tile of one tensor's edges at a time.

    Args:
        network: from `gnn.fold`.
        rest: per-parameter network for the tensors that are not in the graph.
        k: fixed, as the published schedule sets it; None: K / spacing.
        scale: factor of delta.
    """

    network: GraphNetwork
    rest: Network | None = None
    k: int | None = None
    scale: float = 1.0
    name: str = "nino"
    needs: Needs = NEEDS

    def __post_init__(self) -> None:
        require_k(self.k)

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        """See `Predictor.predict`."""
        request = require_request(self.needs, history, horizon, out)
        k = ahead(horizon, request.spacing, self.k)
        layout = require_names(request)
        wiring = wire(layout, tuple(tuple(each.shape) for each in request.now))
        if wiring is not None:
            self._along_the_graph(request, wiring, k)
        self._beside_the_graph(request, layout, wiring, k)
        return request.out

    @torch.no_grad()
    def prepare(self, history: History, out: Tensors) -> None:
        """See `Prepares.prepare`."""
        scales(require_request(self.needs, history, 1, out))

    def operations(self, history: History) -> float:
        """Floating-point operations of a prediction, of the network alone; none where a tensor stays as it is."""
        now, layout = history[-1].tensors, history.layout
        wiring = None if layout is None else wire(layout, tuple(tuple(each.shape) for each in now))
        inside = sum(now[position].numel() for position in wiring.positions) if wiring else 0
        outside = sum(each.numel() for each in now) - inside
        return OPERATIONS * inside + (0.0 if self.rest is None else self.rest.operations) * outside

    def _along_the_graph(self, request: Request, wiring: Wiring, k: float) -> None:
        network = on(self.network, request.device)
        stream = Stream(request, wiring, network, scales(request))
        key = ("NiNo's nodes", self.network, request.device)
        features = request.history.derived(key, lambda: stream.nodes(_positions(wiring).to(request.device)))
        row, shift = network.row(k)
        stream.write(features, row * self.scale, shift * self.scale)

    def _beside_the_graph(self, request: Request, layout: Layout, wiring: Wiring | None, k: float) -> None:
        inside = wiring.positions if wiring else frozenset()
        outside = [position for position in range(len(request.now)) if position not in inside]
        if not outside:
            return
        names = listed([layout.names[position] for position in outside])
        if self.rest is None:
            say_once(f"NiNo's graph does not hold {names}: not changed; `rest` takes a per-parameter file for them")
            for position in outside:
                request.out[position].copy_(request.now[position])
            return
        say_once(f"NiNo's graph does not hold {names}: predicted by the per-parameter form")
        found = parts_of(request, layout)
        write(request, [each for each in found if each.position not in inside], self.rest, k, self.scale)


@lru_cache(maxsize=2)
def _positions(wiring: Wiring) -> Tensor:
    return laplacian_eigenvectors(wiring)


def nino(
    file: str | PathLike[str] | None = None,
    rest: str | PathLike[str] | None = None,
    k: int | None = None,
    scale: float = 1.0,
) -> Graph:
    """NiNo's graph form; `nino:PATH` by name.

    Raises:
        ValueError: no file, or one that does not serve.
    """
    network = fold(read(require_file(file, "nino", "nino_no_posw.pt"), graph=True))
    beside = None if rest is None else fold_mlp(read(Path(rest), graph=False))
    return Graph(network, beside, k, scale, needs=replace(needs_with(k), whole=True))
