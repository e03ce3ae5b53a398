"""The largest file, header, table and tree that is read; everything above is refused before memory is taken for it.

Each lies far above what the tool or the published files need; docs/security.md shows this table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MIB: Final = 1 << 20

DEPTH: Final = 64
"""Of nested lists and mappings in JSON and YAML."""
JSON_BYTES: Final = 32 * MIB
JSON_VALUES: Final = 2_000_000
YAML_BYTES: Final = 64 << 10
YAML_VALUES: Final = 100_000
"""After every alias has been written out."""
NUMBER_CHARACTERS: Final = 400
"""Of a number in YAML, whose digits may also stand to the base 60."""

HEADER_BYTES: Final = 16 * MIB
"""Of a safetensors file; the format itself allows 100 MB."""
TENSORS: Final = 200_000
DIMENSIONS: Final = 64
PICKLE_BYTES: Final = 64 * MIB
"""Of the one member of a PyTorch file that is no tensor."""
NINO_BYTES: Final = 64 * MIB
"""The largest checkpoint published is 28 MB."""
INDEX_FILES: Final = 10_000
"""Shards that an index of a model names."""

VOCABULARY_BYTES: Final = 256 * MIB
"""Of a text or JSON file of a tokenizer."""

PARQUET_BYTES: Final = 512 * MIB
PARQUET_FOOTER_BYTES: Final = 16 * MIB
PARQUET_UNPACKED_BYTES: Final = 1024 * MIB
"""Sum of what the headers of all pages say."""
PARQUET_ROWS: Final = 2_000_000
PARQUET_GROUPS: Final = 10_000
PARQUET_PAGES: Final = 1_000_000
CELL_BYTES: Final = 65_536
"""Of one text in a record."""

TEXT_BYTES: Final = 2048 * MIB
"""Of one file of training text, unpacked."""
PACKED_BYTES: Final = 64 * MIB
"""What any archive may unpack to."""
PACKED_RATIO: Final = 100
"""How many times its own size a larger archive may unpack to; text packs to about a fifth."""
XZ_MEMORY_BYTES: Final = 256 * MIB
"""Dictionary of an .xz file; xz -9 needs 65 MiB."""
PROBES_BYTES: Final = 16 * MIB
TABLE_BYTES: Final = 16 * MIB
"""Of a CSV file that is read again."""

CHECKPOINTS: Final = 1_000_000
"""Of one seed: training.steps / observe.interval_steps."""
LAYERS: Final = 10_000
ENTRIES: Final = 1_000_000
"""Files and folders in a run folder."""


class Limit(NamedTuple):
    """A row of the table in the documentation."""

    what: str
    value: int
    unit: str
    remedy: str


_AGAIN = "give the command that wrote it again"
_SMALLER = "pass a file without it"

TABLE: Final = (
    Limit("JSON: size", JSON_BYTES, "bytes", _AGAIN),
    Limit("JSON: values", JSON_VALUES, "values", _AGAIN),
    Limit("JSON and YAML: depth", DEPTH, "levels", _AGAIN),
    Limit("YAML: size", YAML_BYTES, "bytes", _AGAIN),
    Limit("YAML: values, every alias written out", YAML_VALUES, "values", _AGAIN),
    Limit("YAML: one number", NUMBER_CHARACTERS, "characters", _AGAIN),
    Limit("safetensors: header", HEADER_BYTES, "bytes", _SMALLER),
    Limit("safetensors: tensors", TENSORS, "tensors", _SMALLER),
    Limit("safetensors: dimensions of a tensor", DIMENSIONS, "dimensions", _SMALLER),
    Limit("PyTorch file: pickle member", PICKLE_BYTES, "bytes", _SMALLER),
    Limit("checkpoint of NiNo", NINO_BYTES, "bytes", "pass a published one"),
    Limit("index of a sharded model: shards", INDEX_FILES, "files", "pass the model as it was published"),
    Limit("tokenizer: one file", VOCABULARY_BYTES, "bytes", "pass the tokenizer as it was published"),
    Limit("Parquet: file", PARQUET_BYTES, "bytes", _AGAIN),
    Limit("Parquet: footer", PARQUET_FOOTER_BYTES, "bytes", _AGAIN),
    Limit("Parquet: all pages, unpacked", PARQUET_UNPACKED_BYTES, "bytes", _AGAIN),
    Limit("Parquet: rows", PARQUET_ROWS, "rows", _AGAIN),
    Limit("Parquet: row groups", PARQUET_GROUPS, "groups", _AGAIN),
    Limit("Parquet: pages", PARQUET_PAGES, "pages", _AGAIN),
    Limit("Parquet: one text", CELL_BYTES, "bytes", _AGAIN),
    Limit("training text: one file, unpacked", TEXT_BYTES, "bytes", "cut it into several files of one folder"),
    Limit("archive (.gz, .xz): unpacked, whatever its size", PACKED_BYTES, "bytes", "unpack it yourself"),
    Limit("archive (.gz, .xz): beyond that, times its own size", PACKED_RATIO, "times", "unpack it yourself"),
    Limit("archive (.xz): memory of the decoder", XZ_MEMORY_BYTES, "bytes", "unpack it yourself"),
    Limit("file of probes", PROBES_BYTES, "bytes", "give fewer or shorter probes"),
    Limit("CSV that is read again", TABLE_BYTES, "bytes", _AGAIN),
    Limit("checkpoints of a seed", CHECKPOINTS, "checkpoints", "raise observe.interval_steps"),
    Limit("layers of a model", LAYERS, "layers", "lower model.layers"),
    Limit("files in a run folder", ENTRIES, "files", "name the run folder itself"),
)


def as_markdown() -> str:
    """The table as docs/security.md shows it."""
    lines = ["| what | limit | remedy |", "|---|---:|---|"]
    lines += [f"| {each.what} | {each.value:,} {each.unit} | {each.remedy} |" for each in TABLE]
    return "\n".join(lines) + "\n"
