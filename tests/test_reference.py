"""The API reference: every public name has one entry, and every entry is what the name is in a running program."""

import ast
import inspect
import logging
import re
from pathlib import Path

import pytest

import roialign_pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
PACKAGES = ("", ".backbones", ".doctor", ".extraction", ".geometry", ".regions")
FOR_THE_LIBRARY = {"_probe", "detectors", "enable", "named", "pytest_plugin"}


def entries() -> list[str]:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    return re.findall(r"^::: (\S+)$", text, re.MULTILINE)


def public_names(module: str) -> list[str]:
    """What `module` defines or imports `as` itself, in its source: it need not be importable here."""
    place = ROOT / "src" / module.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.ImportFrom):
            names += [alias.name for alias in node.names if alias.asname == alias.name]
    return [name for name in names if not name.startswith("_")]


def integrations() -> list[str]:
    folder = ROOT / "src/roialign/integrations"
    names = [path.stem for path in sorted(folder.glob("*.py")) if path.stem not in FOR_THE_LIBRARY]
    return [f"roialign.integrations.{name}" for name in names if name != "__init__"]


OF_THE_PACKAGE = public_names("roialign")
MODULES = ["roialign.errors", *(f"roialign{name}" for name in PACKAGES), *integrations()]


def entry_of(module: str, name: str) -> str:
    """Where it is looked up: under `roialign`, if that has the name, too."""
    has_it = not module.startswith("roialign.integrations") and name in OF_THE_PACKAGE
    return f"roialign.{name}" if has_it else f"{module}.{name}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_has_an_entry(module):
    expected = {entry_of(module, name) for name in public_names(module)} or {module}
    expected -= {"roialign.errors", "roialign.extraction.SampleError"}  # a module; an entry of errors
    assert expected <= set(entries())


def test_every_entry_is_of_a_public_name_and_there_once():
    known = {entry_of(module, name) for module in MODULES for name in public_names(module)}
    assert set(entries()) - known == {"roialign.integrations.flops"}  # which is only imported
    assert len(entries()) == len(set(entries()))


def test_the_options_of_pytest_are_described():
    page = (REFERENCE / "doctor.md").read_text(encoding="utf-8")
    source = inspect.getsource(roialign_pytest)
    for option in re.findall(r'"(--roialign[\w-]*)"', source) + re.findall(r"'(\w+)\(\*codes", source):
        assert f"`{option}" in page


def test_docstrings_fit_their_signatures_and_entries_are_not_modules(caplog):
    """What mkdocstrings would only warn of."""
    griffe = pytest.importorskip("griffe")
    extensions = griffe.load_extensions("dataclasses", str(ROOT / "scripts/docstrings.py"))
    package = griffe.load("roialign", search_paths=[ROOT / "src"], extensions=extensions)
    with caplog.at_level(logging.WARNING):
        for entry in entries():
            found = package[entry.removeprefix("roialign.")]
            assert found.is_module == (entry == "roialign.integrations.flops"), entry
            assert found.has_docstring, entry
            target = found.final_target if found.is_alias else found
            for one in (target, *target.members.values()):
                if not one.is_alias and one.docstring is not None:
                    one.docstring.parse("google", returns_named_value=False)
    assert not caplog.messages
