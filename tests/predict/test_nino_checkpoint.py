from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from leapverify.io.untrusted.limits import NINO_BYTES
from leapverify.predict.nino import nino, nino_mlp
from leapverify.predict.nino.checkpoint import graph_shapes, mlp_shapes, read
from nino_checkpoints import PUBLISHED, random_state, write_graph, write_mlp

Content = dict[str, Any]


def content_of(*, graph: bool, hid: int = 8) -> Content:
    arguments = {"wte_pos_enc": False, "hid": hid} if graph else {"gnn": False, "hid": hid}
    return {"state_dict": random_state(graph_shapes(hid) if graph else mlp_shapes(hid), 0), "model_args": arguments}


@pytest.mark.parametrize("factory", [nino_mlp, nino])
def test_without_a_file_the_error_says_where_to_get_it_and_how_to_pass_it(factory: Callable[..., object]) -> None:
    name, published = {nino_mlp: ("nino-mlp", "nino_mlp.pt"), nino: ("nino", "nino_no_posw.pt")}[factory]
    with pytest.raises(ValueError, match=f"{name} needs a file of parameters: get {published}") as raised:
        factory()
    assert "github.com/SamsungSAILMontreal/nino, folder checkpoints" in str(raised.value)
    assert str(raised.value).endswith(f"pass it as {name}:PATH")


@pytest.mark.parametrize("graph", [False, True])
def test_a_missing_file_is_refused(graph: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.pt is not there: download it from github"):
        (nino if graph else nino_mlp)(tmp_path / "absent.pt")


class Code:
    """What pickle would run on loading."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("write", ["torch.save", "pickle"])
def test_code_in_a_file_is_refused_and_never_run(write: str, tmp_path: Path) -> None:
    file, mark = tmp_path / "code.pt", tmp_path / "ran"
    content = {**content_of(graph=False), "model_args": Code(mark)}
    if write == "torch.save":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": {}, "model_args": Code(mark)}))
    with pytest.raises(ValueError, match=r"code\.pt is refused, .* \(code in it is never run\): download it again"):
        nino_mlp(file)
    assert not mark.exists()


@pytest.mark.parametrize("damage", ["cut short", "empty", "noise", "bits"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    file = write_mlp(tmp_path / "damaged.pt")
    whole = file.read_bytes()
    noise = bytes(range(256)) * 8
    middle = whole[: len(whole) - 400] + bytes(400)  # where the archive keeps its directory
    file.write_bytes({"cut short": whole[: len(whole) // 2], "empty": b"", "noise": noise, "bits": middle}[damage])
    with pytest.raises(ValueError, match=r"damaged\.pt is refused, it is damaged or holds more than tensors"):
        nino_mlp(file)


def test_a_file_too_large_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "large.pt"
    with file.open("wb") as handle:
        handle.truncate(NINO_BYTES + 1)
    with pytest.raises(ValueError, match=f"large.pt has {NINO_BYTES + 1} bytes, more than"):
        nino_mlp(file)


def without(content: Content, name: str) -> Content:
    return {**content, "state_dict": {key: each for key, each in content["state_dict"].items() if key != name}}


def having(content: Content, name: str, value: Any) -> Content:
    return {**content, "state_dict": {**content["state_dict"], name: value}}


def saying(content: Content, **arguments: Any) -> Content:
    return {**content, "model_args": {**content["model_args"], **arguments}}


MLP, GRAPH = content_of(graph=False), content_of(graph=True)
NAN = torch.full((15, 8), torch.nan)
WRONG: dict[str, tuple[object, str]] = {
    "a list": ([1.0], "does not hold NiNo's state_dict and model_args"),
    "a bare state": (MLP["state_dict"], "does not hold NiNo's state_dict and model_args"),
    "no settings": ({**MLP, "model_args": 3}, "has model_args that are no settings: pass a checkpoint of"),
    "strange settings": (saying(MLP, towers=2), "has settings that NiNo does not, towers: pass a checkpoint of"),
    "the other network": (GRAPH, "holds NiNo's graph network and not the per-parameter one: pass it to nino"),
    "other layers": (saying(MLP, layers=4), "holds another network \\(layers 4\\): pass a checkpoint of"),
    "no width": (saying(MLP, hid="wide"), "holds another network \\(hid 'wide'\\)"),
    "another width": (saying(MLP, hid=16), r"layer_embed.weight is not \(15, 16\) and 9 more"),
    "a tensor missing": (without(MLP, "edge_mlp.fc.2.bias"), "does not fit the network, edge_mlp.fc.2.bias is missing"),
    "a tensor too many": (having(MLP, "extra", torch.zeros(1)), "extra is not expected: pass a checkpoint of"),
    "no tensor": (having(MLP, "edge_mlp.fc.2.bias", 1.0), r"edge_mlp.fc.2.bias is not \(8,\)"),
    "whole numbers": (having(MLP, "edge_mlp.fc.2.bias", torch.zeros(8, dtype=torch.int64)), r"bias is not \(8,\)"),
    "not finite": (having(MLP, "layer_embed.weight", NAN), "holds numbers that are not finite: download it again"),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_content_is_refused_in_one_sentence(what: str, tmp_path: Path) -> None:
    content, message = WRONG[what]
    file = tmp_path / "other.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match=message) as raised:
        nino_mlp(file)
    assert str(raised.value).startswith(str(file))
    assert "\n" not in str(raised.value)


def test_the_graph_takes_no_other_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="per-parameter network and not the graph one: pass it to nino-mlp"):
        nino(write_mlp(tmp_path / "mlp.pt"))
    file = tmp_path / "words.pt"
    torch.save(saying(GRAPH, wte_pos_enc=True), file)
    with pytest.raises(ValueError, match=r"embeds every word of one vocabulary: pass nino_no_posw\.pt"):
        nino(file)


def test_it_is_read_again_only_when_it_changes(tmp_path: Path) -> None:
    file = write_mlp(tmp_path / "mlp.pt")
    first = read(file, graph=False)
    assert read(file, graph=False) is first
    write_mlp(file, seed=1)
    about = file.stat()
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))
    assert not torch.equal(read(file, graph=False)["layer_embed.weight"], first["layer_embed.weight"])


def test_a_written_checkpoint_is_read_as_it_is(tmp_path: Path) -> None:
    for write, graph in ((write_mlp, False), (write_graph, True)):
        file = write(tmp_path / "nino.pt")
        expected = torch.load(file, weights_only=True)["state_dict"]
        got = read(file, graph=graph)
        assert set(got) == set(expected)
        assert all(torch.equal(got[name], expected[name]) for name in got)


@pytest.mark.parametrize(
    ("name", "parameters"), [("nino_mlp.pt", 57_384), ("nino_mlp_h32.pt", 5_160), ("nino_no_posw.pt", 549_992)]
)
def test_the_published_files_fit_strictly(name: str, parameters: int) -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published files are not beside this checkout: shared/data/nino")
    graph = name == "nino_no_posw.pt"
    assert sum(each.numel() for each in read(PUBLISHED / name, graph=graph).values()) == parameters
    (nino if graph else nino_mlp)(PUBLISHED / name)
