"""The words of a kind of run: headings, notes, captions and sentences, each a template in its folder's words.toml.

`{name}` in a template is filled by the code that shows it; the entries under [shared], and `SPREAD`, may stand in every
other one.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from leapverify.report.kit.panels import Figure, FigureView, LegendKey
from leapverify.report.kit.section import SummaryLine
from leapverify.report.kit.table import SPREAD, Column, Table, table


class Words:
    """The templates of one folder."""

    def __init__(self, templates: Mapping[str, Any]) -> None:
        self._templates = templates
        self._shared = {"SPREAD": SPREAD}
        for name, template in templates.get("shared", {}).items():
            self._shared[name] = template.format(**self._shared)

    def say(self, entry: str, part: str, **values: Any) -> str:
        """One template with its values."""
        return str(self._templates[entry][part]).format(**self._shared, **values)

    def line(self, entry: str, *parts: str | bool, **values: Any) -> SummaryLine:
        """A topic and its sentences; of the parts those that are not empty or False are said, in their order."""
        said = (self.say(entry, part, **values) for part in parts if isinstance(part, str) and part)
        return SummaryLine(self.say(entry, "topic", **values), "".join(said))

    def table(
        self, name: str, columns: Sequence[Column], rows: Iterable[Any], *, keys: int = 1, **values: Any
    ) -> Table:
        """A table with its heading and note; columns, rows and keys as in `kit.table.table`."""
        heading, note = (self.say(name, part, **values) for part in ("heading", "note"))
        return table(name, heading, note, columns, rows, keys=keys)

    def figure(
        self,
        name: str,
        views: Sequence[FigureView],
        *,
        controls: Mapping[str, Sequence[str]] | None = None,
        legend: Sequence[LegendKey] = (),
        **values: Any,
    ) -> Figure:
        """A figure with its title and caption."""
        caption = self.say(name, "caption", **values)
        return Figure(name, self.say(name, "title"), caption, views, controls or {}, legend)

    def empty(self, name: str, why: str) -> Figure:
        """The figure of something that was not recorded: its title, and the reason."""
        return Figure(name, self.say(name, "title"), "", why=why)


@functools.cache
def words(folder: str) -> Words:
    """The words of one folder of the report."""
    text = resources.files("leapverify.report").joinpath(folder, "words.toml").read_text(encoding="utf-8")
    return Words(tomllib.loads(text))
