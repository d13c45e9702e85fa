"""The operators' work as functions of tensors: they allocate and launch, wait for nothing, and check nothing.

Those of `roi_align` and pyramids, and what the operators that read samples of one map share with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.ops.triton.kernels import backward, backward_boxes, forward, layout
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
from roialign.ops.triton.lists import Tiles, list_boxes
from roialign.ops.triton.maps import TILE, Layout, Rule, begins_of, cells_of_boxes, form_of_maps, layout_of

POOLED_VALUES, POOLED_BINS, POOLED_BINS_OF_PLANES = 1024, 8, 64  # of one program
CORRELATED_VALUES = 1024
COPIED_CHANNELS, COPIED_CELLS = 64, 64
COPY_PAYS = 11  # where an output has at least one value for so many of the maps
COPIED_BYTES = 1 << 30
SCATTERED_CHANNELS, SCATTERED_BINS = 64, 16
SPLIT_VALUES = 1 << 23  # 32 MB in float32
ENOUGH_PROGRAMS = 512  # to keep a GPU busy

_pool = Launcher(forward.pool_kernel, num_warps=4)
_pool_halves = Launcher(forward.pool_kernel, num_warps=2)
_correlate = Launcher(backward_boxes.correlate_kernel, num_warps=4)
_to_channels_last = Launcher(layout.to_channels_last_kernel, num_warps=4)
_scatter = Launcher(backward.scatter_kernel, num_warps=2)
_scatter_others = Launcher(backward.scatter_kernel, num_warps=8)  # what their boxes give takes more registers
_add_splits = Launcher(backward.add_splits_kernel, num_warps=4)


class Reading(NamedTuple):
    """Maps and how boxes are read from them, as the kernels take them."""

    arguments: tuple[Any, ...]
    """Maps, strides, heights, widths, cells, images, channels."""
    constants: tuple[Any, ...]
    """Height and width in bins, sampling ratio, whether boxes widen, type of indices, whether channels are last."""
    form: tuple[Any, ...]
    """What Triton compiles for of both."""

    @property
    def channels_last(self) -> bool:
        return bool(self.constants[-1])


def pool(inputs: Sequence[Tensor], rois: Tensor, rule: Rule, pooled_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    channels = inputs[0].shape[1]
    rois = rois.contiguous()
    output = inputs[0].new_empty((rois.shape[0], channels, *pooled_hw))
    coverage = rois.new_empty(rois.shape[0])
    with on_device_of(rois):
        maps = reading(inputs, rois, rule, pooled_hw)
        block_c, block_bins, blocks = pool_blocks(channels, prod(pooled_hw), maps.channels_last, rois.dtype)
        constants = (*maps.constants, block_c, block_bins, *map(power_of_two, pooled_hw))
        launch = _pool_halves if output.element_size() == 2 or not maps.channels_last else _pool
        form = (constants, maps.form)
        launch(rois.shape[0] * blocks, form, output, coverage, rois, rule.levels, *maps.arguments, *constants)
    return output, coverage


class Giver(NamedTuple):
    """What gives tiles their gradient: an operator's boxes."""

    add_box: Any = backward.add_upright_box
    """What a box gives a tile."""
    beside: Any = None
    """What that is told of all boxes."""
    form: tuple[Any, ...] = ()
    """What Triton compiles for of `beside`."""
    columns: int = 5
    """Numbers of a row of the rois."""
    takes_products: bool = True
    """Whether bins can be taken together in matrix products."""


UPRIGHT = Giver()


