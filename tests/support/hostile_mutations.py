"""Valid files made hostile: bytes that are flipped, cut, moved and repeated, trees whose leaves are replaced."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import yaml

LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "",
    "x", "../../../etc/passwd", "/dev/zero", "/proc/self/environ", "nino:/dev/zero", "text:~nobody-at-all/x", "a\0b",
    "x" * 5000, "</script><script>alert(1)</script>", "=cmd|' /C calc'!A0", "\x1b[2J", "\u202egnp.exe", "\ud800",
    [], {}, [[]], [None], [1, 2, 3], {"": ""}, {"tensor": "y"}, {"sha256": "0" * 64}, ["x"] * 2000,
)  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
WORDS = (b"[" * 200, b"{" * 200, b'{"a":' * 200, b"\0", b"\xff", b"PAR1", b"PK\x05\x06", b"1e999", b"NaN", b"\\ud800",
         b"&a [*a]", b"<<: *a", b"!!python/object/apply:os.system [id]", b"9" * 5000, b"../../x", b"\x80\x04\x95",
         b"cos\nsystem\n(S'true'\ntR.", b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"~x", b"\r", b'"', b",", b"\n")  # fmt: skip


def mutated(content: bytes, kind: str, rng: random.Random) -> bytes:
    """The file with some of it changed; by its structure half of the time, where that is known."""
    if rng.random() < 0.5:
        if kind == "json":
            return _json(_tree(json.loads(content), rng))
        if kind == "yaml":
            return _yaml(content, rng)
        if kind == "safetensors":
            return _header(content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        content = rng.choice(_CHANGES)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    if not content:
        return b"\0"
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 16))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return rng.choice((content[:first], content[first:], content[:first] + content[last:], content[first:last]))


def _splice(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[first:last] * rng.choice((1, 1, 2, 50)) + content[place:]


def _number(content: bytes, rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    place = rng.choice((0, max(0, len(content) - 8), rng.randrange(len(content) + 1)))
    put = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, rng.choice(("little", "big")))
    return content[:place] + put + content[place + width :]


def _word(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(WORDS) + content[place + rng.choice((0, 0, 1, 8)) :]


def _other(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", rng.choice(WORDS), rng.randbytes(rng.choice((1, 8, 100))), content + content))


_CHANGES = (_flip, _flip, _cut, _splice, _number, _word, _word, _other)


def _tree(tree: Any, rng: random.Random) -> Any:
    """The tree with one to three places replaced, emptied, repeated or renamed."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(rng.choice(LEAVES))
        node, key = rng.choice(places)
        change = rng.random()
        if change < 0.75:
            node[key] = copy.deepcopy(rng.choice(LEAVES))
        elif change < 0.85:
            del node[key]
        elif isinstance(node, dict):
            node[str(rng.choice(LEAVES))[:300]] = node.pop(key)
        else:
            node.append(node[key])
    return tree


def _places(tree: Any) -> Any:
    found, waiting = [], [tree]
    while waiting and len(found) < 5000:
        node = waiting.pop()
        items = (
            list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        )
        found += [(node, key) for key, _ in items]
        waiting += [value for _, value in items]
    return found


def _json(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _yaml(content: bytes, rng: random.Random) -> bytes:
    tree = _tree(yaml.safe_load(content), rng)
    return yaml.safe_dump(tree).encode("utf-8", "surrogatepass")


def _header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header, its length told rightly."""
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(_tree(json.loads(content[8 : 8 + size]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
