"""How kernels read a box and the map that it is pooled from.

Maps come as tuples with an entry for each level: pointers, strides in elements, sizes in cells, and how coordinates
become cells.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.axis import axis_samples, from_bits


@triton.jit
def pick(values, level):
    """The entry of a level."""
    picked = values[0]
    for other in tl.static_range(1, len(values)):
        picked = tl.where(level == other, values[other], picked)
    return picked


@triton.jit
def pick_number(numbers, level):
    """The entry of a level of numbers that were multiplied by 16: see `uniform` in maps.py."""
    return pick(numbers, level) >> 4


@triton.jit
def level_of_box(levels, k, LEVELS: tl.constexpr):
    """The level of box k, and whether there is such a level; a box without one gets level 0."""
    if levels is None:
        level = tl.full([], 0, tl.int32)
        exists = level == 0
    else:
        given = tl.load(levels + k)
        exists = (given >= 0) & (given < LEVELS)
        level = tl.where(exists, given, 0).to(tl.int32)
    return level, exists


@triton.jit
def image_of_box(rois, k, images, COLUMNS: tl.constexpr = 5):
    """The image of box k, and whether there is such an image; a box without one gets image 0."""
    index = tl.load(rois + k * COLUMNS)
    exists = (index >= 0.0) & (index < images) & (tl.floor(index) == index)
    return tl.where(exists, index, 0.0).to(tl.int64), exists


@triton.jit
def rows_of_box(rois, k, cells, level, POOLED: tl.constexpr, RATIO: tl.constexpr, WIDEN: tl.constexpr):
    """`axis_samples` of box k along y."""
    low, high = tl.load(rois + k * 5 + 2), tl.load(rois + k * 5 + 4)
    scale, shift = from_bits(pick(cells[0], level), low), from_bits(pick(cells[1], level), low)
    return axis_samples(low, high, scale, shift, POOLED, RATIO, WIDEN)


@triton.jit
def columns_of_box(rois, k, cells, level, POOLED: tl.constexpr, RATIO: tl.constexpr, WIDEN: tl.constexpr):
    """`axis_samples` of box k along x."""
    low, high = tl.load(rois + k * 5 + 1), tl.load(rois + k * 5 + 3)
    scale, shift = from_bits(pick(cells[2], level), low), from_bits(pick(cells[3], level), low)
    return axis_samples(low, high, scale, shift, POOLED, RATIO, WIDEN)


@triton.jit
def block_of_program(channels, bins, BLOCK_C: tl.constexpr, BLOCK_BINS: tl.constexpr):
    """The box, the block of channels and the block of bins of a program that takes one of each."""
    channel_blocks = tl.maximum(tl.cdiv(channels, BLOCK_C), 1)  # without channels there is a coverage still
    bin_blocks = tl.cdiv(bins, BLOCK_BINS)
    number = tl.program_id(0) // channel_blocks
    return (number // bin_blocks).to(tl.int64), tl.program_id(0) % channel_blocks, number % bin_blocks
