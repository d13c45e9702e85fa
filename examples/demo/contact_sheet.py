"""A picture of pooled features beside the photograph that they were pooled from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE, GAP, MARGIN, LABELS, HEADER = 88, 8, 16, 150, 44
INK, PAPER, FAINT = "#1b1f24", "#ffffff", "#57606a"
COLUMNS = 8


def contact_sheet(photo: Image.Image, boxes_xyxy: Tensor, wrong: Tensor, right: Tensor) -> Image.Image:
    """For the largest trees: the photograph, the features [K, C, h, w] as called, and with the fix."""
    areas = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    chosen = areas.argsort(descending=True)[:COLUMNS].tolist()
    colours = _Colours(right)
    rows: Sequence[tuple[str, str, list[Image.Image]]] = (
        ("photograph", "inside the drawn box", [_crop(photo, boxes_xyxy[row]) for row in chosen]),
        ("as called", "spatial_scale=1.0", colours.tiles(wrong[chosen])),
        ("with the fix", "spatial_scale=0.0625", colours.tiles(right[chosen])),
    )
    width = MARGIN * 2 + LABELS + COLUMNS * (TILE + GAP) - GAP
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (TILE + GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text(
        (MARGIN, 12),
        "What RoIAlign returns for the same trees (features as colours)",
        fill=INK,
        font=ImageFont.load_default(18),
    )
    for line, (title, subtitle, tiles) in enumerate(rows):
        top = HEADER + line * (TILE + GAP)
        draw.text((MARGIN, top + 24), title, fill=INK, font=ImageFont.load_default(16))
        draw.text((MARGIN, top + 46), subtitle, fill=FAINT, font=ImageFont.load_default(13))
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (MARGIN + LABELS + column * (TILE + GAP), top))
    return sheet


def _crop(photo: Image.Image, box_xyxy: Tensor) -> Image.Image:
    left, top, right, bottom = (round(value) for value in box_xyxy.tolist())
    return photo.crop((left, top, right, bottom)).resize((TILE, TILE), Image.Resampling.BICUBIC)


class _Colours:
    """The three strongest directions of some features as red, green and blue."""

    def __init__(self, regions: Tensor) -> None:
        vectors = regions.permute(0, 2, 3, 1).flatten(0, 2)
        self._mean = vectors.mean(0)
        self._directions = torch.linalg.svd(vectors - self._mean, full_matrices=False).Vh[:3].T
        ends = ((vectors - self._mean) @ self._directions).quantile(torch.tensor([0.02, 0.98]), dim=0)
        self._low, self._high = ends[0], ends[1]

    def tiles(self, regions: Tensor) -> list[Image.Image]:
        """One picture for each region [C, h, w]; a region of zeros is written out as such."""
        return [self._tile(region) if bool(region.any()) else _all_zero() for region in regions]

    def _tile(self, region: Tensor) -> Image.Image:
        shades = ((region.permute(1, 2, 0) - self._mean) @ self._directions - self._low) / (self._high - self._low)
        pixels = (shades.clamp(0, 1) * 255).round().to(torch.uint8)
        tile = Image.frombytes("RGB", (region.shape[2], region.shape[1]), bytes(pixels.flatten().tolist()))
        return tile.resize((TILE, TILE), Image.Resampling.NEAREST)


def _all_zero() -> Image.Image:
    tile = Image.new("RGB", (TILE, TILE), "#000000")
    ImageDraw.Draw(tile).text((TILE / 2, TILE / 2), "0", fill="#8b949e", font=ImageFont.load_default(28), anchor="mm")
    return tile
