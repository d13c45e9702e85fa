"""The interactive figure of the report page, driven in a real Chromium."""

import random
import re

import pytest
import torch

import roialign
from roialign.doctor.findings import Diagnosis, Finding, Fix, Report
from roialign.ops.roi_align import as_call
from tests.doctor.driven import (
    BOXES,
    FEATURES,
    IMAGE,
    SCRIPTS,
    assert_equal_to_the_operator,
    box_of,
    choose,
    drag,
    part,
    pooled,
    report_of,
)


def random_cases(number):
    """Arguments of the operator, with boxes inside, across and beyond the map, inverted, thin and empty."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    for case in range(number):
        height, width = rng.randint(1, 24), rng.randint(1, 24)
        scale = rng.choice([1.0, 1 / 4, 1 / 14, 1 / 16, 1 / 3, rng.uniform(0.02, 2)])
        aligned, ratio = case % 2 == 0, rng.choice([-1, 0, 1, 2, 3, 7])
        centre = [rng.uniform(-0.6, 1.6) * width / scale, rng.uniform(-0.6, 1.6) * height / scale]
        size = [rng.choice([0.0, rng.uniform(0, 0.1), rng.uniform(0, 2)]) * side / scale for side in (width, height)]
        box = [centre[0] - size[0], centre[1] - size[1], centre[0] + size[0], centre[1] + size[1]]
        if case % 5 == 0:
            box = [float(round(value)) for value in box]  # on the borders of cells and of the map
        if case % 6 == 1:  # in float32 such boxes have a sample more than in float64
            stride, first, last = rng.choice([7, 24, 28]), rng.randint(0, 3), rng.randint(4, 23)
            scale, ratio, box = 1 / stride, -1, [float(stride * side) for side in (first, first, last, last)]
        if aligned and case % 7 == 0:
            box = [box[2], box[3], box[0], box[1]]
        single = case % 9 != 0
        features = torch.randn(1, 1, height, width, generator=generator, dtype=torch.float32)
        options = {
            "output_size": [rng.randint(1, 9), rng.randint(1, 9)],
            "spatial_scale": scale,
            "sampling_ratio": ratio,
            "aligned": aligned,
            "cells": [scale, rng.uniform(-1, 1), rng.uniform(0.5, 2) * scale, 0.25] if case % 8 == 2 else None,
        }
        yield features, torch.tensor(box, dtype=torch.float32 if single else torch.float64), options, single


def test_the_rule_in_the_page_is_that_of_the_operator(browser):
    cases = list(random_cases(400))
    page = browser.new_page()
    page.add_script_tag(content=(SCRIPTS / "roi_align.js").read_text())
    given = [
        (features.flatten().tolist(), list(features.shape[2:]), box.tolist(), options, single)
        for features, box, options, single in cases
    ]
    script = """cases => cases.map(([values, size, box, options, single]) => {
        const { pooled, coverage, refused } = roiAlign(Float32Array.from(values), size, box, options, single);
        return refused ? null : [[...pooled], coverage];
    })"""
    found = page.evaluate(script, given)
    page.close()
    lowest = []
    for (features, box, options, single), result in zip(cases, found, strict=True):
        values = features if single else features.double()
        *arguments, cells = options.values()
        call = as_call(values, [box[None]], *arguments).with_(cells=tuple(cells) if cells else None)
        if not bool(call.usable().all()):
            assert result is None
            continue
        expected, coverage = call.run()
        assert (torch.tensor(result[0]) - expected.flatten()).abs().max() <= 1e-4 * features.abs().max()
        assert result[1] == pytest.approx(float(coverage[0]), abs=1e-6)
        lowest.append(result[1])
    assert min(lowest) == 0
    assert max(lowest) == 1
    assert len(lowest) >= 390


def test_the_rule_in_the_page_refuses_what_the_operator_refuses(browser):
    page = browser.new_page()
    page.add_script_tag(content=(SCRIPTS / "roi_align.js").read_text())
    options = {"output_size": [1, 1], "spatial_scale": 1.0, "aligned": False}
    script = "([box, options]) => roiAlign(null, [4, 4], box, options).refused"
    for box, ratio, refused in [
        ([0, 0, 3e7, 4], -1, True),
        ([0, 0, 3e7, 4], 2, False),
        ([0, 0, 1e6, 4], -1, False),
        ([0, 0, 3e38, 4], -1, True),
    ]:
        call = as_call(torch.ones(1, 1, 4, 4), [torch.tensor([box])], 1, 1.0, ratio, False)
        assert page.evaluate(script, [box, {**options, "sampling_ratio": ratio}]) is refused
        assert bool(call.usable()[0]) is not refused
    page.close()


def test_as_called_all_is_zero_and_with_the_fix_the_features_come_out(show):
    page = show(report_of())
    assert not bool(assert_equal_to_the_operator(page, sampling_ratio=2).any())
    assert part(page, "coverage").inner_text() == "Coverage 0.00"
    assert "off the map" in part(page, "words").inner_text()
    choose(page, "With the fix")
    assert bool(assert_equal_to_the_operator(page, sampling_ratio=2, spatial_scale=1 / 16).all())
    assert part(page, "coverage").inner_text() == "Coverage 1.00"
    assert page.get_by_role("button", name="With the fix").first.get_attribute("aria-pressed") == "true"
    assert "spatial_scale=1/16, sampling_ratio=2)" in part(page, "line").inner_text()


def test_dragging_the_box_changes_the_numbers(show):
    page = show(report_of())
    choose(page, "With the fix")
    before, start = pooled(page), box_of(page)
    drag(page, page.locator(".stage .box .seen"), 60, -25)
    moved = box_of(page) - start
    assert torch.allclose(moved[:2], moved[2:])
    assert moved[0] > 10
    assert moved[1] < -5
    after = assert_equal_to_the_operator(page, sampling_ratio=2, spatial_scale=1 / 16)
    assert not torch.equal(before, after)
    assert page.get_by_role("button", name="With the fix").first.get_attribute("aria-pressed") == "false"


def test_dragging_a_corner_resizes_the_box(show):
    page = show(report_of())
    choose(page, "With the fix")
    for corner, moving in enumerate([[0, 1], [2, 1], [0, 3], [2, 3]]):
        start = box_of(page)
        drag(page, page.locator(".stage .handle .seen").nth(corner), 21, 17)
        assert (box_of(page) - start).nonzero().flatten().tolist() == sorted(moving)
        assert_equal_to_the_operator(page, sampling_ratio=2, spatial_scale=1 / 16)


def test_a_finger_drags_the_box(show):
    page = show(report_of(), width=390, has_touch=True, is_mobile=True, reduced_motion="reduce")
    choose(page, "With the fix")
    start = box_of(page)
    target = page.locator(".stage .box .seen")
    target.scroll_into_view_if_needed()
    frame, scrolled = target.bounding_box(), page.evaluate("scrollY")
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    touch = page.context.new_cdp_session(page)
    for kind, by in (("touchStart", 0), ("touchMove", 12), ("touchMove", 30), ("touchEnd", None)):
        points = [] if by is None else [{"x": x + by, "y": y + by}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert (box_of(page) - start > 5).all()
    assert page.evaluate("scrollY") == scrolled
    assert_equal_to_the_operator(page, sampling_ratio=2, spatial_scale=1 / 16)


def test_arrow_keys_move_the_box_and_its_corners(show):
    page = show(report_of())
    start = box_of(page)
    page.locator(".stage .box").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert (box_of(page) - start).tolist() == [1, 10, 1, 10]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert (box_of(page) - start).tolist() == [0, 10, 1, 10]
    part(page, "y2").focus()
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("ArrowUp")
    assert (box_of(page) - start).tolist() == [0, 10, 1, 21]
    assert_equal_to_the_operator(page, sampling_ratio=2)


def test_each_control_is_an_argument(show):
    page = show(report_of())
    options = {"sampling_ratio": 2}

    def set_to(name, value, **changed):
        control = part(page, name)
        if name in ("sampling_ratio", "channel"):
            control.select_option(value)
        elif name == "aligned":
            control.set_checked(value)
        else:
            control.fill(value)
        before = dict(options)
        options.update(changed)
        shown = assert_equal_to_the_operator(page, **options)
        assert before == options or not torch.equal(shown, numbers[-1])
        numbers.append(shown)

    numbers = [pooled(page)]
    set_to("spatial_scale", "0.0625", spatial_scale=0.0625)
    set_to("aligned", True, aligned=True)
    set_to("spatial_scale", "1/14", spatial_scale=1 / 14)
    set_to("sampling_ratio", "1", sampling_ratio=1)
    set_to("sampling_ratio", "-1", sampling_ratio=-1)
    set_to("sampling_ratio", "8", sampling_ratio=8)
    set_to("x1", "33.5")
    set_to("y2", "-12")
    set_to("height", "3", output_size=(3, 7))
    set_to("width", "20", output_size=(3, 20))
    line = part(page, "line").inner_text()
    wanted = "roi_align(features, boxes, output_size=(3, 20), spatial_scale=1/14, sampling_ratio=8, aligned=True)"
    assert line == wanted


def test_other_channels_and_other_rows(show):
    page = show(report_of())
    choose(page, "With the fix")
    names = part(page, "channel").locator("option").all_inner_texts()
    assert names[0] == "mean of all 6 channels"
    most = int(re.search(r"channel (\d+), which varies most", names[1])[1])
    assert most == int(FEATURES[0].flatten(1).var(1).argmax())
    part(page, "channel").select_option(names[1])
    assert_equal_to_the_operator(page, channel=most, sampling_ratio=2, spatial_scale=1 / 16)
    part(page, "channel").select_option(names[-1])
    assert bool((pooled(page) == 1).all())
    part(page, "row").select_option(label="row 2")
    assert box_of(page).tolist() == BOXES[2].tolist()
    page.get_by_role("button", name="Show row 1 in the figure").click()
    assert box_of(page).tolist() == BOXES[1].tolist()


def test_a_scale_that_cannot_be_used_is_refused(show):
    page = show(report_of())
    before = pooled(page)
    for typed in ("", "zero", "0", "-1", "1/0", "1/2/3", "inf"):
        part(page, "spatial_scale").fill(typed)
        assert part(page, "spatial_scale").get_attribute("aria-invalid") == "true"
        assert part(page, "scale-error").is_visible()
        assert torch.equal(pooled(page), before)
        part(page, "spatial_scale").fill("1")
        assert not part(page, "scale-error").is_visible()
    part(page, "spatial_scale").fill("none")
    choose(page, "With the fix")
    assert not part(page, "scale-error").is_visible()
    assert part(page, "spatial_scale").input_value() == "1/16"


def test_zoom_brings_a_small_box_near(show):
    page = show(report_of(boxes=torch.tensor([[150.0, 100.0, 156.0, 106.0], [200.0, 200.0, 300.0, 250.0]])))
    choose(page, "With the fix")
    before = page.locator(".stage .box .seen").bounding_box()["width"]
    part(page, "zoom").check()
    assert page.locator(".stage .box .seen").bounding_box()["width"] > 5 * before
    assert part(page, "drawn").inner_text() == ""


def test_a_page_without_features_still_shows_where_is_read(show):
    page = show(Report((report_of().calls[0].without_features(),)))
    assert "were not kept" in part(page, "values-note").inner_text()
    assert bool((pooled(page) == 0).all())
    choose(page, "With the fix")
    assert bool((pooled(page) == 1).all())
    drag(page, page.locator(".stage .box .seen"), 250, 0)
    shares = assert_equal_to_the_operator(page, torch.ones(1, 1, 16, 20), sampling_ratio=2, spatial_scale=1 / 16)
    assert 0 < float(shares.mean()) < 1


def test_nan_is_shown(show):
    features = FEATURES.clone()
    features[0, 4, 4:6, 6:9] = float("nan")
    page = show(report_of(features, scale=1 / 16))
    assert "channel 4, the first with NaN or infinity" in part(page, "channel").inner_text()
    cells = page.locator(".pooled td.bad")
    assert cells.first.inner_text() == "NaN"
    with roialign.set_policy("ignore"):
        wrong = roialign.roi_align(features.mean(1, True), [BOXES[:1]], 7, 1 / 16, 2).isnan()
    assert torch.equal(pooled(page).isnan(), wrong.flatten())


def test_boxes_of_other_images_are_not_laid_over_the_picture(show):
    boxes = torch.tensor([[0.0, 60.0, 40.0, 200.0, 160.0], [1.0, 60.0, 40.0, 120.0, 160.0]])
    features = torch.cat([FEATURES, FEATURES + 1])
    call = as_call(features, boxes, 7, 1.0, 2, False)
    fixed = call.with_(spatial_scale=1 / 16)
    fix = Fix("spatial_scale", 1 / 16, "spatial_scale=1 / 16", 0.0, 1.0, fixed)
    page = show(
        Report((Diagnosis((Finding("RA101", "Far off.", (1,), fix),), call.coverage(), call).at("a.py:1", IMAGE),))
    )
    assert page.locator(".photo").count() == 0
    choose(page, "With the fix")
    assert_equal_to_the_operator(page, features[1:], sampling_ratio=2, spatial_scale=1 / 16)


def test_a_call_with_a_grid_is_read_through_its_grid(show):
    call = as_call(FEATURES, [BOXES + 100], 7, 1 / 16, 2, True)
    call = call.with_(operator="pool_regions", cells=(1 / 16, 0.1, 1 / 12, -0.3))
    page = show(Report((Diagnosis((Finding("RA209", "Off.", (0,)),), call.coverage(), call).at("a.py:1", IMAGE),)))
    expected = call.with_(input=FEATURES.mean(1, keepdim=True), rois=call.rois[:1]).run()[0]
    assert (pooled(page) - expected.flatten()).abs().max() <= 1e-4 * FEATURES.abs().max()
    assert part(page, "spatial_scale").is_disabled()
    assert part(page, "line").inner_text() == "pool_regions(features, boxes, 7, grids, sampling_ratio=2)"
    assert "pool_regions: 3 RoIs" in page.content()
    assert "a grid of stride (16, 12) and offset (1.6, -3.6), y first" in page.content()
