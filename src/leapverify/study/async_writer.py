"""Saves that overlap training: copies in host memory, and one thread that writes them while training goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from torch import Tensor

from leapverify.core.pinned import copy_ahead, host_memory
from leapverify.runs import Paused

logger = logging.getLogger(__name__)


class Writer:
    """Does one piece of work at a time, in a thread of its own where it overlaps; the next waits for the one in flight.

    Use it as a context manager: its end waits too. What a piece of work raised is raised by the next call, or at the
    end unless another error ends the block; a pause is no such error, since it says that nothing is lost.

    Args:
        overlap: whether its owner goes on meanwhile; False does the work at once.
    """

    def __init__(self, overlap: bool) -> None:
        self.overlap = overlap
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._buffers: dict[str, tuple[object, list[Tensor]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except BaseException as failed:
            if error is None or isinstance(error, Paused) or isinstance(failed, KeyboardInterrupt):
                raise
            logger.warning("a checkpoint was not written: %s", failed)

    def start(self, work: Callable[[], None]) -> None:
        """Do a piece of work, once the one in flight is done.

        Raises:
            Exception: what the one before raised; without overlap, what this one raises.
        """
        self.wait()
        if not self.overlap:
            work()
            return
        # A daemon: where waiting for it is cut short by a signal, it must not hold the process.
        self._thread = threading.Thread(target=self._do, args=(work,), name="leapverify-writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is in flight.

        Raises:
            Exception: what the piece of work raised.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def taken(self, name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors as a piece of work may read them while their owner writes them: copied, where it overlaps.

        The copies lie in one block of host memory, page-locked where there is a GPU, and are used again by the next
        call of the same name: nothing may be in flight.

        Args:
            name: of the block.
            tensors: name -> tensor, on any device.
        """
        if not self.overlap or not tensors:
            return dict(tensors)
        assert self._thread is None, "what is in flight reads the copies"
        kinds = [(each.shape, each.dtype) for each in tensors.values()]
        known, copies = self._buffers.get(name, (None, []))
        if known != kinds:
            self._buffers.pop(name, None)
            del copies
            copies = host_memory(list(tensors.values()), locked=any(each.is_cuda for each in tensors.values()))
            self._buffers[name] = kinds, copies
        copy_ahead(copies, [each.detach() for each in tensors.values()])
        return dict(zip(tensors, copies, strict=True))

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again in the thread that waits
            self._error = error
