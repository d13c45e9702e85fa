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
    """Options of every subcommand."""


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
        typer.Argument(metavar="SCRIPT [ARGS]", help="A Python program; everything after it is passed to it."),
    ] = None,
    module: Annotated[
        str | None, typer.Option("-m", metavar="MODULE", help="Run MODULE [ARGS] instead, as python -m would.")
    ] = None,
    call: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Examine a call saved by roialign.save_call instead.")
    ] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page with pictures.")] = None,
    as_json: Annotated[
        str | None,
        typer.Option("--json", metavar="[FILE]", help="Write JSON to FILE.json, to --json=FILE, or to stdout."),
    ] = None,
    sarif: Annotated[
        str | None,
        typer.Option("--sarif", metavar="[FILE]", help="Write SARIF 2.1.0, for CI; FILE as for --json."),
    ] = None,
    select: Annotated[
        str | None, typer.Option(metavar="CODES", help="Report only codes that start with these: RA1,RA502.")
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option(metavar="CODES", help="Leave out these; the longer of two matching prefixes wins."),
    ] = None,
) -> None:
    """Run SCRIPT unchanged and say what is wrong with its RoIAlign calls.

    Sees calls through roialign, torchvision.ops (and its detection models),
    detectron2 and mmcv. Findings go to stderr. Put options before SCRIPT.

    Exit status: the script's own if that is not 0, otherwise 1 if errors
    were found, otherwise 0; 2 for invalid arguments.
    """
    from roialign.cli.doctor import Request, run

    own_process = context.obj is _OWN_PROCESS
    raise typer.Exit(run(Request(program or [], module, call, report, as_json, sarif, select, ignore, own_process)))


@app.command(name="run", cls=_ProgramCommand, context_settings={"allow_interspersed_args": False})
def run_program(
    program: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCRIPT [ARGS]", help="A Python program; everything after it is passed to it."),
    ] = None,
    module: Annotated[
        str | None, typer.Option("-m", metavar="MODULE", help="Run MODULE [ARGS] instead, as python -m would.")
    ] = None,
) -> None:
    """Run SCRIPT unchanged with torchvision's RoI operators on roialign's kernels.

    As if `roialign.enable()` were its first line: the same results,
    faster on the CPU.

    Exit status: the script's own; 2 for invalid arguments.
    """
    from roialign.cli.run import run

    raise typer.Exit(run(program or [], module))


@app.command()
def trace(
    model: Annotated[str, typer.Argument(help="torchvision/NAME, timm/NAME, transformers/TYPE or path.py:callable.")],
    size: Annotated[str, typer.Option(help="Image size, HEIGHTxWIDTH.")] = "224x224",
    channels: Annotated[
        int | None, typer.Option(min=1, help="Channels of the image; default: 3, or what the first convolution takes.")
    ] = None,
    offset: Annotated[
        str, typer.Option(help="Which offset to use: convention, structural, calibrated.")
    ] = "convention",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    layers: Annotated[
        bool, typer.Option(help="Also print how stride, offset and field add up, layer by layer.")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also measure the offsets on the images in this folder.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="With --calibrate: plot agreement over offset to this SVG.")] = None,
    mean: Annotated[str, typer.Option(help="With --calibrate: for normalization.")] = "0.485,0.456,0.406",
    std: Annotated[str, typer.Option(help="With --calibrate: for normalization.")] = "0.229,0.224,0.225",
) -> None:
    """Print where the cells of each of MODEL's feature maps are in the image.

    Shows cells, stride, structural offset, receptive field, and by how many
    pixels aligned=True and aligned=False miss that offset.

    Weights are random and nothing is downloaded: grids do not depend on
    weights. What --calibrate measures does, so for it pass path.py:callable,
    a function that loads them.
    """
    from roialign.cli.trace import Images, run

    images = None if calibrate is None else Images(calibrate, plot, mean, std)
    raise typer.Exit(run(model, size, offset, as_json, layers, images, channels))


