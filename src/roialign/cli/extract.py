"""`roialign extract` and `roialign search`: region features of a collection of images, and the nearest of them."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from roialign import extraction
from roialign.doctor.report.terminal import render
from roialign.errors import RoIError, SampleError
from roialign.extraction.extract import Stopped
from roialign.extraction.local import quiet_about_files
from roialign.extraction.progress import summary
from roialign.integrations.models import ModelError

_WIDTH = 80
_WITH_ERRORS, _INTERRUPTED, _TERMINATED = 3, 130, 143


@dataclass(frozen=True)
class Chosen:
    """Which boxes: exactly one of these."""

    boxes: str | None
    grid: str | None
    whole_image: bool

    def word(self) -> str:
        """What `extract` takes as `boxes`."""
        given = [self.boxes, None if self.grid is None else f"grid:{self.grid}", "whole" if self.whole_image else None]
        found = [one for one in given if one is not None]
        if len(found) != 1:
            raise ValueError(f"expected one of --boxes, --grid and --whole-image; got {len(found) or 'none'} of them")
        return found[0]


def run(images: str, chosen: Chosen, sizes: Mapping[str, str | None], quiet: bool, options: Mapping[str, Any]) -> int:
    """Extract; the exit status."""
    quiet_about_files()
    try:
        parsed: dict[str, Any] = {name: None if text is None else _size(name, text) for name, text in sizes.items()}
        regions = extraction.extract(images, boxes=chosen.word(), quiet=quiet, **parsed, **options)
    except SampleError as error:
        if error.report is not None:
            render(error.report, Console(stderr=True))
        return _refused("extract", error, 1)
    except (RoIError, ModelError, ImportError, ValueError, OSError) as error:
        return _refused("extract", error, 2)
    except Stopped:
        return _TERMINATED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return _WITH_ERRORS if summary(regions)[1] else 0


def search(folder: str, image: str, box: str, k: int, same_image: bool) -> int:
    """Print the regions that look most like one; the exit status."""
    try:
        found = extraction.nearest(extraction.open(folder), (image, box), k, same_image=same_image)
    except (RoIError, ImportError, OSError) as error:
        return _refused("search", error, 2)
    print("similarity  image  box  x1 y1 x2 y2")
    for one in found:
        region = one.region
        box_xyxy = " ".join(f"{value:g}" for value in region.box_xyxy.tolist())
        print(f"{one.similarity:10.4f}  {region.image_id}  {region.box_id}  {box_xyxy}")
    return 0


def _size(option: str, text: str) -> int | tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:[x,](\d+))?", text.strip().lower())
    if match is None:
        name = option.replace("_", "-")
        raise ValueError(f"expected --{name} HEIGHTxWIDTH or one number, such as 480x640; got {text!r}")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def _refused(command: str, error: BaseException, status: int) -> int:
    words = f"roialign {command}: {error}"
    lines = textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
    print("\n".join(lines), file=sys.stderr)
    return status
