from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lazily import transformers
from leapverify.predict.nino import layerwise as stream
from leapverify.predict.nino import nino, nino_mlp
from leapverify.predict.nino.eigenvectors import laplacian_eigenvectors
from leapverify.predict.nino.neural_graph import NeuralGraph, graph_of
from leapverify.predict.nino.parameter_types import warn_once
from leapverify.trajectory.context import Layout
from leapverify.trajectory.history import History
from nino_checkpoints import PUBLISHED, write_graph, write_mlp

WIDTH, LAYERS, HEADS, WORDS, PLACES = 16, 3, 2, 40, 12
SMALL: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "vocab_size": WORDS,
    "max_position_embeddings": PLACES,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, vocab_size=WORDS, n_positions=PLACES, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


MODELS = {
    "gpt2": gpt2,
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)),
    "llama, shared keys": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True)
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL, num_key_value_heads=2)),
    "pythia": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SMALL)),
}


def history_of(model: nn.Module, seed: int = 0) -> History:
    generator = torch.Generator().manual_seed(seed)
    point = [each.detach().clone() for each in model.parameters()]
    for each in point:  # biases begin at 0 and would have no spread
        each.add_(torch.randn(each.shape, generator=generator), alpha=0.02)
    history = History(point, 5)
    for number in range(1, 6):
        history.push(100 * number, point)
        point = [each + 2e-3 * torch.randn(each.shape, generator=generator) for each in point]
    history.layout = Layout.of(model, [name for name, _ in model.named_parameters()])
    return history


def wiring_of(history: History) -> NeuralGraph:
    assert history.layout is not None
    found = graph_of(history.layout, tuple(tuple(each.shape) for each in history[-1].tensors))
    assert found is not None
    return found


@pytest.mark.parametrize("family", MODELS)
def test_every_element_of_a_known_model_is_one_edge(family: str) -> None:
    history = history_of(MODELS[family]())
    edges = [torch.zeros_like(each) for each in history[-1].tensors]
    for bundle in wiring_of(history).bundles:
        if bundle.part is not None:
            view = bundle.of(edges[bundle.part.position])
            assert view.shape == (bundle.targets.length, bundle.sources.length)
            view += 1
    assert all(bool((each == 1).all()) for each in edges)


@pytest.mark.parametrize("family", MODELS)
def test_every_node_has_an_edge_and_a_loop(family: str) -> None:
    wiring = wiring_of(history_of(MODELS[family]()))
    used = torch.zeros(wiring.nodes)
    for each in wiring.bundles[:-1]:
        used[each.sources.slice] += 1
        used[each.targets.slice] += 1
    assert bool((used > 0).all())
    assert wiring.bundles[-1].sources.length == wiring.nodes
    assert bool((wiring.incoming() >= 1).all())


# The graph of GPT-2 once more, edge by edge, and the network on it as it is printed.

Node = tuple[Any, ...]
Edge = tuple[Node, Node, int, Any]
"""source, target, type, (name of the tensor, flat position) or a fixed value"""


def weights_between(name: str, sources: list[Node], targets: list[Node], kind: int, rows: int, left: int = 0) -> Any:
    """Edges of columns left ... of a matrix stored (sources, targets) with `rows` elements per row."""
    for (i, source), (j, target) in itertools.product(enumerate(sources), enumerate(targets)):
        yield source, target, kind, (name, i * rows + left + j)


