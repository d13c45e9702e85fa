"""`diagnose`: the right code first, a fix that works, and nothing found where nothing is wrong."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch

import roialign
from roialign.doctor.catalogue import CATALOGUE, Entry
from tests.doctor.calls import FAULTS, Scene, scenes

LEAST_SHARE_FOUND = {  # of the faulty calls whose features differ from the right ones, with image_size given
    "RA107": 0.8,  # enlarged boxes may still fit, or lie off the map for the most part without reaching far
    "RA203": 0.8,  # on nearly square images y-first boxes fit as well as x-first ones
    "RA201": 0.95,
    "RA204": 0.9,
    "RA106": 0.95,  # boxes of one corner may be of a smaller scale
}


def pooled(scene: Scene, boxes: torch.Tensor, scale: float) -> torch.Tensor:
    with roialign.set_policy("ignore"):
        return roialign.roi_align(scene.features, [boxes], 7, scale, 2, True)


def changes_the_features(scene: Scene, boxes: torch.Tensor, scale: float) -> bool:
    right, wrong = pooled(scene, scene.boxes_xyxy, scene.scale), pooled(scene, boxes, scale)
    return right.shape != wrong.shape or float((right - wrong).abs().max()) > 0.05 * float(right.abs().max())


@pytest.mark.parametrize("image_known", [False, True], ids=["boxes only", "image known"])
@pytest.mark.parametrize("in_cells", [False, True], ids=["pixels", "cells"])
def test_healthy_calls_have_no_finding(image_known: bool, in_cells: bool) -> None:
    for scene in scenes(250):
        boxes, scale = (scene.boxes_xyxy / scene.stride, 1.0) if in_cells else (scene.boxes_xyxy, scene.scale)
        size = scene.size_hw if image_known else None
        diagnosis = roialign.diagnose(scene.features, [boxes], 7, scale, 2, True, image_size=size)
        assert diagnosis.ok, (scene.stride, scene.size_hw, diagnosis.findings)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named_and_their_fix_is_right(name: str) -> None:
    code, fault = FAULTS[name]
    # A few boxes in one corner of the image may be meant; one stray box among few is no rarity.
    counts = (8, 20, 60) if code in ("RA102", "RA209") else (1, 2, 3, 5, 8, 20, 60)
    oblong = [s for s in scenes(300, counts) if code != "RA203" or max(s.size_hw) > 1.3 * min(s.size_hw)]
    first_codes, repaired = [], []
    for scene in oblong[:120]:
        boxes, scale = fault(scene)
        if not changes_the_features(scene, boxes, scale):
            continue
        diagnosis = roialign.diagnose(scene.features, [boxes], 7, scale, 2, True, image_size=scene.size_hw)
        first_codes.append(diagnosis.findings[0].code if diagnosis.findings else "none")
        fix = diagnosis.findings[0].fix if diagnosis.findings else None
        if fix is not None and first_codes[-1] == code:
            again = fix.call.run()[0]
            right = pooled(scene, scene.boxes_xyxy, scene.scale)
            repaired.append(again.shape == right.shape and bool(torch.allclose(again, right, atol=1e-4)))
    assert len(first_codes) >= 40
    assert first_codes.count(code) / len(first_codes) >= LEAST_SHARE_FOUND.get(code, 0.98), first_codes
    assert code in ("RA107", "RA209") or (repaired and all(repaired))


def test_pixels_on_a_map_16_times_smaller() -> None:
    features = torch.rand(1, 256, 64, 64)
    boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]
    diagnosis = roialign.diagnose(features, boxes, output_size=7)
    (finding,) = diagnosis.findings
    assert finding.code == "RA101"
    assert finding.rois == (0, 1)
    assert finding.fix is not None
    assert (finding.fix.argument, finding.fix.value) == ("spatial_scale", 0.0625)
    assert finding.fix.code == "roi_align(features, boxes, output_size=7, spatial_scale=0.0625)"
    assert (finding.fix.coverage_before, finding.fix.coverage_after) == (0.0, 1.0)
    assert {fix.value for fix in finding.alternatives} == {1 / 8, 1 / 32, 1 / 14}
    assert finding.decide is not None
    assert "image_size=(H, W)" in finding.decide
    assert diagnosis.coverage is not None
    assert diagnosis.coverage.tolist() == [0.0, 0.0]


def test_the_image_size_decides_the_stride() -> None:
    features, boxes = torch.rand(1, 8, 64, 64), [torch.tensor([[100.0, 100.0, 200.0, 200.0]])]
    (finding,) = roialign.diagnose(features, boxes, 7, image_size=(512, 512)).findings
    assert finding.fix is not None
    assert (finding.fix.value, finding.alternatives, finding.decide) == (1 / 8, (), None)
    grid = roialign.FeatureGrid((64, 64), (12.5, 12.5))
    (finding,) = roialign.diagnose(features, boxes, 7, grid=grid).findings
    assert finding.fix is not None
    assert finding.fix.value == pytest.approx(0.08)


def diagnosed(entry: Entry, line: str) -> roialign.Diagnosis:
    """What `diagnose` says of the call that `line` of the entry's example makes."""
    found: list[roialign.Diagnosis] = []
    names: dict[str, Any] = {"torch": torch, "FeatureGrid": roialign.FeatureGrid}

    def roi_align(*args: Any, **kwargs: Any) -> None:
        size, grid = names.get("image_size"), names.get("grid")
        found.append(roialign.diagnose(*args, **kwargs, image_size=size, grid=grid))

    def roi_align_rotated(*args: Any, **kwargs: Any) -> None:
        with roialign.watch() as report:
            roialign.roi_align_rotated(*args, **kwargs)
        found.extend(report.calls)

    names |= {"roi_align": roi_align, "roi_align_rotated": roi_align_rotated}
    torch.manual_seed(0)
    exec(f"{entry.setup}\n{line}", names)
    return found[0]


