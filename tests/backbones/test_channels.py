"""Which channels an image is given where nobody says, and what is said where none fit."""

from __future__ import annotations

import pytest
from torch import Tensor, nn
from typer.testing import CliRunner

from roialign.backbones import trace
from roialign.cli.app import app
from roialign.errors import TraceError

from . import networks


def space_to_depth(channels: int) -> nn.Module:
    return nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(16 * channels, 8, 3, 1, 1))


def trace_of(backbone: nn.Module, **options: int) -> tuple:
    grid = trace(backbone, (64, 96), measured=False, **options)["0"]
    return grid.size_hw, grid.stride_yx, grid.structural_offset_yx


def test_an_image_that_the_first_convolution_does_not_see_has_three_channels():
    assert trace_of(space_to_depth(3)) == ((16, 24), (4, 4), (2, 2))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_a_first_convolution_that_sees_the_image_says_how_many(channels):
    assert trace_of(nn.Conv2d(channels, 8, 4, 4)) == ((16, 24), (4, 4), (2, 2))


def test_three_fit_where_the_first_convolution_sees_one_of_them():
    class Red(nn.Conv2d):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image[:, :1])

    assert trace_of(Red(1, 8, 4, 4)) == ((16, 24), (4, 4), (2, 2))


def test_where_neither_fits_both_are_named():
    with pytest.raises(TraceError) as raised:
        trace_of(space_to_depth(1))
    said = str(raised.value)
    assert "runs on an image [N, 3, 64, 96] or [N, 16, 64, 96]; got with 3 channels RuntimeError" in said
    assert "; with 16 channels RuntimeError" in said
    assert "channels= (--size and --channels of the command)" in said
    assert trace_of(space_to_depth(1), channels=1) == ((16, 24), (4, 4), (2, 2))


@pytest.mark.parametrize(("name", "strides"), [("tresnet_m", [4, 8, 16, 32]), ("csatv2", [8, 16, 32, 64])])
def test_timm_models_with_space_to_depth(name, strides):
    pytest.importorskip("timm")
    traced = trace(networks.from_timm(name), (224, 224), measured=False)
    assert [grid.stride_yx for grid in traced.values()] == [(stride, stride) for stride in strides]


def test_the_command_takes_channels(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text("from torch.nn import *\ndef net(): return Sequential(PixelUnshuffle(4), Conv2d(16, 8, 1))\n")
    arguments = ["trace", f"{path}:net", "--size", "64x96"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert "--channels" in refused.output
    taken = CliRunner().invoke(app, [*arguments, "--channels", "1"])
    assert taken.exit_code == 0, taken.output
    assert "16 x 24" in taken.output
