"""Reading NiNo's published parameters: tensors only, every name and shape checked, nothing in a file is ever run."""

from __future__ import annotations

import warnings
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import named
from leapverify.io.untrusted.tensors import check_torch_file
from leapverify.predict.nino.schedule import REACH

Parameters: TypeAlias = dict[str, Tensor]

CONTEXT, FEATURES, EDGE_TYPES, EIGENVECTORS = 5, 9, 15, 8
SOURCE = "github.com/SamsungSAILMontreal/nino, folder checkpoints"
DEFAULTS: dict[str, Any] = {
    "ctx": CONTEXT,
    "hid": 128,
    "layers": 3,
    "gnn": True,
    "dms": True,
    "max_feat_size": FEATURES,
    "input_layer": "linear",
    "act_name": "silu",
    "residual": True,
    "max_seq_len": REACH,
    "improved_graph": True,
    "wte_pos_enc": True,
    "edge_types": EDGE_TYPES,
    "lpe": EIGENVECTORS,
}
"""What a file leaves unsaid."""
FREE = {"hid", "gnn", "wte_pos_enc"}
"""Settings that may differ from these."""


def require_file(file: str | PathLike[str] | None, name: str, published: str) -> Path:
    """The path of a checkpoint that has to be named.

    Raises:
        ValueError: none is named; the text says where to get one.
    """
    if file is None:
        raise ValueError(
            f"{name} needs a file of parameters: get {published} from {SOURCE}, and pass it as {name}:PATH"
        )
    return Path(file)


def read(file: Path, *, graph: bool) -> Parameters:
    """The parameters of a checkpoint, float32, on the CPU; read once as long as the file stays the same.

    Args:
        file: {state_dict, model_args}, written by torch.save.
        graph: whether the graph network is wanted, otherwise the per-parameter one.

    Raises:
        ValueError: the file is missing, too large, damaged, holds code, or another network.
    """
    file = named(file)
    if not file.is_file():
        raise ValueError(f"{file} is not there: download it from {SOURCE}")
    about = file.stat()
    if about.st_size > limits.NINO_BYTES:
        raise ValueError(
            f"{file} has {about.st_size} bytes, more than the {limits.NINO_BYTES} of any checkpoint of NiNo: pass one "
            f"of {SOURCE}"
        )
    return _read(file.resolve(), about.st_mtime_ns, about.st_size, graph)


@lru_cache(maxsize=8)
def _read(file: Path, _mtime_ns: int, _bytes: int, graph: bool) -> Parameters:
    try:
        check_torch_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickles of others, which are refused below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a pickle makes of the few functions it may call is of every class
        raise ValueError(
            f"{file} is refused, it is damaged or holds more than tensors (code in it is never run): download it again "
            f"from {SOURCE}"
        ) from error
    if not isinstance(content, dict) or set(content) != {"state_dict", "model_args"}:
        raise ValueError(f"{file} does not hold NiNo's state_dict and model_args: pass a checkpoint of {SOURCE}")
    hid = _hidden(file, content["model_args"], graph)
    return _checked(file, content["state_dict"], graph_shapes(hid) if graph else mlp_shapes(hid))


def _hidden(file: Path, arguments: Any, graph: bool) -> int:
    """The width of the network, when it is the one that is wanted."""
    if not isinstance(arguments, dict) or not all(isinstance(each, bool | int | str) for each in arguments.values()):
        raise ValueError(f"{file} has model_args that are no settings: pass a checkpoint of {SOURCE}")
    if strange := sorted(map(str, set(arguments) - set(DEFAULTS))):
        raise ValueError(f"{file} has settings that NiNo does not, {', '.join(strange)}: pass a checkpoint of {SOURCE}")
    settings = {**DEFAULTS, **arguments}
    if bool(settings["gnn"]) != graph:
        found, wanted = ("graph", "per-parameter")[:: -1 if graph else 1]
        use = "nino-mlp" if graph else "nino"
        raise ValueError(f"{file} holds NiNo's {found} network and not the {wanted} one: pass it to {use}")
    if graph and settings["wte_pos_enc"]:
        raise ValueError(f"{file} embeds every word of one vocabulary: pass nino_no_posw.pt of {SOURCE}")
    other = [each for each in DEFAULTS if each not in FREE and settings[each] != DEFAULTS[each]]
    if other or not isinstance(settings["hid"], int) or not 1 <= settings["hid"] <= 1024:
        named = ", ".join(f"{each} {settings[each]!r}" for each in other or ["hid"])
        raise ValueError(f"{file} holds another network ({named}): pass a checkpoint of {SOURCE}")
    return int(settings["hid"])


def _checked(file: Path, state: Any, shapes: dict[str, tuple[int, ...]]) -> Parameters:
    """The parameters, when they are exactly those of these names and shapes."""
    held = state if isinstance(state, dict) else {}
    differing = [
        *(f"{name} is missing" for name in shapes if name not in held),
        *(f"{name} is not expected" for name in held if name not in shapes),
        *(f"{name} is not {shape}" for name, shape in shapes.items() if name in held and not _fits(held[name], shape)),
    ]
    if differing:
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise ValueError(f"{file} does not fit the network, {differing[0]}{more}: pass a checkpoint of {SOURCE}")
    if not all(bool(torch.isfinite(each).all()) for each in held.values()):
        raise ValueError(f"{file} holds numbers that are not finite: download it again from {SOURCE}")
    return {name: held[name].detach().float() for name in shapes}


def _fits(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and tuple(value.shape) == shape


def _linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def mlp_shapes(hid: int = 128) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the per-parameter network."""
    middle = [_linear(f"edge_mlp.fc.{i}", hid, hid) for i in (0, 2, 4)]
    return _joined(
        {"layer_embed.weight": (EDGE_TYPES, hid)},
        _linear("edge_proj.fc.0", hid, CONTEXT),
        *middle,
        _linear("edge_mlp.fc.6", REACH, hid),
    )


def graph_shapes(hid: int = 128) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the graph network."""
    convolutions = [
        _joined(
            _linear(f"gnn.convs.{i}.edge_encoder", 2 * hid, hid),
            _linear(f"gnn.convs.{i}.pre_nns.0.0", hid, 2 * hid),
            _linear(f"gnn.convs.{i}.post_nns.0.0", hid, 2 * hid),
            _linear(f"gnn.convs.{i}.lin", hid, hid),
        )
        for i in range(3)
    ]
    updates = [
        _linear(f"gnn.edge_update.{i}.{each}", hid, hid)
        for i in range(2)
        for each in ("lin_e", "lin_s", "lin_t", "lin1")
    ]
    return _joined(
        {"layer_embed.weight": (EDGE_TYPES, hid)},
        _linear("node_proj.fc.0", hid, EIGENVECTORS),
        _linear("edge_proj.fc.0", hid, FEATURES * CONTEXT),
        *convolutions,
        *updates,
        _linear("edge_out.fc.0", hid, hid),
        _linear("edge_out.fc.2", FEATURES * REACH, hid),
    )


def _joined(*parts: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {name: shape for part in parts for name, shape in part.items()}