FOUND = [code for code, entry in CATALOGUE.items() if not entry.raised and not entry.watched]
RAISED = [code for code, entry in CATALOGUE.items() if entry.raised]


@pytest.mark.parametrize("code", RAISED)
def test_each_code_that_is_only_raised_is_raised_by_its_example(code: str) -> None:
    entry, names = CATALOGUE[code], {**vars(roialign), "torch": torch}
    exec(f"{entry.setup}\n{entry.right}", names)
    with pytest.raises(roialign.RoIError) as raised:
        exec(f"{entry.setup}\n{entry.wrong}", names)
    assert raised.value.code == code


@pytest.mark.parametrize("code", FOUND)
def test_each_code_is_found_in_its_example_and_not_in_the_right_call(code: str) -> None:
    entry = CATALOGUE[code]
    assert [finding.code for finding in diagnosed(entry, entry.wrong).findings] == [code]
    assert diagnosed(entry, entry.right).ok


EVIDENCE = {  # what the evidence of each code's example must say
    "RA101": r"span x = 300 to 400, y = 300 to 400; the map has only 64 columns and 64 rows\. 1 of 1 RoIs lie off",
    "RA102": r"y = 18\.75 to 50; .* They fit as cells of the 64 x 64 map; spatial_scale=0\.0625 scales them once",
    "RA103": r"span x = 0\.1 to 0\.4, y = 0\.3 to 0\.9; the map covers an image of about 1024 columns .* are fractions",
    "RA104": r"spatial_scale is 16, which enlarges the boxes; pass 0\.0625",
    "RA105": r"Expected spatial_scale, a finite number above zero; got int 0",
    "RA106": r"518 x 518 on a map of 37 x 37 the stride is 14, but spatial_scale=0\.0625 claims 16.*4\.6 cells off",
    "RA107": r"span x = 800 to 1500, y = 900 to 1300; the image that entered .* 400 columns .* 0\.27 times",
    "RA108": r"at y = 0, x = 0 of the image; the offset measured on images is y = 7\.5, x = 8\.2: 0\.47 of a stride",
    "RA109": r"bfloat16, which has 8 significant bits: 1 of 1 .* by up to 2, which is 5 %.* and 0\.12 cells",
    "RA110": r"the stride is 16 vertically and 64 horizontally",
    "RA201": r"2 of 2 boxes are inverted \(boxes\[0\] = \[300, 300, 100, 100\]\)",
    "RA202": r"2 of 2 boxes are inverted .* Read as centre and size all have an area and fit",
    "RA203": r"span x = 100 to 600, y = 40 to 900; the map covers .* 640 rows\. .* Read y first .* they fit",
    "RA204": r"1 have no width or no height; the first is boxes\[3\] = \[500, 500, 500, 600\]",
    "RA205": r"1 of 2 boxes cannot be sampled \(row 1\), the first is row 1 = \[nan, 0, 9, 9\] of image 0",
    "RA206": r"a batch index out of range \(the batch has 1\), the first is boxes\[0\] = \[1, 300, 300, 400, 400\]",
    "RA207": r"the batch index column is missing",
    "RA208": r"at most one list of boxes for each of the 1 images in the batch; got 2 lists",
    "RA209": r"1 of 10 RoIs lie wholly and 0 mostly off the map",
    "RA210": r"got float32 tensor \[5\]\. Use boxes\[None\]",
    "RA211": r"span x = 500 to 1240, y = 100 to 1480; .* 1 of 2 RoIs lie off the map .* once too often",
    "RA212": r"2 of 2 boxes are inverted \(boxes\[0\] = \[100, 900, 300, 800\]\)\. y is measured from the bottom",
    "RA213": r"end at exactly 480, the shorter side of the image",
    "RA214": r"the last column lies within \+-1\.31, as angles in radians do: these are rotated boxes",
    "RA215": r"has 2 images, and 1 of them has a list of boxes: no box is pooled from image 1",
    "RA216": r"span x = -100 to 924, y = -150 to 650; .* every box is half its size too far to the top left",
    "RA217": r"Read as x1, x2, y1, y2 all have an area and fit",
    "RA301": r"1 of 1 RoIs read only cells that are zero in every channel",
    "RA302": r"32768 of 32768 features are NaN or infinite",
    "RA303": r"needs a map of 40 x 64, which are axes 1 and 2: the channels are last",
    "RA304": r"has 64 rows and 40 columns, but an image of 640 x 1024 at stride 16 needs 40 rows and 64 columns",
    "RA305": r"gives 24 x 32 = 768 tokens and 1 more.*hold 769 in a shape of 1 x 769",
    "RA306": r"got float32 tensor \[8, 64, 64\]\. One image without a batch axis: input\[None\]",
    "RA501": r"In 2 of 2 RoIs at least 85 %.*a bin is 30 x 34\.3 cells, .*2 x 2 points and leaves 98 % unread",
    "RA502": r"2 of 2 boxes \(100 %\) are less than 0\.25 of a cell.*5 x 4, where a cell is 32 x 32",
    "RA505": r"got int64 tensor \[1, 4\]\. Use boxes\.float\(\)",
    "RA506": r"got \(7, 7, 7\)\. Use output_size=7",
}


