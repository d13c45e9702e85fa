"""A tensor that torchvision's v2 transforms take along with an image, and that writes down what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]
from torchvision.transforms import v2  # type: ignore[import-untyped]
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]  # noqa: N812

from roialign.errors import FrameError
from roialign.geometry import Frame
from roialign.geometry.formats import ORDERS, to_xyxy

_WITNESSES = 8  # along each axis


class Probe(tv_tensors.TVTensor):  # type: ignore[misc]
    """An empty tensor with the `Frame` of the image that it travels with."""

    frame: Frame

    @classmethod
    def at(cls, frame: Frame) -> Probe:
        """A probe that has come to `frame`."""
        probe: Probe = torch.empty(0).as_subclass(cls)
        probe.frame = frame
        return probe

    def as_subclass(self, cls: Any) -> Any:
        """Itself: `v2.ToPureTensor` would take the frame away."""
        return self


def frame_of(outputs: Any, place: int) -> Frame:
    """The frame of the probe at `place` of a pipeline's outputs."""
    probe = outputs[place] if isinstance(outputs, (tuple, list)) and len(outputs) > place else None
    if not isinstance(probe, Probe):
        raise FrameError(
            "RA107: expected a pipeline that passes on everything it is given, (image, *targets, frame); got one "
            f"that returned a {type(outputs).__name__} without the frame. Restrict v2.Lambda to images: "
            "v2.Lambda(function, tv_tensors.Image, PIL.Image.Image)."
        )
    return probe.frame


def witness(transform: Any, frame: Frame) -> tuple[Tensor, ...]:
    """Bounding boxes to send along with a probe: torchvision moves them by its own means."""
    steps = list(_steps(transform))
    choosy = any(isinstance(step, v2.RandomIoUCrop) for step in steps)  # looks at the sample's own boxes
    mirrored = any(getattr(step, "padding_mode", "constant") != "constant" for step in steps)  # refuses boxes
    if choosy or mirrored:
        return ()
    boxes = _cells(frame)
    return (tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=frame.size_hw, clamping_mode=None),)


def check(before: Frame, after: Frame, size_hw: tuple[int, int], witnesses: tuple[Tensor, ...]) -> None:
    """Raise if the image that came out, or the boxes that went with it, do not lie where the frame says."""
    if size_hw != after.size_hw:
        raise FrameError(
            f"RA107: expected an image of {after.size_hw[0]}x{after.size_hw[1]}, as [{after}] says; the pipeline "
            f"returned one of {size_hw[0]}x{size_hw[1]}. A step changes images in its own way: build it from "
            "torchvision.transforms.v2.functional."
        )
    boxes = _cells(before)
    seen = torch.ones(len(boxes), dtype=torch.bool)
    for frame in after.chain[len(before.chain) :]:  # a clamp may move what left the image on the way
        mapped = before.map_to(frame).boxes(boxes)
        seen &= (mapped[:, :2] >= 0).all(1) & (mapped[:, 2] <= frame.size_hw[1]) & (mapped[:, 3] <= frame.size_hw[0])
    expected = before.map_to(after).boxes(boxes)[seen]
    # torchvision rounds in float32, and centres boxes a pixel off the image where a centred crop is larger than it
    ways = after.chain[len(before.chain) - 1 :]
    scales = (abs(scale) for frame in ways for scale in frame.map_to(after).scale_yx)
    allowed = 1.5 * max(1.0, *scales)
    for moved in witnesses:
        found = moved.detach().as_subclass(Tensor).double()
        if len(found) != len(boxes):  # some were removed on the way
            continue
        misses = [float((to_xyxy(found[seen], order) - expected).abs().amax()) for order in ORDERS if seen.any()]
        if misses and min(misses) > allowed:
            raise FrameError(
                f"RA107: expected boxes that move as the frame says, [{after}]; the pipeline moved its boxes "
                f"differently, by {min(misses):.3g} pixels. A step moves them in its own way: build it from "
                "torchvision.transforms.v2.functional."
            )


def _cells(frame: Frame) -> Tensor:
    height, width = frame.size_hw
    y, x = torch.meshgrid(torch.arange(_WITNESSES), torch.arange(_WITNESSES), indexing="ij")
    corners = torch.stack((x, y, x + 1, y + 1), 2).reshape(-1, 4).double() / _WITNESSES
    return corners * torch.tensor([width, height, width, height])


def _steps(transform: Any) -> Iterator[Any]:
    yield transform
    inner = transform if isinstance(transform, torch.nn.Sequential) else getattr(transform, "transforms", ())
    for step in inner:
        yield from _steps(step)


