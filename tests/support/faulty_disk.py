"""A disk that fails at a chosen moment: a kill, lost power or an error at the n-th primitive that changes it.

Primitives are the system calls that change a disk, as Python makes them: every write to a file that is opened for
writing, fsync, rename, unlink, mkdir; and safetensors' way of writing a file, which makes its calls itself.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch

KINDS = ("write", "fsync", "rename", "unlink", "mkdir", "safetensors")
ALIVE = (".lock", ".lease")
"""Files that say that a process is alive, and hold nothing."""
Fault = Callable[[str, Path, Callable[[int], None]], None]
"""Called instead of a primitive that is to fail: its kind, its path, and what does a part of it (of 2 halves)."""


@dataclass
class Node:
    """A file's content: what of it has reached the disk."""

    durable: bytes | None = None


@dataclass
class Model:
    """What of a folder would be there after the power had failed: what fsync has promised, and maybe more.

    A file's data reach the disk by fsync of the file; a name, its removal and a folder by fsync of the folder in which
    they are. Whatever was not promised may have reached the disk or not, in any order.
    """

    root: Path
    live: dict[Path, Node] = field(default_factory=dict)
    durable: dict[Path, Node] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    """That would still be there."""

    def __post_init__(self) -> None:
        for place, folders, names in os.walk(self.root):
            self.folders |= {Path(place), *(Path(place, name) for name in folders)}
            for path in (Path(place, name) for name in names if not name.startswith(ALIVE)):
                self.live[path] = Node(path.read_bytes())
        self.durable = dict(self.live)

    def after(self, kind: str, path: Path, other: Path | None = None) -> None:
        """Take in a primitive that was done."""
        if kind == "write":
            self.live.setdefault(path, Node())
        elif kind == "safetensors":
            self.live[path] = Node()
        elif kind == "rename":
            assert other is not None
            self.live[other] = self.live.pop(path, Node())
        elif kind == "unlink":
            self.live.pop(path, None)
        elif kind == "fsync" and path.is_dir():
            self._promise(path)
        elif kind == "fsync":
            self.live.setdefault(path, Node()).durable = path.read_bytes()

    def _promise(self, folder: Path) -> None:
        self.folders |= {Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()}
        for path in [path for path in self.durable if path.parent == folder and path not in self.live]:
            del self.durable[path]
        self.durable |= {path: node for path, node in self.live.items() if path.parent == folder}

    def lose_power(self, chance: random.Random | None) -> None:
        """Make the folder what it would be after the power had failed.

        Args:
            chance: decides for each thing that was not promised whether it reached the disk; None: nothing did.
        """
        wanted: dict[Path, bytes] = {}
        for path in sorted(self.live.keys() | self.durable.keys()):  # the order of chance
            reached = chance is not None and chance.random() < 0.5
            node = (self.live if reached else self.durable).get(path)
            if node is None or not (reached or self._stands(path)):
                continue
            if node.durable is None and not path.is_file():
                continue
            wanted[path] = node.durable if node.durable is not None else _spoilt(path.read_bytes(), chance)
        for path in {Path(place, name) for place, _, names in os.walk(self.root) for name in names} - wanted.keys():
            if not path.name.startswith(ALIVE):
                os.unlink(path)
        for path, content in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for place, _, _ in os.walk(self.root, topdown=False):
            if Path(place) not in self.folders:
                with contextlib.suppress(OSError):
                    Path(place).rmdir()

    def _stands(self, path: Path) -> bool:
        """Whether all folders on the way to a file would be there."""
        inside = path.relative_to(self.root).parents
        return all(self.root / each in self.folders for each in inside)


def _spoilt(content: bytes, chance: random.Random | None) -> bytes:
    """Data that were not promised: cut short, and zeros in the place of some of the rest."""
    if chance is None or not content:
        return b""
    end = chance.randrange(len(content) + 1)
    begin = chance.randrange(end + 1)
    return content[:begin] + bytes(end - begin)


