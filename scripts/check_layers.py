"""Fails on an import from a lower layer of roialign to a higher one, imports inside functions included."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LAYERS = (
    *("__main__", "cli", "integrations", "extraction", "doctor"),
    *("regions", "backbones", "ops", "geometry", "errors", "version"),
)
SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = "roialign"


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def exported(root: ast.Module) -> dict[str, str]:
    """Where each name of the root's __init__ comes from: {"roi_align": "roialign.ops"}."""
    imports = [node for node in ast.walk(root) if isinstance(node, ast.ImportFrom) and node.module != PACKAGE]
    return {alias.asname or alias.name: str(node.module) for node in imports for alias in node.names}


def imported(path: Path, exports: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Line and full name of each module of the package that `path` imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = module_of(path).split(".")
                package = package[: len(package) - node.level + (path.name == "__init__.py")]
                module = ".".join([*package, module] if module else package)
            if module == PACKAGE:
                names = [alias.name for alias in node.names]
                yield from ((node.lineno, exports.get(name, f"{PACKAGE}.{name}")) for name in names)
            elif module.startswith(f"{PACKAGE}."):
                yield node.lineno, module


def rank(module: str) -> int:
    """The height of a module's layer, the highest 0; the root counts as the command, for it imports them all."""
    parts = module.split(".")
    return LAYERS.index(parts[1] if len(parts) > 1 else "cli")


def faults(path: Path, exports: dict[str, str]) -> Iterator[str]:
    module, where = module_of(path), path.relative_to(SOURCE.parent)
    for name in dict.fromkeys([module, *(name for _, name in imported(path, exports))]):
        if name != PACKAGE and name.split(".")[1] not in LAYERS:
            yield f"{where}: {name} is in none of the layers {', '.join(LAYERS)}"
            return
    for line, name in imported(path, exports):
        if rank(name) < rank(module):
            yield f"{where}:{line}: {module} imports {name}, which is in a higher layer"


def main() -> int:
    root = SOURCE / PACKAGE / "__init__.py"
    exports = exported(ast.parse(root.read_text(encoding="utf-8")))
    paths = [path for path in sorted((SOURCE / PACKAGE).rglob("*.py")) if path != root]
    found = [fault for path in paths for fault in faults(path, exports)]
    print("\n".join(found) or f"{len(paths)} files, every import points down", file=sys.stderr if found else sys.stdout)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
