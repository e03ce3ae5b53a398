"""NiNo with its graph: each weight is predicted from its own five states and from what its neurons pass on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from os import PathLike
from pathlib import Path

from torch import Tensor

from leapverify.predict.formula import Formula
from leapverify.predict.nino.checkpoint import read, require_file
from leapverify.predict.nino.eigenvectors import laplacian_eigenvectors
from leapverify.predict.nino.gnn import GraphNetwork, fold, on
from leapverify.predict.nino.layerwise import GraphPass
from leapverify.predict.nino.mlp import NEEDS as PER_PARAMETER
from leapverify.predict.nino.mlp import MlpNetwork, require_names, slices_of, write
from leapverify.predict.nino.mlp import fold as fold_mlp
from leapverify.predict.nino.neural_graph import NeuralGraph, graph_of
from leapverify.predict.nino.parameter_types import listed, warn_once
from leapverify.predict.nino.scaling import scales
from leapverify.predict.nino.schedule import ahead, require_k
from leapverify.predict.predictor import Request
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History

NEEDS = replace(PER_PARAMETER, whole=True)
OPERATIONS = 115e3
"""Floating-point operations for each weight that is an edge, at the first K."""


def nino(
    file: str | PathLike[str] | None = None,
    rest: str | PathLike[str] | None = None,
    k: int | None = None,
    scale: float = 1.0,
) -> Formula:
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
        file: nino_no_posw.pt; `nino:PATH` by name.
        rest: file of `nino-mlp`, for the tensors that are not in the graph.
        k: fixed, as the published schedule sets it; None: K / spacing.
        scale: factor of delta.

    Raises:
        ValueError: no file, one that does not serve, or a k that the network has no output for.

    Example:
        >>> NEEDS.snapshots, NEEDS.whole
        (5, True)
    """
    network = fold(read(require_file(file, "nino", "nino_no_posw.pt"), graph=True))
    rest_network = None if rest is None else fold_mlp(read(Path(rest), graph=False))
    require_k(k)

    def predict(request: Request) -> None:
        steps_ahead = ahead(request.horizon, request.spacing, k)
        layout = require_names(request)
        graph = graph_of(layout, tuple(tuple(each.shape) for each in request.now))
        if graph is not None:
            _write_graph(request, graph, network, steps_ahead, scale)
        _write_rest(request, layout, graph, rest_network, steps_ahead, scale)

    def operations(history: History) -> float:
        """None where a tensor stays as it is."""
        now, layout = history[-1].tensors, history.layout
        graph = None if layout is None else graph_of(layout, tuple(tuple(each.shape) for each in now))
        inside = sum(now[position].numel() for position in graph.positions) if graph else 0
        outside = sum(each.numel() for each in now) - inside
        return OPERATIONS * inside + (0.0 if rest_network is None else rest_network.operations) * outside

    return Formula("nino", replace(NEEDS, horizon=k is None), predict, scales, operations)


def _write_graph(request: Request, graph: NeuralGraph, network: GraphNetwork, k: float, scale: float) -> None:
    on_device = on(network, request.device)
    passes = GraphPass(request, graph, on_device, scales(request))
    key = ("NiNo's nodes", network, request.device)
    features = request.history.derived(key, lambda: passes.nodes(_positions(graph).to(request.device)))
    row, shift = on_device.last.row(k)
    passes.write(features, row * scale, shift * scale)


def _write_rest(
    request: Request, layout: Layout, graph: NeuralGraph | None, rest: MlpNetwork | None, k: float, scale: float
) -> None:
    """The tensors that are not in the graph."""
    inside = graph.positions if graph else frozenset()
    outside = [position for position in range(len(request.now)) if position not in inside]
    if not outside:
        return
    names = listed([layout.names[position] for position in outside])
    if rest is None:
        warn_once(f"NiNo's graph does not hold {names}: not changed; `rest` takes a per-parameter file for them")
        for position in outside:
            request.out[position].copy_(request.now[position])
        return
    warn_once(f"NiNo's graph does not hold {names}: predicted by the per-parameter form")
    found = slices_of(request, layout)
    write(request, [each for each in found if each.position not in inside], rest, k, scale)


@lru_cache(maxsize=2)
def _positions(graph: NeuralGraph) -> Tensor:
    return laplacian_eigenvectors(graph)
