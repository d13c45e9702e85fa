"""roi_pool on the CPU against torchvision's: see `benchmarks/bins.py`."""

from .bins import main

if __name__ == "__main__":
    main("roi_pool")
