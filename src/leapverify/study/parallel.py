"""One model over the ranks of a run: how it is spread, and what its forward passes and steps then look like.

Every rank builds the whole model from the seed, as one process would, and keeps its part. A step trains on the very
batch that one process would train on: each rank runs its rows, and losses are weighted so that the gradient is that of
the mean over all counted tokens. Held-out batches are dealt by rows too, and every rank sees all losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from leapverify.config.resolved import Resolved
from leapverify.core.ranks import Ranks
from leapverify.core.shards import Shards, Whole, local, reshard
from leapverify.errors import ConfigError
from leapverify.observe import Fingerprinter
from leapverify.train.batches import Batch, counted_tokens, part_of, share_of
from leapverify.train.losses_compiled import Losses
from leapverify.train.sharded_checkpoint import meeting_group
from leapverify.trajectory.history import OptimizerState

Value = TypeVar("Value")
AUTO = "fsdp"
"""What training.parallel=auto means on several ranks."""


class ParallelModel:
    """A model that the ranks of a run hold and train together.

    Args:
        model: whole, on the CPU, the same on every rank; it is spread in place.
        config: the study.
        device: this rank's.
        ranks: those of the run, at least 2.

    Raises:
        ConfigError: see `require_parallel`.
    """

    def __init__(self, model: nn.Module, config: Resolved, device: torch.device, ranks: Ranks) -> None:
        require_parallel(config, ranks)
        self.ranks, self.model, self._count_padding = ranks, model, config.data.count_padding
        self.kind = parallel_of(config, ranks)
        # While all are there: a group that is made later waits long for a rank that has died.
        meeting_group()
        self._whole = Whole(model)
        self._trained: nn.Module = self._whole
        if self.kind == "ddp":
            model.to(device)
            self._trained = nn.parallel.DistributedDataParallel(self._whole)
        else:
            _shard(self._whole, mesh_of(self.kind, device, ranks))

    @property
    def parts(self) -> bool:
        """Whether a rank holds parts of tensors, not all of them whole."""
        return self.kind != "ddp"

    def look(self, call: Callable[[nn.Module], Value]) -> Value:
        """What a function gives for the model with its parameters gathered; afterwards they may be written.

        Args:
            call: runs the model, without gradients; every rank calls `look` at the same point.
        """
        with torch.no_grad():
            found: Value = self._whole(call)
        reshard(self._whole)
        return found

    def mean(self, losses: Losses) -> Callable[[nn.Module, Batch], Tensor]:
        """A training loss of one global batch whose gradients, averaged over the ranks, are those of its mean loss."""

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            assert model is self.model, "the model of this run is the one that is spread"
            part, tokens = self._own(batch)
            share = self.ranks.size * tokens / counted_tokens(batch, self._count_padding)
            found: Tensor = self._trained(lambda whole: losses.mean(whole, part))
            return found * share if tokens else found * 0.0

        return loss

    def global_mean(self, loss: Tensor) -> Tensor:
        """The batch's mean loss from what `mean` gave on each rank; nobody waits for a device."""
        total = loss.detach().double()
        dist.all_reduce(total)
        return (total / self.ranks.size).to(loss.dtype)

    def sequences(self, losses: Losses) -> Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]:
        """Losses of all rows of a batch, in their order, the same bits on every rank; each rank runs some of them."""

        def rows(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
            assert model is self.model, "the model of this run is the one that is spread"
            own = share_of(len(batch), self.ranks.share, self.ranks.shares)
            # A rank without rows runs one along, for the others need its part of the model.
            part = part_of(batch, own or range(1))
            found = torch.stack([each.double() for each in self.look(lambda whole: losses.sequences(whole, part))])
            every = self.ranks.gather_shares("held-out losses", found[:, : len(own)].cpu())
            both = torch.cat(every, dim=1)
            return both[0], both[1]

        return rows

    def optimizer_state(self, state: OptimizerState, parameters: Sequence[Tensor]) -> OptimizerState:
        """The parts of an optimizer's moments that this rank holds."""
        from dataclasses import replace

        def held(moments: Sequence[Tensor]) -> tuple[Tensor, ...]:
            pairs = zip(moments, parameters, strict=True)
            # Those of a parameter without gradient so far are zeros that take no memory.
            return tuple(
                m.new_zeros(()).expand(local(p).shape) if m.dim() and not any(m.stride()) else local(m)
                for m, p in pairs
            )

        return replace(state, m=held(state.m), v=held(state.v)) if state.m else state

    def _own(self, batch: Batch) -> tuple[Batch, int]:
        """The rows that this rank trains on, and how many tokens they count; without any, a row to run along."""
        part = part_of(batch, share_of(len(batch), self.ranks.share, self.ranks.shares))
        tokens = counted_tokens(part, self._count_padding) if len(part) else 0
        if tokens:
            return part, tokens
        row = part_of(batch, range(1))
        return Batch(row.tokens, row.mask, None), 0


class ParallelFingerprinter:
    """Takes the fingerprint of a model that is spread: rank 0's, for everybody."""

    def __init__(self, own: Fingerprinter, spread: ParallelModel) -> None:
        self._own, self._spread = own, spread
        self.identity, self.positions = own.identity, own.positions

    def __call__(self) -> Tensor:
        """The fingerprint of the present weights, (probes, d) float32 on the CPU, the same bits on every rank."""
        found = self._spread.look(lambda _: self._own())
        return self._spread.ranks.broadcast("fingerprint", found)


def parallel_of(config: Resolved, ranks: Ranks) -> str:
    """How a study is spread over these ranks: none, fsdp, ddp or hsdp:GxS."""
    if ranks.alone:
        return "none"
    return AUTO if config.training.parallel == "auto" else config.training.parallel


def require_parallel(config: Resolved, ranks: Ranks) -> None:
    """Refuse what is not done on several ranks, in one sentence.

    Args:
        config: the study.
        ranks: those of the run; one process may do everything.

    Raises:
        ConfigError: a setting that needs one process, or another number of ranks.
    """
    if ranks.alone:
        return
    kind, t = parallel_of(config, ranks), config.training
    if kind == "none":
        raise ConfigError(
            f"training.parallel is none while {ranks.size} ranks were started: start one process, or set "
            "training.parallel=fsdp"
        )
    refused = {
        f"training.compile is {t.compile}": t.compile != "off",
        "training.rounding is stochastic": t.rounding == "stochastic",
        "observe.lyapunov is true": config.observe.lyapunov,
    }
    reason = next((text for text, so in refused.items() if so), None)
    if reason is not None:
        raise ConfigError(
            f"{reason}, which is not done on {ranks.size} ranks: start one process, or leave that setting as it is by "
            "default"
        )
    if kind.startswith("hsdp"):
        groups, shards = _grid(kind)
        if groups * shards != ranks.size:
            raise ConfigError(
                f"training.parallel is {kind}, {groups * shards} ranks, while {ranks.size} were started: make G x S "
                "the number of ranks"
            )


def mesh_of(kind: str, device: torch.device, ranks: Ranks) -> DeviceMesh:
    """The mesh along which parameters are cut: (S,) for fsdp, (G, S) for hsdp:GxS, copies along G."""
    if kind == "fsdp":
        return init_device_mesh(device.type, (ranks.size,))
    return init_device_mesh(device.type, _grid(kind), mesh_dim_names=("copies", "parts"))


def _grid(kind: str) -> tuple[int, int]:
    groups, shards = kind.removeprefix("hsdp:").split("x")
    return int(groups), int(shards)


def _shard(whole: Whole, mesh: DeviceMesh) -> None:
    """`fully_shard` of each transformer block, and of all the rest together: tied embeddings lie in the same group."""
    from torch.distributed.fsdp import fully_shard

    stacks = [module for module in whole.modules() if isinstance(module, nn.ModuleList)]
    for block in max(stacks, key=lambda stack: sum(each.numel() for each in stack.parameters()), default=[]):
        fully_shard(block, mesh=mesh)
    fully_shard(whole, mesh=mesh)


def shards_of(parameters: Sequence[Any], ranks: Ranks) -> Shards | None:
    """How parameters lie on the ranks; None in one process. Every rank calls it at the same point."""
    return None if ranks.alone else Shards.of(list(parameters), ranks)
