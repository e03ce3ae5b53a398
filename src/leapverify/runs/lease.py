"""A sign of life in a folder, by which a process of another machine knows that the folder is in use.

No clocks are compared: whoever finds the lease of another machine looks, by its own monotonic clock, whether the lease
changes while it waits. A machine whose lease stands still for STILL_S is taken to be dead; its folder is taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leapverify.runs.deadline import machine_id

BEAT_S = 5.0
"""How often a sign of life is given."""

STILL_S = 20.0
"""How long a lease stands still before it counts as left behind: four beats, of which a slow disk may lose some."""

_WIDTH = 1024
"""Bytes of the file, always the same, so that a beat writes over the one before."""

_UNREADABLE: Mapping[str, Any] = {"host": "another machine", "pid": "?", "machine": "", "token": "", "beat": 0}
"""What stands for a lease that cannot be read, such as one that is just being written."""


class Lease:
    """This process's lease of one folder.

    Args:
        folder: it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lease"
        self._me: dict[str, Any] = {"host": platform.node()[:200], "pid": os.getpid(), "machine": machine_id()[:200]}
        self._me["token"] = secrets.token_hex(8)
        self._beat = 0
        self._given_back = threading.Event()
        self._lost_to: str | None = None
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)

    def take(self, patience_s: float) -> str | None:
        """Take the folder, as soon as no other machine gives signs of life in it.

        Processes of this machine are told apart by the system's lock, which the caller holds: a lease that one of them
        left is nobody's.

        Args:
            patience_s: how long to wait for another machine that does give signs of life.

        Returns: None, or who holds it.
        """
        deadline = time.monotonic() + patience_s
        seen, since = self._read(), time.monotonic()
        while seen is not None and seen["machine"] != self._me["machine"]:
            if time.monotonic() - since > STILL_S:
                break
            time.sleep(min(BEAT_S, STILL_S) / 5)
            now = self._read()
            if now != seen:
                if time.monotonic() > deadline:
                    return _named(seen)
                seen, since = now, time.monotonic()
        self._replace()
        if seen is not None and seen["machine"] != self._me["machine"]:
            # Two that saw the same lease stand still both put theirs in its place: the later one stays.
            time.sleep(BEAT_S / 5)
            now = self._read()
            if now is not None and now["token"] != self._me["token"]:
                return _named(now)
        self._thread.start()
        return None

    def give_back(self) -> str | None:
        """End the lease; who has taken it meanwhile, None if nobody has."""
        self._given_back.set()
        self._thread.join()
        found = self._read()
        if found is not None and found["token"] == self._me["token"]:
            with contextlib.suppress(OSError):
                self._path.unlink()
        return self._lost_to

    def _live(self) -> None:
        while not self._given_back.wait(BEAT_S):
            found = self._read()
            if found is not None and found["token"] not in ("", self._me["token"]):
                self._lost_to = _named(found)
                return
            # A disk that is full for a moment must not end the run: the next beat may succeed.
            with contextlib.suppress(OSError):
                if found is None:
                    self._replace()
                else:
                    self._write_over()

    def _read(self) -> dict[str, Any] | None:
        """The lease that lies there; None where there is no file."""
        try:
            # Opened anew each time: on NFS that asks the server.
            found = json.loads(self._path.read_bytes()[:_WIDTH])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return dict(_UNREADABLE)
        known = isinstance(found, dict) and {*_UNREADABLE} <= {*found}
        return found if known else dict(_UNREADABLE)

    def _content(self) -> bytes:
        self._beat += 1
        return json.dumps({"beat": self._beat, **self._me}).encode().ljust(_WIDTH)

    def _write_over(self) -> None:
        handle = os.open(self._path, os.O_WRONLY)
        try:
            os.pwrite(handle, self._content(), 0)
        finally:
            os.close(handle)

    def _replace(self) -> None:
        # A name of its own kind: what clears away leftovers of `storage` must not take it for one.
        own = self._path.with_name(f".lease-{self._me['token']}")
        try:
            own.write_bytes(self._content())
            os.replace(own, self._path)
        finally:
            own.unlink(missing_ok=True)


def _named(lease: dict[str, Any]) -> str:
    return f"process {lease['pid']} on {lease['host']}"
