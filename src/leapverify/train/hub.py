"""The Hugging Face Hub where it can be reached; at once its local cache, or a refusal, where it cannot."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit


@contextmanager
def hub(*configurations: Any) -> Iterator[None]:
    """Within the block the Hub's libraries look for files in their cache alone if the Hub cannot be reached.

    Left to themselves they retry for about a minute, and log each attempt, before they say that they are offline.

    Args:
        configurations: modules beside huggingface_hub.constants that hold a flag HF_HUB_OFFLINE of their own.
    """
    from huggingface_hub import constants

    with ExitStack() as stack:
        if not constants.HF_HUB_OFFLINE and not reachable(constants.ENDPOINT):
            for module in (constants, *configurations):
                stack.callback(setattr, module, "HF_HUB_OFFLINE", module.HF_HUB_OFFLINE)
                module.HF_HUB_OFFLINE = True
        yield


def reachable(address: str, timeout_s: float = 3.0) -> bool:
    """Whether a server takes connections; behind a proxy, which only a request could tell, it is held to."""
    if urllib.request.getproxies():
        return True
    parts = urlsplit(address)
    try:
        with socket.create_connection((parts.hostname, parts.port or 443), timeout=timeout_s):
            return True
    except OSError:
        return False


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__
