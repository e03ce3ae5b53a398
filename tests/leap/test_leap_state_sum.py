"""A saved state in which one bit has turned is refused, and nothing is changed by it."""

from __future__ import annotations

import copy
import io
import json
import random
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leap_loops import make
from leapverify.core.state_hash import sum_of
from leapverify.leap.loggers import JsonLines

pytestmark = pytest.mark.failure(2)

OPTIONS: dict[str, Any] = {"policy": "fixed", "predictor": "linear", "horizon": 3, "criterion": "never", "anneal": True}
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.complex64)


def tensors_of(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(each)


def turned(tensor: Tensor, chance: random.Random) -> None:
    """Turn one bit of a tensor."""
    content = tensor.view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
    flat = content.view(-1)
    at = chance.randrange(len(flat))
    flat[at] ^= 1 << chance.randrange(8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_single_bit_leaves_the_sum_as_it_was(dtype: torch.dtype) -> None:
    plain = torch.zeros(3, 4, dtype=dtype)
    wanted, content = sum_of([plain]), plain.view(torch.uint8)
    for row in range(3):
        for byte in range(content.shape[1]):
            for bit in range(8):
                content[row, byte] ^= 1 << bit
                assert sum_of([plain]) != wanted
                content[row, byte] ^= 1 << bit
    assert sum_of([plain]) == wanted


def test_what_savers_change_does_not_count_and_everything_else_does() -> None:
    state = {"a": [1, (2.5, None)], "b": {"x": torch.ones(2, 3), "y": "text"}, "c": torch.tensor(True)}
    same = OrderedDict(c=torch.tensor(True), b={"y": "text", "x": torch.ones(3, 2).t()}, a=(1, [2.5, None]))
    assert sum_of(state) == sum_of(same)
    for change in ({"a": [1, (2.5, 0)]}, {"b": {"x": torch.ones(3, 2), "y": "text"}}, {"c": torch.tensor(1)}, {"d": 1}):
        assert sum_of({**state, **change}) != sum_of(state)


def test_a_state_with_one_bit_turned_is_refused_and_changes_nothing() -> None:
    loop = make("mlp")
    leap = loop.leap(**OPTIONS)
    loop.run(12, leap)
    kept = io.BytesIO()
    torch.save(leap.state_dict(), kept)
    whole = torch.load(io.BytesIO(kept.getvalue()), weights_only=True)
    chance = random.Random(0)
    other = make("mlp")
    engine = other.leap(**OPTIONS)
    other.run(5, engine)
    before = sum_of(engine.state_dict())
    count = len(list(tensors_of(whole)))
    assert count > 10
    for number in range(count):
        state = copy.deepcopy(whole)
        turned(list(tensors_of(state))[number], chance)
        with pytest.raises(ValueError, match="the engine's state is damaged: it is not what state_dict"):
            engine.load_state_dict(state)
    state = copy.deepcopy(whole)
    state["driver"]["engine"]["ledger"]["seconds" if "seconds" in state["driver"]["engine"]["ledger"] else "x"] = 1e9
    with pytest.raises(ValueError, match="is damaged"):
        engine.load_state_dict(state)
    assert sum_of(engine.state_dict()) == before
    engine.load_state_dict(whole)
    assert engine.real_step == 12


def test_a_log_torn_by_a_kill_is_gone_on_with_wherever_it_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "leap.jsonl"
    sink = JsonLines(path)
    for step in (50, 100):
        sink.append({"step": step, "reason": "“é”"})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole) + 1):
        path.write_bytes(whole[:length])
        JsonLines(path).append({"step": 150})
        lines = path.read_bytes().split(b"\n")
        assert json.loads(lines[0])["step"] == 50
        assert json.loads(lines[-2])["step"] == 150
        assert lines[-1] == b""
        assert len(lines) == (3 if length == first else 4)
