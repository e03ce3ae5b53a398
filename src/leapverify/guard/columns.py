"""Rows of a Parquet file of unknown origin: texts stay lists of different ones until each is known to be short."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leapverify.guard import limits
from leapverify.guard.pages import check_footer


def opened(content: bytes, schema: pa.Schema) -> pq.ParquetFile:
    """A Parquet file of which no row has been read yet; its texts will be numbers of a list of different ones.

    Args:
        content: the file.
        schema: as it is expected.

    Raises:
        ValueError, OSError, pa.ArrowException: it is none, or its footer is beyond the limit.
    """
    check_footer(content)
    return pq.ParquetFile(
        pa.BufferReader(content), read_dictionary=[field.name for field in schema if field.type == pa.string()]
    )


def plainly(schema: pa.Schema) -> pa.Schema:
    """The schema as it was written, of a file whose texts are read as numbers of a list of different texts."""
    fields = [each.with_type(each.type.value_type) if pa.types.is_dictionary(each.type) else each for each in schema]
    return pa.schema(fields)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch, equal texts being one.

    Raises:
        ValueError: a text is beyond the limit, or a value is missing where every row has one; the middle of a sentence.
    """
    return zip(*(_values_of(batch.schema.field(number), column) for number, column in enumerate(batch)), strict=True)


def _values_of(field: pa.Field, column: pa.Array) -> list[Any]:
    if column.null_count and not field.nullable:
        raise ValueError(f"{field.name} is empty where every row has a value")
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    if longest > limits.CELL_BYTES:
        raise ValueError(f"{field.name} holds a text of {longest} bytes, more than {limits.CELL_BYTES}")
    texts = column.dictionary.to_pylist()
    return [None if index is None else texts[index] for index in column.indices.to_pylist()]
