"""What a trace leaves behind in the module: nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roialign.backbones import trace


def test_caches_in_dicts_are_put_back():
    class Cached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.cache = nn.Conv2d(3, 8, 4, 4), {}

        def forward(self, image):
            if "bias" not in self.cache:
                self.cache["bias"] = self.conv.bias * 2
            return self.conv(image) + self.cache["bias"].view(-1, 1, 1)

    backbone = Cached()
    trace(backbone, (32, 48))
    assert backbone.cache == {}
    assert backbone(torch.zeros(1, 3, 32, 48)).isfinite().all()


def test_a_module_with_two_names_keeps_its_weights() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Conv2d(3, 3, 3, 2, 1)
            self.other = self.one

        def forward(self, image: Tensor) -> Tensor:
            return self.other(self.one(image))

    backbone = Shared()
    weight = backbone.one.weight
    assert trace(backbone, (32, 48))["0"].stride_yx == (4.0, 4.0)
    assert backbone.one.weight is weight
    assert type(backbone(torch.rand(1, 3, 32, 48))) is Tensor
