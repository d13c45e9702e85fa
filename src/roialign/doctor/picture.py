"""Whether boxes follow the edges of a picture, as those that somebody drew around its things do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

_MAX_PIXELS = 320_000  # that are looked at: larger pictures are looked at from further away
_MOST_BOXES = 32
_LEAST_SIDE = 5  # of a picture, in pixels
_REACH = 2  # pixels between a side and the edge that it follows
_LEAST_SIDES = 2  # in the picture, of a box that says something
_LEAST_LINE = 2.0  # pixels of a side that are looked at
_BORDER = 2  # pixels: a side that runs along the picture's border shows nothing
_FLAT = 1e-5  # contrast over magnitude; below it there is rounding

# People draw boxes loosely or tightly, and mostly in one manner: times the size of the box.
_TIGHTNESS = (0.8, 0.88, 0.96, 1.04)
# Where the same boxes would lie if they had nothing to do with the things here: in sizes of each box, x and y,
# and as tight.
_ASIDE = [
    *((-0.4, 0.0, 0.92), (0.4, 0.0, 0.92), (0.0, -0.4, 0.92), (0.0, 0.4, 0.92)),
    *((0.35, 0.35, 0.92), (-0.35, 0.35, 0.92), (0.35, -0.35, 0.92), (-0.35, -0.35, 0.92)),
    *((0.8, 0.4, 0.92), (-0.8, -0.4, 0.92), (-0.4, 0.8, 0.92), (0.4, -0.8, 0.92)),
]
_INNER, _OUTER = 0.84, 1.5  # what is inside a box and what is around it, times its size
_CONTRAST_ASIDE = 4  # contrast is compared with that of the first of the places aside

# The calibration: fitted by `python -m benchmarks.picture --fit` on one half of the pictures, reported on the other.
_SPREAD_OF_EDGES, _SPREAD_OF_CONTRAST = (
    0.3,
    0.1,
)  # variances of what one box shows, where it has nothing to do with them
_WEIGHT_OF_CONTRAST = 0.6
_BOXES = (1, 3, 8, 15)
_SLOPE = (1.7, 1.7, 2.0, 2.3)  # 3.0 fits 15 boxes best, of few pictures: less is said, with as many at no odds
_OFFSET = (-2.4, -2.9, -3.8, -4.5)
_LEAST = (-2.5, -3.0, -3.5, -4.0)
_SURE = (5.0, 6.0, 6.0, 6.0)  # beyond, no unrelated boxes were seen: the ratio grows with caution
_GROWTH = 1.0
_MOST = 12.0


@dataclass(frozen=True)
class Edges:
    """Where a picture changes along x and along y, and how bright it is: what boxes are compared with.

    Example:
        >>> picture = torch.rand(3, 200, 200, generator=torch.Generator().manual_seed(0)) / 4
        >>> picture[:, 50:90, 30:120] += 1  # things, and boxes around them
        >>> picture[:, 130:160, 100:150] += 1
        >>> boxes_xyxy = torch.tensor([[30.0, 50, 120, 90], [100, 130, 150, 160]])
        >>> called = Edges.of(picture).follow(torch.stack([boxes_xyxy, boxes_xyxy[:, [1, 0, 3, 2]]]))
        >>> [round(value) for value in called.tolist()]
        [9, -3]
    """

    size_hw: tuple[int, int]
    """Of the picture as it is looked at."""
    scale_xyxy: Tensor = field(repr=False)
    """From pixels of the image to those that are looked at."""
    sums_down: Tensor = field(repr=False)
    """Changes along x summed from the top, [(H + 1) * W]."""
    sums_right: Tensor = field(repr=False)
    """Changes along y summed from the left, [(W + 1) * H]: column by column."""
    sums: Tensor = field(repr=False)
    """Brightness summed from the top left corner, [(H + 1) * (W + 1)]."""
    usual: tuple[tuple[float, float], tuple[float, float]]
    """Mean and spread of how edged a side is that lies anywhere: one along y, one along x."""
    flat: bool
    """Whether there is nothing to see."""

    @classmethod
    def of(cls, image: Tensor) -> Edges:
        """Look at a picture [C, H, W] of any number of channels, range and floating type, or uint8."""
        levels = (image.detach()[:3] if image.shape[0] == 4 else image.detach()).float().mean(0)
        levels = levels.nan_to_num(0.0, 0.0, 0.0)
        height, width = levels.shape
        shrink = math.sqrt(_MAX_PIXELS / max(height * width, 1))
        if shrink < 1:
            size = [max(1, round(height * shrink)), max(1, round(width * shrink))]
            levels = interpolate(levels[None, None], size, mode="bilinear", antialias=True)[0, 0]
        levels = levels.cpu()
        seen_h, seen_w = levels.shape
        scale = torch.tensor([seen_w / max(width, 1), seen_h / max(height, 1)] * 2)
        if min(seen_h, seen_w) < _LEAST_SIDE:
            nothing = torch.zeros(0)
            return cls((seen_h, seen_w), scale, nothing, nothing, nothing, ((0.0, 1.0), (0.0, 1.0)), True)
        largest = float(levels.abs().max())
        levels = _blurred(_blurred(levels).T).T
        levels = levels - levels.mean()
        contrast = float(levels.std())
        levels = levels / max(contrast, 1e-30)
        wide = pad(levels[None], (1, 1, 1, 1), mode="replicate")[0]
        along_x = (wide[1:-1, 2:] - wide[1:-1, :-2]).abs()
        along_y = (wide[2:, 1:-1] - wide[:-2, 1:-1]).abs().T.contiguous()
        change = max((float(along_x.mean()) + float(along_y.mean())) / 2, 1e-30)
        sums_down, sums_right = (_nearby(along / change) for along in (along_x, along_y))
        sums_down, sums_right = _summed(sums_down), _summed(sums_right)
        return cls(
            size_hw=(seen_h, seen_w),
            scale_xyxy=scale,
            sums_down=sums_down.flatten(),
            sums_right=sums_right.flatten(),
            sums=_summed(_summed(levels).T).T.flatten(),
            usual=(_usual(sums_down), _usual(sums_right)),
            flat=contrast <= _FLAT * largest,
        )

    def follow(self, boxes_xyxy: Tensor) -> Tensor:
        """How much more likely what lies under boxes is if somebody drew them around things of this picture.

        Each is the logarithm of p(what is seen | drawn) / p(what is seen | they have nothing to do with the picture),
        and 0 where nothing is seen: fewer than two sides of each box in the picture, or a picture of one colour.

        Args:
            boxes_xyxy: [E, K, 4], E hypotheses about the same K boxes, in pixels of the image, corners in any order.
                Of more than 32 boxes 32 are looked at, spread evenly over the rows.

        Returns:
            [E], float32, between -4 and 12.
        """
        return _calibrated(*self.scores(boxes_xyxy))

    def scores(self, boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
        """What `follow` looks at: how well the boxes fit [E], about 0.7 for any boxes, and how many are seen [E]."""
        if self.flat or not boxes_xyxy.numel():
            return torch.zeros(len(boxes_xyxy)), torch.zeros(len(boxes_xyxy), dtype=torch.long)
        count = boxes_xyxy.shape[1]
        if count > _MOST_BOXES:
            boxes_xyxy = boxes_xyxy[:, torch.linspace(0, count - 1, _MOST_BOXES).round().long()]
        boxes = boxes_xyxy.detach().cpu().float() * self.scale_xyxy
        far = 10.0 * max(self.size_hw)
        usable = boxes.isfinite().all(-1, keepdim=True)
        boxes = torch.where(usable, boxes, -far).clamp(-far, far)
        centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).abs()
        places = torch.tensor([(0.0, 0.0, tightness) for tightness in _TIGHTNESS] + _ASIDE).view(-1, 1, 1, 3)
        centres = centre + places[..., :2] * size
        edged, seen = self._edged(centres, size, places[..., 2:])
        drawn, aside = edged[: len(_TIGHTNESS)].amax(0), edged[len(_TIGHTNESS) :]
        boxes_seen = seen.sum(-1)
        z_edges = (drawn - aside.mean(0)) / (_SPREAD_OF_EDGES / boxes_seen.clamp(min=1) + _variance(aside)).sqrt()
        contrast = self._contrast(torch.cat([centre[None], centres[len(_TIGHTNESS) :][:_CONTRAST_ASIDE]]), size, seen)
        drawn, aside = contrast[0], contrast[1:]
        z_contrast = (drawn - aside.mean(0)).abs()
        z_contrast = z_contrast / (_SPREAD_OF_CONTRAST / boxes_seen.clamp(min=1) + _variance(aside)).sqrt()
        return z_edges + _WEIGHT_OF_CONTRAST * z_contrast, boxes_seen

    def _edged(self, centres: Tensor, size: Tensor, tightness: Tensor) -> tuple[Tensor, Tensor]:
        """How edged boxes are at each place, the mean over those seen [P, E]; which are seen [E, K]."""
        ends, quarter = torch.tensor([-0.5, 0.5]), size / 4
        sides_xy = centres[..., None] + (tightness * size)[..., None] * ends
        found = [
            self._along(axis, sides_xy[..., axis, :], centres[..., 1 - axis, None], quarter[..., 1 - axis, None])
            for axis in (0, 1)
        ]
        values, seen = (torch.cat(pair, -1) for pair in zip(*found, strict=True))
        drawn = len(_TIGHTNESS)
        seen[:drawn] &= self._inside(centres[0, ..., None] + size[..., None] * ends)
        sides = seen.sum(-1)
        of_boxes, boxes_seen = (values * seen).sum(-1) / sides.clamp(min=1), sides >= _LEAST_SIDES
        edged = (of_boxes * boxes_seen).sum(-1) / boxes_seen.sum(-1).clamp(min=1)
        return edged, boxes_seen[drawn // 2]

    def _inside(self, sides_xy: Tensor) -> Tensor:
        """Whether sides [E, K, 2, 2] lie off the picture's border: x1, x2, y1, y2, as `_along` has them [E, K, 4]."""
        limits = torch.tensor(self.size_hw[::-1])[:, None] - _BORDER
        return ((sides_xy >= _BORDER) & (sides_xy <= limits)).flatten(-2)

    def _along(self, axis: int, at: Tensor, middle: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """How edged lines are that lie `at` x (axis 0) or y, and whether they are in the picture."""
        sums = (self.sums_down, self.sums_right)[axis]
        length, width = self.size_hw[axis], self.size_hw[1 - axis]
        mean, spread = self.usual[axis]
        line = (at - 0.5).round()
        begin, end = ((middle + side * half).round().clamp(0, length) for side in (-1, 1))
        seen = (line >= _BORDER) & (line < width - _BORDER) & (end - begin >= half.clamp(min=_LEAST_LINE))
        column = line.clamp(0, width - 1)
        total = sums.take((end * width + column).long()) - sums.take((begin * width + column).long())
        edged = (total / (end - begin).clamp(min=1)).clamp(min=0).sqrt()
        return (edged - mean) / spread, seen

    def _contrast(self, centres: Tensor, size: Tensor, seen: Tensor) -> Tensor:
        """How much brighter boxes are than what is around them, the mean over those seen [P, E]."""
        inner, inner_area = self._total(centres, size * (_INNER / 2))
        outer, outer_area = self._total(centres, size * (_OUTER / 2))
        around = (outer - inner) / (outer_area - inner_area).clamp(min=1)
        contrast = inner / inner_area.clamp(min=1) - around
        usable = seen & (inner_area >= (_INNER**2 / 2) * size.prod(-1)) & (inner_area >= _LEAST_LINE**2)
        return (contrast * usable).sum(-1) / usable.sum(-1).clamp(min=1)

    def _total(self, centres: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
        """The brightness and the area of rectangles, of what of them is in the picture."""
        height, width = self.size_hw
        (left, top), (right, bottom) = (
            ((x_or_y.round().clamp(0, most)) for x_or_y, most in zip(corner.unbind(-1), (width, height), strict=True))
            for corner in (centres - half, centres + half)
        )
        at = [(y * (width + 1) + x).long() for y in (top, bottom) for x in (left, right)]
        upper_left, upper_right, lower_left, lower_right = (self.sums.take(index) for index in at)
        return lower_right - upper_right - lower_left + upper_left, (right - left) * (bottom - top)


def _variance(aside: Tensor) -> Tensor:
    return aside.var(0, correction=0)


def _calibrated(score: Tensor, boxes_seen: Tensor) -> Tensor:
    """The log-likelihood ratio: rises with the score, bounded; by the numbers of boxes that were fitted."""
    logs = torch.tensor(_BOXES, dtype=torch.float32).log()
    count = boxes_seen.clamp(min=1).float().log().clamp(max=float(logs[-1]))
    above = torch.bucketize(count, logs).clamp(1, len(_BOXES) - 1)
    part = (count - logs[above - 1]) / (logs[above] - logs[above - 1])
    slope, offset, least, sure = (
        torch.lerp(row[above - 1], row[above], part) for row in torch.tensor((_SLOPE, _OFFSET, _LEAST, _SURE))
    )
    beyond = (score - (sure - offset) / slope).clamp(min=0)
    ratio = ((slope * score + offset).clamp(least, sure) + _GROWTH * beyond).clamp(max=_MOST)
    return torch.where(boxes_seen > 0, ratio, 0.0)


def _blurred(levels: Tensor) -> Tensor:
    """[H, W], smoothed along x by 1 4 6 4 1."""
    wide = pad(levels[None], (2, 2, 0, 0), mode="replicate")[0]
    twice = wide[:, :-1] + wide[:, 1:]
    for _ in range(3):
        twice = twice[:, :-1] + twice[:, 1:]
    return twice / 16


def _nearby(changes: Tensor) -> Tensor:
    """The largest of each value [H, W] and its neighbours on the left and right: an edge need not be hit exactly."""
    for _ in range(_REACH):
        wide = pad(changes, (1, 1))
        changes = torch.maximum(torch.maximum(wide[:, :-2], wide[:, 2:]), changes)
    return changes


def _summed(values: Tensor) -> Tensor:
    """[H + 1, W], summed from the top."""
    return pad(values, (0, 0, 1, 0)).cumsum(0)


def _usual(sums: Tensor) -> tuple[float, float]:
    length = min(16, len(sums) - 1)
    edged = ((sums[length:] - sums[:-length]) / length).clamp(min=0).sqrt()
    return float(edged.mean()), max(float(edged.std()), 0.05)
