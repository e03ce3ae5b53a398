"""The neural graph of a transformer: neurons are nodes, weights are edges, kept as bundles and never as a list.

A bundle joins every node of one span with every node of another; its edges are one tensor, or a slice of one. Beside
neurons, every norm's weight and every bias is a node of its own, joined with the neurons that it acts on, and so is
every attention head (edges of value 1). Residual connections join neurons one to one (value 1), and every node has a
loop (value 2). The edges of a key run backwards, from the query's neurons to those that both read: q.k is one product.

What goes where for GPT-2 follows the authors' own graph (github.com/SamsungSAILMontreal/nino, MIT, folder graph). That
of Llama they call experimental and did not evaluate, of Pythia they have none: here each tensor joins the neurons that
it joins in the model, a key shared by several queries those of the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from leapverify.predict.nino.families import FAMILIES, Family
from leapverify.predict.nino.parameter_types import ATTENTION, ParameterType, TypedSlice, typed_slices
from leapverify.trajectory.context import Layout


@dataclass(frozen=True)
class Span:
    """Nodes with consecutive numbers."""

    start: int
    length: int

    @property
    def slice(self) -> slice:
        """Their rows among the node features."""
        return slice(self.start, self.start + self.length)

    def cut(self, start: int, length: int) -> Span:
        """Some of them."""
        if start + length > self.length:
            raise UnknownArchitecture
        return Span(self.start + start, length)


@dataclass(frozen=True)
class Bundle:
    """Edges from all of some nodes to all of others, or, `diagonal`, from each to its own."""

    sources: Span
    targets: Span
    kind: ParameterType
    part: TypedSlice | None = None
    """The tensor that they are; None: all have the same fixed `value`."""
    by_source: bool = False
    """Whether the tensor is stored (sources, targets)."""
    value: float = 0.0
    diagonal: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """The edges' values in a tensor, (targets, sources), a view."""
        assert self.part is not None
        view = self.part.of(tensor)
        if view.dim() == 1:
            return view.unsqueeze(1)
        return view.T if self.by_source else view


@dataclass(frozen=True)
class NeuralGraph:
    """A graph."""

    nodes: int
    bundles: tuple[Bundle, ...]

    @property
    def positions(self) -> frozenset[int]:
        """Tensors of the history that are in it."""
        return frozenset(each.part.position for each in self.bundles if each.part is not None)

    def incoming(self) -> Tensor:
        """Edges that end at each node, (nodes,)."""
        count = torch.zeros(self.nodes)
        for each in self.bundles:
            count[each.targets.slice] += 1 if each.diagonal else each.sources.length
        return count


class UnknownArchitecture(Exception):
    """The tensors are not those of the family's models."""


@lru_cache(maxsize=8)
def graph_of(layout: Layout, shapes: tuple[tuple[int, ...], ...]) -> NeuralGraph | None:
    """The graph of a model; None: its family is not known, or these are not all of its tensors."""
    family = FAMILIES.get(layout.family or "")
    if family is None or not layout.heads:
        return None
    try:
        return _Builder(layout, shapes, family).build()
    except UnknownArchitecture:
        return None


