"""The GPU kernels: verified against the reference in float64, then timed against torchvision's CUDA operators."""
