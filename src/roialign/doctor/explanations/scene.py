"""A call, and the frames that its boxes may have been meant in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from roialign.doctor.evidence import Evidence
from roialign.doctor.explanations.lattice import Lattice, lattices
from roialign.doctor.surroundings import Turned
from roialign.geometry import AxisMap, Frame

_FITS = 1.0  # cells off at the far edge of the map: what rounded sizes explain
_FITS_ODD = 0.25  # the same for a scale that is no inverse of a whole number
_LEAST_REGULAR, _MOST_SIZES = 12, 0.3  # boxes, and different sizes for each


@dataclass(frozen=True)
class Place:
    """A frame of boxes: cell = number * scale + shift, along x, y, x, y, where cell 0 covers [0, 1)."""

    name: str
    code: str | None
    """None: the frame that the call takes them for."""
    share: float
    """How common it is."""
    scale: Tensor
    """[N, 4], of each image, or [1, 4]."""
    shift: Tensor
    lattice: Lattice
    content: Tensor
    """The part of the map, [N, 4] or [1, 4] in cells, that shows the picture of each image."""
    frame: Frame | None = None
    """The frame of the first image, where it was seen."""
    ratio: float = 1.0
    """For boxes of another size of the image: what they would have to be multiplied by."""
    at: Tensor | None = None
    """The boxes [K, 4] in cells where no rule for all of them tells."""
    common: bool = False
    """Whether it goes together with any order of the numbers."""
    transposed: tuple[bool, ...] = (False,)
    """Of each image, or of all, whether x and y of the numbers are swapped before the scale and the shift."""

    @property
    def log_prior(self) -> float:
        return math.log(self.share)


@dataclass(frozen=True)
class Scene:
    """A call, of which at most so many boxes are weighed, and what its map may show."""

    known: Evidence
    rows: Tensor
    """Which boxes, int64 [K]."""

    @cached_property
    def boxes(self) -> Tensor:
        return self.known.boxes_xyxy[self.rows].double()

    @cached_property
    def images(self) -> Tensor:
        return self.known.call.rois[self.rows, 0].long()

    @property
    def slack(self) -> float:
        """Cells by which boxes may reach beyond a map whose image is not known: it may lack them."""
        least = min(self.known.call.map_size_hw)
        return 0.0 if self.known.image_size_hw is not None else min(max(1.0, least / 10), 4.0)

    @cached_property
    def is_regular(self) -> bool:
        """Whether the boxes are anchors or windows: many of a few sizes, drawn around nothing."""
        count = len(self.boxes)
        sizes = (self.boxes[:, 2:] - self.boxes[:, :2]).float().round(decimals=2)
        return count >= _LEAST_REGULAR and len(sizes.unique(dim=0)) <= count * _MOST_SIZES

    @cached_property
    def of_one_image(self) -> Tensor:
        """Boxes of the image that has most of them, bool [K]."""
        return self.images == self.images.mode().values

    @cached_property
    def lattices(self) -> list[Lattice]:
        cells = self.known.call.cells
        if cells is None:
            return lattices(self.known)
        return [Lattice((1 / cells[0], 1 / cells[2]), (0.5 - cells[1], 0.5 - cells[3]))]

    @property
    def scale(self) -> float:
        return self.known.call.spatial_scale

    def fits(self, lattice: Lattice) -> bool:
        """Whether the scale is the inverse of this stride."""
        most = _FITS_ODD if self.known.scale_is_odd else _FITS
        return lattice.cells_off(self.scale, self.known.call.map_size_hw) <= most

    def to_cells(self, pixels: Tensor, lattice: Lattice) -> Tensor:
        """Pixels [..., 4] of the image that entered in cells."""
        return pixels * self.per_pixel(lattice) + self.lead(lattice)

    def to_pixels(self, cells: Tensor, lattice: Lattice) -> Tensor:
        """Cells [..., 4] in pixels of the image that entered."""
        return (cells - self.lead(lattice)) / self.per_pixel(lattice)

    def per_pixel(self, lattice: Lattice) -> Tensor:
        stride_y, stride_x = lattice.stride_yx
        return 1 / self.boxes.new_tensor([[stride_x, stride_y] * 2])

    def lead(self, lattice: Lattice) -> Tensor:
        return self.boxes.new_tensor([[lattice.lead_yx[1], lattice.lead_yx[0]] * 2])

    def extent(self, lattice: Lattice) -> Tensor:
        """The whole image in cells, [1, 4]."""
        if self.known.image_size_hw is None:
            height, width = self.known.call.map_size_hw
            return self.boxes.new_tensor([[0.0, 0.0, width, height]])
        image_h, image_w = self.known.image_size_hw
        return self.to_cells(self.boxes.new_tensor([[0.0, 0.0, image_w, image_h]]), lattice)

    def content(self, lattice: Lattice) -> Tensor:
        """The part of each image that shows something, in cells, [N, 4] or [1, 4]."""
        pictures = self.known.pictures
        return self.extent(lattice) if pictures is None else self.to_cells(pictures.to(self.boxes), lattice)

    def picture_of(self, image: int, images: Tensor) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what an image shows: where padding begins is no edge of a thing."""
        if self.known.pictures is None:
            return 0, 0, images.shape[3], images.shape[2]
        left, top, right, bottom = (int(edge) for edge in self.known.pictures[image].tolist())
        return left, top, right, bottom

    def of_rows(self, values: Tensor) -> Tensor:
        """Values [N, 4] or [1, 4] of the image of each box, [K, 4]."""
        return values.expand(len(self.boxes), 4) if len(values) == 1 else values[self.images]

    def transposed(self, place: Place) -> Tensor:
        """Of each box whether x and y are swapped, bool [K]."""
        flags = torch.tensor(place.transposed, device=self.images.device)
        return flags.expand(len(self.boxes)) if len(flags) == 1 else flags[self.images]

    @cached_property
    def turned(self) -> list[Turned | None]:
        """Of each image, where its file says that it is to be turned, what of that was seen."""
        return [Turned.of(frame) for frame in self.known.frames]

    @cached_property
    def chains(self) -> list[tuple[Frame, ...]]:
        """Of each image the frames from the photograph, turned as it entered, to the one that entered."""
        pairs = zip(self.known.frames, self.turned, strict=True)
        return [frame.chain[turned.first if turned else 0 :] for frame, turned in pairs]

    @cached_property
    def maps(self) -> list[tuple[int, list[AxisMap]]]:
        """Of each frame before the one that entered, how it leads there, for every image; not of those on their side.

        Boxes of a picture on its side are weighed as an order of the numbers.
        """
        chains = self.chains
        depth = len(chains[0]) if chains else 0
        if any(len(chain) != depth for chain in chains):
            return []
        maps = [(index, [chain[index].map_to(chain[-1]) for chain in chains]) for index in range(depth - 1)]
        return [
            (index, some) for index, some in maps if any(map(moves, some)) and not any(one.transposed for one in some)
        ]

    def mapped(self, lattice: Lattice, maps: Sequence[AxisMap], content: Tensor) -> Place:
        """Boxes of a frame that a map for each image leads from to the image that entered."""
        new = self.boxes.new_tensor
        scale = new([[m.scale_yx[1], m.scale_yx[0]] * 2 for m in maps])
        shift = new([[m.shift_yx[1], m.shift_yx[0]] * 2 for m in maps])
        per_pixel = self.per_pixel(lattice)
        return Place(
            "", "RA107", 1.0, scale * per_pixel, shift * per_pixel + self.lead(lattice), lattice, content,
            ratio=float(scale[0, 0]), transposed=tuple(one.transposed for one in maps),
        )  # fmt: skip


def in_order(boxes: Tensor, scale: Tensor) -> Tensor:
    """Boxes [..., 4] with their corners swapped along axes that were flipped, whose scale is negative."""
    return torch.where(scale < 0, boxes[..., [2, 3, 0, 1]], boxes)


def moves(one: AxisMap) -> bool:
    return one.scale_yx != (1.0, 1.0) or one.shift_yx != (0.0, 0.0)
