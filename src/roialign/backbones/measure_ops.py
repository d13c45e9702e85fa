"""The module's own forward with everything positive, so that gradients show positions and nothing cancels.

One rule for each kind of torch function, used on tensors that depend on the image only:

- convolutions and linear layers have the uniform weights 1 / fan_in, so they are computed on channel means;
- normalization, activations and every other elementwise function of one tensor pass it on; maxima become means;
- sums, products and the like of two operands of the image are their mean: each branch has the same weight;
- a factor or term that is not of the image (parameters, positions, masks) is left out;
- a gate, that is an operand spread over the other's positions (squeeze and excitation, global context), is left out;
- attention passes each token's own value, a recurrent layer each step's: mixing them moves no grid;
- the product of two image-dependent matrices, other than attention times values, passes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from roialign.backbones import recurrent


class CannotMeasureError(Exception):
    """An operation through which a gradient does not show where cells lie."""


class PositiveMode(TorchFunctionMode):
    """Replaces torch functions of the image by their positive form; `mixed` tells whether mixing was left out."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name == "set_grad_enabled":  # a frozen stage under no_grad still has its grid
            return None
        rule = _RULES.get(name)
        if rule is None or not _of_image(args, kwargs.values()):
            return func(*args, **kwargs)
        return rule(self, func, args, kwargs)


