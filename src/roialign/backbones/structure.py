"""The first method: stride, offset and receptive field from the operators that a backbone runs."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from roialign.backbones.fields import CENTRE, ROWS, SIZE, Field, Term, UnsupportedError, reduced
from roialign.backbones.fit import AxisStructure, extents, fit
from roialign.backbones.layers import Layers, LayerStep
from roialign.backbones.layout import Layout, Path, named_outputs
from roialign.backbones.order import Disorder, disorder, raster
from roialign.backbones.propagate import Propagation
from roialign.backbones.record import Ref, record
from roialign.backbones.rules.views import one_term
from roialign.backbones.sandbox import Sandbox
from roialign.backbones.work import work_per_pixel

_EPSILON = 1e-6
_BATCH = 2  # so that a dimension of size 1 is never the batch's


@dataclass(frozen=True)
class Level:
    """A map: where it is in the outputs, and how its cells lie; `unknown` says why that is not known."""

    layout: Layout
    unknown: str | None
    y: AxisStructure | None = None
    x: AxisStructure | None = None
    rows: tuple[Tensor, Tensor] | None = None
    image_hw: tuple[int, int] = (0, 0)

    def extents(self) -> Tensor:
        """int64 [H, W, 4]: first_y, last_y, first_x, last_x of the pixels that each cell reads.

        Clipped to the image; (0, -1, 0, -1) for a cell that reads none.
        """
        if self.rows is None:
            raise ValueError(f"expected a level whose structure is known; got an unknown one: {self.unknown}")
        return extents(*self.rows, self.image_hw).expand(*self.layout.size_hw, 4)


def field_centre(level: Level) -> tuple[float, float] | None:
    """(y, x) of the centre of cell (0, 0)'s whole receptive field, where both axes have one."""
    if level.y is None or level.x is None or level.y.field_centre is None or level.x.field_centre is None:
        return None
    return level.y.field_centre, level.x.field_centre


@dataclass(frozen=True)
class OutOfOrder:
    """A map whose cells are not in the order of the image; `in_order` is the map with its cells permuted."""

    layout: Layout
    disorder: Disorder
    in_order: Level | None


@dataclass(frozen=True)
class Structure:
    """What the operators say: the maps, the outputs that are none and why, and the way there layer by layer.

    work: numbers that a run computes for each pixel of the image.
    """

    levels: dict[str, Level]
    out_of_order: dict[str, OutOfOrder]
    left_out: dict[str, str]
    layers: tuple[LayerStep, ...]
    work: float


def structure(backbone: nn.Module, image_hw: tuple[int, int], channels: int = 3) -> Structure:
    """The structure of all maps that `backbone` makes of an image [N, channels, H, W], nothing being computed."""
    with Sandbox(backbone) as sandbox:
        return structure_in(sandbox, image_hw, channels)


def structure_in(sandbox: Sandbox, image_hw: tuple[int, int], channels: int, layers: bool = True) -> Structure:
    """`structure` in a sandbox that is open."""
    tape = record(sandbox, image_hw, channels, _BATCH)
    steps = Layers()
    fields = Propagation(tape, steps if layers else None)
    levels: dict[str, Level] = {}
    out_of_order: dict[str, OutOfOrder] = {}
    left_out: dict[str, str] = {}
    for name, path, leaf in named_outputs(tape.outputs):
        if not isinstance(leaf, Tensor):
            left_out[name] = f"it is not a tensor but {type(leaf).__name__}"
            continue
        found = _level(fields.field(Ref(id(leaf), tuple(leaf.shape))), tuple(leaf.shape), path, image_hw)
        if isinstance(found, Level):
            levels[name] = found
        elif isinstance(found, OutOfOrder):
            out_of_order[name] = found
        else:
            left_out[name] = found
    return Structure(levels, out_of_order, left_out, tuple(steps.steps), work_per_pixel(tape))


