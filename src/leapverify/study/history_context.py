"""The history of a seed, and its context: what a study's predictors read beside snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from leapverify.config.resolved import Resolved
from leapverify.core.shards import local
from leapverify.study.parallel import ParallelModel
from leapverify.train.batches import Batch, Windows
from leapverify.train.losses_compiled import Losses
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History
from leapverify.verify.selection import BatchGradients, HeldoutSelection

DRAWS = 64
"""Numbers of batches that the gradients at one step have to themselves."""
FEWEST = 16
"""Batches that must be left over by the plan, lest the gradients at one step see one twice too soon."""


def make_history(
    config: Resolved, model: nn.Module, moved: Mapping[str, Tensor], ring: Sequence[torch.device] | None
) -> History:
    """The history of a seed, with single steps, averages and early states where predictors read them.

    Args:
        config: the study.
        model: whose tensors they are.
        moved: those that predictions move.
        ring: where the snapshots of each of them lie; None: beside the tensor.
    """
    needs = config.needs
    pinned = ring is not None and any(each.type == "cpu" for each in ring)
    history = History(list(moved.values()), needs.snapshots, dtype=config.history_dtype, device=ring, pinned=pinned)
    history.layout = Layout.of(model, list(moved))
    history.keep(recent=needs.recent, averages=needs.averages, milestones=bool(needs.milestones))
    return history


def add_losses(
    history: History,
    config: Resolved,
    model: nn.Module,
    heldout: Windows,
    train: Windows,
    batch: Callable[[int], Batch],
    spread: ParallelModel | None = None,
) -> None:
    """Give a history the held-out losses and the gradients that its predictors read.

    Args:
        history: from `make_history`.
        config: the study.
        model: as it is trained.
        heldout: the set that the verifier reads a part of.
        train: the sequences that are trained on.
        batch: what step number n trains on, on the device.
        spread: how the model lies on several ranks; None in one process. Where a rank holds parts there are no
            gradients, for the predictors that read them want whole tensors.
    """
    needs, place = config.needs, next(model.parameters()).device
    # Few batches, of shapes of their own: compiling would take longer than running them.
    losses = Losses(count_padding=config.data.count_padding, autocast=config.autocast(place))
    assert history.layout is not None
    named = dict(model.named_parameters())
    parameters: list[Tensor] = [named[name] for name in history.layout.names]
    if needs.selection:
        size, indices = config.verify.batch_sequences, selection_indices(heldout, config)
        batches = [heldout.batch(indices[at : at + size]).to(place) for at in range(0, len(indices), size)]
        held = parameters if spread is None else [local(each) for each in parameters]
        sequences = losses.sequences if spread is None else spread.sequences(losses)
        history.selection = HeldoutSelection(model, held, sequences, batches)
    if needs.gradients and not (spread is not None and spread.parts):
        number = fresh_numbers(config, len(train))
        history.gradients = BatchGradients(
            model, parameters, losses.mean, lambda draw: batch(number(history.steps[-1], draw))
        )


def selection_indices(windows: Windows, config: Resolved) -> list[int]:
    """The held-out sequences by which predictors choose: spread evenly over those that the verifier never reads.

    Raises:
        ValueError: too few are left.
    """
    v = config.verify
    taken = set(windows.spread(v.budget))
    left = [index for index in range(len(windows)) if index not in taken]
    if len(left) < v.selection_sequences:
        raise ValueError(
            f"of {len(windows)} held-out sequences the verifier reads {v.budget}, and {len(left)} are left where "
            f"verify.selection_sequences is {v.selection_sequences}: lower it or verify.budget, or give more text"
        )
    return [left[number * len(left) // v.selection_sequences] for number in range(v.selection_sequences)]


def fresh_numbers(config: Resolved, windows: int) -> Callable[[int, int], int]:
    """Numbers of batches that no step of the plan trains on, by step and draw.

    They lie behind the planned steps in the first pass over the text, whose sequences the run never sees, and repeat
    as often as it takes. Where the plan leaves fewer than `FEWEST` of them, they lie in the passes that would follow.

    Args:
        config: the study.
        windows: sequences that are trained on.
    """
    planned = config.training.steps
    unseen = windows // config.training.batch_size - planned

    def number(step: int, draw: int) -> int:
        count = step * DRAWS + draw
        return planned + 1 + (count if unseen < FEWEST else count % unseen)

    return number
