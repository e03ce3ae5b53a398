"""A writer that is killed at a chosen moment."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable


def killed_at(call: int, work: Callable[[], None]) -> bool:
    """Run `work` in a forked process that dies at its n-th system call that changes a disk; whether it died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        left = call

        def deadly(real: Callable[..., object]) -> Callable[..., object]:
            def wrapper(*arguments: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return real(*arguments)

            return wrapper

        try:
            os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), f"the writer failed with {status}"
    return status == 9
