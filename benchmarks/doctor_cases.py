"""One case of the fault-injection benchmark: a healthy call, a faulty one, and what the doctor says of both."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import poolers

import roialign
from roialign.doctor import images
from roialign.doctor.catalogue import CATALOGUE
from roialign.doctor.findings import Diagnosis, Finding, Fix, Report
from roialign.doctor.model import ModelGrids
from roialign.doctor.watch import post_mortem

from .doctor_faults import Fault
from .doctor_pipelines import Intake, Pipeline, Scene

ALONE, SEEN, KNOWN = MODES = ("boxes alone", "image seen", "model known")
LEAST_CHANGE = 0.05
_EQUAL = 1e-3  # of the largest value: more is another region, not rounding


@dataclass
class Verdict:
    """What the doctor said of the faulty call in one mode."""

    codes: list[str] = field(default_factory=list)
    """In the order of the report."""
    fix_offered: bool = False
    """Whether the first finding has the right code and a fix that was proven."""
    fix_right: bool = False
    """Whether the output with that fix equals the healthy one."""
    evidence: str = ""
    decide: str = ""

    @property
    def first(self) -> str:
        return self.codes[0] if self.codes else "nothing"


@dataclass
class Case:
    """One fault in one pipeline."""

    fault: str
    code: str
    pipeline: str
    boxes: int
    change: float = math.inf
    """The largest relative L2 difference of a RoI's features from the healthy ones; infinite where the call raises or
    the shapes differ."""
    reach_xy: tuple[float, float] = (math.nan, math.nan)
    """How far the faulty boxes reach across the image."""
    oblong: float = 1.0
    """The longer side of the image over the shorter."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    false_alarms: dict[str, list[str]] = field(default_factory=dict)
    """Codes found in the healthy call, by mode."""

    @property
    def harmful(self) -> bool:
        return self.change > LEAST_CHANGE

    def verdict(self, mode: str) -> Verdict | None:
        return self.verdicts.get(mode)


@dataclass
class Program:
    """One fault in a program that pools from several photographs, by the same line of code."""

    cases: list[Case]
    """One for each photograph."""

    @property
    def fault(self) -> str:
        return self.cases[0].fault

    @property
    def code(self) -> str:
        return self.cases[0].code

    @property
    def harmful(self) -> bool:
        return any(case.harmful for case in self.cases)

    def verdict(self, mode: str) -> Verdict | None:
        """What the report of the whole program says: errors first, then what is found in most of its calls."""
        made = [case.verdicts[mode] for case in self.cases if mode in case.verdicts]
        if not made:
            return None
        counts = Counter(code for verdict in made for code in dict.fromkeys(verdict.codes))
        codes = sorted(counts, key=lambda code: (CATALOGUE[code].severity != "error", -counts[code]))
        if not codes:
            return Verdict()
        shown = next(verdict for verdict in made if codes[0] in verdict.codes)
        return replace(shown, codes=codes) if shown.first == codes[0] else Verdict(codes)


def run_case(pipeline: Pipeline, fault: Fault, scene: Scene, seed: int) -> Case:
    """Pool healthily and with the fault, under `watch()` and `watch(model)` at once, and look at the calls alone."""
    case = Case(fault.name, fault.code, pipeline.name, len(scene.boxes_xyxy))
    with (
        roialign.set_policy("ignore"),
        _grids_kept(),
        roialign.watch() as seen,
        roialign.watch(pipeline.model) as known,
    ):
        reports = {SEEN: seen, KNOWN: known}
        with torch.no_grad():
            intake = pipeline.look(scene, random.Random(seed))
        healthy = _pooled(pipeline, intake, reports)
        faulty_intake = fault.make(intake, random.Random(seed + 1))
        faulty = _pooled(pipeline, faulty_intake, reports)
    with roialign.set_policy("ignore"), torch.no_grad():
        right = faulty_intake.healthy() if faulty_intake.healthy else healthy.output
        if right is None:
            raise RuntimeError(f"{pipeline.name}: the healthy call raises")
        calls = {**faulty.calls, ALONE: [roialign.diagnose(**one) for one in faulty.given]}
        if faulty_intake.calibrated_offset_yx is not None:
            calls[KNOWN] = [roialign.diagnose(**one, grid=_grid(faulty_intake)) for one in faulty.given]
        modes = MODES if faulty.given else (SEEN, KNOWN)
        case.verdicts = {mode: _verdict(pipeline, fault, faulty_intake, calls[mode], right) for mode in modes}
        alarms = {**healthy.calls, ALONE: [roialign.diagnose(**one) for one in healthy.given]}
        case.false_alarms = {mode: [problem.code for problem in _problems(alarms[mode])] for mode in modes}
        case.change = math.inf if fault.changes_output else _change(faulty.output, right)
    case.reach_xy, case.oblong = _reach(faulty_intake), max(intake.frame_hw) / min(intake.frame_hw)
    return case


