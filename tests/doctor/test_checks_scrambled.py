"""RA311: features that are not in the order of the image, beside programs that put them in order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import roialign
from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.findings import Finding

BOXES = [torch.tensor([[4.0, 4.0, 40.0, 30.0], [50.0, 20.0, 80.0, 60.0]])]


class Exchanged(nn.Conv2d):
    """A map of 16 x 24 cells of stride 4 whose halves are exchanged."""

    def __init__(self) -> None:
        super().__init__(3, 8, 4, stride=4)

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image).roll(12, dims=3)


class Mended(nn.Module):
    """A backbone and what puts its map in order."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.backbone(image)
        return features.roll(12, dims=3)


class Roll(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.roll(12, dims=3)


SCRAMBLED, ROLL = Exchanged(), Roll()


def found(program: Callable[[Tensor], Tensor], scale: float = 1 / 4) -> list[Finding]:
    with roialign.watch() as report, torch.no_grad():
        roialign.roi_align(program(torch.rand(1, 3, 64, 96)), BOXES, 7, scale, aligned=True)
    return list(report.findings)


def test_a_scrambled_map_is_found_and_mended() -> None:
    torch.manual_seed(0)
    backbone = Exchanged()
    (finding,) = found(backbone)
    assert (finding.code, finding.severity, finding.rois) == ("RA311", "error", (0, 1))
    assert finding.evidence.startswith(
        "The module that made the map of 16 x 24 was traced: its halves along x are swapped: cell (0, 0) is at "
        "y 2, x 50 instead of y 2, x 2"
    )
    assert finding.fix is not None
    assert finding.fix.code.splitlines()[0] == "features = features.roll(-12, 3)"
    image = torch.rand(1, 3, 64, 96)
    names = {"features": backbone(image), "boxes": BOXES, "roi_align": roialign.roi_align, "torch": torch}
    exec(finding.fix.code.replace("\nroi_align", "\npooled = roi_align"), names)
    expected = roialign.roi_align(nn.Conv2d.forward(backbone, image), BOXES, 7, 1 / 4, aligned=True)
    assert torch.equal(names["pooled"], expected)


@pytest.mark.parametrize(
    "program",
    [
        nn.Conv2d(3, 8, 4, stride=4),
        Mended(Exchanged()),
        nn.Sequential(Exchanged(), Roll()),
        lambda image: SCRAMBLED(image).roll(12, 3),
        lambda image: ROLL(SCRAMBLED(image)),
    ],
    ids=["in order", "in a module", "in a sequence", "by the program", "by a module after it"],
)
def test_a_map_that_was_put_in_order_is_not_found(program: Callable[[Tensor], Tensor]) -> None:
    assert found(program) == []


def test_every_size_is_traced() -> None:
    backbone = Exchanged()
    with roialign.watch() as report, torch.no_grad():
        for height in (64, 72, 80):
            roialign.roi_align(backbone(torch.rand(1, 3, height, 96)), BOXES, 7, 1 / 4, aligned=True)
    assert [[finding.code for finding in call.findings] for call in report.calls] == [["RA311"]] * 3


def test_hieras_backbone_is_found_under_torchvision() -> None:
    transformers = pytest.importorskip("transformers", reason="its backbone is watched")
    ops = pytest.importorskip("torchvision.ops", reason="its operator is watched")
    config = transformers.HieraConfig(
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        image_size=[64, 96],
        out_features=["stage1", "stage2"],
    )
    backbone = transformers.HieraBackbone(config).eval()
    with roialign.watch() as report, torch.no_grad():
        for features, stride in zip(backbone(torch.rand(1, 3, 64, 96)).feature_maps, (4, 8), strict=True):
            ops.roi_align(features, BOXES, 7, 1 / stride, aligned=True)
    first, second = report.findings
    assert (first.code, second.code) == ("RA311", "RA311")
    assert first.fix is not None
    assert first.fix.code.startswith("features = features.flatten(2).unflatten(2, (2, 2, 2, 2, 3, 2, 2, 2)).permute(")
    assert second.fix is None
    assert second.decide is not None
    assert second.decide.startswith("No permutation repairs this map")


def test_a_permutation_without_a_short_line_is_pointed_at() -> None:
    class Shuffled(Exchanged):
        def forward(self, image: Tensor) -> Tensor:
            order = torch.randperm(384, generator=torch.Generator().manual_seed(0))
            return nn.Conv2d.forward(self, image).flatten(2)[:, :, order].unflatten(2, (16, 24))

    (finding,) = found(Shuffled())
    assert (finding.code, finding.fix) == ("RA311", None)
    assert finding.decide is not None
    assert "features = scrambled[name].in_order(features)" in finding.decide


def test_the_example_is_found_and_the_right_call_is_not() -> None:
    entry = CATALOGUE["RA311"]
    for line, codes in ((entry.wrong, ["RA311"]), (entry.right, [])):
        with roialign.watch() as report:
            exec(f"{entry.setup}\n{line}", {"torch": torch, "roi_align": roialign.roi_align})
        assert [finding.code for finding in report.findings] == codes
