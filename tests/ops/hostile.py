"""Thousands of hostile calls in one process: `python hostile.py [COUNT]` exits 0 if each returns or raises well.

Well means: an output of the right shape, or an error of the RoIError family; for a direct call of a registered
operator also a RuntimeError that starts with an RA code; for `diagnose` no error at all. What is too large to
allocate may say so in torch's words. `test_bad_input.py` runs this in a child process, so that a crash is a
failed test.
"""

import json
import random
import re
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

import roialign

NAN, INF = float("nan"), float("inf")
COORDINATES = [NAN, INF, -INF, 1e30, -1e30, 3.4e38, 1e-45, -0.0, 1e9, -1e9, 1e5, 16777217.0, 0.5, 3.0, 7.25]
INDICES = [-1.0, 1e9, 0.5, NAN, INF, -0.0, 2.0, 1e30, 4294967296.0, -4294967296.0]
SCALES = [0.0, -1.0, NAN, INF, 1e38, 1e-45, 1e-320, 1e300, 1, 10**400, True, None, "1"]
RATIOS = [-1, 0, 1, 3, -(2**62), 4097, 2**62, 2**70, 1.5, None, True]
SIZES = [0, -1, 1, 3, (2, 3), (0, 2), (2, -1), (1, 2, 3), [2, 2], 2**40, 2**70, 1.5, "2", None, (None, 1), [[1], 1]]
FEATURES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
ODD_TYPES = [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
MAPS = [(2, 3, 8, 8), (2, 3, 1, 1), (2, 0, 4, 4), (0, 3, 4, 4), (2, 3, 0, 4), (2, 3, 4, 0), (3, 8, 8), (8,), ()]
HARMLESS = ([0.0, 1.0, 1.0, 5.0, 5.0], 0.5, 2, 2)


def mostly(rng: random.Random, harmless, hostile: list, odds: float = 0.35):
    return rng.choice(hostile) if rng.random() < odds else harmless


def strided(rng: random.Random, tensor: Tensor) -> Tensor:
    """The same values behind other strides."""
    choice = rng.randrange(6)
    if choice == 0 and tensor.dim() >= 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if choice == 1 and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if choice == 2 and tensor.dim() >= 1:
        return torch.stack([tensor, tensor], dim=-1)[..., 1]
    if choice == 3 and tensor.dim() >= 1 and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    if choice == 4 and tensor.dim() == 4 and tensor.numel():
        return tensor[..., :1, :].expand(tensor.shape)
    return tensor


def hostile_map(rng: random.Random) -> Tensor:
    shape = mostly(rng, MAPS[0], MAPS, 0.2)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(rng.randrange(1000))) * 4
    return strided(rng, values.to(mostly(rng, rng.choice(FEATURES), ODD_TYPES, 0.05)))


def hostile_rois(rng: random.Random, columns: int = 5) -> Tensor:
    count = rng.choice([0, 1, 2, 3, 1030] * 4 + [6000])  # so many take the kernels several passes
    rows = [
        [mostly(rng, 0.0, INDICES, 0.05), *(mostly(rng, value, COORDINATES, 0.2) for value in HARMLESS[0][1:])]
        for _ in range(min(count, 3))
    ]
    rois = torch.tensor(rows).reshape(-1, 5)[:, 5 - columns :]
    return torch.cat([rois, rois[:1].expand(count - 3, columns)]) if count > 3 else rois


def hostile_boxes(rng: random.Random, dtype: torch.dtype):
    boxes_type = mostly(rng, torch.float32 if dtype == torch.float16 else dtype, [*FEATURES, *ODD_TYPES], 0.1)
    kind = rng.choice(["rois"] * 6 + ["list", "list", "wrong columns", "flat", "nothing"])
    if kind == "rois":
        return strided(rng, hostile_rois(rng).to(boxes_type))
    if kind == "list":
        return [strided(rng, hostile_rois(rng, 4).to(boxes_type)) for _ in range(rng.randint(0, 4))]
    if kind == "wrong columns":
        return hostile_rois(rng, rng.randint(1, 4)).to(boxes_type)
    return hostile_rois(rng).flatten() if kind == "flat" else rng.choice([None, [None], 3, [[1, 2, 3, 4]], "boxes"])


