"""How fast libraries decode photographs in memory, on one thread, and whether their pixels are Pillow's."""

from __future__ import annotations

import importlib.util
import io
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.photographs import load_photographs

from .kept import Kept

FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("JPEG", {"quality": 90}),
    "PNG": ("PNG", {}),
    "WebP": ("WEBP", {"quality": 90}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
}
"""What photographs are written as: Pillow's name and options."""
PILLOW = "Pillow"
Row = dict[str, Any]
Pixels = Callable[[bytes], np.ndarray]


def speeds(photographs: int | None, rounds: int, kept: Kept) -> Iterator[Row]:
    """Of each format and each library that is installed; all in turn for each photograph."""
    for name in FORMATS:
        yield from kept.result(f"decoders/{name}", {"rounds": rounds}, partial(_of, name, photographs, rounds))


def decoders() -> dict[str, tuple[str, Pixels]]:
    """The distribution and a function from a file's bytes to [H, W, 3] uint8, by name, of those that are installed."""
    makers = {
        PILLOW: ("PIL", "pillow", _pillow),
        "torchvision": ("torchvision", "torchvision", _torchvision),
        "OpenCV": ("cv2", "opencv-python-headless", _opencv),
        "simplejpeg": ("simplejpeg", "simplejpeg", _simplejpeg),
        "libvips": ("pyvips", "pyvips-binary", _libvips),
    }
    found = {}
    for name, (module, distribution, make) in makers.items():
        if importlib.util.find_spec(module) is None:
            print(f"decoders: {name}: left out, {distribution} is not installed", flush=True)
        else:
            found[name] = (distribution, make())
    return found


def _of(name: str, photographs: int | None, rounds: int) -> list[Row]:
    files = [_written(picture, name) for picture in load_photographs()[:photographs]]
    installed = decoders()
    ways = {way: decode for way, (_, decode) in installed.items() if _reads(decode, files[0])}
    times = {way: list[float]() for way in ways}
    worst = dict.fromkeys(ways, 0)
    for data in files:
        expected = ways[PILLOW](data).astype(int)
        for way, decode in ways.items():
            worst[way] = max(worst[way], int(np.abs(decode(data) - expected).max()))
        for way, ms in _in_turn(ways, data, rounds).items():
            times[way].append(ms / (expected.shape[0] * expected.shape[1] / 1e6))
    rows: list[Row] = []
    for way, (distribution, _) in installed.items():
        rows.append({"format": name, "decoder": way, "version": version(distribution), "photographs": len(files)})
        if way in ways:
            median, least, most = statistics.median(times[way]), min(times[way]), max(times[way])
            rows[-1] |= {"ms_per_megapixel": median, "least": least, "most": most, "largest_difference": worst[way]}
            print(f"  {name}, {way}: {median:.1f} ms a megapixel", flush=True)
    return rows


def _reads(decode: Pixels, data: bytes) -> bool:
    try:
        decode(data)
    except (RuntimeError, ValueError):
        return False
    return True


def _in_turn(ways: Mapping[str, Pixels], data: bytes, rounds: int) -> dict[str, float]:
    """The median of each, in milliseconds."""
    taken = {way: list[float]() for way in ways}
    for number in range(rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            begin = time.perf_counter()
            ways[way](data)
            taken[way].append(1000 * (time.perf_counter() - begin))
    return {way: statistics.median(times) for way, times in taken.items()}


def _written(picture: Image.Image, name: str) -> bytes:
    written, (kind, options) = io.BytesIO(), FORMATS[name]
    picture.save(written, kind, **options)
    return written.getvalue()


def _pillow() -> Pixels:
    return lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _torchvision() -> Pixels:
    from torchvision.io import ImageReadMode, decode_image

    torch.set_num_threads(1)

    def decode(data: bytes) -> np.ndarray:
        pixels = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        return pixels.permute(1, 2, 0).numpy()

    return decode


def _opencv() -> Pixels:
    import cv2

    cv2.setNumThreads(1)
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _simplejpeg() -> Pixels:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, "RGB")


def _libvips() -> Pixels:
    os.environ.setdefault("VIPS_CONCURRENCY", "1")  # read when the library is loaded
    import pyvips

    pyvips.cache_set_max(0)
    return lambda data: pyvips.Image.new_from_buffer(data, "").numpy()[..., :3]
