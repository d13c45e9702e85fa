"""Training of Faster R-CNN and Mask R-CNN on a folder of photographs: docs/detection.md."""
