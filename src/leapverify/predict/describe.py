"""What each predictor is, in the words of its own docstring: for the command line, docs/predictors.md and README.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any, get_type_hints

from leapverify.predict.catalogue import CATALOGUE, FILES, factory_of, predictor
from leapverify.predict.predictor import Needs

_HIDDEN = re.compile(r"\n(Args|Raises|Returns|Example):\n.*?(?=\n\S|\Z)", re.DOTALL)


def describe(name: str) -> str:
    """Formula, source, claim and cost of a predictor: its docstring, without arguments, errors and example.

    Raises:
        ValueError: an unknown name, or a predictor of another package that cannot be loaded.
    """
    made = _function_of(name)
    texts = [inspect.getdoc(each) or "" for each in (made, _what_it_returns(made))]
    said = [each for each in texts if each]
    text = next((each for each in said if "Source:" in each), said[0] if said else "It says nothing of itself.")
    return _HIDDEN.sub("", text).strip()


def _function_of(name: str) -> Callable[..., Any]:
    factory = inspect.unwrap(factory_of(name))
    return factory.func if isinstance(factory, partial) else factory


def _what_it_returns(made: Callable[..., Any]) -> Any:
    """The class that a function makes, by its annotation; itself where it is a class."""
    if inspect.isclass(made):
        return made
    try:
        return get_type_hints(made).get("return")
    except NameError:  # annotated with what is imported for types alone
        return None


def needs_of(name: str) -> Needs:
    """What a predictor must be given; known without the file of those that read one."""
    return FILES[name] if name in FILES else predictor(name).needs


def in_words(needs: Needs) -> str:
    """What a predictor must be given, in a line."""
    upto = f" to {needs.upto}" if needs.upto > needs.snapshots else ""
    many = "s" if needs.reach > 1 else ""
    parts = [f"{needs.snapshots}{upto}{' evenly spaced' if needs.even else ''} snapshot{many}"]
    asked = (
        (needs.optimizer_state, "Adam's moments"),
        (bool(needs.recent), f"the last {needs.recent} steps"),
        (needs.averages, "running averages"),
        (bool(needs.milestones), "the states at " + ", ".join(f"{share:g} t" for share in needs.milestones)),
        (needs.layout, "names of tensors"),
        (needs.selection, "held-out losses of its own"),
        (needs.gradients, "gradients on sampled batches"),
        (needs.whole, "whole tensors"),
    )
    parts += [what for wanted, what in asked if wanted]
    return ", ".join(parts) + ("" if needs.horizon else "; the same for every K")


PAGE = """# The predictors

What each predicts, where it comes from, what its authors claim and what it costs; the words are those of the code
(`leapverify predictors --doc docs/predictors.md` writes this page). theta_t are the newest weights, theta_1, theta_2
the snapshots before, d1 their difference, K the horizon in steps, Delta the steps between snapshots, s = K/Delta. All
act tensor by tensor in float32 and move trained parameters alone. Given less than it needs, a predictor declines and
says what is missing.

Where ranks hold parts of tensors (`fully_shard`, tensor parallel), each rank predicts the parts that it holds, and what
has to be known of a whole tensor is summed up over the ranks: the predictions are those of one process up to the
rounding of such sums. Those that need whole tensors decline there.

`taylor-n`, `lawa-n` and `dmd-r` take any number; `nino-mlp`, `nino`, `introspection` and `wnn` take a file:
`NAME:PATH`. Predictors of other packages join by the entry point `leapverify.predictors`
([an example](../examples/predictor_package/README.md)). What became of the claims under verification stands in
[results/predictors.md](results/predictors.md).
"""


def page(names: Iterable[str]) -> str:
    """The page on these predictors; neighbours of which the same is said share a heading."""
    said = groupby(names, lambda name: (in_words(needs_of(name)), describe(name), _file_of(name)))
    parts = [
        f"## {', '.join(f'`{name}`' for name in alike)}\n\n"
        f"Needs {needs}. The formula stands in `{file}`.\n\n```text\n{text}\n```\n"
        for (needs, text, file), alike in said
    ]
    return "\n".join([PAGE, *parts])


def _file_of(name: str) -> str:
    """The module of a predictor, as a path below src/leapverify."""
    return f"{_function_of(name).__module__.removeprefix('leapverify.').replace('.', '/')}.py"


def table() -> str:
    """The catalogue as a table in Markdown, for README.md."""
    rows = groupby(CATALOGUE, lambda name: CATALOGUE[name][1:3])
    lines = ["| name | where the weights will be | source |", "|---|---|---|"]
    for (where, source), alike in rows:
        shown = dict.fromkeys(f"`{CATALOGUE[name].shown or name}`" for name in alike)
        lines.append(f"| {', '.join(shown)} | {where} | {source} |")
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- predictors: leapverify predictors --doc README.md -->\n", "<!-- predictors: end -->\n"
"""Comments around the table in a file."""


def documented(text: str) -> str:
    """The text of a file of documentation: with the two comments the table between them is made anew, else the page."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}{table()}{end}{after}" if end else page(CATALOGUE)
