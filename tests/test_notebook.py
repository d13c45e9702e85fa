"""roialign in a real notebook: what a kernel sends to the page, and the example notebook."""

import re
from html import unescape
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "notebook" / "why_are_my_rois_zero.ipynb"
SETUP = """import torch
import roialign
features = torch.rand(1, 8, 64, 64)
boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0]])]
def pool():
    return roialign.roi_align(features, boxes, 7)
"""


def run(*sources, allow_errors=False):
    """The code cells of a notebook after a kernel has run them."""
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    execute(notebook, allow_errors)
    return notebook.cells


def execute(notebook, allow_errors=False):
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=120, allow_errors=allow_errors, resources=resources).execute()


def streamed(cell, name):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == name)


def shown(cell, kind="text/html"):
    return "".join(output.data.get(kind, "") for output in cell.outputs if "data" in output)


def words_of(cell):
    """All that a reader reads of the outputs, as words."""
    printed = [streamed(cell, name) for name in ("stdout", "stderr")]
    page = re.sub(r"<[^>]*>", " ", shown(cell))
    return unescape(" ".join([*printed, shown(cell, "text/plain"), page])).split()


@pytest.fixture(scope="module")
def example():
    """Its code cells, as stored and as run now."""
    stored = nbformat.read(EXAMPLE, as_version=4)
    now = nbformat.read(EXAMPLE, as_version=4)
    execute(now)
    return [[cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (stored, now)]


def test_the_example_shows_the_mistake_its_place_and_the_line_to_paste(example):
    reports = [shown(cell) for cell in example[1] if "RoI call" in shown(cell)]
    wrong, diagnosed, scaled, in_cells, over_cells = reports
    assert "RA101 error" in wrong
    assert "Cell In[2], line 2" in wrong
    assert "roi_align(features, boxes, output_size=7, spatial_scale=0.0625, sampling_ratio=2)" in wrong
    assert wrong.count("<img ") == diagnosed.count("<img ") == 1
    assert "the stride is 16" in diagnosed
    assert "nothing wrong" in scaled
    assert "nothing wrong" in in_cells
    assert "Cell In[8], line 2, in 1 of 2 calls examined" in over_cells


def test_the_example_shows_grids_frames_and_boxes_as_tables(example):
    tables = [shown(cell) for cell in example[1] if "<table" in shown(cell)]
    assert [re.search(r"<th [^>]*>(.*?)</th>", table)[1] for table in tables] == ["map", "step", "row"]


def test_the_outputs_that_are_stored_are_those_of_today(example):
    stored, now = ([words_of(cell) for cell in cells] for cells in example)
    assert any(stored)
    assert stored == now, "run `make notebook`"


def test_the_example_is_small_and_names_no_machine():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert "/tmp/" not in text
    assert str(ROOT) not in text


def test_the_notice_names_the_cell_and_comes_again_when_it_is_run_again():
    again = "for _ in range(3):\n    _ = roialign.roi_align(features, boxes, 7)"
    cells = run(SETUP, again, again, "_ = pool(), pool()", "_ = pool()")
    notices = [re.findall(r"^.*RoIWarning: RA101", streamed(cell, "stderr"), re.MULTILINE) for cell in cells]
    in_pool = ["Cell In[1]:6: RoIWarning: RA101"]
    assert notices == [
        [],
        ["Cell In[2]:2: RoIWarning: RA101"],
        ["Cell In[3]:2: RoIWarning: RA101"],
        in_pool,
        in_pool,
    ]
    assert "\n  _ = roialign.roi_align(features, boxes, 7)" in streamed(cells[1], "stderr")  # the line's text


def test_watching_over_cells():
    cells = run(
        SETUP + "roialign.set_policy('ignore')",
        "report = roialign.watch().start()",
        "import gc; gc.collect(); _ = pool(); print(report.examined, report.findings[0].call_site)",
        "_ = pool(); report",
        "report.stop(); report.stop(); _ = pool(); print(report.examined)",
        "block = roialign.watch(); other = block.__enter__()",
        "_ = pool()",
        "block.__exit__(None, None, None); _ = pool(); print(other.examined)",
        "print(report)",
    )
    assert streamed(cells[2], "stdout") == "1 Cell In[1], line 6\n"
    assert "Cell In[1], line 6, in 2 of 2 calls examined" in shown(cells[3])
    assert "Cell In[1], line 6, in 2 of 2 calls examined" in shown(cells[3], "text/plain")
    assert streamed(cells[4], "stdout") == "2\n"
    assert streamed(cells[7], "stdout") == "1\n"
    assert not any(streamed(cell, "stderr") for cell in cells)  # the policy holds from cell to cell
    assert streamed(cells[8], "stdout").startswith("2 RoI calls examined: 1 error.\n")
    assert not shown(cells[8], "text/plain")


def test_a_block_that_raises_shows_the_traceback_of_its_cell():
    [plain, watched] = run("1 / 0", "import roialign\nwith roialign.watch():\n    1 / 0", allow_errors=True)
    of_plain, of_watched = (
        [re.sub(r"\x1b\[[\d;]*m", "", part) for part in cell.outputs[0].traceback] for cell in (plain, watched)
    )
    assert len(of_watched) == len(of_plain)
    assert [part for part in of_watched if "line" in part] == [of_watched[2]]
    assert of_watched[2].startswith("Cell In[2], line 3\n")
    assert of_watched[-1] == "ZeroDivisionError: division by zero"
