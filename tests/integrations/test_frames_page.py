"""The page about frames: its code runs, and prints what its comments say."""

import re
from pathlib import Path

import pytest

import roialign

PAGE = Path(__file__).parents[2] / "docs" / "frames.md"


def test_the_code_of_the_page_runs(capsys):
    pytest.importorskip("transformers", minversion="5", reason="needs transformers 5 or newer")
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    names = {"roialign": roialign}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
        printed = capsys.readouterr().out.splitlines()
        promised = re.findall(r"print\(.*\)  # (.*)", block)
        assert len(printed) == len(promised)
        for line, words in zip(printed, promised, strict=True):
            assert re.fullmatch(".*".join(map(re.escape, words.split("..."))) + ".*", line)
        for expression, value in re.findall(r"^(\S.*)  # .*?(tensor\(.*\))$", block, re.MULTILINE):
            assert repr(eval(expression, names)).replace(" ", "") == value.replace(" ", "")