def public_call(rng: random.Random) -> None:
    features = hostile_map(rng)
    boxes = hostile_boxes(rng, features.dtype)
    if rng.random() < 0.2 and features.dtype in FEATURES:
        features.requires_grad_()
    arguments = mostly(rng, 2, SIZES, 0.15), mostly(rng, 0.5, SCALES, 0.15), mostly(rng, 2, RATIOS)
    output = roialign.roi_align(features, boxes, *arguments, rng.random() < 0.5)
    count = len(boxes) if isinstance(boxes, Tensor) else sum(map(len, boxes))
    assert output.shape[:2] == (count, features.shape[1]), output.shape
    assert output.dtype == features.dtype
    if output.requires_grad:
        output.sum().backward()
        assert features.grad.shape == features.shape


def direct_call(rng: random.Random) -> None:
    """The registered operators, with arguments of the schema's types but any values."""
    features, rois = hostile_map(rng), strided(rng, hostile_rois(rng))
    rois = rois.to(mostly(rng, torch.float64 if features.dtype == torch.float64 else torch.float32, FEATURES, 0.1))
    scale = float(mostly(rng, 0.5, SCALES[:8]))
    sampling = scale, mostly(rng, 2, [-1, 0, 1, 3, -(2**62), 2**62]), rng.random() < 0.5
    height, width = (mostly(rng, 2, [0, -1, 3], 0.1) for _ in range(2))
    op = rng.choice(["roi_align", "roi_align_backward", "roi_align_backward_boxes"])
    if op == "roi_align":
        output, coverage = torch.ops.roialign.roi_align(features, rois, height, width, *sampling)
        assert output.shape == (len(rois), features.shape[1], height, width)
        assert bool(((coverage >= 0) & (coverage <= 1)).all()), coverage
        return
    channels = features.shape[1] if features.dim() == 4 else 3
    grad = torch.rand(mostly(rng, len(rois), [0, 5], 0.1), channels, max(height, 0), max(width, 0)).to(features.dtype)
    if op == "roi_align_backward":
        shape = mostly(rng, 2, [-1, 0]), mostly(rng, 8, [0, -1]), mostly(rng, 8, [0, -1])
        result = torch.ops.roialign.roi_align_backward(grad, rois, *shape, *sampling)
        assert result.shape == (shape[0], channels, *shape[1:])
    else:
        result = torch.ops.roialign.roi_align_backward_boxes(grad, features, rois, *sampling)
        assert result.shape == rois.shape


