"""What the kernels have to do right on a GPU before anything is timed; each check raises AssertionError."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from tests.ops import tolerances
from torch import Tensor

import roialign
from roialign.ops import registered

reference = SimpleNamespace(**registered.REFERENCE)

_op: Any = torch.ops.roialign
NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
CONFIGURATIONS = (((7, 7), 2, True), ((3, 2), 0, False))  # bins, sampling_ratio, aligned
SCALE, HEIGHT, WIDTH = 0.25, 33, 50
HUGE_ROW = 3  # of `boxes`
BAD_ROWS = (
    *([0, NAN, 1, 9, 9], [0, 1, INF, 9, 9], [0, 1, 1, -INF, 9], [0, -1e30, -1e30, 1e30, 1e30], [2, 1, 1, 9, 9]),
    *([-1, 1, 1, 9, 9], [0.5, 1, 1, 9, 9], [NAN, 1, 1, 9, 9], [1e9, 1, 1, 9, 9]),
)


@dataclass(frozen=True)
class Results:
    """What one call gives: features, coverage and both gradients."""

    output: Tensor
    coverage: Tensor
    grad_input: Tensor
    grad_rois: Tensor

    def equals(self, other: Results) -> bool:
        return all(torch.equal(a, b) for a, b in zip(vars(self).values(), vars(other).values(), strict=True))


def boxes(count: int, seed: int) -> Tensor:
    """Rows [K, 5] of two images: inside, partly and wholly off the map, empty, inverted and huge."""
    rng = random.Random(seed)
    rows = [[0, 30, 20, 30, 60], [1, 60, 50, 20, 10], [1, 4000, 4000, 4100, 4100], [0, -2e5, -1e5, 3e5, 2e5]]
    while len(rows) < count:
        x, y = rng.uniform(-40, 200), rng.uniform(-40, 130)
        rows.append([rng.randrange(2), x, y, x + rng.uniform(0, 120), y + rng.uniform(0, 120)])
    return torch.tensor(rows[:count], dtype=torch.float32)


def compute(features: Tensor, rois: Tensor, grad: Tensor, size_hw: tuple[int, int], *sampling: Any) -> Results:
    size_nhw = features.shape[0], *features.shape[2:]
    output, coverage = _op.roi_align(features, rois, *size_hw, *sampling)
    grad_input = _op.roi_align_backward(grad, rois, *size_nhw, *sampling)
    return Results(output, coverage, grad_input, _op.roi_align_backward_boxes(grad, features, rois, *sampling))


def expect(features: Tensor, rois: Tensor, grad: Tensor, size_hw: tuple[int, int], *sampling: Any) -> Results:
    """By the reference, in float64 on the CPU."""
    features, rois, grad = (one.double().cpu() for one in (features, rois, grad))
    size_nhw = features.shape[0], *features.shape[2:]
    output, coverage = reference.roi_align(features, rois, *size_hw, *sampling)
    grad_input = reference.roi_align_backward(grad, rois, *size_nhw, *sampling)
    return Results(output, coverage, grad_input, reference.roi_align_backward_boxes(grad, features, rois, *sampling))


def compare(found: Results, expected: Results, dtype: torch.dtype) -> None:
    of_boxes = torch.float64 if dtype == torch.float64 else torch.float32
    tolerances.assert_close(found.output.cpu(), expected.output, expected.output)
    tolerances.assert_close(found.coverage.cpu(), expected.coverage, torch.ones(1), of_boxes)
    tolerances.assert_close(found.grad_input.cpu(), expected.grad_input, expected.grad_input)
    # not that of the huge box: float32 is too coarse there to tell on which side of a cell a sample lies
    of_rois = found.grad_rois.cpu()[HUGE_ROW + 1 :], expected.grad_rois[HUGE_ROW + 1 :]
    tolerances.assert_close(*of_rois, of_rois[1], of_boxes)


def values(dtype: torch.dtype, channels: int, count: int, size_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, rois and upstream gradient on the GPU."""
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(2, channels, HEIGHT, WIDTH, generator=generator).to("cuda", dtype)
    grad = torch.randn(count, channels, *size_hw, generator=generator).to("cuda", dtype)
    return features, boxes(count, channels).to("cuda", torch.float64 if dtype == torch.float64 else torch.float32), grad


