"""Models of torchvision, timm and transformers, traced at two sizes each and checked by brute force."""
