"""RA401 to RA405: what is wrong with a run of torchvision's MultiScaleRoIAlign, said once and repaired."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign
from roialign.doctor.catalogue import CATALOGUE
from tests.doctor.test_checks_healthy import proposals

torchvision = pytest.importorskip("torchvision", reason="its pooler is looked at")
MultiScaleRoIAlign = torchvision.ops.MultiScaleRoIAlign

NAMES = ["0", "1", "2", "3"]
Maps = dict[str, Tensor]


class Backbone(nn.Module):
    """Averages of the image at several strides, (down, across) or one for both."""

    def __init__(self, strides: Sequence[Any] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.strides = strides

    def forward(self, image: Tensor) -> Maps:
        pooled = [nn.functional.avg_pool2d(image, stride, ceil_mode=True) for stride in self.strides]
        return OrderedDict((str(index), one) for index, one in enumerate(pooled))


def batch(rng: random.Random, least: int = 300, most: int = 900) -> tuple[Tensor, list[Tensor], list[tuple[int, int]]]:
    """One or two images of any sizes, padded to one that 32 divides, and their boxes."""
    sizes = [(rng.randint(least, most), rng.randint(least, most)) for _ in range(rng.choice([1, 2]))]
    padded = [-(-max(size[axis] for size in sizes) // 32) * 32 for axis in (0, 1)]
    images = torch.zeros(len(sizes), 3, *padded)
    for index, (height, width) in enumerate(sizes):
        images[index, :, :height, :width] = torch.rand(3, height, width)
    return images, [proposals(rng, size, 40, least=8) for size in sizes], sizes


def codes(report: roialign.Report) -> list[str]:
    return [finding.code for finding in report.findings]


def run(
    features: Maps, boxes: list[Tensor], sizes: list[tuple[int, int]], names: list[str] = NAMES, pooler: Any = None
) -> Tensor:
    pooled: Tensor = (pooler or MultiScaleRoIAlign(names, 7, 2))(features, boxes, sizes)
    return pooled


def pasted(finding: roialign.Finding, **names: Any) -> dict[str, Any]:
    """What the line to paste leaves behind; a call's value is called `_`."""
    assert finding.fix is not None
    lines = finding.fix.code.split("\n")
    if not lines[-1].lstrip().startswith(("features =", "pooler.scales", "pooler.map_levels")):
        lines[-1] = f"_ = {lines[-1]}"
    scope = {**vars(roialign), "torch": torch, "MultiScaleRoIAlign": MultiScaleRoIAlign, **names}
    exec("\n".join(lines), scope)
    return scope


@pytest.mark.parametrize("given", [False, True])
def test_healthy_pyramids_have_no_finding(given: bool) -> None:
    rng, backbone = random.Random(int(given)), Backbone()
    pooler = MultiScaleRoIAlign(NAMES, 7, 2)
    for index in range(15):
        images, boxes, sizes = batch(rng)
        with roialign.watch(backbone if given else None) as report:
            run(backbone(images), boxes, sizes, pooler=pooler if index % 2 else None)
        assert report.ok, [(finding.code, finding.evidence) for finding in report.findings]
        assert len(report.calls) == 4


def test_two_maps_of_one_size_are_no_error() -> None:
    """As those of torchvision's fasterrcnn_mobilenet_v3_large_320_fpn."""
    rng = random.Random(0)
    for strides in ((32, 32), (4, 8, 8), (4, 4, 8)):
        images, boxes, sizes = batch(rng)
        with roialign.watch() as report:
            run(Backbone(strides)(images), boxes, sizes)
        assert [finding.severity for finding in report.findings] == ["warning"]


def test_boxes_of_the_size_that_the_pooler_is_told_are_no_fault() -> None:
    """Images, image_shapes and boxes may be of three sizes, as long as the last two agree."""
    boxes = proposals(random.Random(0), (400, 600), 40, least=8)
    for scale in (1, 2):
        with roialign.watch() as report:
            run(Backbone()(torch.rand(1, 3, 800, 1200)), [boxes * scale], [(400 * scale, 600 * scale)])
        assert report.ok, [finding.evidence for finding in report.findings]


