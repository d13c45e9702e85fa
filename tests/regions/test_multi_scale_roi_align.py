"""MultiScaleRoIAlign: torchvision's numbers where it is right, and what it does where torchvision is not."""

import copy
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

import roialign
from roialign import errors
from roialign.geometry import FeatureGrid
from roialign.regions.multi_scale_roi_align import MultiScaleRoIAlign, infer_stride_yx

torchvision = pytest.importorskip("torchvision", reason="needs torchvision, the peer")


def pyramid(padded_hw, strides, images=1, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        str(stride): torch.randn(
            images, channels, -(-padded_hw[0] // stride), -(-padded_hw[1] // stride), generator=generator
        )
        for stride in strides
    }


def boxes_of(image_hw, count, seed):
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([image_hw[1], image_hw[0]])
    centres = torch.rand(count, 2, generator=generator) * size
    sides = size * 10 ** (-2.5 * torch.rand(count, 2, generator=generator))
    return torch.cat([centres - sides / 2, centres + sides / 2], 1)


@pytest.mark.parametrize("seed", range(200))
def test_equals_torchvision_on_pyramids_of_powers_of_two(seed):
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    strides = pick((4, 8, 16, 32), (8, 16, 32), (4, 8, 16, 32, 64), (16, 32), (16,))
    shapes = [tuple(torch.randint(150, 700, (2,), generator=generator).tolist()) for _ in range(pick(1, 2, 3))]
    padded = tuple(-(-max(shape[axis] for shape in shapes) // 32) * 32 for axis in (0, 1))
    maps = pyramid(padded, strides, len(shapes), seed=seed)
    boxes = [boxes_of(shape, pick(0, 1, 9), seed + 1000 * image) for image, shape in enumerate(shapes)]
    arguments = ([str(stride) for stride in strides], pick(7, (3, 5)), pick(-1, 0, 1, 2))
    wanted = torchvision.ops.MultiScaleRoIAlign(*arguments)
    ours = MultiScaleRoIAlign(*arguments)
    with warnings.catch_warnings(), roialign.set_policy("warn"):
        warnings.filterwarnings("error", "RA40", errors.RoIWarning)
        warnings.filterwarnings("ignore", "RA107", errors.RoIWarning)
        pooled = ours(maps, boxes, shapes)
    torch.testing.assert_close(pooled, wanted(maps, boxes, shapes), atol=2e-5, rtol=0)
    assert ours.scales == wanted.scales


def test_attributes_are_torchvisions():
    arguments = (["0", "1"], (7, 5), 2)
    wanted, ours = torchvision.ops.MultiScaleRoIAlign(*arguments), MultiScaleRoIAlign(*arguments)
    for name in ("featmap_names", "output_size", "sampling_ratio", "scales", "canonical_scale", "canonical_level"):
        assert getattr(ours, name) == getattr(wanted, name)
    assert repr(ours) == repr(wanted)
    assert not ours.state_dict()
    assert copy.deepcopy(ours).output_size == (7, 5)


def normalize_by(model, batch):
    """Give the backbone's normalization the statistics of `batch`: untrained, its maps would be almost constant."""
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    model.backbone.train()
    model.backbone(model.transform(batch)[0].tensors)
    model.backbone.eval()


def same_detections(ours, wanted):
    scores = wanted["scores"]
    assert len(scores) > 10
    assert float((scores[:-1] - scores[1:]).median()) > 2e-5, "scores so alike that rounding decides their order"
    torch.testing.assert_close(ours["boxes"], wanted["boxes"], atol=1e-3, rtol=0)
    torch.testing.assert_close(ours["scores"], wanted["scores"], atol=1e-5, rtol=0)
    assert torch.equal(ours["labels"], wanted["labels"])
    if "masks" in wanted:
        torch.testing.assert_close(ours["masks"], wanted["masks"], atol=1e-4, rtol=0)


WHEELS = sorted((Path(__file__).parents[2] / "demo" / "data").glob("deepforest-*.whl"))


def drawn():
    """Two smooth pictures of other sizes and shapes."""
    generator = torch.Generator().manual_seed(0)
    small = [torch.rand(1, 3, *size, generator=generator) for size in ((12, 16), (16, 11))]
    return [torch.nn.functional.interpolate(one, scale_factor=24, mode="bicubic")[0].clamp(0, 1) for one in small]


def photographs_of_the_demo():
    """Woods from above: the photograph of the demo, and a part of it."""
    if not WHEELS:
        pytest.skip("needs the photograph that `make demo` fetches")
    with zipfile.ZipFile(WHEELS[0]) as wheel:
        photo = Image.open(wheel.open("deepforest/data/OSBS_029.png")).convert("RGB")
    photo = torchvision.transforms.functional.to_tensor(photo)
    return [photo, photo[:, 40:340, :250]]


@pytest.mark.parametrize("images", [drawn, photographs_of_the_demo])
@pytest.mark.parametrize(
    ("name", "poolers"),
    [
        ("maskrcnn_resnet50_fpn", ("box_roi_pool", "mask_roi_pool")),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", ("box_roi_pool",)),
    ],
)
def test_detections_of_torchvisions_detectors_do_not_change(name, poolers, images):
    """Random weights of one seed, and normalization by the images' own statistics, so that no two scores are alike."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(
        name, weights=None, weights_backbone=None, num_classes=5, min_size=224, max_size=320, box_score_thresh=0.0
    ).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.05)
    batch = images()
    with torch.no_grad():
        normalize_by(model, batch)
        wanted = model(batch)
        for pooler in poolers:
            old = getattr(model.roi_heads, pooler)
            new = MultiScaleRoIAlign(old.featmap_names, old.output_size, old.sampling_ratio)
            setattr(model.roi_heads, pooler, new)
        ours = model(batch)
    assert len(wanted) == len(batch)
    for one, other in zip(ours, wanted, strict=True):
        same_detections(one, other)


def test_gradients_reach_maps_and_boxes():
    maps = {name: one.double().requires_grad_() for name, one in pyramid((64, 96), (8, 16)).items()}
    boxes = boxes_of((64, 96), 5, 0).double().requires_grad_()
    pooler = MultiScaleRoIAlign(["8", "16"], 2, 2, canonical_scale=32)

    def pool(boxes, *values):
        return pooler(dict(zip(maps, values, strict=True)), [boxes], [(64, 96)])

    assert torch.autograd.gradcheck(pool, (boxes, *maps.values()))


def coordinates(map_hw, strides_yx):
    """A map that holds the image coordinates (x, y) at which `aligned=False` reads its cells."""
    y, x = (stride * torch.arange(size, dtype=torch.float64) for size, stride in zip(map_hw, strides_yx, strict=True))
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows])[None]


def centres(boxes):
    return (boxes[:, :2] + boxes[:, 2:]) / 2


BOXES = torch.tensor([[40.0, 60.0, 140.0, 110.0], [30.0, 20.0, 470.0, 460.0], [8.0, 9.0, 12.0, 14.0]]).double()


@pytest.mark.parametrize("names", [["4", "16"], ["16", "4"], ["32", "4"], ["32", "16", "8", "4"], ["16"]])
def test_levels_left_out_or_in_another_order_are_no_zeros(names):
    maps = {str(stride): coordinates((512 // stride, 512 // stride), (stride, stride)) for stride in (4, 8, 16, 32)}
    pooled = MultiScaleRoIAlign(names, 1, 4)(maps, [BOXES[:2]], [(512, 512)])
    torch.testing.assert_close(pooled[:, :, 0, 0], centres(BOXES[:2]), atol=0.5, rtol=0)


@pytest.mark.parametrize(
    ("image_hw", "map_hw", "strides_yx"),
    [
        ((518, 518), (37, 37), (14.0, 14.0)),
        ((512, 768), (32, 32), (16.0, 24.0)),
        ((480, 640), (40, 40), (16.0, 16.0)),  # on a canvas of 640 x 640
        ((800, 1066), (25, 34), (32.0, 32.0)),
        ((800, 1066), (13, 17), (64.0, 64.0)),
        ((225, 225), (8, 8), (32.0, 32.0)),
        ((225, 225), (57, 57), (4.0, 4.0)),
        ((225, 225), (7, 7), (32.0, 32.0)),  # patches that do not fit are dropped
        ((600, 600), (50, 50), (12.0, 12.0)),
    ],
)
def test_strides_are_inferred_per_axis(image_hw, map_hw, strides_yx):
    assert infer_stride_yx(image_hw, map_hw) == strides_yx


def test_what_torchvision_would_misread_is_right_and_said_once(recwarn):
    maps = {"patches": coordinates((37, 37), (14.0, 14.0))}
    pooler = MultiScaleRoIAlign("patches", 1, 4)
    for _ in range(3):
        pooled = pooler(maps, [BOXES], [(518, 518)])
    torch.testing.assert_close(pooled[:2, :, 0, 0], centres(BOXES[:2]), atol=0.5, rtol=0)
    (said,) = [str(one.message) for one in recwarn if issubclass(one.category, errors.RoIWarning)]
    assert said.startswith("RA403: the map 'patches' of 37 x 37 cells")
    assert "stride 14;" in said
    assert "take 16" in said
    assert said.count("grids=") == 1


def test_scales_are_those_of_each_batch():
    pooler = MultiScaleRoIAlign(["map"], 1, 4)
    for stride in (16, 8):
        with roialign.set_policy("ignore"):
            pooled = pooler({"map": coordinates((512 // stride,) * 2, (stride, stride))}, [BOXES[:2]], [(512, 512)])
        torch.testing.assert_close(pooled[:, :, 0, 0], centres(BOXES[:2]), atol=0.5, rtol=0)
        assert pooler.scales == [1 / stride]
    with (
        roialign.set_policy("raise"),
        pytest.raises(errors.LevelError, match=r"RA404: .* this batch are 0\.0625, .* were 0\.125\."),
    ):
        pooler({"map": coordinates((32, 32), (16, 16))}, [BOXES[:2]], [(512, 512)])


@pytest.mark.parametrize("aligned", [False, True])
def test_grids_and_scales_are_taken_as_they_are(aligned):
    maps = {"a": torch.rand(1, 2, 20, 30), "b": torch.rand(1, 2, 10, 15)}
    grids = {"b": FeatureGrid((10, 15), (28.0, 25.0)), "a": FeatureGrid((20, 30), (14.0, 12.5)), "c": None}
    boxes = [boxes_of((280, 375), 12, 0)]
    by_grid = MultiScaleRoIAlign(["a", "b"], 3, 2, grids=grids, aligned=aligned)(maps, boxes, [])
    scales = [(1 / 14, 1 / 12.5), (1 / 28, 1 / 25)]
    by_scale = MultiScaleRoIAlign(["a", "b"], 3, 2, scales=scales, aligned=aligned)(maps, boxes, [])
    torch.testing.assert_close(by_grid, by_scale)
    pooled = roialign.pool_regions(maps, boxes, 3, {name: grids[name] for name in maps}, sampling_ratio=2)
    assert torch.equal(by_grid, pooled) == aligned


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda maps: MultiScaleRoIAlign(["c", "x"], 3, 2), "RA401: expected feature maps named 'c', 'x'; got 'a', 'b"),
        (lambda maps: MultiScaleRoIAlign([], 3, 2), "RA401: expected feature maps named something; got 'a', 'b'"),
        (lambda maps: MultiScaleRoIAlign(["a"], 3, 2, scales=[1.0, 0.5]), "RA401: expected a scale for each of"),
        (lambda maps: MultiScaleRoIAlign(["a"], 3, 2, scales=[0.0]), "RA105: expected spatial_scale"),
        (lambda maps: MultiScaleRoIAlign(["a"], 0, 2), "RA506: expected output_size"),
        (lambda maps: MultiScaleRoIAlign(["a"], 3, 2, scales=[1.0], grids={}), "RA401: expected scales or grids"),
        (lambda maps: MultiScaleRoIAlign(["a"], 3, 2, grids={}), "RA401: expected a grid for each feature map"),
        (lambda maps: MultiScaleRoIAlign(["a"], 3, 2), "RA401: expected image_shapes"),
    ],
)
def test_messages(make, message):
    maps = {"a": torch.rand(1, 2, 20, 30), "b": torch.rand(1, 2, 10, 15)}
    with pytest.raises(errors.RoIError) as raised:
        make(maps)(maps, [torch.zeros(1, 4)], [])
    assert str(raised.value).startswith(message)


def test_compiles_in_one_graph():
    maps = pyramid((256, 256), (8, 16))
    boxes = [boxes_of((256, 256), 9, 0)]
    pooler = MultiScaleRoIAlign(["8", "16"], 7, 2)
    wanted = pooler(maps, boxes, [(256, 256)])
    compiled = torch.compile(pooler, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(maps, boxes, [(256, 256)]), wanted)


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 2, 3, stride=16, padding=1)
        self.pool = MultiScaleRoIAlign(["map"], 3, 2)

    def forward(self, images, boxes):
        return self.pool({"map": self.layer(images)}, boxes, [(64, 64)]) * 2


def test_is_one_node_to_torchvisions_feature_extraction():
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
    head, arguments = Head().eval(), (torch.rand(1, 3, 64, 64), [boxes_of((64, 64), 4, 0)])
    names, _ = feature_extraction.get_graph_node_names(head)
    assert names == ["images", "boxes", "layer", "pool.multi_scale_roi_align", "mul"]
    extractor = feature_extraction.create_feature_extractor(head, {names[3]: "pooled"})
    torch.testing.assert_close(extractor(*arguments)["pooled"] * 2, head(*arguments))
