"""For the API reference: the package as mkdocstrings is to read it, and its docstrings in Google's style."""

import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]


class Docstrings(griffe.Extension):
    """Makes "Example:" a section of doctests, and ends functions and classes with a link to their source."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
        if (obj.is_function or obj.is_class) and obj.parent.is_module:
            path = Path(obj.filepath).relative_to(ROOT)
            text += f"\n\n[Source: {path}]({REPOSITORY}/blob/main/{path}#L{obj.lineno})"
        obj.docstring.value = text

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        _put_imports_before_modules(pkg)


def _put_imports_before_modules(package: griffe.Module) -> None:
    """Make `package.name` what its `__init__` imports from the module `name`, as it is in a running program."""
    members = [(one, name, member) for one in _modules(package) for name, member in one.members.items()]
    hidden = {
        member.path: (one, member)
        for one, name, member in members
        if member.path == f"{one.path}.{name}" and one.imports.get(name) == f"{member.path}.{name}"
    }
    for _, _, member in members:  # those that lead through a module, while they still can
        if member.is_alias and member.target_path.startswith("roialign.") and member.target_path not in hidden:
            with suppress(griffe.AliasResolutionError):  # it leads to another library
                member.resolve_target()
    for one, module in hidden.values():
        one.members[module.name] = griffe.Alias(module.name, module[module.name], parent=one)


def _modules(package: griffe.Module) -> Iterator[griffe.Module]:
    yield package
    for member in package.members.values():
        if not member.is_alias and member.is_module:
            yield from _modules(member)