def test_a_gap_that_no_box_falls_into_is_no_fault() -> None:
    image, boxes = torch.rand(1, 3, 512, 512), [torch.tensor([[10.0, 20.0, 60.0, 80.0], [300.0, 30.0, 380.0, 90.0]])]
    with roialign.watch() as report:
        run(Backbone()(image), boxes, [(512, 512)], ["0", "2"])
    assert report.ok


@pytest.mark.parametrize("given", [False, True])
def test_ra402_levels_in_the_wrong_order(given: bool) -> None:
    rng, backbone, found = random.Random(3), Backbone(), 0
    for _ in range(8):
        images, boxes, sizes = batch(rng)
        right = backbone(images)
        order = rng.choice([["3", "2", "1", "0"], rng.sample(NAMES, 4)])
        wrong = {name: right[name] for name in order}
        if torch.allclose(run(wrong, boxes, sizes), run(right, boxes, sizes)):
            continue
        with roialign.watch(backbone if given else None) as report:
            features = backbone(images)
            run({name: features[name] for name in order}, boxes, sizes)
        assert codes(report) == ["RA402"]
        repaired = pasted(report.findings[0], features=wrong)["features"]
        torch.testing.assert_close(run(repaired, boxes, sizes), run(right, boxes, sizes))
        found += 1
    assert found >= 5


def test_ra402_says_what_becomes_of_the_boxes() -> None:
    images = torch.rand(1, 3, 512, 512)
    boxes = torch.tensor([[10.0, 20.0, 60.0, 80.0], [0.0, 0.0, 500.0, 480.0], [9.0, 9.0, 140.0, 160.0]])
    features = Backbone((4, 8, 16))(images)
    with roialign.watch() as report:
        reverse = run(OrderedDict(reversed(features.items())), [boxes], [(512, 512)])
        swapped = run({name: features[name] for name in ("1", "0", "2")}, [boxes], [(512, 512)])
    assert codes(report) == ["RA402", "RA402"]
    first, second = report.findings
    assert (
        'in the order "2" (32 x 32, stride 16), "1" (64 x 64, stride 8) and "0" (128 x 128, stride 4)' in first.evidence
    )
    assert first.evidence.endswith("Of 3 boxes 3 find no map and become zeros.")
    assert int((reverse == 0).flatten(1).all(1).sum()) == 3
    assert int((swapped == 0).flatten(1).all(1).sum()) == 0
    assert second.evidence.endswith("Of 3 boxes 2 are pooled from the map of another level.")
    assert first.fix is not None
    assert (first.fix.coverage_before, first.fix.coverage_after) == (0.0, 1.0)


