"""Whether cells are in the order of the image where the structure is unknown: the centroids of all of them at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from roialign.backbones.layout import Layout
from roialign.backbones.measure import undisturbed
from roialign.backbones.measure_ops import PositiveMode
from roialign.backbones.order import misplaced

_MOST_PIXELS = 1 << 20
_LINEAR = 1e-6


def misplaced_cells(
    backbone: nn.Module, image_hw: tuple[int, int], channels: int, levels: Mapping[str, Layout]
) -> dict[str, str]:
    """For each level whose cells are not in the order of the image two cells that are not, as a sentence.

    The module in its positive form is linear, so what it makes of an image of coordinates, divided by what it makes of
    ones, are the centroids of all cells. No level is judged where it is not linear, or does not run.
    """
    device = next((tensor.device for tensor in backbone.parameters()), torch.device("cpu"))
    scripted = any(isinstance(module, torch.jit.ScriptModule) for module in backbone.modules())
    if scripted or device.type == "meta" or image_hw[0] * image_hw[1] > _MOST_PIXELS or not levels:
        return {}
    y, x = (torch.arange(size, dtype=torch.float64, device=device) + 0.5 for size in image_hw)
    images = torch.stack(torch.broadcast_tensors(torch.ones_like(y)[:, None], y[:, None], x, y[:, None] + 2 * x))
    with undisturbed(backbone, device):
        try:
            runs = [_run(backbone, image.expand(1, channels, *image_hw), levels) for image in images]
        except Exception:  # the module's own
            return {}
    found = {}
    for name in levels:
        ones, down, across, both = (run[name] for run in runs)
        if not torch.allclose(both, down + 2 * across, rtol=_LINEAR, atol=_LINEAR):
            continue
        said = misplaced(torch.stack([down, across]) / ones)
        if said is not None:
            found[name] = said
    return found


def _run(backbone: nn.Module, image: Tensor, levels: Mapping[str, Layout]) -> dict[str, Tensor]:
    """Each map [H, W], over all channels."""
    with PositiveMode():
        outputs = backbone(image.clone().requires_grad_() * 1.0)  # not a leaf: modules may write into it
    return {name: layout.find(outputs).detach()[0].sum(0).cpu() for name, layout in levels.items()}
