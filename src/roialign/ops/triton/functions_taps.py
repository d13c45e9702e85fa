"""The work of the operators of which bins have taps, and of `roi_pool`, as functions of tensors.

As `functions.py`: they allocate and launch, wait for nothing, and check nothing. Maps are volumes of one plane.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.ops.triton.functions import pool_blocks
from roialign.ops.triton.kernels import correlate_taps, largest, pool_taps, scatter_taps
from roialign.ops.triton.launch import (
    INTEGER_LIMIT,
    Launcher,
    blocks_of,
    form_of_numbers,
    form_of_strided,
    form_of_tensors,
    index_type,
    on_device_of,
    power_of_two,
)
from roialign.ops.triton.lists import list_spans, spans_for
from roialign.ops.triton.maps import bits_of, is_wide

SCATTERED_CHANNELS, SCATTERED_COLUMNS, SCATTERED_MAXIMA = 16, 8, 8
SPANNED_BOXES, SPANNED_MAXIMA = 128, 1024

_pool = Launcher(pool_taps.pool_taps_kernel, num_warps=4)
_correlate = Launcher(correlate_taps.correlate_taps_kernel, num_warps=4)
_scatter = Launcher(scatter_taps.scatter_taps_kernel, num_warps=2)
_span_taps = Launcher(scatter_taps.span_taps_kernel, num_warps=4)
_largest = Launcher(largest.largest_kernel, num_warps=4)
_span_maxima = Launcher(largest.span_maxima_kernel, num_warps=4)
_scatter_maxima = Launcher(largest.scatter_maxima_kernel, num_warps=4)


class TapRule(NamedTuple):
    """What bins are made of, as kernels/taps.py takes it."""

    take: str
    """"samples", "integral" or "cells"."""
    scales: tuple[float, ...]
    """Scale and shift along x, y and, of boxes of volumes, z: cell = coordinate * scale - shift."""
    ratio: int = 0
    widen: bool = False
    left_out: int = 0
    """The last rows and columns that no bin reads."""
    own: bool = False
    """Whether each bin reads channels of its own."""
    nan_if_empty: bool = False

    @property
    def axes(self) -> int:
        return len(self.scales) // 2


def pool(features: Tensor, rois: Tensor, rule: TapRule, bins: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Features [K, C, *bins] and coverage [K]; NaN for boxes that cannot be used."""
    rois, volume = rois.contiguous(), _as_volume(features)
    images, channels, *size = volume.shape
    if rule.own:
        channels //= prod(bins)
    output = features.new_empty((rois.shape[0], channels, *bins))
    coverage = rois.new_empty(rois.shape[0])
    channels_last = volume.stride(1) == 1
    block_c, block_bins, blocks = pool_blocks(channels, prod(bins), channels_last, rois.dtype)
    scales, of_rule = _scales(rois, rule)
    constants = (*_bins_of_volume(bins), rule.axes, rule.take, rule.ratio, rule.widen, rule.left_out, rule.own)
    constants = (*constants, rule.nan_if_empty, index_type(is_wide(volume.shape, volume.stride())), channels_last)
    constants = (*constants, block_c, block_bins, power_of_two(max(bins)))
    form = (constants, of_rule, form_of_strided(volume), form_of_numbers((channels,)))
    with on_device_of(rois):
        _pool(
            *(len(rois) * blocks, form, output, coverage, rois, scales, volume, volume.stride()),
            *(images, channels, *size, *constants),
        )
    return output, coverage


