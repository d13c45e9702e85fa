"""RegionExtractor: pixels and boxes in, features out; the frames of what it did; compile, half precision, refusals."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import roialign
from roialign import errors
from roialign.geometry import Boxes, Frame
from roialign.regions import RegionExtractor, pool_regions


class Pyramid(nn.Module):
    """Two levels, at strides 4 and 8; average pooling, so that a map's values are means of pixels."""

    def __init__(self, trainable: bool = True) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=trainable)
        self.calls = 0

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        if not torch.compiler.is_compiling():
            self.calls += 1
        fine = nn.functional.avg_pool2d(pixels, 4, ceil_mode=True, count_include_pad=False) * self.scale
        return {"fine": fine, "coarse": nn.functional.avg_pool2d(fine, 2, ceil_mode=True, count_include_pad=False)}


def smooth_photo(height: int, width: int, channels: int = 3) -> Tensor:
    """A photograph without noise: its values tell places apart, and survive resizing."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    return torch.stack([(0.2 + 0.5 * x, 0.9 - 0.6 * y, x * y)[channel] for channel in range(channels)])


BOXES = torch.tensor([[8.0, 12, 60, 70], [30, 30, 90, 62], [0, 0, 120, 96]])


def test_a_batch_as_it_is_equals_pool_regions():
    backbone, images = Pyramid(), torch.rand(2, 3, 96, 128)
    extractor = RegionExtractor(backbone, 3)
    pooled = extractor(images, [BOXES, BOXES[:1]])
    trace = roialign.trace(backbone, image_size=(96, 128))
    features = trace.as_maps(backbone(images))
    assert torch.equal(pooled.features, pool_regions(features, [BOXES, BOXES[:1]], 3, trace))
    assert pooled.levels.tolist() == [0, 0, 0, 0]
    assert pooled.coverage.tolist() == [1, 1, 1, 1]
    rois = torch.cat([torch.tensor([[0.0], [0], [0], [1]]), torch.cat([BOXES, BOXES[:1]])], 1)
    assert torch.equal(extractor(images, rois).features, pooled.features)


FITS = {
    "as it is": None,
    "stretched": partial(Frame.resize, size_hw=(192, 160)),
    "letterboxed": partial(Frame.letterbox, size_hw=(200, 208)),
    "shorter side": partial(Frame.resize_shorter, size=150),
    "flipped": Frame.flip_horizontal,
    "cropped": partial(Frame.crop, top=4, left=8, height=88, width=116),
    "chain": lambda photo: photo.flip_vertical().resize((180, 240)).pad(3, 5, 7, 9).crop(2, 1, 190, 248),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS.keys())
def test_whatever_is_done_to_the_image_a_box_shows_the_same_place(fit):
    """Features are means of pixels, so a box's feature is the photograph's colour there, whatever way it took."""
    photo = smooth_photo(96, 128)
    inside = torch.tensor([[16.0, 16, 48, 48], [40, 24, 104, 72]])
    pooled = RegionExtractor(Pyramid(), 1, fit=fit)(photo, inside).features[:, :, 0, 0]
    wanted = torch.stack(
        [photo[:, int(y1) : int(y2), int(x1) : int(x2)].mean((1, 2)) for x1, y1, x2, y2 in inside.tolist()]
    )
    torch.testing.assert_close(pooled, wanted, atol=0.012, rtol=0)
    halves = RegionExtractor(Pyramid(), 2, fit=fit)(photo, inside).features
    left_right, top_bottom = halves[..., 1] - halves[..., 0], halves[:, :, 1] - halves[:, :, 0]
    flipped = fit is Frame.flip_horizontal, fit is FITS["chain"]
    assert ((left_right[:, 0] < 0) == flipped[0]).all()
    assert ((top_bottom[:, 1] > 0) == flipped[1]).all()


@pytest.mark.parametrize(
    ("batch", "sizes"), [("by_size", [(90, 120), (90, 120), (168, 90)]), ("pad", [(168, 120)] * 3)]
)
@pytest.mark.filterwarnings("ignore:RA312")
def test_images_of_any_kind_and_size_in_one_batch(batch, sizes):
    tensors = [smooth_photo(96, 128), smooth_photo(60, 80), smooth_photo(120, 64)]
    levels = [(image * 255).round().to(torch.uint8) for image in tensors]
    array = levels[1].permute(1, 2, 0).numpy()
    pil = Image.fromarray(np.ascontiguousarray(levels[2].permute(1, 2, 0).numpy()))
    extractor = RegionExtractor(Pyramid(), 2, fit=partial(Frame.resize_shorter, size=90), batch=batch)
    boxes = [torch.tensor([[5.0, 5, 50, 50]]), torch.tensor([[10.0, 8, 40, 44], [1, 1, 9, 9]]), torch.empty(0, 4)]
    pooled = extractor([levels[0], array, pil], boxes)
    assert pooled.features.shape == (3, 3, 2, 2)
    alone = torch.cat([extractor(image, some).features for image, some in zip(levels, boxes, strict=True)])
    torch.testing.assert_close(pooled.features, alone)
    prepared = extractor.prepare([levels[0], array, pil])
    assert [tuple(image.shape[1:]) for image in prepared.images] == sizes
    assert [frame.root.size_hw for frame in prepared.frames] == [(96, 128), (60, 80), (120, 64)]
    assert [frame.size_hw for frame in prepared.frames] == sizes
    framed = [Boxes(some, frame.root) for some, frame in zip(boxes, prepared.frames, strict=True)]
    assert torch.equal(extractor(prepared, framed).features, pooled.features)


def test_boxes_in_any_connected_frame():
    photo = smooth_photo(96, 128)
    frame = Frame.image((96, 128), name="photo")
    extractor = RegionExtractor(Pyramid(), 2, fit=partial(Frame.letterbox, size_hw=(160, 160)))
    wanted = extractor(photo, BOXES[:2]).features
    thumbnail = Boxes(BOXES[:2], frame).to(frame.resize((48, 64)))
    torch.testing.assert_close(extractor(photo, thumbnail, frames=frame).features, wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(errors.FrameError, match=r"^RA107: .*image 0 .*96 x 128; got photo 96x128 > resize 48x64"):
        extractor(photo, thumbnail)
    with pytest.raises(errors.FrameError, match=r"^RA107: "):
        extractor(photo, thumbnail, frames=Frame.image((96, 128), name="another"))


def test_normalizes_before_it_pads():
    extractor = RegionExtractor(
        Pyramid(), 1, mean=[0.5, 0.4, 0.3], std=[0.2, 0.5, 0.1], fit=lambda one: one.pad(0, 0, 8, 8)
    )
    image = smooth_photo(32, 40)
    pixels = extractor.prepare(image).pixels[0]
    wanted = (image - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.5, 0.1]).view(3, 1, 1)
    torch.testing.assert_close(pixels[:, :32, :40], wanted)
    assert not pixels[:, 32:].any()
    assert not pixels[:, :, 40:].any()


def test_what_is_made_smaller_is_averaged_first():
    stripes = (torch.arange(160) % 2).float().expand(3, 160, 160)
    pixels = RegionExtractor(Pyramid(), 1, fit=partial(Frame.resize, size_hw=(48, 48))).prepare(stripes).pixels
    assert (pixels - 0.5).abs().max() < 0.05


def test_traces_once_for_each_size():
    backbone = Pyramid()
    extractor = RegionExtractor(backbone, 2, maps=["coarse"], offset="structural")
    sizes = [(96, 128), (64, 64), (96, 128)]
    for size in sizes:
        assert extractor(torch.rand(1, 3, *size), [BOXES[:1]]).features.shape == (1, 3, 2, 2)
    assert extractor.trace((96, 128)) is extractor.trace((96, 128))
    calls = backbone.calls
    extractor(torch.rand(1, 3, 64, 64), [BOXES[:1]])
    assert backbone.calls == calls + 1  # the batch alone


def test_gradients_to_weights_and_boxes_and_copies():
    extractor = RegionExtractor(Pyramid(), 2)
    boxes = BOXES[:2].clone().requires_grad_()
    extractor(smooth_photo(96, 128)[None], [boxes]).features.sum().backward()
    assert extractor.backbone.scale.grad != 0
    assert boxes.grad.abs().sum() > 0
    again = copy.deepcopy(extractor)
    assert torch.equal(
        again(smooth_photo(96, 128), BOXES[:2]).features, extractor(smooth_photo(96, 128), BOXES[:2]).features
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_weights_decide_the_type(dtype):
    extractor = RegionExtractor(Pyramid(), 2, fit=partial(Frame.resize, size_hw=(64, 64)))
    wanted = extractor(smooth_photo(96, 128), BOXES).features
    pooled = extractor.to(dtype)(smooth_photo(96, 128), BOXES)
    assert pooled.features.dtype == dtype
    torch.testing.assert_close(pooled.features.float(), wanted, atol=2e-2, rtol=2e-2)


def test_compiles_in_one_graph_once_the_size_is_traced():
    extractor = RegionExtractor(Pyramid(), 2)
    images, boxes = torch.rand(2, 3, 96, 128), [BOXES, BOXES[1:]]
    wanted = extractor(images, boxes)
    compiled = torch.compile(extractor, fullgraph=True, backend="aot_eager")
    pooled = compiled(images, boxes)
    torch.testing.assert_close(pooled.features, wanted.features)
    assert torch.equal(pooled.levels, wanted.levels)


def test_compiles_around_the_preparation():
    extractor = RegionExtractor(Pyramid(), 2, fit=partial(Frame.letterbox, size_hw=(96, 96)))
    wanted = extractor(smooth_photo(60, 80), BOXES[:1]).features
    compiled = torch.compile(extractor, backend="aot_eager")
    torch.testing.assert_close(compiled(smooth_photo(60, 80), BOXES[:1]).features, wanted)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"images": "photo.jpg"},
            errors.FeatureMapError,
            r"RA307: expected image 0 as the path of .*'photo\.jpg': .*No such",
        ),
        ({"images": torch.rand(8, 8)}, errors.FeatureMapError, r"RA307: expected image 0 as a tensor.*tensor \[8, 8\]"),
        (
            {"images": torch.ones(3, 8, 8, dtype=torch.int64)},
            errors.FeatureMapError,
            r"RA307: .*int64.*image\.to\(torch\.uint8\)",
        ),
        ({"images": []}, errors.FeatureMapError, r"RA307: .*empty list"),
        ({"boxes": [BOXES, BOXES]}, errors.BatchIndexError, r"RA208: .*each of 1 images; got 2 and none"),
        (
            {"images": [torch.rand(3, 8, 8), torch.rand(1, 8, 8)], "boxes": [BOXES, BOXES]},
            errors.FeatureMapError,
            "RA307",
        ),
        ({"frames": Frame.image((9, 9))}, errors.FrameError, r"RA107: .*to be of its size, 96 x 128; got image 9x9"),
    ],
)
def test_refused(change, error, message):
    good = {"images": smooth_photo(96, 128), "boxes": BOXES}
    extractor = RegionExtractor(Pyramid(), 2, fit=lambda photo: photo)
    assert len(extractor(**good).features) == 3
    with pytest.raises(error, match=f"^{message}"):
        extractor(**{**good, **change})


def test_a_fit_that_pixels_cannot_follow_is_refused():
    photo = smooth_photo(32, 32)
    for fit in (
        lambda frame: frame.affine((32, 32), (1, 1), (0.5, 0)),
        lambda frame: Frame.image((64, 64)),
        lambda frame: frame.affine((32, 32), (0.7, 1), (0, 0)),
    ):
        with pytest.raises(errors.FrameError, match=r"^RA107: "):
            RegionExtractor(Pyramid(), 2, fit=fit)(photo, BOXES[:1])


def test_unknown_maps_are_named():
    with pytest.raises(errors.LevelError, match=r"^RA401: expected maps among 'fine', 'coarse'; got 'p3'.*maps=\["):
        RegionExtractor(Pyramid(), 2, maps=["p3"])(torch.rand(1, 3, 64, 64), [BOXES[:1]])


class Stages(nn.Module):
    """Maps as a classifier's stages or a transformer's blocks have them: of these channels and strides."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        pairs = zip((3, *channels), channels, strides, strict=False)
        self.stages = nn.ModuleList(nn.Conv2d(before, after, 3, stride, 1) for before, after, stride in pairs)

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


