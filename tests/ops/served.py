"""What serves the operators, side by side: the kernels, and the reference, with the same names and arguments."""

from types import SimpleNamespace

import torch

from roialign.ops import registered

kernels = torch.ops.roialign
reference = SimpleNamespace(**registered.REFERENCE)
