"""Where training text comes from: the standard library's sources, local files and folders, WikiText-103.

Below the readers stand the parts of a source, SOURCE#i/n, which share no text, and `share_text`, which tells whether
two sources may.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from leapverify.io.untrusted.compressed import read_unpacked
from leapverify.io.untrusted.paths import named
from leapverify.io.untrusted.text import parse_json
from leapverify.train.hub import first_line, hub

logger = logging.getLogger(__name__)
FORMS = "stdlib, stdlib-code, stdlib-prose, stdlib-tests, text:PATH or wikitext-103"
BLOCKS_PER_SOURCE = 200
"""Few plain files are cut at line ends into about this many blocks together, which then serve as documents."""
FEW_FILES = 20
PROSE_BLOCK = 4096
"""Characters of a document of `stdlib-prose`, about."""
_FOREIGN = {"site-packages", "dist-packages", "__pycache__", "_bundled"}
_TESTS = {"test", "tests", "idle_test"}
_PROSE = "pydoc_data"
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
_ARTICLE = re.compile(r"^ = [^=](?:.*[^=])? = $")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_PART = re.compile(r"(.+)#(\d{1,4})/(\d{1,4})")
_OVERLAPS = frozenset({frozenset({"stdlib", "stdlib-code"}), frozenset({"stdlib", "stdlib-prose"})})
"""Different sources with text in common: the library's files include those of its help()."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text that belongs as a whole to one split; the name is unique within its source."""

    name: str
    text: str


def load_documents(spec: str) -> Iterator[Document]:
    """The documents of a source, in the order of their names within it; blank ones left out.

    Args:
        spec: `stdlib` (the sources of the running Python's library, tests excluded), `stdlib-prose` (the English that
            its `help()` prints), `stdlib-code` (`stdlib` without that), `stdlib-tests` (the library's own tests),
            `text:PATH` (a file, plain or .jsonl with a field "text", either also as .gz or .xz; or a folder of such
            files), or `wikitext-103`; each also as `SOURCE#i/n`, the i-th of n parts that share no text.

    Raises:
        ValueError: unknown source or part; missing, empty, undecodable or damaged file.
    """
    base, part = split_part(spec)
    return take(part, _whole(base))


def _whole(spec: str) -> Iterator[Document]:
    if spec == "stdlib":
        return _stdlib(_FOREIGN | _TESTS)
    if spec == "stdlib-code":
        return _stdlib(_FOREIGN | _TESTS | {_PROSE})
    if spec == "stdlib-tests":
        return _stdlib(_FOREIGN, tests=True)
    if spec == "stdlib-prose":
        return _prose()
    if spec == "wikitext-103":
        return _wikitext()
    kind, _, path = spec.partition(":")
    if kind == "text" and path:
        return _text(named(path))
    raise ValueError(f"data source {spec!r} is unknown: give {FORMS}")


def _stdlib(left_out: set[str], tests: bool = False) -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in _files(root, left_out) if path.suffix == ".py")
    if tests:
        files = [path for path in files if not _TESTS.isdisjoint(path.relative_to(root).parent.parts)]
    if not files:
        what = "tests of the library" if tests else "Python sources"
        raise ValueError(f"no {what} in {root}: this Python comes without them, give text:PATH instead")
    for path in files:
        try:
            text = read_text(path)
        except ValueError as error:
            logger.warning("left out: %s", error)
            continue
        if text.strip():
            yield Document(path.relative_to(root).as_posix(), text)