def edges_of_gpt2(prefix: str = "transformer.") -> Iterator[Edge]:
    def vector(name: str, targets: list[Node], kind: int, left: int = 0, tag: str = "") -> Iterator[Edge]:
        for j, target in enumerate(targets):
            yield (prefix + name + tag,), target, kind, (prefix + name, left + j)

    def neurons(*key: Any, count: int = WIDTH) -> list[Node]:
        return [(*key, i) for i in range(count)]

    yield from weights_between(f"{prefix}wte.weight", neurons("word", count=WORDS), neurons("hidden", 0), 5, WIDTH)
    yield from weights_between(f"{prefix}wpe.weight", neurons("place", count=PLACES), neurons("hidden", 0), 6, WIDTH)
    for layer in range(LAYERS):
        h, before, middle, after = f"h.{layer}.", *(neurons("hidden", 2 * layer + i) for i in range(3))
        query, value, inner = neurons("q", layer), neurons("v", layer), neurons("inner", layer, count=4 * WIDTH)
        joint = f"{prefix}{h}attn.c_attn.weight"
        yield from vector(h + "ln_1.weight", before, 4)
        yield from vector(h + "ln_1.bias", before, 2)
        yield from weights_between(joint, before, query, 7, 3 * WIDTH)
        yield from ((q, b, 8, place) for b, q, _, place in weights_between(joint, before, query, 0, 3 * WIDTH, WIDTH))
        yield from weights_between(joint, before, value, 9, 3 * WIDTH, 2 * WIDTH)
        for i, ends in enumerate((query, before, value)):
            yield from vector(h + "attn.c_attn.bias", ends, 2, i * WIDTH, "qkv"[i])
        for i in range(WIDTH):
            head = ("head", layer, i // (WIDTH // HEADS))
            yield head, query[i], 11, 1.0
            yield head, value[i], 11, 1.0
            yield before[i], middle[i], 10, 1.0
            yield middle[i], after[i], 10, 1.0
        yield from weights_between(f"{prefix}{h}attn.c_proj.weight", value, middle, 1, WIDTH)
        yield from vector(h + "attn.c_proj.bias", middle, 2)
        yield from vector(h + "ln_2.weight", middle, 4)
        yield from vector(h + "ln_2.bias", middle, 2)
        yield from weights_between(f"{prefix}{h}mlp.c_fc.weight", middle, inner, 1, 4 * WIDTH)
        yield from vector(h + "mlp.c_fc.bias", inner, 2)
        yield from weights_between(f"{prefix}{h}mlp.c_proj.weight", inner, after, 1, WIDTH)
        yield from vector(h + "mlp.c_proj.bias", after, 2)
    yield from vector("ln_f.weight", neurons("hidden", 2 * LAYERS), 4)
    yield from vector("ln_f.bias", neurons("hidden", 2 * LAYERS), 2)


def dense_positions(count: int, source: Tensor, target: Tensor, first: list[int]) -> Tensor:
    """Eigenvectors 2 to 9 of the symmetric normalised Laplacian, positive on the first neurons."""
    adjacency = np.zeros((count, count))
    adjacency[source, target] = adjacency[target, source] = 1.0
    np.fill_diagonal(adjacency, 0.0)
    degree = adjacency.sum(1)
    values, vectors = np.linalg.eigh(np.eye(count) - adjacency / np.sqrt(np.outer(degree, degree)))
    assert np.diff(values[:10]).min() > 1e-3  # each has one eigenvector
    chosen = vectors[:, 1:9]
    signs = chosen[first].mean(0)
    assert np.abs(signs).min() > 1e-5
    return torch.from_numpy(chosen * np.sign(signs))


def dense_prediction(state: dict[str, Tensor], history: History, k: int) -> dict[str, Tensor]:
    assert history.layout is not None
    names = history.layout.names
    states = {name: torch.stack([each.tensors[i].double() for each in history], -1) for i, name in enumerate(names)}
    size = {name: (each.mean(), each.std()) for name, each in states.items()}
    scaled = {name: ((each - size[name][0]) / (size[name][1] + 1e-6)).view(-1, 5) for name, each in states.items()}
    edges = list(edges_of_gpt2())
    number = {node: i for i, node in enumerate(sorted({node for each in edges for node in each[:2]}, key=repr))}
    edges += [(node, node, 13, 2.0) for node in number]
    source, target, kind = (
        torch.tensor(each)
        for each in ([number[e[0]] for e in edges], [number[e[1]] for e in edges], [e[2] for e in edges])
    )
    features = torch.zeros(len(edges), 9, 5, dtype=torch.float64)
    for i, (_, _, _, what) in enumerate(edges):
        features[i, 0] = what if isinstance(what, float) else scaled[what[0]][what[1]]

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double())

    first = [number["hidden", 0, i] for i in range(WIDTH)]
    loopless = source != target
    n = layer("node_proj.fc.0", dense_positions(len(number), source[loopless], target[loopless], first))
    e = layer("edge_proj.fc.0", features.flatten(1)) + state["layer_embed.weight"].double()[kind]
    incoming = torch.bincount(target, minlength=len(number)).unsqueeze(1)
    for i in range(2):
        scale, shift = layer(f"gnn.convs.{i}.edge_encoder", e).chunk(2, dim=1)
        message = scale * layer(f"gnn.convs.{i}.pre_nns.0.0", torch.cat([n[target], n[source]], 1)) + shift
        mean = torch.zeros_like(n).index_add(0, target, message) / incoming
        n = F.silu(layer(f"gnn.convs.{i}.lin", layer(f"gnn.convs.{i}.post_nns.0.0", torch.cat([n, mean], 1))))
        update = f"gnn.edge_update.{i}"
        inside = layer(f"{update}.lin_e", e) + layer(f"{update}.lin_s", n)[source] + layer(f"{update}.lin_t", n)[target]
        e = layer(f"{update}.lin1", F.silu(inside))
    out = layer("edge_out.fc.2", F.silu(layer("edge_out.fc.0", e))).view(-1, 9, 40)[:, 0, k - 1]
    new = {name: each[:, -1].clone() for name, each in scaled.items()}
    for (_, _, _, what), delta in zip(edges, out, strict=True):
        if not isinstance(what, float):
            new[what[0]][what[1]] += delta
    return {name: (each * size[name][1] + size[name][0]).view(states[name].shape[:-1]) for name, each in new.items()}


