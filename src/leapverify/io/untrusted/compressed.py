"""Reading plain, .gz and .xz files within a limit: they are unpacked in pieces, which are counted."""

from __future__ import annotations

import gzip
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.text import open_regular

PIECE_BYTES = 1 << 20


def read_unpacked(path: Path, limit_bytes: int = limits.TEXT_BYTES) -> bytes:
    """The bytes of a regular file, unpacked by its suffix (.gz, .xz).

    Raises:
        ValueError: a damaged archive, or more than may be unpacked; the middle of a sentence.
        OSError: it is no regular file, or cannot be read.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > limit_bytes:
            raise ValueError(f"it has {size} bytes, more than {limit_bytes}")
        allowed = min(limit_bytes, max(limits.PACKED_BYTES, limits.PACKED_RATIO * size))
        if path.suffix == ".gz":
            return _joined(_gunzipped(handle), allowed)
        if path.suffix == ".xz":
            return _joined(_unxzed(handle), allowed)
        return _joined(iter(lambda: handle.read(PIECE_BYTES), b""), limit_bytes)


def _joined(pieces: Iterator[bytes], allowed: int) -> bytes:
    found, size = [], 0
    try:
        for piece in pieces:
            size += len(piece)
            if size > allowed:
                raise ValueError(f"it unpacks to more than {allowed} bytes")
            found.append(piece)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return b"".join(found)


def _gunzipped(handle: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=handle) as packed:
        while piece := packed.read(PIECE_BYTES):
            yield piece


def _unxzed(handle: IO[bytes]) -> Iterator[bytes]:
    # Of several streams end to end, as `xz` reads them; the library's own file class knows no bound on memory.
    content = handle.read(PIECE_BYTES)
    if not content:
        raise EOFError("Compressed file ended before the end-of-stream marker was reached")
    while content.strip(b"\0"):
        decoder = lzma.LZMADecompressor(memlimit=limits.XZ_MEMORY_BYTES)
        while not decoder.eof:
            piece = decoder.decompress(content, PIECE_BYTES)
            content = b""
            if piece:
                yield piece
            elif decoder.needs_input and not decoder.eof:
                content = handle.read(PIECE_BYTES)
                if not content:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        content = decoder.unused_data or handle.read(PIECE_BYTES)
