"""How far an extraction is: in place on a terminal, as plain lines elsewhere, or not at all."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from roialign.extraction.decode import NO_BOXES
from roialign.extraction.store.reading import Regions
from roialign.extraction.work import Note, Step

_EVERY_S = 10.0  # between two lines


class Tally:
    """What has been done, and how fast.

    Args:
        images: of the collection.
        there: how many of them were done before.
        clock: seconds, from any moment on.

    Example:
        >>> seconds = iter([0.0, 10.0])
        >>> tally = Tally(images=1000, there=400, clock=lambda: next(seconds))
        >>> tally.add(Step(images=100, boxes=2000, errors=3))
        >>> tally.line()
        '500/1000 images, 10.0 images/s, 200 boxes/s, 3 errors, 50 s left'
    """

    def __init__(self, images: int, there: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.images, self.there, self._clock = images, there, clock
        self.done = self.boxes = self.errors = 0
        self._start = clock()

    def add(self, step: Step) -> None:
        """Count what was done."""
        self.done += step.images
        self.boxes += step.boxes
        self.errors += step.errors

    def line(self) -> str:
        """All of it in 80 columns."""
        seconds = max(self._clock() - self._start, 1e-3)
        rate = self.done / seconds
        left = duration((self.images - self.there - self.done) / rate) if self.done else "?"
        return (
            f"{self.there + self.done}/{self.images} images, {_rate(rate)} images/s, "
            f"{_rate(self.boxes / seconds)} boxes/s, {self.errors} errors, {left} left"
        )


def _rate(per_second: float) -> str:
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.1f}"


def duration(seconds: float) -> str:
    """A time in two units at most.

    Example:
        >>> duration(42.4), duration(400), duration(5000), duration(200000)
        ('42 s', '6 min 40 s', '1 h 23 min', '2 d 7 h')
    """
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


@contextmanager
def shown(tally: Tally, stream: TextIO | None) -> Iterator[Note]:
    """What is to be told of each step; it is shown on `stream`, or nowhere."""
    if stream is None:
        yield tally.add
    elif stream.isatty():
        console = Console(file=stream)
        with Live(Text(""), console=console, refresh_per_second=4, transient=True) as live:

            def redraw(step: Step) -> None:
                tally.add(step)
                live.update(Text(tally.line(), no_wrap=True, overflow="ellipsis"))

            yield redraw
    else:
        last = time.monotonic()

        def print_now_and_then(step: Step) -> None:
            nonlocal last
            tally.add(step)
            if time.monotonic() - last >= _EVERY_S:
                last = time.monotonic()
                print(tally.line(), file=stream, flush=True)

        yield print_now_and_then


def wrapped(words: str) -> str:
    """Lines of 80 columns."""
    filled = textwrap.TextWrapper(80, break_long_words=False, break_on_hyphens=False)
    return "\n".join(filled.fill(line) for line in words.splitlines())


def summary(regions: Regions) -> tuple[str, int]:
    """What is in a store, and how many boxes and images failed."""
    codes = Counter(error.code for error in regions.errors())
    without = codes.pop(NO_BOXES, 0)
    manifest = regions.manifest
    shape = " x ".join(map(str, manifest.schema.feature_shape))
    lines = [
        f"{len(regions)} regions of {manifest.image_count} images in {regions.folder}",
        f"{shape} {manifest.schema.feature_dtype} each, of {manifest.backbone['name']}",
    ]
    if without:
        lines.append(f"{without} images have no boxes")
    if codes:
        counts = ", ".join(f"{code} {count}" for code, count in codes.most_common(6))
        lines.append(f"{codes.total()} errors ({counts}): roialign.extraction.open(...).errors() lists them")
    return "\n".join(lines), codes.total()