def _kernel(function: Any) -> Callable[[Callable[..., Frame]], Callable[..., Frame]]:
    """Register a rule from frame to frame as what a function of v2 does to a probe."""

    def register(rule: Callable[..., Frame]) -> Callable[..., Frame]:
        @F.register_kernel(function, Probe)
        def kernel(probe: Probe, *args: Any, **kwargs: Any) -> Probe:
            return Probe.at(rule(probe.frame, *args, **kwargs))

        return rule

    return register


def _moved(frame: Frame, function: Any, *args: Any) -> tuple[tuple[int, int], int, int]:
    """What torchvision itself says of a step: the size after it, and where the first pixel goes, left and top."""
    corner = tv_tensors.BoundingBoxes(
        torch.zeros(1, 4, dtype=torch.float64), format="XYXY", canvas_size=frame.size_hw, clamping_mode=None
    )
    moved = function(corner, *args)
    return moved.canvas_size, int(moved[0, 0]), int(moved[0, 1])


@_kernel(F.horizontal_flip)
def _(frame: Frame) -> Frame:
    return frame.flip_horizontal()


@_kernel(F.vertical_flip)
def _(frame: Frame) -> Frame:
    return frame.flip_vertical()


@_kernel(F.resize)
def _(frame: Frame, size: Any, interpolation: Any = None, max_size: int | None = None, antialias: Any = None) -> Frame:
    return frame.resize(_moved(frame, F.resize, size, v2.InterpolationMode.BILINEAR, max_size)[0])


@_kernel(F.crop)
def _(frame: Frame, top: int, left: int, height: int, width: int) -> Frame:
    return frame.crop(top, left, height, width)


@_kernel(F.center_crop)
def _(frame: Frame, output_size: Any) -> Frame:
    sizes = list(output_size) if isinstance(output_size, (list, tuple)) else [output_size]
    height, width = sizes if len(sizes) == 2 else sizes * 2
    top, left = (_centre(old, new) for old, new in zip(frame.size_hw, (height, width), strict=True))
    return frame.crop(top, left, height, width)


def _centre(old: int, new: int) -> int:
    """The first pixel of a centred crop; boxes go elsewhere, by a pixel, where it is larger than the image."""
    return -((new - old) // 2) if new > old else round((old - new) / 2)


@_kernel(F.resized_crop)
def _(frame: Frame, top: int, left: int, height: int, width: int, size: Any, *_: Any, **__: Any) -> Frame:
    cropped = frame.crop(top, left, height, width)
    return cropped.resize(_moved(cropped, F.resize, size)[0])


@_kernel(F.pad)
def _(frame: Frame, padding: Any, fill: Any = None, padding_mode: str = "constant") -> Frame:
    (height, width), left, top = _moved(frame, F.pad, padding)
    return frame.pad(left, top, width - left - frame.size_hw[1], height - top - frame.size_hw[0])


@_kernel(F.affine)
def _affine(
    frame: Frame,
    angle: float,
    translate: Any,
    scale: float,
    shear: Any,
    interpolation: Any = None,
    fill: Any = None,
    center: Any = None,
) -> Frame:
    turned = angle % 360 == 180
    if (angle % 360 and not turned) or any(shear if isinstance(shear, (list, tuple)) else [shear]):
        raise _refusal(f"an affine map with angle={angle:g} and shear={shear}")
    sign = -scale if turned else scale
    height, width = frame.size_hw
    center_x, center_y = center or (width / 2, height / 2)
    shift_x, shift_y = (old - sign * old + move for old, move in zip((center_x, center_y), translate, strict=True))
    return frame.affine((height, width), (sign, sign), (shift_y, shift_x))


@_kernel(F.rotate)
def _(
    frame: Frame, angle: float, interpolation: Any = None, expand: bool = False, center: Any = None, fill: Any = None
) -> Frame:
    if angle % 180:
        raise _refusal(f"a rotation by {angle:g} degrees")
    return _affine(frame, angle, (0, 0), 1.0, (0, 0), center=center) if angle % 360 else frame


@_kernel(F.perspective)
def _(frame: Frame, *_: Any, **__: Any) -> Frame:
    raise _refusal("a change of perspective")


@_kernel(F.elastic)
def _(frame: Frame, *_: Any, **__: Any) -> Frame:
    raise _refusal("an elastic deformation")


@_kernel(F.five_crop)
@_kernel(F.ten_crop)
def _(frame: Frame, *_: Any, **__: Any) -> Frame:
    raise _refusal("a step that makes several images")


def _refusal(what: str) -> FrameError:
    return FrameError(
        f"RA107: expected steps that act on each axis separately (resize, crop, pad, flip, shift); got {what}, after "
        "which boxes are no longer boxes. Leave the step out, or let torchvision move the boxes and start a new "
        "frame with Frame.image(size_hw)."
    )