def _prose() -> Iterator[Document]:
    """The chapters of the language's manual, each paragraph once: many chapters are parts of others."""
    try:
        topics = importlib.import_module(f"{_PROSE}.topics").topics
    except ImportError as error:
        raise ValueError(f"this Python comes without {_PROSE}, give text:PATH instead of stdlib-prose") from error
    seen: set[str] = set()
    for name, text in sorted(topics.items()):
        parts = {" ".join(part.split()): part for part in _PARAGRAPH_END.split(text)}
        kept = [part for words, part in parts.items() if words and words not in seen]
        seen |= parts.keys()
        joined = "\n\n".join(kept) + "\n"
        for number, block in enumerate(cut_at_lines(joined, -(-len(joined) // PROSE_BLOCK)) if kept else ()):
            yield Document(f"{name}#{number:05d}", block)


def _files(root: Path, left_out: set[str]) -> Iterator[Path]:
    """All files below a folder, but hidden ones and those in folders of the given names."""
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _text(path: Path) -> Iterator[Document]:
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise ValueError(f"data file {path} does not exist: check the path after text:")
    return _file(path, path.name, BLOCKS_PER_SOURCE)


def _folder(root: Path) -> Iterator[Document]:
    names = sorted(path.relative_to(root) for path in _files(root, set()))
    blocks = BLOCKS_PER_SOURCE // len(names) if 0 < len(names) < FEW_FILES else 1
    found = False
    for name in names:
        try:
            documents = list(_file(root / name, name.as_posix(), blocks))
        except ValueError as error:
            logger.warning("left out: %s", error)
            continue
        found = found or bool(documents)
        yield from documents
    if not found:
        raise ValueError(f"folder {root} holds no readable text file: name a folder with UTF-8 text files")


def _file(path: Path, name: str, blocks: int) -> Iterator[Document]:
    text = read_text(path)
    if not text.strip():
        raise ValueError(f"data file {path} is empty: name a file that holds text")
    if _plain_suffix(path) in (".jsonl", ".ndjson"):
        parts = _json_lines(path, text)
    elif blocks > 1:
        parts = ((f"#{number:05d}", part) for number, part in enumerate(cut_at_lines(text, blocks)))
    else:
        parts = iter([("", text)])
    return (Document(name + suffix, part) for suffix, part in parts if part.strip())


def _plain_suffix(path: Path) -> str:
    return path.with_suffix("").suffix if path.suffix in (".gz", ".xz") else path.suffix


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line.encode(), halves=True)
        except ValueError as error:
            raise ValueError(f"{path} line {number} is no JSON ({error}): one object a line is needed") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f'{path} line {number} has no string in a field "text": give each line such a field')
        if _NO_TEXT.search(row["text"]):
            raise ValueError(f"{path} line {number} holds a zero byte or half a character: remove that line")
        yield f"#{number:07d}", row["text"]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, unpacked by its suffix (.gz, .xz).

    Raises:
        ValueError: the file cannot be read, is a damaged archive or one that unpacks to too much, is binary, or is no
            UTF-8.
    """
    try:
        content = read_unpacked(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"data file {path} cannot be read ({error}): check it, or name another one") from error
    zero = content.find(b"\0")
    if zero >= 0:
        raise ValueError(f"data file {path} is binary (a zero byte at {zero}): name a UTF-8 text file")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise ValueError(f"data file {path} is not UTF-8 text ({wrong}): convert it to UTF-8") from error


def cut_at_lines(text: str, count: int) -> list[str]:
    """Cut a text at line ends into at most `count` blocks of nearly equal length, which joined are the text again."""
    blocks, start = [], 0
    for number in range(1, count + 1):
        aim = len(text) * number // count
        end = text.find("\n", max(aim - 1, start)) + 1 or len(text)
        if number == count:
            end = len(text)
        if end > start:
            blocks.append(text[start:end])
            start = end
    return blocks


def _wikitext() -> Iterator[Document]:
    try:
        import datasets

        with hub(datasets.config):
            rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-103-raw-v1", split="train")
    except ImportError as error:
        remedy = "install leapverify[datasets], or name a local copy as text:PATH"
        raise ValueError(f"wikitext-103 needs the package datasets: {remedy}") from error
    except Exception as error:  # The library raises a dozen unrelated classes when it cannot reach its server.
        remedy = "name a local copy as text:PATH"
        raise ValueError(f"wikitext-103 cannot be fetched ({first_line(error)}): {remedy}") from error
    return _articles(row["text"] for row in rows)


def _articles(lines: Iterator[str]) -> Iterator[Document]:
    """Join lines to articles; each begins with a heading of the first level."""
    articles: list[list[str]] = [[]]
    for line in lines:
        if _ARTICLE.match(line.rstrip("\n")):
            articles.append([])
        articles[-1].append(line if line.endswith("\n") else line + "\n")
    texts = ("".join(article) for article in articles)
    return (Document(f"article-{number:06d}", text) for number, text in enumerate(texts) if text.strip())


@dataclass(frozen=True)
class SourcePart:
    """The i-th of n parts, i from 1 on."""

    i: int
    n: int

    def meets(self, other: SourcePart) -> bool:
        """Whether any number belongs to both parts.

        k = i - 1 mod n and k = j - 1 mod m have a common solution exactly if i = j mod gcd(n, m).
        """
        return (self.i - other.i) % math.gcd(self.n, other.n) == 0


def split_part(spec: str) -> tuple[str, SourcePart]:
    """A source and which part of it is meant; the whole is part 1 of 1.

    Raises:
        ValueError: there is no such part.
    """
    found = _PART.fullmatch(spec)
    if found is None:
        return spec, SourcePart(1, 1)
    i, n = int(found[2]), int(found[3])
    if not 1 <= i <= n:
        raise ValueError(f"data source {spec!r} has no part {i} of {n}: count the parts from 1 to their number")
    return found[1], SourcePart(i, n)


def take(part: SourcePart, documents: Iterable[Document]) -> Iterator[Document]:
    """Every n-th of the different documents; a text that occurs twice counts once, so that no two parts share it.

    Args:
        part: which; the whole is passed on as it is.
        documents: in the order of their source.
    """
    if part.n == 1:
        yield from documents
        return
    seen: set[bytes] = set()
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest not in seen and len(seen) % part.n == part.i - 1:
            yield document
        seen.add(digest)


def share_text(one: str, other: str) -> bool:
    """Whether two sources may hold the same text, as far as their names tell.

    Raises:
        ValueError: a part that does not exist.
    """
    (a, part), (b, another) = split_part(one), split_part(other)
    if a == b:
        return part.meets(another)
    if a.startswith("text:") and b.startswith("text:"):
        x, y = (Path(each.removeprefix("text:")).expanduser().resolve() for each in (a, b))
        # The same files, but numbered differently where one folder lies in the other.
        return part.meets(another) if x == y else x in y.parents or y in x.parents
    return frozenset({a, b}) in _OVERLAPS