def check_whole(pipeline: Pipeline, scene: Scene) -> tuple[int, dict[str, list[str]]]:
    """How many RoI calls all of a healthy model makes, and the codes found in them, by mode."""
    alarms: dict[str, list[str]] = {}
    count = 0
    for mode, model in ((SEEN, None), (KNOWN, pipeline.model)):
        with torch.no_grad(), roialign.watch(model) as report:
            if pipeline.whole is not None:
                pipeline.whole(scene)
        alarms[mode] = [finding.code for finding in report.findings]
        count = len(report.calls)
    return count, alarms


@dataclass
class _Run:
    """One pooling."""

    output: Tensor | None
    calls: dict[str, list[Diagnosis]]
    """What was seen of it, by mode; an error that ended it is among it, as the command shows it."""
    given: list[dict[str, Any]]
    """The arguments of its calls of `roi_align`."""


def _pooled(pipeline: Pipeline, intake: Intake, reports: Mapping[str, Report]) -> _Run:
    before = {mode: len(report.calls) for mode, report in reports.items()}
    run = _Run(None, {}, [])
    raised: list[Diagnosis] = []
    with _recorded(run.given):
        try:
            run.output = pipeline.pool(intake).detach()
        except Exception as error:  # of whatever library: a user's program ends here, and the command looks at it
            dead = post_mortem(error.__traceback__)
            if dead is not None:
                raised.append(dead)
            elif isinstance(error, roialign.RoIError):
                raised.append(Diagnosis((Finding(error.code, str(error)),), None))
    if pipeline.kind not in ("pyramid", "extractor"):
        names = ("boxes", "output_size", "spatial_scale", "sampling_ratio", "aligned")
        run.given[:] = [{"input": intake.features, **{name: getattr(intake, name) for name in names}}]
    run.calls = {mode: [*report.calls[before[mode] :], *raised] for mode, report in reports.items()}
    return run


_kept: dict[int, ModelGrids] = {}


@contextmanager
def _grids_kept() -> Iterator[None]:
    """Trace each model once for all cases, as one long watch would."""

    def keep(model: nn.Module) -> ModelGrids:
        return _kept.setdefault(id(model), ModelGrids(model))

    module: Any = images
    module.ModelGrids = keep
    try:
        yield
    finally:
        module.ModelGrids = ModelGrids


@contextmanager
def _recorded(given: list[dict[str, Any]]) -> Iterator[None]:
    """Note the arguments of the calls that MultiScaleRoIAlign makes."""
    module: Any = poolers
    operator = module.roi_align

    def noting(input: Tensor, boxes: Any, **options: Any) -> Tensor:
        given.append({"input": input, "boxes": boxes, **options})
        pooled: Tensor = operator(input, boxes, **options)
        return pooled

    module.roi_align = noting
    try:
        yield
    finally:
        module.roi_align = operator


def _problems(calls: Sequence[Diagnosis]) -> list[Finding]:
    return [problem.finding for problem in Report(calls).problems]


