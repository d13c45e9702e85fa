"""detectron2's `Boxes` as roialign's, and back, and its pooler; detectron2 is imported only to make its own boxes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from roialign.errors import BoxesShapeError, FrameError, OptionError
from roialign.geometry import Boxes, Frame
from roialign.regions.multi_scale_roi_align import MultiScaleRoIAlign


def boxes_from(boxes: Any, frame: Frame) -> Boxes:
    """detectron2's `Boxes`, or the boxes of its `Instances`, as `Boxes`.

    Args:
        boxes: what has a `tensor` [N, 4] of x1, y1, x2, y2, or `Instances` with `pred_boxes`, `gt_boxes` or
            `proposal_boxes`, whose `image_size` must then be the frame's size.
        frame: that they are in. The boxes of a detectron2 predictor's results are in the original image; those
            inside of a model in the resized one.

    Raises:
        BoxesShapeError: RA210, for anything else, rotated boxes too.
        FrameError: RA107, if the instances' image does not have the frame's size.
    """
    if hasattr(boxes, "image_size") and hasattr(boxes, "has"):
        if tuple(boxes.image_size) != frame.size_hw:
            raise FrameError(
                f"RA107: expected instances of an image of the frame's size, {frame.size_hw}; got image_size="
                f"{tuple(boxes.image_size)} for [{frame}]. Pass the frame that they are in, then use .to(frame)."
            )
        field = next((name for name in ("pred_boxes", "gt_boxes", "proposal_boxes") if boxes.has(name)), None)
        boxes = boxes.get(field) if field else None
    values = getattr(boxes, "tensor", None)
    if not isinstance(values, Tensor):
        raise BoxesShapeError(
            f"RA210: expected detectron2's Boxes, or Instances with boxes; got a {type(boxes).__name__}. For a tensor "
            "use Boxes(values, frame)."
        )
    return Boxes(values, frame)


def to_detectron2(boxes: Boxes) -> Any:
    """`Boxes` as detectron2's, in float32, with the numbers of their current frame.

    Raises:
        ImportError: if detectron2 is not installed.
    """
    structures = importlib.import_module("detectron2.structures")
    return structures.Boxes(boxes.boxes_xyxy)


class ROIPooler(nn.Module):
    """detectron2's `ROIPooler` on roialign's operators: its arguments, its numbers, all levels in one call.

    Convention: detectron2's boxes, in pixels of the image that entered the backbone.

    Args:
        output_size: bins (height, width), or one number for both.
        scales: cells per pixel of each level: 1 / stride.
        sampling_ratio: samples in each bin along each axis; 0 takes ceil(bin size in cells).
        pooler_type: "ROIAlignV2", which is `aligned=True`, or "ROIAlign".
        canonical_box_size: root of the area of a box that belongs to `canonical_level`.
        canonical_level: binary logarithm of the stride for such a box.

    Raises:
        OptionError: RA506, for "ROIPool" and "ROIAlignRotated", which have no operator for several levels.

    Deterministic. Source: detectron2's modeling/poolers.py; checked against a stand-in of its interface.

    Example:
        >>> import torch
        >>> class Boxes:  # as detectron2.structures.Boxes
        ...     tensor = torch.tensor([[20.0, 30.0, 120.0, 90.0]])
        >>> pooler = ROIPooler(7, scales=(1 / 8, 1 / 16), sampling_ratio=0, pooler_type="ROIAlignV2")
        >>> pooler([torch.rand(1, 8, 32, 48), torch.rand(1, 8, 16, 24)], [Boxes()]).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        output_size: int | tuple[int, int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        if pooler_type not in ("ROIAlign", "ROIAlignV2"):
            raise OptionError(
                f'RA506: expected pooler_type "ROIAlignV2" or "ROIAlign"; got {pooler_type!r}. Keep detectron2\'s own '
                "pooler for it."
            )
        self.pooler = MultiScaleRoIAlign(
            [str(level) for level in range(len(scales))],
            output_size,
            sampling_ratio,
            canonical_scale=canonical_box_size,
            canonical_level=canonical_level,
            scales=list(scales),
            aligned=pooler_type == "ROIAlignV2",
        )

    def forward(self, x: Sequence[Tensor], box_lists: Sequence[Any]) -> Tensor:
        """Pool [K, C, height, width].

        Args:
            x: feature maps [N, C, H, W], in the order of `scales`.
            box_lists: detectron2's `Boxes` for each image.
        """
        maps = {str(level): one for level, one in enumerate(x)}
        boxes = [boxes.tensor for boxes in box_lists]
        pooled: Tensor = self.pooler(maps, boxes, [])  # scales are given: sizes of images are not asked for
        return pooled
