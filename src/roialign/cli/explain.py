"""`roialign explain`: the catalogue of codes, read aloud."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markdown import Markdown
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table

from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.selection import near_codes


def run(code: str | None) -> int:
    """Print what `code` means, or the list of all codes; the exit status."""
    console = Console()
    if code is None:
        table = Table("code", "severity", "what it means", box=None, pad_edge=False)
        for entry in CATALOGUE.values():
            table.add_row(entry.code, entry.severity, entry.title)
        console.print(table)
        return 0
    entry_or_none = CATALOGUE.get(code.upper())
    if entry_or_none is None:
        near = ", ".join(near_codes(code)) or "roialign explain"
        print(f"roialign explain: there is no code {code!r}; try {near}", file=sys.stderr)
        return 2
    entry = entry_or_none
    console.print(f"[bold]{entry.code}[/bold]  {entry.title}  ({entry.severity})\n", highlight=False)
    console.print(Markdown(entry.meaning))
    console.print("\n[bold]What to do[/bold]")
    console.print(Markdown(entry.fix))
    console.print("\n[bold]Example[/bold]")
    console.print(Padding(Syntax(entry.example, "python", background_color="default", word_wrap=True), (0, 2)))
    return 0