@pytest.mark.parametrize(
    ("channels", "strides", "levels"),
    [((4, 8, 16), (4, 2, 2), [0, 0, 0]), ((8, 8, 8), (8, 1, 1), [0, 0, 0]), ((8, 8, 8), (8, 2, 2), [0, 0, 1])],
    ids=["stages", "blocks", "pyramid"],
)
def test_maps_that_are_not_named_are_those_of_a_pyramid_or_the_last(channels, strides, levels):
    backbone = Stages(channels, strides)
    boxes = torch.tensor([[8.0, 12, 60, 70], [0, 0, 100, 100], [0, 0, 230, 250]])
    images = torch.rand(1, 3, 256, 256)
    pooled = RegionExtractor(backbone, 2)(images, [boxes])
    assert pooled.levels.tolist() == levels
    if levels[-1] == 0:
        last = RegionExtractor(backbone, 2, maps=["2"])(images, [boxes])
        assert torch.equal(pooled.features, last.features)


def test_maps_of_different_depth_are_refused_by_name():
    extractor = RegionExtractor(Stages((4, 8, 16), (4, 2, 2)), 2, maps=["1", "2"])
    wanted = r"^RA306: .*got '1' with 8 and '2' with 16\. Name one, maps=\['2'\].*there are '0', '1', '2'"
    with pytest.raises(errors.FeatureMapError, match=wanted):
        extractor(torch.rand(1, 3, 64, 64), [BOXES[:1]])
