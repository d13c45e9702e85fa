"""The kernels, and what they share: the sampling rule, boxes, tiles."""
