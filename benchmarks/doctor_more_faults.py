"""Mistakes that people reported and that the first 43 lack, with the codes that name them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torchvision
from torch import Tensor

import roialign

from .doctor_faults import Fault
from .doctor_pipelines import Intake

_MAP, _PYRAMID, _EXTRACTOR = "map", "pyramid", "extractor"
_ALL = (_MAP, "other operator", _PYRAMID, _EXTRACTOR)
_EDGE_PX = 2.0


def _boxes(change: Callable[[Intake], Tensor]) -> Callable[[Intake, random.Random], Intake]:
    return lambda intake, rng: replace(intake, boxes=[change(intake)])


def _made_before(*names: str) -> Callable[[Intake, random.Random], Intake]:
    """One of the mistakes that the program itself knows."""
    return lambda intake, rng: replace(intake.wrong[rng.choice(names)](), rows=intake.rows)


def _fewer_lists(intake: Intake, rng: random.Random) -> Intake:
    lists = intake.boxes[: rng.randint(1, len(intake.boxes) - 1)]
    return replace(intake, boxes=lists, rows=False)


def _within(intake: Intake) -> bool:
    """Whether all boxes lie in the frame, as healthy ones do."""
    height, width = intake.frame_hw
    boxes = torch.cat(list(intake.boxes))
    return bool((boxes >= -_EDGE_PX).all() & (boxes[:, 2:] <= boxes.new_tensor([width, height]) + _EDGE_PX).all())


def _within_the_picture(intake: Intake) -> bool:
    """Whether none reaches into the bars of a letterbox."""
    scale, x, y = intake.photo_to_frame
    height, width = intake.scene.size_hw
    corner = intake.xyxy.new_tensor([x, y])
    ends = corner + intake.xyxy.new_tensor([width * scale, height * scale]) + _EDGE_PX
    return bool((intake.xyxy[:, :2] >= corner - _EDGE_PX).all() & (intake.xyxy[:, 2:] <= ends).all())


def _within_each(intake: Intake) -> bool:
    """Whether none reaches into what an image of the batch was padded with."""
    pairs = zip(intake.boxes, intake.image_shapes, strict=True)
    return all(bool((some[:, 2:] <= some.new_tensor([w, h]) + _EDGE_PX).all()) for some, (h, w) in pairs)


def _sides(size_hw: tuple[int, int]) -> Tensor:
    return torch.tensor([size_hw[1], size_hw[0]] * 2, dtype=torch.float32)


def _mirrored(intake: Intake, columns: list[int]) -> Tensor:
    """Mirrored in x: what `columns` picks of x1, y1, x2, y2, each x measured from the right."""
    width = intake.frame_hw[1]
    x = torch.tensor([True, False, True, False])
    return torch.where(x, width - intake.xyxy, intake.xyxy)[:, columns]


def _from_the_bottom(intake: Intake, columns: list[int]) -> Tensor:
    height = intake.frame_hw[0]
    y = torch.tensor([False, True, False, True])
    return torch.where(y, height - intake.xyxy, intake.xyxy)[:, columns]


def _converted_twice(intake: Intake) -> Tensor:
    return torch.cat([intake.xyxy[:, :2], intake.xyxy[:, 2:] + intake.xyxy[:, :2]], 1)


def _clipped(intake: Intake) -> Tensor:
    height, width = intake.frame_hw
    return intake.xyxy.minimum(_sides((width, height)))


def _of_the_padded_size(intake: Intake) -> Tensor:
    return intake.scene.boxes_xyxy / _sides(intake.scene.size_hw) * _sides(intake.frame_hw)


def _scaled_twice(intake: Intake) -> Tensor:
    return intake.xyxy * intake.photo_to_frame[0]


def _photo_y_first(intake: Intake) -> Tensor:
    return intake.scene.boxes_xyxy[:, [1, 0, 3, 2]]


def _pooled_twice(intake: Intake, rng: random.Random) -> Intake:
    """The heads' pooling is given what the neck has pooled."""
    pooled = torchvision.ops.roi_align(intake.features, intake.handed, 14, intake.spatial_scale, 2)
    return replace(intake, features=pooled)


def _rotated(intake: Intake, rng: random.Random) -> Intake:
    """Centre, size and angle, where the index and two corners belong; torchvision would read out of bounds."""
    boxes = intake.xyxy
    most = rng.choice([math.pi / 2, 90.0])
    angles = torch.tensor([[rng.uniform(-most, most)] for _ in boxes])
    rows = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], angles], 1)
    degrees = angles.rad2deg() if most < 2 else angles
    turned = [torch.cat([rows[:, :4], degrees], 1)]
    options = (intake.output_size, intake.spatial_scale, intake.sampling_ratio)
    right = partial(roialign.roi_align_rotated, intake.features, turned, *options)
    return replace(intake, boxes=rows, library="roialign", healthy=right)


