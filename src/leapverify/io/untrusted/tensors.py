"""Files of tensors of unknown origin: their headers are read and held to the format before a library maps them.

Both checks raise ValueError with the middle of a sentence; who knows the file puts its name before.
"""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import IO, Any

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.text import first_line, open_regular, parse_json

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_safetensors(path: Path) -> None:
    """Hold a safetensors file to its format: the header's size, then that its tensors fill the rest without a gap.

    Raises:
        ValueError: it does not.
        OSError: it cannot be read.
    """
    with open_regular(path) as handle:
        file_bytes = os.fstat(handle.fileno()).st_size
        header_bytes = int.from_bytes(handle.read(8), "little")
        if file_bytes < 8 or header_bytes > file_bytes - 8:
            raise ValueError(f"its header would have {header_bytes} bytes, and the file has {file_bytes}")
        if header_bytes > limits.HEADER_BYTES:
            raise ValueError(f"its header has {header_bytes} bytes, more than {limits.HEADER_BYTES}")
        header = parse_json(handle.read(header_bytes))
    _check_header(header, file_bytes - 8 - header_bytes)


def _check_header(header: Any, data_bytes: int) -> None:
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    told = header.get("__metadata__", {})
    if not isinstance(told, dict) or not all(isinstance(each, str) for each in told.values()):
        raise ValueError("its header holds metadata that are no texts")
    tensors = {name: about for name, about in header.items() if name != "__metadata__"}
    if len(tensors) > limits.TENSORS:
        raise ValueError(f"it has {len(tensors)} tensors, more than {limits.TENSORS}")
    position = 0
    for first, last, name in sorted((*_place(name, about), name) for name, about in tensors.items()):
        if first != position:
            raise ValueError(f"its tensor {name!r:.100} begins at byte {first}, where {position} is the next free one")
        position = last
    if position != data_bytes:
        raise ValueError(f"its tensors end at byte {position} of {data_bytes}")


def _place(name: str, about: Any) -> tuple[int, int]:
    """Where a tensor's bytes begin and end, if they are as many as its type and shape ask for."""
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"its header says of tensor {name!r:.100} something else than dtype, shape and data_offsets")
    shape, offsets, bits = about["shape"], about["data_offsets"], None
    if isinstance(about["dtype"], str):
        bits = _BITS.get(about["dtype"])
    if bits is None:
        raise ValueError(f"its tensor {name!r:.100} is of the unknown type {about['dtype']!r:.100}")
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2 or len(shape) > limits.DIMENSIONS:
        raise ValueError(f"its tensor {name!r:.100} has a shape or offsets that are none")
    if (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits:
        raise ValueError(f"its tensor {name!r:.100} has {offsets[1] - offsets[0]} bytes, which its shape does not need")
    return offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in values)


def check_torch_file(file: Path | IO[bytes]) -> None:
    """Hold a file of `torch.save` to what it writes: a zip whose members are not packed, with one small pickle.

    What is not packed cannot take more memory than the file has; the pickle is not run here.

    Raises:
        ValueError: it is another file.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, LookupError, EOFError) as error:
        raise ValueError(f"it is no file of torch.save ({first_line(error)})") from error
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"its member {member.filename!r:.100} is packed, which torch.save never does")
        if member.filename.endswith(".pkl") and member.file_size > limits.PICKLE_BYTES:
            raise ValueError(f"its pickle has {member.file_size} bytes, more than {limits.PICKLE_BYTES}")
