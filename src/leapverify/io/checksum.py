"""Texts that carry the sha256 of their own content: JSON under a key, other text in a comment on the first line."""

from __future__ import annotations

import hashlib
import json
from typing import Any

SEAL = "content_sha256"
"""Key of a JSON mapping: the sha256 of the rest, as compact JSON with sorted keys."""
_COMMENT = "# sha256 of all below: "
_HEX = 64
"""Letters of a sha256."""


def as_json(value: Any) -> str:
    """A value as indented JSON; a mapping goes with its sum."""
    plain = json.loads(json.dumps(value))
    if isinstance(plain, dict):
        plain.pop(SEAL, None)
        plain[SEAL] = json_sha256(plain)
    return json.dumps(plain, indent=2, sort_keys=True) + "\n"


def is_as_written(found: dict[str, Any]) -> bool:
    """Take the sum out of a mapping; whether it is that of the rest. Earlier versions wrote none."""
    if SEAL in found:
        return bool(found.pop(SEAL) == json_sha256(found))
    # The key itself may be what is damaged: the sum of the rest then stands under another.
    sums = [key for key, value in found.items() if isinstance(value, str) and len(value) == _HEX]
    return all(found[key] != json_sha256({name: value for name, value in found.items() if name != key}) for key in sums)


def json_sha256(plain: Any) -> str:
    """The sha256 of plain data as compact JSON with sorted keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def sealed(text: str) -> str:
    """Text below a comment with its sum; the sum stands first, so that text which is cut off does not lose it."""
    return f"{_COMMENT}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def unsealed(content: bytes) -> bytes | None:
    """What stands below the sum, None where it is not what was written; content without a sum as it is."""
    if not content.startswith(_COMMENT.encode()):
        return content
    first, _, rest = content.partition(b"\n")
    return rest if first == (_COMMENT + hashlib.sha256(rest).hexdigest()).encode() else None
