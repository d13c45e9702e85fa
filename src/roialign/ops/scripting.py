"""What scripted calls do in place of `validate` and `check_compat`, and types of arguments that TorchScript knows.

A type checker sees the narrower types that the functions are meant to be called with.
"""

from typing import TYPE_CHECKING, List, Optional, Tuple, TypeVar, Union  # noqa: UP035  TorchScript knows these names

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    _T = TypeVar("_T")
    BroadcastingList2 = Union[_T, Sequence[_T]]  # noqa: UP007
    AnyBoxes = Tensor | Sequence[Tensor]
    Mode = Literal["avg", "max"]
    Compat = Literal["torchvision", "detectron2", "mmcv", "onnx", "onnx-10"] | None
    Legacy = Literal["torchvision"] | None
else:
    from torch.jit.annotations import BroadcastingList2 as BroadcastingList2

    AnyBoxes = Union[Tensor, List[Tensor]]  # noqa: UP006, UP007
    Mode = str
    Compat = Legacy = Optional[str]  # noqa: UP045


def scripted_rois(boxes: AnyBoxes, input: Tensor) -> Tensor:
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


def scripted_size(output_size: BroadcastingList2[int]) -> Tuple[int, int]:  # noqa: UP006
    """Bins (height, width); TorchScript makes two of one number."""
    return output_size[0], output_size[1]  # type: ignore[index]


def scripted_legacy(compat: Legacy) -> bool:
    """Whether torchvision's faults are asked for."""
    if compat is not None and compat != "torchvision":
        raise RuntimeError('RA506: expected compat, None or "torchvision". Leave it out for the default.')
    return compat is not None
