"""The nodes' features: eigenvectors of the graph's Laplacian, without the graph.

L = I - D^-1/2 A D^-1/2, A the graph without directions, loops and repeated edges. The nodes of a span that no bundle
cuts have alike neighbours, so vectors that are constant on such classes are carried into each other, and eigenvalues of
the small matrix between classes are those of L. All others belong to vectors that sum to zero on every class; complete
bundles take these to 0, residual connections to less than 2 / (smallest degree): their eigenvalues are within that of
1. The smallest ones, those that NiNo asks for, come from the small matrix.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from leapverify.predict.nino.checkpoint import EIGENVECTORS
from leapverify.predict.nino.neural_graph import NeuralGraph


def laplacian_eigenvectors(graph: NeuralGraph) -> Tensor:
    """Eight eigenvectors per node, (nodes, 8), of unit length: those of the smallest eigenvalues but the first.

    The authors draw the signs at random; here the first class with a part in a vector has a positive one.
    """
    starts = _classes(graph)
    sizes = np.diff(starts)
    edges = _edges_between(graph, starts)
    degrees = edges.sum(1)  # of all nodes of a class together
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(edges / np.sqrt(np.outer(degrees, degrees)), posinf=0.0)
    count = min(EIGENVECTORS + 1, len(sizes))
    _, vectors = scipy.linalg.eigh(np.eye(len(sizes)) - between, subset_by_index=(0, count - 1))
    chosen = np.zeros((len(sizes), EIGENVECTORS))
    chosen[:, : count - 1] = _signed(vectors[:, 1:]) / np.sqrt(sizes)[:, None]
    return torch.from_numpy(chosen).float().repeat_interleave(torch.from_numpy(sizes), dim=0)


def _classes(graph: NeuralGraph) -> np.ndarray:
    """First node of each class, and the end."""
    spans = [span for each in graph.bundles for span in (each.sources, each.targets)]
    ends = {0, graph.nodes, *(span.start for span in spans), *(span.start + span.length for span in spans)}
    return np.array(sorted(ends))


def _edges_between(graph: NeuralGraph, starts: np.ndarray) -> np.ndarray:
    """Edges between the nodes of each pair of classes."""
    sizes = np.diff(starts).astype(float)
    edges = np.zeros((len(sizes), len(sizes)))
    for each in graph.bundles:
        if each.sources == each.targets:  # loops
            continue
        rows, columns = (
            np.arange(*np.searchsorted(starts, (span.start, span.start + span.length)))
            for span in (each.targets, each.sources)
        )
        if each.diagonal:
            assert np.array_equal(sizes[rows], sizes[columns])
            edges[rows, columns] = edges[columns, rows] = sizes[rows]
        else:
            full = np.outer(sizes[rows], sizes[columns])
            edges[np.ix_(rows, columns)] = full
            edges[np.ix_(columns, rows)] = full.T
    return edges


def _signed(vectors: np.ndarray) -> np.ndarray:
    first = (np.abs(vectors) > 1e-6).argmax(0)
    return vectors * np.sign(vectors[first, np.arange(vectors.shape[1])])
