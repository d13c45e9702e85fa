"""A large JSON file read member by member: what is in memory is one element of one of its arrays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from roialign.errors import AnnotationError

_CHUNK = 1 << 20  # characters
_LARGEST = 1 << 26  # characters of one element; what is larger has lost its closing quote or bracket


class JsonMembers:
    """The members of a JSON object, or the elements of an array, in the order of the file.

    Iterating gives (key, value) for each member, and where a value is an array (key, element) for each of its
    elements; of an array at the top (None, element). NaN and Infinity are read, as Python writes them.

    Args:
        file: opened as text.
        path: what messages call it.

    Raises:
        AnnotationError: RA701, with line and column, for what is not JSON.

    Example:
        >>> import io
        >>> list(JsonMembers(io.StringIO('{"size": [2, 3], "name": "a"}'), "a.json"))
        [('size', 2), ('size', 3), ('name', 'a')]
    """

    def __init__(self, file: IO[str], path: str) -> None:
        self.keys: set[str] = set()
        """The keys that were met, those of empty arrays included."""
        self._file, self._path = file, path
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False
        self._dropped = self._lines = self._line_start = 0  # what lay before _text: characters, lines, the last line

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        start = self._next()
        if start == "[":
            yield from ((None, element) for element in self._elements())
        elif start == "{":
            yield from self._members()
        else:
            raise self._broken("it does not begin with { or [")
        if self._next():
            raise self._broken("there is something behind its end")

    def _members(self) -> Iterator[tuple[str, Any]]:
        self._at += 1
        while self._next() != "}":
            if self._next() != '"':
                raise self._broken("a key in quotes is missing here")
            key: str = self._value()
            self.keys.add(key)
            self._take(":")
            if self._next() == "[":
                yield from ((key, element) for element in self._elements())
            else:
                yield key, self._value()
            self._separator("}")
        self._at += 1

    def _elements(self) -> Iterator[Any]:
        self._at += 1
        while self._next() != "]":
            yield self._value()
            self._separator("]")
        self._at += 1

    def _separator(self, end: str) -> None:
        if self._next() == end:
            return
        self._take(",")
        if self._next() == end:
            raise self._broken(f"a comma stands before {end}")

    def _take(self, wanted: str) -> None:
        if self._next() != wanted:
            raise self._broken(f"{wanted} is missing here")
        self._at += 1

    def _next(self) -> str:
        """The next character that is no blank; at the end of the file none."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._read_on():
                return ""

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                reason, place = error.msg, error.pos
            except RecursionError:
                reason, place = "it is nested too deeply", self._at
            else:
                if end < len(self._text) or not self._read_on():  # a number may go on in the next chunk
                    self._at = end
                    return value
                continue
            within, size = place - self._at, len(self._text) - self._at
            cut_off = reason.startswith("Unterminated string") or place > len(self._text.rstrip()) - 16
            if not cut_off or size > _LARGEST:
                raise self._broken(reason, place)
            if not self._read_on():
                raise self._broken(f"{reason}, near the end of the file; was it cut off", self._at + within)

    def _read_on(self) -> bool:
        """Read more of the file, and forget what was passed."""
        if self._ended:
            return False
        passed, rest = self._text[: self._at], self._text[self._at :]
        if newlines := passed.count("\n"):
            self._lines += newlines
            self._line_start = self._dropped + passed.rindex("\n") + 1
        self._dropped += self._at
        try:
            chunk = self._file.read(max(_CHUNK, len(rest)))
        except UnicodeDecodeError as error:
            raise self._broken(f"it is not UTF-8 ({error.reason})", len(self._text)) from error
        self._text, self._at, self._ended = rest + chunk, 0, not chunk
        return bool(chunk)

    def _broken(self, reason: str, at: int | None = None) -> AnnotationError:
        at = self._at if at is None else at
        before = self._text[:at]
        line = self._lines + before.count("\n") + 1
        start = self._dropped + before.rindex("\n") + 1 if "\n" in before else self._line_start
        column = self._dropped + at - start + 1
        if self._ended and at >= len(self._text.rstrip()):
            reason = "it ends too early; was it cut off"
        return AnnotationError(f"RA701: expected {self._path} as JSON; {reason}: line {line}, column {column}.")
