"""The shapes that annotations claim, checked while the functions run."""

from __future__ import annotations

import inspect
from typing import get_type_hints

import pytest
import torch
from jaxtyping import AbstractArray, jaxtyped

from leapverify.observe import fingerprint, packing, similarity


def checked(function):
    """The function, its array arguments and result held to their annotations with one binding of the names."""
    hints = {
        name: hint
        for name, hint in get_type_hints(function).items()
        if isinstance(hint, type) and issubclass(hint, AbstractArray)
    }

    def call(*args):
        with jaxtyped("context"):
            values = dict(inspect.signature(function).bind(*args).arguments)
            values["return"] = function(*args)
            for name, hint in hints.items():
                assert isinstance(values[name], hint), f"{name} is no {hint}"
            return values["return"]

    assert hints
    return call


def test_tensor_functions_keep_the_shapes_they_claim():
    (batch,) = packing.packed([torch.arange(1, n) for n in (4, 6, 3)], 100)
    mask = checked(packing.block_causal_mask)(batch.segments)
    checked(packing.additive_mask)(mask, torch.float32)
    hidden = torch.randn(*batch.inputs.shape, 5)
    for pooling in ("mean", "last"):
        assert checked(fingerprint.pool)(hidden, batch, pooling).shape == (3, 5)
    a, b = torch.randn(2, 7, 3)
    checked(similarity)(a, b)


def test_the_check_does_look():
    with pytest.raises(AssertionError, match=r"segments is no .*Int"):
        checked(packing.block_causal_mask)(torch.zeros(2, 3))