def scatter(grad: Tensor, rois: Tensor, rule: TapRule, size: tuple[int, ...]) -> Tensor:
    """Gradient [N, C, *cells] to the features, for `grad` [K, C, *bins]; `size` is N and the cells."""
    images, *cells = size
    bins, boxes = grad.shape[2:], rois.shape[0]
    channels = grad.shape[1] * (prod(bins) if rule.own else 1)
    grad_features = grad.new_empty((images, channels, *cells))
    if boxes == 0 or grad_features.numel() == 0:
        return grad_features.zero_()
    rois, of_volume = rois.contiguous(), _as_volume(grad)
    depth, height, width = (1, *cells)[-3:]
    scales, of_rule = _scales(rois, rule)
    options = (*_bins_of_volume(bins), rule.axes, rule.take, rule.ratio, rule.widen, rule.left_out)
    block_c = min(power_of_two(channels), SCATTERED_CHANNELS * 4 // rois.element_size())
    constants = (*options, rule.own, index_type(channels * prod(cells) >= INTEGER_LIMIT), block_c)
    constants = (*constants, min(power_of_two(bins[-1]), SCATTERED_COLUMNS))
    with on_device_of(rois):
        spans_of_boxes = spans_for(rois)
        _span_taps(
            *(blocks_of(boxes, SPANNED_BOXES), (options, of_rule), spans_of_boxes, rois, scales),
            *(boxes, images, depth, height, width, *options, SPANNED_BOXES),
        )
        tiles = list_spans(spans_of_boxes, images * depth, height, width)
        _scatter(
            *(tiles.number * blocks_of(channels, block_c), (constants, of_rule, form_of_strided(of_volume))),
            *(grad_features, of_volume, of_volume.stride(), rois, scales, tiles.listed, tiles.counts),
            *(boxes, images, channels, depth, height, width, tiles.room, *constants),
        )
    return grad_features


def correlate(grad: Tensor, features: Tensor, rois: Tensor, rule: TapRule) -> Tensor:
    """Gradient of the shape of `rois`, for `grad` [K, C, *bins]; the batch index gets none."""
    rois, volume, of_volume = rois.contiguous(), _as_volume(features), _as_volume(grad)
    images, _, *size = volume.shape
    channels, bins = grad.shape[1], grad.shape[2:]
    grad_rois = torch.empty_like(rois)
    channels_last = volume.stride(1) == 1
    block_c, block_bins, _ = pool_blocks(channels, prod(bins), channels_last, rois.dtype)
    scales, of_rule = _scales(rois, rule)
    constants = (*_bins_of_volume(bins), rule.axes, rule.take, rule.ratio, rule.widen, rule.own)
    constants = (*constants, index_type(is_wide(volume.shape, volume.stride())), channels_last, block_c, block_bins)
    form = (constants, of_rule, form_of_strided(volume), form_of_strided(of_volume), form_of_numbers((channels,)))
    with on_device_of(rois):
        _correlate(
            *(rois.shape[0], form, grad_rois, of_volume, of_volume.stride(), rois, scales, volume, volume.stride()),
            *(images, channels, *size, *constants),
        )
    return grad_rois


def pool_largest(
    features: Tensor, rois: Tensor, bins: tuple[int, int], scale: float, legacy: bool, with_maxima: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Features [K, C, *bins], coverage [K] and the cells of the largest values, none where they are not asked for."""
    rois = rois.contiguous()
    images, channels, height, width = features.shape
    output = features.new_empty((rois.shape[0], channels, *bins))
    coverage = rois.new_empty(rois.shape[0])
    maxima = features.new_empty((rois.shape[0] if with_maxima else 0, channels, *bins), dtype=torch.int32)
    channels_last = features.stride(1) == 1
    block_c, block_bins, blocks = pool_blocks(channels, prod(bins), channels_last, rois.dtype)
    scales, of_rule = _scales(rois, TapRule("cells", (scale, 0.0) * 2))
    wide = is_wide(features.shape, features.stride()) or height * width >= INTEGER_LIMIT
    constants = (*bins, legacy, with_maxima, index_type(wide), channels_last, block_c, block_bins)
    form = (constants, of_rule, form_of_strided(features), form_of_numbers((channels,)))
    with on_device_of(rois):
        _largest(
            *(len(rois) * blocks, form, output, coverage, maxima, rois, scales, features, features.stride()),
            *(images, channels, height, width, *constants),
        )
    return output, coverage, maxima


def scatter_largest(grad: Tensor, maxima: Tensor, rois: Tensor, size: tuple[int, int, int]) -> Tensor:
    """Gradient [N, C, height, width] to the features, for `grad` [K, C, *bins]; `size` is N, height and width."""
    images, height, width = size
    (boxes, channels), bins = grad.shape[:2], grad.shape[2:]
    grad_features = grad.new_empty((images, channels, height, width))
    if boxes == 0 or grad_features.numel() == 0:
        return grad_features.zero_()
    rois, maxima = rois.contiguous(), maxima.contiguous()
    block_c = min(power_of_two(channels), SCATTERED_CHANNELS * 4 // rois.element_size())
    constants = (*bins, index_type(channels * height * width >= INTEGER_LIMIT), block_c)
    constants = (*constants, min(power_of_two(prod(bins)), SCATTERED_MAXIMA))
    of_boxes = (rois.get_device(), form_of_tensors(rois, maxima))
    with on_device_of(rois):
        spans_of_boxes = spans_for(rois)
        _span_maxima(
            *(boxes, of_boxes, spans_of_boxes, rois, maxima),
            *(boxes, images, channels * prod(bins), height, width, SPANNED_MAXIMA),
        )
        tiles = list_spans(spans_of_boxes, images, height, width)
        _scatter_maxima(
            *(tiles.number * blocks_of(channels, block_c), (constants, of_boxes, form_of_strided(grad))),
            *(grad_features, grad, grad.stride(), rois, maxima, tiles.listed, tiles.counts),
            *(boxes, images, channels, height, width, tiles.room, *constants),
        )
    return grad_features


def _scales(rois: Tensor, rule: TapRule) -> tuple[tuple[int, ...], tuple[Any, ...]]:
    """Scales and shifts as the kernels take them, and what Triton compiles for of them and of the boxes."""
    bits, form = bits_of(rule.scales)
    return bits, (form, rois.get_device(), form_of_tensors(rois))


def _as_volume(features: Tensor) -> Tensor:
    return features if features.dim() == 5 else features[:, :, None]


def _bins_of_volume(bins: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *bins)[-3:]