@pytest.mark.parametrize("left_out", ["1", "2"])
@pytest.mark.parametrize("is_there", [True, False])
def test_ra401_a_level_is_missing(left_out: str, is_there: bool) -> None:
    rng, found = random.Random(4), 0
    names = [name for name in NAMES if name != left_out]
    for _ in range(15):
        images, boxes, sizes = batch(rng)
        features = Backbone()(images)
        if not is_there:
            del features[left_out]
        with roialign.watch() as report:
            pooled = run(features, boxes, sizes, names)
        lost = int((pooled == 0).flatten(1).all(1).sum())
        whole = run({**features, left_out: torch.zeros_like(features["0"])} if not is_there else features, boxes, sizes)
        harmed = (pooled != whole).flatten(1).any(1).any() if is_there else lost > 0
        if is_there:
            assert codes(report) == (["RA401"] if harmed else [])
        if not lost:
            continue
        (finding,) = report.findings
        assert finding.code == "RA401"
        assert f"of {len(pooled)} boxes {lost} become zeros" in finding.evidence
        assert f"there is none of stride {4 * 2 ** int(left_out)}." in finding.evidence
        repaired = pasted(finding, features=features, boxes=boxes)["_"]
        if is_there:
            torch.testing.assert_close(repaired(features, boxes, sizes), run(features, boxes, sizes))
        else:
            assert (repaired.flatten(1).abs().sum(1) > 0).all()
            kept = (pooled != 0).flatten(1).any(1) & ((torch.cat(boxes)[:, 2:] - torch.cat(boxes)[:, :2]) > 32).all(1)
            assert finding.fix is not None
            assert finding.fix.coverage_after > finding.fix.coverage_before
            assert bool(kept.any())
        found += 1
    assert found >= 5


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("strides", [(14,), (12, 24), (6, 12, 24), ((16, 32),)])
def test_ra403_a_stride_that_is_no_power_of_two(given: bool, strides: tuple[Any, ...]) -> None:
    rng, backbone = random.Random(5), Backbone(strides)
    for _ in range(5):
        unit = 42 if strides == (14,) else 96
        height, width = rng.randint(8, 16) * unit, rng.randint(8, 16) * unit
        boxes = proposals(rng, (height, width), 30, least=30)
        with roialign.watch(backbone if given else None) as report:
            features = backbone(torch.rand(1, 3, height, width))
            pooler = MultiScaleRoIAlign(list(features), 7, 2)
            run(features, [boxes], [(height, width)], pooler=pooler)
        assert codes(report) == ["RA403"]
        (finding,) = report.findings
        assert "the backbone was traced" in finding.evidence, "handed over or not"
        scope = pasted(finding, features=features, boxes=[boxes], pooler=pooler)
        repaired = scope["_"] if "_" in scope else run(features, [boxes], [(height, width)], pooler=pooler)
        if len(strides) == 1:
            stride_y, stride_x = strides[0] if isinstance(strides[0], tuple) else (strides[0], strides[0])
            in_cells = boxes / torch.tensor([stride_x, stride_y, stride_x, stride_y])
            expected = roialign.roi_align(features["0"], [in_cells], 7, 1.0, 2)
            large = ((in_cells[:, 2:] - in_cells[:, :2]) >= 1).all(1)
            torch.testing.assert_close(repaired[large], expected[large], rtol=1e-4, atol=1e-4)


def test_ra403_much_padding_and_ra404_what_it_leaves_behind() -> None:
    rng, backbone = random.Random(6), Backbone()
    for given in (None, backbone, nn.ModuleDict({"body": backbone})):
        pooler = MultiScaleRoIAlign(NAMES, 7, 2)
        small = [torch.tensor([[2.0, 3.0, 36.0, 33.0], [20.0, 10.0, 39.0, 40.0]])]
        images, boxes, sizes = batch(rng)
        with roialign.watch(given) as report:
            run(backbone(torch.rand(1, 3, 64, 64)), small, [(40, 40)], pooler=pooler)
            run(backbone(images), boxes, sizes, pooler=pooler)
        assert codes(report) == ["RA403", "RA404"]
        first, second = report.findings
        assert first.evidence.startswith(
            "From image_shapes of up to 40 x 40 MultiScaleRoIAlign inferred the scale 0.5 for map"
        )
        assert (
            "MultiScaleRoIAlign inferred its scales, 0.5, 0.25, 0.125 and 0.0625, in its first run and keeps them"
            in second.evidence
        )
        pasted(second, pooler=pooler)
        repaired = run(backbone(images), boxes, sizes, pooler=pooler)
        torch.testing.assert_close(repaired, run(backbone(images), boxes, sizes))


def test_ra404_without_the_images() -> None:
    """The boxes decide: with the old scales they end beyond the map, with new ones at its edge."""
    rng, pooler = random.Random(7), MultiScaleRoIAlign(NAMES, 7, 2)
    images, boxes, sizes = batch(rng, least=500)
    with roialign.watch() as report:
        run(
            Backbone().forward(torch.rand(1, 3, 64, 64)),
            [torch.tensor([[2.0, 3.0, 36.0, 33.0]])],
            [(40, 40)],
            pooler=pooler,
        )
        run(Backbone().forward(images), boxes, sizes, pooler=pooler)
        run(Backbone().forward(images), boxes, sizes)
    assert codes(report) == ["RA404"]