def _level(
    field: Field | None, shape: tuple[int, ...], path: Path, image_hw: tuple[int, int]
) -> Level | OutOfOrder | str:
    """The map in an output, or why it is none."""
    if field is None:
        return "it does not depend on the image"
    if not 3 <= len(shape) <= 4:
        return f"it has shape {_shown(shape)}: no rows and columns"
    if field.unknown:
        if len(shape) == 4:
            return Level(Layout(path, "NCHW", (shape[2], shape[3]), shape[1]), field.unknown)
        return f"its tokens have no known order: {field.unknown}"
    try:
        y, x = one_term(field, 0), one_term(field, 1)
    except UnsupportedError as reason:
        return str(reason)
    dim_y, dim_x = _dims(y, x, shape)
    if len(shape) == 4 and (found := _out_of_order(field, shape, path, image_hw, (dim_y, dim_x))):
        return found
    if dim_y is None or dim_x is None:
        return f"its cells of shape {_shown(shape)} have no position: the whole image was mixed"
    if dim_y == dim_x:
        return _token_level(field, shape, path, image_hw, dim_y)
    flat = _over_others(field, dim_y, dim_x)
    y, x = one_term(flat, 0), one_term(flat, 1)
    rows = _positions(y, dim_y, dim_x), _positions(x, dim_y, dim_x)
    along_y = fit(_line(rows[0], 1), y.steps[dim_y], y.stride)
    along_x = fit(_line(rows[1], 2), x.steps[dim_x], x.stride)
    return _fitted(_layout(path, shape, dim_y, dim_x), along_y, along_x, rows, image_hw)


def _layout(path: Path, shape: tuple[int, ...], dim_y: int, dim_x: int) -> Layout:
    others = [d for d in range(1, len(shape)) if d not in (dim_y, dim_x)]
    letters = {0: "N", dim_y: "H", dim_x: "W", **dict.fromkeys(others, "C")}
    kind = "".join(letters[d] for d in range(len(shape)))
    return Layout(path, kind, (shape[dim_y], shape[dim_x]), shape[others[0]] if others else 1)


def _over_others(field: Field, dim_y: int, dim_x: int) -> Field:
    """The field of each cell, over all channels."""
    return reduced(field, [d for d in range(len(field.shape)) if d not in (dim_y, dim_x)], keepdim=True)


def _positions(term: Term, dim_y: int, dim_x: int) -> Tensor:
    """[ROWS, H, W] of a term that is the same in all other dimensions; H or W is 1 where nothing changes along it."""
    order = [0, dim_y + 1, dim_x + 1, *[d + 1 for d in range(len(term.steps)) if d not in (dim_y, dim_x)]]
    return term.values.permute(order).flatten(3)[..., 0]


def _out_of_order(
    field: Field, shape: tuple[int, ...], path: Path, image_hw: tuple[int, int], dims: tuple[int | None, int | None]
) -> OutOfOrder | None:
    """The map [N, C, H, W] or [N, H, W, C] in an output, if its cells are not in the order of the image."""
    both = sorted({d for d in dims if d is not None})
    both = both if len(both) == 2 else _spread(field)
    if len(both) != 2:
        return None
    dim_y, dim_x = both
    flat = _over_others(field, dim_y, dim_x)
    terms = one_term(flat, 0), one_term(flat, 1)
    strides = terms[0].stride, terms[1].stride
    y, x = (_positions(term, dim_y, dim_x) for term in terms)
    wrong = disorder(y, x, strides, image_hw)
    if wrong is None:
        return None
    layout = _layout(path, shape, dim_y, dim_x)
    if wrong.index is None:
        return OutOfOrder(layout, wrong, None)
    cells = [rows.expand(ROWS, *layout.size_hw).flatten(1) for rows in (y, x)]
    in_order = _gridded(replace(layout, size_hw=wrong.size_hw), terms, cells, wrong.index, image_hw)
    return OutOfOrder(layout, wrong, in_order if isinstance(in_order, Level) else None)


def _spread(field: Field) -> list[int]:
    """The dimensions that places change along, where no axis lies along one of them alone."""
    return [
        d
        for d in range(1, len(field.shape))
        if any(term.steps[d] and term.values.shape[d + 1] > 1 for axis in field.axes for term in axis)
    ]


def _fitted(
    layout: Layout,
    y: AxisStructure | str,
    x: AxisStructure | str,
    rows: tuple[Tensor, Tensor],
    image_hw: tuple[int, int],
) -> Level | str:
    if isinstance(y, str) or isinstance(x, str):
        return y if isinstance(y, str) else str(x)
    return Level(layout, None, y, x, rows, image_hw)


