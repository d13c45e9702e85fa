"""From one call to what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import Tensor

from roialign import errors
from roialign.doctor import checks, explanations
from roialign.doctor.checks.operators import can_be_said, has_other_boxes, said_of
from roialign.doctor.evidence import Caller, Evidence
from roialign.doctor.facts import FeatureFacts
from roialign.doctor.findings import Diagnosis, Finding
from roialign.doctor.surroundings import Surroundings
from roialign.geometry import FeatureGrid, values
from roialign.ops.calls import RoICall
from roialign.ops.notice import any_low
from roialign.ops.roi_align import as_call
from roialign.ops.validate import describe

_DECIDED_BY_THE_RUN = ("RA106", "RA110")
"""What the pooler's own check says better, from all boxes and the image sizes, or does not say on purpose."""


def diagnose(
    input: Any,
    boxes: Any,
    output_size: Any,
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    image_size: tuple[int, int] | None = None,
    grid: FeatureGrid | None = None,
) -> Diagnosis:
    """Say what is wrong with a call of `roi_align`, how it is known, and what to type instead.

    Takes the arguments of `roi_align`, good or bad, and never raises for bad ones. Each fix was checked by running the
    operator again with it. Where the evidence does not decide between causes, the likeliest is reported and
    `Finding.decide` says what would.

    Args:
        input: features [N, C, H, W].
        boxes: [K, 5] with the batch index in column 0, or a list with one [L, 4] per image; xyxy.
        output_size: bins (height, width), or one number for both.
        spatial_scale: as given to `roi_align`.
        sampling_ratio: as given to `roi_align`.
        aligned: as given to `roi_align`.
        image_size: (height, width) of the tensor that entered the backbone, the frame that boxes should be
            in. With it strides are computed instead of ranked by how common they are.
        grid: the map's grid, where it is known; decides over `image_size`.

    Returns:
        A `Diagnosis`; its `findings` are empty where nothing is wrong.

    Raises:
        FeatureMapError: RA307, if `image_size` is not (height, width); RA306, if `grid` does not fit such a map, in
            either order of its axes.

    Example:
        >>> import torch, roialign
        >>> features = torch.ones(1, 8, 64, 64)
        >>> boxes = [torch.tensor([[100.0, 100.0, 200.0, 200.0], [300.0, 300.0, 400.0, 400.0]])]
        >>> diagnosis = roialign.diagnose(features, boxes, output_size=7)
        >>> diagnosis.findings[0].code, diagnosis.findings[0].fix.value
        ('RA101', 0.0625)
        >>> roialign.diagnose(features, boxes, output_size=7, spatial_scale=1 / 16).ok
        True
    """
    if not (grid is None or isinstance(grid, FeatureGrid)):
        raise errors.FeatureMapError(
            f"RA306: expected grid, the FeatureGrid of the map, or none; got {describe(grid)}. roialign.trace finds it."
        )
    check_image_size(image_size)
    try:
        call = as_call(input, boxes, output_size, spatial_scale, sampling_ratio, aligned)
    except errors.ScaleError as error:
        return _with_a_scale(error, (input, boxes, output_size, 1.0, sampling_ratio, aligned), image_size)
    except errors.RoIError as error:
        return Diagnosis((_of_error(error),), None)
    if grid is not None and grid.size_hw != call.map_size_hw and not _is_misread(call, grid):
        height, width = call.map_size_hw
        raise errors.FeatureMapError(
            f"RA306: expected the grid of a map of {(height, width)}; got one of {grid.size_hw}. roialign.trace gives "
            "each map its grid."
        )
    return examine(call, image_size, grid)


def check_image_size(image_size: Any) -> None:
    """Raise RA307 unless this is (height, width), or None where it is not known."""
    pair = values.real_pair(image_size)
    if image_size is not None and (pair is None or min(pair) < 1):
        raise errors.FeatureMapError(
            f"RA307: expected image_size as (height, width), both at least 1; got {values.shown(image_size)}. For a "
            "tensor: image.shape[-2:]."
        )


def examine(
    call: RoICall,
    image_size_hw: tuple[float, float] | None = None,
    grid: FeatureGrid | None = None,
    caller: Caller | None = None,
    around: Surroundings | None = None,
    facts: FeatureFacts | None = None,
    beliefs: explanations.Beliefs | None = None,
) -> Diagnosis:
    """Look at one call: first for what can be seen, then for what explains where its boxes lie.

    `facts` are what is known of features that cannot be looked at any more; `beliefs` are what earlier calls of the
    same line said, to which this one adds.
    """
    sane, coverage = call.usable(), call.coverage()
    known = Evidence(call.with_(rois=call.rois[sane]), image_size_hw, grid, caller, around, coverage[sane], facts)
    found = [finding for check in checks.ROW_CHECKS if (finding := check(call, coverage))]
    run = around.pyramid if around is not None else None
    if run is not None and run.index == 0 and (no_size := checks.PYRAMID_BOX_CHECK(run, call)):
        found.append(no_size)
    of_the_run = checks.PYRAMID_CHECK(run, call) if run is not None else None
    if run is not None and of_the_run is not None:  # said once; what it does to the calls is no fault of their own
        found += [of_the_run] if run.index == run.busiest else []
        return _diagnosis(found, coverage, call)
    rows = sane.nonzero().flatten().tolist()
    causes = _found(checks.SEEN_CHECKS, known)[:1] if run is not None and rows else []
    if rows and (run is None or causes):
        causes = [_of_rows(finding, rows) for finding in causes or _of_boxes(known, beliefs)]
    elif run is not None and run.index == run.spokesman and len(run.rois):
        whole = replace(known, call=run.whole(call), coverage_known=None, grid=run.grid_of_the_first())
        causes = _of_boxes(whole, beliefs)
        if causes:
            call, coverage = whole.call, whole.coverage
            found = [] if run.index == 0 and no_size else found
    if rows:
        single = () if causes else checks.READ_CHECKS
        causes += [_of_rows(finding, rows) for finding in _found((*single, *checks.FEATURE_CHECKS), known)]
    return _diagnosis([*found, *causes], coverage, call)


