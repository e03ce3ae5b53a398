"""What a user sees while a study runs."""

from __future__ import annotations

import io

from rich.console import Console

from leapverify.cli.progress import STUDY, LiveView, PlainView, view
from leapverify.runs.progress import Progress


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_gets_the_live_view_and_a_pipe_plain_lines():
    assert isinstance(view(console(terminal=True), (1,), 10), LiveView)
    assert isinstance(view(console(terminal=False), (1,), 10), PlainView)


def test_the_live_view_shows_a_row_per_seed_with_all_that_is_known():
    screen = console(terminal=False)
    live = LiveView(screen, STUDY, [Progress(seed, 0, 100, "waiting") for seed in (42, 43)])
    live.update(Progress(42, 10, 100, "train", loss=2.5))
    live.update(Progress(42, 50, 100, "checkpoint", 2.25, 0.998, "transition", 80.0))
    live.update(Progress(42, 60, 100, "train"))
    screen.print(live.table())
    row = next(line for line in text_of(screen).splitlines() if line.startswith("42") or " 42 " in line)
    for shown in ("60/100", "2.2500", "0.998000", "transition", "80.0"):
        assert shown in row
    assert "waiting" in text_of(screen)


def test_plain_lines_tell_checkpoints_notes_and_ends_only():
    screen = console(terminal=False)
    with PlainView(screen) as plain:
        plain.update(Progress(42, 20, 100, "train", loss=3.0))
        plain.update(Progress(42, 50, 100, "checkpoint", 2.25, None, "unknown", 80.0))
        plain.update(Progress(42, 50, 100, "note", note="[step-000050] is damaged"))
        plain.update(Progress(42, 100, 100, "done"))
    lines = text_of(screen).splitlines()
    assert lines == [
        "seed 42  step 50/100  loss 2.2500  similarity –  unknown  80.0 steps/s",
        "seed 42: [step-000050] is damaged",
        "seed 42  done",
    ]
