"""One run of a race on all ranks of torchrun: each holds the whole model and runs its rows of every batch.

The copies are kept alike by DistributedDataParallel, so that whatever needs whole weights (Muon, schedule-free,
averages, every predictor) works as in one process. Losses are weighted so that the averaged gradient is that of the
mean over the whole batch. Held-out batches are dealt by rows too: a round of the engine is one process's batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.core.batch_tree import rows_of, taken
from leapverify.core.ranks import Ranks
from leapverify.core.shards import Whole
from leapverify.errors import ConfigError
from leapverify.race.config import RaceConfig
from leapverify.race.tasks import Material, convex, noise
from leapverify.train.batches import Batch, counted_tokens, part_of, share_of
from leapverify.verify.heldout import LossOutput, loss_rows

PARALLEL = "ddp"
"""How a race holds its models on several ranks; its arms write whole weights."""


def require_parallel(config: RaceConfig, ranks: Ranks) -> None:
    """Refuse more ranks than a held-out batch has rows, before anything runs.

    Raises:
        ConfigError: there are; the message names the task and the rows.
    """
    for task in config.tasks:
        rows = {"convex": convex.HELDOUT_ROWS, "noise": noise.HELDOUT_ROWS}.get(task, config.text.heldout_batch)
        if rows < ranks.size:
            remedy = "" if task in ("convex", "noise") else ", or raise text.heldout_batch"
            raise ConfigError(
                f"a held-out batch of the task {task} has {rows} rows, which cannot be dealt to {ranks.size} ranks: "
                f"start at most {rows} processes{remedy}"
            )


def parallel_material(material: Material, ranks: Ranks) -> Material:
    """A run's material as one of several ranks uses it; in one process the material itself.

    Args:
        material: of one process, the same on every rank; its model is trained in place.
        ranks: those of the run, all calling this at the same point.

    Returns:
        The same with this rank's training and held-out losses, and with the reported losses of all rows.
    """
    if ranks.alone:
        return material
    return dataclasses.replace(
        material,
        loss=_weighted(material, ranks),
        heldout=_dealt(material.heldout, ranks),
        reported=_shared(material, ranks),
        shares=ranks.shares,
    )


def _weighted(material: Material, ranks: Ranks) -> Callable[[nn.Module, Any], Tensor]:
    """This rank's training loss; averaged over the ranks, its gradients are those of the whole batch's mean loss."""
    trained = nn.parallel.DistributedDataParallel(Whole(material.model))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        assert model is material.model, "the ranks train the model of this run"
        part = _rows(batch, _own(batch, ranks) or range(1))
        counted = _counted(part) if _own(batch, ranks) else 0
        if not counted and isinstance(part, Batch):
            # Nothing of it counts here: one row is run along, for the others wait for this rank's gradients.
            part = Batch(part.tokens[:1], part.mask[:1], None)
        found: Tensor = trained(lambda whole: material.loss(whole, part))
        return found * (ranks.size * counted / _counted(batch))

    return loss


def _shared(material: Material, ranks: Ranks) -> Callable[[nn.Module, Any], LossOutput]:
    """Losses and tokens of all rows of a batch, in their order, the same bits on every rank; each runs some of them."""

    def losses(model: nn.Module, batch: Any) -> LossOutput:
        own = _own(batch, ranks)
        found = loss_rows(material.losses(model, _rows(batch, own or range(1))))
        sent = torch.stack([each.double() for each in found])[:, : len(own)].cpu()
        every = torch.cat(ranks.gather_shares("reported losses", sent), dim=1)
        return every[0], every[1]

    return losses


def _dealt(heldout: Callable[[], Any], ranks: Ranks) -> Callable[[], Any]:
    """The parts of every held-out batch, one after another: so many draws are one batch, and each rank gets its own."""
    waiting: list[Any] = []

    def draw() -> Any:
        if not waiting:
            batch = heldout()
            waiting.extend(_rows(batch, share_of(_count(batch), share, ranks.shares)) for share in range(ranks.shares))
        return waiting.pop(0)

    return draw


def _own(batch: Any, ranks: Ranks) -> range:
    return share_of(_count(batch), ranks.share, ranks.shares)


def _rows(batch: Any, rows: range) -> Any:
    return part_of(batch, rows) if isinstance(batch, Batch) else taken(batch, slice(rows.start, rows.stop))


def _count(batch: Any) -> int:
    return len(batch) if isinstance(batch, Batch) else rows_of(batch)


def _counted(batch: Any) -> int:
    """What the mean of a batch's losses goes over: tokens of text, rows of a table."""
    return counted_tokens(batch, count_padding=False) if isinstance(batch, Batch) else rows_of(batch)