_Rule = Callable[[PositiveMode, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _of_image(*values: Any) -> bool:
    """Whether a tensor depends on the image: parameters require no gradient while the mode is on."""
    return any(
        value.requires_grad if isinstance(value, Tensor) else isinstance(value, Iterable) and _of_image(*value)
        for value in values
        if not isinstance(value, str)
    )


def _first(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs["input"]


def _global_norm(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    mode.mixed = True
    return _first(mode, func, args, kwargs)


def _refuse(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    raise CannotMeasureError(f"{func.__name__} chooses by content, so positions do not follow from structure alone")


def _reshape(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`view`, but for tensors whose memory is not laid out as the module's own would be."""
    if kwargs or isinstance(args[1], torch.dtype):
        return func(*args, **kwargs)
    return args[0].reshape(*args[1:])


def _cast(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tensor in the type it has; `x.type()` asks for the type's name."""
    return args[0] if len(args) + len(kwargs) > 1 else func(*args)


def _spread(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A statistic that only scales: ones in its shape."""
    value = func(*args, **kwargs)
    if isinstance(value, Tensor):
        return torch.ones_like(value).detach()
    return type(value)(torch.ones_like(part).detach() for part in value)


def _convolution(transposed: bool) -> _Rule:
    names: tuple[str, ...] = ("input", "weight", "bias", "stride", "padding")
    names += ("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")

    def rule(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        x, weight, groups = given.pop("input"), given.pop("weight"), given.pop("groups", 1)
        given.pop("bias", None)
        dims = weight.ndim - 2
        if not x.requires_grad or x.ndim != weight.ndim:
            raise CannotMeasureError("the weights of a convolution depend on the image, or it has no batch dimension")
        batch, channels = x.shape[:2]
        outputs = weight.shape[1] if transposed else weight.shape[0] // groups
        sums = x.reshape(batch * groups, channels // groups, *x.shape[2:]).sum(1, keepdim=True)
        taps = weight.shape[2:]
        kernel = x.new_full((1,) * (dims + 2), groups / (channels * math.prod(taps))).expand(1, 1, *taps)
        y = func(sums, kernel, **given)
        spread = _repeated(y.reshape(batch, groups, 1, *y.shape[2:]), 2, outputs)
        return spread.reshape(batch, -1, *y.shape[2:]).contiguous()  # memory of its own, for modules that write into it

    return rule


def _repeated(x: Tensor, dim: int, times: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = times
    return x.expand(shape)


def _linear(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x = args[0] if args else kwargs["input"]
    weight = args[1] if len(args) > 1 else kwargs["weight"]
    return _repeated(x.mean(-1, keepdim=True), -1, weight.shape[0]).contiguous()


def _max_pool(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    names = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.pop("return_indices", False) or func.__name__.endswith("indices"):
        raise CannotMeasureError(f"{func.__name__} returns indices, by which a later layer unpools")
    x, dilation = given.pop("input"), given.pop("dilation", 1)
    if set(dilation if isinstance(dilation, Iterable) else (dilation,)) == {1}:
        pool: Callable[..., Tensor] = getattr(F, func.__name__.strip("_").replace("max", "avg"))
        return pool(x, **given)
    given.pop("ceil_mode", None)
    size = given.pop("kernel_size")
    sizes = tuple(size) if isinstance(size, Iterable) else (size,) * (x.ndim - 2)
    given["stride"] = given.get("stride") or sizes
    kernel = x.new_full((1,) * x.ndim, 1 / math.prod(sizes)).expand(x.shape[1], 1, *sizes)
    convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
    return convolve(x, kernel, dilation=dilation, groups=x.shape[1], **given)


def _adaptive_max_pool(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    pool: Callable[..., Tensor] = getattr(F, func.__name__.strip("_").replace("max", "avg"))
    return pool(args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs["output_size"])


def _is_gate(x: Tensor, shape: torch.Size) -> bool:
    """Whether `x` is spread over positions of `shape`: more than its channel dimension alone."""
    spread = [dim - len(shape) for dim in range(len(shape)) if _size(x, dim - len(shape)) < shape[dim]]
    return len(spread) > 1 or (len(shape) == 3 and spread == [-2])


def _size(x: Tensor, dim: int) -> int:
    return x.shape[dim] if -dim <= x.ndim else 1


def _join(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Sums, products and the like of two operands: what is not of the image, and gates, are left out."""
    values = [*args, *(kwargs[key] for key in ("input", "other") if key in kwargs)]
    if len(values) < 2 or not isinstance(values[1], Tensor) or not isinstance(values[0], Tensor):
        return next(value for value in values if _of_image(value))  # with a number
    left, right = values[:2]
    in_place = func.__name__.endswith("_") and not func.__name__.startswith("__")
    shape = torch.broadcast_shapes(left.shape, right.shape)
    kept = [value for value in (left, right) if value.requires_grad]
    positioned = [value for value in kept if not _is_gate(value, shape)]
    if len(positioned) < len(kept):
        mode.mixed = True
    if in_place:
        if len(positioned) == 2:
            left.add_(right).mul_(0.5)
        elif not any(left is value for value in positioned):
            raise CannotMeasureError(f"{func.__name__} writes the image's features into a tensor without any")
        return left
    if len(positioned) == 2:
        return (left + right).mul_(0.5)
    return (positioned or kept)[0].expand(shape).contiguous()


def _softmax(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Attention on the token itself; where queries are not the keys, nothing."""
    scores: Tensor = args[0] if args else kwargs["input"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    mode.mixed = True
    last = dim in (-1, scores.ndim - 1)
    if last and scores.ndim >= 3 and scores.shape[-1] == scores.shape[-2]:
        return torch.eye(scores.shape[-1], dtype=scores.dtype, device=scores.device).expand(scores.shape)
    return _nothing(scores, scores.shape)


def _nothing(like: Tensor, shape: Iterable[int]) -> Tensor:
    """Ones in a shape, of the image but without a gradient to it."""
    return (like.reshape(-1)[:1] * 0 + 1).expand(*shape)


def _recurrent(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Each step passes its own value; what it takes from other steps moves no grid."""
    mode.mixed = True
    steps, *last = recurrent.results(args)
    own = args[0].mean(-1, keepdim=True).expand(steps.shape).contiguous()
    return (own, *(_nothing(own, state.shape) for state in last))


def _operand(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str) -> Tensor:
    tensor: Tensor = args[index] if index < len(args) else kwargs[name]
    return tensor


def _attention(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    query, value = _operand(args, kwargs, 0, "query"), _operand(args, kwargs, 2, "value")
    mode.mixed = True
    shape = (*query.shape[:-1], value.shape[-1])
    if query.shape[-2] != value.shape[-2]:
        return _nothing(value, shape)
    if value.ndim == 4 and value.shape[1] not in (1, shape[1]):  # grouped queries
        value = value.repeat_interleave(shape[1] // value.shape[1], 1)
    return value.expand(shape)


def _multi_head(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    query, value = _operand(args, kwargs, 0, "query"), _operand(args, kwargs, 2, "value")
    mode.mixed = True
    if query.shape[:-1] != value.shape[:-1]:
        return _nothing(value, query.shape), None
    return _repeated(value.mean(-1, keepdim=True), -1, query.shape[-1]).contiguous(), None


def _matmul(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    name = func.__name__.strip("_")
    operands = [*args, *kwargs.values()]
    left: Tensor
    right: Tensor
    left, right = operands[1:3] if name in ("addmm", "baddbmm") else operands[:2]
    if name == "rmatmul":
        left, right = right, left
    if left.requires_grad and right.requires_grad:
        mode.mixed = True
        shape = torch.matmul(left.detach().to("meta"), right.detach().to("meta")).shape
        return _nothing(left, shape)
    if left.requires_grad:
        if _is_identity(right):
            return left.expand(*torch.broadcast_shapes(left.shape[:-2], right.shape[:-2]), *left.shape[-2:])
        return _repeated(left.mean(-1, keepdim=True), -1, right.shape[-1]).contiguous()
    if _is_identity(left):
        return right.expand(*torch.broadcast_shapes(left.shape[:-2], right.shape[:-2]), *right.shape[-2:])
    return _repeated(right.mean(-2, keepdim=True), -2, left.shape[-2]).contiguous()


def _is_identity(matrix: Tensor) -> bool:
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        return False
    one = matrix.reshape(-1, *matrix.shape[-2:])[0]
    return torch.equal(one, torch.eye(len(one), dtype=one.dtype, device=one.device))


def _einsum(mode: PositiveMode, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if sum(operand.requires_grad for operand in operands) > 1:
        mode.mixed = True
        shape = torch.einsum(equation, *(operand.detach().to("meta") for operand in operands)).shape
        return _nothing(next(operand for operand in operands if operand.requires_grad), shape)
    uniform = [
        operand
        if operand.requires_grad or _is_identity(operand)
        else operand.new_full((1,) * operand.ndim, 1 / max(1, operand.numel()) ** 0.5).expand(operand.shape)
        for operand in operands
    ]
    dtype = next(operand.dtype for operand in operands if operand.requires_grad)
    return torch.einsum(equation, *(operand.to(dtype) for operand in uniform))


_PASSED_ON = """
relu relu6 gelu silu mish hardswish hardsigmoid hardtanh leaky_relu elu selu celu softplus sigmoid tanh logsigmoid
log_sigmoid softsign tanhshrink hardshrink softshrink prelu rrelu threshold clamp clamp_min clamp_max clip
exp expm1 log log1p log2 sqrt rsqrt square reciprocal abs absolute neg negative pow ipow erf sin cos nan_to_num round
floor ceil batch_norm layer_norm rms_norm local_response_norm normalize dropout dropout1d dropout2d dropout3d
alpha_dropout feature_alpha_dropout feature_dropout to type_as float double half bfloat16 cuda cpu detach
"""
_JOINED = (
    "add iadd radd sub isub rsub subtract mul imul rmul multiply div idiv truediv itruediv rtruediv divide true_divide "
)
_JOINED += "maximum minimum fmax fmin"

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_PASSED_ON.split(), _first),
    **dict.fromkeys(("group_norm", "instance_norm"), _global_norm),
    **dict.fromkeys(_JOINED.split(), _join),
    **dict.fromkeys(("var", "std", "var_mean", "std_mean"), _spread),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution(transposed=False)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution(transposed=True)),
    **{f"max_pool{n}d{end}": _max_pool for n in (1, 2, 3) for end in ("", "_with_indices")},
    **{f"adaptive_max_pool{n}d": _adaptive_max_pool for n in (1, 2, 3)},
    **dict.fromkeys(("matmul", "rmatmul", "mm", "bmm", "addmm", "baddbmm"), _matmul),
    **dict.fromkeys(("softmax", "softmin"), _softmax),
    **dict.fromkeys(recurrent.NAMES, _recurrent),
    **dict.fromkeys(("deform_conv2d", "topk", "sort", "argsort", "grid_sample"), _refuse),
    "linear": _linear,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
    "einsum": _einsum,
    "view": _reshape,
    "type": _cast,
}
