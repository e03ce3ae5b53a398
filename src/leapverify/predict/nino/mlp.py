"""NiNo without its graph: a small network that reads five states of one parameter at a time.

Its first two linear layers have nothing between them and are one matrix here, of 5 columns: 2 H^2 multiplications per
parameter are left. Two ways to make less of them were tried on the published files and given up. Near rest delta bends
too fast for an expansion about x_5: at a distance of 0.01 standard deviations the second order is off by up to 4 % of
delta, at 0.03 by 40 %. In bfloat16 the two layers take half the time, and err by 0.3 to 0.5 % of delta (rms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from os import PathLike

import torch
import torch.nn.functional as F
from torch import Tensor

from leapverify.core.weights import blocks
from leapverify.errors import Declined
from leapverify.predict.formula import Formula
from leapverify.predict.nino.checkpoint import CONTEXT, Parameters, read, require_file
from leapverify.predict.nino.layers import LastLayer, linear, rows_of
from leapverify.predict.nino.parameter_types import ParameterType, TypedSlice, held_slices, per_parameter
from leapverify.predict.nino.scaling import scaled, scales, unscaled
from leapverify.predict.nino.schedule import ahead, require_k
from leapverify.predict.predictor import Needs, Request
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History

NEEDS = Needs(CONTEXT, even=True, layout=True)
BLOCK_ROWS = 8
"""Passes through the network for each block that is scaled: small operations cost their start alone."""


def nino_mlp(file: str | PathLike[str] | None = None, k: int | None = None, scale: float = 1.0) -> Formula:
    """theta_hat = (x_5 + delta) std + mean, delta from a small network that reads five states of the one parameter.

    x = (w - mean) / (std + 1e-6) with mean and std over a tensor's elements in all five states, oldest first;
    h = Linear(5 -> H)(x) + Emb[type]; three times h = SiLU(Linear(H -> H)(h)); delta = Linear(H -> 40)(h)[k - 1].
    k = K/Delta, joined linearly between whole k, at most 40; published with Delta = 200 steps. At rest it need not
    rest: delta of five equal states is small and not zero. A tensor of unknown name is typed by its shape.

    Source: Knyazev et al., "Accelerating Training with Neuron Interaction and Nowcasting Networks", ICLR 2025;
    github.com/SamsungSAILMontreal/nino (MIT), whose nino_mlp.pt or nino_mlp_h32.pt it reads.
    Claim: of both forms, up to about 50 % fewer Adam steps to a loss, against constant learning rates, jumping every
    1,000 steps with k falling from 40 to 1 and never verified; the author's own modded-nanogpt run ended worse with it
    (3.3314 against 3.2954).
    Cost: 66 kFLOP per parameter (H = 32: 4 kFLOP); each state is read twice; memory for blocks of 2,048 parameters.

    Args:
        file: nino_mlp.pt or nino_mlp_h32.pt; `nino-mlp:PATH` by name.
        k: fixed, as the published schedule sets it; None: K / spacing.
        scale: factor of delta.

    Raises:
        ValueError: no file, one that does not serve, or a k that the network has no output for.

    Example:
        >>> nino_mlp()
        Traceback (most recent call last):
        ValueError: nino-mlp needs a file of parameters: get nino_mlp.pt (or nino_mlp_h32.pt, 16 times cheaper) ...
    """
    path = require_file(file, "nino-mlp", "nino_mlp.pt (or nino_mlp_h32.pt, 16 times cheaper)")
    return per_parameter_form(fold(read(path, graph=False)), k, scale)


def per_parameter_form(network: MlpNetwork, k: int | None = None, scale: float = 1.0) -> Formula:
    """`nino-mlp` with a network that has been read."""
    require_k(k)

    def predict(request: Request) -> None:
        steps_ahead = ahead(request.horizon, request.spacing, k)
        layout = require_names(request)
        write(request, slices_of(request, layout), network, steps_ahead, scale)

    def operations(history: History) -> float:
        return network.operations * sum(each.numel() for each in history[-1].tensors)

    return Formula("nino-mlp", replace(NEEDS, horizon=k is None), predict, scales, operations)


@dataclass(frozen=True, eq=False)
class MlpNetwork:
    """The parameters on one device, the first two layers as one."""

    first: Tensor
    """(15, 6, H): for each type the columns of the five states and that of the ones."""
    middle: tuple[tuple[Tensor, Tensor], ...]
    """Weight (H, H) and bias of two layers."""
    last: LastLayer

    def delta(self, x: Tensor, kind: ParameterType, last: tuple[Tensor, float], out: Tensor, scratch: Tensor) -> None:
        """The predicted change of x_5.

        Args:
            x: (6, n), five states and ones.
            kind: of the parameters.
            last: row and bias of the last layer.
            out: (n,), written.
            scratch: (n, H); activations that a system's allocator would hand back to the system after each block.
        """
        h = F.silu(torch.mm(x.T, self.first[kind], out=scratch), inplace=True)
        for weight, bias in self.middle:
            h = F.silu(linear(h, weight, bias), inplace=True)
        torch.mv(h, last[0], out=out).add_(last[1])

    @property
    def operations(self) -> float:
        """Floating-point operations a parameter."""
        read, width = self.first.shape[1:]
        return 2.0 * width * (read + len(self.middle) * width + 1)


def fold(state: Parameters) -> MlpNetwork:
    """The network of a file's parameters; layers are joined in float64."""
    wide = {name: each.double() for name, each in state.items()}
    inner, outer = wide["edge_mlp.fc.0.weight"], wide["edge_proj.fc.0.weight"]
    before = wide["layer_embed.weight"] + wide["edge_proj.fc.0.bias"]
    bias = before @ inner.T + wide["edge_mlp.fc.0.bias"]
    first = torch.cat([(inner @ outer).T.expand(len(bias), -1, -1), bias.unsqueeze(1)], dim=1)
    middle = tuple((state[f"edge_mlp.fc.{i}.weight"], state[f"edge_mlp.fc.{i}.bias"]) for i in (2, 4))
    last = LastLayer(state["edge_mlp.fc.6.weight"], tuple(state["edge_mlp.fc.6.bias"].tolist()))
    return MlpNetwork(first.float(), middle, last)


