"""The gradient's measurement of grids: by hand, against the oracle, and that it leaves no trace."""

from __future__ import annotations

import copy
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from roialign.backbones.layout import Layout
from roialign.backbones.measure import Measured, measure
from roialign.backbones.trace import trace
from tests.backbones import networks
from tests.backbones.zoo import ZOO, Net, built, observed, plain

TOLERANCE_PX = 1e-3


def levels_of(module: nn.Module, image_hw: tuple[int, int]) -> dict[str, Layout]:
    """NCHW outputs, found by running the module."""
    with torch.no_grad():
        outputs = copy.deepcopy(module).float().eval()(torch.rand(1, 3, *image_hw))
    paths: dict[str, tuple[str | int, ...]] = {"0": ()}
    if isinstance(outputs, dict):
        paths = {name: (name,) for name in outputs}
    elif isinstance(outputs, (list, tuple)):
        paths = {str(index): (index,) for index in range(len(outputs))}
    return {
        name: Layout(path, "NCHW", (value.shape[2], value.shape[3]), value.shape[1])
        for (name, value), path in zip(plain(outputs).items(), paths.values(), strict=True)
    }


def measured(module: nn.Module, image_hw: tuple[int, int] = (64, 96)) -> Measured:
    result = measure(module, image_hw, 3, levels_of(module, image_hw))["0"]
    assert isinstance(result, Measured), result
    return result


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        out += x  # in place, as torchvision's blocks do
        return F.relu(out, inplace=True)


BY_HAND = {
    # name: module, stride, offset, extent
    "odd kernel, padding": (nn.Conv2d(3, 8, 3, 2, 1), 2, 0.5, 3),
    "patches": (nn.Conv2d(3, 8, 4, 4), 4, 2, 4),
    "even kernel without padding": (nn.Conv2d(3, 8, 2), 1, 1, 2),
    "padding at the end only": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2)), 2, 1.5, 3),
    "padding='same' of an even kernel": (nn.Conv2d(3, 8, 4, padding="same"), 1, 1, 4),
    "dilation": (nn.Conv2d(3, 8, 3, 1, 2, dilation=2), 1, 0.5, 5),
    "grouped and depthwise": (
        nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.Conv2d(6, 6, 5, groups=6)),
        2,
        4.5,
        11,
    ),
    "transposed": (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 4, 2, 2)), 2, 1, 4),
    "transposed, overlapping": (nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 4, 4, 2, 1)), 1, 0.5, 4),
    "max pooling": (nn.MaxPool2d(3, 2, 1), 2, 0.5, 3),
    "dilated max pooling": (nn.MaxPool2d(3, 2, dilation=2), 2, 2.5, 5),
    "pooling, ceil_mode": (nn.Sequential(nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2)), 4, 2.5, 5),
    "normalization and activations": (
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish(inplace=True), nn.GELU(), nn.Dropout()),
        2,
        0.5,
        3,
    ),
    "residual": (nn.Sequential(nn.Conv2d(3, 8, 2, 2), Residual(nn.Conv2d(8, 8, 3, padding=1))), 2, 1, 6),
    "pixel shuffle": (nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.PixelShuffle(4)), 2, 1, 8),
    "pixel unshuffle": (nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3, padding=1)), 4, 2, 12),
    "upsampling": (nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Upsample(scale_factor=2, mode="bilinear")), 2, 1, 8),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_layers_computed_by_hand(name: str) -> None:
    module, stride, offset, extent = BY_HAND[name]
    result = measured(module)
    assert result.stride_yx == pytest.approx((stride, stride), abs=TOLERANCE_PX)
    assert result.offset_yx == pytest.approx((offset, offset), abs=TOLERANCE_PX)
    assert result.extent_hw == (extent, extent)


def test_axes_are_not_confused() -> None:
    result = measured(nn.Conv2d(3, 8, (3, 6), (2, 5), (1, 0)), (63, 111))
    assert result == Measured((2.0, 5.0), (0.5, 3.0), (3, 6))


def test_negative_weights_do_not_cancel() -> None:
    convolution = nn.Conv2d(3, 1, 3)
    with torch.no_grad():
        convolution.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 3, 3))
    assert measured(convolution) == Measured((1.0, 1.0), (1.5, 1.5), (3, 3))


def _add_in_place(left: Tensor, right: Tensor) -> Tensor:
    left += right
    return left


