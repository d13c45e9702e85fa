"""The operators as torch sees them: opcheck, compile, export, script, fx, fake tensors, autocast, the fallback."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from torchvision.models.feature_extraction import get_graph_node_names

import roialign
from roialign.ops import registered

from .cases import random_case

OPTIONS = (0.5, 2, True)
OPS = tuple(registered.SCHEMAS)


def arguments_of(op: str, dtype: torch.dtype, requires_grad: bool) -> tuple:
    features = torch.rand(2, 3, 8, 9, dtype=dtype, requires_grad=requires_grad)
    rois = torch.tensor([[0.0, 1, 2, 9, 11], [1.0, 3, 1, 8, 20]], dtype=dtype, requires_grad=requires_grad)
    grad = torch.rand(2, 3, 2, 4, dtype=dtype, requires_grad=requires_grad)
    maps = [features, torch.rand(2, 3, 5, 4, dtype=dtype, requires_grad=requires_grad)]
    levels, cells = torch.tensor([1, 0]), [0.5, 0.5, 0.5, 0.25, 0.25, 0.1, 0.2, 0.0]
    fixed_maps = [one.detach() for one in maps]
    turned = torch.tensor([[0.0, 5, 6, 8, 9, 30], [1, 4, 9, 5, 12, -70]], dtype=dtype, requires_grad=requires_grad)
    masks = torch.rand(2, 5, 6, dtype=dtype, requires_grad=requires_grad)
    pasted = torch.rand(2, 9, 11, dtype=dtype, requires_grad=requires_grad)
    own_planes = torch.rand(2, 24, 8, 9, dtype=dtype, requires_grad=requires_grad)
    maxima = torch.randint(-1, 72, grad.shape, dtype=torch.int32)
    return {
        "roi_align": (features, rois, 2, 4, *OPTIONS),
        "roi_align_backward": (grad, rois, 2, 8, 9, *OPTIONS),
        "roi_align_backward_boxes": (grad.detach(), features.detach(), rois.detach(), *OPTIONS),
        **arguments_of_3d(dtype, requires_grad),
        "prroi_pool": (features, rois, 2, 4, 0.5),
        "roi_align_max": (features, rois, 2, 4, *OPTIONS, False),
        "roi_align_max_backward": (grad.detach(), features.detach(), rois.detach(), *OPTIONS, False),
        "roi_align_max_backward_boxes": (grad.detach(), features.detach(), rois.detach(), *OPTIONS, True),
        "prroi_pool_backward": (grad, rois, 2, 8, 9, 0.5),
        "prroi_pool_backward_boxes": (grad.detach(), features.detach(), rois.detach(), 0.5),
        "multi_scale_roi_align": (maps, rois, levels, cells, 2, 4, 2, False),
        "multi_scale_roi_align_backward": (grad, rois, levels, 2, [8, 5], [9, 4], cells, 2, False),
        "multi_scale_roi_align_backward_boxes": (grad.detach(), fixed_maps, rois.detach(), levels, cells, 2, False),
        "roi_pool": (features, rois.detach(), 2, 4, 0.5, False, True),
        "roi_pool_backward": (grad, maxima, rois.detach(), 2, 8, 9),
        "ps_roi_align": (own_planes, rois, 2, 4, 0.5, 2, False),
        "ps_roi_align_backward": (grad, rois, 2, 8, 9, 0.5, 2),
        "ps_roi_align_backward_boxes": (grad.detach(), own_planes.detach(), rois.detach(), 0.5, 2),
        "ps_roi_pool": (own_planes, rois.detach(), 2, 4, 0.5, False, False),
        "ps_roi_pool_backward": (grad, rois.detach(), 2, 8, 9, 0.5, True),
        "roi_align_rotated": (features, turned, 2, 4, *OPTIONS, False, False),
        "roi_align_rotated_backward": (grad, turned, 2, 8, 9, *OPTIONS, False, False),
        "roi_align_rotated_backward_boxes": (*(one.detach() for one in (grad, features, turned)), *OPTIONS, True, True),
        "masked_roi_align": (features, rois, masks, 2, 4, *OPTIONS, True),
        "masked_roi_align_backward": (grad, rois, masks, 2, 8, 9, *OPTIONS, True),
        "masked_roi_align_backward_boxes": (*(one.detach() for one in (grad, features, rois, masks)), *OPTIONS, False),
        "paste_masks": (masks, rois[:, 1:].detach(), 9, 11, None, False),
        "paste_masks_backward": (pasted, rois[:, 1:].detach(), 5, 6, True),
    }[op]


def arguments_of_3d(dtype: torch.dtype, requires_grad: bool) -> dict[str, tuple]:
    features = torch.rand(2, 3, 5, 8, 9, dtype=dtype, requires_grad=requires_grad)
    rois = torch.tensor([[0.0, 1, 2, 0, 9, 11, 4], [1.0, 3, 1, 2, 8, 20, 9]], dtype=dtype, requires_grad=requires_grad)
    grad = torch.rand(2, 3, 2, 3, 4, dtype=dtype, requires_grad=requires_grad)
    options = 0.5, 0.6, 0.7, 2, True
    return {
        "roi_align_3d": (features, rois, 2, 3, 4, *options),
        "roi_align_3d_backward": (grad, rois, 2, 5, 8, 9, *options),
        "roi_align_3d_backward_boxes": (grad.detach(), features.detach(), rois.detach(), *options),
    }


@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float64, True), (torch.float32, False)])
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op, dtype, requires_grad):
    torch.library.opcheck(getattr(torch.ops.roialign, op).default, arguments_of(op, dtype, requires_grad))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("op", OPS)
def test_every_element_of_a_result_is_written(op, dtype, layout):
    """torch's deterministic mode fills fresh memory: with NaN, or the largest integer."""

    def laid_out(value: Any) -> Any:
        return value.to(memory_format=layout) if isinstance(value, Tensor) and value.dim() == 4 else value

    arguments = tuple(map(laid_out, arguments_of(op, dtype, requires_grad=False)))
    run = getattr(torch.ops.roialign, op)
    expected = tree_map(torch.clone, run(*arguments))
    torch.use_deterministic_algorithms(True)
    assert torch.empty(9).isnan().all()
    torch.testing.assert_close(run(*arguments), expected, rtol=0, atol=0)


