"""Rotated, masked and largest RoIAlign in Triton's interpreter; `triton_interpreter.py` runs this."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from roialign.ops.triton import functions, functions_maxima, lists, operators
from tests.ops import tolerances
from tests.ops.served import reference
from tests.ops.triton_calls import results, to_features

kernels = SimpleNamespace(**operators.IMPLEMENTATIONS)

NAN, INF = float("nan"), float("inf")
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
PLANES, CHANNELS = torch.contiguous_format, torch.channels_last
SCALE, BINS, HEIGHT = 0.25, (2, 3), 9
UPRIGHT = (
    *([0, 3.3, 5.1, 30.7, 31.2], [1, -20.3, -10.2, 30.4, 50.1], [1, 10.2, 10.4, 3.1, 2.3]),
    *([0, 200, 200, 300, 300], [0, 8.3, 8.3, 8.3, 8.3]),
)
TURNED = (
    *([0, 30.1, 20.3, 30.2, 20.4, 33], [1, 2.3, 3.1, 40.2, 15.3, -100], [1, 40.3, 20.2, 4.1, 2.2, 90]),
    *([0, 300, 300, 20, 30, 10], [0, 8.3, 8.4, 0, 0, 20], [1, 36.3, 16.2, 90.3, 40.7, 725]),
)
BAD_UPRIGHT = (
    *([0, NAN, 1, 9, 9], [1, 1, 1, -INF, 9], [2, 1, 1, 9, 9], [-1, 1, 1, 9, 9], [0.5, 1, 1, 9, 9]),
    *([NAN, 1, 1, 9, 9], [0, -1e30, -1e30, 1e30, 1e30]),
)
BAD_TURNED = (
    *([0, NAN, 1, 9, 9, 0], [0, 1, INF, 9, 9, 0], [0, 1, 1, NAN, 9, 0], [0, 1, 1, 9, -INF, 0], [0, 1, 1, 9, 9, NAN]),
    *([0, 1, 1, 9, 9, -INF], [2, 1, 1, 9, 9, 0], [-1, 1, 1, 9, 9, 0], [0.5, 1, 1, 9, 9, 0], [0, 1, 1, 1e30, 1e30, 0]),
)
GOOD = {"roi_align_rotated": TURNED, "roi_align_max": UPRIGHT, "masked_roi_align": UPRIGHT}
BAD = {"roi_align_rotated": BAD_TURNED, "roi_align_max": BAD_UPRIGHT, "masked_roi_align": BAD_UPRIGHT}


@dataclass(frozen=True)
class Case:
    """A call of one operator."""

    name: str
    dtype: torch.dtype
    layout: torch.memory_format
    ratio: int
    aligned: bool
    flags: tuple[bool, ...]
    """Options after `aligned`."""
    width: int = 13
    copied: bool = False
    """Whether maps may be copied to channels_last."""
    mask: str = ""

    @property
    def options(self) -> tuple[Any, ...]:
        return (SCALE, self.ratio, self.aligned, *self.flags)


ROTATED, MAX, MASKED = "roi_align_rotated", "roi_align_max", "masked_roi_align"
CASES = {
    ROTATED: (
        Case(ROTATED, F32, PLANES, 2, True, (True, False)),
        Case(ROTATED, F64, CHANNELS, 0, False, (False, True), width=16),
        Case(ROTATED, BF16, CHANNELS, 2, False, (False, False)),
        Case(ROTATED, F16, PLANES, 3, True, (True, True), copied=True),
        Case(ROTATED, F32, PLANES, 0, True, (False, False), width=16, copied=True),
        Case(ROTATED, F64, PLANES, 1, False, (True, True)),
    ),
    MAX: (
        Case(MAX, F32, PLANES, 2, True, (False,)),
        Case(MAX, F64, CHANNELS, 0, False, (True,), width=16),
        Case(MAX, BF16, CHANNELS, 2, False, (True,)),
        Case(MAX, F16, PLANES, 3, True, (False,), copied=True),
        Case(MAX, F32, PLANES, 0, True, (False,), width=16, copied=True),
        Case(MAX, F64, PLANES, 1, False, (False,)),
    ),
    MASKED: (
        Case(MASKED, F32, PLANES, 2, True, (False,), mask="bool"),
        Case(MASKED, F64, CHANNELS, 0, False, (False,), width=16, mask="some"),
        Case(MASKED, F64, PLANES, 2, False, (True,), mask="some"),
        Case(MASKED, BF16, CHANNELS, 2, False, (True,), mask="bool"),
        Case(MASKED, F16, PLANES, 3, True, (False,), copied=True, mask="turned"),
        Case(MASKED, F32, PLANES, 0, True, (True,), width=16, copied=True, mask="bool"),
    ),
}


def check(case: Case) -> None:
    """Features, coverage and gradients against the reference in float64, and what bad boxes give."""
    functions.COPY_PAYS = 10**6 if case.copied else 0
    generator = torch.Generator().manual_seed(case.width)
    compute = F64 if case.dtype == F64 else F32
    good, bad = GOOD[case.name], BAD[case.name]
    rois = torch.tensor((*good, *bad), dtype=compute)
    if case.ratio > 0:
        rois = rois[:-1]  # where the grid is fixed the largest box can be sampled
    if case.name == ROTATED and case.flags[1]:
        rois[:, 5] *= torch.pi / 180
    exact = torch.randn(2, 3, HEIGHT, case.width, generator=generator, dtype=F64).to(case.dtype)
    grad = torch.randn(len(rois), 3, *BINS, generator=generator, dtype=F64).to(case.dtype)
    masks = _masks(case, len(rois), compute, generator)
    features = exact.contiguous(memory_format=case.layout)
    found = results(kernels, case.name, features, [rois, *masks], grad, case.options)
    usable = slice(0, len(good))
    few = [one[usable].double() if one.is_floating_point() else one[usable] for one in (rois, *masks)]
    expected = results(reference, case.name, exact.double(), few, grad[usable].double(), case.options)
    output, coverage, grad_input, *grads = found
    cut = 2 if case.dtype == BF16 else 1  # the interpreter cuts bfloat16 off where a GPU rounds
    tolerances.assert_close(output[usable], expected[0], cut * expected[0])
    tolerances.assert_close(coverage[usable], expected[1], torch.ones(1))
    tolerances.assert_close(grad_input, expected[2], cut * expected[2])
    for one, other in zip(grads, expected[3:], strict=True):
        tolerances.assert_close(one[usable], other, other)
        assert not bool(one[usable.stop :].any()), "a bad box has a gradient"
    assert bool(output[usable.stop :].isnan().all()), "a bad box gives numbers"
    assert bool(coverage[usable.stop :].isnan().all()), "a bad box has a coverage"


def _masks(case: Case, count: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    if not case.mask:
        return []
    values = torch.rand(count, *((12, 16) if case.flags[0] else (5, 9)), generator=generator, dtype=F64)
    if case.mask == "bool":
        return [values > 0.4]
    values = values * (torch.arange(values.shape[2]) < values.shape[2] / 2)  # some bins have no weight
    values[0] = 0.0
    return [values.to(dtype).transpose(1, 2) if case.mask == "turned" else values.to(dtype)]


def check_room(name: str) -> None:
    """Without room for lists or places the bits are the same; boxes that crowd on few tiles are shared out."""
    case, generator = CASES[name][0], torch.Generator().manual_seed(0)
    rois = torch.tensor(GOOD[name][:2], dtype=F32)
    features, grad = torch.randn(2, 3, HEIGHT, 13, generator=generator), torch.randn(2, 3, *BINS, generator=generator)
    masks = _masks(case, 2, F32, generator)
    arguments = (case.name, features, [rois, *masks], grad, case.options)
    roomy = to_features(kernels, *arguments)
    lists.LISTED_BOXES, functions_maxima.PLACES = 1, 1
    assert torch.equal(to_features(kernels, *arguments), roomy), "other bits without room"
    lists.LISTED_BOXES, functions_maxima.PLACES = 1 << 23, 1 << 22
    many = rois[:1].repeat(33, 1)
    many[:, 1:3] += torch.rand(33, 2, generator=generator)
    features, grad = features[:1, :, :, :8], torch.randn(33, 3, *BINS, generator=generator)
    arguments = (case.name, features, [many, *_masks(case, 33, F32, generator)], grad, case.options)
    expected = to_features(reference, *arguments)
    tolerances.assert_close(to_features(kernels, *arguments), expected, expected)


def check_turns() -> None:
    """Angles of many turns, and quarters, which are exact."""
    angles = torch.tensor([0.0, 90, -90, 180, 270, 45, -45, 135, 1e6 + 30, -7.25e5, 360 * 2**30])
    rois = torch.tensor([[0, 5.0, 4, 3, 2, 0]]).repeat(len(angles), 1)
    rois[:, 5] = angles
    features = torch.randn(1, 1, 9, 11, generator=torch.Generator().manual_seed(0))
    for clockwise, radians in ((False, False), (True, False), (False, True)):
        arguments = (features, rois, 2, 2, 1.0, 2, True, clockwise, radians)
        expected = reference.roi_align_rotated(*arguments)[0]
        tolerances.assert_close(kernels.roi_align_rotated(*arguments)[0], expected, features)


def check_maxima() -> None:
    """NaN is the largest, of equal samples the first wins, and what is off the map counts as 0."""
    rois = torch.tensor([[0, 0.0, 0, 8, 8], [0, -4, -4, 5, 5]])
    whole = torch.randint(-3, 1, (1, 4, 9, 9), generator=torch.Generator().manual_seed(0)).float()
    poisoned = whole.clone()
    poisoned[0, 0, 3, 3], poisoned[0, 1, 2, 5], poisoned[0, 1, 6, 6], poisoned[0, 2, 4, 4] = NAN, INF, NAN, -INF
    grad = torch.randn(2, 4, *BINS, generator=torch.Generator().manual_seed(1))
    for corners in (False, True):
        options = (1.0, 2, False, corners)
        for features in (whole, poisoned):
            expected = reference.roi_align_max(features, rois, *BINS, *options)[0]
            found = kernels.roi_align_max(features, rois, *BINS, *options)[0]
            tolerances.assert_same_kinds(found, expected)
            tolerances.assert_close_where_finite(found, expected, whole)
        expected = reference.roi_align_max_backward(grad, whole, rois, *options)
        tolerances.assert_close(kernels.roi_align_max_backward(grad, whole, rois, *options), expected, expected)


def check_unweighed() -> None:
    """What lies under no weight is not read, and an infinite gradient stays where its bin reads."""
    features, rois = torch.randn(1, 2, 9, 9), torch.tensor([[0, 1.0, 1, 8, 8]])
    masks = torch.zeros(1, 4, 4)
    masks[:, :2] = 1.0
    features[:, :, 6:] = NAN
    arguments = (rois, masks, 2, 2, 1.0, 2, True, False)
    expected = reference.masked_roi_align(features, *arguments)[0]
    tolerances.assert_close(kernels.masked_roi_align(features, *arguments)[0], expected, expected)
    grad = torch.tensor([INF, NAN, 1.0, 1.0]).view(1, 1, 2, 2)
    arguments = (grad, rois, masks, 1, 9, 9, 1.0, 2, True, False)
    expected = reference.masked_roi_align_backward(*arguments)
    tolerances.assert_same_kinds(kernels.masked_roi_align_backward(*arguments), expected)


def main(count: int | None) -> None:
    """Run `count` of the cases of each operator, or all and what is special of them."""
    for cases in CASES.values():
        for case in cases[:count]:
            check(case)
    if count is None:
        check_turns()
        check_maxima()
        check_unweighed()
        for name in CASES:
            check_room(name)
