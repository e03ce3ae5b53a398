"""Held-out losses over the ranks of a run: each runs a share, and all of them see the same numbers in the same order.

What measures and decides need not know of ranks: it is given a loss function that returns the rows of all shares, and
held-out data of which this rank takes its share. Every rank makes the same calls; ranks that hold parts of the same
layers run the same share. Where the loss function fails on one rank, that rank brings its error to the others by
`Ranks.fail`, which is for whoever catches it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from leapverify.core.batch_tree import tensors_in
from leapverify.core.ranks import Ranks
from leapverify.verify.heldout import LossFunction, LossOutput, loss_rows
from leapverify.verify.sampling import Exhausted, FreshBatches

COMPARED = 256
"""Elements of each tensor of a batch, evenly spread over it, by which ranks see whether they drew the same."""


class SharedLoss:
    """A loss function of one batch a rank: the losses of all shares, one after another, the same on every rank.

    Sizes may differ between shares. A scalar counts as one loss of its share. In one process it is the loss function
    itself, to the bit.

    Args:
        loss: (model, batch) -> scalar, (B,) or (losses, tokens), nats per token.
        ranks: the ranks of the run; all of them call this at the same point, with batches of their shares.
    """

    def __init__(self, loss: LossFunction, ranks: Ranks) -> None:
        self.own, self.ranks = loss, ranks

    def __call__(self, model: nn.Module, batch: Any) -> LossOutput:
        """Losses and tokens of all shares, float64 on the CPU; NaN stays NaN.

        Raises:
            ValueError: the loss function returned nothing, or a wrong shape.
            RanksDivergedError: another rank could not go on.
        """
        if self.ranks.alone:
            return self.own(model, batch)
        rows = loss_rows(self.own(model, batch))
        return _joined(self.ranks.gather_shares("held-out losses", _sent(rows)))


class DealtBatches:
    """Held-out batches partitioned over the ranks: each round draws one batch per share, and a rank keeps its own.

    Every rank is given the same held-out data and goes through all of them, so that what one process would have drawn
    in a window is what the ranks draw together, and a run may go on with another number of ranks. A round that is not
    whole on every rank is given to none.

    The sets have to be the same: of sets in different orders two ranks would run the same batch, which a verdict would
    count twice.

    Args:
        fresh: the held-out data; the draws of one window.
        ranks: as for `SharedLoss`.
    """

    def __init__(self, fresh: FreshBatches, ranks: Ranks) -> None:
        self.fresh, self.ranks = fresh, ranks
        self.round: list[Any] = []
        """The batches of all shares in the newest round, until somebody takes them."""

    @property
    def draws(self) -> int:
        """Batches handed out so far, to all ranks."""
        return self.fresh.draws

    @property
    def size(self) -> int | None:
        """Batches of the set, as of `FreshBatches`."""
        return self.fresh.size

    @property
    def passes(self) -> float | None:
        """How many times the set was gone through; None while its size is unknown."""
        return self.fresh.passes

    @property
    def left(self) -> int | None:
        """Rounds that this window still gives; None where the size is unknown, and for a function."""
        return None if self.fresh.left is None else self.fresh.left // self.ranks.shares

    def require(self, sequences_per_batch: int, sequences: int) -> None:
        """See `FreshBatches.require`; `sequences_per_batch` are those of one round, all shares together."""
        rounds = math.ceil(max(sequences, 2 * sequences_per_batch) / sequences_per_batch)
        each = max(1, sequences_per_batch // self.ranks.shares)
        self.fresh.require(each, each * rounds * self.ranks.shares)

    def open_window(self) -> None:
        """Begin a window: batches of earlier ones may come again."""
        self.fresh.open_window()

    def draw(self) -> Any:
        """This rank's batch of the next round; every rank calls it at the same point.

        Raises:
            Exhausted: on some rank the window has not given a whole round; raised on every rank.
            ValueError: as of `FreshBatches.draw`; or the ranks drew different batches, on every rank alike.
        """
        drawn: list[Any] = []
        spent: Exhausted | None = None
        try:
            drawn.extend(self.fresh.draw() for _ in range(self.ranks.shares))
        except Exhausted as error:
            spent = error
        found = self.ranks.all_gather("held-out draw", None if spent is not None else _seen(drawn))
        if any(each is None for each in found):
            raise spent or Exhausted("another rank has used all held-out batches of this window: give all the same set")
        other = next((rank for rank, each in enumerate(found) if each != found[0]), None)
        if other is not None:
            raise ValueError(
                f"ranks 0 and {other} drew different held-out batches, so that some would count twice: give every rank "
                "the same held-out set in the same order, with no sampler or random seed of the rank's own"
            )
        self.round = drawn
        return drawn[self.ranks.share]

    def state_dict(self) -> dict[str, Any]:
        """The state of the draws of all ranks."""
        return self.fresh.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken; errors as of `FreshBatches.load_state_dict`."""
        self.fresh.load_state_dict(state)


def _seen(batches: list[Any]) -> str:
    """What tells batches from others: shapes, and some elements of each tensor; the same wherever they lie."""
    digest = hashlib.sha256()
    for tensor in tensors_in(batches):
        if tensor.layout != torch.strided or isinstance(tensor, DTensor):
            continue
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, -(-len(flat) // COMPARED))].cpu().contiguous()
        digest.update(f"{tuple(tensor.shape)}{some.dtype}".encode() + some.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _sent(rows: tuple[Tensor, Tensor]) -> Float64[Tensor, "2 b"]:
    """Losses and tokens as they travel: on the CPU, in one transfer from the device."""
    return torch.stack([each.double() for each in rows]).cpu()


def _joined(every: list[Tensor]) -> tuple[Tensor, Tensor]:
    losses, tokens = torch.cat(every, dim=1)
    return losses, tokens
