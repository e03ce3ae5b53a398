"""Processes that train one model together: they meet, decide once, and fail together.

Everything that all ranks must know alike goes through one primitive, `Ranks.all_gather`: each rank brings the name of
the place it stands at and a value, and gets the values of all. A rank that has failed brings that instead, once,
wherever the others stand; they learn of it at this very meeting. So no rank ever waits for one that has left, but for
those that are dead or hang inside a collective of the model, and for these a time limit holds.

Values travel as pickles between the ranks of one run, which trust one another as they do in training.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from leapverify.errors import RanksDivergedError

Value = TypeVar("Value")

PATIENCE_S = 600.0
"""How long a rank waits for the others at a meeting, unless told otherwise: they may be saving, or evaluating."""


@dataclass(frozen=True, slots=True)
class _Word:
    """What one rank brings to a meeting."""

    place: str
    value: Any
    failure: str | None = None


@dataclass(eq=False)
class Ranks:
    """The ranks of a run as one of them sees them; without arguments a run of one process, which meets nobody.

    Args:
        rank: this one's number.
        size: how many there are.
        share: which share of held-out data this rank runs, from 0; ranks that hold parts of the same layers (tensor
            parallel) run the same share.
        leaders: ranks whose losses count, one for each share, in order of the shares.
        gather: (word) -> the words of all ranks, by rank; raises RuntimeError when one does not come in time.
    """

    rank: int = 0
    size: int = 1
    share: int = 0
    leaders: Sequence[int] = (0,)
    gather: Callable[[Any], list[Any]] = field(default=lambda word: [word])
    over: str | None = None
    """Why the ranks do not meet any more."""
    release: Callable[[], None] = field(default=lambda: None)
    """Gives back the connections that meetings go over."""

    @property
    def alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def shares(self) -> int:
        """Into how many shares held-out data are partitioned."""
        return len(self.leaders)

    def stream_seed(self, seed: int) -> int:
        """The seed of this rank's random streams, such as dropout masks; rank 0's is that of one process."""
        return seed + 1_000_003 * self.rank

    def all_gather(self, place: str, value: Value) -> list[Value]:
        """The values of all ranks, by rank; the ranks must all come to the same place.

        Args:
            place: a name for what is done; the same on every rank.
            value: anything that pickles; small, on the CPU.

        Raises:
            RanksDivergedError: a rank failed, stands elsewhere or did not come in time, now or at an earlier meeting.
        """
        if self.alone:
            return [value]
        if self.over is not None:
            raise RanksDivergedError(self.over)
        words = self._gathered(_Word(place, value))
        if failures := _failures(words):
            raise self._end(failures)
        places = {word.place for word in words}
        if len(places) > 1:
            stand = ", ".join(f"rank {rank} at {word.place!r}" for rank, word in enumerate(words))
            raise self._end(f"the ranks have come apart ({stand}): give every rank the same settings and calls")
        return [word.value for word in words]

    def broadcast(self, place: str, value: Value) -> Value:
        """Rank 0's value: its vote is everybody's decision."""
        return self.all_gather(place, value)[0]

    def gather_shares(self, place: str, value: Value) -> list[Value]:
        """The values of the leaders: one for each share of the held-out data, in order of the shares."""
        values = self.all_gather(place, value)
        return [values[rank] for rank in self.leaders]

    def any(self, place: str, value: bool) -> bool:
        """Whether it is so on any rank."""
        return any(self.all_gather(place, bool(value)))

    def sum(self, place: str, values: Tensor) -> Tensor:
        """The sum over all ranks in float64, added up in the order of the ranks, so that each has the same bits.

        Args:
            place: as for `all_gather`.
            values: of one shape on all ranks.

        Returns:
            Float64, on the device of `values`.
        """
        wide = values.detach().double()
        if self.alone:
            return wide
        found = self.all_gather(place, wide.cpu().numpy())
        total = torch.from_numpy(found[0].copy())
        for each in found[1:]:
            total += torch.from_numpy(each)
        return total.to(values.device)

    def assert_same(self, place: str, value: Any, what: str) -> None:
        """Make sure that a value is the same on every rank.

        Args:
            place: as for `all_gather`.
            value: compared by ==.
            what: the words for it in the message.

        Raises:
            RanksDivergedError: it differs; the message is the same everywhere.
        """
        values = self.all_gather(place, value)
        other = next((rank for rank, each in enumerate(values) if each != values[0]), None)
        if other is not None:
            raise self._end(
                f"{what} differs between ranks ({values[0]!r} on rank 0, {values[other]!r} on rank {other}): give "
                "every rank the same"
            )

    def fail(self, reason: str) -> str:
        """Tell the others, at the meeting that they come to next, that this rank cannot go on; never raises.

        To be called once for an error of this rank's own; after `RanksDivergedError` all know already: nothing is done.

        Returns:
            What all ranks are told, the same sentence everywhere.
        """
        if self.alone or self.over is not None:
            return self.over or reason
        self.over = reason
        try:
            self.over = _failures(self._gathered(_Word("failure", None, reason)))
        except RanksDivergedError as error:
            return str(error)
        return self.over

    def leave(self) -> None:
        """Meet nobody any more, and give back the connections: a process that makes many engines would run out."""
        if not self.alone and self.over is None:
            self.over = "this rank has left the meetings of what was closed: make a new one on every rank"
            self.release()

    def _gathered(self, word: _Word) -> list[_Word]:
        try:
            return self.gather(word)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:200]
            raise self._end(
                f"rank {self.rank} waited in vain for the others at {word.place!r} ({text}): look for the rank that "
                "ended or hangs"
            ) from error

    def _end(self, reason: str) -> RanksDivergedError:
        self.over = reason
        return RanksDivergedError(reason)


def _failures(words: Sequence[_Word]) -> str:
    """What the ranks that cannot go on say; empty where all can, without numbers where all say the same."""
    saying: dict[str, list[int]] = {}
    for rank, word in enumerate(words):
        if word.failure is not None:
            saying.setdefault(word.failure, []).append(rank)
    if any(len(ranks) == len(words) for ranks in saying.values()):
        return next(iter(saying))
    named = {text: f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}" for text, ranks in saying.items()}
    return "; ".join(f"{who}: {text}" for text, who in named.items())


def ranks_of_world(
    *, data_group: Sequence[int] | None = None, patience_s: float = PATIENCE_S, group: Any = None
) -> Ranks:
    """The ranks of the initialised default process group; every rank calls it at the same point.

    Args:
        data_group: the ranks that, with this one, hold the parts of one copy of the layers and so run the same data
            (its tensor-parallel group, this rank included); None: every rank runs data of its own.
        patience_s: how long a rank waits for the others at a meeting.
        group: a process group on the CPU to meet in; None makes one (gloo).

    Raises:
        RanksDivergedError: the ranks' data groups do not fit together.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks()
    own = group or dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=patience_s))
    size, rank = dist.get_world_size(), dist.get_rank()

    def gather(word: Any) -> list[Any]:
        found: list[Any] = [None] * size
        dist.all_gather_object(found, word, group=own)
        return found

    ranks = Ranks(rank, size, gather=gather, release=lambda: dist.destroy_process_group(own))
    alike = sorted(data_group) if data_group is not None else [rank]
    groups = ranks.all_gather("data groups", alike)
    leaders = sorted({each[0] for each in groups})
    if any(rank not in each or groups[each[0]] != each for rank, each in enumerate(groups)):
        raise ranks._end(f"the ranks that run the same data do not fit together ({groups}): give one mesh to all ranks")
    ranks.leaders, ranks.share = tuple(leaders), leaders.index(alike[0])
    return ranks
