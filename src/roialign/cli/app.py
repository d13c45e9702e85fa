"""`roialign`: the subcommands and their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

app = typer.Typer(
    name="roialign",
    help="RoIAlign that knows where its boxes live: find out why your RoIs are zero or wrong.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from roialign.version import __version__

        typer.echo(f"roialign {__version__}")
        raise typer.Exit


@app.callback()
def roialign(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """What every subcommand has."""


_OWN_PROCESS = object()  # what `main` gives to the commands: that the process is theirs, and ends with them


class _ProgramCommand(TyperCommand):
    """Writes out what is implied before a program: that -m ends our options, and FILE of --json and --sarif."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._written_out(args))

    def _written_out(self, args: list[str]) -> list[str]:
        with_value = {name for option in self.params if option.param_type_name == "option" for name in option.opts}
        written, place = list(args), 0
        while place < len(written):
            word, following = written[place], written[place + 1 : place + 2]
            if word in _FILE_ENDINGS:
                if not following or (following[0] != "-" and not following[0].endswith(_FILE_ENDINGS[word])):
                    written.insert(place + 1, "-")
            elif word.startswith("-m"):
                end = place + (2 if word == "-m" else 1)
                return [*written[:end], "--", *written[end:]] if end <= len(written) else written
            elif word not in with_value:
                if not (word.startswith("--") and "=" in word):
                    return written  # the script, or --help
                place -= 1
            place += 2
        return written


_FILE_ENDINGS = {"--json": (".json",), "--sarif": (".sarif", ".json")}


@app.command(cls=_ProgramCommand, context_settings={"allow_interspersed_args": False})
def doctor(
    context: typer.Context,
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]", help="A Python program; what follows it is passed on to it."),
    ] = None,
    module: Annotated[
        str | None, typer.Option("-m", metavar="MODULE", help="Run MODULE [ARGS] instead, as python -m would.")
    ] = None,
    call: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Examine a call saved by roialign.save_call instead.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with pictures.")] = None,
    as_json: Annotated[
        str | None,
        typer.Option("--json", metavar="[FILE]", help="Write JSON to FILE.json, to --json=FILE, or to stdout."),
    ] = None,
    sarif: Annotated[
        str | None,
        typer.Option("--sarif", metavar="[FILE]", help="Write SARIF 2.1.0, for CI; FILE as of --json."),
    ] = None,
    select: Annotated[str | None, typer.Option(metavar="CODES", help="Only codes that begin so: RA1,RA502.")] = None,
    ignore: Annotated[
        str | None,
        typer.Option(metavar="CODES", help="Not these; of two that fit a code the longer decides."),
    ] = None,
) -> None:
    """Run SCRIPT unchanged and say what is wrong with its RoIAlign calls.

    Calls through roialign and torchvision.ops are seen, detection models included. The findings go to
    stderr. Our options stand before SCRIPT. Exit status: the script's own if that is not 0, otherwise 1 if
    errors were found, otherwise 0; 2 if these arguments cannot be used.
    """
    from roialign.cli.doctor import Request, run

    own_process = context.obj is _OWN_PROCESS
    raise typer.Exit(run(Request(program or [], module, call, report, as_json, sarif, select, ignore, own_process)))


@app.command(name="run", cls=_ProgramCommand, context_settings={"allow_interspersed_args": False})
def run_program(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]", help="A Python program; what follows it is passed on to it."),
    ] = None,
    module: Annotated[
        str | None, typer.Option("-m", metavar="MODULE", help="Run MODULE [ARGS] instead, as python -m would.")
    ] = None,
) -> None:
    """Run SCRIPT unchanged with torchvision's RoI operators on roialign's kernels.

    As if `roialign.enable()` were its first line: same results, in less time on the CPU. The exit status is the
    script's own; 2 if these arguments cannot be used.
    """
    from roialign.cli.run import run

    raise typer.Exit(run(program or [], module))


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="torchvision/NAME, timm/NAME, transformers/TYPE or path.py:callable.")],
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "224x224",
    channels: Annotated[
        int | None, typer.Option(min=1, help="Of the image; 3, or what the first convolution takes.")
    ] = None,
    offset: Annotated[str, typer.Option(help="In use: convention, structural, calibrated.")] = "convention",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    layers: Annotated[bool, typer.Option(help="Also print the accumulation layer by layer.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also measure the offsets, on the images of this folder.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="With --calibrate: draw agreement against offset, SVG.")] = None,
    mean: Annotated[str, typer.Option(help="With --calibrate: of the normalization.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="With --calibrate: of the normalization.")] = "0.229,0.224,0.225",
) -> None:
    """Print where the cells of each of MODEL's feature maps lie in the image.

    Shown are cells, stride, structural offset, receptive field, and the pixels by which aligned=True and False miss it.

    Weights are random, nothing is downloaded: grids do not depend on them. What --calibrate measures does.
    Give it path.py:callable, a function that loads them.
    """
    from roialign.cli.trace import Images, run

    images = None if calibrate is None else Images(calibrate, plot, mean, std)
    raise typer.Exit(run(model, size, offset, as_json, layers, images, channels))


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
    app(obj=_OWN_PROCESS)
