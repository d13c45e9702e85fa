"""Pooling from several maps: against roi_align, the reference, torchvision's pyramid pooler and finite differences."""

import random
from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import Tensor

from roialign import errors
from roialign.ops.multi_scale_roi_align import multi_scale_roi_align

from .cases import kernel_cases, random_case
from .served import reference
from .tolerances import assert_close

OP = torch.ops.roialign


def random_pyramid(seed: int, dtype: torch.dtype = torch.float32):
    """Maps of unlike strides and offsets, and boxes on, across and off them."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    images, channels, count = rng.randint(1, 3), rng.choice([1, 5, 33]), rng.choice([0, 1, 7, 40])
    maps, cells = [], []
    for _ in range(rng.randint(1, 5)):
        stride_y, stride_x = rng.choice([4, 8, 12.5, 14, 32]), rng.choice([4, 8, 11.3, 16])
        shape = images, channels, rng.randint(1, 40), rng.randint(1, 40)
        maps.append(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        cells += [1 / stride_y, rng.choice([0.0, 0.5, rng.uniform(-1, 1)]), 1 / stride_x, rng.uniform(-0.5, 1.5)]
    corners = torch.rand(count, 2, generator=generator) * 320 - 40
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 200], 1)
    image = torch.randint(images, (count, 1), generator=generator)
    levels = torch.randint(len(maps), (count,), generator=generator)
    rois = torch.cat([image, boxes], 1).to(torch.float64 if dtype == torch.float64 else torch.float32)
    size_hw = rng.choice([(1, 1), (7, 7), (2, 5), (14, 3)])
    return maps, rois, levels, cells, *size_hw, rng.choice([-1, 1, 2, 3]), rng.random() < 0.5


@pytest.mark.parametrize("seed", range(40))
def test_kernels_equal_the_reference(seed):
    dtype = torch.float64 if seed % 4 == 0 else torch.float32
    maps, rois, levels, cells, *size_hw, ratio, widen = random_pyramid(seed, dtype)
    output, coverage = OP.multi_scale_roi_align(maps, rois, levels, cells, *size_hw, ratio, widen)
    wanted, wanted_coverage = reference.multi_scale_roi_align(maps, rois, levels, cells, *size_hw, ratio, widen)
    assert_close(output, wanted, scale=torch.cat([one.flatten() for one in maps]))
    assert_close(coverage, wanted_coverage, scale=torch.ones(1))
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    shapes = maps[0].shape[0], [one.shape[2] for one in maps], [one.shape[3] for one in maps]
    arguments = grad, rois, levels, *shapes, cells, ratio, widen
    for actual, expected in zip(
        OP.multi_scale_roi_align_backward(*arguments),
        reference.multi_scale_roi_align_backward(*arguments),
        strict=True,
    ):
        assert_close(actual, expected, scale=expected)
    arguments = grad, maps, rois, levels, cells, ratio, widen
    expected = reference.multi_scale_roi_align_backward_boxes(*arguments)
    assert_close(OP.multi_scale_roi_align_backward_boxes(*arguments), expected, scale=expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_map_is_roi_align_to_the_bit(dtype):
    for case in kernel_cases():
        features, grad = case.features(dtype), case.grad(dtype)
        rois = case.rois(torch.promote_types(dtype, torch.float32))
        ph, pw, scale, ratio, aligned = case.options
        cells, levels = [scale, 0.5 if aligned else 0.0] * 2, torch.zeros(len(rois), dtype=torch.int64)
        options = cells, ratio, not aligned
        one = OP.multi_scale_roi_align([features], rois, levels, cells, ph, pw, ratio, not aligned)
        assert all(map(torch.equal, one, OP.roi_align(features, rois, *case.options))), case
        images, height, width = case.image_size
        (one,) = OP.multi_scale_roi_align_backward(grad, rois, levels, images, [height], [width], *options)
        assert torch.equal(one, OP.roi_align_backward(grad, rois, *case.image_size, *case.sampling)), case
        one = OP.multi_scale_roi_align_backward_boxes(grad, [features], rois, levels, *options)
        assert torch.equal(one, OP.roi_align_backward_boxes(grad, features, rois, *case.sampling)), case


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_box_is_pooled_from_its_own_map(layout):
    """Whatever the order of the maps and of the boxes."""
    maps, rois, levels, cells, *size_hw, ratio, widen = random_pyramid(3)
    maps = [one.contiguous(memory_format=layout) for one in maps]
    output, coverage = OP.multi_scale_roi_align(maps, rois, levels, cells, *size_hw, ratio, widen)
    for row, level in enumerate(levels.tolist()):
        alone = OP.multi_scale_roi_align(
            [maps[level]], rois[row : row + 1], levels[:1] * 0, cells[4 * level :][:4], *size_hw, ratio, widen
        )
        assert torch.equal(alone[0][0], output[row])
        assert alone[1] == coverage[row]
    assert len(maps) > 1
    order = torch.randperm(len(rois), generator=torch.Generator().manual_seed(0))
    turned = [number for level in reversed(range(len(maps))) for number in cells[4 * level :][:4]]
    again = OP.multi_scale_roi_align(
        maps[::-1], rois[order], len(maps) - 1 - levels[order], turned, *size_hw, ratio, widen
    )
    assert torch.equal(again[0], output[order])


def test_equals_torchvisions_pooler_of_a_pyramid():
    generator = torch.Generator().manual_seed(0)
    strides = 4, 8, 16, 32
    maps = [torch.randn(2, 8, 768 // stride, 960 // stride, generator=generator) for stride in strides]
    corners = torch.rand(60, 2, generator=generator) * 150
    boxes = torch.cat([corners, corners + 2 + torch.rand(60, 2, generator=generator) ** 3 * 600], 1)
    pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    wanted = pooler(
        OrderedDict((str(index), one) for index, one in enumerate(maps)), [boxes[:40], boxes[40:]], [(768, 960)] * 2
    )
    rois = torch.cat([(torch.arange(60) >= 40).float()[:, None], boxes], 1)
    levels = pooler.map_levels([boxes])
    cells = [number for stride in strides for number in (1 / stride, 0.0) * 2]
    output, _ = multi_scale_roi_align(maps, rois, levels, cells, (7, 7), 2, True)
    assert len(levels.unique()) == 4
    torch.testing.assert_close(output, wanted, atol=1e-6, rtol=1e-5)


def test_gradcheck():
    maps = [torch.rand(2, 2, 6, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    rois = torch.tensor([[0, 3.3, 2.1, 21.7, 30.2], [1, 5.2, 7.7, 30.4, 33.3], [1, 0.4, 1.3, 9.1, 7.9]])
    rois = rois.double().requires_grad_()
    levels, cells = torch.tensor([1, 0, 1]), [0.13, 0.41, 0.17, -0.2, 0.2, 0.5, 0.11, 0.0]

    def pool(boxes: Tensor, *features: Tensor) -> Tensor:
        return multi_scale_roi_align(features, torch.cat([rois[:, :1], boxes], 1), levels, cells, (2, 3), 2, False)[0]

    boxes = rois.detach()[:, 1:].requires_grad_()
    torch.autograd.gradcheck(pool, (boxes, *maps))
    torch.autograd.gradgradcheck(lambda *features: pool(boxes.detach(), *features), tuple(maps))


def test_backward_is_the_same_for_any_number_of_threads():
    maps, rois, levels, cells, *size_hw, ratio, widen = random_pyramid(5)
    grad = torch.randn(len(rois), maps[0].shape[1], *size_hw)
    shapes = maps[0].shape[0], [one.shape[2] for one in maps], [one.shape[3] for one in maps]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(OP.multi_scale_roi_align_backward(grad, rois, levels, *shapes, cells, ratio, widen))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_compiles_in_one_graph():
    maps, rois, levels, cells, *size_hw, ratio, widen = random_pyramid(3)

    def pool(features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        return multi_scale_roi_align(features, rois, levels, cells, tuple(size_hw), ratio, widen)[0] * 2

    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps, rois, levels), pool(maps, rois, levels))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"levels": torch.tensor([0, 2])}, errors.LevelError, r"RA401: .*from 0 to 1, .*1 rows .*levels\[1\] = 2"),
        ({"levels": torch.tensor([-1, 0])}, errors.LevelError, r"RA401: .*levels\[0\] = -1.*clamp\(0, 1\)"),
        ({"levels": torch.tensor([0])}, errors.LevelError, r"RA401: expected the level of each box, int64 \[2\]"),
        ({"levels": torch.tensor([0.0, 1.0])}, errors.LevelError, r"RA401: .*float32 tensor \[2\].*levels\.long"),
        ({"rois": torch.full((2, 5), float("nan"))}, errors.BoxesValueError, r"RA205: .*2 unusable rows of 2"),
        ({"rois": torch.tensor([[0, 1, 1, 2, 2], [7.0, 1, 1, 2, 2]])}, errors.BatchIndexError, r"RA206: .*boxes\[1\]"),
        ({"cells": [0.5] * 7}, (RuntimeError, errors.LevelError), r"RA401: .*2 maps and 7 numbers"),
        ({"inputs": []}, (RuntimeError, errors.LevelError), r"RA401: .*0 maps and 8 numbers"),
        (
            {"inputs": [torch.rand(1, 3, 8, 8), torch.rand(1, 4, 4, 4)]},
            (RuntimeError, errors.FeatureMapError),
            r"RA306: .*with the same N and C",
        ),
        ({"cells": [0.5, 0.0, 0.0, 0.5] * 2}, (RuntimeError, errors.ScaleError), r"RA105: .*above zero"),
    ],
)
def test_refused(change, error, message):
    good = {
        "inputs": [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)],
        "rois": torch.tensor([[0, 1.0, 1, 8, 8], [0, 2, 2, 9, 9]]),
        "levels": torch.tensor([0, 1]),
        "cells": [0.5, 0.5, 0.5, 0.5, 0.25, 0.5, 0.25, 0.5],
        "output_size_hw": (2, 2),
        "sampling_ratio": 2,
        "widen": False,
    }
    assert multi_scale_roi_align(**good)[0].shape == (2, 3, 2, 2)
    with pytest.raises(error, match=f"^{message}"):
        multi_scale_roi_align(**{**good, **change})


def test_a_box_too_wide_for_its_own_level_is_named():
    """Each axis and level counts the samples that adaptive sampling takes by its own scale."""
    maps, levels = [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)], torch.tensor([0, 1])
    rois = torch.tensor([[0, 0.0, 0, 5e7, 9], [0, 0, 0, 5e7, 9]])
    cells = [0.5, 0.0, 1e-6, 0.0, 1e-6, 0.0, 1.0, 0.0]  # the second level counts columns one by one
    with pytest.raises(errors.BoxesValueError, match=r"^RA205: .*1 unusable rows of 2, the first boxes\[1\]"):
        multi_scale_roi_align(maps, rois, levels, cells, (1, 1), -1, False)
    assert multi_scale_roi_align(maps, rois, levels * 0, cells, (1, 1), -1, False)[0].isfinite().all()


def test_without_boxes_every_map_gets_a_gradient_of_zeros():
    maps = [torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 2, 2, requires_grad=True)]
    cells = [0.5, 0.5] * 4
    output, _ = multi_scale_roi_align(
        maps, torch.empty(0, 5), torch.empty(0, dtype=torch.int64), cells, (2, 2), 2, False
    )
    output.sum().backward()
    assert output.shape == (0, 3, 2, 2)
    assert all(one.grad is not None and not one.grad.any() for one in maps)


def test_each_axis_has_a_scale_of_its_own():
    """A map stretched along one axis is read as a square one is, with a scale of its own for that axis."""
    case = random_case(11, sampling_ratio=2, aligned=True)
    features, rois = case.features(torch.float64), case.rois(torch.float64)
    stretched = rois * rois.new_tensor([1, 3, 1, 3, 1])
    scale = case.options[2]
    cells, levels = [scale, 0.5, scale / 3, 0.5], torch.zeros(len(rois), dtype=torch.int64)
    output, _ = multi_scale_roi_align([features], stretched, levels, cells, case.options[:2], 2, False)
    assert_close(output, OP.roi_align(features, rois, *case.options)[0], scale=features)
