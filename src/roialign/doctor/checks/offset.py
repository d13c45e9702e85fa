"""The check of the map's offset: RA108. A pure function of the evidence."""

from __future__ import annotations

import torch

from roialign.doctor.evidence import Evidence, call_line
from roialign.doctor.findings import Finding, Fix

_LEAST_SHIFT = 0.25  # of a stride: less is within what a measurement on a few images can tell


def half_cell(known: Evidence) -> Finding | None:
    """RA108: `aligned` contradicts the offset that was measured."""
    grid, call = known.grid, known.call
    if grid is None or grid.calibrated_offset_yx is None:
        return None
    strides, measured = grid.stride_yx, grid.calibrated_offset_yx
    if any(abs(call.spatial_scale * stride - 1) > 1e-3 for stride in strides):
        return None  # boxes in cells, or a wrong stride, about which offsets say nothing
    claimed = tuple(stride / 2 if call.aligned else 0.0 for stride in strides)
    shifts = [abs(m - c) / stride for m, c, stride in zip(measured, claimed, strides, strict=True)]
    if max(shifts) <= _LEAST_SHIFT:
        return None
    shift_xy = [stride / 2 - offset for stride, offset in zip(strides, measured, strict=True)][::-1]
    moved = known.boxes_xyxy + known.boxes_xyxy.new_tensor(shift_xy * 2)
    same = call.with_(rois=torch.cat([call.rois[:, :1], moved], 1), aligned=True)  # what pool_regions computes
    height, width = call.output_size_hw
    size = f"{height}" if height == width else f"({height}, {width})"
    ratio = f", sampling_ratio={call.sampling_ratio}" if call.sampling_ratio > 0 else ""
    code = f'pool_regions(features, boxes, {size}, grid.with_offset("calibrated"){ratio})'
    fix = known.fix("grid", None, code, same)
    others: tuple[Fix, ...] = ()
    if all(abs(m / s - (0.0 if call.aligned else 0.5)) <= _LEAST_SHIFT for m, s in zip(measured, strides, strict=True)):
        other = call.with_(aligned=not call.aligned)
        line = call_line(other) if other.aligned else call_line(other)[:-1] + ", aligned=False)"
        others = (known.fix("aligned", other.aligned, line, other),)
    evidence = (
        f"aligned={call.aligned} puts the centre of cell (0, 0) at y = {claimed[0]:.3g}, x = {claimed[1]:.3g} of the "
        f"image; the offset measured on images is y = {measured[0]:.3g}, x = {measured[1]:.3g}: {shifts[0]:.2g} of a "
        f"stride off vertically and {shifts[1]:.2g} horizontally."
    )
    decide = (
        "If later layers were trained with these features, keep it as it was in training: they have learned the shift."
    )
    return Finding("RA108", evidence, tuple(range(len(call.rois))), fix, others, decide)
