"""A loss function whose batch is partitioned by rows over the ranks: the measuring code is held to it on many ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from leapverify.core.batch_tree import rows_of, taken
from leapverify.core.ranks import Ranks
from leapverify.verify.distributed import SharedLoss
from leapverify.verify.heldout import LossFunction, LossOutput, loss_rows


class DealtRows:
    """A loss function of one batch that is the same on all ranks: each runs some of its rows, all get all losses.

    Share s of n runs rows s, s + n, s + 2n, ...; one without rows runs row 0 along and leaves its loss out, because a
    model that is held in parts needs every rank in a forward pass.

    Args:
        loss: (model, batch) -> (B,) or (losses, tokens), nats per token, one loss for each row of the batch.
        ranks: as for `SharedLoss`.
    """

    def __init__(self, loss: LossFunction, ranks: Ranks) -> None:
        self.own, self.ranks = loss, ranks

    def __call__(self, model: nn.Module, batch: Any) -> LossOutput:
        """Losses and tokens of all rows in their order, float64 on the CPU; NaN stays NaN.

        Raises:
            ValueError: the batch cannot be dealt by rows, or the loss function gives no loss for each of them.
            RanksDivergedError: another rank could not go on.
        """
        if self.ranks.shares == 1:
            return SharedLoss(self.own, self.ranks)(model, batch)
        count, shares = rows_of(batch), self.ranks.shares
        own = range(self.ranks.share, count, shares)
        part = taken(batch, slice(self.ranks.share, None, shares) if own else slice(1))
        found = torch.stack([each.double() for each in loss_rows(self.own(model, part))]).cpu()
        # The other ranks' numbers are looked at too, so that all of them refuse, or none.
        every = self.ranks.gather_shares("dealt held-out losses", found)
        wanted = [max(1, len(range(share, count, shares))) for share in range(shares)]
        if (given := [each.shape[1] for each in every]) != wanted:
            raise ValueError(
                f"the loss function gave {given} losses for {wanted} rows of a batch of {count} that was dealt to "
                f"{shares} ranks: give batches whose tensors have one row for each sequence, and return one loss a row"
            )
        rows = torch.empty(2, count, dtype=torch.float64)
        for share, each in enumerate(every):
            rows[:, share::shares] = each[:, : len(range(share, count, shares))]
        return rows[0], rows[1]