def _verdict(pipeline: Pipeline, fault: Fault, intake: Intake, calls: Sequence[Diagnosis], right: Tensor) -> Verdict:
    problems = _problems(calls)
    if not problems:
        return Verdict()
    first = problems[0]
    verdict = Verdict([one.code for one in problems], evidence=first.evidence, decide=first.decide or "")
    if first.code != fault.code or first.fix is None:
        return verdict
    repaired = _repaired(pipeline, intake, first.fix)
    verdict.fix_offered = True
    verdict.fix_right = repaired is not None and _is_right(repaired, right, intake.spoilt)
    return verdict


def _repaired(pipeline: Pipeline, intake: Intake, fix: Fix) -> Tensor | None:
    """The output with the fix made: of the proven call, or, for a pyramid, of the line pasted before the pooler."""
    if pipeline.kind == "pyramid":
        return _pasted(pipeline, intake, fix.code)
    call = fix.call
    if pipeline.kind == "other operator":
        changes: dict[str, Any] = {"features": call.input, "boxes": call.rois, "spatial_scale": call.spatial_scale}
        return pipeline.pool(replace(intake, **changes))
    return call.run()[0]


def _pasted(pipeline: Pipeline, intake: Intake, code: str) -> Tensor | None:
    """What the pooler gives once the line was pasted before it, or in its place."""
    with suppress(Exception):
        pipeline.pool(intake)
    if ".scales" not in code:  # the program begins anew with the line in it
        pipeline.pooler.scales = pipeline.pooler.map_levels = None
    boxes = [some.clone() for some in intake.boxes]
    of_a_list = " in boxes]" in code or "roi_align(" in code or "pool" in code  # otherwise of the boxes of one image
    names: dict[str, Any] = {"features": intake.features, "boxes": boxes if of_a_list else boxes[0], "torch": torch}
    names |= {"model": pipeline.model, "pooler": pipeline.pooler, "MultiScaleRoIAlign": poolers.MultiScaleRoIAlign}
    names |= {"pool_regions": roialign.pool_regions, "FeatureGrid": roialign.FeatureGrid}
    axes = re.match(r"roi_align\(features(\.\w+\([\d, ]*\))", code)
    if axes:
        code = f"features = {{name: one{axes[1]} for name, one in features.items()}}"
    try:
        made = eval(code, names)
    except SyntaxError:
        exec(code, names)
        made = pipeline.pooler
    boxes = names["boxes"] if of_a_list else [names["boxes"]]
    if isinstance(made, nn.Module):
        made = made(names["features"], boxes, list(intake.image_shapes))
    pooled: Tensor = getattr(made, "features", made)
    return pooled


def _is_right(repaired: Tensor, right: Tensor, spoilt: Tensor | None) -> bool:
    expected = [right] if spoilt is None else [right, right[~spoilt[: len(right)]]]
    return any(
        repaired.shape == one.shape
        and (not one.numel() or float((repaired - one).abs().max()) <= _EQUAL * float(one.abs().max()))
        for one in expected
    )


def _change(wrong: Tensor | None, right: Tensor) -> float:
    if wrong is None or wrong.shape != right.shape:
        return math.inf
    difference, size = (wrong - right).flatten(1).norm(dim=1), right.flatten(1).norm(dim=1)
    return float((difference / size.clamp(min=1e-12 * float(size.max()))).nan_to_num(math.inf).max())


def _reach(intake: Intake) -> tuple[float, float]:
    boxes = intake.boxes[0] if isinstance(intake.boxes, list) and intake.boxes else None
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4:
        return math.nan, math.nan
    height, width = intake.frame_hw
    furthest = boxes.detach().float().amax(0)
    return float(max(furthest[0], furthest[2])) / width, float(max(furthest[1], furthest[3])) / height


def _grid(intake: Intake) -> roialign.FeatureGrid:
    size_hw = (int(intake.features.shape[2]), int(intake.features.shape[3]))
    return roialign.FeatureGrid(
        size_hw, (intake.stride, intake.stride), calibrated_offset_yx=intake.calibrated_offset_yx
    )
