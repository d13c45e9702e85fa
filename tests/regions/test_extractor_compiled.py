"""RegionExtractor compiled, exported, checkpointed and counted: the trace within it is in nobody's way."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from roialign.regions import RegionExtractor


class Plain(nn.Module):
    """Nothing depends on the size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 7, stride=4, padding=3), nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(image)
        return {"fine": fine, "coarse": self.coarse(fine)}


class TopDown(Plain):
    """The coarse map is enlarged to the fine one, so strides and offsets depend on the size's remainder."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine, coarse = super().forward(image).values()
        return {"fine": fine + F.interpolate(coarse, size=fine.shape[-2:]), "coarse": coarse}


class Branching(Plain):
    """Larger images are made smaller first: a way that no trace of another size shows."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return super().forward(F.avg_pool2d(image, 2) if image.shape[2] > 150 else image)


BOXES = [torch.tensor([[8.0, 12, 60, 70], [30, 30, 90, 62]]), torch.tensor([[0.0, 0, 60, 50]])]
ROIS = torch.cat([torch.tensor([[0.0], [0], [1]]), torch.cat(BOXES)], 1)
SIZES = [(96, 128), (64, 160), (128, 96), (160, 192)]

each_backbone = pytest.mark.parametrize("backbone", [Plain, TopDown])


def traces_made(extractor: RegionExtractor, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with each trace that `extractor` makes from now on."""
    made: list[Any] = []
    trace = extractor._trace
    monkeypatch.setattr(extractor, "_trace", lambda size: made.append(size) or trace(size))
    return made


@each_backbone
def test_one_trace_serves_a_family_of_sizes(backbone, monkeypatch):
    extractor = RegionExtractor(backbone(), 2)
    made = traces_made(extractor, monkeypatch)
    for size in SIZES:
        extractor(torch.rand(2, 3, *size), BOXES)
    assert made == [SIZES[0]]
    for size in ((97, 131), (97, 131)):
        images = torch.rand(2, 3, *size)
        alone = RegionExtractor(extractor.backbone, 2)
        assert torch.equal(extractor(images, BOXES).features, alone(images, BOXES).features)
    assert made == [SIZES[0]]


def test_a_backbone_that_takes_another_way_is_traced_again(monkeypatch):
    extractor = RegionExtractor(Branching(), 2)
    made = traces_made(extractor, monkeypatch)
    for size in ((96, 128), (160, 192), (160, 192), (96, 128)):
        images = torch.rand(2, 3, *size)
        alone = RegionExtractor(extractor.backbone, 2)
        assert torch.equal(extractor(images, BOXES).features, alone(images, BOXES).features)
    assert made == [(96, 128), (160, 192)]


@each_backbone
def test_two_graphs_serve_all_sizes(backbone):
    torch._dynamo.reset()
    extractor = RegionExtractor(backbone(), 2)
    extractor.trace(SIZES[0])
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(extractor, backend=counter, fullgraph=True)
    for size in SIZES:
        images = torch.rand(2, 3, *size)
        torch.testing.assert_close(compiled(images, BOXES).features, extractor(images, BOXES).features)
    assert counter.frame_count == 2


def test_without_a_trace_the_graph_breaks_once(monkeypatch):
    torch._dynamo.reset()
    extractor = RegionExtractor(Plain(), 2)
    compiled = torch.compile(extractor, backend="eager")
    for size in SIZES:
        images = torch.rand(2, 3, *size)
        torch.testing.assert_close(compiled(images, BOXES).features, extractor(images, BOXES).features)
    assert len(extractor._families) == 1


class Features(nn.Module):
    def __init__(self, extractor: RegionExtractor) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor, rois: Tensor) -> Tensor:
        return self.extractor(images, rois).features


@pytest.mark.parametrize("strict", [False, True])
@each_backbone
def test_exports_with_any_size(backbone, strict):
    extractor = RegionExtractor(backbone(), 2)
    extractor.trace((96, 128))
    height, width = (8 * torch.export.Dim(name, min=2, max=100) for name in ("height", "width"))
    shapes = {2: height, 3: width}, {0: torch.export.Dim("boxes")}
    program = torch.export.export(
        Features(extractor), (torch.rand(2, 3, 96, 128), ROIS), dynamic_shapes=shapes, strict=strict
    )
    for size, rois in (((96, 128), ROIS), ((64, 160), ROIS.repeat(3, 1))):
        images = torch.rand(2, 3, *size)
        torch.testing.assert_close(program.module()(images, rois), extractor(images, rois).features)


def test_exports_one_size_without_a_trace():
    extractor = RegionExtractor(TopDown(), 2)
    images = torch.rand(2, 3, 96, 128)
    program = torch.export.export(Features(extractor), (images, ROIS))
    torch.testing.assert_close(program.module()(images, ROIS), extractor(images, ROIS).features)


def test_flops_are_those_of_the_backbone_alone():
    counts = []
    extractor, images = RegionExtractor(TopDown(), 2), torch.rand(2, 3, 96, 128)
    for _ in range(2):  # with the trace and without
        with FlopCounterMode(display=False) as counter:
            extractor(images, BOXES)
        counts.append(counter.get_flop_counts())
    assert counts[0] == counts[1]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_recomputes_what_was_computed(reentrant):
    extractor, images = RegionExtractor(TopDown(), 2), torch.rand(2, 3, 96, 128, requires_grad=True)
    pooled = checkpoint(lambda one: extractor(one, BOXES).features, images, use_reentrant=reentrant)
    found = torch.autograd.grad(pooled.square().sum(), images) if not reentrant else _by_backward(pooled, images)
    wanted = torch.autograd.grad(extractor(images, BOXES).features.square().sum(), images)
    torch.testing.assert_close(found, wanted)


def _by_backward(pooled: Tensor, images: Tensor) -> tuple[Tensor]:
    pooled.square().sum().backward()
    assert images.grad is not None
    return (images.grad,)


def test_tensors_without_values_have_the_shape():
    extractor = RegionExtractor(TopDown(), 2).to("meta")
    boxes = [one.to("meta") for one in BOXES]
    assert extractor(torch.rand(2, 3, 96, 128, device="meta"), boxes).features.shape == (3, 8, 2, 2)
    with FakeTensorMode():
        extractor = RegionExtractor(TopDown(), 2)
        assert extractor(torch.rand(2, 3, 96, 128), [torch.rand(2, 4), torch.rand(1, 4)]).features.shape == (3, 8, 2, 2)


def test_inference_mode_may_come_first():
    extractor, images = RegionExtractor(TopDown(), 2), torch.rand(2, 3, 96, 128)
    with torch.inference_mode():
        pooled = extractor(images, BOXES).features
    assert torch.equal(pooled.clone(), extractor(images, BOXES).features.detach())
