"""`pytest --roialign`, run on a small project as its users run it: in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import roialign_pytest

MODEL = """
import roialign
import torch
from torchvision.ops import roi_align

torch.set_num_threads(1)
FEATURES = torch.rand(1, 8, 64, 64)
PIXELS = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]

def sound():
    roi_align(FEATURES, PIXELS, 7, 1 / 16)

def faulty():
    roi_align(FEATURES, PIXELS, 7)  # line 14 of model.py

def faulty_own():
    roialign.roi_align(FEATURES, PIXELS, 7)

def doubtful():
    roi_align(torch.zeros(1, 8, 64, 64), PIXELS, 7, 1 / 16)
"""
TESTS = """
import unittest

import model
import pytest
import roialign

def test_sound():
    model.sound()

def test_faulty():
    model.faulty()

def test_doubtful():
    model.doubtful()

@pytest.mark.parametrize("times", [0, 1, 2])
def test_times(times):
    for _ in range(times):
        model.faulty()

def test_own_failure():
    model.faulty()
    assert 1 == 2

def test_raises():
    roialign.roi_align(model.FEATURES, model.PIXELS, 7, 0.0)

@pytest.mark.xfail(strict=True)
def test_expected():
    model.faulty()

@pytest.fixture
def before():
    model.faulty()

@pytest.fixture
def after():
    yield
    model.faulty()

@pytest.fixture
def skips():
    model.faulty()
    pytest.skip("no")

def test_before(before):
    model.sound()

def test_after(after):
    model.faulty()

def test_skips(skips):
    pass

def test_skips_itself():
    model.faulty()
    pytest.skip("no")

def test_policy():
    roialign.set_policy("ignore")
    model.faulty_own()

def test_policy_stays():
    assert roialign.get_policy() == "ignore"

def test_own_watch():
    with roialign.watch() as report:
        model.faulty()
        model.faulty_own()
    assert len(report.calls) == 2

def test_own_watch_and_more():
    with roialign.watch() as report:
        model.faulty()
    model.faulty_own()
    assert len(report.calls) == 1

class TestUnit(unittest.TestCase):
    def setUp(self):
        model.faulty()

    def test_own_failure(self):
        self.assertEqual(1, 2)

    def test_body(self):
        pass

@pytest.fixture(scope="module")
def watched():
    with roialign.watch() as report:
        yield report

class TestOfOneWatch:
    @pytest.mark.parametrize("calls", [2, 4])
    def test_watched(self, watched, calls):
        model.faulty()
        model.faulty_own()
        assert len(watched.calls) == calls
"""
AFTERWARDS = """
import model
import pytest
from roialign.ops import calls

def test_after_a_watch_of_a_module():
    assert len(calls.observers) == 1
    model.faulty()
    model.faulty_own()

@pytest.mark.roi_ok("RA101", reason="on purpose")
def test_allowed():
    model.faulty()
    model.faulty_own()

@pytest.mark.roi_ok("RA3")
def test_other_code_allowed():
    model.faulty()

@pytest.mark.roi_ok
class TestAllAllowed:
    def test_all_allowed(self):
        model.faulty()
        model.doubtful()

@pytest.mark.roi_ok("RA11O")
def test_mistyped():
    pass

@pytest.mark.roi_ok(code="RA101")
def test_misnamed():
    pass
"""
LIGHT = """
import sys
import pytest

@pytest.mark.roi_ok("RA101")
def test_nothing_is_imported():
    assert "roialign_pytest" in sys.modules
    assert not {name.partition(".")[0] for name in sys.modules} & {"roialign", "torch", "rich"}