def scatter(
    grad: Tensor, rois: Tensor, rule: Rule, images: int, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    """Gradients [N, C, H, W] to the features of each level, for `grad` [K, C, height, width]."""
    channels = grad.shape[1]
    grads = [grad.new_empty((images, channels, h, w)) for h, w in zip(heights, widths, strict=True)]
    if len(rois) == 0:
        return [one.zero_() for one in grads]
    if images * channels > 0:
        rois = rois.contiguous()
        tiles = list_boxes(rois, rule, images, heights, widths, tuple(grad.shape[2:]))
        add_boxes(grads, grad, rois, rule, tiles)
    return grads


def add_boxes(
    grads: Sequence[Tensor], grad: Tensor, rois: Tensor, rule: Rule, tiles: Tiles, giver: Giver = UPRIGHT
) -> None:
    """Write the gradients to some channels [N, C, H, W] of each level, for `grad` [K, C, height, width].

    They may be views of some of the channels of contiguous tensors.
    """
    channels, boxes, count = grad.shape[1], len(rois), tiles.number
    block_c, block_bins, product = _scatter_blocks(grad, channels, giver.takes_products)
    blocks = blocks_of(channels, block_c)
    splits = _splits(count, channels, blocks, boxes)
    sums = rois.new_empty(splits * count * TILE * TILE * channels) if splits > 1 else rois
    index = index_type(any(channels * one.shape[2] * one.shape[3] >= INTEGER_LIMIT for one in grads))
    image_channels = grads[0].stride(0) // grads[0].stride(1)
    cells, of_rule = cells_of_boxes(rois, rule)
    constants = (giver.add_box, giver.columns, *grad.shape[2:], max(rule.sampling_ratio, 0), rule.widen)
    constants = (*constants, index, splits > 1, block_c, block_bins, product)
    of_grads = (form_of_tensors(*grads), form_of_strided(grad), form_of_numbers((channels,)))
    form = (constants, of_rule, giver.form, of_grads)
    maps = (tiles.heights, tiles.widths)
    with on_device_of(rois):
        launch = _scatter if giver is UPRIGHT else _scatter_others
        launch(
            *(count * splits * blocks, form, sums, tuple(grads), grad, grad.stride(), rois, rule.levels, giver.beside),
            *(tiles.listed, tiles.counts, boxes, tiles.images, channels, image_channels, *maps, cells),
            *(tiles.first_tiles, count, tiles.room, splits, *constants),
        )
        if splits > 1:
            sizes = (*maps, tiles.first_tiles, count, splits, index, block_c)
            _add_splits(count * blocks, form, tuple(grads), sums, channels, image_channels, *sizes)


def correlate(grad: Tensor, inputs: Sequence[Tensor], rois: Tensor, rule: Rule) -> Tensor:
    """Gradient [K, 5] to the boxes, for `grad` [K, C, height, width]; the batch index gets none."""
    rois = rois.contiguous()
    grad_rois = torch.empty_like(rois)
    with on_device_of(rois):
        maps = reading(inputs, rois, rule, tuple(grad.shape[2:]))
        constants = (*maps.constants, *correlate_blocks(grad, maps.channels_last, CORRELATED_VALUES))
        form = (constants, maps.form, form_of_strided(grad))
        _correlate(
            *(rois.shape[0], form, grad_rois, grad, grad.stride(), rois, rule.levels, *maps.arguments, *constants)
        )
    return grad_rois


def reading(inputs: Sequence[Tensor], rois: Tensor, rule: Rule, pooled_hw: tuple[int, ...]) -> Reading:
    """Of maps, or of copies of them where that pays for so many boxes and bins."""
    images, channels = inputs[0].shape[:2]
    maps, where = _readable(inputs, len(rois) * channels * prod(pooled_hw))
    cells, of_rule = cells_of_boxes(rois, rule)
    constants = (*pooled_hw, max(rule.sampling_ratio, 0), rule.widen, index_type(where.is_wide), where.channels_last)
    return Reading(
        (tuple(maps), where.strides, where.heights, where.widths, cells, images, channels),
        constants,
        (form_of_maps(maps, where), of_rule, form_of_numbers((channels,))),
    )


def _readable(inputs: Sequence[Tensor], pooled_values: int) -> tuple[Sequence[Tensor], Layout]:
    """The maps, or copies of them in channels_last where that pays for an output of so many values."""
    where = layout_of(inputs)
    values = sum(one.numel() for one in inputs)
    pays = values <= COPY_PAYS * pooled_values and values * inputs[0].element_size() <= COPIED_BYTES
    if where.channels_last or not pays or not all(one.is_contiguous() for one in inputs):
        return inputs, where
    images, channels = inputs[0].shape[:2]
    copies = [torch.empty_like(one, memory_format=torch.channels_last) for one in inputs]
    cells = [blocks_of(one.shape[2] * one.shape[3], COPIED_CELLS) for one in inputs]
    blocks = blocks_of(channels, COPIED_CHANNELS)
    first_programs, programs = begins_of([images * one * blocks for one in cells])
    constants = (index_type(where.is_wide), COPIED_CHANNELS, COPIED_CELLS)
    form = (constants, inputs[0].get_device(), form_of_maps(inputs, where), form_of_numbers((channels,)))
    _to_channels_last(
        *(programs, form, tuple(copies), tuple(inputs), where.strides, where.heights, where.widths),
        *(first_programs, channels, *constants),
    )
    return copies, layout_of(copies)


@lru_cache(maxsize=1024)
def pool_blocks(channels: int, bins: int, channels_last: bool, dtype: torch.dtype) -> tuple[int, int, int]:
    """Channels and bins of a program, and how many programs a box takes."""
    block_bins = min(power_of_two(bins), POOLED_BINS if channels_last else POOLED_BINS_OF_PLANES)
    values = POOLED_VALUES // 2 if dtype == torch.float64 else POOLED_VALUES
    block_c = min(power_of_two(channels), values // block_bins)
    return block_c, block_bins, blocks_of(bins, block_bins) * max(blocks_of(channels, block_c), 1)


def correlate_blocks(grad: Tensor, channels_last: bool, values: int) -> tuple[int, int]:
    """Channels and bins that a program takes at once of so many float32 values."""
    block_bins = min(power_of_two(prod(grad.shape[2:])), 8 if channels_last else 64)
    values = values // 2 if grad.dtype == torch.float64 else values
    return min(power_of_two(grad.shape[1]), values // block_bins), block_bins


def _scatter_blocks(grad: Tensor, channels: int, takes_products: bool) -> tuple[int, int, str | None]:
    """Channels and bins that a program takes at once, and how it multiplies float32."""
    interpreted = grad.is_cpu  # which multiplies no matrices of bfloat16
    if not takes_products or grad.dtype == torch.float64 or (interpreted and grad.dtype == torch.bfloat16):
        return min(power_of_two(channels), 32), 1, None
    product = "ieee" if torch.version.hip or grad.dtype != torch.float32 else "tf32x3"
    return min(max(power_of_two(channels), 16), SCATTERED_CHANNELS), SCATTERED_BINS, product


def _splits(tiles_count: int, channels: int, channel_blocks: int, boxes: int) -> int:
    """Into how many shares each tile's boxes are split: a power of two."""
    wanted = min(ENOUGH_PROGRAMS // (tiles_count * channel_blocks), boxes // 16)
    fitting = SPLIT_VALUES // (tiles_count * TILE * TILE * channels)
    return 1 << max(min(wanted, fitting, 16).bit_length() - 1, 0)
