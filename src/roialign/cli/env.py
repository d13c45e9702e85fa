"""`roialign env`: what a bug report should say."""

from __future__ import annotations

import platform
from importlib import metadata

import torch

from roialign.ops import backends, native
from roialign.version import __version__

_PEERS = ("torchvision", "timm", "transformers", "onnxruntime", "triton", "numpy")


def run() -> None:
    """Print one fact a line."""
    print(f"roialign          {__version__}")
    print(f"Python            {platform.python_version()} on {platform.platform()}")
    print(f"torch             {torch.__version__}")
    for peer in _PEERS:
        print(f"{peer:<17} {_version(peer)}")
    print(f"CPU               {_cpu_name()}, {torch.get_num_threads()} threads")
    print(f"instruction set   {torch.backends.cpu.get_cpu_capability()}")
    print(f"GPU               {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}")
    for backend in backends.BACKENDS:
        capability = f", {backends.cpu_capability()}" if backend.device_type == "cpu" else ""
        print(f"{backend.name + ' kernels':<17} {backend.why_not or 'loaded' + capability}")
    print(f"library           {native.CPU_LIBRARY if native.CPU_LIBRARY.exists() else 'none'}")
    width = max(map(len, backends.names()))
    print(f"\n{'operator':<{width}} CPU         GPU")
    for op in backends.names():
        print(f"{op:<{width}} {backends.serving(op, 'cpu'):<11} {backends.serving(op, 'cuda')}")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
