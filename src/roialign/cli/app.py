"""`roialign`: the subcommands and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="roialign",
    help="RoIAlign that knows where its boxes live: find out why your RoIs are zero or wrong.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


@app.command(context_settings=_PASS_ON)
def doctor(
    context: typer.Context,
    script: Annotated[Path, typer.Argument(help="A Python program; what follows it is passed on to it.")],
    report: Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")] = None,
) -> None:
    """Run SCRIPT unchanged and say what is wrong with its RoIAlign calls.

    Calls through roialign and torchvision.ops are seen, detection models included. The findings go to
    stderr. Exit status: the script's own if that is not 0, otherwise 1 if errors were found, otherwise 0.
    """
    from roialign.cli.doctor import run

    raise typer.Exit(run(script, context.args, report))


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="torchvision/NAME, timm/NAME, transformers/TYPE or path.py:callable.")],
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "224x224",
    offset: Annotated[str, typer.Option(help="Which offset is in use: convention or structural.")] = "convention",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    layers: Annotated[bool, typer.Option(help="Also print the accumulation layer by layer.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also measure the offsets, on the images of this folder.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="With --calibrate: draw agreement against offset, SVG.")] = None,
    mean: Annotated[str, typer.Option(help="With --calibrate: of the normalisation.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="With --calibrate: of the normalisation.")] = "0.229,0.224,0.225",
) -> None:
    """Print where the cells of each of MODEL's feature maps lie in the image.

    For each map its cells, stride, structural offset and receptive field, and by how many pixels
    aligned=True and aligned=False would be wrong. Nothing is downloaded: grids do not depend on weights.
    What --calibrate measures does: have path.py:callable load them.
    """
    from roialign.cli.trace import Images, run

    images = None if calibrate is None else Images(calibrate, plot, mean, std)
    raise typer.Exit(run(model, size, offset, as_json, layers, images))


@app.command()
def explain(
    code: Annotated[str | None, typer.Argument(help="A code such as RA101; all codes are listed without one.")] = None,
) -> None:
    """Say what an RA code means, with an example and the fix."""
    from roialign.cli.explain import run

    raise typer.Exit(run(code))


@app.command()
def env() -> None:
    """Print versions, which backend serves which operator, and the instruction set, for bug reports."""
    from roialign.cli.env import run

    run()


def main() -> None:
    """Entry point of the command."""
    app()