@pytest.mark.parametrize("code", FOUND)
def test_evidence_is_in_numbers(code: str) -> None:
    evidence = diagnosed(CATALOGUE[code], CATALOGUE[code].wrong).findings[0].evidence
    assert re.search(EVIDENCE[code], evidence), evidence


def test_an_index_in_the_last_column() -> None:
    boxes = torch.tensor([[16.0, 16.0, 64.0, 64.0, 0.0], [32.0, 16.0, 90.0, 64.0, 1.0]])
    (finding,) = roialign.diagnose(torch.rand(2, 3, 8, 8), boxes, 2, 1 / 16).findings
    assert finding.code == "RA207"
    assert finding.fix is not None
    assert finding.fix.code.startswith("boxes = boxes[:, [4, 0, 1, 2, 3]]")
    assert finding.fix.call.rois[:, 0].tolist() == [0.0, 1.0]


def test_images_counted_from_one() -> None:
    boxes = torch.tensor([[1.0, 16.0, 16.0, 64.0, 64.0], [2.0, 16.0, 16.0, 64.0, 64.0]])
    (finding,) = roialign.diagnose(torch.rand(2, 3, 8, 8), boxes, 2, 1 / 16).findings
    assert finding.code == "RA206"
    assert finding.fix is not None
    assert finding.fix.code.startswith("boxes[:, 0] -= 1")


