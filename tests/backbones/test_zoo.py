"""The harness of `make zoo`: it must call a right grid right, a wrong one wrong, and lose no more than a row."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
import torch
from benchmarks.zoo import row as rows_module
from benchmarks.zoo.check import TooSlowError, answers, check
from benchmarks.zoo.report import as_csv, from_csv, page
from benchmarks.zoo.row import Row, traced_and_checked, verdict
from benchmarks.zoo.workers import rows
from torch import Tensor, nn

from roialign.backbones.trace import trace

IMAGE = torch.rand(1, 3, 60, 90, generator=torch.Generator().manual_seed(0))


def stem() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(8, 8, 3, 1, 2, 2)).eval()


class Gated(nn.Module):
    """A stem with squeeze-and-excitation and attention over all of its cells."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.attention = stem(), nn.Conv2d(8, 8, 1), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.stem(image)
        maps = maps * self.gate(nn.functional.adaptive_avg_pool2d(maps, 1)).sigmoid()
        tokens = maps.flatten(2).transpose(1, 2)
        scores = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0] + scores @ tokens
        return tokens.transpose(1, 2).unflatten(2, maps.shape[2:])


class Mixer(nn.Module):
    """Patches, each of which becomes a little of all others: no way to have it without."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix = nn.Conv2d(3, 16, 10, 10), nn.Linear(54, 54)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.patches(image)
        return maps + 0.1 * self.mix(maps.flatten(2)).unflatten(2, maps.shape[2:])


def first(outputs: Tensor) -> dict[str, Tensor]:
    return {"0": outputs}


@pytest.mark.parametrize("net", [stem, Gated, Mixer])
def test_right_grids_are_right(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = net().eval()
    assert verdict(model, trace(model, (60, 90), measured=False), 60)[0] == "right"


class Branches(nn.Module):
    """A shortcut that averages, beside convolutions: centres of 2 and of 0.5."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1))
        self.shortcut = nn.Sequential(nn.AvgPool2d(4, 4), nn.Conv2d(3, 8, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.down(image) + self.shortcut(image)


class Pyramid(nn.Module):
    """A coarse map added to a fine one whose cells it does not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        return fine + nn.functional.interpolate(self.coarse(fine), size=fine.shape[2:])


@pytest.mark.parametrize("net", [Branches, Pyramid])
def test_grids_of_branches_and_of_pyramids(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = net().eval()
    result = trace(model, (60, 92), measured=False)
    assert verdict(model, result, 60)[0] == "right"
    for false in ({"stride_yx": (4.25, 4.0)}, {"receptive_field_hw": (3, 3)}):
        grids = {"0": replace(result["0"], **false)}
        assert verdict(model, replace(result, grids=grids), 60)[0] == "wrong"


FALSE = {
    "offset": {"structural_offset_yx": (0.5, 1.5)},
    "stride": {"stride_yx": (4.25, 4.0)},
    "smaller field": {"receptive_field_hw": (25, 27)},
    "larger field": {"receptive_field_hw": (27, 29)},
}


@pytest.mark.parametrize(
    ("net", "change"),
    [
        *((stem, change) for change in FALSE.values()),
        *((Gated, FALSE[name]) for name in ("offset", "stride")),  # its field is the whole image
    ],
)
def test_falsified_grids_are_wrong(net: type[nn.Module], change: dict[str, tuple[float, float]]) -> None:
    torch.manual_seed(0)
    model = net().eval()
    result = trace(model, (60, 90), measured=False)
    falsified = replace(result, grids={"0": replace(result["0"], **change)})
    kind, what = verdict(model, falsified, 60)
    assert kind == "wrong", what
    assert "reach" in what


def test_a_weight_of_zero_is_no_reason() -> None:
    """Bilinear interpolation reads taps of weight 0, which NaN passes."""
    model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Upsample(scale_factor=2, mode="bilinear")).eval()
    result = trace(model, (60, 90), measured=False)
    assert check(model, first, dict(result), IMAGE, 60, slack=2) == {}
    assert verdict(model, result, 60)[0] == "right"


def test_cells_in_another_order_are_answered_by_others() -> None:
    torch.manual_seed(0)
    model = Mixer().eval()
    grids = dict(trace(model, (60, 90), measured=False))
    order = torch.randperm(54, generator=torch.Generator().manual_seed(1))

    def scrambled(outputs: Tensor) -> dict[str, Tensor]:
        return {"0": outputs.flatten(2)[:, :, order].unflatten(2, (6, 9))}

    assert answers(model, first, grids, IMAGE)["0"] == (9, 0, 0)
    own, others, _ = answers(model, scrambled, grids, IMAGE)["0"]
    assert others > own


def test_a_model_that_is_too_slow_is_not_checked() -> None:
    with pytest.raises(TooSlowError, match="a pass takes"):
        check(stem(), first, dict(trace(stem(), (60, 90), measured=False)), IMAGE, 0.0)


def test_refusals_and_what_a_model_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = traced_and_checked("torchvision/resnt18", (64, 64))
    assert refused.outcome == "refused"
    assert "near: resnet18" in refused.detail

    def raises(model: str, size_hw: tuple[int, int]) -> nn.Module:
        raise KeyError("rule")

    monkeypatch.setattr(rows_module, "load_backbone", raises)
    assert traced_and_checked("torchvision/resnet18", (64, 64)).outcome == "crashed"


def make(model: str, size_hw: tuple[int, int]) -> Row:
    """Stands for `traced_and_checked`."""
    if model == "dies":
        os._exit(3)
    if model == "hangs":
        time.sleep(600)
    return Row(model, size_hw, "refused" if size_hw == (229, 301) else "right", "as it should")


def test_a_model_that_hangs_or_dies_costs_its_row() -> None:
    tasks = [("a", (1, 1)), ("dies", (2, 2)), ("hangs", (2, 2)), ("b", (229, 301))]
    found = list(rows(tasks, make, workers=1, seconds=3))
    assert [(row.model, row.outcome) for row in found] == [
        ("a", "right"),
        ("dies", "crashed"),
        ("hangs", "crashed"),
        ("b", "refused"),
        ("b", "right"),  # at the other size
    ]
    names = (
        "cpu",
        "machine",
        "roialign",
        "commit",
        "torch",
        "torchvision",
        "timm",
        "transformers",
        "date",
        "minutes",
        "workers",
    )
    environment = dict.fromkeys(names, "some")
    assert "| **all** | 2 | 0 | 1 | 0 | 2 |" in page(found, environment)
    assert "with `--again`: 3 at commit abc; zoo.csv says which." in page(found, environment, {"abc": 3})
    pairs = [(row, environment) for row in found]
    assert len(as_csv(pairs).splitlines()) == 6
    assert from_csv(as_csv(pairs)) == pairs
