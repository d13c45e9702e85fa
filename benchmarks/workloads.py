"""What the benchmark pools: feature maps and boxes as detectors meet them, the same ones at every run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SAMPLING_RATIOS = (2, 0)


@dataclass(frozen=True)
class Level:
    """One feature map [1, C, H, W] and the rois [K, 5] that are pooled from it."""

    features: Tensor
    rois: Tensor
    spatial_scale: float


@dataclass(frozen=True)
class Workload:
    """Boxes of an image on its feature map, or on the maps of its pyramid."""

    name: str
    channels: int
    image_size_hw: tuple[int, int]
    strides: tuple[int, ...]
    boxes: int
    side_px: tuple[float, float]
    output_size: int
    log_uniform: bool = False

    @property
    def description(self) -> str:
        """The workload in a few words, for tables."""
        height, width = self.image_size_hw
        low, high = self.side_px
        stride = self.strides[0]
        if len(self.strides) == 1:
            maps = f"{self.channels}x{height // stride}x{width // stride} at stride {stride}"
        else:
            maps = f"{self.channels} channels at strides {', '.join(map(str, self.strides))}, image {height}x{width}"
        return f"{self.boxes} boxes of {low:g} to {high:g} px, {maps}, {self.output_size}x{self.output_size} bins"

    def shrunk(self) -> Workload:
        """The same with fewer channels and boxes, for smoke runs."""
        return replace(self, channels=max(8, self.channels // 16), boxes=max(2, self.boxes // 10))

    def make_boxes(self) -> Tensor:
        """Boxes [K, 4] that lie in the image."""
        generator = torch.Generator().manual_seed(1)
        low, high = self.side_px
        fractions = torch.rand(self.boxes, 2, generator=generator)
        sides = low * (high / low) ** fractions if self.log_uniform else low + (high - low) * fractions
        height, width = self.image_size_hw
        corners = torch.rand(self.boxes, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        return torch.cat([corners, corners + sides], 1)

    def level_of_each(self, boxes_xyxy: Tensor) -> Tensor:
        """The index of the map that each box is pooled from: by size, as feature pyramid networks do it."""
        if len(self.strides) == 1:
            return torch.zeros(len(boxes_xyxy), dtype=torch.int64)
        area_px = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
        level = torch.floor(4 + torch.log2(area_px.sqrt() / 224)).long()
        coarsest = round(math.log2(self.strides[-1]))
        return level.clamp(coarsest - len(self.strides) + 1, coarsest) - (coarsest - len(self.strides) + 1)


@dataclass(frozen=True)
class Setting:
    """What is computed: a workload with the options that are varied."""

    workload: Workload
    sampling_ratio: int
    dtype: str = "float32"
    layout: str = "NCHW"

    def __str__(self) -> str:
        return f"{self.workload.name}, sampling_ratio {self.sampling_ratio}, {self.dtype}, {self.layout}"

    @property
    def options(self) -> str:
        """The sampling ratio in words."""
        return f"sampling_ratio {self.sampling_ratio}" if self.sampling_ratio else "adaptive"

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    def levels(self) -> list[Level]:
        """The inputs, one level for each stride."""
        workload, levels = self.workload, []
        boxes_xyxy = workload.make_boxes()
        level_of_each = workload.level_of_each(boxes_xyxy)
        for index, stride in enumerate(workload.strides):
            size_hw = (side_px // stride for side_px in workload.image_size_hw)
            features = seeded_randn((1, workload.channels, *size_hw), seed=index).to(self.torch_dtype)
            here = boxes_xyxy[level_of_each == index]
            rois = torch.cat([torch.zeros(len(here), 1), here], 1)
            levels.append(Level(features.contiguous(memory_format=LAYOUTS[self.layout]), rois, 1 / stride))
        return levels

    def upstream_like(self, outputs: list[Tensor]) -> list[Tensor]:
        """A gradient for each output, in its type and layout."""
        return [
            torch.empty_like(output).copy_(seeded_randn(output.shape, seed=100 + index))
            for index, output in enumerate(outputs)
        ]


def seeded_randn(shape: tuple[int, ...], seed: int) -> Tensor:
    """Normally distributed float32 numbers, the same ones for the same shape and seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WORKLOADS = (
    Workload("W1", 256, (800, 1344), (4,), 1000, (7, 55), 7),
    Workload("W2", 1024, (800, 1344), (16,), 300, (12, 250), 14),
    Workload("W3", 256, (800, 1344), (4, 8, 16, 32), 1000, (16, 700), 7, log_uniform=True),
    Workload("W4", 256, (1024, 1024), (16,), 2, (50, 250), 7),
)
