"""The structural method on layers whose answer is computed by hand: (stride, offset, receptive field) of each axis."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from roialign.backbones.structure import structure

SAME = (nn.Conv2d(3, 4, 3, 1, 1),)


class Run(nn.Module):
    """A function of the image as a module, with a 3x3 convolution of stride 2 (offset 0.5, field 3) at hand."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.wide = nn.Conv2d(8, 8, 3, 1, 1)

    def forward(self, image):
        return self.function(self, image)


def found(module, size=(32, 48), name="0"):
    level = structure(module, size).levels[name]
    assert level.unknown is None, level.unknown
    return level


def numbers(axis):
    return axis.stride, axis.offset, axis.extent


def seq(*layers):
    return nn.Sequential(*layers)


def run(function):
    return Run(function)


LAYERS = {
    "convolution, stride 2": (nn.Conv2d(3, 4, 3, 2, 1), (2, 0.5, 3)),
    "even kernel": (nn.Conv2d(3, 4, 4, 2, 1), (2, 1, 4)),
    "dilation": (nn.Conv2d(3, 4, 3, 1, 2, dilation=2), (1, 0.5, 5)),
    "groups": (nn.Conv2d(3, 6, 5, 2, 0, groups=3), (2, 2.5, 5)),
    "patches": (nn.Conv2d(3, 4, 4, 4), (4, 2, 4)),
    "lopsided padding": (seq(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)), (2, 1.5, 3)),
    "cut": (seq(nn.ZeroPad2d(-3), nn.Conv2d(3, 4, 3, 1, 1)), (1, 3.5, 3)),
    "mirrored padding": (seq(nn.ReflectionPad2d(2), nn.Conv2d(3, 4, 5)), (1, 0.5, 5)),
    "repeated padding": (seq(nn.ReplicationPad2d(2), nn.Conv2d(3, 4, 5)), (1, 0.5, 5)),
    "circular padding": (nn.Conv2d(3, 4, 3, 1, 1, padding_mode="circular"), (1, 0.5, None)),
    "max pooling": (nn.MaxPool2d(3, 2, 1), (2, 0.5, 3)),
    "ceil_mode": (nn.MaxPool2d(3, 2, ceil_mode=True), (2, 1.5, 3)),
    "average pooling": (nn.AvgPool2d(4), (4, 2, 4)),
    "adaptive pooling": (nn.AdaptiveAvgPool2d((8, 12)), (4, 2, 4)),
    "transposed, kernel 2": (seq(nn.MaxPool2d(4), nn.ConvTranspose2d(3, 4, 2, 2)), (2, 1, 4)),
    "transposed, kernel 4": (seq(nn.MaxPool2d(4), nn.ConvTranspose2d(3, 4, 4, 2, 1)), (2, 1, 8)),
    "nearest": (seq(nn.MaxPool2d(4), nn.Upsample(scale_factor=2)), (2, 1, 4)),
    "bilinear": (seq(nn.MaxPool2d(4), nn.Upsample(scale_factor=2, mode="bilinear")), (2, 1, 8)),
    "bilinear, scale 1.5": (
        seq(nn.MaxPool2d(2), nn.Upsample(scale_factor=1.6, mode="bilinear")),
        (1.25, 0.625, 4),
    ),
    "bicubic": (seq(nn.MaxPool2d(4), nn.Upsample(scale_factor=2, mode="bicubic")), (2, 1, 16)),
    "antialiased": (
        run(lambda m, x: functional.interpolate(x, scale_factor=0.25, mode="bilinear", antialias=True)),
        (4, 2, 8),
    ),
    "pixel unshuffle": (nn.PixelUnshuffle(2), (2, 1, 2)),
    "pixel shuffle": (seq(nn.Conv2d(3, 16, 4, 4), nn.PixelShuffle(2)), (2, 1, 4)),
    "space to depth by slices": (
        run(lambda m, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)),
        (2, 1, 2),
    ),
    "unfold": (run(lambda m, x: functional.unfold(x, 4, stride=4).unflatten(2, (8, 12))), (4, 2, 4)),
    "tensor.unfold": (run(lambda m, x: x.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5))), (4, 2, 4)),
    "fold": (run(lambda m, x: folded(m.conv(x), 3, 1, 1)), (2, 0.5, 11)),
    "fold, stride 2": (run(lambda m, x: folded(m.conv(x), 3, 1, 2)), (2, 0.5, 11)),
    "fold, dilation": (run(lambda m, x: folded(m.conv(x), 3, 2, 1, 2)), (2, 0.5, 19)),
    "fold without overlap": (run(lambda m, x: folded(m.conv(x), 2, 0, 2)), (2, 0.5, 5)),
    "reshaped patches": (run(lambda m, x: x.unflatten(3, (12, 4)).unflatten(2, (8, 4)).mean((3, 5))), (4, 2, 4)),
    "written into zeros": (run(lambda m, x: m.wide(padded_by_copy(m.conv(x)))), (2, -1.5, 7)),
    "in place": (run(lambda m, x: m.conv(x).relu_().add_(1).mul_(2)), (2, 0.5, 3)),
    "written through a view": (run(lambda m, x: written_through(m.conv(x), m)), (2, 0.5, 7)),
    "roll": (run(lambda m, x: m.conv(x).roll((1, 1), (2, 3)).roll((-1, -1), (2, 3))), (2, 0.5, 3)),
    "index": (run(lambda m, x: x[:, :, 1::2][..., torch.arange(1, x.shape[3], 2)]), (2, 1.5, 1)),
    "residual": (run(lambda m, x: m.conv(x) + m.wide(m.conv(x))), (2, 0.5, 7)),
    "gate": (run(lambda m, x: m.conv(x) * m.conv(x).mean((2, 3), keepdim=True)), (2, 0.5, None)),
    "gate first": (run(lambda m, x: m.conv(x).amax((2, 3), keepdim=True) * m.conv(x)), (2, 0.5, None)),
    "group norm": (seq(nn.Conv2d(3, 4, 3, 2, 1), nn.GroupNorm(2, 4)), (2, 0.5, None)),
    "instance norm": (seq(nn.Conv2d(3, 4, 3, 2, 1), nn.InstanceNorm2d(4)), (2, 0.5, None)),
    "batch norm": (seq(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)), (2, 0.5, 3)),
}


