"""What observers of calls are shown, and what a call can be asked."""

import pytest
import torch

import roialign
from roialign.ops import calls

FEATURES = torch.rand(2, 3, 8, 10)
BOXES = [torch.tensor([[1.0, 1, 6, 7]]), torch.tensor([[-4.0, 0, 4, 8], [90, 90, 99, 99]])]


@pytest.fixture
def seen(monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    return seen


def test_observers_see_each_eager_call_with_its_boxes_as_rois(seen):
    roialign.roi_align(FEATURES, BOXES, 2, 0.5, 4, True)
    roialign.RoIAlign((3, 2), 1.0, -1)(FEATURES, BOXES)
    first, second = seen
    assert first.input is FEATURES
    assert first.rois.tolist() == [[0, 1, 1, 6, 7], [1, -4, 0, 4, 8], [1, 90, 90, 99, 99]]
    assert (first.options, first.map_size_hw) == ((2, 2, 0.5, 4, True), (8, 10))
    assert second.options == (3, 2, 1.0, -1, False)


def test_observers_are_spared_calls_that_cannot_run_and_compiled_ones(seen):
    with pytest.raises(roialign.RoIError):
        roialign.roi_align(FEATURES, BOXES, 0)
    torch._dynamo.reset()
    torch.compile(roialign.roi_align, backend="eager", fullgraph=True)(FEATURES, BOXES, 2)
    assert not seen


def test_a_call_can_be_run_again_with_other_arguments(seen):
    output = roialign.roi_align(FEATURES.clone().requires_grad_(), BOXES, 2, 1.0, 4)
    (call,) = seen
    again, coverage = call.run()
    assert torch.equal(again, output)
    assert not again.requires_grad
    assert coverage.tolist() == [1.0, 0.625, 0.0]  # 5 of the 8 sampled columns of the second box are on the map
    assert torch.equal(call.coverage(), coverage)
    halved = call.with_(spatial_scale=0.5)
    assert (halved.spatial_scale, call.spatial_scale) == (0.5, 1.0)
    assert torch.equal(halved.run()[0], roialign.roi_align(FEATURES, BOXES, 2, 0.5, 4))
