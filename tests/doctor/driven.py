"""What the tests of the report page share: a call that reads off its map, and hands for the page that shows it."""

from pathlib import Path

import torch

import roialign
from roialign.doctor.findings import Report

SCRIPTS = Path(roialign.__file__).parent / "doctor" / "report"
IMAGE = torch.rand(3, 256, 320, generator=torch.Generator().manual_seed(7))
FEATURES = torch.randn(1, 6, 16, 20, generator=torch.Generator().manual_seed(1))
BOXES = torch.tensor([[60.0, 40.0, 200.0, 160.0], [4.0, 8.0, 90.0, 240.0], [250.0, 200.0, 310.0, 250.0]])
CONTROLS = ("x1", "y1", "x2", "y2")


def report_of(features=FEATURES, boxes=BOXES, scale=1.0, ratio=2, aligned=False, image=IMAGE, site="detector.py:12"):
    diagnosis = roialign.diagnose(features, [boxes], 7, scale, ratio, aligned, image_size=(256, 320))
    assert diagnosis.findings
    return Report((diagnosis.at(site, image),))


def part(page, name):
    return page.locator(f'.playground [data-part="{name}"]').first


def pooled(page):
    cells = page.eval_on_selector_all(".pooled td", "cells => cells.map(c => c.dataset.value)")
    return torch.tensor([float(cell) for cell in cells], dtype=torch.float64)


def box_of(page):
    return torch.tensor([float(part(page, name).input_value()) for name in CONTROLS])


def assert_equal_to_the_operator(page, features=FEATURES, channel=None, **options):
    """The numbers of the page against roi_align with the box that the page shows."""
    values = features.mean(1, keepdim=True) if channel is None else features[:, channel : channel + 1]
    with roialign.set_policy("ignore"):
        expected = roialign.roi_align(values, [box_of(page)[None]], **{"output_size": 7, **options})
    shown = pooled(page)
    assert len(shown) == expected.numel()
    assert (shown - expected.flatten()).abs().max() <= 1e-4 * features.abs().max()
    return shown


def choose(page, preset):
    page.get_by_role("button", name=preset).first.click()


def drag(page, target, by_x, by_y):
    frame = target.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by_x / 2, y + by_y / 2)
    page.mouse.move(x + by_x, y + by_y)
    page.mouse.up()
