"""The operators' work as functions of tensors: they allocate and launch, wait for nothing, and check nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from roialign.ops.triton import backward, backward_boxes, forward, tiles
from roialign.ops.triton.launch import INTEGER_LIMIT, Launcher, form_of_numbers, form_of_tensors, on_device_of
from roialign.ops.triton.maps import TILE, Grids, as_maps, bits_of_cells

POOLED_VALUES = 2048  # of one program
LISTED_BOXES = 1 << 23  # of all tiles together: 32 MB
SPLIT_VALUES = 1 << 23  # 32 MB in float32
ENOUGH_PROGRAMS = 512  # to keep a GPU busy
TILES_OF_LIST, BOXES_OF_LIST = 16, 128
SCATTERED_CHANNELS, SCATTERED_BINS = 128, 16
POOLED_BINS = 64

_pool = Launcher(forward.pool_kernel, num_warps=4)
_correlate = Launcher(backward_boxes.correlate_kernel, num_warps=4)
_list_boxes = Launcher(tiles.list_boxes_kernel, num_warps=4)
_scatter = Launcher(backward.scatter_kernel, num_warps=4)
_add_splits = Launcher(backward.add_splits_kernel, num_warps=4)


class Rule(NamedTuple):
    """How boxes are read. `levels` is None where there is one map; `cells` has four numbers for each."""

    levels: Tensor | None
    cells: Sequence[float]
    sampling_ratio: int
    widen: bool

    @property
    def ratio(self) -> int:
        return max(self.sampling_ratio, 0)

    @property
    def bits(self) -> tuple[tuple[int, ...], ...]:
        return bits_of_cells(tuple(self.cells))


def pool(inputs: Sequence[Tensor], rois: Tensor, rule: Rule, pooled_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    maps = as_maps(inputs)
    images, channels = inputs[0].shape[:2]
    output = inputs[0].new_empty((rois.shape[0], channels, *pooled_hw))
    coverage = rois.new_empty(rois.shape[0])
    bins = pooled_hw[0] * pooled_hw[1]
    block_bins = min(_power_of_two(bins), POOLED_BINS)
    block_c = min(_power_of_two(channels), POOLED_VALUES // block_bins, 256)
    constants = (
        *(*pooled_hw, rule.ratio, rule.widen, _index_type(maps.is_wide), block_c, block_bins),
        *map(_power_of_two, pooled_hw),
    )
    rois, bits = rois.contiguous(), rule.bits
    form = (constants, maps.form(), _form(rois, rule), form_of_numbers((channels,)))
    programs = rois.shape[0] * _blocks(bins, block_bins) * max(_blocks(channels, block_c), 1)
    with on_device_of(rois):
        _pool(
            *(programs, form, output, coverage, rois, rule.levels, maps.tensors, maps.strides),
            *(maps.heights, maps.widths, bits, images, channels, *constants),
        )
    return output, coverage


def scatter(
    grad: Tensor, rois: Tensor, rule: Rule, images: int, heights: Sequence[int], widths: Sequence[int]
) -> list[Tensor]:
    """Gradients [N, C, H, W] to the features of each level, for `grad` [K, C, height, width]."""
    channels, pooled_hw, boxes = grad.shape[1], tuple(grad.shape[2:]), rois.shape[0]
    grads = [grad.new_empty((images, channels, h, w)) for h, w in zip(heights, widths, strict=True)]
    if boxes == 0:
        return [one.zero_() for one in grads]
    if images * channels == 0:
        return grads
    grids = Grids(tuple(heights), tuple(widths), rule.bits)
    tiles_of_image = grids.tiles()
    first_tiles, count = _begins([images * one for one in tiles_of_image])
    room = max(1, min(boxes, LISTED_BOXES // count))
    rois = rois.contiguous()
    options = (*pooled_hw, rule.ratio, rule.widen)
    listed = rois.new_empty(count * room, dtype=torch.int32)
    counts = rois.new_empty(count, dtype=torch.int32)
    first_programs, programs = _begins([images * _blocks(one, TILES_OF_LIST) for one in tiles_of_image])
    form = (options, _form(rois, rule), len(heights))
    is_wide = any(channels * h * w >= INTEGER_LIMIT for h, w in zip(heights, widths, strict=True))
    block_c, block_bins, product = _scatter_blocks(grad, channels)
    splits = _splits(count, channels, block_c, boxes)
    sums = rois.new_empty(splits * count * TILE * TILE * channels) if splits > 1 else rois
    constants = (*options, _index_type(is_wide), splits, block_c, block_bins, product)
    grad_form = (constants, form_of_tensors(*grads, grad, rois), _form(rois, rule), len(heights))
    grad_form = (*grad_form, form_of_numbers((*grad.stride(), channels)))
    blocks = _blocks(channels, block_c)
    with on_device_of(rois):
        _list_boxes(
            *(programs, form, listed, counts, rois, rule.levels, boxes, images, *grids),
            *(first_programs, first_tiles, room, *options, TILES_OF_LIST, BOXES_OF_LIST),
        )
        _scatter(
            *(count * splits * blocks, grad_form, sums, tuple(grads), grad, grad.stride(), rois, rule.levels),
            *(listed, counts, boxes, images, channels, *grids, first_tiles, count, room, *constants),
        )
        if splits > 1:
            sizes = (*grids[:2], first_tiles, count, splits, _index_type(is_wide), block_c)
            _add_splits(count * blocks, grad_form, tuple(grads), sums, channels, *sizes)
    return grads


def correlate(grad: Tensor, inputs: Sequence[Tensor], rois: Tensor, rule: Rule) -> Tensor:
    """Gradient [K, 5] to the boxes, for `grad` [K, C, height, width]; the image index gets none."""
    maps = as_maps(inputs)
    images, channels = inputs[0].shape[:2]
    rois = rois.contiguous()
    grad_rois = torch.empty_like(rois)
    pooled_hw = tuple(grad.shape[2:])
    block_bins = min(_power_of_two(pooled_hw[0] * pooled_hw[1]), 64)
    block_c = min(_power_of_two(channels), 2048 // block_bins, 256)
    constants = (*pooled_hw, rule.ratio, rule.widen, _index_type(maps.is_wide), block_c, block_bins)
    form = (constants, maps.form(), _form(rois, rule), form_of_tensors(grad))
    form = (*form, form_of_numbers((*grad.stride(), channels)))
    with on_device_of(rois):
        _correlate(
            *(rois.shape[0], form, grad_rois, grad, grad.stride(), rois, rule.levels, maps.tensors, maps.strides),
            *(maps.heights, maps.widths, rule.bits, images, channels, *constants),
        )
    return grad_rois


def _scatter_blocks(grad: Tensor, channels: int) -> tuple[int, int, str | None]:
    """Channels and bins that a program takes at once, and how it multiplies float32."""
    interpreted = grad.is_cpu  # which multiplies no matrices of bfloat16
    if grad.dtype == torch.float64 or (interpreted and grad.dtype == torch.bfloat16):
        return min(_power_of_two(channels), 32), 1, None
    product = "ieee" if torch.version.hip or grad.dtype != torch.float32 else "tf32x3"
    return min(max(_power_of_two(channels), 16), SCATTERED_CHANNELS), SCATTERED_BINS, product


def _splits(tiles_count: int, channels: int, block_c: int, boxes: int) -> int:
    """Into how many shares each tile's boxes are split: a power of two."""
    wanted = min(ENOUGH_PROGRAMS // (tiles_count * _blocks(channels, block_c)), boxes // 16)
    fitting = SPLIT_VALUES // (tiles_count * TILE * TILE * channels)
    return 1 << max(min(wanted, fitting, 16).bit_length() - 1, 0)


def _form(rois: Tensor, rule: Rule) -> tuple[Any, ...]:
    """What Triton compiles for of the boxes and of how they are read."""
    device, zeros = rois.get_device(), tuple(bits == 0 for axis in rule.bits for bits in axis)
    levels = () if rule.levels is None else form_of_tensors(rule.levels)
    return device, zeros, levels, form_of_tensors(rois)


def _begins(counts: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where each begins when they are counted through, and how many there are together."""
    begins, total = [], 0
    for count in counts:
        begins.append(total)
        total += count
    return tuple(begins), total


def _index_type(is_wide: bool) -> Any:
    return tl.int64 if is_wide else tl.int32


def _blocks(count: int, block: int) -> int:
    return -(-count // block)


def _power_of_two(count: int) -> int:
    """The least power of two that is at least `count`, and 1."""
    return 1 << max(count - 1, 0).bit_length()
