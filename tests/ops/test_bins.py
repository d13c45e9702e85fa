"""What roi_pool, ps_roi_align and ps_roi_pool have in common: boxes, types, strides, threads, errors, compilers."""

import inspect
import re
import warnings
from dataclasses import replace

import pytest
import torch
import torchvision

import roialign
from roialign.errors import RoIError, RoIWarning
from roialign.ops import backends, calls, notice

from .bins import OPERATORS, PS_ROI_ALIGN, PS_ROI_POOL, ROI_POOL, Operator, channels_last, hold
from .cases import random_case, random_cases
from .refusals import BAD_DIRECT, BAD_VALUES, MAP, REFUSED
from .served import reference
from .test_execution import LAYOUTS, many_small
from .tolerances import assert_close

operators = pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
FEATURES = torch.rand(2, 12, 16, 20)
BOXES = [torch.tensor([[1.0, 2, 9, 12], [4, 4, 18, 14]]), torch.tensor([[0.0, 0, 20, 16]])]
ROIS = torch.cat([torch.tensor([[0.0], [0.0], [1.0]]), torch.cat(BOXES)], dim=1)
SIZE = (3, 2)


@operators
def test_arguments_and_attributes_are_torchvisions(operator):
    ours, theirs = (
        list(inspect.signature(function).parameters) for function in (operator.public, operator.torchvision)
    )
    assert ours == [*theirs, "compat"]
    reference_module = getattr(torchvision.ops, operator.module.__name__)
    options = (SIZE, 0.5, 2) if operator.samples else (SIZE, 0.5)
    module, expected = operator.module(*options), reference_module(*options)
    attributes = vars(expected).keys() - vars(torch.nn.Module()).keys()
    assert {name: getattr(module, name) for name in attributes} == {
        name: getattr(expected, name) for name in attributes
    }
    assert repr(module) == repr(expected)
    assert_close(module(FEATURES, BOXES), expected(FEATURES, BOXES), scale=FEATURES)


@operators
@pytest.mark.parametrize("container", [list, tuple])
def test_the_list_form_equals_the_tensor_form(operator, container):
    assert torch.equal(operator.public(FEATURES, container(BOXES), SIZE), operator.public(FEATURES, ROIS, SIZE))


@operators
@pytest.mark.parametrize(
    "boxes", [torch.empty(0, 5), [torch.empty(0, 4)], [], ()], ids=["rois", "list", "none", "tuple"]
)
def test_no_boxes_no_features(operator, boxes):
    features = FEATURES.clone().requires_grad_()
    output = operator.public(features, boxes, SIZE)
    assert output.shape == (0, 2 if operator.own_planes else 12, *SIZE)
    output.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))


@operators
def test_no_channels_still_have_a_coverage(operator):
    case = replace(random_case(4), input_shape=(2, 0, 8, 8), spatial_scale=1.0)
    rois = torch.tensor([[0.0, 0, 0, 4, 4], [0, 90, 90, 99, 99]])
    case = replace(case, boxes=tuple(map(tuple, rois.tolist())))
    for ops in (torch.ops.roialign, reference):
        results = operator.run(torch.empty(2, 0, 8, 8), rois, case.grad(), case, ops)
        assert results["coverage"].tolist() == [1.0, 0.0]
        assert results["output"].shape == (2, 0, *case.output_size_hw)


@operators
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(operator, layout):
    for case in random_cases(6, first_seed=300):
        tensors = [operator.features(case), case.rois(), case.grad()]
        expected = operator.run(*tensors, case, torch.ops.roialign)
        for place in range(3):
            views = [LAYOUTS[layout](tensor) if i == place else tensor for i, tensor in enumerate(tensors)]
            results = operator.run(*views, case, torch.ops.roialign)
            for name, wanted in expected.items():  # windows or channels: sums in another order
                hold(results[name], wanted, scale=tensors[0] if "output" in name else wanted)


