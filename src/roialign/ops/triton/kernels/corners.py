"""The four cells that a sample reads, and how its value changes where it moves.

Samples are those of a block of bins and channels. `y` and `x` are what `bilinear` says of them, of a shape that
broadcasts to [channels, bins].
"""

import triton
import triton.language as tl

from roialign.ops.triton.kernels.rows import load_features


@triton.jit
def across(cells):
    """What `bilinear` says of the samples of bins, for all channels: [1, bins]."""
    on_map, low, high, fraction, free = cells
    return on_map[None, :], low[None, :], high[None, :], fraction[None, :], free[None, :]


@triton.jit
def load_corners(values, channel, strides_yx, y, x, mask, like, CHANNELS_LAST: tl.constexpr):
    """The cells top left, top right, bottom left and bottom right, in the type of `like`; zero where not read."""
    y_on_map, top, bottom, _, _ = y
    x_on_map, left, right, _, _ = x
    read = mask & (y_on_map & x_on_map)
    index = channel.dtype  # 64-bit where the map needs it
    top, bottom = top.to(index) * strides_yx[0], bottom.to(index) * strides_yx[0]
    left, right = left.to(index) * strides_yx[1], right.to(index) * strides_yx[1]
    top_left = load_features(values + channel[:, None] + (top + left), read, CHANNELS_LAST)
    top_right = load_features(values + channel[:, None] + (top + right), read, CHANNELS_LAST)
    bottom_left = load_features(values + channel[:, None] + (bottom + left), read, CHANNELS_LAST)
    bottom_right = load_features(values + channel[:, None] + (bottom + right), read, CHANNELS_LAST)
    kind = like.dtype
    return top_left.to(kind), top_right.to(kind), bottom_left.to(kind), bottom_right.to(kind)


@triton.jit
def surface(corners, y, x):
    """The sum of the corners by their weights."""
    _, _, _, ly, _ = y
    _, _, _, lx, _ = x
    top_left, top_right, bottom_left, bottom_right = corners
    on_top = top_left * ((1.0 - ly) * (1.0 - lx)) + top_right * ((1.0 - ly) * lx)
    return on_top + bottom_left * (ly * (1.0 - lx)) + bottom_right * (ly * lx)


@triton.jit
def slopes(corners, upstream, y, x, mask):
    """How much the sample's value times `upstream` changes where it moves along y, and along x."""
    _, _, _, ly, y_free = y
    _, _, _, lx, x_free = x
    top_left, top_right, bottom_left, bottom_right = corners
    on_left, on_right = (bottom_left - top_left) * upstream, (bottom_right - top_right) * upstream
    on_top, on_bottom = (top_right - top_left) * upstream, (bottom_right - bottom_left) * upstream
    by_y = tl.where(mask & y_free, on_left + (on_right - on_left) * lx, 0.0)
    by_x = tl.where(mask & x_free, on_top + (on_bottom - on_top) * ly, 0.0)
    return by_y, by_x