class Disk:
    """Counts the primitives below a folder, and lets the n-th one fail.

    Args:
        root: primitives elsewhere do not count.
        at: which fails, counted from 1; None: none does.
        fault: what happens then; the primitive is done afterwards if it returns.
        model: is told of everything, for lost power.
        lasting: whether every later primitive meets the fault, too.
    """

    def __init__(
        self,
        root: Path,
        at: int | None = None,
        fault: Fault | None = None,
        model: Model | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        self.root, self.at, self.fault, self.model, self.lasting = root, at, fault, model, lasting
        self.kinds: list[str] = []
        self._lock = threading.RLock()
        self._inside = False

    def _primitive(self, kind: str, path: Any, act: Callable[[], Any], part: Callable[[int], None], other: Any) -> Any:
        path = Path(path)
        if self._inside or not path.is_relative_to(self.root) or path.name.startswith(ALIVE):
            return act()
        if kind in ("unlink", "mkdir") and path.exists() is (kind == "mkdir"):
            return act()  # which changes nothing
        with self._lock:
            self.kinds.append(kind)
            count, at = len(self.kinds), self.at or 0
            if self.fault is not None and (count == at or (self.lasting and 0 < at < count)):
                self._inside = True
                try:
                    self.fault(kind, path, part)
                finally:
                    self._inside = False
            found = act()
            if self.model is not None:
                self._inside = True
                self.model.after(kind, path, None if other is None else Path(other))
                self._inside = False
            return found

    @contextlib.contextmanager
    def watched(self) -> Iterator[Disk]:
        """Inside, every primitive of this process passes through here."""
        names = [(os, name) for name in ("fsync", "replace", "rename", "unlink", "remove", "mkdir")]
        places: list[tuple[Any, str]] = [*names, (io, "open"), (safetensors.torch, "save_file")]
        real = [getattr(place, name) for place, name in places]
        fsync, replace, _, unlink, _, mkdir, opened, save = real
        patched: list[Callable[..., Any]] = [
            lambda fd: self._primitive("fsync", _path_of(fd), lambda: fsync(fd), _nothing, None),
            *[lambda a, b, **k: self._primitive("rename", a, lambda: replace(a, b, **k), _nothing, b)] * 2,
            *[lambda p, **k: self._primitive("unlink", p, lambda: unlink(p, **k), _nothing, None)] * 2,
            lambda p, *a, **k: self._primitive("mkdir", p, lambda: mkdir(p, *a, **k), _nothing, None),
            lambda p, mode="r", *a, **k: self._opened(opened, p, mode, a, k),
            lambda tensors, name, **k: self._primitive(
                "safetensors", name, lambda: save(tensors, name, **k), lambda _: _half_saved(Path(name)), None
            ),
        ]
        try:
            for (place, name), function in zip(places, patched, strict=True):
                setattr(place, name, function)
            yield self
        finally:
            for (place, name), function in zip(places, real, strict=True):
                setattr(place, name, function)

    def _opened(self, real: Callable[..., Any], path: Any, mode: str, a: Any, k: Any) -> Any:
        plain = isinstance(path, str | os.PathLike) and mode in ("wb", "xb", "w", "x")
        if not plain or not Path(path).is_relative_to(self.root):
            return real(path, mode, *a, **k)
        raw = _Counted(self, Path(path), mode.replace("b", ""))
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")


class _Counted(io.FileIO):
    """A file whose writes are primitives."""

    def __init__(self, disk: Disk, path: Path, mode: str) -> None:
        super().__init__(str(path), mode)
        self._disk, self._path = disk, path
        if disk.model is not None:
            disk.model.live[path] = Node()

    def write(self, data: Any) -> int:
        """One system call."""
        whole = super().write

        def half(_: int) -> None:
            whole(bytes(data)[: len(data) // 2])

        return self._disk._primitive("write", self._path, lambda: whole(data), half, None)


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def _nothing(_: int) -> None:
    """Of a primitive that is done whole or not at all."""


def _half_saved(path: Path) -> None:
    """What safetensors leaves when it is killed: a file of its own beside the one that is to be replaced."""
    path.with_name(".tmpAbC123").write_bytes(b"\x40\0\0\0\0\0\0\0{half")


def kill(kind: str, path: Path, part: Callable[[int], None]) -> None:
    """The process is killed in the middle of the primitive."""
    del kind, path
    part(0)
    os.kill(os.getpid(), signal.SIGKILL)


def raises(number: int) -> Fault:
    """The system refuses the primitive."""

    def fault(kind: str, path: Path, part: Callable[[int], None]) -> None:
        if kind == "safetensors":
            raise safetensors.SafetensorError(f"I/O error: {os.strerror(number)} (os error {number})")
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            part(0)
        raise OSError(number, os.strerror(number), str(path))

    return fault


NEEDS_ROOM = ("write", "fsync", "mkdir", "safetensors")
"""What a disk without room refuses; it renames and deletes still."""


def refuses(number: int) -> Fault:
    """`raises`, of the primitives that this error befalls."""
    refused = raises(number)

    def fault(kind: str, path: Path, part: Callable[[int], None]) -> None:
        if kind in NEEDS_ROOM or number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            refused(kind, path, part)

    return fault


def power_cut(model: Model, chance: random.Random | None) -> Fault:
    """The machine stops: what fsync has not promised is gone, or not."""

    def fault(kind: str, path: Path, part: Callable[[int], None]) -> None:
        del kind, path
        part(0)
        model.lose_power(chance)
        os.kill(os.getpid(), signal.SIGKILL)

    return fault
