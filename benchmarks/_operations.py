"""Operations and bytes of one forward or backward pass, from the architecture alone: what no kernel can do without.

Matrix products and attention are counted; what stands between them (norms, activations, residuals, softmax) can be
fused into them and is left out. A product reads its two factors once and writes its result once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leapverify.train.models import ModelSpec, parameter_count

PRODUCT = 2
"""Operations of one multiplication and addition."""
BACKWARD_PRODUCTS = 2
"""Products that the backward pass of one product needs: the gradient of its input and that of its weight."""
ATTENTION_FORWARD, ATTENTION_BACKWARD = 2, 5
"""Products over the scores: q k and p v; backward: q k once more (flash attention keeps no scores), and the gradients
of v, p, q and k."""
ATTENTION_READ_BACKWARD = 2
"""Times that the backward pass moves queries, keys, values and output, against once forward: the tensors, and their
gradients."""


@dataclass(frozen=True)
class Work:
    """What a piece of computing needs at least."""

    flops: float = 0.0
    """In tensor cores."""
    bytes: float = 0.0
    """To and from the device's memory."""
    link: float = 0.0
    """Over the link between host and device, in one direction."""

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes, self.link + other.link)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.bytes * times, self.link * times)

    __rmul__ = __mul__


@dataclass(frozen=True)
class Architecture:
    """A language model as its products."""

    parameters: int
    """Tied ones once."""
    layers: int
    block: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every product of one layer."""
    head: tuple[int, int]
    query_width: int
    """Of all heads together."""
    key_width: int
    """Of all key heads together; that of the values as well."""

    @property
    def body_matrices(self) -> int:
        """Elements of all weights that are multiplied with, but the head's."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.block)

    @property
    def matrices(self) -> int:
        """Elements of all weights that are multiplied with."""
        return self.body_matrices + self.head[0] * self.head[1]


@dataclass(frozen=True)
class Tokens:
    """What a pass runs over."""

    positions: int
    """Through the layers."""
    predicted: int
    """Through the head as well."""
    pairs: float
    """(query, key) pairs of the attention, summed over the sequences."""


def architecture(spec: ModelSpec, vocab_size: int | None = None, sequence_length: int = 1024) -> Architecture:
    """The products of an architecture; nothing is allocated.

    Args:
        spec: the architecture.
        vocab_size: the tokenizer's, used where the architecture names none.
        sequence_length: T, used where the architecture names no context.

    Raises:
        ValueError: no vocabulary is named anywhere.
    """
    wide, inner = spec.hidden, spec.intermediate or 4 * spec.hidden
    keys = wide // spec.heads * (spec.kv_heads or spec.heads)
    if spec.family == "gpt2":
        block = [(wide, 3 * wide), (wide, wide), (wide, inner), (inner, wide)]
    else:
        block = [(wide, wide), (wide, keys), (wide, keys), (wide, wide), (wide, inner), (wide, inner), (inner, wide)]
    return Architecture(
        parameters=parameter_count(spec, vocab_size, sequence_length),
        layers=spec.layers,
        block=tuple(block),
        head=(wide, spec.vocab_size or vocab_size or 0),
        query_width=wide,
        key_width=keys,
    )


def rows(count: int, length: int, *, causal: bool = True) -> Tokens:
    """Whole sequences of one length, all but the last token of each predicting the next.

    Args:
        count: sequences.
        length: T, tokens.
        causal: count the pairs that causal attention lets through; False: all T x T, as torch's counter does.
    """
    pairs = length * (length + 1) / 2 if causal else float(length * length)
    return Tokens(count * length, count * (length - 1), count * pairs)


def probes(lengths: Sequence[int]) -> Tokens:
    """Probes of these lengths, through the layers alone."""
    return Tokens(sum(lengths), 0, sum(length * (length + 1) / 2 for length in lengths))


def forward(model: Architecture, tokens: Tokens, element: int = 2) -> Work:
    """A forward pass.

    Args:
        model: the products.
        tokens: what it runs over.
        element: bytes of a number, 2 for bfloat16.
    """
    flops = moved = 0.0
    for (inputs, outputs), times, count in _products(model, tokens):
        flops += times * PRODUCT * count * inputs * outputs
        moved += times * (count * inputs + inputs * outputs + count * outputs)
    attended = model.layers * _attention_elements(model, tokens)
    return Work(flops + ATTENTION_FORWARD * _scores(model, tokens), element * (moved + attended))


def backward(model: Architecture, tokens: Tokens, element: int = 2) -> Work:
    """A backward pass, up to the gradients in the type of the pass; arguments as `forward`."""
    flops = moved = 0.0
    for (inputs, outputs), times, count in _products(model, tokens):
        flops += times * BACKWARD_PRODUCTS * PRODUCT * count * inputs * outputs
        # Both products read the gradient of the output; each one more factor; each writes its result.
        moved += times * (2 * count * outputs + 2 * (count * inputs + inputs * outputs))
    attended = ATTENTION_READ_BACKWARD * model.layers * _attention_elements(model, tokens)
    return Work(flops + ATTENTION_BACKWARD * _scores(model, tokens), element * (moved + attended))


def _products(model: Architecture, tokens: Tokens) -> list[tuple[tuple[int, int], int, int]]:
    """(shape, how often, rows) of every product of a forward pass."""
    found = [(shape, model.layers, tokens.positions) for shape in model.block]
    return [*found, (model.head, 1, tokens.predicted)] if tokens.predicted else found


def _scores(model: Architecture, tokens: Tokens) -> float:
    """Operations of one product over the scores, in all layers; every query head has scores of its own."""
    return PRODUCT * model.layers * tokens.pairs * model.query_width


def _attention_elements(model: Architecture, tokens: Tokens) -> float:
    """Queries, keys and values read, the output written."""
    return tokens.positions * 2.0 * (model.query_width + model.key_width)
