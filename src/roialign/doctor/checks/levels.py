"""Checks of torchvision's MultiScaleRoIAlign: RA401 to RA405. Each is a pure function of one of its runs.

A run makes one call of `roi_align` for each map; what is wrong with the run is said once, at the call with most boxes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

from roialign.doctor.evidence import COMMON_STRIDES, likelihood_of_reach, mean, number, rows_where
from roialign.doctor.findings import Finding, Fix
from roialign.doctor.lines import IN_ORDER, ONLY_IF_EXCHANGED, in_order, listed, masked_later
from roialign.doctor.pyramid import Pyramid
from roialign.ops.calls import RoICall

_MOST_OFF = 1.0  # cells, at the far edge of a map: more than rounded sizes explain
_LEAST_RELATIVE = 0.1  # of the scale, of strides that sizes tell: convolutions without padding lose cells, too
_DECIDED = 20  # times as likely, by where the boxes end


def fault(run: Pyramid, call: RoICall) -> Finding | None:
    """The surest fault of a run whose maps are [N, C, H, W]; of others the calls themselves tell."""
    if _axes_misread(run, call):
        return None
    checks = (wrong_order, stale_scales, inferred_scales, missing_level, unreachable_levels)
    return next((finding for check in checks if (finding := check(run, call))), None)


def boxes_without_a_size(run: Pyramid, call: RoICall) -> Finding | None:
    """RA204 and RA205, of boxes that no call of `roi_align` ever gets."""
    nowhere = (run.asked_for.isnan() & (len(run.names) > 1)).cpu()
    if not bool(nowhere.any()):
        return None
    rows = run.rois.cpu()
    is_inverted = bool(rows.isfinite().all(1)[nowhere].all())
    row = int(nowhere.nonzero()[0])
    shown = ", ".join(f"{value:g}" for value in rows[row, 1:].tolist())
    evidence = (
        f"{int(nowhere.sum())} of {len(rows)} boxes given to {_the_pooler(run)} have an area that is negative or not "
        f"a number; the first is [{shown}], of image {int(rows[row, 0])}. It chooses the map by the root of the "
        "area, so these boxes find none and become zeros."
    )
    if not is_inverted:
        return Finding("RA205", evidence, decide=masked_later(rows_where(nowhere)))
    kept = replace(run, boxes=tuple(in_order(some) for some in run.boxes))
    fix = _fix("boxes", f"boxes = [{IN_ORDER} for b in boxes]", run, kept, call)
    return Finding("RA204", evidence, fix=fix, decide=ONLY_IF_EXCHANGED)


def wrong_order(run: Pyramid, call: RoICall) -> Finding | None:
    """RA402: a coarse map before a finer one."""
    sizes = run.map_sizes_hw
    if all(a[0] >= b[0] and a[1] >= b[1] for a, b in pairwise(sizes)):
        return None
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index][0] * sizes[index][1])
    right = run.in_order(order, run.inferred(run.image_sizes_hw))
    at_right = [order[level] if 0 <= level < len(order) else -1 for level in right.levels.tolist()]
    at_now = [level if 0 <= level < len(order) else -1 for level in run.levels.tolist()]
    lost = sum(now < 0 <= then for now, then in zip(at_now, at_right, strict=True))
    moved = sum(now >= 0 and now != then for now, then in zip(at_now, at_right, strict=True))
    if not lost + moved:
        return None
    become = [f"{lost} find no map and become zeros"] * (lost > 0)
    become += [f"{moved} are pooled from the map of another level"] * (moved > 0)
    evidence = (
        f"{_the_pooler(run)} gets its maps in the order {_the_maps(run)}: a coarse one comes before a finer one. It "
        "keeps the order of the dict, whatever featmap_names says, and takes the first map for the finest level. Of "
        f"{len(at_now)} boxes {listed(become)}."
    )
    names = ", ".join(_quoted(run.names[index]) for index in order)
    code = f"features = {{name: features[name] for name in [{names}]}}  # fine before coarse"
    return Finding("RA402", evidence, fix=_fix("features", code, run, right, call))


def missing_level(run: Pyramid, call: RoICall) -> Finding | None:
    """RA401: boxes are sent to a level for which there is no map."""
    strides = [round(-math.log2(scale)) for scale in run.scales]
    missing = [2**step for step in range(run.least, run.most + 1) if step not in strides]
    if not missing:
        return None
    lost = int(run.lost.sum())
    first = round(math.log2(missing[0])) - run.least
    moved = (run.levels >= first) & ~run.lost & (run.levels < len(run.names))
    concerned = moved | run.lost
    if not bool(concerned.any()):
        return None
    right, code = _with_the_missing(run, missing) or _by_grids(run, call)
    least = min((run.rois[:, 3:] - run.rois[:, 1:3]).prod(1).sqrt()[concerned.to(run.rois.device)].tolist())
    become = [f"{lost} become zeros"] * (lost > 0)
    become += [f"{int(moved.sum())} are pooled from a coarser map than they should be"] * bool(moved.any())
    evidence = (
        f"{_the_pooler(run)} pools from {_the_maps(run)}; there is none of stride {listed(missing)}. It counts "
        f"levels from the first map's stride to the last one's, {run.most - run.least + 1} of them, and takes its "
        f"{len(run.names)} maps for the first {len(run.names)}. Boxes of {least:.0f} pixels and more (the root of "
        f"their area) go to the missing level or beyond it: of {len(run.rois)} boxes {listed(become)}."
    )
    return Finding("RA401", evidence, fix=_fix("featmap_names", code, run, right, call))


def unreachable_levels(run: Pyramid, call: RoICall) -> Finding | None:
    """RA405: maps of one stride, of which the pooler reads the first alone."""
    reached = max(run.most - run.least + 1, 0)
    repeated = [scale for scale in run.scales if run.scales.count(scale) > 1]
    if len(run.names) <= reached or not repeated:
        return None
    if len(run.names) == 2 and run.others:
        return None  # torchvision's own detectors on mobilenet_v3_large: two maps of stride 32, and one for proposals
    same = [_quoted(name) for name, scale in zip(run.names, run.scales, strict=True) if scale == repeated[0]]
    never = [_quoted(name) for name in run.names[reached:]]
    evidence = (
        f"{_the_pooler(run)} pools from {_the_maps(run)}: {listed(same)} have the same stride. It sends a box to the "
        f"level of its size and counts levels by stride, from the first map's to the last one's, {reached} of them for "
        f"{len(run.names)} maps: {listed(never)} can never be given a box."
    )
    names = ", ".join(map(_quoted, run.names))
    size, _ = _options(call)
    decide = (
        "Give it maps of different strides (replace_stride_with_dilation=False keeps them), or pool all boxes from "
        f"each and concatenate the channels: torch.cat([MultiScaleRoIAlign([name], {size}, "
        f"{call.sampling_ratio})(features, boxes, image_shapes) for name in [{names}]], 1)"
    )
    return Finding("RA405", evidence, decide=decide, doubtful=len(never) == 1)


def stale_scales(run: Pyramid, call: RoICall) -> Finding | None:
    """RA404: the scales are of an earlier run, and those of this one would be others."""
    now = run.inferred(run.image_sizes_hw)
    if not run.cached or now == run.scales:
        return None
    right = _true_scales(run) or now
    if any(abs(math.log2(a / b)) > 0.25 for a, b in zip(now, right, strict=True)) or not _is_wrong(run, right):
        return None
    strides = _strides(run, now)
    worst = _worst(run, strides)
    height, width = _largest(run)
    kept, inferred = (listed([number(scale) for scale in scales]) for scales in (run.scales, now))
    evidence = (
        f"{_the_pooler(run)} inferred its scales, {kept}, in its first run and keeps them. In this run, of images of "
        f"up to {height} x {width}, it would infer {inferred}. With the old ones "
        f"{_how_far_off(run, worst, *strides[worst])}."
    )
    code = f"{run.pooler}.scales = None  # of the MultiScaleRoIAlign, before this run: it infers them again"
    return Finding(
        "RA404", evidence, tuple(range(len(call.rois))), _fix("scales", code, run, run.with_scales(now), call)
    )


def inferred_scales(run: Pyramid, call: RoICall) -> Finding | None:
    """RA403: the scale that was inferred from the heights is not that of the map."""
    right = _true_scales(run)
    if right is None or not _is_wrong(run, right):
        return None
    strides = _strides(run, run.scales)
    worst = _worst(run, strides)
    height, width = _largest(run)
    image_h, image_w = run.padded_hw or (height, width)
    rows, columns = run.map_sizes_hw[worst]
    how = "the backbone was traced" if run.traced else f"{rows} x {columns} cells of an image of {image_h} x {image_w}"
    down, across = strides[worst]
    stride = f"{down:.4g}" if down == across else f"{down:.4g} vertically and {across:.4g} horizontally"
    evidence = (
        f"From image_shapes of up to {height} x {width} {_the_pooler(run)} inferred the scale "
        f"{number(run.scales[worst])} for map {_quoted(run.names[worst])}: a power of two, from the height alone. The "
        f"real stride is {stride} ({how}). So {_how_far_off(run, worst, down, across)}."
    )
    if any(abs(y / x - 1) * max(size) > _MOST_OFF for (y, x), size in zip(strides, run.map_sizes_hw, strict=True)):
        repaired, code = _by_grids(run, call)
    elif run.padded_hw and run.inferred([run.padded_hw]) == right and not run.pooler.startswith("model"):
        repaired = run.with_scales(right)
        times = f" * {len(run.boxes)}" if len(run.boxes) > 1 else ""
        code = f"{run.pooler}(features, boxes, [({image_h}, {image_w})]{times})  # the size that entered"
    else:
        repaired = run.with_scales(right)
        code = (
            "from torchvision.ops.poolers import initLevelMapper\n"
            f"{run.pooler}.scales = [{', '.join(map(number, right))}]\n"
            f"{run.pooler}.map_levels = initLevelMapper({repaired.least}, {repaired.most})"
        )
    return Finding("RA403", evidence, tuple(range(len(call.rois))), _fix("scales", code, run, repaired, call))


def _axes_misread(run: Pyramid, call: RoICall) -> bool:
    """Whether no stride leads from the image to the map as it is, but one to the map with other axes."""

    def explained(rows: int, columns: int) -> bool:
        pairs = [(run.padded_hw[0], rows), (run.padded_hw[1], columns)] if run.padded_hw else []
        return any(all(abs(image / stride - cells) < 1 for image, cells in pairs) for stride in COMMON_STRIDES)

    _, axis_1, axis_2, axis_3 = call.features_shape
    return not explained(axis_2, axis_3) and (explained(axis_3, axis_2) or explained(axis_1, axis_2))


def _true_scales(run: Pyramid) -> tuple[float, ...] | None:
    """The inverse of each map's stride down, where all are known."""
    known = [stride for stride in run.strides_yx if stride is not None]
    return tuple(1 / down for down, _ in known) if len(known) == len(run.strides_yx) else None


