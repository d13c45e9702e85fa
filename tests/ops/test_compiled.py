"""Every public function compiled, for any number of sizes and boxes, and on tensors without values."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

import roialign

from .public import CALLS

SIZES = [(10, 12, 5), (14, 20, 9), (23, 17, 30), (31, 33, 3), (16, 16, 16), (11, 40, 7)]  # height, width, boxes

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@every_call
def test_two_graphs_serve_all_sizes(call):
    """One for the first sizes, which torch takes for constants, and one for all."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call(*SIZES[0])[0], backend=counter, fullgraph=True)
    for size in SIZES:
        function, arguments = call(*size)
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    assert counter.frame_count == 2


def test_two_graphs_train_a_head_of_any_sizes():
    torch._dynamo.reset()
    pooler = roialign.MultiScaleRoIAlign(["fine", "coarse"], 3, 2)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(pooler, backend=counter, fullgraph=True)
    for height, width, count in SIZES:
        call = CALLS["MultiScaleRoIAlign"](height, width, count)
        maps = {name: one.requires_grad_() for name, one in call[1][0].items()}
        wanted = torch.autograd.grad(pooler(maps, *call[1][1:]).square().sum(), tuple(maps.values()))
        found = torch.autograd.grad(compiled(maps, *call[1][1:]).square().sum(), tuple(maps.values()))
        torch.testing.assert_close(found, wanted)
    assert counter.frame_count == 2


def test_strides_that_differ_with_the_size_compile_too():
    """Neither powers of two nor whole numbers: a map of 9 cells for 248 pixels."""
    torch._dynamo.reset()
    pooler = roialign.MultiScaleRoIAlign(["0", "1"], 2, 2)
    compiled = torch.compile(pooler, backend="aot_eager", fullgraph=True)
    boxes = [torch.tensor([[10.0, 20, 200, 180], [3, 5, 40, 50]])]
    with roialign.set_policy("ignore"):
        for cells, image in ((9, 248), (13, 331), (20, 511)):
            maps = {"0": torch.rand(1, 2, 2 * cells, 2 * cells), "1": torch.rand(1, 2, cells, cells)}
            arguments = maps, boxes, [(image, image)]
            torch.testing.assert_close(compiled(*arguments), pooler(*arguments))


NEVER_CALLED = """
import torch, roialign
compiled = torch.compile(roialign.prroi_pool, fullgraph=True, backend="eager")
print(compiled(torch.ones(1, 1, 4, 4), torch.tensor([[0.0, 1, 1, 2, 2]]), 1).item())
"""


def test_an_operator_that_was_never_called_compiles():
    child = subprocess.run([sys.executable, "-c", NEVER_CALLED], capture_output=True, text=True)
    assert child.stdout.strip() == "1.0", child.stderr


@every_call
def test_tensors_without_values_have_the_shape(call):
    function, arguments = call(*SIZES[0])
    shape, dtype = (wanted := function(*arguments)).shape, wanted.dtype
    on_meta = function(*tree_map_only(Tensor, lambda one: one.to("meta"), arguments))
    assert (on_meta.device.type, on_meta.shape, on_meta.dtype) == ("meta", shape, dtype)
    with FakeTensorMode() as mode:
        fake = function(*tree_map_only(Tensor, mode.from_tensor, arguments))
    assert (fake.shape, fake.dtype) == (shape, dtype)


@every_call
def test_functional_and_traced_tensors_are_followed(call):
    function, arguments = call(*SIZES[0])
    wanted = function(*arguments)
    assert torch.equal(torch.func.functionalize(function)(*arguments), wanted)
    leaves, tree = tree_flatten(arguments)

    def of_tensors(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        return function(*tree_unflatten([next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves], tree))

    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    for mode in ("real", "symbolic"):
        graph = make_fx(of_tensors, tracing_mode=mode)(*tensors)
        torch.testing.assert_close(graph(*tensors), wanted)
        assert any("roialign" in str(node.target) for node in graph.graph.nodes)
