"""Tensors that many ranks write together and read again, each rank its parts, whatever the number of ranks then is.

`torch.distributed.checkpoint` moves them; `shard_folder` says what lies in the folder.
"""

from __future__ import annotations

import datetime
import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from leapverify.core.collective import on_all_ranks, on_rank0
from leapverify.core.partition import held_rows
from leapverify.core.ranks import PATIENCE_S, Ranks
from leapverify.core.shards import local
from leapverify.errors import Damaged, NotWritten
from leapverify.io.storage import PLACE, check_tensors, place_of, remove, sha256_of, write_json
from leapverify.io.untrusted.text import first_line
from leapverify.train.sharded_folder import MARK, check_part, drop_parts, folder_of, part_sizes, read_parts_mark

_groups: dict[int, Any] = {}


def save_parts(path: Path, tensors: Mapping[str, Tensor], ranks: Ranks, **about: Any) -> None:
    """Write tensors from all ranks into `folder_of(path)`; it takes the place of the file form. All ranks call it.

    Args:
        path: ends in .safetensors.
        tensors: spread ones on every rank; of plain ones rank 0's are written, under the same names elsewhere too, and
            names that one rank alone has.
        ranks: that write.
        about: JSON values for the mark.

    Raises:
        NotWritten: on every rank: the disk is full, the folder cannot be written, or is not the same one for all.
    """
    folder = folder_of(path)
    on_rank0(ranks, f"clear {folder.name}", lambda: _cleared(folder))
    names = ranks.all_gather("plain tensors", [name for name, one in tensors.items() if not isinstance(one, DTensor)])
    here = {
        name: one
        for name, one in tensors.items()
        if isinstance(one, DTensor) or next(rank for rank, own in enumerate(names) if name in own) == ranks.rank
    }
    _write(folder, here)
    found = on_all_ranks(ranks, f"hash {folder.name}", lambda: _own_files(folder, ranks.rank))
    files = {name: digest for one in found for name, digest in one.items()}
    on_rank0(ranks, f"commit {folder.name}", lambda: _commit(path, files, {**about, "ranks": ranks.size}))


def _cleared(folder: Path) -> None:
    """An empty folder; what an earlier save left goes, its mark first."""
    drop_parts(folder)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise NotWritten(f"{folder} cannot be written ({error.strerror}): {_remedy(error)}") from error


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    # Types that the header of a file knows; what lies on a GPU is copied by the writer.
    plain = {
        name: one if isinstance(one, DTensor) else one.detach().cpu().contiguous() for name, one in tensors.items()
    }
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(plain, storage_writer=writer, process_group=meeting_group())
    except CheckpointException as error:
        raise _not_written(folder, error.failures) from error


def _not_written(folder: Path, failures: Mapping[int, Any]) -> NotWritten:
    """One sentence for what `torch.distributed.checkpoint` collected from the ranks."""
    rank, (failed, _) = sorted(failures.items())[0]
    what = os.strerror(failed.errno) if isinstance(failed, OSError) and failed.errno else first_line(failed)
    return NotWritten(f"{folder} cannot be written (rank {rank}: {what}): {_remedy(failed)}")


def _remedy(error: BaseException) -> str:
    full = "No space left" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return "free some space or name another folder" if full else "name a folder that every rank may write"


def _own_files(folder: Path, rank: int) -> dict[str, str]:
    """The files that this rank wrote, with their sha256; none where others hold copies of all that it holds."""
    return {one.name: sha256_of(one) for one in sorted(folder.glob(f"shard-{rank + 1:05d}-*.safetensors"))}


def _commit(path: Path, files: dict[str, str], about: dict[str, Any]) -> None:
    folder = folder_of(path)
    seen = {one.name for one in folder.iterdir()}
    if not files or (lost := sorted(files.keys() - seen)):
        raise NotWritten(
            f"{folder} lacks {lost[0] if files else 'every file'}, which another rank wrote: --out must be a folder "
            "that all ranks see"
        )
    write_json(folder / MARK, {**about, PLACE: place_of(folder), "files": files})
    for stale in (path.with_suffix(".json"), path):
        remove(stale)


