"""Every cell of docs/abilities.md is what the operators answer; none of this library's is wrong or without reason."""

from __future__ import annotations

import re

import pytest

from tests.abilities.outcomes import NOT_APPLICABLE, YES, outcome
from tests.abilities.page import PAGE, SECTIONS, written
from tests.abilities.subjects import SUBJECTS, TORCHVISION

QUESTIONS = {name: question for questions in SECTIONS.values() for name, question in questions.items()}
OF_NAME = {subject.name: subject for subject in SUBJECTS}
CELLS = list(written())


TESTED_ELSEWHERE = ("torch.compile", "torch.export", "ONNX", "ONNX, dynamo=False")
"""Questions that take long, and that tests of their own ask in `make test`."""


def _is_rare(subject: str, question: str) -> bool:
    return subject.startswith(TORCHVISION) or question in TESTED_ELSEWHERE


@pytest.mark.parametrize(
    ("subject", "question", "answer"),
    [pytest.param(*cell, marks=[pytest.mark.rare] if _is_rare(*cell[:2]) else []) for cell in CELLS],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_page_says_what_the_operator_does(subject: str, question: str, answer: str) -> None:
    assert outcome(QUESTIONS[question], OF_NAME[subject]) == answer


def test_the_page_has_every_operator_and_every_question() -> None:
    assert {(subject, question) for subject, question, _ in CELLS} == {
        (subject, question) for subject in OF_NAME for question in QUESTIONS
    }, f"{PAGE.name} is out of date: python -m tests.abilities.page"


@pytest.mark.parametrize("subject", [one.name for one in SUBJECTS if one.is_ours])
def test_nothing_is_wrong_or_refused_without_a_reason(subject: str) -> None:
    answers = {(question, answer) for name, question, answer in CELLS if name == subject}
    bad = {one for one in answers if one[1] not in (YES, NOT_APPLICABLE) and not re.fullmatch(r"RA\d{3}", one[1])}
    assert not bad
