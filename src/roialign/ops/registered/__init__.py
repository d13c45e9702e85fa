"""The operators as torch.library knows them: schemas, the reference, fakes and derivatives."""

from __future__ import annotations

from typing import Any

from roialign.ops.operators import OF_SEGMENTS, OPERATORS, ROI_POOL
from roialign.ops.registered import multi_scale_roi_align, paste_masks, pooling, roi_pool

REFERENCE: dict[str, Any] = {
    name: implementation for one in OPERATORS.values() for name, implementation in pooling.register(one).items()
}
REFERENCE |= multi_scale_roi_align.REFERENCE | roi_pool.REFERENCE | paste_masks.REFERENCE
"""What implements an operator or a gradient where no backend does, by name."""
for operator in (*OPERATORS.values(), OF_SEGMENTS, ROI_POOL):
    operator.bind()

SCHEMAS = {name: schema for one in OPERATORS.values() for name, schema in one.schemas.items()}
SCHEMAS |= multi_scale_roi_align.SCHEMAS | roi_pool.SCHEMAS | paste_masks.SCHEMAS
