"""What the doctor finds: plain values that the terminal, the page and JSON are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, Literal, NamedTuple

from torch import Tensor

from roialign.doctor.catalogue import CATALOGUE
from roialign.ops.calls import RoICall

Severity = Literal["error", "warning"]


class Presentation(NamedTuple):
    """How reports are shown."""

    as_text: Callable[[Report], str]
    as_html: Callable[[Report], str]
    save: Callable[[Report, str | PathLike[str]], None]


presentation: Presentation | None = None
"""`roialign.doctor` puts its own here."""


@dataclass(frozen=True)
class Fix:
    """A change of one argument, with the operator run again with it."""

    argument: str
    """The argument to change: "spatial_scale", "boxes", ..."""
    value: Any
    """Its right value where that is one number, otherwise None."""
    code: str
    """A line to paste."""
    coverage_before: float
    """Mean share of the samples that lie on the map, as called."""
    coverage_after: float
    """The same with the fix made."""
    call: RoICall = field(repr=False, compare=False)
    """The call with the fix made."""
    checked: str = ""
    """What came out when both calls were run, against what the finding says should; empty without features."""

    def without_features(self) -> Fix:
        return replace(self, call=self.call.without_features())

    def to_dict(self) -> dict[str, Any]:
        return {
            "argument": self.argument,
            "value": self.value,
            "code": self.code,
            "coverage_before": self.coverage_before,
            "coverage_after": self.coverage_after,
            "checked": self.checked,
        }


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a call: what, how it is known, which RoIs, what to type."""

    code: str
    """The RA code, which `roialign explain` describes."""
    evidence: str
    """How it is known, in numbers."""
    rois: tuple[int, ...] = ()
    """The rows of the RoIs concerned."""
    fix: Fix | None = None
    """The change that repairs it, where there is one."""
    alternatives: tuple[Fix, ...] = ()
    """Other changes that the evidence does not rule out, the likeliest first."""
    decide: str | None = None
    """What to pass or to look at where the evidence does not decide between them."""
    call_site: str | None = None
    """Where the call was made, as "file.py:12", where that is known."""
    odds: float | None = None
    """How many times as likely as all other explanations together it is, "nothing is wrong" among them; None for what
    was seen and need not be weighed."""
    doubtful: bool = False
    """Whether it is likely and not sure: a warning, whatever the code."""

    @property
    def title(self) -> str:
        return CATALOGUE[self.code].title

    @property
    def severity(self) -> Severity:
        return "warning" if self.doubtful else CATALOGUE[self.code].severity

    @property
    def fixes(self) -> tuple[Fix, ...]:
        """The fix, if there is one, and its alternatives."""
        return (self.fix, *self.alternatives) if self.fix else self.alternatives

    def without_features(self) -> Finding:
        alternatives = tuple(fix.without_features() for fix in self.alternatives)
        return replace(self, fix=self.fix.without_features() if self.fix else None, alternatives=alternatives)

    def to_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "severity": self.severity,
            "evidence": self.evidence,
            "rois": list(self.rois),
            "fix": self.fix.to_dict() if self.fix else None,
            "alternatives": [fix.to_dict() for fix in self.alternatives],
            "decide": self.decide,
            "call_site": self.call_site,
            "odds": self.odds,
        }


@dataclass(frozen=True)
class Diagnosis:
    """What `roialign.diagnose` says of one call."""

    findings: tuple[Finding, ...]
    """What is wrong, the likeliest cause first; empty where nothing is."""
    coverage: Tensor | None
    """Share [K] of each RoI's samples that lie on the map; None where the call cannot be made at all."""
    call: RoICall | None = field(default=None, repr=False)
    """The call that was looked at; None where its arguments do not make one."""
    image: Tensor | None = field(default=None, repr=False)
    """The image [3, H, W] that the features were made of, where it was seen; for pictures only."""
    call_site: str | None = None
    """Where the call was made, as "file.py:12", where that is known."""
    times: int = 1
    """How many calls it stands for: of calls that a line makes over and over, the later ones are only counted. 0 where
    it says more of a call that was counted already."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def at(self, call_site: str, image: Tensor | None = None) -> Diagnosis:
        """The same diagnosis with the place of the call and the image it was about."""
        findings = tuple(replace(finding, call_site=call_site) for finding in self.findings)
        return replace(self, findings=findings, call_site=call_site, image=image)

    def without_features(self, keep_image: bool = False) -> Diagnosis:
        """The same diagnosis without the memory of the feature map, for pictures of which there is no need."""
        findings = tuple(finding.without_features() for finding in self.findings)
        call = self.call.without_features() if self.call else None
        return replace(self, findings=findings, call=call, image=self.image if keep_image else None)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as values that JSON can hold."""
        return {
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "coverage": None if self.coverage is None else self.coverage.tolist(),
        }

    def __str__(self) -> str:
        return str(Report((self,)))

    def _repr_html_(self) -> str | None:
        return Report((self,))._repr_html_()

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a self-contained page with pictures to `path`."""
        Report((self,)).save(path)


@dataclass(frozen=True)
class Report:
    """What the doctor found in the RoI calls of a program."""

    calls: Sequence[Diagnosis]
    """The diagnoses of the calls that were examined, in their order; where a line of code made very many with the
    same outcome, the last of them stands for the rest (see `Diagnosis.times`)."""

    @property
    def examined(self) -> int:
        """How many calls were examined."""
        return sum(diagnosis.times for diagnosis in self.calls)

    @property
    def ok(self) -> bool:
        """Whether nothing was found in any call."""
        return all(diagnosis.ok for diagnosis in self.calls)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings of all calls."""
        return tuple(finding for diagnosis in self.calls for finding in diagnosis.findings)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The findings, those of one code at one line of code taken together: errors first, then the commonest."""
        met: dict[tuple[str, str | None], list[tuple[Diagnosis, Finding]]] = {}
        for diagnosis in self.calls:
            for finding in diagnosis.findings:
                met.setdefault((finding.code, finding.call_site), []).append((diagnosis, finding))
        problems = []
        for cases in met.values():
            first = min(cases, key=lambda case: case[1].severity != "error")
            problems.append(Problem(*first, max(1, sum(diagnosis.times for diagnosis, _ in cases))))
        return tuple(sorted(problems, key=lambda problem: (problem.finding.severity != "error", -problem.count)))

    def to_dict(self) -> dict[str, Any]:
        """The report as values that JSON can hold."""
        return {
            "ok": self.ok,
            "calls": self.examined,
            "problems": [problem.finding.to_dict() | {"count": problem.count} for problem in self.problems],
        }

    def __str__(self) -> str:
        return presentation.as_text(self) if presentation else repr(self)

    def _repr_html_(self) -> str | None:
        """The report for a notebook."""
        return presentation.as_html(self) if presentation else None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The report for IPython, where no HTML is shown."""
        printer.text(str(self))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a self-contained page with pictures to `path`."""
        if presentation is None:
            raise RuntimeError("pages are written once roialign.doctor was imported")
        presentation.save(self, path)


@dataclass(frozen=True)
class Problem:
    """One finding as often as it was made at one line of code."""

    diagnosis: Diagnosis
    """The first call that had it, as an error if any had."""
    finding: Finding
    count: int
    """How many calls had it."""
