"""FLOPs of the operators as FlopCounterMode counts them: numbers worked out by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import roialign
import roialign.integrations.flops  # registers the formulas

FEATURES = torch.rand(1, 5, 32, 32)
ROIS = torch.tensor([[0.0, 2, 2, 10, 14], [0, 4, 4, 9, 5]])  # 8 x 12 and 5 x 1


def flops(function, *tensors):
    with FlopCounterMode(display=False) as counter:
        function(*tensors)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("count", "function"),
    [
        (2 * 5 * 3 * 2 * 4 * 8, lambda f, r: roialign.roi_align(f, r, (3, 2), 1.0, 2)),
        (2 * 5 * 3 * 2 * 4 * 8, lambda f, r: roialign.roi_align(f, r, (3, 2), 1.0, 2, mode="max")),
        # bins of 4 x 4 cells and of 2.5 x 1 / 3
        ((4 * 4 + 1 * 3) * 6 * 5 * 8, lambda f, r: roialign.roi_align(f, r, (3, 2), 1.0, aligned=True)),
        ((2 * 2 + 1 * 2) * 6 * 5 * 8, lambda f, r: roialign.roi_align(f, r, (3, 2), 0.5)),
        (
            2 * 3 * 2 * 4 * (10 * 5 + 8),
            lambda f, r: roialign.masked_roi_align(f, r, torch.ones(2, 32, 32), (3, 2), 1, 2),
        ),
        (2 * 1 * 5 * 4 * 8, lambda f, r: roialign.ps_roi_align(f, r, (1, 5), 1.0, 2)),
        (0, lambda f, r: roialign.roi_align(f, r[:0], 3, 1.0, 2)),
        (
            ((4 * 4) * 6 + 2 * 6) * 5 * 8,  # the smaller box at half the scale: 2.5 x 0.5 cells
            lambda f, r: roialign.ops.multi_scale_roi_align.multi_scale_roi_align(
                [f, f], r, torch.tensor([0, 1]), [1, 0, 1, 0, 0.5, 0, 0.5, 0], (3, 2), -1, False
            ),
        ),
    ],
)
def test_samples_times_cells_times_two(count, function):
    assert flops(function, FEATURES, ROIS) == count


def test_volumes_read_eight_cells():
    rois = torch.tensor([[0.0, 1, 1, 1, 5, 5, 5]])
    assert flops(lambda: roialign.roi_align_3d(torch.rand(1, 3, 8, 8, 8), rois, 2, 1.0, 2)) == 3 * 8 * 8 * 16
    assert flops(lambda: roialign.roi_align_3d(torch.rand(1, 3, 8, 8, 8), rois, 2, 1.0, -1)) == 3 * 8 * 8 * 16


def test_gradients_count_once_for_features_and_twice_for_boxes():
    forward = flops(lambda f, r: roialign.roi_align(f, r, 3, 1.0, 2), FEATURES, ROIS)
    features, rois = FEATURES.clone().requires_grad_(), ROIS.clone().requires_grad_()
    assert flops(lambda f, r: roialign.roi_align(f, r, 3, 1.0, 2).sum().backward(), features, rois) == 4 * forward


def test_turned_boxes_and_boxes_without_values():
    turned = torch.tensor([[0.0, 8, 8, 6, 3, 30]])
    assert flops(lambda: roialign.roi_align_rotated(FEATURES, turned, 2, 1.0)) == 4 * (3 * 2) * 5 * 8
    on_meta = FEATURES.to("meta"), ROIS.to("meta")
    assert flops(lambda f, r: roialign.roi_align(f, r, 2, 1.0), *on_meta) == 2 * 4 * 5 * 8
