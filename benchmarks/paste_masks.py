"""paste_masks on the CPU against torchvision's paste_masks_in_image: verified first, then measured.

50 masks of 28 x 28 in an image of 800 x 1344, boxes of 20 to 420 px: `python -m benchmarks.paste_masks`. The results
are printed; they are bool masks, which torchvision's users make of its values.
"""

from __future__ import annotations

import torch
from tests.ops import tolerances
from torchvision.models.detection.roi_heads import paste_masks_in_image

import roialign

from .implementations import ROIALIGN, TORCHVISION, Call
from .timing import Budget, time_in_turn

IMAGE_SIZE_HW, COUNT = (800, 1344), 50
BUDGET = Budget(least_repeats=3, seconds=2.0)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(COUNT, 2, generator=generator) * 400 + 20
    corners = torch.rand(COUNT, 2, generator=generator) * (torch.tensor(IMAGE_SIZE_HW[::-1]) - sides)
    boxes, masks = torch.cat([corners, corners + sides], 1), torch.rand(COUNT, 28, 28, generator=generator)
    theirs = paste_masks_in_image(masks[:, None], boxes, IMAGE_SIZE_HW)[:, 0]
    ours = roialign.paste_masks(masks, boxes, IMAGE_SIZE_HW, None, compat="torchvision")
    tolerances.assert_close(ours, theirs, masks)
    del ours, theirs
    calls: dict[str, Call] = {
        ROIALIGN: lambda: [roialign.paste_masks(masks, boxes, IMAGE_SIZE_HW, compat="torchvision")],
        f"{ROIALIGN}, detectron2's rule": lambda: [roialign.paste_masks(masks, boxes, IMAGE_SIZE_HW)],
        TORCHVISION: lambda: [paste_masks_in_image(masks[:, None], boxes, IMAGE_SIZE_HW) >= 0.5],
    }
    times = time_in_turn(calls, BUDGET)
    for name, own in times.items():
        speedup = times[TORCHVISION].median_ms / own.median_ms
        print(f"{name}: {own.median_ms:.3g} ms ({own.q1_ms:.3g} to {own.q3_ms:.3g}), {speedup:.1f}x to {TORCHVISION}")


if __name__ == "__main__":
    main()
