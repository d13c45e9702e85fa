"""Elementwise operators, contractions, attention, reductions and normalization."""

from __future__ import annotations

from collections.abc import Sequence

from roialign.backbones.fields import Field, join, mapped, reduced
from roialign.backbones.rules.call import Call, Rule
from roialign.backbones.rules.views import permuted


def pointwise(call: Call) -> Field:
    return join(call.fields(), call.shape)


def copy(call: Call) -> Field | None:
    source: Field | None = call["src"].field
    return None if source is None else join([source], call.shape)


def no_field(call: Call) -> None:
    """New tensors that take no more than a shape or a type from their arguments."""


def product(call: Call) -> Field:
    """[..., i, k] x [..., k, j], with or without something to add; left operands come first."""
    first, second = _factors(call)
    both = call[first].field is not None and call[second].field is not None
    parts = []
    if call[first].field is not None:
        field = call[first].field
        kept = reduced(field, [-1], keepdim=len(call[second].shape) > 1, mixing=both)
        parts.append(kept)
    if call[second].field is not None:
        field = call[second].field
        vector = len(call[second].shape) == 1
        parts.append(reduced(field, [-1 if vector else -2], keepdim=not vector, mixing=both))
    if call.get("self") is not None and first != "self" and call["self"].field is not None:
        parts.append(call["self"].field)
    return join(parts, call.shape)


def _factors(call: Call) -> tuple[str, str]:
    for pair in (("batch1", "batch2"), ("mat1", "mat2"), ("mat", "vec"), ("self", "mat2"), ("self", "vec")):
        if pair[0] in call.arguments and pair[1] in call.arguments:
            return pair
    return "self", "tensor"


def linear(call: Call) -> Field:
    return join([reduced(call.field("input"), [-1], keepdim=True)], call.shape)


def attention(call: Call) -> Field:
    """A query keeps its place; keys and values are mixed over all of theirs."""
    parts = [reduced(call["query"].field, [-1], keepdim=True)] if call["query"].field is not None else []
    for name in ("key", "value"):
        field = call[name].field
        if field is not None:
            parts.append(reduced(field, [-2] if name == "value" else [-2, -1], keepdim=True, mixing=True))
    return join([_repeated_heads(part, call.shape) for part in parts], call.shape)


def _repeated_heads(field: Field, shape: Sequence[int]) -> Field:
    """Grouped queries: keys of fewer heads, which are all alike here."""
    if len(field.shape) < 3 or field.shape[-3] in (1, shape[-3]):
        return field
    joined = reduced(field, [-3], keepdim=True)
    return mapped(joined, joined.shape, lambda term: term)


def softmax(call: Call) -> Field:
    field = call.field("self")
    return join([field, reduced(field, [call["dim"]], keepdim=True, mixing=True)], call.shape)


def scan(call: Call) -> Field:
    """Sums along a dimension: at most all of it."""
    field = call.field("self")
    return join([field, reduced(field, [call["dim"]], keepdim=True, mixing=True)], call.shape)


def recurrent(call: Call) -> list[Field]:
    """A step keeps its place; what came before it, or after it in the other direction, is mixed over all steps."""
    field = call.field("input")
    time = 1 if call["batch_first"] else 0
    steps = reduced(field, [-1], keepdim=True)
    mixed = reduced(steps, [time], keepdim=True, mixing=True)
    last = mixed if time == 0 else permuted(mixed, [1, 0, 2])
    return [join([steps, mixed], call.shape), *(join([last], shape) for shape in call.shapes[1:])]


def reduction(call: Call) -> list[Field]:
    field = call.field("self")
    dims = call.get("dim")
    every = range(len(field.shape))
    chosen = [dims] if isinstance(dims, int) else list(dims) if dims else list(every)
    kept = reduced(field, chosen, keepdim=bool(call.get("keepdim", False)))
    return [kept] * len(call.shapes)


def layer_norm(call: Call) -> Field:
    field = call.field("input")
    over = range(-len(call["normalized_shape"]), 0)
    return join([field, reduced(field, list(over), keepdim=True, mixing=True)], call.shape)


def group_norm(call: Call) -> Field:
    """Normalizing over space makes everything depend on everything; channels of other groups are counted, too."""
    field = call.field("input")
    over = range(1, len(field.shape))
    return join([field, reduced(field, list(over), keepdim=True, mixing=True)], call.shape)


def batch_norm(call: Call) -> Field:
    """Elementwise with running statistics; over batch and space without, as instance_norm is."""
    field = call.field("input")
    if not call.get("training", call.get("train", False)) and "no_stats" not in call.name:
        return join([field], call.shape)
    over = [0, *range(2, len(field.shape))]
    return join([field, reduced(field, over, keepdim=True, mixing=True)], call.shape)


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return {f"aten::{name}": rule for name in names.split()}


RULES: dict[str, Rule] = {
    **_table(pointwise, "clone _to_copy to contiguous native_dropout dropout _prelu_kernel masked_fill where lerp"),
    **_table(pointwise, "nan_to_num hardtanh hardswish hardsigmoid"),
    **_table(copy, "copy"),
    **_table(no_field, "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty"),
    **_table(no_field, "new_full zero fill fill_ new_empty_strided _local_scalar_dense"),
    **_table(product, "mm bmm addmm baddbmm mv addmv dot _int_mm addbmm"),
    **_table(linear, "linear"),
    **_table(softmax, "_softmax _log_softmax _safe_softmax softmax log_softmax"),
    **_table(recurrent, "lstm gru rnn_tanh rnn_relu"),
    **_table(scan, "cumsum cumprod logcumsumexp"),
    **_table(reduction, "mean sum amax amin max min prod var std var_mean std_mean logsumexp any all argmax argmin"),
    **_table(reduction, "linalg_vector_norm norm nansum median nanmean"),
    **_table(layer_norm, "native_layer_norm layer_norm _fused_rms_norm rms_norm"),
    **_table(group_norm, "native_group_norm"),
    **_table(batch_norm, "_native_batch_norm_legit _native_batch_norm_legit_no_training native_batch_norm"),
    **_table(batch_norm, "cudnn_batch_norm miopen_batch_norm _batch_norm_no_update _batch_norm_with_update batch_norm"),
}
