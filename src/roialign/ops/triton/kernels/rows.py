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