def folded(x, kernel, padding, stride, dilation=1):
    """Each cell the sum of the means of the windows that cover it."""
    options = {"kernel_size": kernel, "padding": padding, "stride": stride, "dilation": dilation}
    windows = functional.unfold(x, **options).unflatten(1, (-1, kernel**2))
    means = windows.mean(2, keepdim=True).expand(windows.shape).flatten(1, 2)
    return functional.fold(means, x.shape[2:], **options)


def padded_by_copy(x):
    y = x.new_zeros(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2)
    y[:, :, 1:-1, 1:-1] = x
    return y


def written_through(x, m):
    y = x.clone()
    view = y.permute(0, 2, 3, 1)[..., :4].flatten(1, 2)
    view.add_(m.wide(x).permute(0, 2, 3, 1)[..., :4].flatten(1, 2))
    return y


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    module, expected = LAYERS[name]
    level = found(module)
    for axis in (level.y, level.x):
        stride, offset, extent = numbers(axis)
        assert (stride, offset) == pytest.approx(expected[:2], abs=1e-9)
        if name != "circular padding":
            assert extent == expected[2]


def test_axes_are_told_apart():
    level = found(nn.Conv2d(3, 4, (3, 5), (2, 4), (1, 0)))
    assert (numbers(level.y), numbers(level.x)) == ((2, 0.5, 3), (4, 2.5, 5))
    assert level.layout.size_hw == (16, 11)


@pytest.mark.parametrize("size", [(4, 64), (64, 4), (4, 4)])
def test_maps_of_one_cell_go_on_into_padding(size):
    level = found(seq(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)), size)
    assert (numbers(level.y), numbers(level.x)) == ((4, 2, 12), (4, 2, 12))


def test_extents_are_what_is_read():
    extents = found(nn.Conv2d(3, 4, 3, 2, 1), (5, 8)).extents()
    assert extents.shape == (3, 4, 4)
    assert extents[0, 0].tolist() == [0, 1, 0, 1]
    assert extents[2, 3].tolist() == [3, 4, 5, 7]


def test_cells_in_the_padding_read_nothing():
    extents = found(nn.ZeroPad2d((2, 0, 0, 0)), (3, 3)).extents()
    assert extents[0, :, 2:].tolist() == [[0, -1], [0, -1], [0, 0], [1, 1], [2, 2]]
    assert extents[0, 0].tolist() == [0, -1, 0, -1]


def test_pixels_that_no_kernel_reaches_are_not_read():
    extents = found(seq(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 3, 1, 1)), (15, 16)).extents()
    assert extents[-1, -1].tolist() == [4, 11, 8, 15]


