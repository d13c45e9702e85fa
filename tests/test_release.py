"""What a release consists of besides code: the files that CI, PyPI and GitHub read agree with one another."""

import re
import runpy
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import roialign

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"), key=lambda path: path.name)
FORMS = ("bug.yml", "doctor.yml", "feature.yml")
CHECK = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def jobs_of(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]


def commands_of(path: Path) -> list[str]:
    return [step["run"] for job in jobs_of(path).values() for step in job.get("steps", ()) if "run" in step]


def pinned(package: str) -> str:
    (version,) = re.findall(rf"^{package}==(.*)$", read("constraints.txt"), re.MULTILINE)
    return version


def packages_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~;\[ ]", line)[0] for line in requirements} - {"roialign"}


def test_all_workflows_are_there():
    assert [path.name for path in WORKFLOWS] == ["docs.yml", "release.yml", "tests.yml", "wheels.yml"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_read_and_no_more_unless_a_job_says_so(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    assert "concurrency" in workflow
    more = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    for name, permissions in more.items():
        assert (path.name, name) in {("release.yml", "publish"), ("docs.yml", "deploy")}
        assert permissions["id-token"] == "write"
        assert "environment" in workflow["jobs"][name]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_targets_and_scripts_that_there_are(path):
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for command in commands_of(path):
        if command.startswith("make "):
            words = command.split("#")[0].split()[1:]
            assert {word for word in words if "=" not in word} <= targets, command
        for script in re.findall(r"scripts/\w+\.py", command):
            assert (ROOT / script).exists(), command


def test_ci_tries_the_table_of_the_script():
    matrix = jobs_of(GITHUB / "workflows" / "wheels.yml")["installed"]["strategy"]["matrix"]
    assert tuple(matrix["python"]) == CHECK["PYTHONS"]
    assert tuple(matrix["torch"]) == CHECK["TORCHES"]


def test_ci_tests_the_oldest_and_the_newest_of_the_table():
    tested = jobs_of(GITHUB / "workflows" / "tests.yml")["test"]["strategy"]["matrix"]["include"]
    ends = [(one["python"], one["torch"].rpartition(".")[0]) for one in tested]
    assert ends == [(CHECK["PYTHONS"][end], CHECK["TORCHES"][end]) for end in (0, -1)]
    assert tested[-1]["torch"] == pinned("torch")
    assert tested[-1]["torchvision"] == pinned("torchvision")


def test_the_table_begins_where_the_package_does():
    project = PROJECT["project"]
    assert project["requires-python"] == f">={CHECK['PYTHONS'][0]}"
    assert f"torch>={CHECK['TORCHES'][0]}" in project["dependencies"]
    assert f"torch>={CHECK['TORCHES'][0]}" in PROJECT["build-system"]["requires"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert tuple(versions) == CHECK["PYTHONS"]


def test_the_versions_agree():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == roialign.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "roialign.version.__version__"}


def test_one_place_says_where_the_repository_is():
    where = PROJECT["project"]["urls"]["Repository"].removeprefix("https://")
    elsewhere = [ROOT / name for name in ("SECURITY.md", "CITATION.cff", "mkdocs.yml", ".pre-commit-config.yaml")]
    assert not [path.name for path in [*elsewhere, *sorted(GITHUB.rglob("*.*"))] if where in path.read_text("utf-8")]


def test_pre_commit_has_the_ruff_of_make_check():
    repositories = {one["repo"]: one["rev"] for one in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]}
    assert repositories["https://github.com/astral-sh/ruff-pre-commit"] == f"v{pinned('ruff')}"


def test_the_extras_that_pages_and_the_makefile_name_are_there():
    extras = PROJECT["project"]["optional-dependencies"]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    named = {extra for page in pages for extra in re.findall(r"roialign\[(\w+)\]", page.read_text("utf-8"))}
    stamps = set(re.findall(r"\$\(VENV\)/\.stamp-(\w+)", read("Makefile"))) - {"venv", "torch", "package"}
    assert "test" in stamps
    assert named | stamps <= set(extras)


@pytest.mark.parametrize("extra", sorted(PROJECT["project"]["optional-dependencies"]))
def test_what_an_extra_needs_is_pinned(extra):
    for package in packages_of(PROJECT["project"]["optional-dependencies"][extra]):
        assert pinned(package)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_has_fields_of_its_own(form):
    body = yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / form).read_text(encoding="utf-8"))["body"]
    names = [field["id"] for field in body]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("form", ["bug.yml", "doctor.yml"])
def test_a_report_asks_for_the_machine_and_for_a_saved_call(form):
    text = (GITHUB / "ISSUE_TEMPLATE" / form).read_text(encoding="utf-8")
    assert "roialign env" in text
    assert f"roialign.{roialign.save_call.__name__}(" in text


FILES = {"src/roialign/__init__.py", "src/roialign/ops/cpu/plan.h", "src/roialign_pytest.py", "tests/test_one.py"}
IN_WHEEL = ["roialign/__init__.py", "roialign_pytest.py", "roialign-1.dist-info/METADATA"]
TAG = "roialign-1-py3-none-linux_x86_64.whl"


def faults_of_wheel(folder: Path, names: list[str], kernels: bytes | None, tag: str = TAG) -> list[str]:
    with zipfile.ZipFile(folder / tag, "w") as archive:
        for name in names:
            archive.writestr(name, "")
        if kernels is not None:
            archive.writestr(CHECK["BINARY"], kernels)
    return list(CHECK["faults_of_wheel"](folder / tag, FILES))


def test_a_right_wheel_passes(tmp_path):
    assert faults_of_wheel(tmp_path, IN_WHEEL, b"\x7fELF .symtab") == []


@pytest.mark.parametrize(
    ("names", "kernels", "tag", "fault"),
    [
        ([*IN_WHEEL, "roialign/ops/cpu/plan.h"], b"", TAG, "should not be there: roialign/ops/cpu/plan.h"),
        ([*IN_WHEEL, "tests/test_one.py"], b"", TAG, "should not be there: tests/test_one.py"),
        (IN_WHEEL[1:], b"", TAG, "missing: roialign/__init__.py"),
        (IN_WHEEL, None, TAG, "missing: roialign/ops/cpu/_kernels.so"),
        (IN_WHEEL, b" .debug_info ", TAG, "has debug information"),
        (IN_WHEEL, bytes(5_000_000), TAG, "has 5000000 bytes"),
        (IN_WHEEL, b"", "roialign-1-py3-none-any.whl", "got roialign-1-py3-none-any.whl"),
        (IN_WHEEL, b"", "roialign-1-cp311-cp311-linux_x86_64.whl", "got roialign-1-cp311-cp311-linux_x86_64.whl"),
    ],
    ids=["header", "test", "module", "no kernels", "debug", "large", "no platform", "one Python"],
)
def test_a_wrong_wheel_is_refused(tmp_path, names, kernels, tag, fault):
    (found,) = faults_of_wheel(tmp_path, names, kernels, tag)
    assert fault in found


def test_a_source_distribution_holds_the_repository(tmp_path):
    path = tmp_path / "roialign-1.tar.gz"
    made = tmp_path / "file"
    made.touch()
    names = [*sorted(FILES - {"tests/test_one.py"}), "PKG-INFO", "setup.cfg", "src/roialign.egg-info/SOURCES.txt", "x"]
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.add(made, f"roialign-1/{name}")
    assert list(CHECK["faults_of_sdist"](path, FILES)) == ["missing: tests/test_one.py", "should not be there: x"]
