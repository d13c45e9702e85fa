"""What is known of the image behind a map: nothing that the program did not show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roialign
from roialign.doctor.images import Seen, SeenImages
from roialign.ops.calls import RoICall


class Halves(nn.Module):
    """Averages over `stride` x `stride` pixels, with `channels` channels."""

    def __init__(self, stride: int, channels: int = 8) -> None:
        super().__init__()
        self.stride = stride
        self.expand = nn.Conv2d(3, channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.expand(image), self.stride, ceil_mode=True)


def of(images: SeenImages, features: Tensor) -> Seen:
    return images.of(RoICall(features, torch.tensor([[0.0, 1.0, 1.0, 9.0, 9.0]]), (2, 2), 1 / 16, 2, True))


def image(height: int, width: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width)


def test_an_output_and_its_views_are_of_the_image() -> None:
    images, backbone, batch = SeenImages(), Halves(16), image(320, 480, 2)
    with images.watching(), torch.no_grad():
        features = backbone(batch)
        Halves(32)(image(96, 96))
    for one in (features, features[1:], features.transpose(2, 3), features.detach()):
        seen = of(images, one)
        assert seen.image_size_hw == (320, 480)
        assert seen.images is not None
        assert seen.images.data_ptr() == batch.data_ptr()


def test_what_has_the_cells_of_an_output_is_of_its_image() -> None:
    """A cast, a copy, a convolution: another tensor of the same batch and cells."""
    images, neck = SeenImages(), nn.Conv2d(8, 4, 1)
    with images.watching(), torch.no_grad():
        features = Halves(16)(image(320, 480))
        for one in (features * 2, features.double(), neck(features), neck(neck.weight.new_ones(1, 8, 20, 30))):
            assert of(images, one).image_size_hw == (320, 480)
        assert of(images, torch.rand(1, 4, 19, 30)) == Seen()
        assert of(images, torch.rand(2, 4, 20, 30)) == Seen()


def test_layers_that_the_program_calls_one_by_one() -> None:
    images = SeenImages()
    layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), *(nn.Conv2d(8, 8, 3, stride=2, padding=1) for _ in range(3))]
    with images.watching(), torch.no_grad():
        features = image(230, 333)
        for layer in layers:
            features = torch.relu(layer(features))
    assert of(images, features).image_size_hw == (230, 333)


def test_two_images_that_may_be_meant_are_no_evidence() -> None:
    images = SeenImages()
    with images.watching(), torch.no_grad():
        for stride, size in ((16, 320), (32, 640)):
            Halves(stride)(image(size, size))
    assert of(images, torch.rand(1, 8, 20, 20)) == Seen(), "20 x 20 cells of either"
    images = SeenImages()
    with images.watching(), torch.no_grad():
        for height in (505, 510):
            Halves(16)(image(height, 512))
    assert of(images, torch.rand(1, 8, 32, 32)).image_size_hw == (510, 512), "one stride, sizes rounded up"


def test_an_earlier_image_is_no_evidence_for_an_unrelated_map() -> None:
    images = SeenImages()
    with images.watching(), torch.no_grad():
        Halves(16)(image(512, 512))
        assert of(images, torch.rand(1, 8, 64, 64)) == Seen()
        assert of(images, torch.rand(1, 8, 128, 128)) == Seen()


class Network(nn.Module):
    """Makes its map without modules, or takes another image, too."""

    def __init__(self, images: SeenImages, others: int) -> None:
        super().__init__()
        self.images, self.others, self.seen = images, others, Seen()
        self.stem = nn.Identity()

    def forward(self, sizes: list[int]) -> None:
        for size in sizes:
            self.stem(image(size, size))
        self.seen = of(self.images, torch.rand(1, 8, 32, 32))


@pytest.mark.parametrize(("sizes", "known"), [([512], (512, 512)), ([512, 256], None), ([700], None), ([], None)])
def test_the_one_image_of_the_module_that_runs(sizes: list[int], known: tuple[int, int] | None) -> None:
    images = SeenImages()
    network = Network(images, 0)
    with images.watching(), torch.no_grad():
        network.stem(image(512, 512))
        network(sizes)
        assert of(images, torch.rand(1, 8, 32, 32)) == Seen(), "nothing runs any more"
    assert network.seen.image_size_hw == known


class Resizing(nn.Module):
    """A network that resizes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Halves(16)

    def forward(self, batch: Tensor) -> Tensor:
        features: Tensor = self.backbone(nn.functional.interpolate(batch, (320, 320)))
        return features


def test_two_sizes_of_one_image_are_no_evidence() -> None:
    """Boxes may be of the image before or after it was resized."""
    images, network = SeenImages(), Resizing()
    with images.watching(), torch.no_grad():
        features = network(image(640, 640))
        assert of(images, features) == Seen()
        assert of(images, features.double()) == Seen()
        inner = network.backbone(image(320, 320))
        assert of(images, inner).image_size_hw == (320, 320)