@operators
def test_expanded_features_are_read_as_copies(operator):
    case = random_case(304)
    features, rois, grad = operator.features(case), case.rois(), torch.ones(1, 1, 1, 1).expand(case.grad().shape)
    for axes in ((2,), (3,), (0, 1), (0, 1, 2, 3)):
        one = features[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(4))].expand(features.shape)
        results = operator.run(one, rois, grad, case, torch.ops.roialign)
        expected = operator.run(one.contiguous(), rois, grad.contiguous(), case, torch.ops.roialign)
        for name, wanted in expected.items():
            hold(results[name], wanted, scale=features if "output" in name else wanted)


@operators
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=["NCHW", "channels_last"])
def test_runs_and_thread_counts_agree_to_the_bit(operator, layout):
    for case in random_cases(12, first_seed=70):
        case = case.with_boxes(("inside", "partly outside"), 150)
        features, rois, grad = layout(operator.features(case)), case.rois(), case.grad()
        runs = []
        for threads in (1, 2, 3, 5, 1):
            torch.set_num_threads(threads)
            runs.append(operator.run(features, rois, grad, case, torch.ops.roialign))
        torch.set_num_threads(1)
        assert all(torch.equal(run[name], wanted) for run in runs for name, wanted in runs[0].items())


@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_more_boxes_than_the_kernels_plan_at_once(operator, dtype):
    """They work in passes, of which a part of the boxes takes one, so that all are held against the parts."""
    case = replace(many_small(), input_shape=(3, 1, 30, 35), output_size_hw=(7, 7) if operator is ROI_POOL else (4, 3))
    case = case.with_boxes(("inside", "partly outside"), 15_000)
    features, grad, rois = operator.features(case, dtype), case.grad(dtype), case.rois()
    whole = operator.run(features, rois, grad, case, torch.ops.roialign)
    wide = features.float(), grad.float()
    parts = [
        operator.run(wide[0], some, some_grad, case, torch.ops.roialign)
        for some, some_grad in zip(rois.split(1000), wide[1].split(1000), strict=True)
    ]
    for name in whole:
        if name.startswith("grad") and name != "grad of boxes":
            total = sum(part[name] for part in parts)
            assert_close(whole[name], total, scale=total)
        elif name != "grad of boxes":
            assert torch.equal(whole[name], torch.cat([part[name] for part in parts]).to(whole[name].dtype)), name


@operators
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_autocast(operator, dtype):
    features = FEATURES.to(dtype)
    expected = operator.public(features.float(), ROIS, SIZE).to(dtype)
    assert torch.equal(operator.public(features, ROIS, SIZE), expected)
    assert torch.equal(operator.public(features, ROIS.to(dtype), SIZE), expected)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(operator.public(features, ROIS.double(), SIZE), expected)


@operators
def test_boxes_get_a_gradient_where_there_is_one(operator):
    rois = (ROIS + torch.tensor([0.0, 0.3, 0.4, 0.2, 0.1])).requires_grad_()
    operator.public(FEATURES.clone().requires_grad_(), rois, SIZE).square().sum().backward()
    assert (rois.grad is not None) == operator.samples
    assert not operator.samples or rois.grad[:, 1:].abs().min() > 0


OF_ROI_ALIGN = re.compile("ratio|quantized|answer")
SHARED = [row for row in REFUSED if not OF_ROI_ALIGN.search(row[0])]


@operators
@pytest.mark.parametrize(
    ("bad", "good", "error", "message"), [row[1:] for row in SHARED], ids=[row[0] for row in SHARED]
)
def test_what_cannot_be_right_is_refused_as_roi_align_does(operator, bad, good, error, message):
    arguments = {"input": MAP, "boxes": torch.tensor([[0.0, 1, 1, 5, 5], [1, 2, 2, 6, 6]]), "output_size": 1}
    with pytest.raises(error, match=message):
        operator.public(**{**arguments, **bad})
    if "output_size" not in good:
        operator.public(**{**arguments, **good})


