"""A folder of safetensors that many ranks wrote together, as one process sees it.

Each rank writes a file in the Hugging Face form of `torch.distributed.checkpoint`: its header says where each part
belongs, and there is no pickle anywhere. The mark `shards.json` names every file with its sha256 and is written last: a
folder without it was never finished.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leapverify.errors import Damaged
from leapverify.io.storage import load_tensors, read_json, remove, require_place, sha256_of
from leapverify.io.untrusted.tensors import check_safetensors
from leapverify.io.untrusted.text import first_line

MARK = "shards.json"
_FOLDER = re.compile(r"step-\d{6,}")


def folder_of(path: Path) -> Path:
    """The folder that stands for the file FOLDER/step-000050.safetensors when many ranks write it."""
    return path.with_suffix("")


def holds(path: Path) -> bool:
    """Whether tensors lie there in either form; whether they are whole is not looked at."""
    return path.is_file() or (folder_of(path) / MARK).is_file()


def drop_parts(folder: Path) -> None:
    """Delete a folder that ranks wrote, its mark first, so that it is never taken for whole."""
    if folder.is_dir() and not folder.is_symlink():
        remove(folder / MARK)
        shutil.rmtree(folder, ignore_errors=True)


def sweep_parts(folder: Path) -> None:
    """Delete the folders below `folder` that were never finished; call it while nobody writes there."""
    for place, names, _ in os.walk(folder):
        for name in [name for name in names if _FOLDER.fullmatch(name)]:
            names.remove(name)
            if not (Path(place, name) / MARK).exists():
                drop_parts(Path(place, name))


def read_parts_mark(folder: Path) -> dict[str, Any]:
    """The mark of a folder, after a look at which files are there.

    Raises:
        Damaged: the mark or a file is missing, or a file is there that the mark does not name.
    """
    mark = read_json(folder / MARK)
    files = mark.get("files") if isinstance(mark, dict) else None
    if not isinstance(files, dict) or not files:
        raise Damaged(f"{folder / MARK} names no files: delete {folder}")
    require_place(folder, mark, f"delete {folder}")
    present = {one.name for one in folder.glob("*.safetensors")}
    for name in sorted(files):
        if name not in present:
            raise Damaged(f"{folder / name} is missing, of {len(files)} files that belong together: delete {folder}")
    if stale := sorted(present - files.keys()):
        raise Damaged(f"{folder / stale[0]} is not one of the files that {MARK} names: delete {folder}")
    return dict(mark)


def check_part(folder: Path, name: str, digest: str) -> None:
    """Make sure that a file is the one that was written.

    Raises:
        Damaged: it is not.
    """
    path = folder / name
    try:
        check_safetensors(path)
        found = sha256_of(path)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} is damaged: {first_line(error)}; delete {folder}") from error
    if found != digest:
        raise Damaged(f"{path} is damaged: its sha256 is not the one that {MARK} gives; delete {folder}")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The whole tensors (CPU) that one process or many ranks wrote, and what was told about them.

    Raises:
        Damaged: a file is missing, left over from elsewhere, or altered; the message names it.
    """
    folder = folder_of(path)
    if path.with_suffix(".json").exists() or path.exists() or not (folder / MARK).exists():
        return load_tensors(path)
    mark = read_parts_mark(folder)
    for name, digest in mark["files"].items():
        check_part(folder, name, digest)
    return _joined(folder), mark


def _joined(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whole, each put together from its parts."""
    from safetensors import SafetensorError, safe_open
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found: dict[str, Tensor] = {}
    try:
        told = HuggingFaceStorageReader(str(folder)).read_metadata()
        held: Counter[str] = Counter()
        for index, part in (told.storage_data or {}).items():
            held[index.fqn] += math.prod(part.shape)
        for name, about in told.state_dict_metadata.items():
            # Before anything is allocated: a header may claim any size.
            if held[name] != math.prod(about.size):  # type: ignore[union-attr]
                raise ValueError(f"{held[name]} elements of {name} are there, of {math.prod(about.size)}")  # type: ignore[union-attr]
            found[name] = torch.empty(about.size, dtype=about.properties.dtype)  # type: ignore[union-attr]
        for index, part in (told.storage_data or {}).items():
            with safe_open(part.relative_path, framework="pt") as file:
                place = tuple(slice(first, first + size) for first, size in zip(index.offset, part.shape, strict=True))
                found[index.fqn][place] = file.get_tensor(index.fqn)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise Damaged(f"{folder} cannot be read ({first_line(error)}): delete it") from error
    return found


def part_sizes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every whole tensor in a folder."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {name: (one.size, one.properties.dtype) for name, one in found.items()}  # type: ignore[union-attr]
