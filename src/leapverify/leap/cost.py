"""What a prediction costs by itself, in the ledger's units: the same for the live engine and for the bench."""

from __future__ import annotations

from leapverify.history import History
from leapverify.predict import Needs, Predictor


def copies(needs: Needs, history: History) -> float:
    """Copies of all weights that a prediction takes about: each is one read and one write of all of them.

    It reads its snapshots, moments and whatever else it asks for, writes once, and is read once for NaN.

    Args:
        needs: of the predictor.
        history: from which it predicts; as many snapshots count as it holds.
    """
    read = min(needs.reach, len(history)) + 2 * needs.optimizer_state + needs.recent + len(needs.milestones)
    read += len(history.averages.states) if needs.averages and history.averages is not None else 0
    return (read + 2) / 2


def network_tokens(method: Predictor, history: History, parameters: int) -> float:
    """The cost of the network that a predictor runs on each weight, if it has one that says its operations.

    Args:
        method: the predictor; one with a network has a method `operations(history)`.
        history: from which it predicts.
        parameters: all of the model's, frozen ones too; a forward token takes two operations for each.
    """
    operations = getattr(method, "operations", None)
    return 0.0 if operations is None else float(operations(history)) / (2.0 * parameters)