def _strides(run: Pyramid, scales: tuple[float, ...]) -> list[tuple[float, float]]:
    """The known strides, or the inverse of these scales."""
    return [stride or (1 / scale, 1 / scale) for stride, scale in zip(run.strides_yx, scales, strict=True)]


def _is_wrong(run: Pyramid, right: tuple[float, ...]) -> bool:
    """Whether the scales are not the right ones, and the boxes do not say that they are in a frame of their own.

    Image sizes that are not those of the tensor that entered may belong to boxes of that other size, for which the
    scales are right: then only boxes that end where no others would decide.
    """
    if not len(run.rois):
        return False
    strides = _strides(run, right)
    worst = _worst(run, strides)
    relative = max(abs(run.scales[worst] * stride - 1) for stride in strides[worst])
    if _cells_off(run, worst, *strides[worst]) <= _MOST_OFF or (relative <= _LEAST_RELATIVE and not run.traced):
        return False
    both = ((1 / run.scales[0], 1 / run.scales[0]), strides[0])
    as_it_is, repaired = (likelihood_of_reach(_reach(run, stride), len(run.rois)) for stride in both)
    given = _largest(run)
    same = run.padded_hw and all(0.9 * a <= b <= a for a, b in zip(run.padded_hw, given, strict=True))
    return repaired > _DECIDED * as_it_is or (bool(same) and as_it_is <= 5 * repaired)


