"""Programs made of public reports under `watch()`; what is expected of each is written by

python -m benchmarks.reports --expect
"""

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("torchvision", reason="the programs are of its users")
pytest.importorskip("timm", reason="one of the programs is of its users")
pytest.importorskip("transformers", reason="one of the programs is of its users")

from benchmarks.reports import documentation
from benchmarks.reports.collection import entries
from benchmarks.reports.scenes import MissingPictureError
from benchmarks.reports.scoring import ALONE, judge, judge_fix

from roialign.doctor.findings import Fix
from roialign.ops.calls import RoICall

EXPECTED = json.loads((Path(__file__).parent / "reports.json").read_text())
GOOD = ("named", "clean", "warned")


@pytest.fixture(autouse=True)
def gradients_put_back():
    yield
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.id)
def test_is_judged_as_expected(entry):
    torch.set_num_threads(1)
    try:
        program = entry.reported.build()
    except MissingPictureError as error:
        pytest.skip(str(error))
    outcome = judge(entry.reported, program, ALONE).outcome
    if entry.id not in EXPECTED:
        pytest.skip("nothing is expected of it yet")
    if EXPECTED[entry.id] in GOOD:
        assert outcome in GOOD
    elif outcome not in GOOD:
        pytest.xfail(f"{outcome}, as expected for now")


def test_the_page_of_the_docs_lists_them():
    assert documentation.PAGE.read_text(encoding="utf-8") == documentation.page(), (
        "python -m benchmarks.reports.documentation"
    )


def test_each_report_has_a_name_of_its_own_and_each_fault_a_label():
    reports = [entry.reported for entry in entries()]
    assert len({reported.name for reported in reports}) == len(reports)
    assert all(reported.codes and reported.right for reported in reports if reported.kind == "fault")


@pytest.mark.parametrize(
    ("name", "line", "judged"),
    [
        ("SlowFast#81", "boxes = [boxes]", "right"),
        ("SlowFast#81", "roi_align(features, [boxes], 7, 1 / 16, aligned=True)", "right"),
        ("SlowFast#81", "roi_align(features, [boxes], 7, 1 / 8, aligned=True)", "wrong"),
        ("SlowFast#81", "roi_align(features, [the_boxes], 7)", "wrong"),  # raises, so the call counts: half a cell off
        ("human_object_interaction#14", "boxes = [some.nan_to_num(0) for some in boxes]", "right"),
        ("human_object_interaction#14", "boxes = [some[some.isfinite().all(1)] for some in boxes]", "wrong"),
    ],
)
def test_a_line_is_right_where_the_program_then_gives_what_the_right_one_gives(name, line, judged):
    program = next(entry.reported for entry in entries("given") if entry.reported.name == name).build()
    call = RoICall(torch.zeros(1, 8, 16, 21), torch.tensor([[0.0, 50, 40, 180, 240]]), (7, 7), 1 / 16, 0, False)
    assert judge_fix(program, Fix("boxes", None, line, 0.0, 1.0, call)) == judged
