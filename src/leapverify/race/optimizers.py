"""The optimizers of the race, by name; every group of every one takes the same learning rate."""

from __future__ import annotations

import torch
from torch import nn

from leapverify.core.weights import trainable
from leapverify.train.optimizer import build_optimizer

OPTIMIZERS = ("adamw", "muon", "sgd")

MOMENTUM = 0.9
"""Of SGD."""


def make_optimizers(name: str, model: nn.Module, lr: float, weight_decay: float = 0.01) -> list[torch.optim.Optimizer]:
    """The optimizers that together train a model.

    adamw: `torch.optim.AdamW`, betas 0.9 and 0.999, over everything. sgd: momentum 0.9, without weight decay, which
    in SGD is not decoupled and would be part of the problem. muon: `torch.optim.Muon` for the matrices between
    embedding and head, AdamW for all else (embeddings, a tied head, norms, biases). Muon's orthogonal updates are
    scaled by 0.2 sqrt(max(rows, columns)), so that their mean square is that of AdamW's and one rate serves both
    (arXiv 2502.16982). GPT-2's joint matrix of queries, keys and values counts as one matrix.

    Args:
        name: adamw, muon or sgd.
        model: its parameters that require a gradient are trained.
        lr: eta of every group.
        weight_decay: decoupled, of all parameters of AdamW and Muon.

    Returns:
        One optimizer, or for muon two (Muon first; one where there is no matrix for it, or nothing else).

    Raises:
        ValueError: unknown name, or no parameter requires a gradient.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown: give {', '.join(OPTIMIZERS)}")
    parameters = list(trainable(model).values())
    device = parameters[0].device
    if name == "adamw":
        return [build_optimizer(parameters, lr, weight_decay=weight_decay, device=device)]
    if name == "sgd":
        return [torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM)]
    return _muon(model, parameters, lr, weight_decay, device)


def _muon(
    model: nn.Module, parameters: list[nn.Parameter], lr: float, weight_decay: float, device: torch.device | str
) -> list[torch.optim.Optimizer]:
    outer = {id(parameter) for parameter in _outer(model)}
    inner = [each for each in parameters if each.ndim == 2 and id(each) not in outer]
    chosen = {id(parameter) for parameter in inner}
    rest = [each for each in parameters if id(each) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if inner:
        found.append(torch.optim.Muon(inner, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"))
    if rest:
        found.append(build_optimizer(rest, lr, weight_decay=weight_decay, device=device))
    return found


def _outer(model: nn.Module) -> list[torch.Tensor]:
    """Weights of the embeddings and of the head: matrices whose rows are read one at a time, or that give logits."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    head = getattr(model, "get_output_embeddings", lambda: linears[-1] if linears else None)()
    return [module.weight for module in [*tables, *([] if head is None else [head])]]
