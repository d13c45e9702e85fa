"""The kernel that copies contiguous maps to channels_last, all levels in one launch.

Samples of a box lie close together in a plane, but those of one instruction do not. Where many boxes read a map,
copying it so that channels are neighbours takes less time than reading it as it is.
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.boxes import pick, pick_number
from roialign.ops.triton.kernels.tiles import level_of


@triton.jit
def to_channels_last_kernel(
    copies,
    maps,
    strides,
    heights,
    widths,
    first_programs,
    channels,
    INDEX: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_CELLS: tl.constexpr,
):
    level, first_program = level_of(tl.program_id(0), first_programs)
    cells = pick_number(heights, level) * pick_number(widths, level)
    cell_blocks, channel_blocks = tl.cdiv(cells, BLOCK_CELLS), tl.cdiv(channels, BLOCK_C)
    number = tl.program_id(0) - first_program
    c = number % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    cell = number // channel_blocks % cell_blocks * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    image = (number // channel_blocks // cell_blocks).to(tl.int64)
    mask = (c < channels)[:, None] & (cell < cells)[None, :]
    values = pick(maps, level) + image * pick(strides[0], level)
    value = tl.load(values + c.to(INDEX)[:, None] * pick(strides[1], level) + cell[None, :], mask=mask)
    to = pick(copies, level) + image * channels * cells
    tl.store(to + cell.to(INDEX)[:, None] * channels + c[None, :], tl.trans(value), mask=tl.trans(mask))
