"""The mistakes of the catalogue, made at random in a healthy intake of an RoI operator."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .doctor_pipelines import Intake, pool_map

_MAP, _OTHER, _PYRAMID, _EXTRACTOR = "map", "other operator", "pyramid", "extractor"
_MAPS = (_MAP, _OTHER)
_ALL = (_MAP, _OTHER, _PYRAMID, _EXTRACTOR)


@dataclass(frozen=True)
class Fault:
    """One mistake: its right code, the kinds of pipelines that can have it, and how it is made."""

    name: str
    code: str
    kinds: tuple[str, ...]
    make: Callable[[Intake, random.Random], Intake]
    only: str = ""
    """Part of the name of the pipelines that can have it, where not all of the kind can."""
    changes_output: bool | None = None
    """Set where the comparison of outputs does not tell whether the fault does harm."""
    also: tuple[str, ...] = ()
    """Other codes that are right too."""
    needs_more: bool = False
    """Whether the arguments of the call cannot show it: it takes the image, the model or the pooler."""
    picture: bool = False
    """Whether nothing but the picture can show it."""
    square: bool = False
    """Whether it is to be made in square photographs."""
    lies_within: Callable[[Intake], bool] | None = None
    """Whether the faulty boxes lie where healthy ones would, so that nothing but the picture shows this case."""

    @property
    def codes(self) -> tuple[str, ...]:
        return self.code, *self.also

    def hidden(self, intake: Intake) -> bool:
        """Whether nothing but the picture can show the fault in this intake."""
        return self.picture or (self.lies_within is not None and self.lies_within(intake))


def _boxes(change: Callable[[Intake, random.Random], Tensor]) -> Callable[[Intake, random.Random], Intake]:
    return lambda intake, rng: replace(intake, boxes=[change(intake, rng)])


def _scale(change: Callable[[Intake, random.Random], float]) -> Callable[[Intake, random.Random], Intake]:
    return lambda intake, rng: replace(intake, spatial_scale=change(intake, rng))


def _features(change: Callable[[Tensor, random.Random], Tensor]) -> Callable[[Intake, random.Random], Intake]:
    def make(intake: Intake, rng: random.Random) -> Intake:
        if not intake.pyramid:
            return replace(intake, features=change(intake.features, rng))
        return replace(intake, features={name: change(level, rng) for name, level in intake.features.items()})

    return make


def _whwh(intake: Intake) -> Tensor:
    height, width = intake.frame_hw
    return torch.tensor([width, height, width, height], dtype=torch.float32)


def _as_xywh(intake: Intake, rng: random.Random) -> Tensor:
    return torch.cat([intake.xyxy[:, :2], intake.xyxy[:, 2:] - intake.xyxy[:, :2]], 1)


def _as_cxcywh(intake: Intake, rng: random.Random) -> Tensor:
    sides = intake.xyxy[:, 2:] - intake.xyxy[:, :2]
    return torch.cat([intake.xyxy[:, :2] + sides / 2, sides], 1)


def _normalized(intake: Intake, rng: random.Random) -> Intake:
    return replace(intake, boxes=[intake.xyxy / _whwh(intake)])


def _zero_scale(intake: Intake, rng: random.Random) -> float:
    return rng.choice([0.0, -1 / intake.stride, math.nan, math.inf])


def _other_stride(intake: Intake, rng: random.Random) -> float:
    return intake.spatial_scale * rng.choice([0.25, 0.5, 2, 4])


def _other_patch(intake: Intake, rng: random.Random) -> float:
    return 1 / 16 if intake.stride == 14 else 1 / 14


def _a_few_percent(intake: Intake, rng: random.Random) -> float:
    return intake.spatial_scale * (1 + rng.choice([-1, 1]) * rng.uniform(0.03, 0.12))


def _before_the_resize(intake: Intake, rng: random.Random) -> Intake:
    """Boxes of an original that is between 0.6 and 4 times as large as what entered the backbone."""
    x, y = intake.photo_to_frame[1:]
    factor = math.exp(rng.uniform(math.log(0.6), math.log(4)))
    return replace(intake, boxes=[(intake.xyxy - intake.xyxy.new_tensor([x, y, x, y])) * factor])


def _without_the_bars(intake: Intake, rng: random.Random) -> Intake:
    x, y = intake.photo_to_frame[1:]
    return replace(intake, boxes=[intake.xyxy - intake.xyxy.new_tensor([x, y, x, y])])


def _crop_forgotten(intake: Intake, rng: random.Random) -> Tensor:
    height, width = intake.frame_hw
    x, y = rng.uniform(0.1, 0.6) * width, rng.uniform(0.1, 0.6) * height
    return intake.xyxy + intake.xyxy.new_tensor([x, y, x, y])


def _half_a_cell(intake: Intake, rng: random.Random) -> Intake:
    offset = [(0.5 if intake.aligned else 0.0) + rng.uniform(-0.1, 0.1) for _ in "yx"]
    shift_y, shift_x = ((0.5 - part) * intake.stride for part in offset)
    right = replace(intake, boxes=[intake.xyxy + intake.xyxy.new_tensor([shift_x, shift_y] * 2)], aligned=True)
    calibrated = (offset[0] * intake.stride, offset[1] * intake.stride)
    wrong = replace(intake, aligned=not intake.aligned, calibrated_offset_yx=calibrated)
    return replace(wrong, healthy=lambda: pool_map(right))


def _one_scale_for_two_strides(intake: Intake, rng: random.Random) -> Intake:
    strides = intake.xyxy.new_tensor([8.0, 16.0, 8.0, 16.0])
    return replace(intake, boxes=[intake.xyxy * strides], spatial_scale=1 / rng.choice([8, 16]))


def _all_inverted(intake: Intake, rng: random.Random) -> Tensor:
    return intake.xyxy[:, [2, 3, 0, 1]]


def _some(intake: Intake, rng: random.Random) -> Tensor:
    """About a tenth of the rows, at least one, bool [K]."""
    count = len(intake.xyxy)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[rng.sample(range(count), max(1, count // 10))] = True
    return chosen


def _some_inverted(intake: Intake, rng: random.Random) -> Tensor:
    return torch.where(_some(intake, rng)[:, None], intake.xyxy[:, [2, 1, 0, 3]], intake.xyxy)


def _spoil(values: Callable[[Tensor, random.Random], Tensor]) -> Callable[[Intake, random.Random], Intake]:
    def make(intake: Intake, rng: random.Random) -> Intake:
        spoilt = _some(intake, rng)
        boxes = torch.where(spoilt[:, None], values(intake.xyxy, rng), intake.xyxy)
        return replace(intake, boxes=[boxes], spoilt=spoilt)

    return make


def _empty(boxes: Tensor, rng: random.Random) -> Tensor:
    return boxes[:, [0, 1, 0, 3]] if rng.random() < 0.5 else boxes[:, [0, 1, 0, 1]]


def _not_finite(boxes: Tensor, rng: random.Random) -> Tensor:
    spoilt = boxes.clone()
    spoilt[:, rng.randrange(4)] = rng.choice([math.nan, math.inf, -math.inf])
    return spoilt


def _strayed(intake: Intake, rng: random.Random) -> Intake:
    """One box more, which lies beyond the image, before or behind it."""
    height, width = intake.frame_hw
    side = rng.uniform(20, 80)
    far = rng.random() < 0.7
    x = width + rng.uniform(60, 400) if far else -rng.uniform(100, 400)
    y = rng.uniform(0, height - side)
    stray = intake.xyxy.new_tensor([[x, y, x + side, y + side]])
    spoilt = torch.tensor([False] * len(intake.xyxy) + [True])
    return replace(intake, boxes=[torch.cat([intake.xyxy, stray])], spoilt=spoilt)


def _with_index(intake: Intake, index: float = 0) -> Tensor:
    return torch.cat([torch.full((len(intake.xyxy), 1), index), intake.xyxy], 1)


def _by_roialign(boxes: Any, library: str = "roialign") -> Callable[[Intake, random.Random], Intake]:
    """Through roialign's operator, as torchvision would read out of bounds."""
    return lambda intake, rng: replace(intake, boxes=boxes(intake), library=library)


