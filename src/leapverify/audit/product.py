"""Checks of a learnt predictor's file: its weights, its card, and that its groups of runs share nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leapverify.audit.finding import AuditIssue
from leapverify.errors import Damaged
from leapverify.io.storage import PLACE, read_json
from leapverify.predict.learnt import NETWORKS, load_learnt

_REMEDY = "put back a copy, or give the command in its card again"


def is_product(path: Path) -> bool:
    """Whether a file may be what `nowcast train` writes."""
    card = path.with_suffix(".json")
    if not (path.suffix == ".safetensors" and path.is_file() and card.is_file()):
        return False
    try:
        found = read_json(card)
    except Damaged:
        return True
    # The mark of a snapshot, a state, or fingerprints says where they belong.
    return not (isinstance(found, dict) and PLACE in found)


def check_product(path: Path) -> Iterator[AuditIssue]:
    """What is wrong with weights that `nowcast train` wrote."""
    try:
        card = read_json(path.with_suffix(".json"))
        kind = card["kind"]
    except (Damaged, KeyError, TypeError) as error:
        text = str(error).partition(" is damaged: ")[2].partition(";")[0] or "it names no kind of network"
        yield AuditIssue(path.with_suffix(".json").name, "hash", f"is damaged: {text}", _REMEDY)
        return
    if kind not in NETWORKS:
        yield AuditIssue(path.with_suffix(".json").name, "schema", f"is of {kind!r}, which is no network", _REMEDY)
        return
    try:
        inside = load_learnt(kind, path).card
    except ValueError as error:
        yield AuditIssue(path.name, "hash", str(error).removeprefix(f"{path} ").partition(";")[0], _REMEDY)
        return
    if dict(inside) != card:
        text = "is not the card that stands in the weights"
        yield AuditIssue(path.with_suffix(".json").name, "hash", text, _REMEDY)
    yield from _groups(path.name, inside.get("histories", {}))


def _groups(name: str, histories: Mapping[str, Any]) -> Iterator[AuditIssue]:
    """Runs to learn from, to choose by and to test on may share neither seeds nor text."""
    remedy = "learn it again from runs that share neither seeds nor text"
    for (a, left), (b, right) in itertools.combinations(histories.items(), 2):
        for what, values in (("seed", "seeds"), ("text", "text")):
            mine, yours = (_all(group, values) for group in (left, right))
            if both := sorted(map(str, mine & yours)):
                text = f"learnt from runs whose groups {a} and {b} share the {what} {both[0]}"
                yield AuditIssue(name, "heldout", text, remedy)


def _all(group: Any, key: str) -> set[Any]:
    found: set[Any] = set()
    for each in group:
        value = each.get(key)
        found |= set(value) if isinstance(value, list) else {value} - {None}
    return found
