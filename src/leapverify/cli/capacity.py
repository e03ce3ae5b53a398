"""The commands `presets` and `doctor`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from leapverify.cli.arguments import say

GpuGb = Annotated[float | None, typer.Option("--gpu-gb", help="GPU memory, 10^9 bytes; this machine's unless given.")]
HostGb = Annotated[float | None, typer.Option("--host-gb", help="Host memory; this machine's unless given.")]


def presets(gpu_gb: GpuGb = None, host_gb: HostGb = None) -> None:
    """List the presets: what each costs, and in which precision it fits this machine or another."""
    from leapverify.capacity.cost import overview
    from leapverify.capacity.machine import machine

    wide = Console()
    wide.width = max(wide.width, 110)
    for sheet in overview(machine(gpu_gb, host_gb)):
        table = Table(box=None, pad_edge=False)
        for number, heading in enumerate(sheet.headings):
            table.add_column(heading, no_wrap=True, justify="left" if number < sheet.left else "right")
        for row in sheet.rows:
            table.add_row(*row)
        wide.print(sheet.title, style="bold", highlight=False)
        wide.print(table)
        wide.print(sheet.note, "", sep="\n", highlight=False)


def doctor(
    folder: Annotated[Path, typer.Option("--out", help="Where studies would be written.")] = Path("runs"),
    gpu_gb: GpuGb = None,
    host_gb: HostGb = None,
) -> None:
    """Say what this machine can run, and why not the rest."""
    from leapverify.capacity.doctor import examine
    from leapverify.capacity.machine import machine

    for finding in examine(folder, machine(gpu_gb, host_gb)):
        say(f"{'ok' if finding.fine else 'no'}  {finding.subject:32}{finding.text}")
