"""Calibration: held against maps whose offset is known because they were sampled there."""

import html
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from roialign import FeatureGrid, RoIError
from roialign.backbones.calibrate import calibrate, measure_offsets
from roialign.backbones.calibration import peaks, value_at
from roialign.backbones.pictures import sources_of, tensors_of
from roialign.errors import FeatureMapError

SIZE = 160


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # small tensors; put back by conftest


def photographs(count=6, size_hw=(SIZE, SIZE), seed=0):
    """Images whose spectrum falls as that of photographs, 1 / f, [count, 3, H, W] in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, *size_hw, generator=generator)
    frequency = torch.hypot(torch.fft.fftfreq(size_hw[0])[:, None], torch.fft.fftfreq(size_hw[1])[None])
    frequency[0, 0] = 1
    images = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low)


def sampled_at(offset_yx, stride_yx, size_hw):
    """Features that do not change with the mirroring, smoothed, then read at these offsets and strides exactly."""

    def maps_of(batch):
        grey = batch.mean(1, keepdim=True)
        slope_y = functional.pad((grey[..., 2:, :] - grey[..., :-2, :]).abs(), (0, 0, 1, 1))
        slope_x = functional.pad((grey[..., 2:] - grey[..., :-2]).abs(), (1, 1, 0, 0))
        features = torch.cat([batch, slope_y, slope_x], dim=1)
        for side, dims in zip(stride_yx, ((0, 0, 1, 1), (1, 1, 0, 0)), strict=True):
            half = int(side) // 2
            kernel = [1 if pad == 0 else 2 * half + 1 for pad in (dims[2], dims[0])]
            padded = functional.pad(features, [pad * half for pad in dims], mode="replicate")
            features = functional.avg_pool2d(padded, kernel, stride=1)
        centres = [
            (offset + stride * torch.arange(cells)) / length * 2 - 1
            for offset, stride, cells, length in zip(offset_yx, stride_yx, size_hw, batch.shape[2:], strict=True)
        ]
        places = torch.stack(torch.meshgrid(*centres, indexing="ij")[::-1], dim=-1)[None].expand(len(batch), -1, -1, -1)
        return {"map": functional.grid_sample(features, places, align_corners=False)}

    return maps_of


def offsets_of(maps_of, grid, images, **options):
    found = measure_offsets(maps_of, {"map": grid}, iter(images), tuple(images.shape[2:]), **options)
    return found["map"]


@pytest.mark.parametrize(
    ("offset_yx", "stride_yx", "size_hw", "image_hw"),
    [
        ((4.0, 4.0), (8.0, 8.0), (20, 20), (160, 160)),
        ((0.5, 7.5), (8.0, 8.0), (20, 20), (160, 160)),
        ((3.1, 5.3), (8.0, 8.0), (20, 20), (160, 160)),
        ((-1.0, 9.0), (8.0, 8.0), (20, 20), (160, 160)),
        ((5.0, 2.0), (12.5, 8.0), (12, 20), (150, 160)),
        ((6.0, 9.0), (14.0, 14.0), (11, 13), (160, 190)),  # neither size a multiple of 14
    ],
)
def test_finds_the_offset_that_a_map_was_sampled_at(offset_yx, stride_yx, size_hw, image_hw):
    found = offsets_of(
        sampled_at(offset_yx, stride_yx, size_hw), FeatureGrid(size_hw, stride_yx), photographs(6, image_hw)
    )
    for axis, offset, stride in zip((found.y, found.x), offset_yx, stride_yx, strict=True):
        assert axis.verdict == "measured"
        # A thirtieth of a stride: what bilinear reading between cells and a handful of images leave.
        assert axis.offset == pytest.approx(offset, abs=stride / 30)
        assert axis.interval[1] - axis.interval[0] < 0.1 * stride
        assert axis.agreement_at_best > 0.98 > axis.agreement_by_chance + 0.5


def test_a_backbone_that_runs_mirrored_has_the_mirrored_offset():
    read, grid, images = sampled_at((2.0, 2.5), (8.0, 8.0), (20, 20)), FeatureGrid((20, 20), (8.0, 8.0)), photographs()
    found = offsets_of(read, grid, images)
    mirrored = offsets_of(lambda batch: {"map": read(batch.flip(-1))["map"].flip(-1)}, grid, images)
    assert mirrored.x.offset == pytest.approx(SIZE - (found.x.offset + 19 * 8), abs=8 / 30)
    assert mirrored.y.offset == pytest.approx(found.y.offset, abs=8 / 30)


def test_the_structural_offset_is_within_reach_however_far_it_is():
    grid = FeatureGrid((14, 14), (8.0, 8.0), structural_offset_yx=(28.0, 4.0))
    found = offsets_of(sampled_at((28.0, 4.0), (8.0, 8.0), (14, 14)), grid, photographs())
    assert found.y.offset == pytest.approx(28, abs=0.3)
    assert found.y.agreement_at_structural > 0.98
    assert found.y.agreement_at_convention < 0.6
    assert found.x.offset == pytest.approx(4, abs=0.8)  # the boxes have little room in x
    assert found.x.agreement_at_convention == pytest.approx(found.x.agreement_at_structural)


def test_features_that_change_sign_with_the_mirroring_have_no_agreement():
    def slope(batch):
        grey = functional.avg_pool2d(batch.mean(1, keepdim=True), 8)
        return {"map": functional.pad(grey[..., 2:] - grey[..., :-2], (1, 1))}

    found = offsets_of(slope, FeatureGrid((20, 20), (8.0, 8.0)), photographs())
    assert (found.x.verdict, found.x.offset) == ("no agreement", None)
    assert "saw no mirrored images" in found.x.reason
    assert found.y.offset == pytest.approx(4, abs=0.3)
    assert found.offset_yx is None


def test_an_empty_map_has_no_agreement():
    found = offsets_of(
        lambda batch: {"map": torch.zeros(3, 4, 20, 20)}, FeatureGrid((20, 20), (8.0, 8.0)), photographs()
    )
    assert found.x.verdict == found.y.verdict == "no agreement"


def test_images_that_do_not_agree_with_each_other_do_not_decide():
    reads = [sampled_at((4.0, offset), (8.0, 8.0), (20, 20)) for offset in (0.5, 7.5)]
    calls = iter(range(99))
    found = offsets_of(lambda batch: reads[next(calls) % 2](batch), FeatureGrid((20, 20), (8.0, 8.0)), photographs())
    assert (found.x.verdict, found.x.offset) == ("undecided", None)
    assert "strides wide" in found.x.reason
    assert found.y.verdict == "measured"


def test_an_offset_out_of_reach_does_not_decide():
    found = offsets_of(sampled_at((4.0, 20.0), (8.0, 8.0), (18, 18)), FeatureGrid((18, 18), (8.0, 8.0)), photographs())
    assert found.x.verdict == "undecided"
    assert "up to the last offset tried" in found.x.reason


def test_a_small_map_is_not_swept():
    found = offsets_of(sampled_at((16.0, 16.0), (32.0, 32.0), (4, 4)), FeatureGrid((4, 4), (32.0, 32.0)), photographs())
    assert found.y.verdict == found.x.verdict == "not swept"
    assert "4 cells" in found.x.reason


def test_the_same_seed_gives_the_same_bits():
    read, grid, images = sampled_at((3.0, 3.0), (8.0, 8.0), (20, 20)), FeatureGrid((20, 20), (8.0, 8.0)), photographs()
    first, again, other = (offsets_of(read, grid, images, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


def test_peaks_are_exact_on_parabolas():
    offsets = torch.arange(-1.0, 2.0, 0.25, dtype=torch.float64)
    wanted = torch.tensor([0.3, 1.0, -0.62, -3.0, 9.0], dtype=torch.float64)
    found = peaks(offsets, 1 - (offsets - wanted[:, None]) ** 2)
    assert found.tolist() == pytest.approx([0.3, 1.0, -0.62, -1.0, 1.75])
    assert value_at(offsets, 2 * offsets, 0.3) == pytest.approx(0.6)


class Lopsided(nn.Module):
    """A box filter after a lopsided padding, in two levels, the second one in training mode what it must not be."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.ZeroPad2d((3, 5, 1, 7)), nn.Conv2d(3, 6, 8, stride=8, bias=False))
        self.second = nn.Sequential(nn.BatchNorm2d(6), nn.Dropout(0.5), nn.AvgPool2d(2))
        for channel, weight in enumerate(self.first[1].weight.detach()):
            weight.zero_()[channel % 3] = 1 / 64

    def forward(self, images):
        first = self.first(images)
        return {"p3": first, "p4": self.second(first)}