@operators
@pytest.mark.parametrize(
    ("bad", "good", "error", "message"), [row[1:] for row in BAD_VALUES], ids=[r[0] for r in BAD_VALUES]
)
def test_bad_values_are_refused_as_roi_align_does(operator, bad, good, error, message):
    with pytest.raises(error, match=message):
        operator.public(MAP, bad, 1)
    assert operator.public(MAP, good, 1).isfinite().all()
    case = replace(random_case(0), input_shape=(2, 3, 8, 8), output_size_hw=(1, 1), spatial_scale=1.0, sampling_ratio=0)
    with pytest.raises(RuntimeError, match=r"RA20[56]"):
        operator.run(MAP, bad, torch.ones(2, 3, 1, 1), case, torch.ops.roialign)


@operators
@pytest.mark.parametrize(("changes", "code"), [row[1:] for row in BAD_DIRECT], ids=[row[0] for row in BAD_DIRECT])
def test_bad_options_raise_from_the_registered_operators_too(operator, changes, code):
    if "ratio" in changes and not operator.samples:
        pytest.skip("takes no sampling_ratio")
    features, rois = changes.get("input", MAP), changes.get("rois", ROIS[:2])
    case = replace(random_case(0), input_shape=tuple(features.shape), output_size_hw=changes.get("size", (1, 1)))
    case = replace(case, spatial_scale=changes.get("scale", 1.0), sampling_ratio=changes.get("ratio", 2))
    grad = torch.ones(len(rois), 3, *case.output_size_hw)
    with pytest.raises((RuntimeError, RoIError), match=f"^{code}"):
        operator.run(features, rois, grad, case, torch.ops.roialign)


@pytest.mark.parametrize("grad", [torch.ones(3, 3, 1, 1), torch.ones(2, 3, 1), torch.ones(2, 3, 1, 1).double()])
@pytest.mark.parametrize(
    "op", [name for name in backends.names() if "pool_backward" in name or "ps_roi_align_b" in name]
)
def test_a_gradient_for_other_boxes_or_of_another_type_is_refused(op, grad):
    maxima, rois = torch.zeros(2, 3, 1, 1, dtype=torch.int32), ROIS[:2]
    arguments = {
        "roi_pool_backward": (grad, maxima, rois, 2, 8, 8),
        "ps_roi_align_backward": (grad, rois, 2, 8, 8, 1.0, 2),
        "ps_roi_align_backward_boxes": (grad, MAP, rois, 1.0, 2),
        "ps_roi_pool_backward": (grad, rois, 2, 8, 8, 1.0, True),
        "prroi_pool_backward": (grad, rois, 2, 8, 8, 1.0),
        "prroi_pool_backward_boxes": (grad, MAP, rois, 1.0),
    }[op]
    with pytest.raises((RuntimeError, RoIError), match=r"^RA[35]0[56]: "):
        getattr(torch.ops.roialign, op)(*arguments)


@operators
@pytest.mark.parametrize("compat", ["Torchvision", "mmcv", 1, True])
def test_a_word_for_compat_that_names_nothing(operator, compat):
    with pytest.raises(ValueError, match=r'expected compat, None or "torchvision"; got'):
        operator.public(FEATURES, ROIS, SIZE, compat=compat)


@pytest.mark.parametrize("operator", [PS_ROI_ALIGN, PS_ROI_POOL], ids=lambda operator: operator.name)
def test_channels_that_are_no_multiple_of_the_bins(operator):
    message = r"RA506: .*multiple of the 5 x 2 = 10 bins.*\[2, 12, 16, 20\].*divides 12"
    with pytest.raises(RoIError, match=message):
        operator.public(FEATURES, ROIS, (5, 2))
    case = replace(random_case(0), input_shape=(2, 1, 16, 20), output_size_hw=(5, 2))
    with pytest.raises(RuntimeError, match="RA506"):
        operator.run(FEATURES, ROIS, case.grad(), case, torch.ops.roialign)


