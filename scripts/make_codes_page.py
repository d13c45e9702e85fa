"""Writes docs/codes.md from the catalogue of codes; with --check only says whether it is up to date."""

import sys
from itertools import groupby
from pathlib import Path

from roialign.doctor.catalogue import CATALOGUE, Entry

PAGE = Path(__file__).parent.parent / "docs" / "codes.md"
FAMILIES = {
    "RA1": "Frames and scale",
    "RA2": "Boxes",
    "RA3": "Features",
    "RA4": "Levels of a pyramid",
    "RA5": "Sampling, types and training",
    "RA6": "Export",
    "RA7": "Extraction of whole collections",
}
INTRODUCTION = """\
# Codes

<!-- Made by scripts/make_codes_page.py from src/roialign/doctor/catalogue/: change that. -->

Every error, warning and finding of roialign starts with one of these codes. `roialign explain RA101` shows the same
text in the terminal. A code, once published, keeps its meaning.

An *error* is a call that cannot be right, or whose features are certainly not those of the boxes. A *warning* is a
call that may be what you want.
"""


def section(entry: Entry) -> str:
    return (
        f"### {entry.code}: {entry.title} {{ #{entry.code.lower()} }}\n\n"
        f"*{entry.severity.capitalize()}.* {entry.meaning}\n\n"
        f"```python\n{entry.example.strip()}\n```\n\n"
        f"**Fix.** {entry.fix}\n"
    )


def page() -> str:
    entries = sorted(CATALOGUE.values(), key=lambda entry: entry.code)
    parts = [INTRODUCTION]
    for family, members in groupby(entries, key=lambda entry: entry.code[:3]):
        parts += [f"## {FAMILIES[family]}\n", *map(section, members)]
    return "\n".join(parts)


def main() -> int:
    text = page()
    stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text, encoding="utf-8")
    elif stale:
        print("docs/codes.md is older than the catalogue: run python scripts/make_codes_page.py", file=sys.stderr)
        return 1
    print(f"docs/codes.md: {len(CATALOGUE)} codes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
