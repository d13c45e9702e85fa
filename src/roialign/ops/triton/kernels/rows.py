"""Reading matrices so that neighbouring threads take neighbours of a row.

Triton may have them take neighbours of a column, which lie far apart, where it cannot see what is contiguous.
"""

import triton
import triton.language as tl


@triton.jit
def load_rows(pointers, mask):
    """The values at a matrix of pointers, zero where masked."""
    count: tl.constexpr = pointers.shape[0] * pointers.shape[1]
    values = tl.load(tl.reshape(pointers, [count]), mask=tl.reshape(mask, [count]), other=0.0)
    return tl.reshape(values, pointers.shape)


@triton.jit
def load_features(pointers, mask, CHANNELS_LAST: tl.constexpr):
    """Features at a matrix [channels, bins] of pointers, zero where masked."""
    if CHANNELS_LAST:
        values = tl.load(pointers, mask=mask, other=0.0)
    else:
        values = load_rows(pointers, mask)
    return values


@triton.jit
def load_upstream(grad, grad_strides, k, p, q, inside_bins, c, channels):
    """The upstream gradient [channels, bins] of bins of box k, zero where there are none."""
    at = grad + k * grad_strides[0] + p * grad_strides[2] + q * grad_strides[3]
    inside = (c < channels)[:, None] & inside_bins[None, :]
    return load_rows(at[None, :] + c[:, None] * grad_strides[1], inside)
