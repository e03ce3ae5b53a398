"""Marks on single cases of a parametrized test."""

from __future__ import annotations

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """A case that `make slow` runs, and `make test` does not."""
    return pytest.param(*values, marks=pytest.mark.slow)
