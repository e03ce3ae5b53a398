"""The command `nowcast`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leapverify.cli.arguments import say

nowcast = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Predictors that are learnt from histories.")


@nowcast.callback()
def _group() -> None:
    """Predictors that are learnt from histories."""


Runs = Annotated[list[Path], typer.Option(metavar="RUN", help="A run folder; give the option once for each.")]


@nowcast.command()
def train(
    name: Annotated[str, typer.Argument(metavar="NAME", help="introspection or wnn.")],
    train: Runs,
    heldout: Runs,
    test: Runs,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The weights, .safetensors; the card goes beside it.")],
    seed: Annotated[int, typer.Option(help="Of initialisation and batches.")] = 0,
    steps: Annotated[int, typer.Option(help="Training steps at most.")] = 8000,
    weights: Annotated[int, typer.Option(help="Weights sampled from each tensor.")] = 1021,
    ahead: Annotated[int, typer.Option(help="Intervals to the target (wnn).")] = 2,
) -> None:
    """Learn a predictor from the weights that studies kept (snapshots.weights=all), and test it on others.

    The three groups of runs may share neither seeds nor text.
    """
    from leapverify.nowcast.fit import FitOptions, as_lines
    from leapverify.nowcast.produce import train_nowcaster

    options = FitOptions(steps=steps, seed=seed)
    made = train_nowcaster(name, train, heldout, test, out, options=options, per_tensor=weights, ahead=ahead)
    say("\n".join(as_lines(made.scores)))
    say(f"best at step {made.fitted.best_step}, held-out L1 {made.fitted.heldout_loss:.4f}")
    say(f"weights: {out}")
