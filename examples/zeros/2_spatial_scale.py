"""The first way to do it right: boxes in image pixels, spatial_scale = 1 / stride.

Run it under the doctor:  roialign doctor examples/zeros/2_spatial_scale.py
"""

import torch
from torchvision.ops import roi_align

torch.manual_seed(0)
features = torch.rand(1, 256, 64, 64)  # of a 1024 x 1024 image: the backbone's total stride is 16
boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]

regions = roi_align(features, boxes, output_size=(7, 7), spatial_scale=1 / 16, sampling_ratio=2)

print("shape:", tuple(regions.shape))
print("largest value of each region:", regions.amax(dim=(1, 2, 3)).tolist())
