"""The options of `roialign doctor`, in this process; what needs a child process is in test_cli."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import roialign
from roialign.cli.app import app
from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.selection import Selection

FAULTY = """\
import sys, torch
from torchvision.ops import roi_align
print("from the script", sys.argv[1:])
roi_align(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)
roi_align(torch.rand(1, 3, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]] * 3 + [[9.0] * 4])], 7, 1 / 16)
"""
ERROR_LINE, WARNING_LINE = 4, 5
PRINTED = "from the script []\n"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FAULTY)
    (tmp_path / "healthy.py").write_text(
        FAULTY.replace("], 7)\n", "], 7, 1 / 16)\n").replace("[9.0] * 4", "[1.0, 1, 99, 99]")
    )
    before = set(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in before and name.startswith("made_")]:
        del sys.modules[name]


def doctor(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments: str) -> str:
    result = doctor(*arguments)
    assert result.exit_code == 2
    assert "examined" not in result.stderr
    assert result.stdout == ""
    return str(result.stderr)


def test_json_to_a_file() -> None:
    result = doctor("--json", "out.json", "net.py")
    assert (result.exit_code, result.stdout) == (1, PRINTED)
    held = json.loads(Path("out.json").read_text())
    assert (held["roialign"], held["ok"], held["calls"]) == (roialign.__version__, False, 2)
    problems = [(problem["code"], problem["call_site"], problem["count"]) for problem in held["problems"]]
    assert problems == [("RA101", f"net.py:{ERROR_LINE}", 1), ("RA204", f"net.py:{WARNING_LINE}", 1)]


@pytest.mark.parametrize("typed", [["--json"], ["--json", "-"], ["--json=-"], ["--json=out"], ["--json", "out.json"]])
def test_where_json_goes(typed: list[str]) -> None:
    result = doctor(*typed, "net.py", "--json", "--sarif", "x")
    first, _, rest = result.stdout.partition("\n")
    assert first == "from the script ['--json', '--sarif', 'x']", "what follows the script is the script's"
    files = [path for path in ("out", "out.json") if Path(path).exists()]
    assert json.loads(rest or Path(files[0]).read_text())["calls"] == 2
    assert len(files) == ("out" in typed[-1])
    assert "RA101 error" in result.stderr


@pytest.mark.parametrize("typed", [["--sarif", "out.sarif"], ["--sarif", "out.json"], ["--sarif=out"]])
def test_sarif(typed: list[str]) -> None:
    doctor(*typed, "net.py")
    (path,) = set(os.listdir()) - {"net.py", "healthy.py"}
    (run,) = json.loads(Path(path).read_text())["runs"]
    lines = [r["locations"][0]["physicalLocation"]["region"]["startLine"] for r in run["results"]]
    assert lines == [ERROR_LINE, WARNING_LINE]


def test_all_outputs_of_a_program_that_raises_and_changes_its_folder_and_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "made_kept", None, raising=False)  # the runner's streams, which it closes otherwise
    Path("elsewhere").mkdir()
    Path("net.py").write_text(
        FAULTY + "import io, os\nos.chdir('elsewhere')\nsys.made_kept = sys.stdout, sys.stderr\n"
        "sys.stdout = sys.stderr = io.StringIO()\n1 / 0\n"
    )
    result = doctor("--json", "o.json", "--sarif", "o.sarif", "--report", "o.html", "net.py")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert "runpy" not in result.stderr
    assert "RA101 error" in result.stderr
    assert json.loads(Path("../o.json").read_text())["calls"] == 2
    assert json.loads(Path("../o.sarif").read_text())["runs"][0]["invocations"][0]["exitCode"] == 1
    assert "RA101" in Path("../o.html").read_text()


def test_interrupted() -> None:
    Path("net.py").write_text(FAULTY + "raise KeyboardInterrupt\n")
    result = doctor("--json", "net.py")
    assert result.exit_code == 130
    assert json.loads(result.stdout.removeprefix(PRINTED))["calls"] == 2
    assert "interrupted" in result.stderr


@pytest.mark.parametrize(
    ("options", "codes", "status"),
    [
        ([], ["RA101", "RA204"], 1),
        (["--select", "RA1"], ["RA101"], 1),
        (["--select", "ra2"], ["RA204"], 0),
        (["--ignore", "RA101"], ["RA204"], 0),
        (["--ignore", "RA2, RA3"], ["RA101"], 1),
        (["--select", "RA1,RA204", "--ignore=RA101"], ["RA204"], 0),
        (["--ignore", "RA"], [], 0),
    ],
)
def test_select_and_ignore(options: list[str], codes: list[str], status: int) -> None:
    result = doctor(*options, "--json", "net.py")
    assert result.exit_code == status
    assert [p["code"] for p in json.loads(result.stdout.removeprefix(PRINTED))["problems"]] == codes
    assert [code for code in ("RA101", "RA204") if f"roialign explain {code}" in result.stderr] == codes
    others = [code for code in ("RA101", "RA204") if code not in codes]
    noun = f"{len(others)} problem{'s' if len(others) > 1 else ''}"
    assert (f"Not selected: {noun} of {', '.join(others)}.\n" in result.stderr) == bool(others)


def test_of_two_prefixes_the_longer_decides() -> None:
    def chosen(select: str | None, ignore: str | None) -> set[str]:
        selection = Selection.of(select, ignore)
        return {code for code in CATALOGUE if selection.has(code)}

    family = {code for code in CATALOGUE if code.startswith("RA1")}
    assert chosen(None, None) == chosen("RA", None) == set(CATALOGUE)
    assert chosen("RA101", "RA1") == {"RA101"}
    assert chosen("RA1", "RA101") == family - {"RA101"}
    assert chosen("RA1,RA101", "RA10") == family - {c for c in family if c.startswith("RA10")} | {"RA101"}
    assert chosen("RA1", "RA1") == set()
    assert chosen(None, "RA1") == set(CATALOGUE) - family


@pytest.mark.parametrize("option", ["--select", "--ignore"])
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("RA110,RA1O1", "no code begins with 'RA1O1'; try RA"),
        ("RA9", "no code begins with 'RA9'; try RA"),
        ("E501", "no code begins with 'E501'; try RA"),
        ("R", "no code begins with 'R'; try RA"),
        (",", "expected codes, such as RA1,RA502; got none"),
    ],
)
def test_unknown_codes_are_refused_before_anything_runs(option: str, typed: str, words: str) -> None:
    assert refused(option, typed, "net.py").startswith(f"roialign doctor: {words}")


def test_near_matches() -> None:
    assert "RA101" in refused("--select", "RA1O1", "net.py")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected SCRIPT, -m MODULE or --call FILE"),
        (["--json"], "expected SCRIPT, -m MODULE or --call FILE"),
        (["nowhere.py"], "there is no file nowhere.py"),
        (["--json", "--sarif", "net.py"], "need different files"),
        (["--json", "a.json", "--sarif=./a.json", "net.py"], "need different files"),
        (["--report", "-", "net.py"], "--report needs a file"),
        (["--report", ".", "net.py"], "cannot write .: it is a folder"),
        (["--sarif", "nowhere/a.sarif", "net.py"], "cannot write nowhere/a.sarif: there is no folder"),
        (["--call", "net.py", "net.py"], "got --call and a program"),
        (["--call", "net.py"], "is not a call that roialign.save_call wrote"),
        (["--call", "nowhere.pt"], "there is no file nowhere.pt"),
        (["-m", "made_nowhere"], "there is no module made_nowhere"),
        (["-m", "json.nowhere"], "there is no module json.nowhere"),
        (["-m", "made_nowhere.sub"], "there is no module made_nowhere.sub"),
        (["-m", ".net"], "there is no module .net"),
        (["-m", "logging"], "logging is a package without a module __main__"),
        (["-m"], "requires an argument"),
        (["--jsno", "net.py"], "No such option"),
    ],
)
def test_usage_errors(arguments: list[str], words: str) -> None:
    before = sys.argv, sys.path[:]
    assert words in " ".join(refused(*arguments).replace("│", " ").split())
    assert (sys.argv, sys.path) == before


def test_a_file_that_cannot_be_written_in_the_end() -> None:
    Path("net.py").write_text(Path("healthy.py").read_text() + "import os\nos.mkdir('out.json')\n")
    result = doctor("--json", "out.json", "net.py")
    assert result.exit_code == 2
    assert "roialign doctor: could not write" in result.stderr
    assert "nothing wrong" in result.stderr


def package(tmp_path: Path, name: str, main: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "__main__.py").write_text(main)


@pytest.mark.parametrize("module", ["made_package", "made_package.__main__"])
def test_a_module(tmp_path: Path, module: str) -> None:
    package(tmp_path, "made_package", "import made_package\n" + FAULTY)
    result = doctor("--select", "RA1", "-m", module, "--json", "x", "-m", "--", "y")
    assert (result.exit_code, result.stdout) == (1, "from the script ['--json', 'x', '-m', '--', 'y']\n")
    assert f"made_package/__main__.py:{ERROR_LINE + 1}" in result.stderr
    assert "Not selected: 1 problem of RA204." in result.stderr


def test_a_module_that_raises_has_its_own_traceback(tmp_path: Path) -> None:
    package(tmp_path, "made_raising", "import made_absent\n")
    result = doctor("-mmade_raising")
    assert result.exit_code == 1
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "runpy" not in result.stderr
    assert "cli/doctor.py" not in result.stderr
    assert "No module named 'made_absent'" in result.stderr


def test_a_module_sees_what_python_would_give_it(tmp_path: Path) -> None:
    package(
        tmp_path,
        "made_seen",
        "import sys\nmain = sys.modules['__main__']\n"
        "print(__name__, __package__, sys.argv, sys.path[0], main.__file__)\nsys.exit(7)\n",
    )
    after = ["-m", "made_seen", "--epochs", "3"]
    expected, seen = (
        subprocess.run([sys.executable, *command, *after], capture_output=True, text=True, check=False)
        for command in ([], ["-m", "roialign", "doctor"])
    )
    assert expected.returncode == seen.returncode == 7
    assert seen.stdout == expected.stdout != ""


def save(**options: Any) -> None:
    boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]
    roialign.save_call("call.pt", torch.ones(1, 8, 64, 64), boxes, 7, **options)


@pytest.mark.parametrize("with_features", [True, False])
def test_a_saved_call(with_features: bool) -> None:
    save(features=with_features)
    result = doctor("--call", "call.pt", "--json", "--sarif", "out.sarif", "--report", "page.html")
    assert result.exit_code == 1
    assert result.stderr.startswith("A call of roi_align, saved at test_doctor_options.py:")
    assert ("values left out" in result.stderr) is not with_features
    assert "RA101 error" in result.stderr
    assert [problem["code"] for problem in json.loads(result.stdout)["problems"]] == ["RA101"]
    (finding,) = json.loads(Path("out.sarif").read_text())["runs"][0]["results"]
    artifact = finding["locations"][0]["physicalLocation"]["artifactLocation"]
    assert artifact == {"uri": "test_doctor_options.py", "uriBaseId": "%SRCROOT%"}
    assert "RA101" in Path("page.html").read_text()


def test_a_saved_call_that_is_sound_or_not_selected() -> None:
    save(spatial_scale=1 / 16)
    result = doctor("--call", "call.pt")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing wrong" in result.stderr
    save()
    assert doctor("--ignore", "RA101", "--call", "call.pt").exit_code == 0
