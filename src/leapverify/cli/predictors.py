"""The command `predictors`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leapverify.cli.arguments import say


def predictors(
    words: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Say all of these.")] = None,
    doc: Annotated[
        list[Path] | None,
        typer.Option(help="Write the page on all of the catalogue here, or the table between a file's two comments."),
    ] = None,
) -> None:
    """List the predictors and what each needs; of those named, say formula, source, claim and cost."""
    from leapverify.io.storage import write_text
    from leapverify.predict.catalogue import FAMILIES, FILES, names
    from leapverify.predict.describe import describe, documented, in_words, needs_of

    if doc:
        for path in doc:
            write_text(path, documented(path.read_text(encoding="utf-8") if path.is_file() else ""))
            say(f"predictors: {path}")
        return
    if words:
        say("\n\n".join(f"{name}: needs {in_words(needs_of(name))}\n\n{describe(name)}" for name in words))
        return
    width = max(map(len, names()))
    say("\n".join(f"{name:{width}}  needs {in_words(needs_of(name))}" for name in names()))
    numbered, files = (
        f"{', '.join(each[:-1])} and {each[-1]}" for each in ([f"{name}-n" for name in FAMILIES], list(FILES))
    )
    say(f"\n{numbered} take any number n; {files} a file: NAME:PATH")
