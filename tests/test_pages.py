"""The pages of the docs: their code runs, and prints what its comments and the blocks after it say."""

import re
from pathlib import Path

import pytest
import torch

import roialign

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def matches(line: str, words: str) -> bool:
    """Whether `line` begins with `words`, in which "..." stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, words.split("..."))) + ".*", line) is not None


@pytest.mark.parametrize(
    ("page", "blocks", "needs"),
    [
        ("zeros.md", 2, ("torchvision",)),
        ("cells.md", 2, ("timm",)),
        ("migrate.md", 7, ("torchvision", "onnxruntime", "onnx")),
        ("frames.md", 8, ("transformers",)),
        ("regions.md", 5, ()),
        ("crops.md", 1, ("timm",)),
        ("extraction.md", 8, ("pyarrow",)),
        ("grids.md", 1, ("timm",)),
        ("scrambled.md", 3, ("transformers",)),
        ("operators.md", 11, ()),
        ("enable.md", 2, ()),
        ("onnx.md", 4, ("onnxruntime", "onnxscript", "torchvision")),
        ("compile.md", 4, ()),
    ],
)
def test_the_code_of_the_page_runs(page, blocks, needs, capsys):
    for package in needs:
        pytest.importorskip(package)
    names = {"roialign": roialign}
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(found) == blocks
    torch.manual_seed(0)
    for block, shown in found:
        exec(compile(block, page, "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = shown.splitlines() or re.findall(r"print\(.*\)  # (.*)", block)
        assert len(printed) == len(promised)
        assert all(map(matches, printed, promised)), printed
        for expression, value in re.findall(r"^(\S.*)  # .*?(tensor\(.*\))$", block, re.MULTILINE):
            assert repr(eval(expression, names)).replace(" ", "") == value.replace(" ", "")


def test_a_newcomers_program_has_eight_lines_and_runs(capsys):
    pytest.importorskip("timm")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (program,) = (block for block in blocks if "RegionExtractor(" in block and "import roialign" in block)
    assert len(program.splitlines()) <= 8
    exec(compile(program, "README.md", "exec"), {})
    assert [capsys.readouterr().out.strip()] == re.findall(r"print\(.*\)  # (.*)", program)
