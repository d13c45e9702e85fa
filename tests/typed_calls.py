"""A page of code as users write it: `make check` holds its types, and what must be refused, under mypy --strict."""

from typing import assert_type

import torch
from torch import Tensor

import roialign

features, rois, masks = torch.rand(1, 8, 32, 32), torch.tensor([[0.0, 8, 8, 64, 64]]), torch.ones(1, 14, 14)
listed = [rois[:, 1:]]


def operators() -> None:
    assert_type(roialign.roi_align(features, rois, 7, 1 / 16), Tensor)
    assert_type(roialign.roi_align(features, listed, (7, 7), 1 / 16, 2, True, mode="max", compat="onnx"), Tensor)
    assert_type(roialign.roi_pool(features, tuple(listed), [7, 7], compat="torchvision"), Tensor)
    assert_type(roialign.masked_roi_align(features, rois, [masks], 7, masks_in="box"), Tensor)
    assert_type(roialign.crop_and_resize(features, listed[0], torch.zeros(1, dtype=torch.int64), 7), Tensor)
    assert_type(roialign.paste_masks(masks, listed[0], (64, 64)), Tensor)
    roialign.roi_align(features, rois, "7")  # type: ignore[arg-type]
    roialign.roi_align(features, rois, 7, mode="mean")  # type: ignore[arg-type]
    roialign.roi_align(features, rois, 7, compat="pytorch")  # type: ignore[arg-type]
    roialign.roi_align(features, rois.numpy(), 7)  # type: ignore[arg-type]
    roialign.roi_pool(features, rois, 7, compat="mmcv")  # type: ignore[arg-type]
    roialign.masked_roi_align(features, rois, masks, 7, masks_in="frame")  # type: ignore[arg-type]
    roialign.roi_align_rotated(features, rois, 7, compat="onnx")  # type: ignore[arg-type]


def modules() -> None:
    pool = roialign.RoIAlign(7, 1 / 16, 2, aligned=True, mode="max")
    assert_type(pool(features, rois), Tensor)
    assert_type(roialign.RoIPool((7, 7), 1 / 16)(features, listed), Tensor)
    assert_type(roialign.PSRoIAlign(2, 1 / 16, 2)(features, rois), Tensor)
    assert_type(roialign.PSRoIPool(2, 1 / 16)(features, rois), Tensor)
    assert_type(roialign.PrRoIPool(2, 1 / 16)(features, rois), Tensor)
    assert_type(roialign.RoIAlignRotated(2, 1 / 16, 2)(features, rois), Tensor)
    assert_type(roialign.MaskedRoIAlign(2, 1 / 16, 2)(features, rois, masks), Tensor)
    assert_type(roialign.RoIAlign1d(2, 1 / 16, 2)(features[:, :, 0], [rois[:, 1:3]]), Tensor)
    assert_type(roialign.RoIAlign3d(2, 1 / 16, 2)(features[:, :, None], rois), Tensor)
    pool(features)  # type: ignore[call-arg]
    pool(features, 7)  # type: ignore[arg-type]
    roialign.RoIAlign(7, 1 / 16, 2, mode="mean")  # type: ignore[arg-type]


def regions() -> None:
    grid = roialign.FeatureGrid((32, 32), (16.0, 16.0))
    boxes = roialign.Boxes(listed[0], roialign.Frame.image((512, 512)))
    assert_type(roialign.pool_regions(features, boxes, 7, grid), Tensor)
    assert_type(roialign.pool_regions([features], listed, 7, [grid], return_levels=True), tuple[Tensor, Tensor])
    pooler = roialign.MultiScaleRoIAlign(["0"], 7, 2)
    assert_type(pooler({"0": features}, listed, [(512, 512)]), Tensor)
    roialign.pool_regions(features, boxes, 7, None)  # type: ignore[call-overload]
    pooler([features], listed, [(512, 512)])  # type: ignore[arg-type]
    extractor = roialign.RegionExtractor(torch.nn.Conv2d(3, 8, 16, 16), 7)
    assert_type(extractor(["photo.jpg", rois.numpy()], [boxes, boxes]).features, Tensor)
    extractor(3, boxes)  # type: ignore[arg-type]
