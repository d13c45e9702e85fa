"""FLOP formulas of the operators, for `torch.utils.flop_counter.FlopCounterMode`: `import` registers them.

Counted is what the definition takes, two for a multiply-add as torch counts them: for each channel of each bin, each
sample reads 4 cells with a weight each (8 on volumes), so 8 (16) operations; a mask's weight adds 2, and the mask
itself is read once for all channels. Gradients to the features take the same, gradients to the boxes twice as much.
Where the samples of a bin depend on the boxes (`sampling_ratio` of 0 or less) they are counted from these; of boxes
without values one sample for each bin. The C++ kernels merge samples that read one cell, so they do less than that.

Not counted, as torch does not count its pooling: `roi_pool`, `ps_roi_pool`, `prroi_pool` and `paste_masks`, whose
work is that of comparing and adding cells, or depends on where the boxes lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from roialign.ops.calls import is_concrete

_SAMPLED = ("roi_align", "roi_align_max", "ps_roi_align", "roi_align_rotated", "masked_roi_align", "roi_align_3d")
_OF_LEVELS = "multi_scale_roi_align"


def _formula(name: str, is_forward: bool, factor: int) -> Callable[..., int]:
    """The operations of one operator, from the arguments of its call."""
    schema = getattr(torch.ops.roialign, name).default._schema
    names = [argument.name for argument in schema.arguments]

    def count(*arguments: Any, out_val: Any = None, **by_name: Any) -> int:
        given = dict(zip(names, arguments, strict=False)) | by_name
        pooled = out_val[0] if is_forward else given["grad"]
        channels, *bins = map(int, pooled.shape[1:])
        samples = _samples(given, bins) * prod(bins)  # of all boxes
        of_channel = 2 * (1 << len(bins)) + (2 if "masks" in given else 0)
        of_masks = 8 if "masks" in given else 0
        return factor * samples * (of_channel * channels + of_masks)

    return count


def _samples(given: dict[str, Any], bins: Sequence[int]) -> int:
    """Samples in one bin of each box, summed over the boxes."""
    rois, ratio = given["rois"], given["sampling_ratio"]
    if ratio > 0:
        return int(len(rois) * ratio ** len(bins))
    if not is_concrete([rois]):
        return len(rois)
    sides = _sides_in_cells(given, len(bins))
    return int((sides.cpu().double() / torch.tensor(bins[::-1])).ceil().clamp(min=0).prod(1).sum())


def _sides_in_cells(given: dict[str, Any], axes: int) -> Tensor:
    """The sides [K, axes] of boxes in cells, x first."""
    rois: Tensor = given["rois"].detach()
    if "radians" in given:
        sides = rois[:, 3:5]
    else:
        sides = rois[:, 1 + axes :] - rois[:, 1 : 1 + axes]
    if "levels" in given:
        scales = rois.new_tensor(given["cells"]).view(-1, 4)[given["levels"]][:, [2, 0]]
    elif axes == 3:
        scales = rois.new_tensor([given["scale_x"], given["scale_y"], given["scale_z"]])
    else:
        scales = rois.new_tensor(given["spatial_scale"])
    sides = sides * scales
    return sides.clamp(min=1.0) if given.get("widen") or given.get("aligned") is False else sides


for _name in (*_SAMPLED, _OF_LEVELS):
    for _ending, _factor in (("", 1), ("_backward", 1), ("_backward_boxes", 2)):
        _target = getattr(torch.ops.roialign, _name + _ending)
        register_flop_formula(_target, get_raw=True)(_formula(_name + _ending, not _ending, _factor))