def bins_call(rng: random.Random) -> None:
    """roi_pool, ps_roi_align and ps_roi_pool: the public functions, and the registered operators likewise."""
    ops, features, rois = torch.ops.roialign, hostile_map(rng), strided(rng, hostile_rois(rng))
    scale, size = mostly(rng, 0.5, SCALES, 0.1), mostly(rng, 1, [*SIZES, (3, 1)], 0.2)
    op = rng.choice(["roi_pool", "ps_roi_align", "ps_roi_pool"])
    if rng.random() < 0.5:
        boxes, ratio = hostile_boxes(rng, features.dtype), (mostly(rng, 2, RATIOS),) if op == "ps_roi_align" else ()
        if rng.random() < 0.3 and features.dtype in FEATURES:
            features.requires_grad_()
        output = getattr(roialign, op)(features, boxes, size, scale, *ratio, mostly(rng, None, ["torchvision", 3], 0.2))
        assert output.dtype == features.dtype
        if output.requires_grad:
            output.sum().backward()
            assert features.grad.shape == features.shape
        return
    rois = rois.to(mostly(rng, torch.float64 if features.dtype == torch.float64 else torch.float32, FEATURES, 0.1))
    channels = features.shape[1] if features.dim() == 4 else 3
    pooled = [mostly(rng, 1, [0, -1, 3], 0.1) for _ in range(2)]
    grad = torch.rand(mostly(rng, len(rois), [0, 5], 0.1), channels, *(max(side, 0) for side in pooled))
    grad, scale = grad.to(features.dtype), float(mostly(rng, 0.5, SCALES[:8], 0.1))
    images = mostly(rng, 2, [-1, 0], 0.1), mostly(rng, 8, [0, -1], 0.1), mostly(rng, 8, [0, -1], 0.1)
    ratio = mostly(rng, 2, [-1, 0, 1, 3, -(2**62), 2**62])
    maxima = torch.randint(-(2**31), 2**31, mostly(rng, grad.shape, [(0, 3, 1, 1), (5,)], 0.1), dtype=torch.int32)
    rng.choice(
        [
            lambda: ops.roi_pool(features, rois, *pooled, scale, rng.random() < 0.5, rng.random() < 0.5),
            lambda: ops.roi_pool_backward(grad, maxima, rois, *images),
            lambda: ops.ps_roi_align(features, rois, *pooled, scale, ratio, rng.random() < 0.5),
            lambda: ops.ps_roi_align_backward(grad, rois, *images, scale, ratio),
            lambda: ops.ps_roi_align_backward_boxes(grad, features, rois, scale, ratio),
            lambda: ops.ps_roi_pool(features, rois, *pooled, scale, rng.random() < 0.5, rng.random() < 0.5),
            lambda: ops.ps_roi_pool_backward(grad, rois, *images, scale, rng.random() < 0.5),
        ]
    )()


def multi_scale_call(rng: random.Random) -> None:
    """The registered operators of several maps, likewise."""
    ops, maps = torch.ops.roialign, [hostile_map(rng) for _ in range(rng.choice([1, 2, 2, 3, 3, 0]))]
    rois = strided(rng, hostile_rois(rng))
    rois = rois.to(
        mostly(rng, torch.float64 if maps and maps[0].dtype == torch.float64 else torch.float32, FEATURES, 0.1)
    )
    named = [mostly(rng, rng.randrange(max(len(maps), 1)), [-1, 3, 2**62], 0.02) for _ in range(min(len(rois), 50))]
    levels = torch.tensor([*named, *[0] * (mostly(rng, len(rois), [5], 0.05) - len(named))], dtype=torch.int64)
    levels = strided(rng, levels.to(mostly(rng, torch.int64, [torch.int32, torch.float32], 0.05)))
    finite = [0.5, 0.25, 1.5, 0.0, *(scale for scale in SCALES[:8] if isinstance(scale, float))]
    count = mostly(rng, 4 * len(maps), [0, 3, 8], 0.1)
    cells = [mostly(rng, 0.5, finite, 0.05) for _ in range(count)]
    options = cells, mostly(rng, 2, [-1, 0, 1, 3, -(2**62), 2**62]), rng.random() < 0.5
    size = [mostly(rng, 2, [0, -1, 3], 0.1) for _ in range(2)]
    if rng.random() < 0.5:
        output, coverage = ops.multi_scale_roi_align(maps, rois, levels, cells, *size, *options[1:])
        assert output.shape == (len(rois), maps[0].shape[1], *size)
        assert bool(((coverage >= 0) & (coverage <= 1)).all()), coverage
        return
    grad = torch.rand(mostly(rng, len(rois), [0, 5], 0.1), 3, *(max(side, 0) for side in size))
    if maps:
        grad = grad.to(mostly(rng, maps[0].dtype, FEATURES, 0.1))
    if rng.random() < 0.5:
        assert ops.multi_scale_roi_align_backward_boxes(grad, maps, rois, levels, *options).shape == rois.shape
        return
    heights, widths = ([mostly(rng, 8, [0, -1, 3], 0.1) for _ in range(mostly(rng, len(maps), [1], 0.1))] for _ in "hw")
    results = ops.multi_scale_roi_align_backward(grad, rois, levels, mostly(rng, 2, [-1, 0]), heights, widths, *options)
    assert [list(result.shape[2:]) for result in results] == [list(pair) for pair in zip(heights, widths, strict=True)]


