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

from benchmarks.reports.collection import entries
from benchmarks.reports.scenes import MissingPictureError
from benchmarks.reports.scoring import ALONE, judge

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
