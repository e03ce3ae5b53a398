"""Reading a Parquet file of unknown origin: the checks of its footer and pages, then its rows.

`opened` checks the footer, `check_parquet` the row groups and the sizes in all page headers, `rows_of` the length of
each text, which until then stands once in a dictionary of its column.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from leapverify.io.untrusted import limits


def opened(content: bytes, schema: pa.Schema) -> pq.ParquetFile:
    """A Parquet file of which no row has been read yet; its texts will be read as dictionaries.

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


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """The schema as it was written, of a file whose texts are read as dictionaries."""
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


_DEPTH = 8
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_VARINTS = (4, 5, 6)


def check_parquet(content: bytes, metadata: Any) -> None:
    """Refuse a file whose rows, row groups or unpacked pages are beyond the limits.

    Args:
        content: the file.
        metadata: `pyarrow.parquet.FileMetaData` of it.

    Raises:
        ValueError: it is, or its pages do not lie where its footer says; the middle of a sentence.
    """
    if metadata.num_rows > limits.PARQUET_ROWS:
        raise ValueError(f"it has {metadata.num_rows} rows, more than {limits.PARQUET_ROWS}")
    if metadata.num_row_groups > limits.PARQUET_GROUPS:
        raise ValueError(f"it has {metadata.num_row_groups} row groups, more than {limits.PARQUET_GROUPS}")
    unpacked = rows = pages = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        rows += group.num_rows
        for column in range(group.num_columns):
            for page_bytes in _pages(content, group.column(column)):
                unpacked, pages = unpacked + page_bytes, pages + 1
                if unpacked > limits.PARQUET_UNPACKED_BYTES:
                    raise ValueError(f"it unpacks to more than {limits.PARQUET_UNPACKED_BYTES} bytes")
                if pages > limits.PARQUET_PAGES:
                    raise ValueError(f"it has more than {limits.PARQUET_PAGES} pages")
    if rows != metadata.num_rows:
        raise ValueError(f"it says {metadata.num_rows} rows, and its row groups {rows}")


def check_footer(content: bytes) -> None:
    """Refuse what is no Parquet file, or has a footer beyond the limit.

    Raises:
        ValueError: it is; the middle of a sentence.
    """
    if len(content) < 12 or content[:4] != b"PAR1" or content[-4:] != b"PAR1":
        raise ValueError("it does not begin and end as one")
    footer_bytes = int.from_bytes(content[-8:-4], "little")
    if footer_bytes > min(limits.PARQUET_FOOTER_BYTES, len(content) - 12):
        raise ValueError(
            f"its footer would have {footer_bytes} bytes, and {limits.PARQUET_FOOTER_BYTES} are allowed in a file of "
            f"{len(content)}"
        )


def _pages(content: bytes, column: Any) -> Iterator[int]:
    """The bytes that each page of one column chunk unpacks to."""
    # A chunk without rows may have a dictionary and no page of data, which is then said to begin at 0.
    starts = [column.data_page_offset] if column.num_values else []
    if column.has_dictionary_page and column.dictionary_page_offset:
        starts.append(column.dictionary_page_offset)
    if not starts:
        return
    first = min(starts)
    end = first + column.total_compressed_size
    if not 0 < first <= end <= len(content) - 8:
        raise ValueError("its footer names a column that does not lie in it")
    while first < end:
        start, unpacked, packed = _page(content, first, end)
        yield unpacked
        first = start + packed


def _page(content: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Where the page behind a header begins, and its sizes, unpacked and packed."""
    reader = _Thrift(content, position, end)
    sizes = reader.struct()
    unpacked, packed = sizes.get(2, -1), sizes.get(3, -1)
    if unpacked < 0 or packed < 0 or reader.position + packed > end:
        raise ValueError("one of its pages does not lie in its column")
    return reader.position, unpacked, packed


class _Thrift:
    """As much of the compact protocol as it takes to find two numbers and the end of a struct."""

    def __init__(self, content: bytes, position: int, end: int) -> None:
        self._content, self.position, self._end = content, position, end

    def struct(self, depth: int = 0) -> dict[int, int]:
        """The whole numbers among its fields, by their ids; everything else is passed over."""
        if depth > _DEPTH:
            raise ValueError("one of its page headers is nested too deeply")
        found: dict[int, int] = {}
        field = 0
        while (head := self._byte()) != _STOP:
            field = field + (head >> 4) if head >> 4 else self._number()
            kind = head & 15
            if kind in _VARINTS:
                found[field] = self._number()
            else:
                self._skip(kind, depth)
        return found

    def _byte(self) -> int:
        if self.position >= self._end:
            raise ValueError("one of its page headers does not end")
        self.position += 1
        return self._content[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("one of its page headers holds no number where one is needed")
        return value | byte << shift

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _skip(self, kind: int, depth: int, element: bool = False) -> None:
        if kind in (_TRUE, _FALSE):
            self.position += element  # a field's value stands in its head
        elif kind == _BYTE:
            self.position += 1
        elif kind in _VARINTS:
            self._varint()
        elif kind == _DOUBLE:
            self.position += 8
        elif kind == _BINARY:
            length = self._varint()  # which itself moves the position
            self.position += length
        elif kind in (_LIST, _SET):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._skip(head & 15, depth + 1, element=True)
        elif kind == _STRUCT:
            self.struct(depth + 1)
        else:
            raise ValueError("one of its page headers holds what no page header has")
        if self.position > self._end:
            raise ValueError("one of its page headers does not end")
