"""Weighs all explanations of a call against one another, "nothing is wrong" among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence
from roialign.doctor.explanations import likelihood, orders, table
from roialign.doctor.explanations.orders import ORDERS, RIGHT, Order
from roialign.doctor.explanations.places import places
from roialign.doctor.explanations.scene import Place, Scene, in_order
from roialign.doctor.picture import Edges

_MOST_BOXES = 128
_PICTURES_OF_A_CALL, _MOST_PICTURES = 2, 8  # the latter of one line of code
_LONGEST_REST = 15  # calls of a line that are not weighed, between two that are
_LOOKED_AT = 8.0  # log-likelihood behind the best up to which the picture is asked

Kind = tuple[str, ...]
"""What counts as one explanation: its codes, and the order of the numbers where it is another; () of healthy ones."""
Belief = tuple[str, str, str | None]
"""What may be the same from call to call: the frame, the order, and the code of the frame."""
Pair = tuple[Order, Place]


@dataclass
class Beliefs:
    """What the calls of one line of code have said so far: several images through one line add up."""

    evidence: dict[Belief, float] = field(default_factory=dict)
    """The log-likelihood of each against that of "nothing is wrong"."""
    pictures: int = 0
    """How many pictures were looked at."""
    _healthy: int = 0
    _resting: int = 0
    _before: dict[Belief, float] = field(default_factory=dict)
    _last_boxes: Tensor | None = None

    def of(self, pair: Pair) -> float:
        return self.evidence.get(_belief(pair), 0.0)

    def begin(self, boxes: Tensor) -> None:
        """Take back what the last call said if this one has the same boxes: they are no further evidence."""
        if self._last_boxes is not None and torch.equal(boxes, self._last_boxes):
            self.evidence = self._before
        self._before, self._last_boxes = dict(self.evidence), boxes

    def rest(self) -> bool:
        """Whether this call need not be weighed: the longer nothing was wrong with the line, the fewer of its are."""
        resting = self._resting > 0
        self._resting -= resting
        return resting

    def judge(self, weighed: Weighed) -> None:
        """Rest after calls that were surely healthy, and not at all after any other."""
        self._healthy = self._healthy + 1 if weighed.healthy_log_odds > math.log(table.SURE) else 0
        self._resting = min(self._healthy // 2, _LONGEST_REST)

    def add(self, evidence: Mapping[Belief, float]) -> None:
        """Add what one more call says."""
        for one in {*self.evidence, *evidence}:
            value = self.evidence.get(one, 0.0) + evidence.get(one, -table.MOST_BELIEVED)
            self.evidence[one] = max(-table.MOST_BELIEVED, min(table.MOST_BELIEVED, value))


@dataclass(frozen=True)
class Explanation:
    """What may have been done to a healthy call to give this one."""

    order: Order
    place: Place
    log_odds: float
    """Of its kind against all others together."""
    weight: float
    """The logarithm of how likely this one is, up to a constant."""
    witnessed: float
    """What the picture said of it, against what it said of the boxes as called."""
    only: bool
    """Whether no other frame or order of its kind is nearly as likely."""

    @property
    def codes(self) -> tuple[str, ...]:
        """None where nothing is wrong; two where two things are."""
        return _codes(self.order, self.place)


@dataclass(frozen=True)
class Weighed:
    """All explanations of a call with their weights."""

    scene: Scene
    pairs: Sequence[Pair]
    kinds: Sequence[Kind]
    weights: Tensor
    """The logarithm of how likely each is, [E], up to a constant."""
    shown: Tensor
    """What the picture said of each, [E]."""

    @cached_property
    def of_kinds(self) -> dict[Kind, float]:
        """The weight of each kind."""
        names = list(dict.fromkeys(self.kinds))
        place = {one: index for index, one in enumerate(names)}
        most = self.weights.max()
        into = torch.tensor([place[one] for one in self.kinds])
        sums = torch.zeros(len(names), dtype=self.weights.dtype).index_add(0, into, (self.weights - most).exp())
        return dict(zip(names, (sums.log() + most).tolist(), strict=True))

    @cached_property
    def healthy_log_odds(self) -> float:
        """Of "nothing is wrong" against all else."""
        return self._against_others(())

    @cached_property
    def explanations(self) -> list[Explanation]:
        """The likeliest of each kind and stride, the likeliest first."""
        best: dict[tuple[Kind, tuple[float, float]], int] = {}
        weights = self.weights.tolist()
        for index in sorted(range(len(weights)), key=lambda index: -weights[index]):
            best.setdefault((self.kinds[index], self.pairs[index][1].lattice.stride_yx), index)
        as_called = float(self.shown[0])
        found = [
            Explanation(
                *self.pairs[index],
                self._against_others(kind),
                weights[index],
                float(self.shown[index]) - as_called,
                self._is_only(index, weights),
            )
            for (kind, _), index in best.items()
        ]
        return sorted(found, key=lambda one: (-one.log_odds, -one.weight))

    def _is_only(self, index: int, weights: Sequence[float]) -> bool:
        """Whether it makes up most of its kind, of explanations at its stride."""
        place = self.pairs[index][1]
        others = [
            math.exp(min(weight - weights[index], 0.0))
            for pair, kind, weight in zip(self.pairs, self.kinds, weights, strict=True)
            if kind == self.kinds[index]
            and pair[1] is not place
            and pair[1].lattice.stride_yx == place.lattice.stride_yx
        ]
        return sum(others) < table.ONLY

    def _against_others(self, kind: Kind) -> float:
        others = [value for one, value in self.of_kinds.items() if one != kind and value > -math.inf]
        if kind not in self.of_kinds or not others:
            return math.inf if kind in self.of_kinds else -math.inf
        most = max(others)
        return self.of_kinds[kind] - most - math.log(sum(math.exp(value - most) for value in others))


def weigh(known: Evidence, can_be: Callable[[str], bool], beliefs: Beliefs | None = None) -> Weighed:
    """Weigh the explanations whose codes `can_be` said of the operator, and add to what is believed."""
    beliefs, may_be = beliefs if beliefs is not None else Beliefs(), cache(can_be)
    beliefs.begin(known.boxes_xyxy)
    count = len(known.boxes_xyxy)
    rows = torch.arange(count) if count <= _MOST_BOXES else torch.linspace(0, count - 1, _MOST_BOXES).long()
    scene = Scene(known, rows)
    allowed = [order for order in ORDERS if order.code is None or may_be(order.code)]
    pairs = [
        (order, place)
        for place in places(scene)
        if place.code is None or may_be(place.code)
        for order in allowed
        if _go_together(order, place)
    ]
    kinds = [_kind(order, place) for order, place in pairs]
    cells, fit = _fit(scene, pairs)
    prior = fit.new_tensor([_log_prior(*pair) for pair in pairs])
    believed = prior + fit.new_tensor([beliefs.of(pair) for pair in pairs])
    shown = _shown(scene, beliefs, cells, pairs, fit + believed)
    beliefs.add(_evidence(pairs, prior, fit + shown))
    return Weighed(scene, pairs, kinds, fit + believed + shown, shown)


def _go_together(order: Order, place: Place) -> bool:
    if order is RIGHT or place.at is not None:
        return order is RIGHT
    return place.code is None or (order.code in orders.USUAL if place.common else order.code == "RA203")


def _codes(order: Order, place: Place) -> tuple[str, ...]:
    return tuple(code for code in (place.code, order.code) if code is not None)


def _kind(order: Order, place: Place) -> Kind:
    return (*_codes(order, place), order.name) if order.code is not None else _codes(order, place)


def _log_prior(order: Order, place: Place) -> float:
    both = order.code is not None and place.code is not None
    return order.log_prior + place.log_prior + (math.log(table.TWO_FAULTS) if both else 0.0)


def _belief(pair: Pair) -> Belief:
    order, place = pair
    return place.name, order.name, place.code


def _evidence(pairs: Sequence[Pair], prior: Tensor, fit: Tensor) -> dict[Belief, float]:
    """The log-likelihood of each belief, over all that it may be, against that of "nothing is wrong"."""
    names = list(dict.fromkeys(map(_belief, pairs)))
    place = {one: index for index, one in enumerate(names)}
    into = torch.tensor([place[_belief(pair)] for pair in pairs])
    zeros = torch.zeros(len(names), dtype=fit.dtype)
    most = fit.max()
    likelihood_of = (
        zeros.index_add(0, into, (prior + fit - most).exp()).log() - zeros.index_add(0, into, prior.exp()).log()
    )
    found = dict(zip(names, likelihood_of.tolist(), strict=True))
    healthy = max((value for one, value in found.items() if one[2] is None and one[1] == RIGHT.name), default=0.0)
    return {one: value - healthy for one, value in found.items() if one[2] is not None or one[1] != RIGHT.name}


def _fit(scene: Scene, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """The boxes in cells as each explanation has them [E, K, 4], and how well healthy boxes fit there [E]."""
    places_once = list({id(place): place for _, place in pairs}.values())
    index = {id(place): i for i, place in enumerate(places_once)}
    o = torch.tensor([ORDERS.index(order) for order, _ in pairs])
    p = torch.tensor([index[id(place)] for _, place in pairs])
    scale, shift, content = (
        _of_rows(scene, [getattr(place, name) for place in places_once])[p] for name in ("scale", "shift", "content")
    )
    boxes = orders.stacked(scene.boxes)[o]
    if any(any(place.transposed) for place in places_once):
        transposed = torch.stack([scene.transposed(place) for place in places_once])[p]
        boxes = torch.where(transposed[..., None], boxes[..., [1, 0, 3, 2]], boxes)
    cells = in_order(boxes * scale + shift, scale)
    for axis in ("x", "y"):
        mirrored = torch.tensor([order.mirror == axis for order, _ in pairs])
        if bool(mirrored.any()):
            cells[mirrored] = orders.mirrored(cells[mirrored], content[mirrored], axis)
    for e, (_, place) in enumerate(pairs):
        if place.at is not None:
            cells[e] = place.at
    stride = cells.new_tensor([min(place.lattice.stride_yx) for _, place in pairs])
    slack = torch.full_like(stride, scene.slack)
    by_rule = torch.tensor([place.at is None for _, place in pairs])
    nothing = (scene.boxes == 0).all(1)
    main, regular, distinct = scene.of_one_image, scene.is_regular, len(scene.boxes.unique(dim=0))
    fit = likelihood.log_likelihood(
        cells, scale[..., :2], content, stride, slack, main, by_rule, nothing, distinct, regular
    )
    fit = fit + fit.new_tensor([_seen(scene, place) for place in places_once])[p]
    return cells, fit.nan_to_num(nan=-math.inf)  # what is no number there is no explanation


def _of_rows(scene: Scene, values: Sequence[Tensor]) -> Tensor:
    """Values of each place, [P, K, 4], or [P, 1, 4] where no image has its own."""
    if all(len(one) == 1 for one in values):
        return torch.stack(list(values))
    return torch.stack([scene.of_rows(one) for one in values])


def _seen(scene: Scene, place: Place) -> float:
    """What was seen happening, besides where boxes lie."""
    known, frames, value = scene.known, scene.known.frames, 0.0
    if known.detected_in is not None:
        entered = frames[0] if frames and place.code is None else None
        here = place.frame if place.name in ("seen frame", "turned") else entered
        value += table.DETECTED if here == known.detected_in else 0.0
    resized = frames and any(sorted(frame.size_hw) != sorted(frames[0].size_hw) for frame in frames[0].chain)
    if resized and place.code is None and bool((scene.boxes == scene.boxes.round()).all()):
        value -= table.WHOLE_NUMBERS
    return value


def _shown(scene: Scene, beliefs: Beliefs, cells: Tensor, pairs: Sequence[Pair], weights: Tensor) -> Tensor:
    """What the picture says of those explanations that are not ruled out."""
    shown = torch.zeros_like(weights)
    likely = (weights > weights.max() - _LOOKED_AT).nonzero().flatten().tolist()
    asked = [e for e in likely if pairs[e][1].at is None]
    images = scene.known.images
    if images is None or len(asked) < 2 or beliefs.pictures >= _MOST_PICTURES or scene.is_regular:
        return shown
    pixels = torch.stack([scene.to_pixels(cells[e], pairs[e][1].lattice) for e in asked]).float()
    ratios = pixels.new_zeros(len(asked))
    of_image, boxes_of_image = scene.images.unique(return_counts=True)
    for image in of_image[boxes_of_image.argsort(descending=True)][:_PICTURES_OF_A_CALL].tolist():
        left, top, right, bottom = scene.picture_of(image, images)
        boxes = pixels[:, scene.images == image] - pixels.new_tensor([left, top, left, top])
        ratios += Edges.of(images[image, :, top:bottom, left:right]).follow(boxes)
        beliefs.pictures += 1
    not_drawn = torch.full_like(ratios, math.log(1 - table.DRAWN))
    shown[asked] = torch.logaddexp(table.WITNESS * ratios + math.log(table.DRAWN), not_drawn).to(shown)
    return shown
