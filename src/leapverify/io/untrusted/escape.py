"""Escaping text of unknown origin: for a terminal, a page, a spreadsheet, a Markdown file."""

from __future__ import annotations

import re

# Controls but tab and line feed; marks that turn or hide the writing around them; line ends that only some readers see.
_ACTIVE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")
_SHORT = {"\\b": "\b", "\\f": "\f", "\\r": "\r"}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def inert(text: str) -> str:
    """The text with control characters, and those that turn or hide what stands around them, as visible escapes."""
    return _ACTIVE.sub(lambda found: _shown(found[0]), text)


def _shown(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def inert_json(text: str) -> str:
    """`inert` of every text in JSON that was written in ASCII: the same, seen from inside."""
    return _ESCAPE.sub(_inert_escape, text).replace("\x7f", "\\\\x7f")


def _inert_escape(found: re.Match[str]) -> str:
    sign = _SHORT.get(found[0]) or (chr(int(found[1], 16)) if found[1] else "")
    # Halves of characters are those of a pair here: JSON in ASCII writes large code points as two.
    if not sign or "\ud800" <= sign <= "\udfff" or not _ACTIVE.match(sign):
        return found[0]
    return "\\" + _shown(sign)


def field(value: object) -> object:
    """A field of a CSV file: numbers as they are, texts that a spreadsheet would compute with a ' before them."""
    if not isinstance(value, str):
        return value
    shown = inert(value)
    return f"'{shown}" if value.lstrip(" ").startswith(_FORMULA) and not _NUMBER.fullmatch(value) else shown


def markdown(text: str) -> str:
    """A text in one line of Markdown: no tag, no column, no code, no link, no picture."""
    flat = inert(" ".join(text.split()))
    for sign, safe in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        flat = flat.replace(sign, safe)
    # What makes a bracket a link or its definition is the sign behind it.
    return re.sub(r"\](?=[(\[:])", r"\\]", flat)
