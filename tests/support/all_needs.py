"""A predictor that reads all that one may ask for, so that any difference in any of it shows in its losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leapverify.core.weights import Tensors
from leapverify.predict import Needs, require_moments, require_request
from leapverify.trajectory.history import History


@dataclass(frozen=True)
class AllNeeds:
    """theta_t, moved a little by everything else."""

    recent: int = 3
    name: str = "all-needs"

    @property
    def needs(self) -> Needs:
        return Needs(
            snapshots=2,
            optimizer_state=True,
            recent=self.recent,
            averages=True,
            milestones=(0.0, 0.4),
            layout=True,
            selection=True,
            gradients=True,
        )

    @torch.no_grad()
    def predict(self, history: History, horizon: int, out: Tensors | None = None) -> Sequence[Tensor]:
        request = require_request(self.needs, history, horizon, out)
        require_moments(history, request.now)
        assert history.recent is not None
        assert history.averages is not None
        assert history.milestones is not None
        step = history.steps[-1]
        pulls = [each.tensors for each in list(history.recent)[-self.recent :]]
        pulls += [each.tensors for each in history.averages.states]
        pulls += [history.milestones.nearest(share * step).tensors for share in self.needs.milestones]
        factor = history.derived("all-needs", lambda: self._factor(history, request.now))
        for position, (target, own) in enumerate(zip(request.out, request.now, strict=True)):
            mixed = torch.stack([pull[position].float() for pull in pulls]).mean(0) - own.float()
            target.copy_(own.float() + factor * horizon * mixed)
        return request.out

    def _factor(self, history: History, now: Tensors) -> float:
        assert history.selection is not None
        assert history.gradients is not None
        assert history.layout is not None
        assert len(history.layout.names) == len(now)
        held = history.selection.loss([each.float() for each in now])
        trained, slopes = history.gradients.gradient(now, 1)
        return 1e-3 * (held + float(trained) + float(sum(each.abs().sum() for each in slopes)))
