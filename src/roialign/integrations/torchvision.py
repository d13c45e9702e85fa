"""Frames of torchvision's pipelines, its bounding boxes as `Boxes`, and its detectors on roialign's poolers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors  # type: ignore[import-untyped]
from torchvision.models.detection.image_list import ImageList  # type: ignore[import-untyped]
from torchvision.models.detection.transform import GeneralizedRCNNTransform  # type: ignore[import-untyped]
from torchvision.transforms import v2  # type: ignore[import-untyped]

from roialign.errors import BoxesShapeError, FrameError
from roialign.geometry import Boxes, Frame
from roialign.geometry.formats import ORDERS, from_xyxy
from roialign.integrations import _probe
from roialign.integrations.detectors import downgrade as downgrade
from roialign.integrations.detectors import upgrade as upgrade

_FORMATS = {"XYXY": ORDERS[0], "XYWH": ORDERS[1], "CXCYWH": ORDERS[2]}
_PRESETS = "torchvision.transforms._presets"  # the `transforms()` of pretrained weights


def apply(transform: Any, image: Any, *targets: Any, frame: Frame | None = None) -> tuple[Any, ...]:
    """Run a `torchvision.transforms.v2` pipeline, and get the frame of the image that comes out.

    The frame goes through the pipeline with the image, with the same random numbers. Steps that do not act on each axis
    separately (rotation, shear, perspective, elastic) raise when they are drawn.

    Args:
        transform: a v2 transform, a `Compose` or `nn.Sequential` of them, or the `transforms()` of weights.
        image: a tensor [..., H, W], a tv_tensor, a PIL image, or an array [H, W, C].
        *targets: whatever else is to go through it: bounding boxes, masks, dicts of them.
        frame: the frame of `image`; a new one if left out.

    Returns:
        The transformed image, the targets, and last the `Frame`, a descendant of `frame`.

    Raises:
        FrameError: RA107, for steps that cannot be followed, and where the pipeline's boxes do not go where the frame
            says, as with a custom transform that treats images specially.

    Example:
        >>> from torchvision.transforms import v2
        >>> train = v2.Compose([v2.RandomHorizontalFlip(p=1.0), v2.Resize(240), v2.CenterCrop(224)])
        >>> image, frame = apply(train, torch.rand(3, 480, 640))
        >>> frame
        Frame(image 480x640 > flip horizontally 480x640 > resize 240x320 > crop 224x224)
        >>> Boxes([[0, 0, 64, 480]], frame.root).to(frame).boxes_xyxy
        tensor([[240.,  -8., 272., 232.]])
    """
    size_hw = _size_hw(image)
    frame = frame or Frame.image(size_hw)
    if frame.size_hw != size_hw:
        raise FrameError(
            f"RA107: expected the frame of the image, {_words(size_hw)}; got [{frame}]. Pass the frame of the image "
            "that goes in."
        )
    if type(transform).__module__ == _PRESETS:
        return (transform(image), *targets, frame_after(transform, frame))
    boxes = _probe.witness(transform, frame)
    try:
        outputs = transform((image, *targets, _probe.Probe.at(frame), *boxes))
    except TypeError as error:
        raise FrameError(
            "RA107: expected a pipeline of torchvision.transforms.v2 that takes boxes along with the image; got: "
            f"{error}. The first version of the transforms and plain functions take one image only: use the v2 "
            "transform of the same name, v2.Lambda(function, tv_tensors.Image) for functions. AutoAugment and "
            "similar transforms warp only the image and cannot be followed."
        ) from error
    after = _probe.frame_of(outputs, len(targets) + 1)
    _probe.check(frame, after, _size_hw(outputs[0]), outputs[len(targets) + 2 :])
    return (*outputs[: len(targets) + 1], after)


def frame_after(transform: Any, frame: Frame | tuple[int, int]) -> Frame:
    """The frame that a pipeline without random steps makes of an image, without an image.

    Args:
        transform: as for `apply`.
        frame: of the image, or its size (height, width) for a new one.

    Raises:
        FrameError: RA107, where `apply` raises it, and if the pipeline draws random numbers: each run then has its own
            frame, which `apply` returns.

    Example:
        >>> from torchvision.models import ResNet50_Weights
        >>> frame_after(ResNet50_Weights.IMAGENET1K_V2.transforms(), (480, 640))
        Frame(image 480x640 > resize 232x309 > crop 224x224)
    """
    frame = frame if isinstance(frame, Frame) else Frame.image(frame)
    transform = _preset_as_v2(transform) if type(transform).__module__ == _PRESETS else transform
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        after: Frame
        *_, after = apply(transform, torch.zeros(1, 1, 1).expand(3, *frame.size_hw), frame=frame)
        random = not torch.equal(before, torch.get_rng_state())
    if random:
        raise FrameError(
            "RA107: expected a pipeline without random steps; got one that draws random numbers, so each run has its "
            "own frame. Run it on the image: image, frame = apply(transform, image)."
        )
    return after


def batch_frames(
    transform: GeneralizedRCNNTransform, frames: Sequence[Frame | tuple[int, int]], image_list: ImageList | None = None
) -> list[Frame]:
    """The frames of a batch as torchvision's detectors see it: each image resized, then padded to the largest.

    The transform asks for a scale, floors the sizes that it gives, and resizes by the ratio of those sizes: so
    do these frames, and so does torchvision with boxes. `frame.parent` is the resized image without padding,
    which is the frame that the detector's losses and proposals know.

    Args:
        transform: a detector's `model.transform`.
        frames: of the images of one batch, or their sizes (height, width); padding depends on all of them.
        image_list: what the transform returned. Needed where it chose a size at random, as in training.

    Raises:
        FrameError: RA107, if the sizes are random and `image_list` was not given, or does not fit.

    Example:
        >>> from torchvision.models.detection.transform import GeneralizedRCNNTransform
        >>> transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
        >>> batch_frames(transform, [(480, 640), (600, 400)])[0]
        Frame(image 480x640 > resize 800x1066 > pad 1216x1088)
    """
    images = [frame if isinstance(frame, Frame) else Frame.image(frame) for frame in frames]
    if image_list is None:
        resized = [frame.resize(_rcnn_size(transform, frame)) for frame in images]
        multiple = int(transform.size_divisible)
        height, width = (
            math.ceil(max(frame.size_hw[axis] for frame in resized) / multiple) * multiple for axis in (0, 1)
        )
    else:
        if len(image_list.image_sizes) != len(images):
            raise FrameError(
                f"RA107: expected a frame for each of the {len(image_list.image_sizes)} images of image_list; got "
                f"{len(images)}. Pass the frames of the images of that batch, in order."
            )
        resized = [frame.resize(size_hw) for frame, size_hw in zip(images, image_list.image_sizes, strict=True)]
        height, width = image_list.tensors.shape[-2:]
    return [frame.pad(0, 0, width - frame.size_hw[1], height - frame.size_hw[0]) for frame in resized]


def boxes_from(bounding_boxes: tv_tensors.BoundingBoxes, frame: Frame) -> Boxes:
    """Torchvision's bounding boxes as `Boxes`, by their own format.

    Args:
        bounding_boxes: in format XYXY, XYWH or CXCYWH.
        frame: that they are in; its size is their `canvas_size`.

    Raises:
        FrameError: RA107, if the canvas does not have the frame's size.
        BoxesShapeError: RA210, for rotated formats.

    Example:
        >>> from torchvision import tv_tensors
        >>> rows = tv_tensors.BoundingBoxes([[10, 20, 30, 40]], format="XYWH", canvas_size=(480, 640))
        >>> boxes_from(rows, Frame.image((480, 640))).boxes_xyxy
        tensor([[10., 20., 40., 60.]])
    """
    name = bounding_boxes.format.value
    if name not in _FORMATS:
        raise BoxesShapeError(
            f"RA210: expected bounding boxes in format {', '.join(_FORMATS)}; got {name}. For the upright boxes around "
            "rotated ones use torchvision.ops.box_convert."
        )
    canvas_hw = tuple(bounding_boxes.canvas_size)
    if canvas_hw != frame.size_hw:
        raise FrameError(
            f"RA107: expected bounding boxes on a canvas of the frame's size, {_words(frame.size_hw)}; got canvas_size="
            f"{canvas_hw} for [{frame}]. Pass the frame that they are in, then use .to(frame)."
        )
    values = bounding_boxes.as_subclass(Tensor)
    return Boxes(values, frame) if name == "XYXY" else _reader(name)(values, frame)


def to_bounding_boxes(boxes: Boxes, format: str = "XYXY") -> tv_tensors.BoundingBoxes:
    """`Boxes` as torchvision's bounding boxes, on a canvas of their frame's size.

    Args:
        boxes: to convert.
        format: "XYXY", "XYWH" or "CXCYWH".

    Raises:
        BoxesShapeError: RA210, for another format.

    Example:
        >>> boxes = Boxes([[10, 20, 40, 60]], Frame.image((480, 640)))
        >>> to_bounding_boxes(boxes, "CXCYWH")
        BoundingBoxes([[25., 40., 30., 40.]], format=BoundingBoxFormat.CXCYWH, canvas_size=(480, 640), ...)
    """
    if format not in _FORMATS:
        raise BoxesShapeError(f"RA210: expected format {', '.join(_FORMATS)}; got {format!r}.")
    values = from_xyxy(boxes.boxes_xyxy, _FORMATS[format])
    return tv_tensors.BoundingBoxes(values, format=format, canvas_size=boxes.frame.size_hw)


def _reader(name: str) -> Any:
    return Boxes.from_xywh if name == "XYWH" else Boxes.from_cxcywh


def _size_hw(image: Any) -> tuple[int, int]:
    if type(image).__module__ == "numpy":
        return image.shape[0], image.shape[1]
    height, width = v2.functional.get_size(image)
    return height, width


def _words(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def _preset_as_v2(preset: Any) -> nn.Module:
    """What the `transforms()` of weights do to an image's size, as v2 transforms, which can be followed."""
    steps = []
    if getattr(preset, "resize_size", None) is not None:
        steps.append(v2.Resize(preset.resize_size))
    if getattr(preset, "crop_size", None) is not None:
        steps.append(v2.CenterCrop(preset.crop_size))
    composed: nn.Module = v2.Compose(steps or [v2.Identity()])
    return composed


def _rcnn_size(transform: GeneralizedRCNNTransform, frame: Frame) -> tuple[int, int]:
    if transform.fixed_size is not None:
        return transform.fixed_size[1], transform.fixed_size[0]
    if transform.training and (len(transform.min_size) > 1 or transform._skip_resize):
        raise FrameError(
            "RA107: expected a transform without a random size; got one in training with "
            f"min_size={transform.min_size}. Pass what it returned: images, _ = transform(images); "
            "batch_frames(transform, frames, images)."
        )
    scale = min(transform.min_size[-1] / min(frame.size_hw), transform.max_size / max(frame.size_hw))
    # as F.interpolate does with recompute_scale_factor=True
    return math.floor(float(frame.size_hw[0]) * scale), math.floor(float(frame.size_hw[1]) * scale)