def family_call(rng: random.Random) -> None:
    """The registered operators beside roi_align, likewise."""
    ops, features, rois = torch.ops.roialign, hostile_map(rng), strided(rng, hostile_rois(rng))
    rois = rois.to(mostly(rng, torch.float64 if features.dtype == torch.float64 else torch.float32, FEATURES, 0.1))
    size = [mostly(rng, 2, [0, -1, 3], 0.1) for _ in range(2)]
    scale, ratio = float(mostly(rng, 0.5, SCALES[:8])), mostly(rng, 2, [-1, 0, 1, 3, -(2**62), 2**62])
    op = rng.choice(["prroi_pool", "roi_align_max", "roi_align_3d"])
    options = {
        "prroi_pool": (scale,),
        "roi_align_max": (scale, ratio, rng.random() < 0.5, rng.random() < 0.5),
        "roi_align_3d": (scale, 0.5, float(mostly(rng, 0.5, SCALES[:8])), ratio, rng.random() < 0.5),
    }[op]
    if op == "roi_align_3d":
        if features.dim() > 2:
            depth = mostly(rng, 3, [0, 1], 0.1)
            features = features.unsqueeze(2).expand(*features.shape[:2], depth, *features.shape[2:])
        rois = rois[:, [0, 1, 2, 1, 3, 4, mostly(rng, 3, [1], 0.2)]]
        size.append(mostly(rng, 2, [0, -1, 2**40], 0.1))
    backward = rng.choice(["", "_backward", "_backward_boxes"])
    if not backward:
        output, coverage = getattr(ops, op)(features, rois, *size, *options)
        assert output.shape == (len(rois), features.shape[1], *size)
        assert bool(((coverage >= 0) & (coverage <= 1)).all()), coverage
        return
    bins = [max(side, 0) % 1000 for side in size]
    grad = torch.rand(mostly(rng, len(rois), [0, 5], 0.1), 3, *bins).to(mostly(rng, features.dtype, FEATURES, 0.1))
    shape = [mostly(rng, 2, [-1, 0], 0.1), *(mostly(rng, 8, [0, -1], 0.1) for _ in size)]
    if backward == "_backward_boxes" or op == "roi_align_max":
        result = getattr(ops, op + backward)(grad, features, rois, *options)
        assert result.shape == (rois.shape if backward == "_backward_boxes" else features.shape)
    else:
        assert list(getattr(ops, op + backward)(grad, rois, *shape, *options).shape) == [shape[0], 3, *shape[1:]]


def direct_options(rng: random.Random) -> tuple[float, int]:
    return float(mostly(rng, 0.5, SCALES[:8], 0.1)), mostly(rng, 2, [-1, 0, 1, 3, -(2**62), 2**62])


def call_family(rng: random.Random, op: str, features: Tensor, own: tuple, options: tuple) -> None:
    """An operator or its gradients; `own` are its tensors besides the features, boxes first."""
    ops, rois = torch.ops.roialign, own[0]
    size = [mostly(rng, 2, [0, -1, 3], 0.05) for _ in range(2)]
    kind = rng.choice(["", "_backward", "_backward_boxes"])
    if kind == "":
        output, coverage = getattr(ops, op)(features, *own, *size, *options)
        assert output.shape == (len(rois), features.shape[1], *size)
        assert bool(((coverage >= 0) & (coverage <= 1)).all()), coverage
        return
    channels = features.shape[1] if features.dim() == 4 else 3
    grad = torch.rand(mostly(rng, len(rois), [0, 5], 0.1), channels, *(max(side, 0) for side in size))
    grad = grad.to(features.dtype)
    if kind == "_backward":
        shape = mostly(rng, 2, [-1, 0], 0.1), mostly(rng, 8, [0, -1], 0.1), mostly(rng, 8, [0, -1], 0.1)
        result = getattr(ops, op + kind)(grad, *own, *shape, *options)
        assert result.shape == (shape[0], channels, *shape[1:])
    else:
        getattr(ops, op + kind)(grad, features, *own, *options)


