"""Weighs all explanations of a call against one another, "nothing is wrong" among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence
from roialign.doctor.explanations import likelihood, orders, table
from roialign.doctor.explanations.orders import ORDERS, RIGHT, Order
from roialign.doctor.explanations.places import Place, Scene, places
from roialign.doctor.picture import Edges

_MOST_BOXES = 128
_PICTURES_OF_A_CALL, _MOST_PICTURES = 2, 8  # the latter of one line of code
_LOOKED_AT = 8.0  # log-likelihood behind the best up to which the picture is asked

Kind = tuple[str, ...]
"""What counts as the same explanation: its codes, and the order of the numbers where it is another."""


@dataclass
class Beliefs:
    """What the calls of one line of code have said so far: several images through one line add up."""

    kinds: dict[Kind, float] = field(default_factory=dict)
    """The log-likelihood of each kind of explanation against that of "nothing is wrong"."""
    pictures: int = 0
    """How many pictures were looked at."""

    def add(self, evidence: Mapping[Kind, float]) -> None:
        """Add what one more call says."""
        for one in {*self.kinds, *evidence}:
            value = self.kinds.get(one, 0.0) + evidence.get(one, -table.MOST_BELIEVED)
            self.kinds[one] = max(-table.MOST_BELIEVED, min(table.MOST_BELIEVED, value))


@dataclass(frozen=True)
class Explanation:
    """What may have been done to a healthy call to give this one."""

    order: Order
    place: Place
    cells: Tensor
    """The boxes [K, 4] as they were meant, in cells."""
    log_odds: float
    """Of its kind against all others together."""
    weight: float
    """The logarithm of how likely this one is, up to a constant."""
    witnessed: float = 0.0
    """What the picture said of it, against what it said of the boxes as called."""

    @property
    def kind(self) -> Kind:
        return kind(self.order, self.place)

    @property
    def codes(self) -> tuple[str, ...]:
        """None where nothing is wrong; two where two things are."""
        return tuple(code for code in (self.place.code, self.order.code) if code is not None)


@dataclass(frozen=True)
class Weighed:
    """All explanations of a call, the likeliest of each kind and stride, the likeliest first."""

    scene: Scene
    explanations: tuple[Explanation, ...]
    healthy_log_odds: float
    """Of "nothing is wrong" against all else."""
    evidence: Mapping[Kind, float]
    """The log-likelihood of each kind against that of "nothing is wrong"."""


def kind(order: Order, place: Place) -> Kind:
    """What counts as the same explanation: healthy ones are one kind, as are those of one code."""
    codes = tuple(code for code in (place.code, order.code) if code is not None)
    return (*codes, order.name) if order.code is not None else codes


def weigh(known: Evidence, can_be: Callable[[str], bool], beliefs: Beliefs | None = None) -> Weighed:
    """Weigh the explanations whose codes `can_be` said of the operator, and add to what is believed."""
    beliefs = beliefs if beliefs is not None else Beliefs()
    count = len(known.boxes_xyxy)
    rows = torch.arange(count) if count <= _MOST_BOXES else torch.linspace(0, count - 1, _MOST_BOXES).long()
    scene = Scene(known, rows)
    of_place = places(scene)
    of_place = [one for one in [*of_place, *_wrong_clip(scene, of_place[0])] if one.code is None or can_be(one.code)]
    pairs = [
        (o, p)
        for p, place in enumerate(of_place)
        for o, order in enumerate(ORDERS)
        if order is RIGHT
        or (place.at is None and can_be(order.code or "") and (place.common or order.code == "RA203"))
    ]
    cells, per_unit, content, stride, slack = _cells(scene, of_place, pairs)
    main = scene.images == scene.images.mode().values if len(scene.images) else scene.images.bool()
    fit = likelihood.log_likelihood(cells, per_unit, content, stride, slack, main)
    fit = fit + fit.new_tensor([_seen(scene, of_place[p]) for _, p in pairs])
    prior = fit.new_tensor([_log_prior(ORDERS[o], of_place[p]) for o, p in pairs])
    kinds = [kind(ORDERS[o], of_place[p]) for o, p in pairs]
    total = fit + prior + fit.new_tensor([beliefs.kinds.get(one, 0.0) for one in kinds])
    shown = _witnessed(scene, beliefs, cells, of_place, pairs, total)
    weighed = _ranked(scene, of_place, pairs, kinds, cells, total + shown, fit + shown, shown)
    beliefs.add(weighed.evidence)
    return weighed


def _log_prior(order: Order, place: Place) -> float:
    both = order.code is not None and place.code is not None
    return order.log_prior + place.log_prior + (math.log(table.TWO_FAULTS) if both else 0.0)


def _cells(scene: Scene, of_place: list[Place], pairs: list[tuple[int, int]]) -> tuple[Tensor, ...]:
    """Of each explanation the boxes in cells, cells per unit, the content, the stride, and the slack."""
    corners = orders.stacked(scene.boxes)
    scale = torch.stack([scene.of_rows(place.scale) for place in of_place])
    shift = torch.stack([scene.of_rows(place.shift) for place in of_place])
    contents = torch.stack([scene.of_rows(place.content) for place in of_place])
    o, p = (torch.tensor(one) for one in zip(*pairs, strict=True))
    cells, content = corners[o] * scale[p] + shift[p], contents[p]
    for axis in ("x", "y"):
        mirrored = torch.tensor([ORDERS[index].mirror == axis for index in o.tolist()])
        if bool(mirrored.any()):
            cells[mirrored] = orders.mirrored(cells[mirrored], content[mirrored], axis)
    for e, index in enumerate(p.tolist()):
        if (at := of_place[index].at) is not None:
            cells[e] = at
    slack = 1.0 if scene.known.image_size_hw is None else 0.0
    stride = cells.new_tensor([min(of_place[index].lattice.stride_yx) for index in p.tolist()])
    return cells, scale[p][..., :2], content, stride, torch.full_like(stride, slack)


def _wrong_clip(scene: Scene, called: Place) -> list[Place]:
    """Boxes that end at the other side's length, which is within the image: what was clipped cannot be said."""
    content = called.content[0]
    if called.code is not None or len(called.content) > 1:
        return []
    units = (content[2:] - called.shift[0, 2:]) / called.scale[0, 2:]
    width, height = units.tolist()
    short, axis = (width, 1) if width < height else (height, 0)
    ends = scene.boxes[:, [axis, axis + 2]]
    clipped = ((ends - short).abs() < 1e-3 * short).any(1)
    if abs(width - height) < 0.02 * short or int(clipped.sum()) < 2 or float(ends.max()) > short * 1.001:
        return []
    cells = scene.boxes * scene.of_rows(called.scale) + scene.of_rows(called.shift)
    low, end = content[axis], content[axis + 2]
    cells[clipped, axis + 2] = low + 0.97 * (end - low)
    cells[clipped, axis] = cells[clipped, axis].minimum(low + 0.7 * (end - low))
    return [replace(called, name="clipped by the wrong side", code="RA213", share=table.WRONG_CLIP, at=cells, common=False)]


