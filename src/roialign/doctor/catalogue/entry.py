"""What the catalogue says of a code, and the calls that its examples share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

STRIDE_16 = "features = torch.rand(1, 8, 64, 64)  # of a 1024 x 1024 image: stride 16"
NON_SQUARE = "features = torch.rand(1, 8, 40, 64)  # of an image 640 high, 1024 wide: stride 16"
PHOTO = "photo = Frame.image((480, 640))"
ONE_BOX = "boxes = [torch.tensor([[300.0, 300.0, 400.0, 400.0]])]"
AT_16 = "roi_align(features, boxes, 7, spatial_scale=1 / 16)"


@dataclass(frozen=True)
class Entry:
    """One code of the catalogue; `setup`, then `wrong` or `right`, is a program that runs.

    `raised` codes come as errors only, from frames, boxes, grids and levels; a call of `roi_align` cannot have them.
    `watched` codes are of another library's operator or of how images were loaded: `roialign.watch` alone finds them.
    """

    code: str
    title: str
    severity: Literal["error", "warning"]
    meaning: str
    fix: str
    setup: str
    wrong: str
    right: str
    raised: bool = False
    watched: bool = False

    @property
    def example(self) -> str:
        """The faulty call and the right one, as a program."""
        return f"{self.setup}\n{self.wrong}  # {self.code}\n{self.right}  # right"