def rotated_call(rng: random.Random) -> None:
    features = hostile_map(rng)
    rois = strided(rng, hostile_rois(rng))
    angles = [[mostly(rng, 30.0, [*COORDINATES, 90.0, -1e-30, 1e20], 0.2)] for _ in range(min(len(rois), 3))]
    column = torch.tensor(angles).reshape(-1, 1)
    rois = torch.cat([rois, torch.cat([column, column[:1].expand(max(len(rois) - 3, 0), 1)])], 1)
    rois = rois.to(mostly(rng, torch.float64 if features.dtype == torch.float64 else torch.float32, FEATURES, 0.05))
    flags = tuple(rng.random() < 0.5 for _ in range(3))
    call_family(rng, "roi_align_rotated", features, (rois,), (*direct_options(rng), *flags))


def masked_call(rng: random.Random) -> None:
    features, rois = hostile_map(rng), strided(rng, hostile_rois(rng)[:20])
    rois = rois.to(mostly(rng, torch.float64 if features.dtype == torch.float64 else torch.float32, FEATURES, 0.05))
    shape = mostly(rng, len(rois), [0, 5], 0.05), *rng.choice([(8, 8), (1, 1), (3, 40), (0, 4)] + [(16, 16)] * 9)
    masks = torch.rand(shape) * mostly(rng, 1.0, [0.0, NAN, INF, -1.0, 1e-38], 0.1)
    masks = strided(rng, (masks > 0.5) if rng.random() < 0.4 else masks.to(rois.dtype))
    flags = rng.random() < 0.5, rng.random() < 0.5
    call_family(rng, "masked_roi_align", features, (rois, masks), (*direct_options(rng), *flags))


def diagnosed_call(rng: random.Random) -> None:
    """`diagnose` explains what others refuse: it raises for nothing, and what it says can be printed and kept."""
    features = hostile_map(rng)
    arguments = mostly(rng, 2, SIZES, 0.15), mostly(rng, 0.5, SCALES, 0.15), mostly(rng, 2, RATIOS)
    image_size = rng.choice([None, None, (16, 16), (32, 64)])
    boxes = hostile_boxes(rng, features.dtype)
    diagnosis = roialign.diagnose(features, boxes, *arguments, rng.random() < 0.5, image_size=image_size)
    assert "examined" in str(diagnosis)
    json.dumps(diagnosis.to_dict())


DIRECT_CALLS = (direct_call, multi_scale_call, bins_call, family_call, rotated_call, masked_call)


def faults(count: int) -> Iterator[str]:
    for seed in range(count):
        rng = random.Random(seed)
        call = rng.choice([public_call, *DIRECT_CALLS, diagnosed_call])
        try:
            call(rng)
        except roialign.RoIError as error:
            if call is diagnosed_call or not re.match(r"RA\d{3}: ", str(error)):
                yield f"{call.__name__} {seed}: {type(error).__name__} without a code: {error}"
        except Exception as error:
            if re.search("can't allocate memory|calculation overflowed", str(error)):
                continue
            if call not in DIRECT_CALLS or not (isinstance(error, RuntimeError) and re.match(r"RA\d{3}: ", str(error))):
                yield f"{call.__name__} {seed}: {type(error).__name__}: {str(error).splitlines()[:1]}"


if __name__ == "__main__":
    roialign.set_policy("ignore")
    found = list(faults(int(sys.argv[1]) if len(sys.argv) > 1 else 4000))
    kinds = {re.sub(r"call \d+", "call", fault)[:70]: fault for fault in found}  # one of each is enough to read
    print(*kinds.values(), f"{len(found)} faults", sep="\n")
    sys.exit(bool(found))
