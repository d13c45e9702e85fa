"""What a scripted MultiScaleRoIAlign does, in TorchScript's terms. Levels are chosen here for eager code, too."""

import math
from typing import TYPE_CHECKING, Dict, List, Tuple  # noqa: UP035  TorchScript knows these names

import torch
from torch import Tensor

from roialign.ops.scripting import AnyBoxes, scripted_rois
from roialign.regions.strides import ascending, infer_stride_yx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Maps = Mapping[str, Tensor]
    Shapes = Sequence[tuple[int, int]]
else:
    Maps = Dict[str, Tensor]  # noqa: UP006
    Shapes = List[Tuple[int, int]]  # noqa: UP006


def levels_by_size(
    boxes_xyxy: Tensor,
    steps: List[float],  # noqa: UP006
    canonical_size: float,
    canonical_level: float,
) -> Tensor:
    """The level [K] of each box [K, 4] among maps whose strides have these binary logarithms; see `FPNLevels`."""
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    sizes = (sides[:, 0] * sides[:, 1]).sqrt()
    asked_for = canonical_level + torch.log2(sizes / canonical_size) + 1e-6  # torchvision's margin
    order = ascending(steps)
    rising = torch.tensor([steps[level] for level in order], dtype=asked_for.dtype, device=asked_for.device)
    rank = (asked_for[:, None] >= rising[1:]).sum(1)
    return torch.tensor(order, device=rank.device)[rank]


def scripted_multi_scale_roi_align(
    x: Maps,
    boxes: AnyBoxes,
    image_shapes: Shapes,
    featmap_names: List[str],  # noqa: UP006
    given_names: List[str],  # noqa: UP006
    given_cells: List[List[float]],  # noqa: UP006
    output_size_hw: Tuple[int, int],  # noqa: UP006
    sampling_ratio: int,
    canonical_size: float,
    canonical_level: float,
    aligned: bool,
) -> Tensor:
    """What the module does, without what it checks and says; see `MultiScaleRoIAlign`.

    `given_cells` has scales and shifts of the maps whose grids were given, in their order or by `given_names`.
    """
    maps: List[Tensor] = []  # noqa: UP006
    cells: List[float] = []  # noqa: UP006
    strides: List[float] = []  # noqa: UP006
    for name, one in x.items():
        if name in featmap_names:
            if len(given_cells) > 0:
                of_map = given_cells[given_names.index(name) if len(given_names) > 0 else len(maps)]
            else:
                of_map = _inferred_cells(one, image_shapes, aligned)
            maps.append(one)
            cells.extend(of_map)
            strides.append(math.sqrt(1.0 / (of_map[0] * of_map[2])))
    if len(maps) == 0:
        raise RuntimeError("RA401: expected feature maps with the names of featmap_names; got none of them.")
    rois = scripted_rois(boxes, maps[0])
    if len(maps) > 1:
        steps: List[float] = torch.tensor(strides, dtype=torch.float64).log2().tolist()  # noqa: UP006
        levels = levels_by_size(rois[:, 1:].detach(), steps, canonical_size, canonical_level)
    else:
        levels = torch.zeros(rois.shape[0], dtype=torch.int64, device=rois.device)
    height, width = output_size_hw
    pooled: Tensor = torch.ops.roialign.multi_scale_roi_align(
        maps, rois, levels, cells, height, width, sampling_ratio, not aligned
    )[0]
    return pooled


def _inferred_cells(one: Tensor, image_shapes: Shapes, aligned: bool) -> List[float]:  # noqa: UP006
    height, width = 0, 0
    for image_height, image_width in image_shapes:
        height, width = max(height, image_height), max(width, image_width)
    stride_y, stride_x = infer_stride_yx((height, width), (one.shape[2], one.shape[3]))
    shift = 0.5 if aligned else 0.0
    return [1.0 / stride_y, shift, 1.0 / stride_x, shift]
