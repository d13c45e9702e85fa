"""`roi_align_max` as functions of tensors, as `functions.py` has `roi_align`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from roialign.ops.reference import Arguments
from roialign.ops.triton import functions
from roialign.ops.triton.functions import Giver
from roialign.ops.triton.kernels import maxima
from roialign.ops.triton.launch import Launcher, form_of_strided, form_of_tensors, on_device_of, power_of_two
from roialign.ops.triton.lists import list_boxes
from roialign.ops.triton.maps import rule_of_scale

PLACES = 1 << 22  # of largest samples, at once: 32 MB
CORRELATED_VALUES = 512

_pool = Launcher(maxima.pool_maxima_kernel, num_warps=4)
_pool_halves = Launcher(maxima.pool_maxima_kernel, num_warps=2)  # so that a thread reads 16 bytes of few channels, too
_correlate = Launcher(maxima.correlate_maxima_kernel, num_warps=4)


def pool(input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    rois = arguments.rois.contiguous()
    output = input.new_empty((len(rois), input.shape[1], *arguments.bins))
    coverage = rois.new_empty(len(rois))
    _search(input, rois, arguments, output, coverage, None)
    return output, coverage


def scatter(grad: Tensor, arguments: Arguments, size: Sequence[int], input: Tensor) -> Tensor:
    """The gradient [N, C, H, W] to the features, for `grad` [K, C, height, width].

    The largest samples are found again, those of as many channels at once as there is room for.
    """
    images, height, width = size
    channels = grad.shape[1]
    grad_input = grad.new_empty((images, channels, height, width))
    boxes = len(arguments.rois)
    if boxes == 0:
        return grad_input.zero_()
    if images * channels > 0:
        rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
        tiles = list_boxes(rois, rule, images, [height], [width], arguments.bins)
        fitting = PLACES // (boxes * prod(arguments.bins))
        some = min(channels, 1 << max(fitting.bit_length() - 1, 0))  # a power of two: few kernels for all sizes
        places = rois.new_empty(boxes * some * prod(arguments.bins), dtype=torch.int64)
        giver = Giver(maxima.add_largest, places, form_of_tensors(places), takes_products=False)
        for first in range(0, channels, some):
            of_channels = slice(first, first + some)
            _search(input[:, of_channels], rois, arguments, None, None, places)
            to = [grad_input[:, of_channels]]
            functions.add_boxes(to, grad[:, of_channels], rois, rule, tiles, giver)
    return grad_input


def correlate(grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor]:
    """The gradient [K, 5] to the boxes, for `grad` [K, C, height, width]; the batch index gets none."""
    rois = arguments.rois.contiguous()
    grad_rois = torch.empty_like(rois)
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule_of_scale(*arguments.options[:3]), arguments.bins)
        blocks = functions.correlate_blocks(grad, maps.channels_last, CORRELATED_VALUES)
        constants = (*maps.constants, arguments.options[-1], *blocks)
        form = (constants, maps.form, form_of_strided(grad))
        _correlate(len(rois), form, grad_rois, grad, grad.stride(), rois, *maps.arguments, *constants)
    return (grad_rois,)


def _search(
    input: Tensor,
    rois: Tensor,
    arguments: Arguments,
    output: Tensor | None,
    coverage: Tensor | None,
    places: Tensor | None,
) -> None:
    """Find the largest samples, for features and coverage, or for their places [K, C, height, width]."""
    channels, pooled_hw = input.shape[1], arguments.bins
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule_of_scale(*arguments.options[:3]), pooled_hw)
        block_c, block_bins, blocks = functions.pool_blocks(channels, prod(pooled_hw), maps.channels_last, rois.dtype)
        constants = (*maps.constants, arguments.options[-1], block_c, block_bins, *map(power_of_two, pooled_hw))
        form = (constants, maps.form, places is None)
        launch = _pool_halves if input.element_size() == 2 else _pool
        launch(len(rois) * blocks, form, output, coverage, places, rois, *maps.arguments, *constants)