def _shown(shape: tuple[int, ...]) -> str:
    return f"[N, {', '.join(map(str, shape[1:]))}]"


def _line(rows: Tensor, dim: int) -> Tensor:
    """The positions along `dim` of [ROWS, H, W], in the middle of the other dimension."""
    other = 3 - dim
    line = rows.select(other, rows.shape[other] // 2)
    return torch.cat([line[:4], rows[4:5].amin(other), rows[5:6].amax(other), line[6:]])


def _dims(y: Term, x: Term, shape: tuple[int, ...]) -> tuple[int | None, int | None]:
    """The dimensions that rows and columns lie along; a map of one row has them by elimination."""
    found: list[int | None] = []
    for term in (y, x):
        dims = [d for d in range(1, len(shape)) if term.steps[d] and not _is_lost(term)]
        found.append(max(dims, key=functools.partial(_span, term, shape), default=None))
    dim_y, dim_x = found
    if len(shape) == 4 and not _is_lost(y) and not _is_lost(x):
        if dim_y is None and dim_x is not None and dim_x > 1 and shape[dim_x - 1] == 1:
            dim_y = dim_x - 1
        if dim_x is None and dim_y is not None and dim_y < 3 and shape[dim_y + 1] == 1:
            dim_x = dim_y + 1
    return dim_y, dim_x


def _span(term: Term, shape: tuple[int, ...], dim: int) -> float:
    """Pixels that a dimension covers; cells in channels (pixel unshuffle) cover little."""
    step = abs(term.steps[dim])
    return shape[dim] * (_EPSILON if math.isnan(step) else step)


def _is_lost(term: Term) -> bool:
    return not bool(term.values[CENTRE].isfinite().any())


def _token_level(field: Field, shape: tuple[int, ...], path: Path, image_hw: tuple[int, int], dim: int) -> Level | str:
    """Rows and columns in one dimension, after tokens without a place."""
    flat = reduced(field, [d for d in range(len(shape)) if d != dim], keepdim=False)
    count = shape[dim]
    y, x = one_term(flat, 0), one_term(flat, 1)
    rows_y, rows_x = y.values.expand(ROWS, count), x.values.expand(ROWS, count)
    if len(shape) != 3:
        return f"it has shape {_shown(shape)}: rows and columns in one dimension, and two more"
    placed = rows_y[CENTRE].isfinite() & rows_x[CENTRE].isfinite() & rows_y[SIZE].isfinite()
    prefix = int(placed.long().argmax())
    if not placed[prefix:].all():
        return "it has tokens without a position after those with one"
    tops, lefts = (rows[CENTRE, prefix:].round(decimals=4) for rows in (rows_y, rows_x))
    height, width = len(tops.unique()), len(lefts.unique())
    if height * width != count - prefix:
        return f"its {count - prefix} tokens are not a grid of rows and columns"
    order = raster(tops, lefts)
    layout = Layout(
        path,
        "tokens",
        (height, width),
        shape[3 - dim],
        prefix,
        dim,
        None if _is_sorted(order) else tuple(order.tolist()),
    )
    return _gridded(layout, (y, x), [rows_y[:, prefix:], rows_x[:, prefix:]], order, image_hw)


def _gridded(
    layout: Layout, terms: tuple[Term, Term], cells: Sequence[Tensor], order: Tensor, image_hw: tuple[int, int]
) -> Level | str:
    """The map of cells in one dimension, [ROWS, cells] each for y and x, once they are put in `order`."""
    y, x = (rows[:, order].unflatten(1, layout.size_hw) for rows in cells)
    along_y = fit(_line(y, 1), _spacing(y[CENTRE, :, 0]), terms[0].stride)
    along_x = fit(_line(x, 2), _spacing(x[CENTRE, 0]), terms[1].stride)
    return _fitted(layout, along_y, along_x, (y, x), image_hw)


def _is_sorted(order: Tensor) -> bool:
    return bool((order.diff() > 0).all())


def _spacing(centres: Tensor) -> float:
    return float(centres.diff().mean()) if len(centres) > 1 else math.nan
