"""Names made of pieces that would act somewhere, and what may come of them in HTML, Markdown, CSV and a terminal."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

PIECES = (
    "</script>", "<script>document.title='owned'</script>", "<!--", "-->", "]]>", "<![CDATA[", "</style>", "</title>",
    "</textarea>", "<img src=x onerror=\"document.title='owned'\">", "<svg/onload=document.title='owned'>",
    "<a href=\"javascript:document.title='owned'\">x</a>", "<iframe srcdoc='<script>top.document.title=1</script>'>",
    '"', "'", "\" onmouseover=\"document.title='owned'\" x=\"", "' autofocus onfocus='document.title=1' x='", "`",
    "```", "`code`", "|", "\\|", "\\", "\\\\", "&", "&lt;script&gt;", "&#60;img&#62;", "&quot;", "\n", "\r", "\r\n",
    "\n\n# h\n", "\n| a | b |\n", "\n---\n", "\n    code\n", "\t", "\x00", "\x07", "\x08", "\x1b[2J",
    "\x1b]0;owned\x07", "\x1b[31m", "\x1bP", "\x9b31m", "\x85", "\x7f", "\u2028", "\u2029", "\u202e", "\u2066",
    "\u200b", "\u200f", "\ufeff",
    "\u3164", "\u00a0", "\u3000", "\U000e0041", "\ud800", "\udfff", "=cmd()", "=HYPERLINK(\"http://x\")",
    "+", "-", "@SUM(1)",
    "=", "＝1+1", "＋1", "－1", "＠x", " =1", "-1e5", "+2", "%s", "%n", "{{7*7}}", "{% raw %}", "{x}", "${x}",
    "[x](javascript:1)", "![x](http://x)", "[x]: javascript:1", "[x]", "[red]", "[/]", "[link=http://x]y[/link]",
    "**x**", "_x_", "~~x~~", "<http://x>", "javascript:", "\\u003c", "\\u2028",
    "\\x1b", "linear", "taylor-3", "5",
    ",", ";", "é", "名", "🙂",
    "a" * 5000,
)  # fmt: skip
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0041]")
"""Beside the line feed, nothing of this may reach a terminal."""
OURS = {"<b>", "</b>", "<br>", "<sub>", "</sub>", "<i>", "</i>", "<extra></extra>", "<extra>", "</extra>"}
"""Markup of our figures."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FORMULA = tuple("=+-@\t\r\n＝＋－＠")


def hostile_name(chance: random.Random) -> str:
    """One to six pieces; long ones are rare."""
    count = chance.randrange(1, 7)
    return "".join(chance.choice(PIECES if chance.random() < 0.1 else PIECES[:-1]) for _ in range(count))


class Skeleton(HTMLParser):
    """A page without what it says: its tags with their attributes, its comments; and its scripts and texts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, ...]] = []
        self._scripts: list[list[str]] = []
        self.values: list[str] = []
        self.said: list[str] = []
        self._raw = False
        self.feed(page)
        self.close()
        self.scripts = ["".join(parts) for parts in self._scripts]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the names of attributes, and those values that are addresses."""
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.values += [f"{name}={value}" for name, value in attrs if name in ("href", "src", "style", "http-equiv")]
        self._raw = tag in ("script", "style")
        if self._raw:
            self._scripts.append([])

    def handle_endtag(self, tag: str) -> None:
        """Keep it."""
        self.tags.append((f"/{tag}",))
        self._raw = False

    def handle_comment(self, data: str) -> None:
        """Keep that there is one."""
        self.tags.append(("a comment",))

    def handle_decl(self, decl: str) -> None:
        """Keep it."""
        self.tags.append((decl,))

    def handle_pi(self, data: str) -> None:
        """Keep that there is one."""
        self.tags.append(("an instruction",))

    def unknown_decl(self, data: str) -> None:
        """Keep that there is one."""
        self.tags.append(("a declaration",))

    def handle_data(self, data: str) -> None:
        """Keep it as script or as text."""
        if self._raw:
            self._scripts[-1].append(data)
        else:
            self.said.append(data)


def wrong_csv(text: str, shape: tuple[int, int] | None) -> str | None:
    """What a spreadsheet would make of a table that it should not; None: nothing.

    Args:
        text: of the file.
        shape: how many lines and fields it has to have; None: any number.
    """
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    if shape and {(len(rows), len(row)) for row in rows} != {shape}:
        return f"{len(rows)} lines of {sorted({len(row) for row in rows})} fields, not {shape}"
    for cell in (cell for row in rows for cell in row):
        if cell.lstrip(" ").startswith(FORMULA) and not NUMBER.fullmatch(cell):
            return f"a formula: {cell[:80]!r}"
        if ACTIVE.search(cell):
            return f"a control character: {cell[:80]!r}"
    return None


def wrong_markdown(text: str, lines: int) -> str | None:
    """What a Markdown reader would make of a file that it should not; None: nothing.

    Args:
        text: of the file, in which every table has two columns.
        lines: how many it has to have.
    """
    if text.count("\n") != lines or len(text.splitlines()) != lines:
        return f"{len(text.splitlines())} lines, not {lines}"
    for line in text.splitlines():
        # What is escaped is no sign any more.
        bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", line)
        if line.startswith("|") and bare.count("|") != 3:
            return f"another column: {line[:80]!r}"
        if re.search(r"[<>`]|\][(\[:]|&(?!amp;|lt;|gt;)", bare):
            return f"a tag, a code or a link: {line[:80]!r}"
    return f"a control character: {found[0]!r}" if (found := ACTIVE.search(text)) else None


def wrong_terminal(text: str) -> str | None:
    """What a terminal would obey; None: nothing."""
    return f"a control character: {found[0]!r}" if (found := ACTIVE.search(text)) else None


def strings(tree: Any) -> Iterator[str]:
    """All texts in a figure; a view's choice is compared with what was clicked, and drawn nowhere."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for each in [v for k, v in tree.items() if k != "choice"] if isinstance(tree, dict) else tree:
            yield from strings(each)


def wrong_figures(script: str) -> str | None:
    """What of the figures in a page's script is markup of somebody else's; None: nothing."""
    if found := re.search("[<>&]", script):
        return f"a {found[0]} in a script"
    markup = {tag for text in strings(json.loads(script)) for tag in re.findall(r"<[^>]*>", text)}
    return f"drawn as markup: {sorted(markup - OURS)}" if markup - OURS else None
