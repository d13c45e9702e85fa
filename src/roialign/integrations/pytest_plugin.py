"""What `pytest --roialign` does: it examines the RoI calls of each test and fails the tests that make faulty ones.

The module `roialign_pytest` brings the options and the marker, and loads this one where it is asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest

from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.findings import Diagnosis, Report
from roialign.doctor.report.terminal import as_text
from roialign.doctor.report.words import counted
from roialign.doctor.selection import Selection, begins_a_code, near_codes
from roialign.doctor.watch import CallSites, Examiner, lookers, post_mortem, watching
from roialign.doctor.watch.log import CallLog

_Phase = Generator[None, Any, Any]
_SITES_SHOWN = 10


class SuiteWatch:
    """Hooks that watch the RoI calls of each test, its fixtures' included, and judge them.

    Setup and test are judged together at the end of the test; what a skipped test called, at its teardown.

    Args:
        strict: whether warnings fail a test, as errors do.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._seen = _TestCalls()
        self._verdict: _Verdict | None = None
        self._tally = _Tally()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self) -> _Phase:
        self._seen.open()
        try:
            return (yield)
        finally:
            self._seen.close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> _Phase:
        check_markers(item)
        try:
            return (yield)
        except pytest.skip.Exception:
            raise
        except BaseException as error:
            self._judge(item, error)
            raise

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> _Phase:
        return (yield from self._judged(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> _Phase:
        self._seen.close()  # a watch keeps the features of a problem once, and what follows is judged apart
        self._seen.open()
        return (yield from self._judged(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        verdict, self._verdict = self._verdict, None
        if verdict is not None:
            report.roialign = verdict.to_dict()  # type: ignore[attr-defined]  # goes from xdist's workers, too
            raised = call.excinfo.value if call.excinfo else None
            if report.failed and verdict.text and (raised is None or raised is not verdict.failure):
                _add(report, verdict.text)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tally.add(report.nodeid, getattr(report, "roialign", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("RoI calls")
        for line in self._tally.lines():
            terminalreporter.line(line)

    def _judged(self, item: pytest.Item) -> _Phase:
        """A phase of a test, which fails at its end if faulty calls were made."""
        try:
            result = yield
        except pytest.skip.Exception:
            raise
        except BaseException as error:
            self._judge(item, error)
            raise
        verdict = self._judge(item)
        if any(finding.severity == "error" or self._strict for finding in verdict.report.findings):
            verdict.fail()
        return result

    def _judge(self, item: pytest.Item, error: BaseException | None = None) -> _Verdict:
        examined, left = self._seen.taken()
        raised_in = post_mortem(error, self._seen.sites)
        if raised_in is not None:
            examined.append(raised_in)
        self._verdict = _Verdict.of(examined, allowed_codes(item), left)
        return self._verdict


def check_markers(item: pytest.Item) -> None:
    """Fail where a `roi_ok` marker of a test, its class or its module names what no code begins with."""
    for marker in item.iter_markers("roi_ok"):
        unknown = [beginning for beginning in marker.args if not _is_known(beginning)]
        if unknown:
            near = near_codes(str(unknown[0]))
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            pytest.fail(
                'roi_ok: expected codes of roialign or prefixes, as in roi_ok("RA301", "RA1"); got '
                f"{unknown[0]!r}.{hint}",
                pytrace=False,
            )
        if not marker.kwargs.keys() <= {"reason"}:
            pytest.fail(f"roi_ok: expected codes and reason=; got {', '.join(marker.kwargs)}=", pytrace=False)


def allowed_codes(item: pytest.Item) -> tuple[str, ...]:
    """The beginnings of the codes that the `roi_ok` markers of a test, its class and its module allow."""
    markers = [marker.args or ("RA",) for marker in item.iter_markers("roi_ok") if marker.kwargs.keys() <= {"reason"}]
    return tuple(beginning for named in markers for beginning in named if _is_known(beginning))


def _is_known(beginning: object) -> bool:
    return isinstance(beginning, str) and begins_a_code(beginning)


@dataclass
class _Verdict:
    """What the calls of a test were found to be, without what the test allows."""

    report: Report
    allowed: Counter[str]
    left: int
    """How many calls a watch of the test itself saw."""
    failure: BaseException | None = None

    @classmethod
    def of(cls, examined: Sequence[Diagnosis], allowed: tuple[str, ...], left: int) -> _Verdict:
        counts = Selection(ignore=allowed)
        passed: Counter[str] = Counter()
        for call in examined:
            for finding in call.findings:
                passed[finding.code] += 0 if counts.has(finding.code) else call.times
        return cls(counts.of_report(Report(examined)), +passed, left)

    @property
    def text(self) -> str:
        """What is shown with the failure; empty where nothing was found."""
        problems = self.report.problems
        if not problems:
            return ""
        first = problems[0].finding
        others = f", and {counted(len(problems) - 1, 'other problem')}" if len(problems) > 1 else ""
        codes = ", ".join(f'"{code}"' for code in dict.fromkeys(problem.finding.code for problem in problems))
        return (
            f"{first.code} at {first.call_site}: {first.title}{others}\n\n{as_text(self.report)}\n\n"
            f"If this is meant: @pytest.mark.roi_ok({codes})"
        )

    def fail(self) -> NoReturn:
        self.failure = pytest.fail.Exception(self.text, pytrace=False)
        raise self.failure

    def to_dict(self) -> dict[str, Any]:
        problems = [
            (problem.finding.code, problem.finding.severity, problem.finding.call_site, problem.count)
            for problem in self.report.problems
        ]
        return {"calls": self.report.examined, "left": self.left, "problems": problems, "allowed": dict(self.allowed)}


def _add(report: pytest.TestReport, text: str) -> None:
    """Show `text` below the test's own failure, whatever --show-capture says."""
    add_section = getattr(report.longrepr, "addsection", None)
    if add_section is not None:
        add_section("RoI calls", text)
    else:
        report.sections.append(("RoI calls", text))


@dataclass
class _Tally:
    """What all tests came to, for the summary."""

    examined: int = 0
    left: int = 0
    tests: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    allowed: Counter[str] = field(default_factory=Counter)
    errors: set[str] = field(default_factory=set)
    tests_of: dict[str, set[str]] = field(default_factory=dict)
    sites_of: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, test: str, told: dict[str, Any]) -> None:
        if not told:
            return
        self.left += told["left"]
        if told["calls"]:
            self.tests.add(test)
        self.examined += told["calls"]
        self.allowed.update(told["allowed"])
        for code, severity, site, count in told["problems"]:
            self.errors |= {code} if severity == "error" else set()
            self.counts[code] += count
            self.tests_of.setdefault(code, set()).add(test)
            self.sites_of.setdefault(code, Counter())[str(site)] += count

    def lines(self) -> list[str]:
        """The summary, errors first."""
        if not self.examined and not self.left:
            return ["0 RoI calls examined: no test made one that can be seen."]
        made = f"{counted(self.examined, 'RoI call')} examined, of {counted(len(self.tests), 'test')}"
        lines = [f"{made}: {'see below' if self.counts or self.allowed or self.left else 'nothing wrong'}."]
        for code in sorted(self.counts, key=lambda code: (code not in self.errors, code)):
            where = f"{counted(self.counts[code], 'call')} of {counted(len(self.tests_of[code]), 'test')}"
            lines.append(f"{code} {'error' if code in self.errors else 'warning'}, {where}: {CATALOGUE[code].title}")
            sites = self.sites_of[code].most_common()
            lines += [f"    {site}, {counted(count, 'call')}" for site, count in sites[:_SITES_SHOWN]]
            if len(sites) > _SITES_SHOWN:
                lines.append(f"    and {counted(len(sites) - _SITES_SHOWN, 'other line')}")
        if self.allowed:
            named = ", ".join(f"{code} in {counted(count, 'call')}" for code, count in sorted(self.allowed.items()))
            lines.append(f"Allowed by roi_ok: {named}")
        if self.left:
            lines.append(f"Left to the tests' own roialign.watch: {counted(self.left, 'call')}")
        if self.counts:
            lines.append("More about a code: roialign explain CODE")
        return lines


class _TestCalls:
    """The RoI calls of one test after another, without those that a test watched itself."""

    def __init__(self) -> None:
        self.sites = CallSites()
        self._watch = ExitStack()
        self._examiner: Examiner | None = None
        self._kept = CallLog()
        self._left = 0

    def open(self) -> None:
        """Begin with a test."""
        if self._examiner is None:
            self._examiner = self._watch.enter_context(watching(self._take, sites=self.sites))

    def close(self) -> None:
        """End with a test."""
        self._watch.close()
        self._examiner = None

    def taken(self) -> tuple[list[Diagnosis], int]:
        """The calls since the last time, and the number of those that a watch of the test saw."""
        if self._examiner is not None:
            self._examiner.catch_up()
        taken = self._kept.all(), self._left
        self._kept, self._left = CallLog(), 0
        return taken

    def _take(self, diagnosis: Diagnosis) -> None:
        """Keep a call, unless a watch of the test saw it too, which is then to judge it."""
        if lookers() > 1:
            self._left += 1
        else:
            self._kept.add(diagnosis)
