"""docs/abilities.md: the answers to all questions, `python -m tests.abilities.page` makes it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.abilities import derivatives, graphs, kinds
from tests.abilities.outcomes import outcome
from tests.abilities.subjects import SUBJECTS, Subject

PAGE = Path(__file__).parent.parent.parent / "docs/abilities.md"
Question = Callable[[Subject], Any]
SECTIONS: dict[str, dict[str, Question]] = {
    "Derivatives": derivatives.QUESTIONS,
    "Compilers and exporters": graphs.QUESTIONS,
    "Types, layouts and modes": kinds.QUESTIONS,
}
INTRODUCTION = """\
---
hide:
  - navigation
  - toc
---

# What each operator can do

<!-- Made by python -m tests.abilities.page, which asks the operators; the tests ask again. -->

*yes*: it works, and the result was compared; *RA507* and the like: refused, with that [code](codes.md) and the reason;
*no*: an error without a reason; *wrong*: it runs, and the result is wrong; -: the question does not apply.
torchvision's operators of the same name are listed for comparison. On the CPU.
"""
_NOTES = {
    "Derivatives": (
        "*forward mode* is for the features; *wrong* there means a tangent of zeros, under *to boxes* that there is "
        "silently no gradient."
    ),
    "Compilers and exporters": (
        "*torch.compile*: in one graph, compiled at most twice for any number of boxes and any size of map. "
        "*torch.export*: with a dynamic number of boxes and dynamic sizes, saved and loaded. *ONNX*: equal in "
        "onnxruntime, with the exporter based on `torch.export` and with the older one."
    ),
    "Types, layouts and modes": (
        "*deterministic*: the same bits again under `torch.use_deterministic_algorithms(True)`. *bad batch index*: out "
        "of range."
    ),
}


def make() -> str:
    return "\n".join([INTRODUCTION, *(_section(title, questions) for title, questions in SECTIONS.items())])


def _section(title: str, questions: dict[str, Question]) -> str:
    rows = []
    for subject in SUBJECTS:
        answers = [outcome(question, subject) for question in questions.values()]
        rows.append(f"| {subject.name} | {' | '.join(answers)} |")
        print(f"{title}: {subject.name}", file=sys.stderr)
    header = f"| | {' | '.join(questions)} |\n|---|{'---|' * len(questions)}"
    return "\n".join([f"## {title}\n\n{_NOTES[title]}\n\n{header}", *rows, ""])


def written() -> Iterator[tuple[str, str, str]]:
    """Subject, question and answer of every cell of the page."""
    questions: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [one.strip() for one in line.strip().strip("|").split("|")]
        if line.startswith("| |"):
            questions = cells[1:]
        elif line.startswith("| "):
            yield from ((cells[0], *pair) for pair in zip(questions, cells[1:], strict=True))


if __name__ == "__main__":
    PAGE.write_text(make(), encoding="utf-8")
