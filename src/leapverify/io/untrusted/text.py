"""JSON and YAML of unknown origin as plain data: sizes, depth and aliases are counted before anything is built.

The functions raise ValueError with the middle of a sentence ("it has 70 levels, more than 64"); who knows the file
puts its name before and the remedy behind.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import yaml

from leapverify.io.untrusted import limits

_ARITHMETIC = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError)
"""What YAML's constructors of dates, numbers and tags may raise."""
_HALF = re.compile("[\ud800-\udfff]")
_HALF_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read; a pipe, which might never end, or a device is refused.

    Raises:
        OSError: it is none, or cannot be read.
    """
    # Not blocking, because a pipe that nobody writes to would never open.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(number, "rb")


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file of at most so many.

    Raises:
        ValueError: it has more.
        OSError: it is no regular file, or cannot be read.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > limit_bytes:
            raise ValueError(f"it has {size} bytes, more than {limit_bytes}")
        content = handle.read(size + 1)
    if len(content) > size:  # of what says that it has none, such as a file in /proc
        raise ValueError(f"it has more than the {size} bytes that it says")
    return content


def parse_json(content: bytes, *, halves: bool = False) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        content: the text.
        halves: whether halves of characters (lone surrogates) may stand in it, for a reader that looks for them itself.

    Raises:
        ValueError: it is none, is beyond the limits, or holds half a character.
    """
    if len(content) > limits.JSON_BYTES:
        raise ValueError(f"it has {len(content)} bytes, more than {limits.JSON_BYTES}")
    # Every value but the first stands behind one of these.
    values = 1 + sum(content.count(sign) for sign in (b",", b"[", b"{"))
    if values > limits.JSON_VALUES:
        raise ValueError(f"it has up to {values} values, more than {limits.JSON_VALUES}")
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"it has more than {limits.DEPTH} levels") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise ValueError(first_line(error)) from error
    _check_depth(value)
    if not halves and _HALF_ESCAPED.search(content):
        _check_characters(value)
    return value


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text: plain data, no tag makes an object.

    Raises:
        ValueError: it is none, is beyond the limits, or refers to itself.
    """
    size = len(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    if size > limits.YAML_BYTES:
        raise ValueError(f"it has {size} bytes, more than {limits.YAML_BYTES}")
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        _check_events(decoded)
        loader = yaml.SafeLoader(decoded)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except _Beyond as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 (byte {error.start})") from error
    except (yaml.YAMLError, *_ARITHMETIC) as error:
        raise ValueError(f"it is not YAML ({first_line(error)})") from error
    _check_characters(value)
    return value


def first_line(error: BaseException) -> str:
    """What an error says, on one line of at most 200 characters."""
    lines = str(error).strip().split("\n")
    return " ".join(lines[0].split())[:200] or type(error).__name__


class _Beyond(ValueError):
    """A limit was passed: the library's own errors are worded otherwise."""


def _check_events(text: str) -> None:
    """Depth and number of values, seen one by one while the text is read: what is refused was never built."""
    depth = values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        values += isinstance(event, yaml.NodeEvent)
        if depth > limits.DEPTH:
            raise _Beyond(f"it has more than {limits.DEPTH} levels")
        if values > limits.YAML_VALUES:
            raise _Beyond(f"it has more than {limits.YAML_VALUES} values")


def _check_node(root: yaml.Node) -> None:
    """How large and deep the tree is once every alias is written out, without writing it out."""
    known: dict[int, tuple[int, int]] = {}
    opened: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in known:
            waiting.pop()
            continue
        children = list(_children(node))
        unknown = [child for child in children if id(child) not in known]
        if not unknown:
            known[id(node)] = _size_and_depth([known[id(child)] for child in children])
            opened.discard(id(node))
        elif any(id(child) in opened or child is node for child in unknown):
            raise _Beyond("one of its aliases refers to itself")
        else:
            opened.add(id(node))
            waiting.extend(unknown)


def _size_and_depth(parts: list[tuple[int, int]]) -> tuple[int, int]:
    size = 1 + sum(each for each, _ in parts)
    depth = 1 + max((each for _, each in parts), default=0)
    if size > limits.YAML_VALUES:
        raise _Beyond(f"it has {size} values or more with its aliases written out, more than {limits.YAML_VALUES}")
    if depth > limits.DEPTH + 1:
        raise _Beyond(f"it has more than {limits.DEPTH} levels with its aliases written out")
    return size, depth


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > limits.NUMBER_CHARACTERS:
        raise _Beyond(f"it has a number of {len(node.value)} characters, more than {limits.NUMBER_CHARACTERS}")


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limits.DEPTH):
        level = [child for each in level for child in _parts(each) if isinstance(child, dict | list)]
        if not level:
            return
    raise ValueError(f"it has more than {limits.DEPTH} levels")


def _check_characters(value: Any) -> None:
    """Refuse halves of characters: no file could be written with them."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str) and _HALF.search(each):
            raise ValueError("it holds half a character (a lone surrogate)")
        if isinstance(each, dict):
            waiting.extend(each)
        if isinstance(each, dict | list | tuple | set):
            waiting.extend(_parts(each))


def _parts(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, dict) else value)