def _reach(run: Pyramid, stride_yx: tuple[float, float]) -> float:
    """The share of the first map that the boxes reach over with these strides."""
    x, y = run.rois[:, 1:3].maximum(run.rois[:, 3:]).amax(0).tolist()
    height, width = run.map_sizes_hw[0]
    return float(max(y / stride_yx[0] / height, x / stride_yx[1] / width))


def _cells_off(run: Pyramid, index: int, down: float, across: float) -> float:
    """How many cells beside its place a box at the far edge of a map is read."""
    height, width = run.map_sizes_hw[index]
    return max(abs(run.scales[index] * down - 1) * height, abs(run.scales[index] * across - 1) * width)


def _worst(run: Pyramid, strides: list[tuple[float, float]]) -> int:
    return max(range(len(strides)), key=lambda index: _cells_off(run, index, *strides[index]))


def _with_the_missing(run: Pyramid, missing: list[int]) -> tuple[Pyramid, str] | None:
    """The run with the maps that it leaves out, if they are those that are missing."""
    scales = dict(zip(run.others, run.inferred(run.image_sizes_hw, run.other_sizes_hw), strict=True))
    wanted = [name for name, scale in scales.items() if 1 / scale in missing]
    if len(wanted) != len(missing):
        return None
    sizes = dict(zip((*run.names, *run.others), (*run.map_sizes_hw, *run.other_sizes_hw), strict=True))
    names = sorted((*run.names, *wanted), key=lambda name: -sizes[name][0] * sizes[name][1])
    scales |= dict(zip(run.names, run.scales, strict=True))
    whole = replace(
        run,
        names=tuple(names),
        map_sizes_hw=tuple(sizes[name] for name in names),
        strides_yx=(None,) * len(names),
    ).with_scales([scales[name] for name in names])
    return whole, f"MultiScaleRoIAlign(featmap_names=[{', '.join(map(_quoted, names))}], {{options}})"