def _on_the_ground(intake: Intake, rng: random.Random) -> Intake:
    """Coordinates of a map in metres, east and north, of an aerial picture."""
    metres = rng.choice([0.1, 0.25, 0.5])
    east, north = rng.uniform(3e5, 6e5), rng.uniform(4e6, 5e6)
    x1, y1, x2, y2 = (intake.xyxy * metres).unbind(1)
    return replace(intake, boxes=[torch.stack([east + x1, north - y2, east + x2, north - y1], 1)])


def _renamed(intake: Intake, rng: random.Random) -> Intake:
    return replace(intake, features={f"feat{name}": level for name, level in intake.features.items()})


MORE_FAULTS: tuple[Fault, ...] = (
    Fault("x1 and x2 swapped", "RA204", _ALL, _boxes(lambda intake: intake.xyxy[:, [2, 1, 0, 3]])),
    Fault("mirrored, x1 > x2", "RA204", _ALL, _boxes(lambda i: _mirrored(i, [0, 1, 2, 3])), also=("RA212",)),
    Fault("y from the bottom, y1 > y2", "RA212", _ALL, _boxes(lambda i: _from_the_bottom(i, [0, 1, 2, 3]))),
    Fault("corners converted twice", "RA211", _ALL, _boxes(_converted_twice), lies_within=_within),
    Fault("clipped to the wrong side", "RA213", _ALL, _boxes(_clipped)),
    Fault(
        "boxes of the photograph",
        "RA107",
        (_MAP, _PYRAMID),
        _boxes(lambda intake: intake.scene.boxes_xyxy),
        lies_within=_within,
    ),
    Fault(
        "fractions times the letterbox",
        "RA107",
        (_MAP,),
        _boxes(_of_the_padded_size),
        only="letterboxed",
        needs_more=True,
        lies_within=_within_the_picture,
    ),
    Fault(
        "fractions times the padded size",
        "RA107",
        ("several",),
        _made_before("padded size"),
        needs_more=True,
        lies_within=_within_each,
    ),
    Fault(
        "one of two resizes",
        "RA107",
        (_MAP,),
        _made_before("first resize only", "second resize only"),
        only="resized twice",
        lies_within=_within,
    ),
    Fault("twice the scale", "RA107", (_MAP,), _boxes(_scaled_twice), only="resized up", lies_within=_within),
    Fault("corner of the window", "RA107", (_MAP,), _made_before("corner"), only="window", lies_within=_within),
    Fault(
        "y first and of the photograph",
        "RA107",
        (_MAP, _PYRAMID),
        _boxes(_photo_y_first),
        also=("RA203",),
        lies_within=_within,
    ),
    Fault("structural offset ignored", "RA108", ("unpadded",), _made_before("offset"), needs_more=True),
    Fault("boxes in half precision", "RA109", ("large",), _made_before("half"), changes_output=True),
    Fault("boxes in bfloat16", "RA109", ("large",), _made_before("bfloat16"), also=("RA505",)),
    Fault("rotated boxes as rows", "RA214", (_MAP,), _rotated),
    Fault("fewer lists than images", "RA215", ("several",), _fewer_lists),
    Fault("register tokens kept", "RA305", ("registers",), _made_before("registers"), needs_more=True),
    Fault("pooled twice", "RA310", (_MAP,), _pooled_twice, needs_more=True),
    Fault(
        "levels of one stride", "RA405", (_PYRAMID,), _made_before("one stride"), only="levels by hand", needs_more=True
    ),
    Fault("names that no map has", "RA401", (_PYRAMID,), _renamed, only="levels by hand", needs_more=True),
    Fault("tiles moved by the other side", "RA107", (_MAP,), _made_before("sides"), only="mosaic", lies_within=_within),
    Fault("finer map, scale 1", "RA106", (_MAP,), lambda i, rng: replace(i, spatial_scale=1.0), only="finer"),
    Fault("coordinates of the ground", "RA107", (_MAP, _PYRAMID), _on_the_ground, also=("RA209",)),
    Fault(
        "fractions times the map",
        "RA108",
        ("unpadded",),
        _made_before("fractions of the map"),
        also=("RA106",),
        needs_more=True,
    ),
    Fault(
        "y first, square",
        "RA203",
        (_MAP,),
        _boxes(lambda i: i.xyxy[:, [1, 0, 3, 2]]),
        "by hand, resized",
        picture=True,
        square=True,
    ),
    Fault("mirrored", "RA212", (_MAP,), _boxes(lambda i: _mirrored(i, [2, 1, 0, 3])), "resized", picture=True),
    Fault(
        "y from the bottom",
        "RA212",
        (_MAP,),
        _boxes(lambda i: _from_the_bottom(i, [0, 3, 2, 1])),
        "resized",
        picture=True,
    ),
)