@lru_cache(maxsize=8)
def on(network: MlpNetwork, device: torch.device) -> MlpNetwork:
    """The network on a device."""
    middle = tuple((weight.to(device), bias.to(device)) for weight, bias in network.middle)
    return MlpNetwork(network.first.to(device), middle, network.last.to(device))


def require_names(request: Request) -> Layout:
    """The layout of a request, when it names its tensors.

    Raises:
        Declined: it names others.
    """
    layout = request.history.layout
    assert layout is not None  # `needs` asks for it
    if len(layout.names) != len(request.now):
        raise Declined(
            f"needs one name per tensor, the history's layout has {len(layout.names)} for {len(request.now)} tensors"
        )
    return layout


def slices_of(request: Request, layout: Layout) -> list[TypedSlice]:
    """The typed parts of what this rank holds of a request's tensors; the types are those of the whole tensors."""
    shapes = [each.shape for each in request.now]
    if request.shards is None:
        return per_parameter(layout, shapes)
    return held_slices(per_parameter(layout, request.shards.shapes), request.shards.starts, shapes)


def write(request: Request, found: Sequence[TypedSlice], network: MlpNetwork, k: float, scale: float) -> None:
    """Predict some parts of a request's tensors, block by block, each through the network a few rows at a time."""
    known = scales(request)
    network = on(network, request.device)
    rows = rows_of(request.device)
    x, delta, scratch = (
        torch.empty(shape, device=request.device)
        for shape in ((CONTEXT + 1, rows * BLOCK_ROWS), (rows * BLOCK_ROWS,), (rows, network.last.weight.shape[1]))
    )
    row, shift = network.last.row(k)
    last = row * scale, shift * scale
    for part in found:
        target = part.of(request.out[part.position])
        states = [part.of(each.tensors[part.position]) for each in request.snapshots]
        size = known[part.position]
        for index in blocks(target.shape, len(delta)):
            pieces = [each[index] for each in states]
            if size.std == 0:  # five equal states in all elements: x is 0, and (0 + delta) 0 + mean is theta_t
                target[index].copy_(pieces[0])
                continue
            block = scaled(x, pieces, size)
            change = delta[: block.shape[1]]
            for some, result in zip(torch.split(block, rows, dim=1), torch.split(change, rows), strict=True):
                network.delta(some, part.kind, last, result, scratch[: len(result)])
            unscaled(target[index], pieces[0], block, change, size)
