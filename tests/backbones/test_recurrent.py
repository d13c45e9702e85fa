"""Recurrent layers over rows and columns: a cell keeps its place, and sees its whole row or column."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from roialign.backbones import trace

from . import networks


class AlongColumns(nn.Module):
    """Patches of 4 pixels, and a recurrent layer that runs down each column of them."""

    def __init__(self, kind: str, batch_first: bool = True, bidirectional: bool = True, **options: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        options = {"batch_first": batch_first, "bidirectional": bidirectional, **options}
        self.layer = getattr(nn, kind)(6, 5, **options)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        cells = self.patches(image)
        batch, _, height, width = cells.shape
        steps = cells.permute(0, 3, 2, 1).flatten(0, 1)
        if not self.layer.batch_first:
            steps = steps.transpose(0, 1)
        steps, last = self.layer(steps)
        if not self.layer.batch_first:
            steps = steps.transpose(0, 1)
        state = (last[0] if isinstance(last, tuple) else last)[0]
        return steps.reshape(batch, width, height, -1).permute(0, 3, 2, 1), state.reshape(batch, width, -1)


KINDS = [
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "proj_size": 3}),
    ("LSTM", {"batch_first": False}),
    ("GRU", {"bidirectional": False}),
    ("GRU", {"batch_first": False, "num_layers": 2}),
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": False}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_step_keeps_its_place(kind, options):
    backbone = AlongColumns(kind, **options)
    traced = trace(backbone, (32, 48))
    grid = traced["0"]
    assert (grid.size_hw, grid.stride_yx, grid.structural_offset_yx) == ((8, 12), (4, 4), (2, 2))
    assert grid.offset_range_yx == ((2, 2), (2, 2))
    assert traced.whole_image["0"] == (True, False)
    assert grid.receptive_field_hw == (32, 4)
    assert grid.channels == backbone(torch.zeros(1, 3, 32, 48))[0].shape[1]
    assert traced.methods["0"]["shapes"] == {"stride_yx": (4, 4)}
    assert traced.methods["0"]["measured"] == {"stride_yx": (4, 4), "offset_yx": (2, 2)}
    assert traced.notes == ()
    assert "have no position: the whole image was mixed" in traced.left_out["1"]


def test_the_layer_checks_its_input_again_afterwards():
    backbone = AlongColumns("LSTM")
    trace(backbone, (32, 48))
    assert "check_forward_args" not in vars(backbone.layer)
    with pytest.raises(ValueError, match="dtype"):
        backbone.layer(torch.zeros(1, 2, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("name", "grids"),
    [
        ("sequencer2d_s", [((32, 32), 7, 3.5), ((16, 16), 14, 7), ((16, 16), 14, 7)]),
        ("volo_d1_224", [((14, 14), 16, 7.5)] * 3),
    ],
)
def test_timm_models(name, grids):
    pytest.importorskip("timm")
    traced = trace(networks.from_timm(name), (224, 224), measured=False)
    found = [(grid.size_hw, grid.stride_yx[0], grid.structural_offset_yx[0]) for grid in traced.values()]
    assert found == grids