@operators
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_without_a_graph_break(operator, backend):
    torch._dynamo.reset()
    compiled = torch.compile(operator.public, fullgraph=True, backend=backend)
    ours, theirs = (FEATURES.clone().requires_grad_() for _ in range(2))
    output, expected = compiled(ours, BOXES, SIZE, 0.5), operator.public(theirs, BOXES, SIZE, 0.5)
    assert torch.equal(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(ours.grad, theirs.grad)


@operators
def test_compile_once_for_any_number_of_boxes(operator):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda rois: operator.public(FEATURES, rois, SIZE), fullgraph=True, backend="eager", dynamic=True
    )
    compiled(ROIS)
    with torch.compiler.set_stance("fail_on_recompile"):
        for rois in (ROIS[:2], ROIS.repeat(4, 1)):
            assert torch.equal(compiled(rois), operator.public(FEATURES, rois, SIZE))


@operators
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_the_function_and_the_module_script(operator):
    scripted = torch.jit.script(operator.public)
    options = (SIZE, 0.5, 2) if operator.samples else (SIZE, 0.5)
    expected = operator.public(FEATURES, ROIS, *options)
    for boxes in (ROIS, BOXES):
        assert torch.equal(scripted(FEATURES, boxes, list(SIZE), *options[1:]), expected)
    assert torch.equal(torch.jit.script(operator.module(*options))(FEATURES, BOXES), expected)
    leaf = FEATURES.clone().requires_grad_()
    scripted(leaf, ROIS, list(SIZE), *options[1:]).sum().backward()
    assert leaf.grad.any()
    assert torch.equal(scripted(FEATURES, ROIS, list(SIZE), *options[1:], compat="torchvision"), expected)
    with pytest.raises(torch.jit.Error, match=r'RA506: expected compat, None or "torchvision"'):
        scripted(FEATURES, ROIS, list(SIZE), *options[1:], compat="mmcv")


@operators
def test_observers_and_the_notice_see_the_call(operator, monkeypatch):
    seen = []
    monkeypatch.setattr(calls, "observers", [seen.append])
    monkeypatch.setattr(notice, "_noticed", set())
    with roialign.set_policy("warn"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        operator.public(FEATURES, [BOXES[0] + 500, BOXES[1]], SIZE)
    (call,) = seen
    assert (call.operator, call.output_size_hw, call.sampling_ratio) == (operator.name, SIZE, -1)
    assert call.aligned == operator.samples
    assert call.rois[:, 0].tolist() == [0, 0, 1]
    (warning,) = caught
    assert warning.category is RoIWarning
    with roialign.set_policy("raise"), pytest.raises(roialign.errors.CoverageError):
        operator.public(FEATURES, [BOXES[0] + 500], SIZE)


@operators
def test_vmap_over_the_features_equals_a_loop(operator):
    features = torch.stack([FEATURES, FEATURES.flip(2)])
    pooled = torch.vmap(lambda maps: operator.public(maps, ROIS, SIZE))(features)
    assert torch.equal(pooled, torch.stack([operator.public(maps, ROIS, SIZE) for maps in features]))


def hostile_call(operator: Operator, seed: int) -> None:
    """A call with astronomical, inverted and empty boxes: no crash, and the reference's numbers."""
    generator = torch.Generator().manual_seed(seed)
    case = random_case(seed)
    sides = torch.tensor([0.0, -0.0, 1e-30, 0.5, 3.0, 1e4, -1e4, 1e8, -1e8, 2.0**29])
    rois = torch.cat([torch.zeros(6, 1), sides[torch.randint(len(sides), (6, 4), generator=generator)]], 1)
    case = replace(case, boxes=tuple(map(tuple, rois.tolist())), spatial_scale=1.0, sampling_ratio=seed % 3 + 1)
    features, grad = operator.features(case), case.grad()
    results = operator.run(features, rois, grad, case, torch.ops.roialign)
    for name, expected in operator.run(features, rois, grad, case, reference).items():
        hold(results[name], expected, scale=features if "output" in name else expected)


@operators
def test_astronomical_boxes(operator):
    for seed in range(40):
        hostile_call(operator, seed)
