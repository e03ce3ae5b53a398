"""What a history of a study knows beside snapshots, as far as its predictors ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leapverify.config.resolved import AVERAGED, MILESTONES, Resolved
from leapverify.core.shards import local
from leapverify.study.parallel import ParallelModel
from leapverify.train.batches import Batch, Windows
from leapverify.train.losses_compiled import Losses
from leapverify.trajectory.averages import PowerAverages
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History
from leapverify.trajectory.milestones import Milestones
from leapverify.verify.selection import BatchGradients, HeldoutSelection

DRAWS = 64
"""Numbers of batches that the gradients at one step have to themselves."""
FEWEST = 16
"""Batches that must be left over by the plan, lest the gradients at one step see one twice too soon."""


def make_history(
    config: Resolved, model: nn.Module, moved: Mapping[str, Tensor], ring: Sequence[torch.device] | None
) -> History:
    """The history of a seed, with whatever keeps weights beside its snapshots.

    Args:
        config: the study.
        model: whose tensors they are.
        moved: those that predictions move.
        ring: where the snapshots of each of them lie; None: beside the tensor.
    """
    needs, like = config.needs, list(moved.values())
    pinned = ring is not None and any(each.type == "cpu" for each in ring)

    def kept(length: int) -> History:
        return History(like, length, dtype=config.history_dtype, device=ring, pinned=pinned)

    history = kept(needs.snapshots)
    history.layout = Layout.of(model, list(moved))
    if needs.recent:
        history.recent = kept(needs.recent)
    if needs.averages:
        history.averages = PowerAverages(AVERAGED)
    if needs.milestones:
        history.milestones = Milestones(MILESTONES)
    return history


def equip(
    history: History,
    config: Resolved,
    model: nn.Module,
    heldout: Windows,
    train: Windows,
    batch: Callable[[int], Batch],
    spread: ParallelModel | None = None,
) -> None:
    """Give a history the losses and gradients that its predictors ask for.

    Args:
        history: of the model's moved parameters.
        config: the study.
        model: as it is trained.
        heldout: the set that the verifier reads a part of.
        train: the sequences that are trained on.
        batch: what step number n trains on, on the device.
        spread: how the model lies on several ranks; None in one process. Where a rank holds parts there are no
            gradients, for the predictors that ask for them want whole tensors.
    """
    needs = config.needs
    place = next(model.parameters()).device
    # Few batches, of shapes of their own: compiling would take longer than running them.
    losses = Losses(count_padding=config.data.count_padding, autocast=config.autocast(place))
    parameters = _moved(model, history)
    sequences = losses.sequences if spread is None else spread.sequences(losses)
    if needs.selection:
        size, indices = config.verify.batch_sequences, selection_indices(heldout, config)
        cuts = [indices[start : start + size] for start in range(0, len(indices), size)]
        batches = [heldout.batch(cut).to(place) for cut in cuts]
        held = parameters if spread is None else [local(each) for each in parameters]
        history.selection = HeldoutSelection(model, held, sequences, batches)
    if needs.gradients and not (spread is not None and spread.parts):
        number = FreshNumbers(config, len(train))
        history.gradients = BatchGradients(
            model, parameters, losses.mean, lambda draw: batch(number(history.steps[-1], draw))
        )


def _moved(model: nn.Module, history: History) -> list[Tensor]:
    assert history.layout is not None
    named = dict(model.named_parameters())
    return [named[name] for name in history.layout.names]


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


class FreshNumbers:
    """Numbers of batches that no step of the plan trains on, by the step and the draw that ask for one.

    They lie behind the planned steps in the first pass over the text, whose sequences the run never sees, going round
    as often as it takes; where the plan leaves fewer than `FEWEST` of them, in the passes that would follow.

    Args:
        config: the study.
        windows: sequences that are trained on.
    """

    def __init__(self, config: Resolved, windows: int) -> None:
        self._planned = config.training.steps
        unseen = windows // config.training.batch_size - self._planned
        self._unseen = unseen if unseen >= FEWEST else None

    def __call__(self, step: int, draw: int) -> int:
        """The batch's number."""
        number = step * DRAWS + draw
        return self._planned + 1 + (number if self._unseen is None else number % self._unseen)


def copies(history: History, tensors: Sequence[Tensor], ring: Sequence[torch.device] | None) -> tuple[Any, ...]:
    """Tensors as the history would keep them: in its type, where its snapshots lie."""
    places = ring or [each.device for each in tensors]
    return tuple(each.detach().to(place, history.dtype) for each, place in zip(tensors, places, strict=True))
