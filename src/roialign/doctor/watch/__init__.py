"""Sees every RoI call that a program makes, whichever library makes it, and examines it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from torch import nn

from roialign.doctor.findings import Diagnosis, Report
from roialign.doctor.images import SeenImages
from roialign.doctor.watch.examiner import Examiner as Examiner
from roialign.doctor.watch.libraries import lookers as lookers
from roialign.doctor.watch.libraries import showing_calls_to
from roialign.doctor.watch.log import CallLog, LiveReport
from roialign.doctor.watch.post_mortem import post_mortem as post_mortem
from roialign.doctor.watch.sites import CallSites as CallSites
from roialign.errors import OptionError
from roialign.ops.validate import describe


class watch:
    """Examine every RoI call made inside the block, whichever library makes it.

    Seen are calls of roialign's operators and of `pool_regions`, of `torchvision.ops` (`roi_align`, `roi_pool`,
    `ps_roi_align`, `ps_roi_pool`, their modules, MultiScaleRoIAlign), of what is built on those, such as
    detection models and detectron2, and of mmcv (RoIAlign and RoIPool). Compiled and scripted code is seen too.

    The program runs as it would without. Only where the operator would crash the process or read out of bounds (a NaN
    box, a batch index out of range, an empty map) is an `RoIError` raised instead. If an exception from an RoI call
    leaves the block, that call is diagnosed, too, and the exception propagates. On a GPU nothing waits: what the checks
    need is copied while it works, and examined later. A program may make any number of calls: of those that a line
    makes with one outcome the first hundred are kept, the rest counted.

    In a notebook, where a block ends with its cell, `report = roialign.watch().start()` watches until `report.stop()`.

    Args:
        model: a model whose module names the report should use. Everything else is found without it: what enters the
            backbone, and the grids of the maps that leave it.

    Returns:
        Report: once the block is entered, it fills as calls are made; each finding has its `call_site`.

    Raises:
        OptionError: RA506, if `model` is not a module.

    Example:
        >>> import torch, roialign
        >>> with roialign.watch() as report, roialign.set_policy("ignore"):
        ...     _ = roialign.roi_align(torch.ones(1, 8, 64, 64), [torch.tensor([[300.0, 300.0, 400.0, 400.0]])], 7)
        >>> [finding.code for finding in report.findings]
        ['RA101']
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        if not (model is None or isinstance(model, nn.Module)):
            raise OptionError(
                f"RA506: expected model, an nn.Module or none; got {describe(model)}. watch() without it works, too."
            )
        self._log = CallLog()
        self._block = watching(self._log.add, model)

    def start(self) -> LiveReport:
        """Watch until `stop` is called, of this object or of the report, or until both are gone."""
        return LiveReport(self._log, self._block.__enter__().catch_up, self.stop)

    def stop(self) -> None:
        """Stop watching; the report stays."""
        self._block.__exit__(None, None, None)

    def __enter__(self) -> Report:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, traceback)


@contextmanager
def watching(
    note: Callable[[Diagnosis], None], model: nn.Module | None = None, sites: CallSites | None = None
) -> Iterator[Examiner]:
    """Give `note` the diagnosis of each RoI call made inside the block, from whatever thread made it.

    Any number of these may be open, and closed in any order. `sites` says by which folder lines of code are named;
    left out, by the current one.
    """
    images = SeenImages(model)
    examiner = Examiner(note, images, sites or CallSites())
    with images.watching(), showing_calls_to(examiner):
        try:
            yield examiner
        except Exception as error:
            examiner.raised(error)
            raise
        finally:
            examiner.catch_up()
