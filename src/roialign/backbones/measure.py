"""Where cells lie, measured: the centroid and the extent of a cell's gradient with respect to the image."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from roialign.backbones.layout import Layout
from roialign.backbones.measure_ops import CannotMeasureError, PositiveMode

_SHORT = 64  # px across the axis that is measured
_LONG = (512, 1024, 2048)  # px along it: tried in turn until what the middle cells see fits
_MOST_CELLS = 8192  # of all levels, where only the real size can be taken: a gradient goes back through all of them
_MOST_WORK = 1e9  # numbers along each axis: about two seconds of one processor
_GRADIENT = 0.2  # of the work of a run, for the gradient of a cell
_MODULI = (64, 448, 960)  # multiples of the usual strides: 2 to 64, then 7 and 14, then 10, 12, 15, 20


class _TooMuchWorkError(CannotMeasureError):
    """The next run, or the next gradient, would take too long."""


@dataclass(frozen=True)
class Measured:
    """What the gradients of a level's middle cells show.

    Convention: (y, x) and (height, width) in pixels of the image, whose pixel (0, 0) covers [0, 1) x [0, 1).

    Args:
        stride_yx: distance between the centroids of neighbouring cells.
        offset_yx: centroid of cell (0, 0). Where branches of different centres meet, it is their weighted mean.
        extent_hw: pixels that one cell sees; None if the module mixes over the whole image somewhere.
    """

    stride_yx: tuple[float, float]
    offset_yx: tuple[float, float]
    extent_hw: tuple[int, int] | None


def measure(
    backbone: nn.Module, image_hw: tuple[int, int], channels: int, levels: Mapping[str, Layout], work: float = 0.0
) -> dict[str, Measured | str]:
    """Measure stride, offset and receptive field of each level by real gradients of the real module.

    Convention: (height, width) and (y, x) in pixels of the image that enters the backbone.

    The module runs in eval mode on non-square images of ones whose sides leave the same remainder modulo the strides as
    `image_hw`, so that padding that depends on the size stays as it is; where it takes one size only, on that size.
    Torch functions are made positive and uniform, so that gradients show positions only: see `measure_ops`. Mixing over
    the whole image (gates, attention) is left out, for it moves no grid. Cells in the middle are taken, and the image
    is enlarged until they do not see its border.

    The module's mode, parameters, buffers and gradients, and the random state are as before afterwards. Its hooks
    run. Deterministic.

    Args:
        backbone: maps an image [1, C, H, W] to (nested) maps.
        image_hw: image size that the levels were found at.
        channels: channels of the image.
        levels: how to find each map in the outputs.
        work: numbers that a run computes for each pixel (`work_per_pixel`). Along each axis at most 1e9 numbers are
            computed, which is counted, not timed, so that the result is that of every machine.

    Returns:
        For each level what was measured, or why it could not be.

    Source: Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019, for the terms;
    Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks", 2016, for the
    gradient of a middle cell.

    Example:
        >>> backbone = nn.Conv2d(3, 8, kernel_size=4, stride=4)
        >>> measure(backbone, (64, 96), 3, {"0": Layout((), "NCHW", (16, 24), 8)})["0"]
        Measured(stride_yx=(4.0, 4.0), offset_yx=(2.0, 2.0), extent_hw=(4, 4))
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in backbone.modules()):
        return dict.fromkeys(levels, "the module is a TorchScript module, whose operations cannot be replaced")
    device = next((tensor.device for tensor in backbone.parameters()), torch.device("cpu"))
    if device.type == "meta":
        return dict.fromkeys(levels, "the module has no real parameters: it is on the meta device")
    with undisturbed(backbone, device):
        probes = [_Probe(backbone, image_hw, channels, levels, device, work) for _ in range(2)]
        by_axis = [_measure_axis(probe, axis) for axis, probe in enumerate(probes)]
    return {name: _joined(by_axis[0][name], by_axis[1][name]) for name in levels}


@dataclass(frozen=True)
class _Axis:
    stride: float
    offset: float
    extent: int | None


def _joined(y: _Axis | str, x: _Axis | str) -> Measured | str:
    if isinstance(y, str):
        return y
    if isinstance(x, str):
        return x
    extent = None if y.extent is None or x.extent is None else (y.extent, x.extent)
    return Measured((y.stride, x.stride), (y.offset, x.offset), extent)