def _seen(scene: Scene, place: Place) -> float:
    """What was seen happening, besides where boxes lie."""
    known, value = scene.known, 0.0
    detected = known.detected_in
    if detected is not None:
        here = place.frame if place.name == "seen frame" else known.frames[0] if known.frames and place.code is None else None
        value += table.DETECTED if here == detected else 0.0
    resized = known.frames and any(frame.size_hw != known.frames[0].size_hw for frame in known.frames[0].chain)
    if resized and place.code is None and bool((scene.boxes == scene.boxes.round()).all()):
        value -= table.WHOLE_NUMBERS
    return value


def _witnessed(
    scene: Scene, beliefs: Beliefs, cells: Tensor, of_place: list[Place], pairs: list[tuple[int, int]], total: Tensor
) -> Tensor:
    """What the picture says of those explanations that are not ruled out."""
    shown = torch.zeros_like(total)
    asked = [
        e for e in (total > total.max() - _LOOKED_AT).nonzero().flatten().tolist() if of_place[pairs[e][1]].at is None
    ]
    images = scene.known.images
    if images is None or len(asked) < 2 or beliefs.pictures >= _MOST_PICTURES:
        return shown
    pixels = torch.stack([scene.to_pixels(cells[e], of_place[pairs[e][1]].lattice) for e in asked]).float()
    ratios = pixels.new_zeros(len(asked))
    of_image, boxes_of_image = scene.images.unique(return_counts=True)
    for image in of_image[boxes_of_image.argsort(descending=True)][:_PICTURES_OF_A_CALL].tolist():
        left, top, right, bottom = scene.picture_of(image, images)
        boxes = pixels[:, scene.images == image] - pixels.new_tensor([left, top, left, top])
        ratios += Edges.of(images[image, :, top:bottom, left:right]).follow(boxes)
        beliefs.pictures += 1
    shown[asked] = torch.logaddexp(ratios + math.log(table.DRAWN), torch.full_like(ratios, math.log(1 - table.DRAWN))).to(shown)
    return shown


def _ranked(
    scene: Scene,
    of_place: list[Place],
    pairs: list[tuple[int, int]],
    kinds: list[Kind],
    cells: Tensor,
    total: Tensor,
    fit: Tensor,
    shown: Tensor,
) -> Weighed:
    groups: dict[Kind, list[int]] = {}
    grids: dict[tuple[Kind, tuple[float, float]], list[int]] = {}
    for e, one in enumerate(kinds):
        groups.setdefault(one, []).append(e)
        grids.setdefault((one, of_place[pairs[e][1]].lattice.stride_yx), []).append(e)
    sums = {one: float(total[some].logsumexp(0)) for one, some in groups.items()}
    fits = {one: float(fit[some].max()) for one, some in groups.items()}
    healthy = fits.get((), -math.inf)
    found = []
    for (one, _), some in grids.items():
        best = max(some, key=lambda e: float(total[e]))
        others = _logsumexp(value for other, value in sums.items() if other != one)
        o, p = pairs[best]
        witnessed = float(shown[best] - shown[groups[()]].max()) if () in groups else 0.0
        found.append(Explanation(ORDERS[o], of_place[p], cells[best], sums[one] - others, float(total[best]), witnessed))
    found.sort(key=lambda explanation: (-explanation.log_odds, -explanation.weight))
    others = _logsumexp(value for other, value in sums.items() if other)
    return Weighed(
        scene, tuple(found), sums.get((), -math.inf) - others,
        {one: fits[one] - healthy for one in groups if one},
    )  # fmt: skip


def _logsumexp(values: Iterable[float]) -> float:
    some = [value for value in values if value > -math.inf]
    if not some:
        return -math.inf
    most = max(some)
    return most + math.log(sum(math.exp(value - most) for value in some))