def test_calibrate_traces_and_measures():
    trace = calibrate(Lopsided(), photographs())
    assert trace["p3"].structural_offset_yx == (3.0, 1.0)
    assert trace["p3"].calibrated_offset_yx == pytest.approx((3.0, 1.0), abs=0.3)
    assert trace["p4"].structural_offset_yx == (7.0, 5.0)
    assert trace["p4"].calibrated_offset_yx == pytest.approx((7.0, 5.0), abs=0.6)
    assert trace["p3"].offset_yx == (4.0, 4.0)
    assert trace["p3"].with_offset("calibrated").offset_yx == trace["p3"].calibrated_offset_yx
    assert trace.calibration["p3"].offset_yx == trace["p3"].calibrated_offset_yx
    assert str(trace.calibration) in str(trace)
    assert html.escape(str(trace.calibration)) in trace._repr_html_()
    assert json.loads(json.dumps(trace.to_dict()))["calibration"]["levels"]["p4"]["x"]["verdict"] == "measured"


def test_calibrate_leaves_the_backbone_as_it_was():
    backbone = Lopsided().train()
    backbone.second[1].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    modes = [module.training for module in backbone.modules()]
    calibrate(backbone, photographs(4))
    assert [module.training for module in backbone.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_half_precision_weights_give_the_same_offsets():
    single = calibrate(Lopsided(), photographs(4))
    half = calibrate(Lopsided().to(torch.bfloat16), photographs(4))
    assert half["p3"].calibrated_offset_yx == pytest.approx(single["p3"].calibrated_offset_yx, abs=0.05)


def test_images_of_any_kind_are_the_same_images(tmp_path):
    arrays = [(image * 255).round().byte().permute(1, 2, 0).numpy() for image in photographs(4)]
    pictures = [Image.fromarray(array) for array in arrays]
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    floats = torch.stack([torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in arrays])
    kinds = [floats, list(floats), arrays, pictures, sorted(tmp_path.glob("*.png")), tmp_path, str(tmp_path)]
    for kind in kinds:
        assert torch.equal(torch.stack(list(tensors_of(sources_of(kind), None, None))), floats)
    assert calibrate(Lopsided(), tmp_path).calibration == calibrate(Lopsided(), floats).calibration


def test_a_large_folder_is_read_in_part_spread_evenly(tmp_path):
    for index in range(130):
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / f"{index:03}.png")
    reds = [round(float(image[0, 0, 0]) * 255) for image in tensors_of(sources_of(tmp_path), None, None)]
    assert reds == [index * 130 // 64 for index in range(64)]


def test_images_are_resized_then_transformed():
    seen = []

    def transform(image):
        seen.append(tuple(image.shape))
        return (image - 0.5) / 0.5

    images = [photographs(1, size_hw)[0] for size_hw in ((200, 120), (160, 160), (90, 300), (160, 161))]
    trace = calibrate(Lopsided(), images, image_size=(160, 128), transform=transform)
    assert seen == [(3, 160, 128)] * 4
    assert trace.calibration.image_size == (160, 128)
    assert calibrate(Lopsided(), images).calibration.image_size == (200, 120)


def test_a_ragged_edge_is_noted():
    assert (
        "does not divide 164 x 160" in calibrate(Lopsided(), photographs(4), image_size=(164, 160)).calibration.notes[0]
    )
    assert calibrate(Lopsided(), photographs(4)).calibration.notes == ()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, SIZE, SIZE), r"expected a batch \[N, C, H, W\].*\[3, 160, 160\]"),
        (torch.rand(3, 3, SIZE, SIZE), "at least 4 images.*got 3"),
        ([], "at least 4 images.*got 0"),
        ([np.zeros((9, 9, 3, 1))] * 4, r"image 0 as a tensor.*an array \[H, W, C\].*; got an? ndarray"),
        (7, "expected images.*got int"),
        ("no/such/folder", "folder with images; got 'no/such/folder'"),
        ([*torch.rand(4, 3, 96, 96), torch.rand(1, 96, 96)], "expected images of 3 channels.*got 1"),
        (torch.full((4, 3, 96, 96), float("nan")), "RA302.*'p3'"),
    ],
)
def test_images_that_cannot_be_used(images, message):
    with pytest.raises(FeatureMapError, match=message) as error:
        calibrate(Lopsided(), images)
    assert isinstance(error.value, RoIError)
    assert error.value.code.startswith("RA")


def test_the_table_has_the_three_offsets_and_fits_80_columns():
    text = str(calibrate(Lopsided(), photographs(4)).calibration)
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if line.startswith("p4") and " x " in line)
    stride, structural, at_structural, convention, *_ = map(float, row.replace("(", "").split()[2:7])
    assert (stride, structural, convention) == (16, 5, 8)
    assert at_structural > 0.95


def test_the_plot_has_a_curve_for_each_level_and_axis(tmp_path):
    calibrate(Lopsided(), photographs(4)).calibration.save(tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 4
    assert sum("stride 16" in text for text in texts) == 2