@app.command()
def extract(
    images: Annotated[str, typer.Argument(help="A folder, a glob, a list .txt, a .tar, or a .parquet.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Output folder; the same command continues there.")],
    backbone: Annotated[
        str, typer.Option(metavar="MODEL", help="timm/NAME, torchvision/NAME, transformers/NAME or path.py:callable.")
    ],
    boxes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="COCO .json, .csv, .parquet, or a folder of VOC, YOLO or LabelMe files."),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(metavar="GRID", help="A grid instead of --boxes: ROWSxCOLUMNS, or SIZE/STEP in pixels."),
    ] = None,
    whole_image: Annotated[bool, typer.Option("--whole-image", help="One box per image instead of --boxes.")] = False,
    form: Annotated[
        str | None, typer.Option(help="Format of --boxes, if not detected: coco, csv, parquet, voc, yolo, labelme.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of a .parquet that holds the images.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights for MODEL, .pt or .safetensors.")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--random", help="Weights of the model's library, or random ones.")
    ] = True,
    maps: Annotated[
        str | None, typer.Option("--maps", "--levels", help="Names of the maps to pool from, with commas.")
    ] = None,
    output_size: Annotated[str, typer.Option(metavar="SIZE", help="Bins per box, HEIGHTxWIDTH or one number.")] = "7",
    reduce: Annotated[str, typer.Option(help="What to do with the bins: mean, none or flatten.")] = "mean",
    masked: Annotated[
        bool, typer.Option("--masked", help="Pool within the outlines of COCO, YOLO or LabelMe, not all of each box.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Type of the stored features: float16 or float32.")] = "float16",
    resize: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Images to HEIGHTxWIDTH, or their shorter side to a number.")
    ] = None,
    letterbox: Annotated[str | None, typer.Option(metavar="SIZE", help="Images into HEIGHTxWIDTH, padded.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that enter the backbone together.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")] = None,
    images_per_part: Annotated[
        int | None, typer.Option(min=1, help="Images in a file: by their number, 16 to 256.")
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="Processes, or Ray's actors.")] = None,
    address: Annotated[str | None, typer.Option(help="Of a Ray cluster.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Go on where the doctor finds an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    report: Annotated[
        str | None, typer.Option(metavar="FILE", help="A page at the end: pictures of regions, their neighbours.")
    ] = None,
) -> None:
    """Write a feature for each box of each of IMAGES to a folder of Parquet files.

    You can stop it at any time; the same command continues from there. The doctor examines a sample first. Exit
    status: 0 if every box has a feature; 3 if some do not, and they are listed with reasons; 1 if the doctor found an
    error and nothing was extracted; 2 if the arguments cannot be used; 130 or 143 if it was stopped.
    """
    from roialign.cli.extract import Chosen, run

    sizes = {"output_size": output_size, "resize": resize, "letterbox": letterbox}
    options = {
        "out": out,
        "backbone": backbone,
        "form": form,
        "column": column,
        "weights": weights,
        "pretrained": pretrained,
        "maps": None if maps is None else maps.split(","),
        "reduce": reduce,
        "masked": masked,
        "dtype": dtype,
        "batch_size": batch_size,
        "device": device,
        "images_per_part": images_per_part,
        "engine": engine,
        "workers": workers,
        "address": address,
        "force": force,
        "report": report,
    }
    raise typer.Exit(run(images, Chosen(boxes, grid, whole_image), sizes, quiet, options))


@app.command()
def search(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="What roialign extract wrote.")],
    image: Annotated[str, typer.Option(metavar="ID", help="Of the image, as in the rows.")],
    box: Annotated[str, typer.Option(metavar="ID", help="Of its box.")] = "0",
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    same_image: Annotated[bool, typer.Option("--same-image", help="Other boxes of the image count, too.")] = False,
) -> None:
    """Print the regions whose features are most like that of one box."""
    from roialign.cli.extract import search

    raise typer.Exit(search(folder, image, box, k, same_image))


@app.command()
def explain(
    code: Annotated[str | None, typer.Argument(help="A code such as RA101; without one, all codes are listed.")] = None,
) -> None:
    """Explain an RA code, with an example and the fix."""
    from roialign.cli.explain import run

    raise typer.Exit(run(code))


@app.command()
def env() -> None:
    """Print versions, the backend of each operator, and the instruction set, for bug reports."""
    from roialign.cli.env import run

    run()


def main() -> None:
    """Entry point of the command."""
    app(obj=_OWN_PROCESS)
