"""The independent witness: pictures whose pixels hold their own coordinates, sent through the real pipelines.

Where a pipeline maps coordinates by an affine rule, what it makes of such a picture holds, at each pixel, the
place in the original that the pixel came from. Away from edges interpolation of a linear function is exact, by
pixel. An antialiasing filter of a width that is no whole number of pixels wobbles about the exact place, up to
a tenth of a pixel; a line fitted through all pixels does not.
"""

import torch
from torch import Tensor

from roialign.geometry import Boxes, Frame


def picture(size_hw: tuple[int, int], dtype: torch.dtype = torch.float64) -> Tensor:
    """[3, H, W]: at each pixel the x and y of its centre, and 1."""
    height, width = size_hw
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y, torch.ones_like(x))).to(dtype)


def worst_error(pixels: Tensor, image: Frame, frame: Frame) -> float:
    """The largest distance, in pixels of `image`, between what `pixels` hold and what `frame` says they hold.

    `pixels` [2 or 3, H, W] is what a pipeline made of `picture`.
    """
    found, expected = _found_and_expected(pixels, image, frame)
    return float((found - expected).abs().max())


def fitted_error(pixels: Tensor, image: Frame, frame: Frame) -> float:
    """The same for lines fitted along x and y: their largest distance from what `frame` says."""
    found, expected = _found_and_expected(pixels, image, frame)
    worst = 0.0
    for axis in (0, 1):
        ones = torch.ones_like(expected[:, axis])
        lines = torch.stack([expected[:, axis], expected[:, 1 - axis], ones], 1)
        slopes = torch.linalg.lstsq(lines, (found - expected)[:, axis : axis + 1]).solution
        worst = max(worst, float((lines @ slopes).abs().max()))
    return worst


def _found_and_expected(pixels: Tensor, image: Frame, frame: Frame) -> tuple[Tensor, Tensor]:
    """Both [N, 2], without the pixels whose interpolation reads past an edge of a frame on the way."""
    height, width = frame.size_hw
    assert tuple(pixels.shape[-2:]) == (height, width), f"{tuple(pixels.shape)} is not {frame}"
    centres = picture((height, width))[:2].reshape(2, -1).T
    centres = torch.cat([centres, centres], 1)
    ways = frame.chain[len(image.chain) - 1 :]
    scales = [max(map(abs, one.map_to(frame).scale_yx)) for one in ways]
    reach = 2.5 * max([1.0, *scales])  # of a bicubic filter, in pixels of the result
    used = torch.ones(len(centres), dtype=torch.bool)
    touched = Boxes(centres + torch.tensor([-reach, -reach, reach, reach]), frame)
    for one in ways:
        inside = touched.to(one).boxes_xyxy
        used &= (inside[:, :2] >= 0).all(1) & (inside[:, 2] <= one.size_hw[1]) & (inside[:, 3] <= one.size_hw[0])
    assert used.sum() >= 9, f"only {int(used.sum())} pixels of {frame} are left to compare"
    return pixels[:2].reshape(2, -1).T[used].double(), Boxes(centres, frame).to(image).boxes_xyxy[used, :2]
