"""`masked_roi_align` as functions of tensors, as `functions.py` has `roi_align`."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from roialign.ops.reference import Arguments
from roialign.ops.triton import functions
from roialign.ops.triton.functions import Giver
from roialign.ops.triton.kernels import masked, masked_gradients
from roialign.ops.triton.launch import (
    Launcher,
    form_of_numbers,
    form_of_strided,
    form_of_tensors,
    on_device_of,
    power_of_two,
)
from roialign.ops.triton.lists import list_boxes
from roialign.ops.triton.maps import Rule, cells_of_boxes, rule_of_scale, tiles_of_image, uniform

CORRELATED_VALUES = 512  # of one program
BINS_OF_TILE = 8

_weigh = Launcher(masked.weigh_kernel, num_warps=1)
_pool = Launcher(masked.pool_masked_kernel, num_warps=4)
_correlate = Launcher(masked_gradients.correlate_masked_kernel, num_warps=4)
_correlate_masks = Launcher(masked_gradients.correlate_masks_kernel, num_warps=4)


class Masks(NamedTuple):
    """Masks as the kernels take them, and what Triton compiles for of them."""

    arguments: tuple[Any, ...]
    form: tuple[Any, ...]


def pool(input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """Features [K, C, height, width] and coverage [K]; NaN for boxes that cannot be sampled."""
    rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
    channels, pooled_hw = input.shape[1], arguments.bins
    output = input.new_empty((len(rois), channels, *pooled_hw))
    coverage = rois.new_empty(len(rois))
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule, pooled_hw)
        masks = _weighed(rois, rule, arguments, None)
        block_c, block_bins, blocks = functions.pool_blocks(channels, prod(pooled_hw), maps.channels_last, rois.dtype)
        constants = (*maps.constants, block_c, block_bins, *map(power_of_two, pooled_hw))
        form = (constants, maps.form, masks.form)
        _pool(len(rois) * blocks, form, output, coverage, rois, masks.arguments, *maps.arguments, *constants)
    return output, coverage


def scatter(grad: Tensor, arguments: Arguments, size: Sequence[int], _input: Tensor | None) -> Tensor:
    """The gradient [N, C, H, W] to the features, for `grad` [K, C, height, width]; `size` is N, H, W."""
    images, height, width = size
    grad_input = grad.new_empty((images, grad.shape[1], height, width))
    if len(arguments.rois) == 0:
        return grad_input.zero_()
    if images * grad.shape[1] > 0:
        rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
        with on_device_of(rois):
            masks = _weighed(rois, rule, arguments, None)
        tiles = list_boxes(rois, rule, images, [height], [width], arguments.bins)
        giver = Giver(masked.add_masked_box, *masks)
        functions.add_boxes([grad_input], grad, rois, rule, tiles, giver)
    return grad_input


def correlate(grad: Tensor, input: Tensor, arguments: Arguments) -> tuple[Tensor, Tensor]:
    """The gradients to the boxes [K, 5], whose batch index gets none, and to the masks [K, h, w]."""
    rois, rule = arguments.rois.contiguous(), rule_of_scale(*arguments.options[:3])
    mask_hw = arguments.beside[0].shape[1:]
    grad_rois, grad_masks = torch.empty_like(rois), rois.new_empty((len(rois), *mask_hw))
    pulls = rois.new_empty((len(rois), *arguments.bins))
    in_image = arguments.options[-1]
    changes = rois.new_empty((len(rois), 4, *arguments.bins)) if in_image else None
    with on_device_of(rois):
        maps = functions.reading([input], rois, rule, arguments.bins)
        masks = _weighed(rois, rule, arguments, changes)
        upstream = (grad, grad.stride(), rois, masks.arguments)
        constants = (*maps.constants, *functions.correlate_blocks(grad, maps.channels_last, CORRELATED_VALUES))
        of_arguments = (maps.form, masks.form, form_of_strided(grad))
        form = (constants, of_arguments, in_image)
        _correlate(len(rois), form, grad_rois, pulls, *upstream, changes, *maps.arguments, *constants)
        bins = min(power_of_two(prod(arguments.bins)), BINS_OF_TILE)
        constants = (*maps.constants, min(power_of_two(grad.shape[1]), CORRELATED_VALUES // bins), bins)
        programs = len(rois) * tiles_of_image(mask_hw[:1], mask_hw[1:])[0]
        _correlate_masks(programs, (constants, of_arguments), grad_masks, pulls, *upstream, *maps.arguments, *constants)
    return grad_rois, grad_masks


def _weighed(rois: Tensor, rule: Rule, arguments: Arguments, changes: Tensor | None) -> Masks:
    """The masks, with the mean weights of bins; how those change with the boxes goes to `changes`."""
    masks, strides = arguments.beside[0], uniform(arguments.beside[0].stride())
    means = rois.new_empty((len(rois), *arguments.bins))
    sizes = uniform((*masks.shape[1:], arguments.options[-1]))
    given = Masks((masks, strides, sizes, means), (form_of_tensors(masks, means), form_of_numbers(strides)))
    cells, of_rule = cells_of_boxes(rois, rule)
    constants = (*arguments.bins, max(rule.sampling_ratio, 0), rule.widen)
    form = (constants, of_rule, given.form, changes is None)
    _weigh(len(rois) * prod(arguments.bins), form, changes, rois, given.arguments, cells, *constants)
    return given
