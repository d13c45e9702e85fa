"""The tensors that the registered operators accept: those that the public functions make of their arguments."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from roialign import errors
from roialign.ops.validate.boxes import BOXES, BoxForm
from roialign.ops.validate.maps import DTYPES, compute_dtype
from roialign.ops.validate.options import check_options
from roialign.ops.validate.words import describe


def check_operator(
    map_like: Tensor, size: Sequence[int], rois: Tensor, bins: Sequence[int], form: BoxForm = BOXES
) -> None:
    """Raise unless a registered operator was given what `as_rois` and `check_options` make of its arguments.

    `map_like` is what has the type of the features: they or their gradient. `size` is the number of images, then that
    of cells along each axis.
    """
    for side in bins:
        check_options((side, 1), 1.0, 1)
    check_options((bins[-2], bins[-1]), 1.0, 1)
    images, *cells = size or (-1,)
    axes = 2 + form.columns // 2
    if map_like.dim() != axes or images < 0 or min(cells, default=0) < 1 or map_like.dtype not in DTYPES:
        raise errors.FeatureMapError(
            f"RA306: expected {axes} axes and at least one cell along each; got {describe(map_like)} for "
            f"{tuple(size)}. Call the public function of this operator, which checks its arguments."
        )
    columns = 1 + form.columns
    if rois.dim() != 2 or rois.shape[1] != columns:
        raise errors.BoxesShapeError(
            f"RA207: expected rois [K, {columns}]; got {describe(rois)}. Call the public function of this operator."
        )
    if rois.dtype != compute_dtype(map_like) or rois.device != map_like.device:
        raise errors.DtypeError(
            f"RA505: expected rois of {compute_dtype(map_like)} on {map_like.device}; got {describe(rois)} on "
            f"{rois.device}. Call the public function of this operator, which converts boxes."
        )