@dataclass
class _Run:
    """One pass of the module over an image of ones."""

    image: Tensor
    maps: dict[str, Tensor]
    mixed: bool
    spend: Callable[[float], None]

    def seen(self, name: str, axis: int, first: int, cells: int = 1) -> _Seen | str:
        """Centroid and extent of the gradient of cells in a row along the axis, or why there is none."""
        self.spend(_GRADIENT)
        across = 3 - axis
        middle = self.maps[name].shape[across] // 2
        total = self.maps[name].narrow(2 + axis, first, cells).select(across, middle).sum()
        (gradient,) = (
            torch.autograd.grad(total, self.image, retain_graph=True, allow_unused=True)
            if total.requires_grad
            else (None,)
        )
        weights = self.image.new_zeros(1) if gradient is None else gradient.abs().sum((0, 1, across))
        pixels = weights.nonzero().flatten()
        if len(pixels) == 0:
            return "no gradient reaches the image from it"
        low, high = int(pixels[0]), int(pixels[-1])
        if low == 0 or high == len(weights) - 1:
            return (
                f"its cells see the border of every image tried, up to {len(weights)} px: their receptive field is "
                "larger, or the whole image is mixed"
            )
        centres = torch.arange(len(weights), dtype=weights.dtype, device=weights.device) + 0.5
        return _Seen(float((weights * centres).sum() / weights.sum()), high - low + 1)


@dataclass(frozen=True)
class _Seen:
    centroid: float
    extent: int


@dataclass
class _Probe:
    backbone: nn.Module
    image_hw: tuple[int, int]
    channels: int
    levels: Mapping[str, Layout]
    device: torch.device
    work: float
    spent: float = 0.0

    def run(self, size_hw: tuple[int, int]) -> _Run:
        """The module's maps at a size; raises what the module raises where it does not take it."""
        self._spend(size_hw, 1.0)
        image = torch.ones(1, self.channels, *size_hw, dtype=torch.float64, device=self.device, requires_grad=True)
        with PositiveMode() as mode:
            outputs = self.backbone(image * 1.0)  # not a leaf: modules may write into it
        maps = {name: self._map(layout, layout.pick(outputs), size_hw) for name, layout in self.levels.items()}
        return _Run(image, maps, mode.mixed, functools.partial(self._spend, size_hw))

    def _spend(self, size_hw: tuple[int, int], share: float) -> None:
        """Count the work of a run or of a share of one before it is done."""
        self.spent += share * self.work * size_hw[0] * size_hw[1]
        if self.spent > _MOST_WORK:
            raise _TooMuchWorkError(
                f"it takes too long: with an image of {size_hw[0]} x {size_hw[1]} px more than {_MOST_WORK:.0e} "
                "numbers would be computed along an axis"
            )

    def _map(self, layout: Layout, output: Tensor, size_hw: tuple[int, int]) -> Tensor:
        if layout.kind != "tokens":
            return layout.as_map(output)
        rows = layout.size_hw[0] * size_hw[0] / self.image_hw[0]
        return layout.as_map(output, _nearest_grid(output.shape[layout.token_dim] - layout.prefix, rows))

    def runs(self, axis: int) -> Iterator[tuple[_Run, dict[str, float], bool]]:
        """Ever longer runs, or one at the real size; each level's stride by sizes alone; whether that is exact."""
        for modulus in _MODULI:
            try:
                run = self.run(self._narrow(axis, _LONG[0], modulus))
            except CannotMeasureError:
                raise
            except Exception:  # whatever a module says to a size that it does not take
                continue
            strides = self._strides(run, axis, modulus)
            if strides is not None:
                yield run, strides, True
                for length in _LONG[1:]:
                    yield self.run(self._narrow(axis, length, modulus)), strides, True
                return
        cells = sum(layout.size_hw[0] * layout.size_hw[1] for layout in self.levels.values())
        if cells > _MOST_CELLS:
            raise CannotMeasureError(
                f"it takes images of one size only, and {cells} cells are above the limit ({_MOST_CELLS})"
            )
        run = self.run(self.image_hw)
        yield run, {name: self.image_hw[axis] / run.maps[name].shape[2 + axis] for name in self.levels}, False

    def _narrow(self, axis: int, length: int, modulus: int) -> tuple[int, int]:
        """A non-square image size, equal to the real one modulo the strides, and of another length."""
        real, across = self.image_hw[axis], self.image_hw[1 - axis]
        long = length + (real - length) % modulus
        long += modulus if long == real else 0
        short = _SHORT + (across - _SHORT) % modulus
        return (long, short) if axis == 0 else (short, long)

    def _strides(self, run: _Run, axis: int, modulus: int) -> dict[str, float] | None:
        """Pixels more than at the real size for each cell more; None where these do not divide the modulus."""
        strides: dict[str, float] = {}
        for name, layout in self.levels.items():
            for side in (1 - axis, axis):
                size, cells = run.image.shape[2 + side], run.maps[name].shape[2 + side]
                more_pixels, more_cells = size - self.image_hw[side], cells - layout.size_hw[side]
                if more_pixels == 0 == more_cells:
                    strides[name] = size / cells
                elif more_pixels * more_cells > 0 and modulus * more_cells % more_pixels == 0:
                    strides[name] = more_pixels / more_cells
                else:
                    return None
        return strides


