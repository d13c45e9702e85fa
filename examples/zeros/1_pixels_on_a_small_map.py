"""The mistake: boxes in image pixels on a map 16 times smaller. Every feature is zero, and nothing says so.

Run it under the doctor:  roialign doctor examples/zeros/1_pixels_on_a_small_map.py
"""

import torch
from torchvision.ops import roi_align

torch.manual_seed(0)
features = torch.rand(1, 256, 64, 64)  # of a 1024 x 1024 image: the backbone's total stride is 16
boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]

regions = roi_align(features, boxes, output_size=(7, 7), spatial_scale=1.0, sampling_ratio=2)

print("shape:", tuple(regions.shape))
print("largest value of each region:", regions.amax(dim=(1, 2, 3)).tolist())
