"""Prints the requirements of one of roialign's extras, for pip: no second build of the package is needed for them."""

import re
import sys
from importlib.metadata import requires


def requirements_of(extra: str) -> list[str]:
    """The requirements that the installed roialign has under `extra`, without that condition."""
    condition = re.compile(rf"""(;| and)\s*extra == ["']{extra}["']$""")
    return [condition.sub("", line).strip() for line in requires("roialign") or () if condition.search(line)]


if __name__ == "__main__":
    found = requirements_of(sys.argv[1])
    if not found:
        sys.exit(f"expected an extra of pyproject.toml with requirements; got {sys.argv[1]!r}")
    print(*found, sep="\n")