def test_mirrored_padding_reads_the_pixels_that_it_mirrors():
    extents = found(seq(nn.ReflectionPad2d(2), nn.Conv2d(3, 4, 1)), (6, 6)).extents()
    assert extents[0, :, 2].tolist() == [2, 1, 0, 1, 2, 3, 4, 5, 4, 3]


def test_the_finest_branch_gives_the_offset_and_the_others_the_range():
    def pyramid(m, x):
        fine = m.conv(x)
        return fine + functional.interpolate(m.wide(fine)[..., ::2, ::2], scale_factor=2)

    level = found(Run(pyramid))
    assert numbers(level.y)[:2] == (2, 0.5)
    assert level.y.offset_range == (-1.5, 0.5)


def test_uneven_cells_show_their_range():
    level = found(seq(nn.MaxPool2d(4), nn.Upsample(scale_factor=2)))
    assert level.y.offset_range == (0, 2)
    assert found(nn.AdaptiveAvgPool2d(5), (32, 32)).y.stride == pytest.approx(6.4)


class Attention(nn.Module):
    """A class token, patches, positions and a block of attention, by hand or fused."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.patch, self.fused = nn.Conv2d(3, 8, 8, 8), fused
        self.token = nn.Parameter(torch.zeros(1, 2, 8))
        self.qkv, self.norm, self.out = nn.Linear(8, 24), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, image):
        patches = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(image), -1, -1), patches], 1)
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.fused:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return {"tokens": x, "class": x[:, 0], "map": x[:, 2:].transpose(1, 2).unflatten(2, (4, 6))}


@pytest.mark.parametrize("fused", [True, False])
def test_attention_mixes_everything_and_moves_nothing(fused):
    result = structure(Attention(fused), (35, 48))
    tokens, grid = result.levels["tokens"], result.levels["map"]
    assert (tokens.layout.kind, tokens.layout.prefix, tokens.layout.size_hw) == ("tokens", 2, (4, 6))
    for level in (tokens, grid):
        assert (numbers(level.y), numbers(level.x)) == ((8, 4, None), (8, 4, None))
        assert (level.extents() == torch.tensor([0, 31, 0, 47])).all()
    assert "class" in result.left_out


def test_tokens_in_columns_are_put_in_order():
    module = run(lambda m, x: m.conv(x).transpose(2, 3).flatten(2).transpose(1, 2))
    level = found(module, (8, 12))
    outputs = module(torch.rand(2, 3, 8, 12))
    expected = module.conv(torch.zeros(1, 3, 8, 12)).shape[2:]
    assert level.layout.size_hw == tuple(expected)
    as_map = level.layout.as_map(outputs)
    assert torch.equal(as_map, outputs.transpose(1, 2).unflatten(2, (6, 4)).transpose(2, 3))


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (run(lambda m, x: m.conv(x).permute(0, 2, 3, 1)), "NHWC"),
        (run(lambda m, x: m.conv(x).transpose(2, 3)), "NCWH"),
        (run(lambda m, x: m.conv(x).mean(1)), "NHW"),
        (run(lambda m, x: m.conv(x).flatten(2)), "tokens"),
    ],
)
def test_layouts(module, kind):
    level = found(module)
    assert level.layout.kind == kind
    image = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        expected = module.conv(image)
        if kind == "NHW":
            expected = expected.mean(1, keepdim=True)
        assert torch.equal(level.layout.as_map(module(image)), expected)


def test_an_operator_without_a_rule_is_not_guessed():
    def warp(m, x):
        grid = functional.affine_grid(torch.eye(2, 3).expand(len(x), -1, -1), list(x.shape), align_corners=False)
        return m.wide(functional.grid_sample(m.conv(x), grid[:, ::2, ::2], align_corners=False))

    level = structure(Run(warp), (16, 16)).levels["0"]
    assert level.y is None
    assert "grid_sampler_2d" in level.unknown


def test_an_index_that_depends_on_the_image_is_not_guessed():
    level = structure(run(lambda m, x: m.conv(x)[:, :, m.conv(x)[0, 0, :, 0].argsort()]), (16, 16)).levels["0"]
    assert level.unknown is not None


def test_layer_by_layer():
    steps = structure(
        seq(nn.Conv2d(3, 4, 7, 2, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, 2, 1)), (32, 32)
    ).layers
    assert [(step.module, step.operator) for step in steps] == [("0", "convolution"), ("3", "max_pool2d_with_indices")]
    assert (steps[1].kernel, steps[1].stride, steps[1].padding) == ((3, 3), (2, 2), (1, 1))
    assert (steps[1].stride_yx, steps[1].offset_yx, steps[1].receptive_field_hw) == ((4, 4), (0.5, 0.5), (11, 11))
