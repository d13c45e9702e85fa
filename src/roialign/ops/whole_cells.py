"""What roi_pool and ps_roi_pool share: boxes of whole cells, no samples, and torchvision's faults on request."""

from typing import Any

from roialign.ops import calls, validate
from roialign.ops.modules import RoIModule
from roialign.ops.perform import check_compat
from roialign.ops.scripting import BroadcastingList2, Legacy


class WholeCellPool(RoIModule):
    """The constructor and the attributes of the modules."""

    def __init__(
        self,
        output_size: BroadcastingList2[int],
        spatial_scale: float,
        *,
        compat: Legacy = None,
    ) -> None:
        super().__init__()
        validate.check_options(output_size, spatial_scale, -1)
        check_compat(compat)
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.compat = compat


def as_call(
    operator: str, input: Any, boxes: Any, output_size: Any, spatial_scale: Any, compat: Any, *, own_channels: bool
) -> calls.RoICall:
    """The call with its boxes as rois, once shapes, types and options are found usable."""
    legacy = check_compat(compat)
    validate.check_input(input)
    size_hw, scale, _ = validate.check_options(output_size, spatial_scale, -1)
    rois = validate.as_rois(boxes, input)
    if own_channels:
        validate.check_own_channels(input, size_hw)
    call = calls.RoICall(input, rois, size_hw, scale, -1, False, operator, **calls.form_of(boxes))
    return call.with_(further=calls.given(compat=compat)) if legacy else call