JOINS = {
    "cat": lambda left, right: torch.cat([left, right], 1),
    "add": torch.add,
    "add in place": _add_in_place,
    "subtract": torch.sub,
    "product": torch.mul,
    "maximum": torch.maximum,
}


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_branches_of_different_centres_give_a_mean_between_them(join: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return join(self.left(x), self.right(x))

    result = measured(Branches())
    assert result.stride_yx == (2.0, 2.0)
    assert result.offset_yx == pytest.approx((0.75, 0.75))
    assert result.extent_hw == (3, 3)


def test_upsampled_branches_are_averaged_over_their_period() -> None:
    class Pyramid(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            fine = F.avg_pool2d(x, 2)
            coarse = F.avg_pool2d(fine, 4)
            return [fine + F.interpolate(coarse, size=fine.shape[2:]), coarse]

    module = Pyramid()
    fine, coarse = measure(module, (64, 96), 3, levels_of(module, (64, 96))).values()
    assert isinstance(fine, Measured)
    assert isinstance(coarse, Measured)
    assert (fine.stride_yx, fine.offset_yx) == ((2.0, 2.0), (1.0, 1.0))  # neighbours are 1 px apart, and then 5
    assert (coarse.stride_yx, coarse.offset_yx) == ((8.0, 8.0), (4.0, 4.0))


def test_padding_that_depends_on_the_size_is_that_of_the_real_size() -> None:
    class Same(nn.Module):
        """TensorFlow's SAME, stride 4, kernel 5; then layers that see too far for the real size."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 5, 4)
            self.further = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(10)))

        def forward(self, x: Tensor) -> Tensor:
            pads = []
            for size in (x.shape[3], x.shape[2]):
                total = max((-(-size // 4) - 1) * 4 + 5 - size, 0)
                pads += [total // 2, total - total // 2]
            features: Tensor = self.further(self.convolution(F.pad(x, pads)))
            return features

    # 4 | 64: one row of padding, at the end. 65: four rows, two at each end. 66: three rows, one before. 67: two.
    for height, offset in ((64, 2.5), (65, 0.5), (66, 1.5), (67, 1.5)):
        assert measured(Same(), (height, 96)).offset_yx == (offset, 2.5)


NETS = [
    "resnet50",
    "resnet50_dilated",
    "densenet",
    "convnext",
    "timm_tf_efficientnet_lite0",
    "hf_resnet",
    "unet_transposed",
    "mobilenet_v3",
    "swin",
    "timm_swin",
    "vit_b_16",
    "timm_vit_patch14_reg4",
    "hf_dinov2",
    "hf_swin",
]


@pytest.mark.parametrize("net", [net for net in ZOO if net.name in NETS], ids=lambda net: net.name)
def test_real_networks_against_pixels_spoilt_one_at_a_time(net: Net) -> None:
    pytest.importorskip(net.needs)
    size = net.sizes[0]
    # A U-Net's coarse branches share the centres of its skips, so it is measured as it is.
    everything = observed(net, size, unmixed=net.unmixed is not None and not net.name.startswith("unet"))
    for name, result in measure(built(net), size, 3, _layouts(net, size)).items():
        assert isinstance(result, Measured), f"{name}: {result}"
        grid = everything[name].grid()
        assert grid.y is not None or grid.x is not None
        for axis, expected in enumerate((grid.y, grid.x)):
            if expected is not None:
                assert result.stride_yx[axis] == pytest.approx(float(expected.stride), abs=TOLERANCE_PX), name
                assert result.offset_yx[axis] == pytest.approx(float(expected.offset), abs=TOLERANCE_PX), name
                if result.extent_hw is not None and not net.name.startswith("unet"):  # the oracle's is a mean there
                    assert result.extent_hw[axis] == expected.size, name
        assert (result.extent_hw is None) == (net.unmixed is not None and not net.name.startswith("unet")), name


def _layouts(net: Net, size: tuple[int, int]) -> dict[str, Layout]:
    from roialign.backbones.structure import structure

    return {name: level.layout for name, level in structure(built(net), size).levels.items()}


class Disturbing(nn.Module):
    """All that a measurement could leave behind: statistics, a counter, random numbers, gradients, modes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen = self.seen + 1
        x = self.norm(self.frozen(self.convolution(x)))
        return x + torch.rand_like(x) * 0


def test_nothing_is_left_behind() -> None:
    module = Disturbing().train()
    module.frozen.eval()
    module.convolution.bias.requires_grad_(False)  # type: ignore[union-attr]
    module.convolution.weight.grad = torch.ones_like(module.convolution.weight)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    buffers = {name: id(value) for name, value in module.named_buffers()}
    levels = levels_of(module, (64, 96))
    random_state, threads, grad = torch.get_rng_state(), torch.get_num_threads(), torch.is_grad_enabled()
    assert isinstance(measure(module, (64, 96), 3, levels)["0"], Measured)
    assert [child.training for child in module.modules()] == [True, True, False, True]
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in state.items())
    assert {name: id(value) for name, value in module.named_buffers()} == buffers
    assert [p.requires_grad for p in module.convolution.parameters()] == [True, False]
    assert torch.equal(module.convolution.weight.grad, torch.ones_like(module.convolution.weight))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_frozen_and_half_precision_modules_are_measured() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.scale = nn.Parameter(-torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.stem(x).to(self.scale.dtype)
            features: Tensor = self.head(x * self.scale) - 1
            return features

    for module in (Frozen(), Frozen().bfloat16(), Frozen().requires_grad_(False)):
        assert measured(module) == Measured((4.0, 4.0), (0.5, 0.5), (7, 7))
        with torch.inference_mode():
            assert measured(module) == Measured((4.0, 4.0), (0.5, 0.5), (7, 7))


def _reason(module: nn.Module, size: tuple[int, int] = (64, 96), layout: Layout | None = None) -> str:
    result = measure(module, size, 3, {"0": layout or levels_of(module, size)["0"]})["0"]
    assert isinstance(result, str)
    return result


class Mixer(nn.Module):
    """Every cell is a mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 8) + F.adaptive_avg_pool2d(x, 1).expand(-1, -1, x.shape[2] // 8, x.shape[3] // 8)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(1, 3, x.shape[2] // 4, x.shape[3] // 4)


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1).values


class Choosy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("expected 5 channels")


def test_reasons_why_a_level_cannot_be_measured() -> None:
    assert "see the border of every image tried, up to " in _reason(Mixer())
    assert _reason(Detached()) == "no gradient reaches the image from it"
    assert "sort chooses by content" in _reason(Sorted())
    choosy = _reason(Choosy(), layout=Layout((), "NCHW", (16, 24), 3))
    assert choosy == "the module raised ValueError when run on an image of ones: expected 5 channels"
    assert _reason(nn.AdaptiveAvgPool2d(1)).startswith("it has 1 cell along y")
    assert "TorchScript" in _reason(torch.jit.script(nn.Conv2d(3, 4, 3)), layout=Layout((), "NCHW", (62, 94), 4))
    assert "meta device" in _reason(nn.Conv2d(3, 4, 3, device="meta"), layout=Layout((), "NCHW", (62, 94), 4))


class OneSize(nn.Module):
    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 8, 12, 12), nn.Parameter(torch.zeros(1, 8, height, width))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.patches(x) + self.place
        return features


def test_a_module_that_takes_one_size_is_measured_at_that_size() -> None:
    assert measured(OneSize(4, 7), (48, 84)) == Measured((12.0, 12.0), (6.0, 6.0), (12, 12))
    assert "one size only, and 10000 cells are above the limit" in _reason(OneSize(100, 100), (1200, 1200))


def test_a_module_that_resizes_its_input_is_measured_at_the_real_size() -> None:
    class Resizing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.avg_pool2d(F.interpolate(x, (32, 32)), 8)

    assert measured(Resizing(), (64, 96)).stride_yx == (16.0, 24.0)


def test_resnet50_is_measured_in_a_second_and_little_memory() -> None:
    models = pytest.importorskip("torchvision.models")
    from tests.backbones.networks import stages

    body: Any = models.resnet50()
    names = ("layer1", "layer2", "layer3", "layer4")
    module = stages(dict(body.named_children()), *names)
    sizes = zip(names, (4, 8, 16, 32), (256, 512, 1024, 2048), strict=True)
    levels = {n: Layout((n,), "NCHW", (800 // s, 1344 // s), c) for n, s, c in sizes}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    results = measure(module, (800, 1344), 3, levels)
    seconds, kilobytes = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert [r.extent_hw for r in results.values() if isinstance(r, Measured)] == [(n, n) for n in (35, 91, 267, 427)]
    assert seconds < 1.5  # of one processor; 0.3 s on an idle machine
    assert kilobytes < 150 * 1024


def test_what_takes_too_long_is_not_measured_whatever_the_machine():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, 1, 1))
    levels = {"0": Layout((), "NCHW", (16, 24), 4)}
    found = measure(backbone, (64, 96), 3, levels, work=1e9 / (512 * 64))
    assert found["0"] == (
        "it takes too long: with an image of 512 x 96 px more than 1e+09 numbers would be computed along an axis"
    )
    assert isinstance(measure(backbone, (64, 96), 3, levels, work=1e8 / (512 * 64))["0"], Measured)


def test_levels_that_were_measured_before_it_took_too_long_are_kept():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(3, 4, 4, 4)
            self.coarse = nn.Sequential(*(nn.Conv2d(4, 4, 31, padding=15) for _ in range(5)))

        def forward(self, image):
            fine = self.fine(image)
            return fine, self.coarse(fine)

    levels = {str(n): Layout((n,), "NCHW", (16, 24), 4) for n in range(2)}
    found = measure(Deep(), (64, 96), 3, levels, work=3e8 / (512 * 96))
    assert found["0"] == Measured((4.0, 4.0), (2.0, 2.0), (4, 4))
    assert "takes too long: with an image of 1024 x 96 px" in found["1"]


@pytest.mark.parametrize("name", ["convmixer_768_32", "convmixer_1536_20"])
def test_wide_and_deep_networks_are_left_alone(name):
    pytest.importorskip("timm")
    start = time.process_time()
    traced = trace(networks.from_timm(name), (224, 224))
    assert time.process_time() - start < 8
    assert traced["0"].stride_yx == (7, 7)
    assert all("takes too long" in methods["measured"] for methods in traced.methods.values())
