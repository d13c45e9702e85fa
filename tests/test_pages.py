"""The pages of the docs: their code runs, and gives what its comments and the blocks after it say."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import roialign

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def matches(line: str, words: str) -> bool:
    """Whether `line` begins with `words`, in which "..." stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, words.split("..."))) + ".*", line) is not None


def promises(block: str) -> list[tuple[str, str]]:
    """Lines whose comment is a value, a tensor or the shape of one; and what it says."""
    found = re.findall(r"^(?!print\()([^\s#].*?)  # (?:.*?(?=tensor\())?(.*)$", block, re.MULTILINE)
    return [
        (line, words) for line, words in found if is_code(line) and (words.startswith("tensor(") or is_value(words))
    ]


def is_code(line: str) -> bool:
    try:
        ast.parse(line, mode="eval")
    except SyntaxError:
        return False
    return True


def is_value(words: str) -> bool:
    try:
        ast.literal_eval(words)
    except (SyntaxError, ValueError):
        return False
    return True


def is_kept(value: Any, words: str) -> bool:
    if words.startswith("tensor("):
        return repr(value).replace(" ", "") == words.replace(" ", "")
    promised = ast.literal_eval(words)
    if isinstance(value, torch.Tensor) and value.dim():
        return promised in (list(value.shape), value.squeeze().tolist())
    return bool(promised == (list(value) if isinstance(value, torch.Size) else value))


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict[str, Any]:
    """What a page may take as there; it runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    backbone = nn.Conv2d(3, 8, 16, stride=16)
    return {
        "roialign": roialign,
        "model": backbone,
        "images": torch.rand(1, 3, 320, 320),
        "backbone": backbone,
        "image": torch.rand(1, 3, 400, 400),
        "features": torch.rand(1, 8, 50, 84),
        "pixels": torch.rand(1, 3, 800, 1088),
        "boxes": torch.tensor([[100.0, 120.0, 300.0, 250.0]]),
    }


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
        ("index.md", 3, ("torchvision",)),
        ("doctor.md", 5, ()),
        ("notebooks.md", 5, ()),
        ("pytest.md", 1, ()),
        ("../README.md", 5, ("timm", "torchvision")),
    ],
)
@pytest.mark.filterwarnings("ignore::roialign.RoIWarning")
def test_the_code_of_the_page_runs(page, blocks, needs, given, capsys):
    given |= {package: pytest.importorskip(package) for package in needs}
    names = given
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(found) == blocks
    torch.manual_seed(0)
    for block, shown in found:
        names = dict(given) if page == "../README.md" else names  # its programs stand alone
        exec(compile(block, page, "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = shown.splitlines() or re.findall(r"print\(.*\)  # (.*)", block)
        if shown or promised:
            assert len(printed) == len(promised)
            assert all(map(matches, printed, promised)), printed
        for line, words in promises(block):
            assert is_kept(eval(line, names), words), line


def test_a_newcomers_program_has_eight_lines_and_runs(capsys):
    pytest.importorskip("timm")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (program,) = (block for block in blocks if "RegionExtractor(" in block and "import roialign" in block)
    assert len(program.splitlines()) <= 8
    exec(compile(program, "README.md", "exec"), {})
    assert [capsys.readouterr().out.strip()] == re.findall(r"print\(.*\)  # (.*)", program)


def test_every_page_is_in_the_navigation():
    """Which the builder does not check."""

    def pages(of: Any) -> list[str]:
        if isinstance(of, str):
            return [of]
        return [page for one in (of if isinstance(of, list) else of.values()) for page in pages(one)]

    named = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(named) == sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_pictures_are_there(page):
    found = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    assert [name for name in found if not (page.parent / name).is_file()] == []