def test_bad_rows_do_not_hide_the_other_rows() -> None:
    nan = float("nan")
    boxes = [torch.tensor([[nan, 0.0, 1.0, 1.0], [300.0, 300.0, 400.0, 400.0]])]
    diagnosis = roialign.diagnose(torch.rand(1, 3, 64, 64), boxes, 7)
    assert [(finding.code, finding.rois) for finding in diagnosis.findings] == [("RA205", (0,)), ("RA101", (1,))]


def test_only_some_features_are_zero_or_nan() -> None:
    features = torch.rand(1, 3, 16, 16) + 0.1
    features[:, :, :8, :8] = 0
    features[0, 1, 15, 15] = float("inf")
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0], [10.0, 2.0, 14.0, 6.0], [12.0, 12.0, 16.0, 16.0]])]
    findings = roialign.diagnose(features, boxes, 2).findings
    assert [(finding.code, finding.rois) for finding in findings] == [("RA302", (2,)), ("RA301", (0,))]


def test_no_boxes_and_odd_maps_are_no_fault() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    assert roialign.diagnose(mask, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], 7).ok
    assert roialign.diagnose(torch.rand(1, 3, 8, 8), [torch.empty(0, 4)], 7).ok
    assert roialign.diagnose(torch.rand(1, 3, 1, 1), [torch.tensor([[0.0, 0.0, 1.0, 1.0]])], 1).ok
    assert roialign.diagnose(torch.rand(1, 3, 8, 8), [], 7).ok
    assert roialign.diagnose(torch.rand(1, 3, 8, 8).half(), [torch.tensor([[1.0, 1.0, 5.0, 5.0]])], 7).ok


def test_a_map_too_small_for_any_common_stride() -> None:
    boxes = [torch.tensor([[100.0, 60.0, 180.0, 220.0], [20.0, 90.0, 200.0, 224.0]])]
    (finding,) = roialign.diagnose(torch.rand(1, 8, 1, 1), boxes, 7, spatial_scale=1 / 16).findings
    assert finding.code in ("RA106", "RA107", "RA209")
    assert "span x = 20 to 200, y = 60 to 224; the map covers an image of about 16 columns" in finding.evidence
    assert finding.severity == "warning", "one cell tells little"
    assert finding.decide is not None


def test_a_map_finer_than_its_image_is_no_fault() -> None:
    boxes = [torch.tensor([[2.0, 2.0, 30.0, 20.0], [10.0, 4.0, 32.0, 32.0]])]
    assert roialign.diagnose(torch.rand(1, 3, 128, 128), boxes, 7, spatial_scale=4.0).ok


def test_a_thin_box_at_the_far_edge_is_no_fault() -> None:
    """With aligned=False it is widened to one cell, most of which lies off the map."""
    boxes = [torch.tensor([[320.0, 798.7, 369.0, 798.8]])]
    assert roialign.diagnose(torch.rand(1, 3, 200, 336), boxes, 7, 1 / 4, 2).ok
    roialign.roi_align(torch.rand(1, 3, 200, 336), boxes, 7, 1 / 4, 2)  # a notice would be an error here


def test_evidence_that_does_not_belong_raises() -> None:
    features, boxes = torch.rand(1, 3, 8, 8), [torch.tensor([[1.0, 1.0, 5.0, 5.0]])]
    with pytest.raises(roialign.RoIError, match=r"^RA306: expected the grid of a map of \(8, 8\); got one of \(9, 9\)"):
        roialign.diagnose(features, boxes, 7, grid=roialign.FeatureGrid((9, 9), (16.0, 16.0)))
    for grid in ("x", 3, (16.0, 16.0), True):
        with pytest.raises(roialign.RoIError, match=r"^RA306: expected grid, the FeatureGrid of the map, or none; got"):
            roialign.diagnose(features, boxes, 7, grid=grid)
    for scale in (1.0, 0.0, "x"):
        for size in ((0, 10), 5, "x", (1, 2, 3), (float("nan"), 8), (None, 8), (float("inf"), 8)):
            with pytest.raises(roialign.RoIError, match=r"^RA307: expected image_size as \(height, width\)"):
                roialign.diagnose(features, boxes, 7, scale, image_size=size)


