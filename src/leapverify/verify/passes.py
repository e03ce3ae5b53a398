"""Forward passes whose losses stay on the device until all of them are fetched at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from leapverify.core.undisturbed import random_streams, undisturbed
from leapverify.verify.heldout import LossFunction, loss_rows


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Batches that have been sent through a model; the host need not have waited for any of them."""

    rows: tuple[tuple[Float[Tensor, " b"], Float[Tensor, " b"]], ...]
    """Losses and tokens of each batch, where the loss function left them."""
    batches: tuple[Any, ...]
    streams: tuple[Callable[[], None], ...]
    """Set the random streams to where the last pass left them: a further one draws on from there."""


class Ran(NamedTuple):
    """What a number of forward passes gave, on the host."""

    losses: Float64[Tensor, " n"]
    tokens: Float64[Tensor, " n"]
    batches: tuple[Any, ...]
    ends: tuple[int, ...]
    """Number of losses up to the end of each batch."""
    streams: tuple[Callable[[], None], ...]


def forward(
    model: nn.Module,
    loss: LossFunction,
    batches: Iterable[Any],
    wanted: int,
    streams: Sequence[Callable[[], None]] = (),
) -> Passes:
    """Send batches through the model until `wanted` sequences are covered; the model is left undisturbed.

    Args:
        model: in whatever mode; runs in eval mode.
        loss: see `Verifier`.
        batches: no more are drawn than are needed.
        wanted: sequences, or batches for a loss that is a scalar.
        streams: of the passes that these go on from.

    Raises:
        ValueError: no batches, or a loss of another form.
    """
    rows: list[tuple[Tensor, Tensor]] = []
    used: list[Any] = []
    count = 0
    with undisturbed(model):
        for resume in streams:
            resume()
        for batch in batches:
            rows.append(loss_rows(loss(model, batch)))
            used.append(batch)
            count += rows[-1][0].numel()
            if count >= wanted:
                break
        after = tuple(random_streams(model))
    if not rows:
        raise ValueError("the held-out set is empty (0 batches): give at least one batch")
    return Passes(tuple(rows), tuple(used), after)


def fetch(passes: Sequence[Passes], flags: Sequence[Bool[Tensor, ""]] = ()) -> tuple[list[Ran], list[bool]]:
    """Bring losses, tokens and flags to the host, all in one transfer.

    Args:
        passes: any number of them.
        flags: scalars that are wanted as well.

    Returns:
        Losses and tokens of each, in float64, and the flags.
    """
    kept = [tensor for each in passes for row in each.rows for tensor in row]
    found = _on_host([*kept, *flags])
    rows = iter(zip(found[: len(kept) : 2], found[1 : len(kept) : 2], strict=True))
    ran = [_ran(each, list(itertools.islice(rows, len(each.rows)))) for each in passes]
    return ran, [bool(flag) for flag in found[len(kept) :]]


def _on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    if not tensors:
        return []
    device = next((each.device for each in tensors if each.device.type != "cpu"), tensors[0].device)
    together = torch.cat([each.reshape(-1).to(device, non_blocking=True) for each in tensors])
    return list(torch.split(together.cpu().double(), [each.numel() for each in tensors]))


def _ran(passes: Passes, rows: Sequence[tuple[Tensor, Tensor]]) -> Ran:
    losses, tokens = (torch.cat(parts) for parts in zip(*rows, strict=True))
    ends = tuple(itertools.accumulate(len(each) for each, _ in rows))
    return Ran(losses, tokens, passes.batches, ends, passes.streams)
