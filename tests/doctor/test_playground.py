"""What the interactive figure is given, without a browser."""

import json

import pytest
import torch

from roialign.doctor.findings import Fix
from roialign.doctor.report.page import as_html
from roialign.doctor.report.playground import MAX_VALUES, Values
from tests.doctor.test_report import call_of, report_of


def test_the_values_of_a_page_are_few():
    values = Values()
    assert values.place(torch.rand(1, 5, 600, 600), 0) is None
    wide, small = torch.rand(2, 5, 300, 300), torch.rand(2, 5, 60, 60)
    places = [values.place(wide, 0), values.place(small, 1), values.place(small, 0), values.place(small, 1)]
    assert places == [0, 1, 2, 1]
    assert [channel["name"] for channel in values.maps[0]] == ["mean of all 5 channels"]
    assert len(values.maps[1]) >= 2
    kept = [torch.rand(1, 2, 256, 256) for _ in range(9)]
    assert [values.place(features, 0) is None for features in kept][-3:] == [True] * 3
    held = sum(len(channel["values"]) for channels in values.maps for channel in channels) * 3 / 4 / 4
    assert held <= MAX_VALUES


def test_values_and_boxes_that_are_not_finite_leave_the_page_readable():
    call = call_of([(0, 0, 9, 9), (1, 1, 9, 9)])
    fixed = call.with_(rois=torch.where(call.rois == 1, float("inf"), call.rois))
    fix = Fix("boxes", None, "boxes = ...", 0.0, 1.0, fixed)
    page = as_html(report_of(call.with_(input=call.input.fill_(float("nan"))), (0, 1), fix))
    data = page.split('id="figures">')[1].split("</script>")[0]
    figure = json.loads(data, parse_constant=pytest.fail)["figures"][0]
    assert figure["presets"][1]["boxes"][1] is None
