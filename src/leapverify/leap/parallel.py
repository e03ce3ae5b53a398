"""How a model is spread over the ranks of a run: what runs it, which ranks run the same data, and what is refused."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from leapverify.core.batch_tree import mapped, tensors_in
from leapverify.core.ranks import Ranks, ranks_of_world
from leapverify.core.shards import local, reshard
from leapverify.errors import RanksDivergedError
from leapverify.verify.heldout import LossFunction, LossOutput

FLAT = "FullyShardedDataParallel"
"""The older wrapper, which keeps the parameters of a module in one flat tensor."""


def inner(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, which computes the same without preparing a backward pass."""
    wrapped = getattr(model, "_orig_mod", model)
    return wrapped.module if isinstance(wrapped, nn.parallel.DistributedDataParallel) else model


def ranks_of(model: Any, mesh: Any, patience_s: float) -> Ranks:
    """The ranks of the run; a collective call, unless there is one process.

    Which ranks run the same held-out data follows from the model: with DistributedDataParallel each runs its own; with
    `fully_shard` those of the same place in its mesh run the same; with tensor-parallel parameters alone all of their
    mesh do.

    Args:
        model: wrapped as it is trained.
        mesh: a data-parallel DeviceMesh: ranks of the same place in it run the same data; None: see above.
        patience_s: seconds that a rank waits for the others in a collective call.

    Raises:
        ValueError: the model is distributed in a way that is not served, or the mesh is none of this rank's.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return Ranks()
    if not patience_s > 0.0:
        raise ValueError(f"patience_s is {patience_s!r}: give the seconds that a rank is to wait for the others")
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=patience_s))
    ranks = ranks_of_world(group=group)
    with sharing_failures(ranks):
        if isinstance(model, nn.Module):
            _refuse(model)
        places = ranks.all_gather("places in the data-parallel mesh", _place(model, mesh, ranks.rank))
    alike = [rank for rank, place in enumerate(places) if place == places[ranks.rank]]
    return ranks_of_world(data_group=alike, group=group)


def _place(model: Any, mesh: Any, rank: int) -> tuple[Any, ...]:
    """What is equal on ranks that run the same data."""
    chosen = mesh if mesh is not None else _mesh_of_shards(model)
    if chosen is not None:
        place = chosen.get_coordinate() if hasattr(chosen, "get_coordinate") else None
        if place is None:
            raise ValueError(
                f"mesh {chosen} does not hold rank {rank}: give the data-parallel DeviceMesh of every rank"
            )
        return ("place", *place)
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    found = next((each for each in parameters if isinstance(each, DTensor)), None)
    return ("rank", rank) if found is None else ("mesh", *found.device_mesh.mesh.flatten().tolist())


def _mesh_of_shards(model: Any) -> Any:
    """The data-parallel mesh of the first module that `fully_shard` was applied to."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if hasattr(module, "_get_fsdp_state"):
            state = cast("Any", module)._get_fsdp_state()
            # One group a module in older releases of torch, any number in newer ones.
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
            if groups[0] is not None:
                return groups[0].mesh_info.mesh
    return None


def _refuse(model: nn.Module) -> None:
    kinds = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    if FLAT in kinds:
        raise ValueError(
            f"the model is wrapped in {FLAT}, whose flat parameters are not served: use "
            "torch.distributed.fsdp.fully_shard"
        )
    if type(model).__module__.startswith(("deepspeed.", "megatron.")):
        raise ValueError(
            f"the model is a {type(model).__name__}, which writes the weights from copies of its own: use "
            "DistributedDataParallel, fully_shard or tensor-parallel DTensors"
        )


def same_options(ranks: Ranks, options: Mapping[str, Any]) -> None:
    """Make sure that every rank was given the same.

    Raises:
        RanksDivergedError: an option differs; it is named, with both values.
    """
    given = ranks.all_gather("options", dict(options))
    for name in options:
        if any(each.get(name) != given[0].get(name) for each in given):
            ranks.assert_same(f"option {name}", options[name], name)


def same_probes(probes: Any, ranks: Ranks) -> Any:
    """Rank 0's probes on every rank, in place of its own, where its own lie.

    A fingerprint of parts needs every rank in every forward pass, so all of them run the same.
    """
    if ranks.alone:
        return probes
    device = next((each.device for each in tensors_in(probes)), None)
    hosted = mapped(probes, lambda each: each.cpu()) if ranks.rank == 0 else None
    found = ranks.broadcast("probes", hosted)
    return found if device is None else mapped(found, lambda each: each.to(device))


@contextmanager
def sharing_failures(ranks: Ranks) -> Iterator[None]:
    """Tell the other ranks of an error in the block: they raise it at their next collective call."""
    try:
        yield
    except Exception as error:
        ranks.fail(sentence_of(error))
        raise


def sentence_of(error: Exception) -> str:
    """An error in one sentence; the engine's own are sentences already."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError | RanksDivergedError) and text else f"{type(error).__name__}: {text}"


def resharding(loss: LossFunction, model: nn.Module) -> LossFunction:
    """The loss function, after which every `fully_shard` module holds its shards only, so that they may be written."""
    if _mesh_of_shards(model) is None:
        return loss

    def run(model: nn.Module, batch: Any) -> LossOutput:
        found = loss(model, batch)
        reshard(model)
        return found

    return run


def like(parameter: Tensor, part: Tensor) -> Tensor:
    """A part of a parameter as the parameter is held: a DTensor of the same mesh where that is one."""
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def writable(tensor: Tensor) -> Tensor:
    """What is written in place of a parameter: itself, or this rank's part."""
    return local(tensor).data if isinstance(tensor, DTensor) else tensor


def require_same_parameters(parameters: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Refuse ranks that hold other parameters than one another.

    Raises:
        ValueError: they do; on every rank alike.
    """
    every = ranks.all_gather("parameters", [(name, tuple(each.shape)) for name, each in parameters.items()])
    for rank, held in enumerate(every):
        if held != every[0]:
            one, other = next(
                (pair for pair in itertools.zip_longest(every[0], held) if pair[0] != pair[1]), (None, None)
            )
            raise ValueError(
                f"the ranks train other parameters ({_told(one)} on rank 0, {_told(other)} on rank {rank}): every rank "
                "has to hold the same layers or parts of them; pipeline stages are not served"
            )


def _told(parameter: tuple[str, tuple[int, ...]] | None) -> str:
    return "nothing more" if parameter is None else f"{parameter[0]} of shape {parameter[1]}"


def layout_of(parameters: Sequence[Tensor], ranks: Ranks) -> str | None:
    """Of which rank of which layout the local parts are; None where every rank holds whole tensors."""
    spread = [each for each in parameters if isinstance(each, DTensor)]
    if not spread:
        return None
    kinds = dict.fromkeys(f"{each.device_mesh.mesh.tolist()} {each.placements}" for each in spread)
    return f"rank {ranks.rank} of {ranks.size}: {'; '.join(kinds)}"


def before_writes(model: nn.Module) -> Callable[[], None]:
    """What is to be done before weights are written: shards have to be what the modules hold."""
    return (lambda: None) if _mesh_of_shards(model) is None else lambda: reshard(model)