def _by_grids(run: Pyramid, call: RoICall) -> tuple[Pyramid, str]:
    """The run with `pool_regions`, whose levels leave no box out; read as torchvision reads, aligned=False."""
    grids = [run.grid(index) for index in range(len(run.names))]
    lines = ", ".join(
        f"FeatureGrid({grid.size_hw}, ({grid.stride_yx[0]:.6g}, {grid.stride_yx[1]:.6g}), offset_yx=(0.0, 0.0))"
        for grid in grids
    )
    maps = ", ".join(f'features["{name}"]' for name in run.names)
    code = f"pool_regions([{maps}], boxes, {_options(call)[0]}, [{lines}]{_options(call)[1]})"
    return replace(run, by_grids=True), code


def _options(call: RoICall) -> tuple[str, str]:
    height, width = call.output_size_hw
    size = f"{height}" if height == width else f"({height}, {width})"
    return size, f", sampling_ratio={call.sampling_ratio}" if call.sampling_ratio > 0 else ""


def _fix(argument: str, code: str, run: Pyramid, right: Pyramid, call: RoICall) -> Fix:
    """A fix, proven by pooling all boxes again."""
    size, _ = _options(call)
    code = code.replace("{options}", f"output_size={size}, sampling_ratio={call.sampling_ratio}")
    after = right.call(right.busiest, call)
    return Fix(argument, None, code, mean(run.coverage(call)), mean(right.coverage(call)), after)


def _largest(run: Pyramid) -> tuple[int, int]:
    """The largest height and width of the image sizes that the pooler was given."""
    return max(size[0] for size in run.image_sizes_hw), max(size[1] for size in run.image_sizes_hw)


def _how_far_off(run: Pyramid, index: int, down: float, across: float) -> str:
    rows, columns = run.map_sizes_hw[index]
    off = _cells_off(run, index, down, across)
    cells = f"{off:.2g}" if off < 10 else f"{off:.0f}"
    return f'a box at the far edge of map "{run.names[index]}" ({rows} x {columns} cells) is read {cells} cells off'


def _quoted(name: str) -> str:
    return f'"{name}"'


def _the_pooler(run: Pyramid) -> str:
    return f"MultiScaleRoIAlign ({run.pooler})" if "." in run.pooler else "MultiScaleRoIAlign"


def _the_maps(run: Pyramid) -> str:
    """The maps of a run with their sizes and strides."""
    maps = zip(run.names, run.map_sizes_hw, run.scales, strict=True)
    return listed([f'"{name}" ({height} x {width}, stride {1 / scale:g})' for name, (height, width), scale in maps])
