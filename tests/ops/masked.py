"""Calls of `masked_roi_align`, and what they give by the definition, in plain loops."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import Case, axis_positions, bilinear, random_case

NEAR = (-1e-7, 1e-7)
KINDS = ("bool", "box", "float", "empty")


@dataclass(frozen=True)
class Masked:
    """A call of `roi_align`, with masks."""

    case: Case
    mask_hw: tuple[int, int]
    kind: str
    in_image: bool

    @property
    def sampling(self):
        return (*self.case.sampling, self.in_image)

    @property
    def options(self):
        return (*self.case.options, self.in_image)

    def masks(self, dtype=torch.float64) -> Tensor:
        shape = len(self.case.boxes), *self.mask_hw
        values = torch.rand(shape, generator=torch.Generator().manual_seed(self.case.seed))
        if self.kind == "bool":
            return values > 0.4
        if self.kind == "box":  # a rectangle of ones
            return torch.ones_like(values[:, :1, :1]).bool() & (values.new_tensor(range(shape[2])) < shape[2] / 2)[
                None, None
            ].expand(shape)
        return (values * (self.kind != "empty")).to(dtype)


def masked_case(seed: int, largest: int = 8, count: int | None = None) -> Masked:
    case = random_case(seed, largest=largest)
    rng = random.Random(seed + 77)
    if count:
        case = case.with_boxes(("inside", "partly outside"), count)
    in_image = rng.random() < 0.5
    height, width = (max(1, round(side / case.spatial_scale)) for side in case.input_shape[2:])
    mask_hw = (min(height, 60), min(width, 60)) if in_image else (rng.randint(1, 9), rng.randint(1, 9))
    return Masked(case, mask_hw, rng.choice(KINDS), in_image)


def along(case: Case, low: float, high: float, pooled: int, pixels: int, in_image: bool):
    """For each bin the samples' (position on the map, position on the mask) along one axis."""
    bins, grid = axis_positions(low, high, pooled, *case.sampling)
    shift = 0.5 if case.aligned else 0.0
    for p, positions in enumerate(bins):
        if in_image:
            yield [(value, (value + shift) / case.spatial_scale - 0.5) for value in positions]
        else:
            yield [(value, (p + (i + 0.5) / grid) / pooled * pixels - 0.5) for i, value in enumerate(positions)]


def brute_force(masked: Masked, features: Tensor, rois: Tensor, masks: Tensor) -> Tensor:
    """NaN for bins at the edge of a mask, where rounding decides whether they have any weight."""
    case, planes, weights = masked.case, features.tolist(), masks.double().tolist()
    output = features.new_zeros(len(rois), features.shape[1], *case.output_size_hw)
    for k, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        rows = list(along(case, y1, y2, case.output_size_hw[0], masked.mask_hw[0], masked.in_image))
        columns = list(along(case, x1, x2, case.output_size_hw[1], masked.mask_hw[1], masked.in_image))
        for p, ys in enumerate(rows):
            for q, xs in enumerate(columns):
                samples = [(bilinear(weights[k], my, mx), y, x) for y, my in ys for x, mx in xs]
                total = sum(weight for weight, _, _ in samples)
                if total < 1e-9:
                    around = [(my + dy, mx + dx) for _, my in ys for _, mx in xs for dy in NEAR for dx in NEAR]
                    output[k, :, p, q] = math.nan if any(bilinear(weights[k], *place) for place in around) else 0.0
                    continue
                for c, plane in enumerate(planes[int(image)]):
                    weighted = sum(weight * bilinear(plane, y, x) for weight, y, x in samples)
                    output[k, c, p, q] = weighted / total
    return output


def all_results(
    masked: Masked, features: Tensor, rois: Tensor, masks: Tensor, grad: Tensor, backend=torch.ops.roialign
):
    """Output, coverage, and the gradients to features, boxes and masks."""
    output, coverage = backend.masked_roi_align(features, rois, masks, *masked.options)
    to_features = backend.masked_roi_align_backward(grad, rois, masks, *masked.case.image_size, *masked.sampling)
    to_boxes, to_masks = backend.masked_roi_align_backward_boxes(grad, features, rois, masks, *masked.sampling)
    return [output, coverage, to_features, to_boxes, to_masks]
