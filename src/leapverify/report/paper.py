"""The paper's own numbers (arXiv 2602.19580, Tables 1-10), to stand beside a run's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Any

PAPER: Mapping[str, Any] = MappingProxyType(
    json.loads(resources.files("leapverify.report").joinpath("paper.json").read_text(encoding="utf-8"))
)
MODELS: Mapping[str, str] = MappingProxyType(PAPER["models"])
"""The paper's models: key to name."""


def paper_value(table: str, *keys: str) -> Any:
    """One number of the paper (or a [mean, std] pair), or None where it prints none."""
    node: Any = PAPER[table]
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node
