"""Operators on maps that no installed peer has on the CPU, against the reference and against roi_align's own time.

The reference is verified and timed on workloads of fewer boxes and channels. On the whole ones roi_align pools the same
boxes, turned ones upright: by roialign and by torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import torch
import torchvision
from torch import Tensor

import roialign
from benchmarks.implementations import FORWARD, ONNXRUNTIME, ROIALIGN, onnxruntime_forward
from benchmarks.workloads import LAYOUTS, WORKLOADS, Level, Setting

from .comparison import REFERENCE, Comparison, Pool, by_reference
from .served import reference

_OURS, _THEIRS = "roialign.roi_align", "torchvision.roi_align"
_RATIO = 2
_FINE, _COARSE, _, _FEW = WORKLOADS


def roi_align_max(quick: bool) -> Iterator[Comparison]:
    """The largest sample of each bin; and ONNX's maximum, which onnxruntime has too, without a gradient."""

    def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
        size, scale, ratio = setting.workload.output_size, level.spatial_scale, setting.sampling_ratio
        options = (scale, ratio, False, False)
        return (
            lambda features: roialign.roi_align(features, level.rois, size, scale, ratio, mode="max"),
            by_reference(
                lambda features: reference.roi_align_max(features, level.rois, size, size, *options)[0],
                lambda grad, features: reference.roi_align_max_backward(grad, features, level.rois, *options),
            ),
        )

    yield from _compare(pools, quick, aligned=False)
    setting = Setting(_FINE.shrunk() if quick else _FINE, _RATIO)
    (level,) = setting.levels()
    options = (setting.workload.output_size, level.spatial_scale, _RATIO)
    session = cache(lambda threads: onnxruntime_forward([level], setting, threads, "max"))
    onnx: dict[str, Pool] = {
        ROIALIGN: lambda features: roialign.roi_align(features, level.rois, *options, mode="max", compat="onnx-10"),
        ONNXRUNTIME: lambda _: session(torch.get_num_threads())()[0],
    }
    yield _comparison(setting, level, onnx, (ONNXRUNTIME,), 'compat="onnx-10"', (FORWARD,))


def roi_align_rotated(quick: bool) -> Iterator[Comparison]:
    """The boxes, turned by -90 to 90 degrees about their centres."""

    def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
        images, x1, y1, x2, y2 = level.rois.unbind(1)
        degrees = torch.rand(len(images), generator=torch.Generator().manual_seed(5)) * 180 - 90
        rois = torch.stack([images, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, degrees], dim=1)
        size, scale, ratio = setting.workload.output_size, level.spatial_scale, setting.sampling_ratio
        options = (scale, ratio, True, False, False)
        sides = level.features.shape[2:]
        return (
            lambda features: roialign.roi_align_rotated(features, rois, size, scale, ratio),
            by_reference(
                lambda features: reference.roi_align_rotated(features, rois, size, size, *options)[0],
                lambda grad, _: reference.roi_align_rotated_backward(grad, rois, 1, *sides, *options),
            ),
        )

    return _compare(pools, quick, aligned=True)


def masked_roi_align(quick: bool) -> Iterator[Comparison]:
    """The boxes, each under a disc of 28 x 28."""
    centres = torch.linspace(-1, 1, 28)

    def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
        disc = (centres[:, None] ** 2 + centres**2 < 1).expand(len(level.rois), 28, 28)
        size, scale, ratio = setting.workload.output_size, level.spatial_scale, setting.sampling_ratio
        boxes, options = (level.rois, disc), (scale, ratio, True, False)
        sides = level.features.shape[2:]
        return (
            lambda features: roialign.masked_roi_align(features, *boxes, size, scale, ratio, masks_in="box"),
            by_reference(
                lambda features: reference.masked_roi_align(features, *boxes, size, size, *options)[0],
                lambda grad, _: reference.masked_roi_align_backward(grad, *boxes, 1, *sides, *options),
            ),
        )

    return _compare(pools, quick, aligned=True)


def prroi_pool(quick: bool) -> Iterator[Comparison]:
    """Held against roi_align with adaptive sampling, which reads about the same cells."""

    def pools(level: Level, setting: Setting) -> tuple[Pool, Pool]:
        size, scale, sides = setting.workload.output_size, level.spatial_scale, level.features.shape[2:]
        return (
            lambda features: roialign.prroi_pool(features, level.rois, size, scale),
            by_reference(
                lambda features: reference.prroi_pool(features, level.rois, size, size, scale)[0],
                lambda grad, _: reference.prroi_pool_backward(grad, level.rois, 1, *sides, scale),
            ),
        )

    return _compare(pools, quick, aligned=False, ratio=0)


def _compare(
    pools: Callable[[Level, Setting], tuple[Pool, Pool]], quick: bool, *, aligned: bool, ratio: int = _RATIO
) -> Iterator[Comparison]:
    """Small workloads against the reference, then whole ones against roi_align."""
    for workload in (_FINE, _COARSE, _FEW):
        small = Setting(workload.shrunk(), ratio)
        (level,) = small.levels()
        ours, by_definition = pools(level, small)
        yield _comparison(small, level, {ROIALIGN: ours, REFERENCE: by_definition}, (REFERENCE,), small.options)
        for layout in () if quick else LAYOUTS:
            whole = Setting(workload, ratio, layout=layout)
            (level,) = whole.levels()
            upright = {
                _OURS: _roi_align(roialign.roi_align, level, whole, aligned),
                _THEIRS: _roi_align(torchvision.ops.roi_align, level, whole, aligned),
            }
            yield _comparison(whole, level, {ROIALIGN: pools(level, whole)[0]} | upright, (), whole.options)


def _roi_align(function: Callable[..., Tensor], level: Level, setting: Setting, aligned: bool) -> Pool:
    options = (setting.workload.output_size, level.spatial_scale, setting.sampling_ratio, aligned)
    return lambda features: function(features, level.rois, *options)


def _comparison(
    setting: Setting,
    level: Level,
    pools: dict[str, Pool],
    alike: tuple[str, ...],
    options: str,
    *passes: tuple[str, ...],
) -> Comparison:
    name = f"{setting.workload.name}, shrunk" if REFERENCE in pools else setting.workload.name
    return Comparison(
        name, setting.workload.description, options, setting.layout, level.features, pools, alike, *passes
    )