"""


class Run:
    """What a run of pytest printed."""

    def __init__(self, project: Path, *arguments: str) -> None:
        environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200", "PYTEST_ADDOPTS": ""}
        command = [sys.executable, "-m", "pytest", "-p", "roialign_pytest", "-rA", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        self.status, self.text = done.returncode, done.stdout
        found = re.findall(r"^(PASSED|FAILED|ERROR|XFAIL|SKIPPED) \S+?\.py::(\S+)", self.text, re.MULTILINE)
        self.outcomes = {(outcome, test) for outcome, test in found}
        assert found, done.stdout + done.stderr

    def of(self, test: str) -> set[str]:
        """The outcomes of a test: more than one where a teardown failed."""
        return {outcome for outcome, name in self.outcomes if name == test}

    def section(self, title: str) -> str:
        """What is printed below a heading, up to the next of its kind."""
        (section,) = re.findall(rf"^([_=])\1* {re.escape(title)} \1+\n(.*?)(?=^[_=]{{3}})", self.text, re.M | re.S)
        return str(section[1])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project")
    (path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    for name, text in {"model": MODEL, "test_a": TESTS, "test_b": AFTERWARDS, "test_light": LIGHT}.items():
        (path / f"{name}.py").write_text(text)
    return path


@pytest.fixture(scope="module")
def run(project: Path) -> Run:
    return Run(project, "--roialign", "test_a.py", "test_b.py")


@pytest.mark.parametrize(
    ("test", "outcome"),
    [
        ("test_sound", "PASSED"),
        ("test_faulty", "FAILED"),
        ("test_doubtful", "PASSED"),
        ("test_times[0]", "PASSED"),
        ("test_times[1]", "FAILED"),
        ("test_times[2]", "FAILED"),
        ("test_own_failure", "FAILED"),
        ("test_expected", "XFAIL"),
        ("test_before", "FAILED"),
        ("test_after", "FAILED ERROR"),
        ("test_skips", "ERROR"),
        ("test_skips_itself", "ERROR"),
        ("test_policy", "FAILED"),
        ("test_policy_stays", "PASSED"),
        ("test_own_watch", "PASSED"),
        ("test_own_watch_and_more", "FAILED"),
        ("TestOfOneWatch::test_watched[2]", "PASSED"),
        ("TestOfOneWatch::test_watched[4]", "PASSED"),
        ("TestUnit::test_own_failure", "FAILED"),
        ("TestUnit::test_body", "FAILED"),
        ("test_after_a_watch_of_a_module", "FAILED"),
        ("test_allowed", "PASSED"),
        ("test_other_code_allowed", "FAILED"),
        ("TestAllAllowed::test_all_allowed", "PASSED"),
        ("test_mistyped", "ERROR"),
        ("test_misnamed", "ERROR"),
    ],
)
def test_tests_that_make_faulty_calls_fail(run: Run, test: str, outcome: str) -> None:
    assert run.of(test) == set(outcome.split())
    assert run.status == 1


def test_the_failure_says_what_is_wrong_and_what_to_type(run: Run) -> None:
    shown = run.section("test_faulty")
    for words in (
        "RA101 at model.py:14: boxes in image pixels, spatial_scale left at 1",
        "the map has only 64 columns",
        "roi_align(features, boxes, output_size=7, spatial_scale=0.0625)",
        'If this is meant: @pytest.mark.roi_ok("RA101")',
    ):
        assert words in " ".join(shown.split())
    assert "Traceback" not in shown
    assert "roialign_pytest" not in shown
    assert "pytest_plugin" not in shown


@pytest.mark.parametrize(
    ("test", "own"),
    [
        ("test_own_failure", "assert 1 == 2"),
        ("TestUnit.test_own_failure", "AssertionError: 1 != 2"),
        ("test_raises", "roialign.errors.ScaleError: RA105: expected"),
    ],
)
def test_a_failure_of_the_test_itself_stays(run: Run, test: str, own: str) -> None:
    shown = run.section(test)
    failure, findings = re.split(r"^-+ RoI calls -+$", shown, flags=re.MULTILINE)
    assert own in failure
    assert "roi_align(features, boxes, output_size=7, spatial_scale=0.0625)" in findings
    assert f"FAILED test_a.py::{test.replace('.', '::')} - {own.split()[0]}" in run.text


def test_what_fixtures_called_is_counted_once(run: Run) -> None:
    assert "1 of 2 calls examined" in run.section("test_before")
    shown = run.section("ERROR at teardown of test_after")
    assert "1 RoI call examined: 1 error." in shown
    assert "features [1, 8, 64, 64]" in shown


def test_calls_of_the_tests_own_watch_are_left_to_it(run: Run) -> None:
    shown = run.section("test_own_watch_and_more")
    assert "1 RoI call examined: 1 error." in shown
    assert "model.py:17" in shown
    assert "2 RoI calls examined: 2 errors." in run.section("test_after_a_watch_of_a_module")


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("test_mistyped", "got 'RA11O'. Did you mean 'RA110' or "),
        ("test_misnamed", "roi_ok: expected codes and reason=; got code="),
    ],
)
def test_mistakes_in_the_marker_are_told_once(run: Run, test: str, words: str) -> None:
    assert words in run.section(f"ERROR at setup of {test}")
    assert run.text.count(f"ERROR at setup of {test}") == 1
    assert f"teardown of {test}" not in run.text


def test_the_summary_counts_by_code(run: Run) -> None:
    lines = run.section("RoI calls").splitlines()
    assert lines[0] == "26 RoI calls examined, of 20 tests: see below."
    assert lines[1:] == [
        "RA101 error, 18 calls of 15 tests: boxes in image pixels, spatial_scale left at 1",
        "    model.py:14, 15 calls",
        "    model.py:17, 3 calls",
        "RA105 error, 1 call of 1 test: spatial_scale is zero, negative or not finite",
        "    test_a.py:27, 1 call",
        "RA301 warning, 1 call of 1 test: the feature map itself is zero there",
        "    model.py:20, 1 call",
        "Allowed by roi_ok: RA101 in 3 calls, RA301 in 1 call",
        "Left to the tests' own roialign.watch: 7 calls",
        "More about a code: roialign explain CODE",
    ]


def test_strict_fails_on_warnings_too(project: Path) -> None:
    run = Run(project, "--roialign-strict", "test_a.py", "-k", "test_sound or test_doubtful")
    assert run.outcomes == {("PASSED", "test_sound"), ("FAILED", "test_doubtful")}
    assert "RA301 at model.py:20" in run.section("test_doubtful")


def test_without_the_option_nothing_is_imported(project: Path) -> None:
    run = Run(project, "test_light.py")
    assert (run.status, run.outcomes) == (0, {("PASSED", "test_nothing_is_imported")})
    assert "RoI calls" not in run.text
    assert Path(roialign_pytest.__file__).name == "roialign_pytest.py"


@pytest.mark.skipif(importlib.util.find_spec("xdist") is None, reason="needs pytest-xdist")
def test_what_workers_saw_is_counted(project: Path) -> None:
    run = Run(project, "--roialign", "test_b.py", "-p", "xdist.plugin", "-p", "xdist.looponfail", "-n", "1")
    assert run.of("test_allowed") == {"PASSED"}
    assert run.of("test_other_code_allowed") == {"FAILED"}
    assert "RA101 at model.py:14" in run.section("test_other_code_allowed")
    assert "RA101 error, 3 calls of 2 tests" in run.section("RoI calls")
