"""Files of learnt weights: what is written is read, and whatever else is refused in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from leapverify.io.storage import read_json
from leapverify.predict.learnt import NETWORKS, introspection, load_learnt, save_learnt, wnn
from leapverify.predict.learnt.files import SHIPPED, digest

CARD = {"ahead": 2, "histories": {"train": [1, 2]}, "loss": "L1"}
REMEDY = "name a file that leapverify nowcast train introspection has written"


def weights_of(kind: str = "introspection") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in NETWORKS[kind].shapes.items()}


def refused(path: Path, kind: str = "introspection") -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the callers look at the text)
        load_learnt(kind, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def written(path: Path, tensors: Mapping[str, Tensor], card: Any) -> Path:
    save_file(dict(tensors), path, {} if card is None else {"card": json.dumps(card)})
    return path


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_written_is_read(tmp_path: Path, kind: str) -> None:
    path, weights = tmp_path / "one.safetensors", weights_of(kind)
    save_learnt(path, kind, weights, CARD)
    found = load_learnt(kind, path)
    assert all(torch.equal(found.weights[name], weights[name]) for name in weights)
    assert found.card == CARD | {"kind": kind, "sha256": digest(weights)}
    assert read_json(path.with_suffix(".json")) == found.card
    made = introspection(path) if kind == "introspection" else wnn(str(path))
    assert made.name == kind
    assert made.operations.__self__.card == found.card


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_learnt(one, "wnn", weights_of("wnn"), CARD)
    save_learnt(other, "wnn", dict(reversed(weights_of("wnn").items())), CARD)
    save_learnt(other, "wnn", dict(reversed(weights_of("wnn").items())), CARD)
    assert one.read_bytes() == other.read_bytes()
    assert one.with_suffix(".json").read_bytes() == other.with_suffix(".json").read_bytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.safetensors") == f"{tmp_path}/none.safetensors is missing: {REMEDY}"
    assert refused(tmp_path) == f"{tmp_path} is missing: {REMEDY}"


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code in a file was run",))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    assert refused(path).startswith(f"{path} is no whole safetensors file (")
    torch.save({"x": Bomb()}, path)
    assert refused(path).endswith(REMEDY)


def test_a_cut_or_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_learnt(path, "introspection", weights_of(), CARD)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    assert "is no whole safetensors file" in refused(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refused(path) == f"{path} is damaged: its weights are not those that its card names; {REMEDY}"
    path.write_bytes(b"")
    assert "is no whole safetensors file" in refused(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path, weights = tmp_path / "one.safetensors", weights_of()
    weights["out.bias"][0] = torch.nan
    save_learnt(path, "introspection", weights, CARD)
    assert "is damaged" in refused(path)


@pytest.mark.parametrize("card", [None, [], {}, {"kind": "introspection"}, "text"])
def test_a_file_without_its_card_is_refused(tmp_path: Path, card: Any) -> None:
    path = written(tmp_path / "one.safetensors", weights_of(), card)
    assert refused(path) == f"{path} holds no card of learnt weights: {REMEDY}"


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_learnt(path, "wnn", weights_of("wnn"), CARD)
    assert refused(path) == f"{path} holds the weights of wnn where those of introspection are needed: {REMEDY}"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"hidden.weight": None}, "hidden.weight is absent where float32 (40, 4) is needed"),
        ({"out.weight": torch.zeros(1, 39)}, "out.weight is float32 (1, 39) where float32 (1, 40) is needed"),
        ({"out.bias": torch.zeros(1).half()}, "out.bias is float16 (1,) where float32 (1,) is needed"),
        ({"more": torch.zeros(2)}, "more is float32 (2,) where absent is needed"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, change: dict[str, Tensor | None], wrong: str) -> None:
    tensors = {name: each for name, each in (weights_of() | change).items() if each is not None}
    path = written(tmp_path / "one.safetensors", tensors, {"kind": "introspection", "sha256": digest(tensors)})
    assert refused(path) == f"{path} is no network of introspection: {wrong}; {REMEDY}"


@pytest.mark.parametrize("ahead", [None, 0, 1.5, "2"])
def test_a_wnn_that_does_not_say_how_far_it_looks_is_refused(tmp_path: Path, ahead: Any) -> None:
    path = tmp_path / "one.safetensors"
    save_learnt(path, "wnn", weights_of("wnn"), {"ahead": ahead})
    with pytest.raises(ValueError, match="names no number of intervals to look ahead: train it again"):
        wnn(path)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_shipped_one_says_where_it_comes_from(kind: str) -> None:
    card = load_learnt(kind).card
    assert card["command"].startswith(f"leapverify nowcast train {kind} --train ")
    assert card["command"].endswith(
        f"--seed {card['options']['seed']} --steps {card['options']['steps']}"
        f" --weights {card['per_tensor']}{' --ahead 2' * (kind == 'wnn')}"
    )
    seeds = {role: {seed for run in runs for seed in run["seeds"]} for role, runs in card["histories"].items()}
    assert not seeds["train"] & seeds["heldout"] | seeds["train"] & seeds["test"] | seeds["heldout"] & seeds["test"]
    texts = {role: [run["text"] for run in runs] for role, runs in card["histories"].items()}
    assert texts == {"train": ["stdlib-tests#1/2"], "heldout": ["stdlib-tests#2/2"], "test": ["stdlib"]}
    assert [each["method"] for each in card["test"]] == [kind, "hold", "linear", "linear, scaled"]
    assert json.loads((SHIPPED / f"{kind}.json").read_text()) == card
