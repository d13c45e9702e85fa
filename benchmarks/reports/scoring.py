"""What the doctor says of a report's program, and whether its fix gives what the right call gives."""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
import textwrap
import warnings
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from types import FrameType
from typing import Any

import torch
import torchvision
from torch import Tensor

import roialign
from roialign.doctor.findings import Finding, Fix, Report

from .program import Program, Reported

ALONE, WITH_MODEL = WAYS = ("watch()", "watch(model)")
_EQUAL = 2e-3  # of the largest value: more is another region, not rounding


@dataclass
class Verdict:
    """What was said of a program in one way of watching it."""

    outcome: str
    """Of a fault "named", "wrong" or "silent"; of another program "clean", "warned" or "false error"."""
    codes: list[str] = field(default_factory=list)
    """In the order of the report."""
    fix: str = ""
    """Of a named fault: "right" or "wrong" by the output of its fix, "none", or "" where outputs cannot tell."""
    raised: str = ""
    """The error that ended the program, by its type."""
    text: str = ""
    """The report as the terminal shows it, at most 80 columns wide."""

    @property
    def first(self) -> str:
        return self.codes[0] if self.codes else "nothing"


def judge(reported: Reported, program: Program, way: str, right: bool = False) -> Verdict:
    """Run the program under the doctor and hold what is said first against the label.

    With `right` it does what would have been right, and is judged as a healthy program.
    """
    report, raised = _watched(program, way, right)
    findings = list(report.findings)
    verdict = Verdict("", [finding.code for finding in findings], raised=raised, text=str(report))
    if right or reported.kind != "fault":
        error = any(finding.severity == "error" for finding in findings)
        verdict.outcome = "false error" if error else "warned" if findings else "clean"
    elif not findings:
        verdict.outcome = "silent"
    elif is_named(reported, findings[0]):
        verdict.outcome = "named"
        verdict.fix = judge_fix(program, findings[0].fix)
    else:
        verdict.outcome = "wrong"
    return verdict


def is_named(reported: Reported, first: Finding) -> bool:
    """Whether the first finding has a code and words of the label."""
    said = (first.title, first.evidence, first.fix.code if first.fix else "", first.decide or "")
    right_code = any(re.match(code, first.code) for code in reported.codes)
    return right_code and re.search(reported.says, " ".join(said)) is not None


def run(program: Program, right: bool = False) -> Tensor:
    """Run the program as any other, without roialign."""
    _begin(program)
    return program.run(right)


def _begin(program: Program) -> None:
    torch.manual_seed(0)
    torch.set_grad_enabled(program.gradients)
    if program.pooler is not None:
        program.pooler.scales = program.pooler.map_levels = None


def _watched(program: Program, way: str, right: bool) -> tuple[Report, str]:
    """The report, and the type of the error that passed through the watch, if one did."""
    _begin(program)
    raised, quiet = "", StringIO()
    with redirect_stdout(quiet), redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with roialign.watch(program.model if way == WITH_MODEL else None) as report:
                program.run(right)
        except Exception as error:  # of whatever library: the program ends here
            raised = type(error).__name__
    return report, raised


def judge_fix(program: Program, fix: Fix | None) -> str:
    """Whether the line, or else the call that was proven, gives what is right: see `Verdict.fix`."""
    if not program.comparable:
        return ""
    if fix is None:
        return "none"
    with roialign.set_policy("ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right = run(program, right=True)
        repaired = _pasted(program, fix.code)
        if repaired is None:
            repaired = fix.call.run()[0]
    return "right" if _is_right(repaired, right) else "wrong"


def _pasted(program: Program, code: str) -> Tensor | None:
    """What the program gives with the line pasted before its call, or in its place; None where that raises."""
    names = {**vars(torchvision.ops), "roialign": roialign, **_names(program)}
    call = _last_call(program)
    _begin(program)
    try:
        with roialign.watch():
            try:
                pooled = eval(code, names)
            except SyntaxError:
                exec(code, names)
                pooled = eval(call, names)
            pooled = getattr(pooled, "features", pooled)
    except Exception:  # the line wants names that the program does not have
        return None
    return pooled if isinstance(pooled, Tensor) else None


def _names(program: Program) -> dict[str, Any]:
    """What the program's names stood for when it made its call, or raised."""
    code = program.run.__code__
    names: dict[str, Any] = {}

    def inside(frame: FrameType, event: str, _: Any) -> Any:
        if event in ("return", "exception"):
            names.update(frame.f_locals)
        return inside

    def entering(frame: FrameType, event: str, _: Any) -> Any:
        return inside if frame.f_code is code else None

    _begin(program)
    before = sys.gettrace()
    sys.settrace(entering)
    with suppress(Exception), roialign.watch():  # which raises where the peer would read out of bounds
        program.run()
    sys.settrace(before)
    return {**program.run.__globals__, **names}


def _last_call(program: Program) -> str:
    """The expression that the program returns."""
    function = ast.parse(textwrap.dedent(inspect.getsource(program.run))).body[0]
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    last = max(returns, key=lambda node: node.lineno)
    return ast.unparse(last.value)


def _is_right(repaired: Tensor, right: Tensor) -> bool:
    if repaired.shape != right.shape:
        return False
    counts = ~right.isnan()
    difference = (repaired.float() - right.float())[counts].abs()
    return not counts.any() or float(difference.nan_to_num(math.inf).max()) <= _EQUAL * float(right[counts].abs().max())
