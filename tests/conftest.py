"""One torch thread for every test: the suite runs side by side, and narrow operations gain nothing from a second."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
