"""The structure of real networks against an oracle that spoils pixels and looks which cells change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from roialign.backbones.structure import Structure, structure
from tests.backbones.oracle import AxisGrid, Seen, seen
from tests.backbones.zoo import PAIRS, ZOO, Net, built, observed, plain

TOLERANCE_PX = 1e-3


@pytest.mark.parametrize(
    ("net", "size"),
    [
        pytest.param(net, size, id=f"{net.name}-{size}", marks=() if size == net.sizes[0] else pytest.mark.rare)
        for net, size in PAIRS
    ],
)
def test_structure_is_what_the_pixels_show(net: Net, size: tuple[int, int]) -> None:
    pytest.importorskip(net.needs)
    found = structure(built(net), size)
    everything = observed(net, size)
    assert list(found.levels) == list(everything)
    _assert_extents(found, everything)
    for name in net.whole:
        assert everything[name].is_whole_image(), f"{name} was expected to mix over the whole image"
    own = everything
    if net.unmixed:
        own = observed(net, size, unmixed=True)
        _assert_extents(structure(built(net, unmixed=True), size), own)
    for name, cells in own.items():
        _assert_grid(name, found, cells)


def _assert_extents(found: Structure, expected: dict[str, Seen]) -> None:
    for name, cells in expected.items():
        level = found.levels[name]
        assert level.unknown is None, f"{name}: {level.unknown}"
        pixels = torch.stack([cells.first_yx[0], cells.last_yx[0], cells.first_yx[1], cells.last_yx[1]], -1)
        wrong = (level.extents() != pixels).any(-1).nonzero()
        assert len(wrong) == 0, (
            f"{name}: {len(wrong)} of {pixels[..., 0].numel()} cells; first at {wrong[0].tolist()}: structure says "
            f"{level.extents()[tuple(wrong[0])].tolist()}, the pixels say {pixels[tuple(wrong[0])].tolist()}"
        )


def _assert_grid(name: str, found: Structure, cells: Seen) -> None:
    level, grid = found.levels[name], cells.grid()
    compared = 0
    for axis, structural, expected in (("y", level.y, grid.y), ("x", level.x, grid.x)):
        if expected is None:
            continue
        assert structural is not None
        assert structural.stride == pytest.approx(float(expected.stride), abs=TOLERANCE_PX), f"stride of {name}, {axis}"
        assert structural.offset == pytest.approx(float(expected.offset), abs=TOLERANCE_PX), f"offset of {name}, {axis}"
        compared += 1
    assert compared, f"no axis of {name} has cells enough that see no border: make the image of this pair longer"


def test_the_table_is_long_enough() -> None:
    assert len(PAIRS) >= 40
    assert len({(net.name, size) for net, size in PAIRS}) == len(PAIRS)


PUBLISHED = [
    # Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019: pixels along
    # one axis that can change a cell of the last map before global pooling, borders left aside.
    ("vgg16", "30", 212, 32),  # pool5
    ("alexnet", "12", 195, 32),  # pool5; torchvision's widths differ from alexnet_v2's, its kernels and strides do not
    ("mobilenet_v1", "0", 315, 32),
    ("resnet50_v1", "layer4", 483, 32),  # the stride in each stage's first 1x1 convolution
    ("resnet50", "layer4", 427, 32),  # torchvision's v1.5: the stride in the 3x3 convolution instead
]


@pytest.mark.parametrize(("name", "level", "size", "stride"), PUBLISHED)
def test_published_receptive_fields(name: str, level: str, size: int, stride: int) -> None:
    pytest.importorskip("torchvision")
    net = next(net for net in ZOO if net.name == name)
    y = observed(net, net.sizes[0])[level].grid().y
    assert y is not None
    assert (y.size, y.stride) == (size, stride)
    structural = structure(built(net), net.sizes[0]).levels[level].y
    assert structural is not None
    assert (structural.extent, structural.stride) == (size, stride)


ACTIVATIONS = "relu relu6 hardswish hardsigmoid hardtanh silu gelu sigmoid tanh leaky_relu elu mish softplus"


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations_pass_nan(name: str) -> None:
    for length in (1, 3, 8, 17, 64):  # vectorised and not
        x = torch.randn(length, generator=torch.Generator().manual_seed(0)).repeat(length, 1)
        x.fill_diagonal_(torch.nan)
        assert torch.equal(getattr(F, name)(x).isnan(), torch.eye(length, dtype=torch.bool)), name


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_convolution_and_pooling_pass_nan_to_the_cells_that_read_it(memory_format: torch.memory_format) -> None:
    for channels, groups, kernel, stride in (
        (3, 1, 7, 2),
        (64, 1, 3, 1),
        (16, 16, 3, 1),
        (32, 32, 7, 1),
        (16, 1, 1, 2),
    ):
        weight = torch.randn(32, channels // groups, kernel, kernel, generator=torch.Generator().manual_seed(0))
        for size_hw in ((9, 7), (40, 23), (64, 64)):
            pixel = torch.zeros(1, 1, *size_hw)
            pixel[0, 0, size_hw[0] // 2, size_hw[1] // 2] = 1
            x = torch.ones(2, channels, *size_hw).masked_fill(pixel > 0, torch.nan).to(memory_format=memory_format)
            found = F.conv2d(x, weight, None, stride, kernel // 2, 1, groups).isnan()
            reads = F.conv2d(pixel, torch.ones(1, 1, kernel, kernel), None, stride, kernel // 2) > 0
            assert torch.equal(found, reads.expand_as(found))
            assert torch.equal(F.max_pool2d(x, 3, 2, 1).isnan()[:1, :1], F.max_pool2d(pixel, 3, 2, 1) > 0)


def test_the_oracle_on_layers_computed_by_hand() -> None:
    cases: list[tuple[nn.Module, AxisGrid]] = [
        (nn.Conv2d(3, 4, 3, 2, 1), AxisGrid(2, 0.5, 3)),
        (nn.Conv2d(3, 4, 4, 4), AxisGrid(4, 2, 4)),
        (nn.Conv2d(3, 4, 3, 1, 2, dilation=2), AxisGrid(1, 0.5, 5)),
        (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)), AxisGrid(2, 1.5, 3)),
        (nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 2)), AxisGrid(1, 0.5, 2)),
        (nn.Sequential(nn.MaxPool2d(3, 2), nn.Hardswish(), nn.AvgPool2d(2)), AxisGrid(4, 2.5, 5)),
    ]
    for module, expected in cases:
        for by in ("lines", "pixels"):
            for probe in ("nan", "difference"):
                cells = seen(module, (13, 17), plain, by=by, probe=probe)["0"]
                grid = cells.grid()
                assert (grid.y, grid.x) == (expected, expected), f"{module} by {by} and {probe}"