class Head(nn.Module):
    """A small network around the operator."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.pool = roialign.RoIAlign((3, 2), 0.5, 2, True)
        self.linear = nn.Linear(24, 5)

    def forward(self, images: Tensor, boxes: list[Tensor]) -> Tensor:
        return self.linear(self.pool(self.conv(images), boxes).flatten(1))


class TensorHead(Head):
    def forward(self, images: Tensor, boxes: Tensor) -> Tensor:
        return self.linear(self.pool(self.conv(images), boxes).flatten(1))


def pool_no_lists(features: Tensor) -> Tensor:
    boxes: list[Tensor] = []
    return roialign.roi_align(features, boxes, [3, 3])


IMAGES = torch.rand(2, 3, 16, 20)
BOXES = [torch.tensor([[1.0, 2, 9, 12], [4, 4, 18, 14]]), torch.tensor([[0.0, 0, 20, 16]])]
ROIS = torch.cat([torch.tensor([[0.0], [0.0], [1.0]]), torch.cat(BOXES)], dim=1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compile_without_a_graph_break(backend):
    torch._dynamo.reset()
    head = Head()
    compiled = torch.compile(head, fullgraph=True, backend=backend)
    expected = head(IMAGES, BOXES)
    torch.testing.assert_close(compiled(IMAGES, BOXES), expected)
    expected.sum().backward()
    wanted = [parameter.grad.clone() for parameter in head.parameters()]
    head.zero_grad()
    compiled(IMAGES, BOXES).sum().backward()
    torch.testing.assert_close([parameter.grad for parameter in head.parameters()], wanted)


def rois_of(count: int) -> Tensor:
    return torch.cat([torch.zeros(count, 1), torch.rand(count, 4) * 16], dim=1)


def test_compile_once_for_any_number_of_boxes():
    torch._dynamo.reset()
    features = torch.rand(2, 3, 16, 16)

    def pool(rois):
        return roialign.roi_align(features, rois, 3, 0.5, 2)

    compiled = torch.compile(pool, fullgraph=True, backend="eager", dynamic=True)
    compiled(rois_of(4))
    with torch.compiler.set_stance("fail_on_recompile"):
        for count in (3, 5, 17):
            rois = rois_of(count)
            assert torch.equal(compiled(rois), pool(rois))


@pytest.mark.parametrize("dynamic", [None, True])
def test_compile_for_more_than_one_scale(dynamic):
    """Pooling from several levels: torch makes the scale a symbol once it has seen two."""
    torch._dynamo.reset()
    compiled = torch.compile(roialign.roi_align, fullgraph=True, backend="eager", dynamic=dynamic)
    features, rois = torch.rand(2, 3, 16, 16), rois_of(4)
    for scale in (0.5, 0.25, 0.125):
        expected = roialign.roi_align(features, rois, 3, scale, 2)
        assert torch.equal(compiled(features, rois, 3, scale, 2), expected)


def test_export_with_any_number_of_boxes():
    boxes = torch.export.Dim("boxes", min=1, max=1000)
    head = TensorHead()
    program = torch.export.export(head, (IMAGES, ROIS), dynamic_shapes=({}, {0: boxes}))
    assert "torch.ops.roialign.roi_align" in program.graph_module.code
    for rois in (ROIS, ROIS[:1], ROIS.repeat(5, 1)):
        torch.testing.assert_close(program.module()(IMAGES, rois), head(IMAGES, rois))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
class TestScript:
    @pytest.mark.parametrize(("head", "boxes"), [(TensorHead(), ROIS), (Head(), BOXES)], ids=["tensor", "list"])
    def test_a_module_scripts(self, head, boxes):
        scripted = torch.jit.script(head)
        torch.testing.assert_close(scripted(IMAGES, boxes), head(IMAGES, boxes))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_the_function_scripts(self, dtype):
        scripted = torch.jit.script(roialign.roi_align)
        features = torch.rand(2, 3, 16, 16).to(dtype)
        for boxes in (ROIS.to(dtype), [image_boxes.to(dtype) for image_boxes in BOXES]):
            assert torch.equal(
                scripted(features, boxes, [3, 3], 0.5, 2), roialign.roi_align(features, boxes, 3, 0.5, 2)
            )

    def test_no_boxes_script_as_they_run(self):
        scripted = torch.jit.script(roialign.roi_align)
        for boxes in ([torch.empty(0, 4)] * 2, torch.empty(0, 5)):
            assert scripted(torch.rand(2, 3, 8, 8), boxes, [3, 3]).shape == (0, 3, 3, 3)

    def test_no_lists_script_as_they_run(self):
        scripted = torch.jit.script(pool_no_lists)
        assert scripted(torch.rand(2, 3, 8, 8)).shape == pool_no_lists(torch.rand(2, 3, 8, 8)).shape

    def test_a_scripted_function_raises_for_bad_values(self):
        scripted = torch.jit.script(roialign.roi_align)
        for row, code in ((2.0, "RA206"), (float("nan"), "RA206")):
            with pytest.raises(RuntimeError, match=code):
                scripted(torch.rand(2, 3, 8, 8), torch.tensor([[row, 1, 1, 4, 4]]), [3, 3])

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_a_call_traces(self):
        features = torch.rand(2, 3, 16, 16)
        traced = torch.jit.trace(lambda maps, rois: roialign.roi_align(maps, rois, 3, 0.5, 2), (features, ROIS))
        assert torch.equal(traced(features, ROIS[:2]), roialign.roi_align(features, ROIS[:2], 3, 0.5, 2))


def test_fx_keeps_the_function_as_one_node():
    head = TensorHead()
    traced = torch.fx.symbolic_trace(head)
    nodes = [node for node in traced.graph.nodes if node.op == "call_function" and "roi_align" in str(node.target)]
    assert len(nodes) == 1
    torch.testing.assert_close(traced(IMAGES, ROIS), head(IMAGES, ROIS))


def test_the_module_is_a_leaf_for_torchvisions_feature_extraction():
    _, evaluated = get_graph_node_names(TensorHead().eval())
    assert evaluated == ["images", "boxes", "conv", "pool.roi_align", "flatten", "linear"]


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_meta_and_fake_tensors_have_the_shape_and_no_values(policy):
    with roialign.set_policy(policy):
        output = roialign.roi_align(torch.rand(2, 3, 8, 8, device="meta"), torch.rand(4, 5, device="meta"), (2, 3))
        assert (output.device.type, output.shape) == ("meta", (4, 3, 2, 3))
        with FakeTensorMode():
            fake = roialign.roi_align(torch.rand(2, 3, 8, 8).half(), torch.rand(4, 5), (2, 3))
        assert (fake.shape, fake.dtype) == ((4, 3, 2, 3), torch.float16)


@pytest.mark.parametrize("policy", ["warn", "ignore"])
def test_vmap_over_the_features_equals_a_loop(policy):
    features = torch.rand(4, 2, 3, 8, 10)
    rois = ROIS * torch.tensor([1.0, 0.5, 0.5, 0.5, 0.5])

    def pool(maps):
        return roialign.roi_align(maps, rois, 3, 1.0, 2)

    with roialign.set_policy(policy):
        assert torch.equal(torch.vmap(pool)(features), torch.stack([pool(maps) for maps in features]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_returns_the_type_of_the_features(dtype):
    case = random_case(9).with_boxes(("inside",), 4)
    features, rois = case.features(dtype), case.rois()
    with torch.autocast("cpu", dtype=dtype):
        output = roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)
        wide_boxes = roialign.roi_align(features, rois.double(), case.output_size_hw, *case.sampling)
        narrow_boxes = roialign.roi_align(features.float(), rois.to(dtype), case.output_size_hw, *case.sampling)
    assert output.dtype == wide_boxes.dtype == dtype
    assert narrow_boxes.dtype == torch.float32
    expected = roialign.roi_align(features, rois, case.output_size_hw, *case.sampling)
    assert torch.equal(output, expected)
    assert torch.equal(wide_boxes, expected)


def test_a_network_trains_under_autocast():
    head = TensorHead()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(IMAGES, ROIS)
    output.float().sum().backward()
    assert head.conv.weight.grad.abs().sum() > 0


FALLBACK = """
import warnings, torch
def refuse(path): raise OSError("libtorch_cpu.so: undefined symbol")
torch.ops.load_library = refuse
import roialign
from roialign.ops import backends, registered
assert backends.serving("roi_align", "cpu") == "reference", backends.serving("roi_align", "cpu")
features, boxes = torch.rand(1, 2, 8, 8, requires_grad=True), torch.tensor([[0.0, 1, 1, 6, 6]], requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        output = roialign.roi_align(features, boxes, 3)
        output.sum().backward()
assert torch.equal(output, registered.REFERENCE["roi_align"](features, boxes, 3, 3, 1.0, -1, False)[0])
assert features.grad.any() and boxes.grad.any()
(warning,) = [str(warning.message) for warning in caught]
assert "could not be loaded: libtorch_cpu.so: undefined symbol" in warning, warning
assert "pip install --no-build-isolation" in warning, warning
assert caught[0].filename == "<string>", caught[0].filename
for bad, code in ((2.0, "RA206"), (float("nan"), "RA206")):
    try:
        roialign.roi_align(features, torch.tensor([[bad, 1, 1, 6, 6]]), 3)
    except roialign.RoIError as error:
        assert error.code == code
    else:
        raise AssertionError("no error")
"""


@pytest.mark.kernels
def test_without_the_kernels_the_reference_serves_and_says_so_once():
    child = subprocess.run([sys.executable, "-c", FALLBACK], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
