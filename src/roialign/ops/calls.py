"""What one call of an RoI operator was asked, for those who look at calls: the notice and the doctor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from roialign.ops.operators import ROI_ALIGN
from roialign.ops.validate import usable_indices

_PLAIN = (Tensor, torch.nn.Parameter)
_is_transformed = torch._C._functorch.is_functorch_wrapped_tensor
LEAST_COVERAGE = 0.5  # below it most of a RoI's samples are zeros


@dataclass(slots=True, eq=False)  # not frozen: that takes a microsecond of every call
class RoICall:
    """One call of an RoI operator, with its boxes as rois [K, 5]: batch index, x1, y1, x2, y2. It is never changed.

    Of another operator than `roi_align` it is the call of `roi_align` that reads the map most nearly where that
    one does.
    """

    input: Tensor
    rois: Tensor
    output_size_hw: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    aligned: bool
    operator: str = "roi_align"
    """What was called, as its users write it: "roi_align", "roi_pool", "mmcv.ops.RoIAlign", ... Boxes that are no
    upright ones are here those that enclose them."""
    cells: tuple[float, float, float, float] | None = None
    """Scale and shift of rows, then of columns, where the map's grid is none that `spatial_scale` and `aligned` can
    state: cell = coordinate * scale - shift."""
    channels: int | None = None
    """How many channels the map had, where they were left out."""
    further: tuple[tuple[str, Any], ...] = ()
    """Arguments that `roi_align` does not have or has in another form, by name, as they were given."""
    lists: int | None = None
    """In how many lists, one for each image, the boxes came; None where they came as one tensor of rows."""
    boxes_dtype: torch.dtype | None = None
    """The type that the boxes came in, before they were made rows of the type that is computed in."""

    @property
    def boxes_form(self) -> Literal["list", "rows"]:
        """Whether the caller holds a list with one tensor [L, 4] for each image, or rows [K, 5]."""
        by_image = self.lists is not None or self.operator in ("pool_regions", "MultiScaleRoIAlign")
        return "list" if by_image else "rows"

    @property
    def features_shape(self) -> tuple[int, int, int, int]:
        """The shape [N, C, H, W] of the features as they were given."""
        images, channels, height, width = self.input.shape
        return images, channels if self.channels is None else self.channels, height, width

    @property
    def map_size_hw(self) -> tuple[int, int]:
        return self.input.shape[2], self.input.shape[3]

    @property
    def options(self) -> tuple[int, int, float, int, bool]:
        """The arguments after the tensors, in the order of the registered operator."""
        return (*self.output_size_hw, self.spatial_scale, self.sampling_ratio, self.aligned)

    def is_concrete(self) -> bool:
        """Whether the boxes have values that can be read: not on the meta device, fake, or under vmap."""
        return is_concrete((self.input, self.rois))

    def run(self) -> tuple[Tensor, Tensor]:
        """The pooled features [K, C, h, w] and each RoI's coverage [K], without a gradient or a notice."""
        with unseen(), torch.no_grad():
            if self.cells is None:
                output, coverage = torch.ops.roialign.roi_align(self.input, self.rois, *self.options)
            else:
                first = torch.zeros(len(self.rois), dtype=torch.int64, device=self.rois.device)
                options = (*self.output_size_hw, self.sampling_ratio, not self.aligned)
                output, coverage = torch.ops.roialign.multi_scale_roi_align(
                    [self.input], self.rois, first, list(self.cells), *options
                )
        return output, coverage

    def can_be_sampled(self) -> Tensor:
        """RoIs, bool [K], of finite coordinates that adaptive sampling can count."""
        return ROI_ALIGN.usable(self.rois, self.output_size_hw, *self.options[2:])

    def usable(self) -> Tensor:
        """RoIs, bool [K], that can be sampled: of finite coordinates and of an image of the batch."""
        return self.can_be_sampled() & usable_indices(self.rois, self.input.shape[0])

    def coverage(self) -> Tensor:
        """Each RoI's coverage [K]: the share of its samples that lie on the map; 0 where it cannot be sampled."""
        coverage, usable = self.rois.new_zeros(len(self.rois)), self.usable()
        coverage[usable] = self.without_features().with_(rois=self.rois[usable]).run()[1]
        return coverage

    def off_the_map(self, coverage: Tensor) -> Tensor:
        """RoIs, bool [K], that lie off the map: centred beyond it, with most of their samples.

        Low coverage alone is no fault: with aligned=False a thin box at the far edge is widened to one cell,
        most of which is beyond the map.
        """
        centres_xy = (self.rois[:, 1:3] + self.rois[:, 3:5]).detach() / 2
        if self.cells is None:
            centres_xy = centres_xy * self.spatial_scale
        else:
            scale_y, shift_y, scale_x, shift_x = self.cells
            centres_xy = centres_xy * centres_xy.new_tensor([scale_x, scale_y])
            centres_xy = centres_xy - centres_xy.new_tensor([shift_x, shift_y]) + 0.5
        return lie_beyond(centres_xy, self.map_size_hw[::-1], coverage)

    def without_features(self) -> RoICall:
        """The same call on a map of no channels: where it reads, without the memory of what."""
        images, channels, height, width = self.features_shape
        return replace(self, input=self.input.new_empty(images, 0, height, width), channels=channels)

    def with_(self, **changes: Any) -> RoICall:
        """The same call with other arguments."""
        return replace(self, **changes)


