"""Which codes count: `select` and `ignore`, by prefix, as linters have them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.findings import Report

_EVERY_CODE = "RA"


@dataclass(frozen=True)
class Selection:
    """Codes that are selected and not ignored; of two prefixes that fit a code the longer one decides."""

    select: tuple[str, ...] = ()
    """Prefixes such as "RA1" or "RA502"; every code where there is none."""
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, select: str | None, ignore: str | None) -> Selection:
        """The selection from lists as they are typed: "RA1,RA502".

        Raises:
            ValueError: if no code begins with one of them; the message names codes that are near.
        """
        return cls(_prefixes(select), _prefixes(ignore))

    def has(self, code: str) -> bool:
        """Whether `code` counts."""
        selected = _longest(code, self.select or (_EVERY_CODE,))
        return selected > 0 and selected > _longest(code, self.ignore)

    def of_report(self, report: Report) -> Report:
        """The report with the findings that count; all calls stay in it."""
        calls = report.calls
        kept = (tuple(finding for finding in call.findings if self.has(finding.code)) for call in calls)
        return Report([replace(call, findings=findings) for call, findings in zip(calls, kept, strict=True)])


def begins_a_code(prefix: str) -> bool:
    """Whether a code begins so: "RA", "RA1", "RA101"."""
    return prefix.startswith(_EVERY_CODE) and any(code.startswith(prefix) for code in CATALOGUE)


def near_codes(typed: str, known: Iterable[str] = CATALOGUE) -> list[str]:
    """The codes that are most like what was typed; O is taken for 0."""
    return difflib.get_close_matches(typed.upper().replace("O", "0"), list(known), 3)


def _prefixes(typed: str | None) -> tuple[str, ...]:
    if typed is None:
        return ()
    prefixes = tuple(word.strip().upper() for word in typed.split(",") if word.strip())
    if not prefixes:
        raise ValueError("expected codes, such as RA1,RA502; got none")
    for prefix in prefixes:
        if not begins_a_code(prefix):
            raise ValueError(f"no code begins with {prefix!r}; try {_near(prefix)}")
    return prefixes


def _near(prefix: str) -> str:
    families = dict.fromkeys(code[: len(_EVERY_CODE) + 1] for code in CATALOGUE)
    return ", ".join(near_codes(prefix, [*CATALOGUE, *families]) or families)


def _longest(code: str, prefixes: Sequence[str]) -> int:
    return max((len(prefix) for prefix in prefixes if code.startswith(prefix)), default=0)