class _Builder:
    def __init__(self, layout: Layout, shapes: Sequence[tuple[int, ...]], family: Family) -> None:
        self.at = {name: position for position, name in enumerate(layout.names)}
        self.shapes, self.family = shapes, family
        self.heads = layout.heads or 1
        self.shared = self.heads // (layout.kv_heads or self.heads)
        """Queries that share one key and value."""
        self.nodes = 0
        self.bundles: list[Bundle] = []
        words = next((name for name in layout.names if name.endswith(family.words)), None)
        if words is None or self.heads % self.shared:
            raise UnknownArchitecture
        self.prefix = words.removesuffix(family.words)

    def build(self) -> NeuralGraph:
        family = self.family
        hidden = self.span(self.shape(self.prefix + family.words)[1])
        self.embedding(family.words, ParameterType.TOKEN_EMBEDDING, hidden)
        if family.positions:
            self.embedding(family.positions, ParameterType.POSITION_EMBEDDING, hidden)
        layer = 0
        while (block := self.prefix + family.block.format(layer)) + f"{family.out}.weight" in self.at:
            hidden = self.block(block, hidden)
            layer += 1
        self.affine(self.prefix + family.final, hidden)
        for name in (each for each in self.at if each.endswith(family.head)):
            self.matrix(name, hidden, self.span(self.shape(name)[0]))
        everything = Span(0, self.nodes)
        self.bundles.append(Bundle(everything, everything, ParameterType.LOOP, value=2.0, diagonal=True))
        return NeuralGraph(self.nodes, tuple(self.bundles))

    def block(self, block: str, hidden: Span) -> Span:
        """One transformer block; gives the neurons that it ends in."""
        family = self.family
        after = self.span(hidden.length)
        middle = hidden if family.parallel else self.span(hidden.length)
        self.affine(block + family.before, hidden)
        self.attention(block, hidden, after if family.parallel else middle)
        self.affine(block + family.between, middle)
        if not family.parallel:
            self.residual(hidden, middle)
        inner = self.span(self.outputs(f"{block}{family.up[0]}.weight"))
        for up in family.up:
            self.matrix(f"{block}{up}.weight", middle, inner, by_source=family.by_source)
            self.vector(f"{block}{up}.bias", inner)
        self.matrix(f"{block}{family.down}.weight", inner, after, by_source=family.by_source)
        self.vector(f"{block}{family.down}.bias", after)
        self.residual(middle, after)
        return after

    def attention(self, block: str, hidden: Span, after: Span) -> None:
        """Queries, keys, values, heads and the projection after them."""
        weights, biases = self.attention_slices(block, "weight"), self.attention_slices(block, "bias")
        query = self.span(self.length(weights, ParameterType.QUERY))
        value = self.span(self.length(weights, ParameterType.VALUE))
        head = query.length // self.heads
        if query.length % self.heads or value.length * self.shared != query.length:
            raise UnknownArchitecture
        for part, rows in _placed(weights, ParameterType.QUERY):
            self.edges(part, hidden, query.cut(*rows), by_source=self.family.by_source)
        for part, rows in self.keys(weights, head):
            self.edges(part, query.cut(*rows), hidden, by_source=not self.family.by_source)
        for part, rows in _placed(weights, ParameterType.VALUE):
            self.edges(part, hidden, value.cut(*rows), by_source=self.family.by_source)
        self.attention_biases(biases, hidden, query, value, head)
        self.join_heads(query, value, head)
        self.projection(f"{block}{self.family.out}", value, after, head)

    def attention_biases(self, biases: list[TypedSlice], hidden: Span, query: Span, value: Span, head: int) -> None:
        """A node per bias; the authors join that of a key with the neurons where its edges end."""
        if not biases:
            return
        key = self.keys(biases, head)
        placed = {
            ParameterType.QUERY: _placed(biases, ParameterType.QUERY),
            ParameterType.KEY: key,
            ParameterType.VALUE: _placed(biases, ParameterType.VALUE),
        }
        ends = {
            ParameterType.QUERY: query,
            ParameterType.KEY: hidden if self.family.by_source else query,
            ParameterType.VALUE: value,
        }
        for kind in ATTENTION:
            node = self.span(1)
            for part, rows in placed[kind]:
                plain = TypedSlice(part.position, ParameterType.BIAS, part.dim, part.start, part.length)
                self.edges(plain, node, ends[kind].cut(*rows))

    def join_heads(self, query: Span, value: Span, head: int) -> None:
        """A node per head, joined with the query and the value that it uses."""
        nodes = self.span(self.heads)
        for number in range(self.heads):
            self.fixed(nodes.cut(number, 1), query.cut(number * head, head))
        for number in range(self.heads // self.shared):
            self.fixed(nodes.cut(number * self.shared, self.shared), value.cut(number * head, head))

    def projection(self, name: str, value: Span, after: Span, head: int) -> None:
        """From the values to the residual neurons; a shared value is read by several heads' columns."""
        if self.shared == 1:
            self.matrix(f"{name}.weight", value, after, by_source=self.family.by_source)
        else:
            position = self.position(f"{name}.weight")
            for number in range(self.heads):
                part = TypedSlice(position, ParameterType.LINEAR, 1, number * head, head)
                self.edges(part, value.cut(number // self.shared * head, head), after)
        self.vector(f"{name}.bias", after)

    def attention_slices(self, block: str, key: str) -> list[TypedSlice]:
        """The parts of queries, keys and values among a block's weights or biases; none where it has no biases."""
        found: list[TypedSlice] = []
        for name, kind in zip(self.family.attention, ATTENTION, strict=False):
            full = f"{block}{name}.{key}"
            if key == "bias" and full not in self.at:
                return []
            position = self.position(full)
            if len(self.family.attention) == 3:
                found.append(TypedSlice(position, kind, 0, 0, self.shapes[position][0]))
                continue
            # A joint bias is cut where its matrix is.
            cut = typed_slices(position, f"{block}{name}.weight", self.shape(f"{block}{name}.weight"), self.heads)
            if cut is None:
                raise UnknownArchitecture
            found += [
                TypedSlice(position, each.kind, min(each.dim, len(self.shapes[position]) - 1), each.start, each.length)
                for each in cut
            ]
        return found

    def keys(self, found: list[TypedSlice], head: int) -> list[tuple[TypedSlice, tuple[int, int]]]:
        """The parts of a key and the query's neurons that they belong to."""
        placed = _placed(found, ParameterType.KEY)
        if self.shared == 1:
            return placed
        (part, (_, length)) = placed[0]
        return [
            (TypedSlice(part.position, ParameterType.KEY, 0, start, head), (start * self.shared, head))
            for start in range(0, length, head)
        ]

    def length(self, found: list[TypedSlice], kind: ParameterType) -> int:
        return sum(each.length or 0 for each in found if each.kind == kind)

    def position(self, name: str) -> int:
        if name not in self.at:
            raise UnknownArchitecture
        return self.at[name]

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self.shapes[self.position(name)]
        if len(shape) != 2:
            raise UnknownArchitecture
        return shape

    def outputs(self, name: str) -> int:
        return self.shape(name)[int(self.family.by_source)]

    def span(self, length: int) -> Span:
        self.nodes += length
        return Span(self.nodes - length, length)

    def embedding(self, name: str, kind: ParameterType, hidden: Span) -> None:
        rows, _ = self.shape(self.prefix + name)
        self.edges(TypedSlice(self.at[self.prefix + name], kind), self.span(rows), hidden, by_source=True)

    def affine(self, name: str, neurons: Span) -> None:
        """A norm's weight and bias."""
        self.vector(f"{name}.weight", neurons, ParameterType.NORM)
        self.vector(f"{name}.bias", neurons)

    def vector(self, name: str, neurons: Span, kind: ParameterType = ParameterType.BIAS) -> None:
        if name in self.at:
            self.edges(TypedSlice(self.at[name], kind), self.span(1), neurons)

    def matrix(self, name: str, sources: Span, targets: Span, *, by_source: bool = False) -> None:
        self.edges(TypedSlice(self.position(name), ParameterType.LINEAR), sources, targets, by_source=by_source)

    def fixed(self, sources: Span, targets: Span) -> None:
        self.bundles.append(Bundle(sources, targets, ParameterType.HEAD, value=1.0))

    def residual(self, before: Span, after: Span) -> None:
        self.bundles.append(Bundle(before, after, ParameterType.RESIDUAL, value=1.0, diagonal=True))

    def edges(self, part: TypedSlice, sources: Span, targets: Span, *, by_source: bool = False) -> None:
        bundle = Bundle(sources, targets, part.kind, part, by_source)
        view = bundle.of(torch.empty(self.shapes[part.position], device="meta"))
        if tuple(view.shape) != (targets.length, sources.length):
            raise UnknownArchitecture
        self.bundles.append(bundle)


def _placed(found: list[TypedSlice], kind: ParameterType) -> list[tuple[TypedSlice, tuple[int, int]]]:
    """The parts of a kind, each with the start and the number of the outputs that it gives."""
    return list(_walk([each for each in found if each.kind == kind]))


def _walk(found: list[TypedSlice]) -> Iterator[tuple[TypedSlice, tuple[int, int]]]:
    start = 0
    for part in found:
        length = part.length or 0
        yield part, (start, length)
        start += length
