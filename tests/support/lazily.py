"""Frameworks that take seconds to import: imported when a test first uses them, not when tests are collected."""

from __future__ import annotations

from typing import Any

import pytest


class Lazily:
    """Stands for a module; a test that needs it is skipped where it is not installed.

    Args:
        name: the module's.
        extra: the extra that installs it, for the reason that is given.
    """

    def __init__(self, name: str, extra: str | None = None) -> None:
        self._name, self._extra = name, extra or name

    def __getattr__(self, attribute: str) -> Any:
        reason = f"{self._name} cannot be imported: pip install 'leapverify[{self._extra}]'"
        return getattr(pytest.importorskip(self._name, reason=reason, exc_type=ImportError), attribute)


transformers = Lazily("transformers")
