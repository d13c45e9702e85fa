"""mmdetection's `SingleRoIExtractor` on roialign's operators; mmdetection itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roialign.errors import OptionError
from roialign.geometry import FeatureGrid
from roialign.regions.pool import pool


class SingleRoIExtractor(nn.Module):
    """mmdetection's extractor: its arguments, its numbers, all levels in one call.

    Convention: rois [K, 5] of batch index, x1, y1, x2, y2, in pixels of the image that entered the backbone.

    Args:
        roi_layer: the configuration of mmcv's layer: dict(type="RoIAlign", output_size=7, sampling_ratio=0); with
            mmcv's default of aligned=True.
        out_channels: of the maps, which mmdetection's heads ask for.
        featmap_strides: pixels per cell of each level.
        finest_scale: boxes below twice this size, the root of the area in pixels, go to the first level.

    Raises:
        OptionError: RA506, for another layer than RoIAlign with averages.

    Deterministic. Source: mmdetection's models/roi_heads/roi_extractors/single_level_roi_extractor.py; checked against
    a stand-in of its interface.

    Example:
        >>> extractor = SingleRoIExtractor(dict(type="RoIAlign", output_size=7, sampling_ratio=0), 8, [8, 16])
        >>> maps = torch.rand(1, 8, 32, 48), torch.rand(1, 8, 16, 24)
        >>> extractor(maps, torch.tensor([[0.0, 20.0, 30.0, 120.0, 90.0]])).shape
        torch.Size([1, 8, 7, 7])
    """

    def __init__(
        self,
        roi_layer: Mapping[str, Any],
        out_channels: int,
        featmap_strides: Sequence[int],
        finest_scale: int = 56,
    ) -> None:
        super().__init__()
        options = dict(roi_layer)
        kind, mode = options.pop("type", None), options.pop("pool_mode", "avg")
        options.pop("use_torchvision", None)  # the same numbers
        self.output_size = options.pop("output_size", None)
        self.sampling_ratio = options.pop("sampling_ratio", 0)
        self.aligned = options.pop("aligned", True)
        if kind != "RoIAlign" or mode != "avg" or options:
            raise OptionError(
                f'RA506: expected roi_layer=dict(type="RoIAlign", output_size=..., sampling_ratio=...); got '
                f"{dict(roi_layer)}. Keep mmdetection's own extractor for it."
            )
        self.out_channels = out_channels
        self.featmap_strides = list(featmap_strides)
        self.finest_scale = finest_scale

    @property
    def num_inputs(self) -> int:
        """How many maps are pooled from."""
        return len(self.featmap_strides)

    def map_roi_levels(self, rois: Tensor, num_levels: int) -> Tensor:
        """The level [K] of each of `rois` [K, 5]."""
        return self._levels(rois[:, 1:], num_levels)

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pool [K, C, height, width].

        Args:
            feats: feature maps [N, C, H, W], in the order of `featmap_strides`; those beyond are left alone.
            rois: [K, 5].
            roi_scale_factor: enlarges each box about its centre after its level was chosen.
        """
        maps = list(feats[: self.num_inputs])
        grids = [
            FeatureGrid((one.shape[2], one.shape[3]), (float(stride), float(stride)))
            for one, stride in zip(maps, self.featmap_strides, strict=True)
        ]
        levels = self._levels(rois[:, 1:], len(maps))
        if roi_scale_factor is not None:
            rois = _enlarged(rois, roi_scale_factor)
        return pool(maps, rois, self.output_size, grids, levels, self.sampling_ratio, self.aligned)[0]

    def _levels(self, boxes_xyxy: Tensor, levels: int) -> Tensor:
        size = ((boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])).sqrt()
        return (size / self.finest_scale + 1e-6).log2().floor().clamp(0, levels - 1).nan_to_num().to(torch.int64)


def _enlarged(rois: Tensor, factor: float) -> Tensor:
    centres, halves = (rois[:, 1:3] + rois[:, 3:5]) / 2, (rois[:, 3:5] - rois[:, 1:3]) * (factor / 2)
    return torch.cat([rois[:, :1], centres - halves, centres + halves], 1)