def files(tmp_path: Path) -> dict[str, Path]:
    found = {"random": write_graph(tmp_path / "graph.pt", hid=12)}
    if PUBLISHED.is_dir():
        found["published"] = PUBLISHED / "nino_no_posw.pt"
    return found


@pytest.mark.parametrize("which", ["random", "published"])
def test_tile_by_tile_it_is_the_network_on_the_whole_graph(
    which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if which not in files(tmp_path):
        pytest.skip("the published files are not beside this checkout: shared/data/nino")
    file = files(tmp_path)[which]
    torch.manual_seed(0)
    history = history_of(gpt2())
    state = torch.load(file, weights_only=True)["state_dict"]
    expected = dense_prediction(state, history, 7)
    monkeypatch.setattr(stream, "rows_of", lambda _: 100)  # many tiles, uneven ones among them
    got = nino(file).predict(history, 700)
    assert history.layout is not None
    for name, each, now in zip(history.layout.names, got, history[-1].tensors, strict=True):
        moved = (expected[name] - now).abs().max()
        assert moved > 1e-5
        torch.testing.assert_close(each.double(), expected[name], rtol=1e-6, atol=float(1e-4 * moved))


class Largest(TorchDispatchMode):
    """Notes the most elements of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        made = [each for each in tree_flatten(found)[0] if isinstance(each, Tensor)]
        self.elements = max([self.elements, *(each.numel() for each in made)])
        return found


def test_no_more_than_a_tile_of_one_tensors_edges_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = history_of(gpt2())
    predictor = nino(write_graph(tmp_path / "graph.pt", hid=12))
    monkeypatch.setattr(stream, "rows_of", lambda _: 50)
    wiring = wiring_of(history)
    with Largest() as largest:
        predictor.predict(history, 300)
    of_nodes, of_a_tile = wiring.nodes * 2 * 12, 50 * 21
    assert largest.elements <= max(of_nodes, of_a_tile)
    edges = max(each.targets.length * each.sources.length for each in wiring.bundles if each.part is not None)
    assert largest.elements < 2 * edges * 12


def test_tiles_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_graph(tmp_path / "graph.pt")
    history = history_of(MODELS["pythia"]())
    expected = nino(file).predict(history, 250)
    monkeypatch.setattr(stream, "rows_of", lambda _: 37)
    history.forget()
    for a, b in zip(nino(file).predict(history, 250), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_the_nodes_features_are_eigenvectors_of_the_laplacian(family: str) -> None:
    wiring = wiring_of(history_of(MODELS[family]()))
    adjacency = torch.zeros(wiring.nodes, wiring.nodes, dtype=torch.float64)
    for each in wiring.bundles[:-1]:
        block = (
            torch.eye(each.sources.length) if each.diagonal else torch.ones(each.targets.length, each.sources.length)
        )
        view = adjacency[each.targets.slice, each.sources.slice]
        view.copy_(torch.maximum(view, block.double()))
    adjacency = torch.maximum(adjacency, adjacency.T)
    root = adjacency.sum(1).rsqrt()
    laplacian = torch.eye(wiring.nodes, dtype=torch.float64) - root[:, None] * adjacency * root
    found = laplacian_eigenvectors(wiring).double()
    values = torch.linalg.eigvalsh(laplacian)[1:9]
    torch.testing.assert_close(found.T @ found, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(laplacian @ found, found * values, rtol=0, atol=1e-5)


def test_permuted_hidden_neurons_give_the_permuted_prediction(tmp_path: Path) -> None:
    predictor = nino(write_graph(tmp_path / "graph.pt"))
    model = gpt2()
    history = history_of(model)
    assert history.layout is not None
    order = torch.randperm(4 * WIDTH, generator=torch.Generator().manual_seed(3))
    dims = {"h.1.mlp.c_fc.weight": 1, "h.1.mlp.c_fc.bias": 0, "h.1.mlp.c_proj.weight": 0}

    def permuted(tensors: Any) -> list[Tensor]:
        assert history.layout is not None
        names = history.layout.names
        at = [next((dim for end, dim in dims.items() if name.endswith(end)), None) for name in names]
        return [t if dim is None else t.index_select(dim, order) for t, dim in zip(tensors, at, strict=True)]

    other = History(history[-1].tensors, 5)
    for each in history:
        other.push(each.step, permuted(each.tensors))
    other.layout = history.layout
    for a, b in zip(predictor.predict(other, 300), permuted(predictor.predict(history, 300)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", MODELS)
def test_a_second_horizon_reads_the_nodes_again_and_gives_the_same(family: str, tmp_path: Path) -> None:
    predictor = nino(write_graph(tmp_path / "graph.pt"))
    history = history_of(MODELS[family]())
    first = predictor.predict(history, 300)
    predictor.predict(history, 100)
    assert all(torch.equal(a, b) for a, b in zip(predictor.predict(history, 300), first, strict=True))
    history.forget()
    assert all(torch.equal(a, b) for a, b in zip(predictor.predict(history, 300), first, strict=True))


def test_types_and_strides_do_not_matter(tmp_path: Path) -> None:
    predictor = nino(write_graph(tmp_path / "graph.pt"))
    wide = history_of(MODELS["llama, shared keys"]())
    shapes = [each.shape for each in wide[-1].tensors]
    narrow, again = History(wide[-1].tensors, 5, dtype=torch.bfloat16), History(wide[-1].tensors, 5)
    for each in wide:
        narrow.push(each.step, each.tensors)
        again.push(each.step, narrow[-1].tensors)
    narrow.layout = again.layout = wide.layout
    expected = predictor.predict(again, 300)
    out = [torch.zeros(shape[::-1], dtype=torch.float64).permute(*range(len(shape))[::-1]) for shape in shapes]
    predictor.predict(narrow, 300, out=out)
    assert all(torch.equal(a.float(), b) for a, b in zip(out, expected, strict=True))


def test_half_a_column_lies_half_way(tmp_path: Path) -> None:
    predictor = nino(write_graph(tmp_path / "graph.pt"))
    history = history_of(gpt2())
    low, middle, high = (predictor.predict(history, horizon) for horizon in (200, 250, 300))
    for a, b, c in zip(low, middle, high, strict=True):
        torch.testing.assert_close(b, (a + c) / 2, rtol=1e-5, atol=1e-6)


def test_what_the_graph_does_not_hold_stays_or_falls_back_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graph, mlp = write_graph(tmp_path / "graph.pt"), write_mlp(tmp_path / "mlp.pt")
    whole = history_of(gpt2())
    assert whole.layout is not None
    history = History([*whole[-1].tensors, torch.zeros(2, 3)], 5)
    for each in whole:
        history.push(each.step, [*each.tensors, torch.full((2, 3), each.step / 500).cumsum(0)])
    names = (*whole.layout.names, "h.0.adapter.down")
    history.layout = Layout(names, "gpt2", HEADS, HEADS)
    warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        alone = nino(graph).predict(history, 200)
        nino(graph).predict(history, 200)
    assert torch.equal(alone[-1], history[-1].tensors[-1])
    assert [each.message for each in caplog.records] == [
        "NiNo's graph does not hold h.0.adapter.down: not changed; `rest` takes a per-parameter file for them"
    ]
    helped = nino(graph, rest=mlp).predict(history, 200)
    per_parameter = nino_mlp(mlp).predict(history, 200)
    assert torch.equal(helped[-1], per_parameter[-1])
    assert not torch.equal(helped[-1], alone[-1])
    assert all(torch.equal(a, b) for a, b in zip(helped[:-1], alone[:-1], strict=True))


@pytest.mark.parametrize("lack", ["family", "heads", "a tensor", "a shape"])
def test_an_unknown_model_has_no_graph(lack: str, tmp_path: Path) -> None:
    history = history_of(gpt2())
    layout = history.layout
    assert layout is not None
    if lack == "family":
        history.layout = Layout(layout.names, "bloom", HEADS, HEADS)
    elif lack == "heads":
        history.layout = Layout(layout.names, "gpt2")
    elif lack == "a tensor":
        history.layout = Layout(
            tuple(each.replace("h.1.mlp.c_fc.w", "h.1.other.w") for each in layout.names), "gpt2", 2
        )
    else:
        swapped = {"transformer.h.0.ln_1.weight": "x", "transformer.h.0.mlp.c_fc.bias": "transformer.h.0.ln_1.weight"}
        history.layout = Layout(tuple(swapped.get(each, each) for each in layout.names), "gpt2", 2)
    got = nino(write_graph(tmp_path / "graph.pt")).predict(history, 200)
    assert all(torch.equal(a, b) for a, b in zip(got, history[-1].tensors, strict=True))