def test_scales_kept_from_a_batch_of_another_size_are_no_fault() -> None:
    rng, pooler, backbone = random.Random(8), MultiScaleRoIAlign(NAMES, 7, 2), Backbone()
    with roialign.watch() as seen, roialign.watch(backbone) as known:
        for least in (200, 800, 300):
            images, boxes, sizes = batch(rng, least, least + 100)
            run(backbone(images), boxes, sizes, pooler=pooler)
            run({name: one.clone() for name, one in backbone.forward(images).items()}, boxes, sizes, pooler=pooler)
    assert seen.ok, str(seen)
    assert known.ok


def test_boxes_that_no_map_gets_are_named() -> None:
    """A box that is inverted along one axis has a negative area, whose root is no number."""
    good, inverted, nan = [20.0, 30.0, 200.0, 210.0], [200.0, 30.0, 20.0, 210.0], [0.0, float("nan"), 9.0, 9.0]
    features = Backbone()(torch.rand(1, 3, 256, 256))
    for bad, code in ((inverted, "RA204"), (nan, "RA205")):
        boxes = [torch.tensor([good, bad, good])]
        with roialign.watch() as report:
            pooled = run(features, boxes, [(256, 256)])
            run(features, [boxes[0][:1]], [(256, 256)])
        assert (pooled == 0).flatten(1).all(1).tolist() == [False, True, False]
        assert codes(report) == [code]
        (finding,) = report.findings
        assert finding.evidence.startswith("1 of 3 boxes given to MultiScaleRoIAlign have an area that is negative")
        assert (finding.fix is None) == (code == "RA205"), "numbers alone bring nothing back"
        scope = {"boxes": boxes}
        exec(finding.fix.code if finding.fix else "", scope)
        again = run(features, scope["boxes"], [(256, 256)])
        torch.testing.assert_close(again[[0, 2]], pooled[[0, 2]])
        assert bool(again[1].any()) == (code == "RA204")


@pytest.mark.parametrize("code", ["RA402", "RA403", "RA404", "RA405"])
def test_each_code_is_found_in_its_example_and_not_in_the_right_call(code: str) -> None:
    entry = CATALOGUE[code]
    names: dict[str, Any] = {"torch": torch, "roi_align": roialign.roi_align}
    with roialign.watch() as report:
        exec(entry.setup, names)
        before = len(report.findings)
        exec(entry.right, names)
        assert len(report.findings) == before
        exec(entry.wrong, names)
    assert codes(report)[before:] == [code]
    report.findings[-1].to_dict()
    assert code in str(report)


def test_maps_of_one_stride_can_never_be_given_a_box() -> None:
    rng = random.Random(9)
    images, boxes, sizes = batch(rng)
    names = ["p3", "p4", "p5"]
    for strides, never in (((8, 8, 8), '"p4" and "p5"'), ((8, 8, 16), '"p5"'), ((8, 16, 16), '"p5"')):
        maps = dict(zip(names, Backbone(strides)(images).values(), strict=True))
        with roialign.watch() as report:
            run(maps, boxes, sizes, names)
        assert codes(report) == ["RA405"]
        assert f"{never} can never be given a box" in report.findings[0].evidence
        line = (report.findings[0].decide or "").partition("concatenate the channels: ")[2]
        held = {"torch": torch, "MultiScaleRoIAlign": MultiScaleRoIAlign, "features": maps, "boxes": boxes}
        with roialign.watch() as again:
            pooled = eval(line, held | {"image_shapes": sizes})
        assert again.ok, again
        assert pooled.shape == (sum(map(len, boxes)), 9, 7, 7)
    with roialign.watch() as sound:
        run(dict(zip(names, Backbone((8, 16, 32))(images).values(), strict=True)), boxes, sizes, names)
    assert sound.ok, sound
