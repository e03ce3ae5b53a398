"""Soaks end with one line for each record that they wrote."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from soak._record import RESULTS, line

START = time.time()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line a file written since the start."""
    folder = Path(os.environ.get("SOAK_RESULTS", RESULTS))
    written = [path for path in sorted(folder.glob("*.json")) if path.stat().st_mtime >= START]
    if written:
        terminalreporter.section("what the soaks found")
    for path in written:
        terminalreporter.write_line(line(path))
