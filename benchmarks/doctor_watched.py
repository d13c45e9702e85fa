"""Runs a pipeline's operator, and keeps what was seen of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.ops import poolers

import roialign
from roialign.doctor.findings import Diagnosis, Finding, Report
from roialign.doctor.model import ModelGrids
from roialign.doctor.watch import post_mortem

from .doctor_pipelines import Intake, Pipeline

ALONE, SEEN, KNOWN = MODES = ("boxes alone", "image seen", "model known")
_ARGUMENTS = ("output_size", "spatial_scale", "sampling_ratio", "aligned")


@dataclass(frozen=True)
class Alarm:
    """A finding in a healthy call."""

    mode: str
    code: str
    severity: str
    odds: float | None
    first: bool
    """Whether it comes first of what is found in its call."""
    evidence: str


@dataclass
class Run:
    """One pooling."""

    output: Tensor | None
    """None where it raised."""
    calls: dict[str, list[Diagnosis]]
    """What was seen of it, by mode; an error that ended it is among it, as the command shows it."""
    given: list[dict[str, Any]]
    """The arguments of its calls of `roi_align`."""
    raised: list[Diagnosis]
    """What the command says of the error that ended it."""

    def alone(self) -> list[Diagnosis]:
        """What is said of the arguments and nothing else."""
        return [roialign.diagnose(**one) for one in self.given]


def pooled(pipeline: Pipeline, intake: Intake, reports: Mapping[str, Report]) -> Run:
    """Pool under the watches that are open, whose reports are given by mode."""
    before = {mode: len(report.calls) for mode, report in reports.items()}
    run = Run(None, {}, [], [])
    with _recorded(run.given):
        try:
            run.output = pipeline.pool(intake).detach()
        except Exception as error:  # of whatever library: a user's program ends here, and the command looks at it
            dead = post_mortem(error)
            if dead is not None:
                run.raised.append(dead)
            elif isinstance(error, roialign.RoIError):
                run.raised.append(Diagnosis((Finding(error.code, str(error)),), None))
    if pipeline.kind not in ("pyramid", "extractor"):
        options = {name: getattr(intake, name) for name in _ARGUMENTS}
        run.given[:] = [{"input": intake.features, "boxes": intake.handed, **options}]
    run.calls = {mode: [*report.calls[before[mode] :], *run.raised] for mode, report in reports.items()}
    return run


def alarms_in(mode: str, calls: Iterable[Diagnosis]) -> list[Alarm]:
    return [
        Alarm(mode, finding.code, finding.severity, finding.odds, index == 0, finding.evidence)
        for diagnosis in calls
        for index, finding in enumerate(diagnosis.findings)
        if finding.code != "RA312"  # true of batches that are padded, whatever they are for
    ]


def problems(calls: Sequence[Diagnosis]) -> list[Finding]:
    """What is found in the calls, in the order of the report."""
    return [problem.finding for problem in Report(calls).problems]


_kept: dict[int, ModelGrids] = {}


@contextmanager
def grids_kept() -> Iterator[None]:
    """Trace each model once for all cases, as one long watch would."""

    def keep(model: nn.Module) -> ModelGrids:
        return _kept.setdefault(id(model), ModelGrids(model))

    users: list[Any] = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("roialign.doctor.") and getattr(module, "ModelGrids", None) is ModelGrids
    ]
    for module in users:
        module.ModelGrids = keep
    try:
        yield
    finally:
        for module in users:
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
