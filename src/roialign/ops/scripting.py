"""What scripted calls do in place of `validate` and `check_compat`: TorchScript cannot compile those."""

from typing import List, Optional, Union  # noqa: UP035  TorchScript knows these names

import torch
from torch import Tensor


def scripted_rois(boxes: Union[Tensor, List[Tensor]], input: Tensor) -> Tensor:  # noqa: UP006, UP007
    """Boxes in either of torchvision's two forms as rois [K, 5] of the type that is computed in, unchecked."""
    if isinstance(boxes, Tensor):
        rois = boxes
    else:
        parts: List[Tensor] = []  # noqa: UP006
        for image, image_boxes in enumerate(boxes):
            images = torch.full_like(image_boxes[:, :1], float(image), dtype=torch.float64)
            parts.append(torch.cat([images, image_boxes.to(torch.float64)], dim=1))  # exact for any type of boxes
        rois = torch.cat(parts) if len(parts) > 0 else torch.empty(0, 5)
    return rois.to(torch.float64 if input.dtype == torch.float64 else torch.float32)


def scripted_legacy(compat: Optional[str]) -> bool:  # noqa: UP045
    """Whether torchvision's faults are asked for."""
    if compat is not None and compat != "torchvision":
        raise RuntimeError('RA506: expected compat, None or "torchvision". Leave it out for none.')
    return compat is not None
