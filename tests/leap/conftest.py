"""Engine tests leave the process as they found it: random streams and thread count."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: more threads only wait for one another
    yield
    torch.set_num_threads(threads)
    random.setstate(python), np.random.set_state(numpy), torch.set_rng_state(cpu)