def test_maps_of_few_channels_inside_a_network_are_no_images() -> None:
    images = SeenImages()
    network = nn.Sequential(Halves(4, channels=8), nn.Conv2d(8, 1, 1), nn.Conv2d(1, 8, 2, stride=2))
    with images.watching(), torch.no_grad():
        features = network(image(256, 320))
    assert features.shape[2:] == (32, 40)
    assert of(images, features).image_size_hw == (256, 320)


def test_modules_that_raise_leave_nothing_behind() -> None:
    images, backbone = SeenImages(), Halves(16)
    with images.watching(), torch.no_grad():
        with pytest.raises(RuntimeError):
            nn.Sequential(backbone, nn.Conv2d(5, 1, 1))(image(320, 480))
        assert of(images, torch.rand(1, 8, 64, 64)) == Seen()
        features = backbone(image(160, 160))
    assert of(images, features).image_size_hw == (160, 160)


def test_images_are_not_held_for_long() -> None:
    import weakref

    images, held = SeenImages(), []
    with images.watching(), torch.no_grad():
        for _ in range(5):
            batch = image(64, 64)
            held.append(weakref.ref(batch.untyped_storage()))
            Halves(16)(batch)
            del batch
    assert sum(one() is not None for one in held) <= 1


def detector(name: str, **options: Any) -> nn.Module:
    detection = pytest.importorskip("torchvision", reason="its detectors are watched").models.detection
    torch.manual_seed(0)
    model: nn.Module = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    return model.eval()


ORIGINAL = [(480, 640), (600, 400)]


def test_torchvisions_transform_and_boxes_of_the_photograph() -> None:
    """RA107 where boxes end beyond the resized image and within the photograph, and of later calls of the same line."""
    model = detector("fasterrcnn_mobilenet_v3_large_320_fpn")
    photographs = [torch.rand(3, *size) for size in ORIGINAL]
    wide = [
        torch.tensor([[20.0, 30.0, 200.0, 200.0], [300.0, 200.0, 620.0, 460.0]]),
        torch.tensor([[30.0, 90.0, 380.0, 590.0]]),
    ]
    near = [boxes / 4 for boxes in wide]

    def pooled(batch: list[torch.Tensor], boxes: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        features = model.backbone(model.transform(batch)[0].tensors)["0"]
        return features, torch.cat([nn.functional.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])

    roi_align = pytest.importorskip("torchvision").ops.roi_align
    with torch.no_grad(), roialign.watch() as report:
        for batch, boxes in ((photographs, wide), (photographs[:1], wide[:1]), (photographs, near)):
            roi_align(*pooled(batch, boxes), 7, 1 / 32, 2)
        roi_align(*pooled(photographs, near), 7, 1 / 32, 2)
    assert [[finding.code for finding in one.findings] for one in report.calls][:2] == [["RA107"], ["RA107"]]
    assert not any(finding.code == "RA107" for finding in report.calls[3].findings), "they lie within the resized image"
    first, second = report.findings[:2]
    assert "of 640 columns and 480 rows from which the image of" in first.evidence + second.evidence
    for finding, boxes in ((first, wide), (second, wide[:1])):
        assert finding.fix is not None
        rois = torch.cat([nn.functional.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])
        names = {"boxes": rois.clone(), "torch": torch}
        exec(finding.fix.code, names)
        torch.testing.assert_close(names["boxes"], finding.fix.call.rois, rtol=1e-4, atol=1e-2)
        scaled = finding.fix.call.rois[0, 3] / rois[0, 3]
        assert scaled == pytest.approx(426 / 640, abs=0.01)


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn"])
@pytest.mark.parametrize("given", [False, True])
def test_torchvisions_detectors_are_healthy(name: str, given: bool) -> None:
    masks = name.startswith("mask")
    small = {"min_size": 128, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 4}
    model = detector(name, rpn_post_nms_top_n_test=60, **(small if masks else {}))
    state = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad(), roialign.watch(model if given else None) as report:
        for sizes in ([(240, 320), (200, 300)], [(333, 210)], [(100, 500), (480, 130), (64, 64)]):
            model([torch.rand(3, *size) for size in sizes])
    assert report.ok, [(finding.code, finding.evidence) for finding in report.findings]
    assert len(report.calls) == (24 if masks else 6)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("prefix", [0, 1])
def test_tokens_in_a_row_are_of_the_image_whose_patches_they_are(prefix: int) -> None:
    """A map of patches left a module; what is pooled from is made of it by no module."""
    patches = torch.nn.Conv2d(3, 32, 16, stride=16)
    boxes = [torch.tensor([[10.0, 10.0, 200.0, 150.0]])]
    with roialign.watch() as report, roialign.set_policy("ignore"), torch.no_grad():
        tokens = patches(torch.rand(1, 3, 192, 224)).flatten(2)
        tokens = torch.cat([tokens.mean(2, keepdim=True)] * prefix + [tokens], 2)
        for features in (tokens[:, :, None], tokens[..., None], tokens.transpose(1, 2)[:, None]):
            roialign.roi_align(features, boxes, 7, 1 / 16)
    assert [[finding.code for finding in call.findings] for call in report.calls] == [["RA305"]] * 3
