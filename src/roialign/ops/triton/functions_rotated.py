"""`roi_align_rotated` as functions of tensors, as `functions.py` has `roi_align`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from roialign.ops.reference import Arguments
from roialign.ops.registered.checks import size_of
from roialign.ops.triton import functions
from roialign.ops.triton.functions import Giver
from roialign.ops.triton.kernels import rotated, rotated_gradients
from roialign.ops.triton.launch import Launcher, blocks_of, form_of_strided, on_device_of
from roialign.ops.triton.lists import list_spans, spans_for
from roialign.ops.triton.maps import Rule, cells_of_boxes, rule_of_scale, uniform

TURNED_BOXES = 128  # of one program
CORRELATED_VALUES = 512
COLUMNS = 6

_turn = Launcher(rotated.turn_kernel, num_warps=4)
_pool = Launcher(rotated.pool_rotated_kernel, num_warps=4)
_correlate = Launcher(rotated_gradients.correlate_rotated_kernel, num_warps=4)


def pool(input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
    channels = input.shape[1]
    output = input.new_empty((len(rois), channels, *arguments.bins))
    coverage = rois.new_empty(len(rois))
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule, arguments.bins)
        turns = _turns(rois, rule, arguments, size_of(input), None)
        block_c, block_bins, blocks = functions.pool_blocks(
            channels, prod(arguments.bins), maps.channels_last, rois.dtype
        )
        constants = (*maps.constants, block_c, block_bins)
        form = (constants, maps.form)
        _pool(len(rois) * blocks, form, output, coverage, rois, turns, *maps.arguments, *constants)
    return output, coverage


def scatter(grad: Tensor, arguments: Arguments, size: Sequence[int], _input: Tensor | None) -> Tensor:
    """The gradient [N, C, H, W] to the features, for `grad` [K, C, height, width]; `size` is N, H, W."""
    images, height, width = size
    grad_input = grad.new_empty((images, grad.shape[1], height, width))
    if len(arguments.rois) == 0:
        return grad_input.zero_()
    if images * grad.shape[1] > 0:
        rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
        spans = spans_for(rois)
        with on_device_of(rois):
            turns = _turns(rois, rule, arguments, size, spans)
        tiles = list_spans(spans, images, height, width)
        giver = Giver(rotated.add_rotated_box, turns, columns=COLUMNS)
        functions.add_boxes([grad_input], grad, rois, rule, tiles, giver)
    return grad_input


def correlate(grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor]:
    """The gradient [K, 6] to the boxes, for `grad` [K, C, height, width]; the batch index gets none."""
    rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
    grad_rois = torch.empty_like(rois)
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule, arguments.bins)
        turns = _turns(rois, rule, arguments, size_of(input), None)
        blocks = functions.correlate_blocks(grad, maps.channels_last, CORRELATED_VALUES)
        constants = (*maps.constants, *arguments.options[3:], *blocks)
        form = (constants, maps.form, form_of_strided(grad))
        _correlate(len(rois), form, grad_rois, grad, grad.stride(), rois, turns, *maps.arguments, *constants)
    return (grad_rois,)


def _turns(rois: Tensor, rule: Rule, arguments: Arguments, size_nhw: Sequence[int], spans: Tensor | None) -> Tensor:
    """Cosine and sine [K, 2] of the boxes' angles; which cells of maps of this size they may read goes to `spans`."""
    turns = rois.new_empty((len(rois), 2))
    cells, of_rule = cells_of_boxes(rois, rule)
    constants = (*arguments.bins, max(rule.sampling_ratio, 0), rule.widen, *arguments.options[3:], TURNED_BOXES)
    images, *size_hw = size_nhw
    heights, widths = uniform(size_hw[:1]), uniform(size_hw[1:])
    _turn(
        *(blocks_of(len(rois), TURNED_BOXES), (constants, of_rule, spans is None), turns, spans, rois),
        *(len(rois), images, heights, widths, cells, *constants),
    )
    return turns