def _diagnosis(found: Iterable[Finding], coverage: Tensor, call: RoICall) -> Diagnosis:
    return Diagnosis(tuple(said for finding in found if (said := said_of(call, finding))), coverage, call)


def likely_cause(call: RoICall, coverage: Tensor) -> str:
    """The words of the notice that `roi_align` gives for a call whose RoIs lie off the map."""
    known = Evidence(call, coverage_known=coverage)
    weighed = explanations.weigh(known, lambda code: can_be_said(code, call))
    wrong = [one for one in weighed.explanations if one.codes]
    finding = said_of(call, explanations.tell(weighed, wrong[0], [])) if wrong else None
    low = int(call.off_the_map(coverage).sum())
    height, width = call.map_size_hw
    code = finding.code if finding else "RA209"
    words = [
        f"{code}: {low} of {len(coverage)} RoIs lie mostly or wholly off the {height} x {width} feature map, where "
        "every sample is zero."
    ]
    if finding:
        words.append(f"Likely cause: {finding.title}.")
    if finding and finding.fix:
        words.append(f"Write instead: {finding.fix.code}")
    if has_other_boxes(call):
        return " ".join(words) + "\nroialign.watch() around the call shows the evidence."
    return " ".join(words) + "\nroialign.diagnose(...) with the same arguments shows the evidence."


def _of_boxes(known: Evidence, beliefs: explanations.Beliefs | None) -> list[Finding]:
    """What was seen of the features and the axes; or else what explains the boxes; or else what single boxes have."""
    seen = _found(checks.SEEN_CHECKS, known)
    if any(not finding.doubtful for finding in seen):
        return seen[:1]
    if beliefs is not None and not seen and not any_low(known.coverage) and beliefs.rest():
        return _found(checks.BOX_CHECKS, known)
    weighed = explanations.weigh(known, lambda code: _can_be(known, code), beliefs)
    if beliefs is not None:
        beliefs.judge(weighed)
    return seen + (explanations.findings(weighed) or _found(checks.BOX_CHECKS, known))


def _can_be(known: Evidence, code: str) -> bool:
    """Whether a code can be said of the operator, and is not the pooler's own check's to say."""
    of_the_run = known.around is not None and known.around.pyramid is not None and known.stride_yx is not None
    return can_be_said(code, known.call) and not (of_the_run and code in _DECIDED_BY_THE_RUN)


def _found(several: Iterable[checks.Check], known: Evidence) -> list[Finding]:
    return [finding for check in several if (finding := check(known))]


def _of_rows(finding: Finding, rows: list[int]) -> Finding:
    """The finding with the rows that the program passed."""
    return replace(finding, rois=tuple(rows[row] for row in finding.rois))


def _is_misread(call: RoICall, grid: FeatureGrid) -> bool:
    """Whether the map would be of that grid, were its axes read in another order."""
    known = Evidence(call.with_(rois=call.rois[call.usable()]), grid=grid)
    return len(known.call.rois) > 0 and checks.layout.misread(known)


def _of_error(error: errors.RoIError) -> Finding:
    evidence = str(error).partition(": ")[2]
    return Finding(error.code, evidence[:1].upper() + evidence[1:])


def _with_a_scale(
    error: errors.ScaleError, arguments: tuple[Any, ...], image_size: tuple[int, int] | None
) -> Diagnosis:
    """RA105, with the scales that would do, which the same call with spatial_scale=1.0 tells."""
    finding = _of_error(error)
    try:
        call = as_call(*arguments)
    except errors.RoIError as other:
        return Diagnosis((finding, _of_error(other)), None)
    usable = call.usable()
    if bool(usable.any()):
        known = Evidence(call.with_(rois=call.rois[usable]), image_size)
        weighed = explanations.weigh(known, lambda code: code == "RA101")
        if any(one.codes for one in weighed.explanations):
            scales = explanations.tell(weighed, *explanations.split(weighed))
            finding = replace(finding, fix=scales.fix, alternatives=scales.alternatives)
    return Diagnosis((finding,), None)