def test_a_diagnosis_is_json() -> None:
    diagnosis = roialign.diagnose(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)
    read = json.loads(json.dumps(diagnosis.to_dict()))
    assert read["ok"] is False
    assert read["findings"][0]["fix"]["value"] == 0.0625
    assert read["coverage"] == [0.0]


def test_the_notice_has_the_doctors_words() -> None:
    features, boxes = torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]
    with pytest.warns(roialign.RoIWarning) as warned:
        roialign.roi_align(features, boxes, 7)
    text = str(warned[0].message)
    assert text.startswith("RA101: 1 of 1 RoIs lie mostly or wholly off the 64 x 64 feature map")
    assert "boxes in image pixels, spatial_scale left at 1" in text
    assert "roi_align(features, boxes, output_size=7, spatial_scale=0.0625)" in text
    assert warned[0].filename == __file__


def pasted(code: str, features: torch.Tensor, boxes: Any) -> tuple[Any, dict[str, Any]]:
    """The boxes, rows or a list, after the line was run, and the arguments of the call if it makes one."""
    arguments: dict[str, Any] = {}
    names = {"boxes": copy.deepcopy(boxes), "features": features, "torch": torch}
    names["roi_align"] = lambda *_, **options: arguments.update(options)
    exec(code, names)
    return names["boxes"], arguments


def assert_does_what_was_proven(diagnosis: roialign.Diagnosis, as_tensor: torch.Tensor) -> None:
    for finding in diagnosis.findings:
        if finding.fix is None:
            continue
        fix, proven = finding.fix, finding.fix.call
        boxes, arguments = pasted(fix.code, proven.input, as_tensor)
        torch.testing.assert_close(boxes, proven.rois, rtol=1e-5, atol=1e-4)
        if fix.argument == "spatial_scale":
            assert arguments["spatial_scale"] == pytest.approx(proven.spatial_scale, rel=1e-5)
            assert arguments["output_size"] in (proven.output_size_hw, proven.output_size_hw[0])
            assert arguments.get("sampling_ratio", -1) == proven.sampling_ratio
            assert arguments.get("aligned", False) == proven.aligned
        if (as_tensor[:, 0] == 0).all() and not any(part in fix.code for part in ("[:, 0]", "[4, 0", "[:, 1:]")):
            of_a_list, _ = pasted(fix.code, proven.input, as_tensor[:, 1:])
            torch.testing.assert_close(of_a_list, proven.rois[:, 1:], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", FAULTS)
def test_the_line_to_paste_does_what_was_proven(name: str) -> None:
    for scene in scenes(40):
        boxes, scale = FAULTS[name][1](scene)
        rois = torch.cat([torch.zeros(len(boxes), 1), boxes], 1)
        diagnosis = roialign.diagnose(scene.features, rois, (7, 5), scale, 2, True, image_size=scene.size_hw)
        assert_does_what_was_proven(diagnosis, rois)


BAD_ROWS = {
    "NaN": [[0, float("nan"), 0, 9, 9]],
    "infinite": [[0, 1, 0, float("inf"), 9]],
    "astronomical": [[0, 1, 0, 1e30, 9]],
    "counted from one": [[1, 1, 1, 5, 5]],
    "index last": [[1, 1, 5, 5, 0]],
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_the_line_for_bad_rows_does_what_was_proven(name: str) -> None:
    good = [] if name in ("counted from one", "index last") else [[0, 1, 1, 5, 5], [0, 2, 1, 7, 6]] * 4
    rois = torch.tensor([*good, *BAD_ROWS[name]], dtype=torch.float32)
    diagnosis = roialign.diagnose(torch.rand(1, 3, 8, 8), rois, 2)
    assert diagnosis.findings[0].fix is not None
    assert_does_what_was_proven(diagnosis, rois)