def _nearest_grid(tokens: int, height: float) -> tuple[int, int]:
    """Rows and columns of so many tokens, with as nearly so many rows as there can be."""
    rows = min((rows for rows in range(1, tokens + 1) if tokens % rows == 0), key=lambda rows: abs(rows - height))
    return rows, tokens // rows


def _measure_axis(probe: _Probe, axis: int) -> dict[str, _Axis | str]:
    results: dict[str, _Axis | str] = {}
    try:
        for run, strides, exact in probe.runs(axis):
            for name, stride in strides.items():
                if not isinstance(results.get(name), _Axis):
                    coarsest = max(strides.values())
                    found = _measure_level(run, name, axis, stride, round(coarsest / stride))
                    results[name] = next((r for r in found if isinstance(r, _Axis) and not exact), found[-1])
            if all(isinstance(result, _Axis) for result in results.values()):
                break
    except _TooMuchWorkError as reason:
        known = {name: result for name, result in results.items() if isinstance(result, _Axis)}
        return {**dict.fromkeys(probe.levels, str(reason)), **known}
    except CannotMeasureError as reason:
        return dict.fromkeys(probe.levels, str(reason))
    except Exception as error:  # the module's own
        failure = f"the module raised {type(error).__name__} when run on an image of ones: {error}"
        return {**dict.fromkeys(probe.levels, failure), **results}
    return results


def _measure_level(run: _Run, name: str, axis: int, stride: float, period: int) -> list[_Axis | str]:
    """Measured over a period of the coarsest level, then longer if cells do not repeat within it as they should."""
    cells = run.maps[name].shape[2 + axis]
    if cells < 2:
        return [f"it has {cells} cell along {'yx'[axis]}, which shows no stride"]
    found: list[_Axis | str] = []
    for length in (period, max(2 * period, round(_SHORT / stride))):
        result = _measure_over(run, name, axis, min(length, cells - 1))
        found.append(result)
        if isinstance(result, _Axis) and abs(result.stride - stride) < 1e-6 * stride:
            break
    return found


def _measure_over(run: _Run, name: str, axis: int, period: int) -> _Axis | str:
    """From a cell in the middle, its neighbour, and the cell one period on: upsampled maps repeat only so."""
    first = (run.maps[name].shape[2 + axis] - 1 - period) // 2
    seen = {cell: run.seen(name, axis, cell) for cell in sorted({first, first + 1, first + period})}
    found = {cell: value for cell, value in seen.items() if isinstance(value, _Seen)}
    if len(found) < len(seen):
        return next(value for value in seen.values() if isinstance(value, str))
    stride = (found[first + period].centroid - found[first].centroid) / period
    if stride <= 0:
        return "its cells all see the same part of the image"
    offset = found[first].centroid - stride * first
    if abs(found[first + 1].centroid - found[first].centroid - stride) > 1e-6 * stride:
        mean = run.seen(name, axis, first, period)
        if isinstance(mean, str):
            return mean
        offset = mean.centroid - stride * (first + (period - 1) / 2)
    extent = None if run.mixed else max(value.extent for value in found.values())
    return _Axis(round(stride, 6), round(offset, 6), extent)


@contextmanager
def undisturbed(backbone: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode, gradients to the image only, uncompiled; all as it was afterwards."""
    modes = [(module, module.training) for module in backbone.modules()]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in backbone.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    threads = torch.get_num_threads()
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    layers = [module for module in backbone.modules() if isinstance(module, nn.RNNBase)]
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.set_num_threads(1)  # each operation is too small to share, and shares badly on a busy machine
            backbone.eval()
            for layer in layers:  # it refuses images of another type than its weights, which are not used
                layer.__dict__["check_forward_args"] = lambda *args: None
            for parameter in trained:
                parameter.requires_grad_(False)
            yield
        finally:
            torch.set_num_threads(threads)
            for layer in layers:
                layer.__dict__.pop("check_forward_args", None)
            for parameter in trained:
                parameter.requires_grad_(True)
            for module, was_training in modes:
                module.training = was_training
            for module, name, buffer, version, value in buffers:
                module._buffers[name] = buffer
                if buffer._version != version:
                    buffer.copy_(value)
