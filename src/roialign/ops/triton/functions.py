"""The operators' work as functions of tensors: they allocate and launch, wait for nothing, and check nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.ops.triton.kernels import backward, backward_boxes, forward, layout, tiles
from roialign.ops.triton.launch import (
    INTEGER_LIMIT,
    Launcher,
    blocks_of,
    form_of_numbers,
    form_of_tensors,
    index_type,
    on_device_of,
    power_of_two,
)
from roialign.ops.triton.maps import TILE, Layout, cells_of, form_of_maps, layout_of, tiles_of_image, uniform

POOLED_VALUES, POOLED_BINS, POOLED_BINS_OF_PLANES = 1024, 8, 64  # of one program
CORRELATED_VALUES = 1024
COPIED_CHANNELS, COPIED_CELLS = 64, 64
COPY_PAYS = 11  # where an output has at least one value for so many of the maps
COPIED_BYTES = 1 << 30
SCATTERED_CHANNELS, SCATTERED_BINS = 64, 16
TILES_OF_LIST, BOXES_OF_LIST = 4, 512
LISTED_BOXES = 1 << 23  # of all tiles together: 32 MB
SPLIT_VALUES = 1 << 23  # 32 MB in float32
ENOUGH_PROGRAMS = 512  # to keep a GPU busy

_pool = Launcher(forward.pool_kernel, num_warps=4)
_pool_halves = Launcher(forward.pool_kernel, num_warps=2)
_correlate = Launcher(backward_boxes.correlate_kernel, num_warps=4)
_to_channels_last = Launcher(layout.to_channels_last_kernel, num_warps=4)
_list_boxes = Launcher(tiles.list_boxes_kernel, num_warps=4)
_scatter = Launcher(backward.scatter_kernel, num_warps=2)
_add_splits = Launcher(backward.add_splits_kernel, num_warps=4)


class Rule(NamedTuple):
    """How boxes are read. `levels` is None where there is one map; `cells` has four numbers for each."""

    levels: Tensor | None
    cells: tuple[float, ...]
    sampling_ratio: int
    widen: bool


def pool(inputs: Sequence[Tensor], rois: Tensor, rule: Rule, pooled_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    images, channels = inputs[0].shape[:2]
    rois = rois.contiguous()
    output = inputs[0].new_empty((rois.shape[0], channels, *pooled_hw))
    coverage = rois.new_empty(rois.shape[0])
    with on_device_of(rois):
        maps, where = _readable(inputs, output)
        block_c, block_bins, blocks = _pool_blocks(channels, prod(pooled_hw), where.channels_last, rois.dtype)
        constants = (*pooled_hw, max(rule.sampling_ratio, 0), rule.widen, index_type(where.is_wide))
        constants = (*constants, where.channels_last, block_c, block_bins, *map(power_of_two, pooled_hw))
        cells, of_rule = _boxes(rois, rule)
        form = (constants, form_of_maps(maps, where), of_rule, form_of_numbers((channels,)))
        launch = _pool_halves if output.element_size() == 2 or not where.channels_last else _pool
        launch(
            *(rois.shape[0] * blocks, form, output, coverage, rois, rule.levels, tuple(maps), where.strides),
            *(where.heights, where.widths, cells, images, channels, *constants),
        )
    return output, coverage


def scatter(
    grad: Tensor, rois: Tensor, rule: Rule, images: int, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    """Gradients [N, C, H, W] to the features of each level, for `grad` [K, C, height, width]."""
    channels, boxes = grad.shape[1], rois.shape[0]
    grads = [grad.new_empty((images, channels, h, w)) for h, w in zip(heights, widths, strict=True)]
    if boxes == 0:
        return [one.zero_() for one in grads]
    if images * channels == 0:
        return grads
    rois = rois.contiguous()
    cells, of_rule = _boxes(rois, rule)
    maps = (uniform(heights), uniform(widths), cells)
    options = (*grad.shape[2:], max(rule.sampling_ratio, 0), rule.widen)
    of_images = tiles_of_image(heights, widths)
    first_tiles, count = _begins([images * one for one in of_images])
    first_programs, programs = _begins([images * blocks_of(one, TILES_OF_LIST) for one in of_images])
    room = max(1, min(boxes, LISTED_BOXES // count))
    listed = rois.new_empty(count * room, dtype=torch.int32)
    counts = rois.new_empty(count, dtype=torch.int32)
    block_c, block_bins, product = _scatter_blocks(grad, channels)
    blocks = blocks_of(channels, block_c)
    splits = _splits(count, channels, blocks, boxes)
    sums = rois.new_empty(splits * count * TILE * TILE * channels) if splits > 1 else rois
    index = index_type(any(channels * h * w >= INTEGER_LIMIT for h, w in zip(heights, widths, strict=True)))
    constants = (*options, index, splits > 1, block_c, block_bins, product)
    form = (constants, of_rule, form_of_tensors(*grads, grad), form_of_numbers((*grad.stride(), channels)))
    with on_device_of(rois):
        _list_boxes(
            *(programs, (options, of_rule, len(maps[0])), listed, counts, rois, rule.levels, boxes, images, *maps),
            *(first_programs, first_tiles, room, *options, TILES_OF_LIST, BOXES_OF_LIST),
        )
        _scatter(
            *(count * splits * blocks, form, sums, tuple(grads), grad, grad.stride(), rois, rule.levels),
            *(listed, counts, boxes, images, channels, *maps, first_tiles, count, room, splits, *constants),
        )
        if splits > 1:
            sizes = (*maps[:2], first_tiles, count, splits, index, block_c)
            _add_splits(count * blocks, form, tuple(grads), sums, channels, *sizes)
    return grads


def correlate(grad: Tensor, inputs: Sequence[Tensor], rois: Tensor, rule: Rule) -> Tensor:
    """Gradient [K, 5] to the boxes, for `grad` [K, C, height, width]; the image index gets none."""
    images, channels = inputs[0].shape[:2]
    rois = rois.contiguous()
    grad_rois = torch.empty_like(rois)
    pooled_hw = grad.shape[2:]
    with on_device_of(rois):
        maps, where = _readable(inputs, grad)
        block_bins = min(power_of_two(prod(pooled_hw)), 8 if where.channels_last else 64)
        block_c = min(power_of_two(channels), CORRELATED_VALUES // block_bins * 4 // rois.element_size())
        constants = (*pooled_hw, max(rule.sampling_ratio, 0), rule.widen, index_type(where.is_wide))
        constants = (*constants, where.channels_last, block_c, block_bins)
        cells, of_rule = _boxes(rois, rule)
        of_grad = (form_of_tensors(grad), form_of_numbers((*grad.stride(), channels)))
        form = (constants, form_of_maps(maps, where), of_rule, of_grad)
        _correlate(
            *(rois.shape[0], form, grad_rois, grad, grad.stride(), rois, rule.levels, tuple(maps), where.strides),
            *(where.heights, where.widths, cells, images, channels, *constants),
        )
    return grad_rois


def _readable(inputs: Sequence[Tensor], output: Tensor) -> tuple[Sequence[Tensor], Layout]:
    """The maps, or copies of them in channels_last where that pays for an output of this size."""
    where = layout_of(inputs)
    values = sum(one.numel() for one in inputs)
    pays = values <= COPY_PAYS * output.numel() and values * inputs[0].element_size() <= COPIED_BYTES
    if where.channels_last or not pays or not all(one.is_contiguous() for one in inputs):
        return inputs, where
    images, channels = inputs[0].shape[:2]
    copies = [torch.empty_like(one, memory_format=torch.channels_last) for one in inputs]
    cells = [blocks_of(one.shape[2] * one.shape[3], COPIED_CELLS) for one in inputs]
    blocks = blocks_of(channels, COPIED_CHANNELS)
    first_programs, programs = _begins([images * one * blocks for one in cells])
    constants = (index_type(where.is_wide), COPIED_CHANNELS, COPIED_CELLS)
    form = (constants, output.get_device(), form_of_maps(inputs, where), form_of_numbers((channels,)))
    _to_channels_last(
        *(programs, form, tuple(copies), tuple(inputs), where.strides, where.heights, where.widths),
        *(first_programs, channels, *constants),
    )
    return copies, layout_of(copies)


def _boxes(rois: Tensor, rule: Rule) -> tuple[tuple[tuple[int, ...], ...], tuple[Any, ...]]:
    """The cells as the kernels take them, and what Triton compiles for of the boxes and of how they are read."""
    cells = cells_of(rule.cells)
    of_levels = None if rule.levels is None else form_of_tensors(rule.levels)
    return cells.bits, (cells.form, rois.get_device(), of_levels, form_of_tensors(rois))


@lru_cache(maxsize=1024)
def _pool_blocks(channels: int, bins: int, channels_last: bool, dtype: torch.dtype) -> tuple[int, int, int]:
    """Channels and bins of a program, and how many programs a box takes."""
    block_bins = min(power_of_two(bins), POOLED_BINS if channels_last else POOLED_BINS_OF_PLANES)
    values = POOLED_VALUES // 2 if dtype == torch.float64 else POOLED_VALUES
    block_c = min(power_of_two(channels), values // block_bins)
    return block_c, block_bins, blocks_of(bins, block_bins) * max(blocks_of(channels, block_c), 1)


def _scatter_blocks(grad: Tensor, channels: int) -> tuple[int, int, str | None]:
    """Channels and bins that a program takes at once, and how it multiplies float32."""
    interpreted = grad.is_cpu  # which multiplies no matrices of bfloat16
    if grad.dtype == torch.float64 or (interpreted and grad.dtype == torch.bfloat16):
        return min(power_of_two(channels), 32), 1, None
    product = "ieee" if torch.version.hip or grad.dtype != torch.float32 else "tf32x3"
    return min(max(power_of_two(channels), 16), SCATTERED_CHANNELS), SCATTERED_BINS, product


def _splits(tiles_count: int, channels: int, channel_blocks: int, boxes: int) -> int:
    """Into how many shares each tile's boxes are split: a power of two."""
    wanted = min(ENOUGH_PROGRAMS // (tiles_count * channel_blocks), boxes // 16)
    fitting = SPLIT_VALUES // (tiles_count * TILE * TILE * channels)
    return 1 << max(min(wanted, fitting, 16).bit_length() - 1, 0)


def _begins(counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where each begins when they are counted through, `uniform`, and how many there are together."""
    begins, total = [], 0
    for count in counts:
        begins.append(total)
        total += count
    return uniform(begins), total