def agree(dtype: torch.dtype) -> None:
    """Both layouts, fixed and adaptive sampling; few boxes read contiguous maps in place, many have them copied."""
    for size_hw, *sampling in CONFIGURATIONS:
        for count, layout in ((60, LAYOUTS[0]), (60, LAYOUTS[1]), (8, LAYOUTS[0])):
            features, rois, grad = values(dtype, 70, count, size_hw)
            arguments = (features.contiguous(memory_format=layout), rois, grad, size_hw, SCALE, *sampling)
            found = compute(*arguments)
            compare(found, expect(features, rois, grad, size_hw, SCALE, *sampling), dtype)
            assert all(compute(*arguments).equals(found) for _ in range(3)), "repeats differ"


def levels_agree() -> None:
    """Three maps in one launch, against each of them alone; levels that there are not are as bad boxes."""
    size_hw = (7, 7)
    maps = [values(torch.float32, 64, 1, size_hw)[0][:, :, : HEIGHT >> one, : WIDTH >> one] for one in range(3)]
    rois = boxes(60, 3).cuda()
    levels = torch.arange(60, device="cuda") % 3
    grad = torch.randn(60, 64, 7, 7, device="cuda")
    cells = [number for one in range(3) for number in (SCALE / 2**one, 0.25, SCALE / 2**one / 1.5, 0.75)]
    options, sizes = (cells, 2, True), ([one.shape[2] for one in maps], [one.shape[3] for one in maps])
    output, _ = _op.multi_scale_roi_align(maps, rois, levels, cells, *size_hw, *options[1:])
    grads = _op.multi_scale_roi_align_backward(grad, rois, levels, 2, *sizes, *options)
    grad_rois = _op.multi_scale_roi_align_backward_boxes(grad, maps, rois, levels, *options)
    exact = [one.double().cpu() for one in maps]
    exact_rois, exact_levels, exact_grad = rois.double().cpu(), levels.cpu(), grad.double().cpu()
    expected, _ = reference.multi_scale_roi_align(exact, exact_rois, exact_levels, cells, *size_hw, 2, True)
    tolerances.assert_close(output.cpu(), expected, expected)
    of_maps = reference.multi_scale_roi_align_backward(exact_grad, exact_rois, exact_levels, 2, *sizes, *options)
    for found, wanted in zip(grads, of_maps, strict=True):
        tolerances.assert_close(found.cpu(), wanted, wanted)
    of_boxes = reference.multi_scale_roi_align_backward_boxes(exact_grad, exact, exact_rois, exact_levels, *options)
    usual = slice(HUGE_ROW + 1, None)
    tolerances.assert_close(grad_rois.cpu()[usual], of_boxes[usual], of_boxes[usual])
    levels[5], levels[6] = -1, 1 << 40
    bad, _ = _op.multi_scale_roi_align(maps, rois, levels, cells, *size_hw, 2, True)
    assert bool(bad[5:7].isnan().all()), "levels that there are not give numbers"
    assert torch.equal(bad[7:], output[7:]), "other boxes changed"


def hostile_boxes() -> None:
    """Boxes that cannot be sampled give NaN and no gradient, and change nothing for the others."""
    for size_hw, ratio, aligned in CONFIGURATIONS:
        features, good, _ = values(torch.float32, 70, 30, size_hw)
        bad = torch.tensor(BAD_ROWS, device="cuda")
        rois = torch.cat([good[:15], bad, good[15:]])
        unusable = torch.zeros(len(rois), dtype=torch.bool, device="cuda")
        unusable[15 : 15 + len(bad)] = True
        if ratio > 0:
            unusable[15 + 3] = False  # a box of 1e30 can be sampled where the grid is fixed
        upstream = torch.randn(len(rois), 70, *size_hw, device="cuda")
        found = compute(features, rois, upstream, size_hw, SCALE, ratio, aligned)
        assert bool(found.output[unusable].isnan().all()), "a bad box gives numbers"
        assert not bool(found.grad_rois[unusable].any()), "a bad box has a gradient"
        usable = ~unusable
        alone = compute(features, rois[usable], upstream[usable], size_hw, SCALE, ratio, aligned)
        assert torch.equal(found.output[usable], alone.output), "a bad box changes others"
        tolerances.assert_close(found.grad_input, alone.grad_input, alone.grad_input)


def hot_tiles() -> None:
    """A thousand boxes on one place, on a small map (its boxes are shared out) and on a large one."""
    for side in (16, 400):
        rois = torch.cat([torch.zeros(1000, 1), torch.rand(1000, 4) * 3 + torch.tensor([2.0, 2, 5, 5])], 1).cuda()
        grad = torch.randn(1000, 64, 7, 7, device="cuda")
        arguments = (grad, rois, 1, side, side, 1.0, 2, True)
        found = _op.roi_align_backward(*arguments)
        expected = reference.roi_align_backward(grad.double(), rois.double(), *arguments[2:])
        tolerances.assert_close(found, expected, expected)
        assert all(torch.equal(found, _op.roi_align_backward(*arguments)) for _ in range(3)), "repeats differ"


