"""How each ATen operator moves positions: one table from its name to its rule."""

from __future__ import annotations

import torch

from roialign.backbones.rules import mixing, resize, views, windows
from roialign.backbones.rules.call import Rule

RULES: dict[str, Rule] = {**windows.RULES, **resize.RULES, **views.RULES, **mixing.RULES}


def rule_for(function: torch._ops.OpOverload) -> Rule | None:
    """The rule of an operator, in place or not; None if there is none."""
    name = function._schema.name
    rule = RULES.get(name) or RULES.get(name.removesuffix("_"))
    if rule is None and name.startswith("aten::_scaled_dot_product"):
        return mixing.attention
    if rule is None and torch.Tag.pointwise in function.tags:
        return mixing.pointwise
    return rule
