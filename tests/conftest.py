"""What holds for every test.

One torch thread: the suite runs side by side, and narrow operations gain nothing from a second. Properties are tried
on the same inputs in every run; `HYPOTHESIS_PROFILE=soak` draws new ones (`make soak`).
"""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("soak", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--write-golden` writes the golden records instead of comparing with them."""
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/records anew")