def load_parts(path: Path, ranks: Ranks) -> PartReader:
    """A reader of either form for all ranks, which check the files between them. All ranks call it.

    Raises:
        Damaged: on every rank alike.
    """
    folder = folder_of(path)
    plain = on_rank0(ranks, f"form of {path.name}", lambda: path.with_suffix(".json").exists() or not folder.is_dir())
    if plain:
        return PartReader(path, on_rank0(ranks, f"check {path.name}", lambda: check_tensors(path)), ranks, {})
    mark = on_rank0(ranks, f"mark of {path.name}", lambda: read_parts_mark(folder))
    own = sorted(mark["files"].items())[ranks.rank :: ranks.size]
    on_all_ranks(ranks, f"check {path.name}", lambda: _checked(folder, own))
    return PartReader(path, mark, ranks, part_sizes(folder))


def _checked(folder: Path, files: list[tuple[str, str]]) -> None:
    for name, digest in files:
        check_part(folder, name, digest)


class PartReader:
    """Checked tensors of which every rank takes what it holds."""

    def __init__(
        self, path: Path, about: dict[str, Any], ranks: Ranks, sizes: dict[str, tuple[torch.Size, torch.dtype]]
    ) -> None:
        self.about = about
        self._path, self._ranks, self._whole = path, ranks, not sizes
        self.sizes = sizes or _sizes_of(path)

    def fill(self, wanted: Mapping[str, Tensor]) -> None:
        """Read into these tensors, spread or plain; all ranks call it with the same names but for their own ones.

        Raises:
            ValueError: there is no such tensor, or it is of another shape or type, on every rank alike.
            It is Damaged where what was found whole cannot be read.
        """
        problem = next((text for name, one in wanted.items() if (text := self._misfit(name, one))), None)
        found = [one for one in self._ranks.all_gather("what is read", problem) if one is not None]
        if found:
            raise ValueError(found[0])
        if self._whole:
            self._from_file(wanted)
        else:
            _load(folder_of(self._path), dict(wanted))

    def _misfit(self, name: str, wanted: Tensor) -> str | None:
        size, dtype = self.sizes.get(name, (None, None))
        if (size, dtype) == (wanted.shape, wanted.dtype):
            return None
        there = "absent" if size is None else f"{dtype} {tuple(size)}"
        return (
            f"{self._path} is of another model: {name} is {there} there and {wanted.dtype} {tuple(wanted.shape)} here"
        )

    def _from_file(self, wanted: Mapping[str, Tensor]) -> None:
        from safetensors import safe_open

        with safe_open(self._path, framework="pt") as file, torch.no_grad():
            for name, one in wanted.items():
                part = local(one)
                if part.numel():
                    whole = file.get_slice(name)
                    part.copy_(whole[held_rows(one)] if one.dim() else file.get_tensor(name))


def _load(folder: Path, wanted: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        load(
            wanted,
            storage_reader=HuggingFaceStorageReader(str(folder)),
            process_group=meeting_group(),
        )
    except (CheckpointException, ValueError, KeyError, AssertionError) as error:
        raise Damaged(f"{folder} cannot be read ({first_line(error)}): delete it") from error


def _sizes_of(path: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        # A slice tells its type by the format's own name; an empty piece of it tells torch's.
        return {name: (torch.Size(file.get_slice(name).get_shape()), _dtype(file, name)) for name in file.keys()}  # noqa: SIM118


def _dtype(file: Any, name: str) -> torch.dtype:
    whole = file.get_slice(name)
    return (whole[:0] if whole.get_shape() else file.get_tensor(name)).dtype


def meeting_group() -> Any:
    """A process group on the CPU in which plans of saves and loads are exchanged; made once for each world."""
    import torch.distributed as dist

    world = dist.group.WORLD
    if id(world) not in _groups:
        _groups.clear()
        _groups[id(world)] = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=PATIENCE_S))
    return _groups[id(world)]
