"""How the tensors of a seed get into files and back: by one process, or by the ranks that hold a part each.

Both write the same names, and each reads what the other has written: a study may go on with another number of ranks.
Random streams belong to a rank; one that has none in the files begins a stream of its own from seed, rank and step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from leapverify.core.collective import on_rank0
from leapverify.core.partition import empty_part, spread_like
from leapverify.core.shards import local
from leapverify.io.storage import save_tensors
from leapverify.study.apparatus import Apparatus
from leapverify.train.sharded_checkpoint import PartReader, load_parts, save_parts
from leapverify.train.sharded_folder import read_tensors
from leapverify.train.state import (
    capture_rng,
    load_snapshot,
    load_state,
    restore_rng,
    snapshot_path,
    state_tensors,
)

Value = TypeVar("Value")
_POSITION = re.compile(r"\.(\d+)$")
_STREAM = "rng."


class CheckpointFiles(Protocol):
    """Writes and reads the tensors of one seed."""

    def on_rank0(self, place: str, work: Callable[[], Value]) -> Value:
        """What a piece of work gives that one process does for all of the run."""

    def write(self, path: Path, tensors: Mapping[str, Tensor], **about: Any) -> None:
        """Write tensors whole or not at all (NotWritten)."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on but the weights."""

    def remembered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `trajectory.state.packed` gave, as it is to be written."""

    def read_remembered(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What this process holds of it, and what was told about it (Damaged)."""

    def read_snapshot(self, folder: Path, step: int) -> dict[str, Tensor]:
        """What this process holds of the weights of a step, by name (Damaged)."""

    def read_state(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """Put model, optimizer and random streams where they were (Damaged, ValueError)."""


def files_of(apparatus: Apparatus) -> CheckpointFiles:
    """How this run's tensors are written and read."""
    return OwnFiles(apparatus) if apparatus.spread is None else SharedFiles(apparatus)


class OwnFiles:
    """One process, one file for each kind and step; reads what ranks wrote, too."""

    def __init__(self, apparatus: Apparatus) -> None:
        self._a = apparatus

    def on_rank0(self, place: str, work: Callable[[], Value]) -> Value:
        """See `CheckpointFiles`."""
        del place
        return work()

    def write(self, path: Path, tensors: Mapping[str, Tensor], **about: Any) -> None:
        """See `CheckpointFiles`."""
        save_tensors(path, tensors, **about)

    def state(self) -> dict[str, Tensor]:
        """See `CheckpointFiles`."""
        return state_tensors(self._a.model, self._a.optimizer, weights=False)

    def remembered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `CheckpointFiles`."""
        return dict(tensors)

    def read_remembered(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `CheckpointFiles`."""
        return read_tensors(path)

    def read_snapshot(self, folder: Path, step: int) -> dict[str, Tensor]:
        """See `CheckpointFiles`."""
        return load_snapshot(folder, step)

    def read_state(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """See `CheckpointFiles`."""
        load_state(path, self._a.model, self._a.optimizer, weights=weights)


class SharedFiles:
    """Ranks that write a folder of files together; all of them make the same calls at the same points."""

    def __init__(self, apparatus: Apparatus) -> None:
        self._a, self._ranks = apparatus, apparatus.ranks
        self._moved = list(apparatus.moved.values())

    def on_rank0(self, place: str, work: Callable[[], Value]) -> Value:
        """See `CheckpointFiles`."""
        return on_rank0(self._ranks, place, work)

    def write(self, path: Path, tensors: Mapping[str, Tensor], **about: Any) -> None:
        """See `CheckpointFiles`."""
        save_parts(path, tensors, self._ranks, **about)

    def state(self) -> dict[str, Tensor]:
        """See `CheckpointFiles`; every rank's streams under a name of their own."""
        found = state_tensors(self._a.model, self._a.optimizer, weights=False)
        return {self._own(name) if name.startswith(_STREAM) else name: each for name, each in found.items()}

    def remembered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `CheckpointFiles`; each tensor is spread as the parameter at whose place it stands."""
        return {
            name: spread_like(each, self._like(name)) if _POSITION.search(name) else each
            for name, each in tensors.items()
        }

    def read_remembered(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `CheckpointFiles`."""
        reader = load_parts(path, self._ranks)
        wanted = {
            name: empty_part(self._like(name), dtype) if _POSITION.search(name) else torch.empty(size, dtype=dtype)
            for name, (size, dtype) in reader.sizes.items()
        }
        reader.fill(wanted)
        return {name: local(each) for name, each in wanted.items()}, reader.about

    def read_snapshot(self, folder: Path, step: int) -> dict[str, Tensor]:
        """See `CheckpointFiles`."""
        reader = load_parts(snapshot_path(folder, step), self._ranks)
        wanted = {
            name: empty_part(each, reader.sizes[name][1] if name in reader.sizes else each.dtype)
            for name, each in self._a.parameters.items()
            if name in reader.sizes or name in self._a.moved
        }
        reader.fill(wanted)
        return {name: local(each) for name, each in wanted.items()}

    def read_state(self, path: Path, weights: Mapping[str, Tensor]) -> None:
        """See `CheckpointFiles`."""
        a, reader = self._a, load_parts(path, self._ranks)
        moments = self._moments(reader)
        buffers = {f"buffer.{name}": torch.empty_like(each, device="cpu") for name, each in a.model.named_buffers()}
        streams = {self._own(name): torch.empty_like(each) for name, each in self._streams(reader).items()}
        reader.fill({**{key: each for state in moments.values() for key, each in state.items()}, **buffers, **streams})
        with torch.no_grad():
            for name, parameter in a.parameters.items():
                local(parameter).copy_(weights[name])
            for name, buffer in a.model.named_buffers():
                buffer.copy_(buffers[f"buffer.{name}"])
        a.optimizer.state.clear()
        for name, state in moments.items():
            parameter = a.parameters[name]
            a.optimizer.state[parameter] = {key.removesuffix(f".{name}"): each for key, each in state.items()}
            a.optimizer.state[parameter]["step"] = state[f"step.{name}"].to(self._counts_at(parameter))
        if streams:
            restore_rng({name.removeprefix(self._own("")): each for name, each in streams.items()})
        else:
            torch.manual_seed(a.spread.ranks.stream_seed(a.seed) + reader.about["step"] if a.spread else a.seed)

    def _moments(self, reader: PartReader) -> dict[str, dict[str, Tensor]]:
        """By parameter: tensors to be filled, by their keys in the file."""
        return {
            name: {
                f"exp_avg.{name}": empty_part(each, each.dtype),
                f"exp_avg_sq.{name}": empty_part(each, each.dtype),
                f"step.{name}": torch.empty((), dtype=reader.sizes[f"step.{name}"][1]),
            }
            for name, each in self._a.parameters.items()
            if f"step.{name}" in reader.sizes
        }

    def _streams(self, reader: PartReader) -> dict[str, Tensor]:
        """This rank's streams as they are to be read; none where the files hold none of its own."""
        known = {name for name in reader.sizes if name.startswith(self._own(_STREAM))}
        return {
            name: torch.empty(reader.sizes[self._own(name)][0], dtype=each.dtype)
            for name, each in capture_rng().items()
            if self._own(name) in known
        }

    def _counts_at(self, parameter: Tensor) -> torch.device:
        group = next(one for one in self._a.optimizer.param_groups if any(each is parameter for each in one["params"]))
        on_device = group.get("fused") or group.get("capturable")
        return local(parameter).device if on_device else torch.device("cpu")

    def _own(self, name: str) -> str:
        """A name for what is this rank's alone; rank 0's are those of one process."""
        return name if self._ranks.rank == 0 else f"rank-{self._ranks.rank:04d}.{name}"

    def _like(self, name: str) -> Tensor:
        """The parameter that stands at the place that ends the name of a remembered tensor."""
        place = _POSITION.search(name)
        assert place is not None, name
        return self._moved[int(place[1]) % len(self._moved)]