def _dead(features: Tensor, rng: random.Random) -> Tensor:
    return torch.zeros_like(features)


def _overflown(features: Tensor, rng: random.Random) -> Tensor:
    spoilt = features.clone()
    rows, columns = features.shape[2:]
    if rng.random() < 0.5:
        spoilt[:, rng.randrange(features.shape[1])] = rng.choice([math.nan, math.inf])
    else:
        spoilt[..., rows // 4 : 3 * rows // 4 + 1, columns // 4 : 3 * columns // 4 + 1] = math.nan
    return spoilt


def _tokens(features: Tensor, rng: random.Random) -> Tensor:
    """The class token kept, and the tokens in a row, in a column, or not transposed."""
    tokens = torch.cat([features.mean((2, 3))[:, :, None], features.flatten(2)][rng.randrange(2) :], 2)
    return rng.choice([tokens[:, :, None], tokens[..., None], tokens.transpose(1, 2)[:, None]])


def _undersampled(intake: Intake, rng: random.Random) -> Intake:
    """Boxes of most of the image in few bins of one sample."""
    shares = [[rng.uniform(0, 0.2), rng.uniform(0, 0.2), rng.uniform(0.7, 1), rng.uniform(0.7, 1)] for _ in intake.xyxy]
    boxes = torch.tensor(shares) * _whwh(intake)
    right = replace(intake, boxes=[boxes], output_size=rng.choice([1, 2]), sampling_ratio=-1)
    return replace(right, sampling_ratio=1, healthy=lambda: pool_map(right))


def _specks(intake: Intake, rng: random.Random) -> Tensor:
    centres = (intake.xyxy[:, :2] + intake.xyxy[:, 2:]) / 2
    sides = torch.tensor([[rng.uniform(0.05, 0.24) * intake.stride for _ in "wh"] for _ in intake.xyxy])
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


def _level_left_out(intake: Intake, rng: random.Random) -> Intake:
    names = list(intake.features)[:-1]  # "pool" is never pooled from
    left_out = rng.choice(names[1:-1] or names[:1])
    return replace(intake, left_out=left_out)


def _coarse_first(intake: Intake, rng: random.Random) -> Intake:
    return replace(intake, features=dict(reversed(intake.features.items())))


def _photo_size_given(intake: Intake, rng: random.Random) -> Intake:
    """The size of the photograph, or of a larger original of it, where that of the resized image belongs."""
    factor = rng.choice([0.5, 2, 3]) * intake.scene.size_hw[0] / intake.frame_hw[0]
    return replace(intake, image_shapes=tuple((round(h * factor), round(w * factor)) for h, w in intake.image_shapes))


def _cached(intake: Intake, rng: random.Random) -> Intake:
    return replace(intake, cached_factor=rng.choice([2, 4]))


FAULTS: tuple[Fault, ...] = (
    Fault("pixels, scale 1", "RA101", _MAPS, _scale(lambda intake, rng: 1.0)),
    Fault("scaled twice", "RA102", _MAPS, _boxes(lambda intake, rng: intake.xyxy * intake.spatial_scale)),
    Fault("fractions of the image", "RA103", _ALL, _normalized),
    Fault("fractions, scale 1", "RA103", _MAPS, lambda i, rng: replace(_normalized(i, rng), spatial_scale=1.0)),
    Fault("stride for its inverse", "RA104", _MAPS, _scale(lambda intake, rng: intake.stride)),
    Fault("scale zero or not finite", "RA105", (_MAP,), _scale(_zero_scale)),
    Fault("stride 2 or 4 times wrong", "RA106", _MAPS, _scale(_other_stride)),
    Fault("16 for 14, 14 for 16", "RA106", _MAPS, _scale(_other_patch), only="ViT", needs_more=True),
    Fault("stride a few percent off", "RA106", _MAPS, _scale(_a_few_percent), needs_more=True),
    Fault("boxes before the resize", "RA107", _ALL[:3], _before_the_resize),
    Fault("bars of the letterbox left out", "RA107", (_MAP,), _without_the_bars, only="letterbox", needs_more=True),
    Fault("crop not subtracted", "RA107", _ALL[:3], _boxes(_crop_forgotten)),
    Fault("half a cell off", "RA108", (_MAP,), _half_a_cell, needs_more=True),
    Fault("one scale for two strides", "RA110", ("two strides",), _one_scale_for_two_strides),
    Fault("x, y, width, height", "RA201", _ALL, _boxes(_as_xywh)),
    Fault("centre and size", "RA202", _ALL, _boxes(_as_cxcywh)),
    Fault("y first", "RA203", _ALL, _boxes(lambda intake, rng: intake.xyxy[:, [1, 0, 3, 2]])),
    Fault("all inverted", "RA204", _ALL, _boxes(_all_inverted)),
    Fault("some inverted", "RA204", _ALL, _boxes(_some_inverted)),
    Fault("some empty", "RA204", _ALL, _spoil(_empty)),
    Fault("NaN or infinite", "RA205", _ALL, _spoil(_not_finite)),
    Fault("images counted from one", "RA206", (_MAP,), _by_roialign(lambda intake: _with_index(intake, 1))),
    Fault("index last", "RA207", (_MAP,), _by_roialign(lambda i: _with_index(i)[:, [1, 2, 3, 4, 0]])),
    Fault("no index", "RA207", (_MAP,), lambda intake, rng: replace(intake, boxes=intake.xyxy)),
    Fault("more lists than images", "RA208", (_MAP,), _by_roialign(lambda i: [i.xyxy[:1], i.xyxy])),
    Fault("a box outside", "RA209", _ALL, _strayed),
    Fault("a list of numbers", "RA210", (_MAP,), lambda intake, rng: replace(intake, boxes=intake.xyxy.tolist())),
    Fault("all zero", "RA301", _ALL[:3], _features(_dead)),
    Fault("NaN or infinite features", "RA302", _ALL[:3], _features(_overflown)),
    Fault("channels last", "RA303", (_MAP, _PYRAMID), _features(lambda features, rng: features.permute(0, 2, 3, 1))),
    Fault(
        "height and width swapped",
        "RA304",
        _ALL[:3],
        _features(lambda features, rng: features.transpose(2, 3)),
        needs_more=True,
    ),
    Fault("tokens", "RA305", (_MAP,), _features(_tokens), only="ViT"),
    Fault("no batch axis", "RA306", (_MAP,), _features(lambda features, rng: features[0])),
    Fault("a level left out", "RA401", (_PYRAMID,), _level_left_out, only="ResNet", needs_more=True),
    Fault("coarse levels first", "RA402", (_PYRAMID,), _coarse_first, only="ResNet", needs_more=True),
    Fault("another image size given", "RA403", (_PYRAMID,), _photo_size_given, needs_more=True),
    Fault("scales of another batch", "RA404", (_PYRAMID,), _cached, needs_more=True),
    Fault("one sample in large bins", "RA501", (_MAP,), _undersampled, only="stride 8"),
    Fault("boxes smaller than a cell", "RA502", (_MAP,), _boxes(_specks), changes_output=True),
    Fault(
        "boxes that require a gradient",
        "RA503",
        (_MAP,),
        lambda intake, rng: replace(intake, boxes=[intake.xyxy.clone().requires_grad_()], library="torchvision"),
        changes_output=True,
        needs_more=True,
    ),
    Fault("whole-number boxes", "RA505", (_MAP,), _boxes(lambda intake, rng: intake.xyxy.long())),
    Fault("float64 boxes", "RA505", (_MAP,), _boxes(lambda intake, rng: intake.xyxy.double())),
    Fault("three output sizes", "RA506", (_MAP,), lambda intake, rng: replace(intake, output_size=(7, 7, 7))),
)