def infinities_stay() -> None:
    """An infinite upstream gradient reaches the cells that its bin reads, and no others."""
    _, rois, grad = values(torch.float32, 64, 30, (7, 7))
    grad[7, :, 3, 3], grad[9, 5, 1, 2] = INF, NAN
    found = _op.roi_align_backward(grad, rois, 2, HEIGHT, WIDTH, SCALE, 2, True)
    expected = reference.roi_align_backward(grad.double(), rois.double(), 2, HEIGHT, WIDTH, SCALE, 2, True)
    assert torch.equal(found.isfinite(), expected.isfinite()), "not finite in other cells"


def huge_map() -> None:
    """More than 2**31 elements: boxes in the last corner, against those of the corner alone."""
    channels, side, corner = 256, 3000, 64
    rois = torch.tensor([[0, 4.0, 5, 40, 50], [0, 20.0, 10, 63, 63], [0, 1.0, 1, 9, 60]], device="cuda")
    far = rois + torch.tensor([0.0, *[side - corner] * 4], device="cuda")
    for layout in LAYOUTS:
        whole = torch.zeros(1, channels, side, side, device="cuda")
        whole = whole.contiguous(memory_format=layout)
        part = torch.randn(1, channels, corner, corner, device="cuda")
        whole[:, :, -corner:, -corner:] = part
        grad = torch.randn(3, channels, 7, 7, device="cuda")
        found, near = (compute(one, box, grad, (7, 7), 1.0, 2, True) for one, box in ((whole, far), (part, rois)))
        tolerances.assert_close(found.output, near.output, near.output)
        tolerances.assert_close(found.grad_input[:, :, -corner:, -corner:], near.grad_input, near.grad_input)
        tolerances.assert_close(found.grad_rois, near.grad_rois, near.grad_rois)
        del whole, found
        torch.cuda.empty_cache()


def graph_replay() -> None:
    """Captured in a CUDA graph and replayed on other values."""
    features, rois, grad = values(torch.float32, 64, 60, (7, 7))
    arguments = (features, rois, grad, (7, 7), SCALE, 2, True)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(*arguments)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = compute(*arguments)
    features.normal_()
    grad.normal_()
    rois[:, 1:] += 1.5
    graph.replay()
    assert captured.equals(compute(*arguments)), "a replay differs"


def no_waits() -> None:
    """No host synchronisation in a forward and backward of the public function."""
    features, rois, _ = values(torch.float32, 64, 60, (7, 7))
    features.requires_grad_()
    rois.requires_grad_()
    per_image = [one.detach() for one in rois[:, 1:].split(30)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        with roialign.set_policy("ignore"):
            for boxes_form in (rois, per_image):
                for ratio in (2, 0):
                    roialign.roi_align(features, boxes_form, 7, SCALE, ratio).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def half_boxes() -> str:
    """A map of bfloat16 with boxes of float32, against casting both to half."""
    features, rois, _ = values(torch.bfloat16, 256, 60, (7, 7))
    rois = rois[HUGE_ROW + 1 :]
    rois[:, 1:] *= 16
    sampling = (SCALE / 16, 2, True)
    expected, _ = reference.roi_align(features.double(), rois.double(), 7, 7, *sampling)
    found, _ = _op.roi_align(features, rois, 7, 7, *sampling)
    cast, _ = _op.roi_align(features.half(), rois.half().float(), 7, 7, *sampling)
    mean, mean_cast = ((one.double() - expected).abs().mean() / expected.abs().mean() for one in (found, cast))
    tolerances.assert_close(found, expected, expected)
    return f"mean relative error {float(mean):.1e}; with boxes cast to half {float(mean_cast):.1e}"


def all_checks() -> dict[str, Callable[[], Any]]:
    by_type = {f"agrees in {str(dtype).removeprefix('torch.')}": (lambda dtype=dtype: agree(dtype)) for dtype in DTYPES}
    return {
        **by_type,
        "levels in one launch": levels_agree,
        "hostile boxes": hostile_boxes,
        "hot tiles": hot_tiles,
        "infinities stay": infinities_stay,
        "bfloat16 map, float32 boxes": half_boxes,
        "CUDA graph replay": graph_replay,
        "no host synchronisation": no_waits,
        "more than 2**31 elements": huge_map,
    }