def lie_beyond(centres: Tensor, sizes: Sequence[float], coverage: Tensor) -> Tensor:
    """RoIs, bool [K], centred beyond what they are pooled from, with most of their samples; x first."""
    beyond = ((centres < 0) | (centres > centres.new_tensor(sizes))).any(1)
    return beyond & (coverage < LEAST_COVERAGE)


def given(**options: Any) -> tuple[tuple[str, Any], ...]:
    """Those of `options` that are not None, as `RoICall.further`."""
    return tuple((name, value) for name, value in options.items() if value is not None)


def form_of(boxes: Any) -> dict[str, Any]:
    """In which form boxes came, as arguments of `RoICall`."""
    if isinstance(boxes, Tensor):
        return {"boxes_dtype": boxes.dtype}
    return {"lists": len(boxes), "boxes_dtype": boxes[0].dtype if boxes else None}


def is_concrete(tensors: Sequence[Tensor]) -> bool:
    """Whether all of them have values that can be read: not on the meta device, fake, or under vmap."""
    for tensor in tensors:  # noqa: SIM110  all() of a generator takes twice as long
        if type(tensor) not in _PLAIN or tensor.is_meta or _is_transformed(tensor):
            return False
    return True


class _ThisThread(threading.local):
    unseen = 0


_thread = _ThisThread()


class unseen:
    """Work on tensors to learn something of a call, of which neither the doctor nor the program's own modes hear.

    Modes (TorchDispatchMode, TorchFunctionMode, FlopCounterMode, selective checkpointing) would otherwise count,
    record or replay what is no work of the program's. Outermost, for `torch.no_grad` can be seen by a mode, too.
    """

    _without_modes: ExitStack | None = None

    def __enter__(self) -> None:
        _thread.unseen += 1
        if modes_are_on():
            self._without_modes = ExitStack()
            self._without_modes.enter_context(_disable_current_modes())
            for _ in range(torch._C._len_torch_function_stack()):  # off, not disabled: the doctor has modes of its own
                mode = torch._C._pop_torch_function_stack()
                self._without_modes.callback(torch._C._push_on_torch_function_stack, mode)

    def __exit__(self, *_: object) -> None:
        if self._without_modes is not None:
            self._without_modes.close()
        _thread.unseen -= 1


def modes_are_on() -> bool:
    """Whether the program has anything see the operators that it runs."""
    return torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack() > 0


def is_unseen() -> bool:
    """Whether this thread does so."""
    return _thread.unseen > 0


observers: list[Callable[[Any], None]] = []
"""Called with each eager `roialign` call, after its arguments were found usable and before it runs.

A call of `roi_align` comes as a `RoICall`, one of `pool_regions` as a `roialign.regions.pool.RegionsCall`.
"""


def show(call_of: Callable[[], Any]) -> None:
    """Show the call that `call_of` makes to all observers."""
    if observers:
        with unseen():
            call = call_of()
            for observe in tuple(observers):
                observe(call)
