"""pool_regions: the numbers of roi_align, any stride and offset, boxes in frames, and what is refused."""

import pytest
import torch

import roialign
from roialign import errors
from roialign.geometry import Boxes, FeatureGrid, Frame
from roialign.regions import pool_regions


def ramp(grid: FeatureGrid, images: int = 1) -> torch.Tensor:
    """A map whose values are the image coordinates (x, y) of its cells: what a linear image would give."""
    (height, width), (stride_y, stride_x), (offset_y, offset_x) = grid.size_hw, grid.stride_yx, grid.offset_yx
    y = offset_y + stride_y * torch.arange(height, dtype=torch.float64)
    x = offset_x + stride_x * torch.arange(width, dtype=torch.float64)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows])[None].repeat(images, 1, 1, 1)


@pytest.mark.parametrize("stride_yx", [(16.0, 16.0), (14.0, 14.0), (12.5, 7.3), (4.0, 32.0)])
@pytest.mark.parametrize("offset_yx", [None, (0.0, 0.0), (0.5, 0.5), (15.5, -3.25), (-13.5, 100.0)])
def test_a_box_reads_where_it_lies(stride_yx, offset_yx):
    """Pooled from a map that holds its own coordinates, each bin is its own centre, for any stride and offset."""
    grid = FeatureGrid((60, 70), stride_yx, offset_yx)
    (offset_y, offset_x), (stride_y, stride_x) = grid.offset_yx, grid.stride_yx
    low = torch.tensor([offset_x + stride_x, offset_y + stride_y], dtype=torch.float64)
    most = torch.tensor([stride_x * 60, stride_y * 50], dtype=torch.float64)
    corners = low + most * torch.rand(30, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.5
    boxes = torch.cat([corners, corners + most * 0.3], 1)
    pooled = pool_regions(ramp(grid), [boxes], (3, 2), grid)
    share_x, share_y = torch.tensor([0.25, 0.75]), torch.tensor([1 / 6, 3 / 6, 5 / 6])
    x = boxes[:, 0, None] + share_x * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + share_y * (boxes[:, 3] - boxes[:, 1])[:, None]
    torch.testing.assert_close(pooled[:, 0], x[:, None, :].expand(-1, 3, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(pooled[:, 1], y[:, :, None].expand(-1, -1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampling_ratio", [-1, 2])
def test_a_conventional_grid_is_roi_align_aligned(dtype, sampling_ratio):
    features = torch.randn(2, 5, 20, 30, generator=torch.Generator().manual_seed(0)).to(dtype)
    boxes = torch.tensor([[0, 10.0, 20, 200, 300], [1, -40, 3, 77, 500], [1, 0, 0, 480, 320], [0, 9, 9, 9, 9]])
    boxes = boxes.to(torch.promote_types(dtype, torch.float32))
    grid = FeatureGrid((20, 30), (16.0, 16.0))
    wanted = roialign.roi_align(features, boxes, 7, 1 / 16, sampling_ratio, True)
    assert torch.equal(pool_regions(features, boxes, 7, grid, sampling_ratio=sampling_ratio), wanted)


def pyramid(seed=0, channels=3, images=2):
    generator = torch.Generator().manual_seed(seed)
    grids = {str(stride): FeatureGrid((512 // stride, 640 // stride), (stride, stride)) for stride in (32, 8, 16)}
    return grids, {
        name: torch.randn(images, channels, *grid.size_hw, generator=generator) for name, grid in grids.items()
    }


def boxes_in(height, width, count=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.2
    sides = torch.rand(count, 2, generator=generator) * torch.tensor([width, height]) * 0.8
    return torch.cat([torch.cat([corners, corners + sides], 1)[1:], torch.tensor([[0.0, 0, width, height]])])


def test_every_level_is_pooled_as_on_its_own():
    grids, features = pyramid()
    boxes = [boxes_in(512, 640), boxes_in(512, 640, 20, seed=2)]
    pooled, levels = pool_regions(features, boxes, 5, grids, return_levels=True)
    assert set(levels.tolist()) == {0, 1, 2}
    rois = torch.cat([torch.cat([torch.full((len(some), 1), float(i)), some], 1) for i, some in enumerate(boxes)])
    for index, (name, grid) in enumerate(grids.items()):
        here = levels == index
        alone = roialign.roi_align(features[name], rois[here], 5, 1 / grid.stride_yx[0], -1, True)
        assert torch.equal(pooled[here], alone)
    as_lists = pool_regions(list(features.values()), rois, 5, list(grids.values()))
    assert torch.equal(as_lists, pooled)
    by_name = pool_regions(features, boxes, 5, dict(reversed(grids.items())))
    assert torch.equal(by_name, pooled)  # the maps' order counts


def test_boxes_in_any_connected_frame():
    grids, features = pyramid()
    photos = [Frame.image((480, 600), name="first"), Frame.image((1024, 1280), name="second")]
    entered = [photos[0].resize((512, 640)), photos[1].flip_horizontal().resize((512, 640))]
    inside = [boxes_in(480, 600), boxes_in(1024, 1280, 9)]
    boxes = [Boxes(values, photo) for values, photo in zip(inside, photos, strict=True)]
    pooled = pool_regions(features, boxes, 3, grids, frames=entered)
    scaled = inside[0] * torch.tensor([640 / 600, 512 / 480] * 2)
    second = inside[1] / 2
    flipped = torch.stack([640 - second[:, 2], second[:, 1], 640 - second[:, 0], second[:, 3]], 1)
    torch.testing.assert_close(pooled, pool_regions(features, [scaled, flipped], 3, grids), atol=2e-4, rtol=1e-3)
    # and through a crop of the photograph, there and back
    cropped = photos[0].crop(top=30, left=50, height=300, width=400)
    again = pool_regions(features, [boxes[0].to(cropped), boxes[1].to(entered[1])], 3, grids, frames=entered)
    torch.testing.assert_close(again, pooled, atol=1e-5, rtol=1e-4)


def test_boxes_in_the_frame_that_entered_need_no_frames():
    grids, features = pyramid(images=1)
    entered = Frame.image((480, 600)).resize((512, 640))
    values = boxes_in(512, 640)
    assert torch.equal(
        pool_regions(features, Boxes(values, entered), 3, grids), pool_regions(features, [values], 3, grids)
    )


def test_gradients_reach_boxes_in_their_own_frame():
    grids, features = pyramid(images=1)
    photo = Frame.image((480, 600))
    values = boxes_in(480, 600).requires_grad_()
    resized = photo.resize((512, 640))
    weights = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(5))
    (
        pool_regions(features, Boxes(values, photo), 2, grids, frames=resized, sampling_ratio=2) * weights
    ).sum().backward()
    moved = (values.detach() * torch.tensor([640 / 600, 512 / 480] * 2)).requires_grad_()
    (pool_regions(features, [moved], 2, grids, sampling_ratio=2) * weights).sum().backward()
    torch.testing.assert_close(values.grad, moved.grad * torch.tensor([640 / 600, 512 / 480] * 2), atol=1e-3, rtol=1e-3)


GRID = FeatureGrid((32, 40), (16.0, 16.0))
FEATURES = torch.rand(2, 3, 32, 40)
PHOTO = Frame.image((480, 600), name="photo")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"boxes": [Boxes([[0, 0, 9, 9]], PHOTO)]},
            errors.FrameError,
            r"RA107: .*about 512 x 640 pixels; got Boxes for image 0 in photo 480x600\..*\[photo\.resize\(\(512, 640",
        ),
        (
            {"boxes": [Boxes([[0, 0, 9, 9]], PHOTO)], "frames": Frame.image((512, 640), name="other")},
            errors.FrameError,
            r"RA107: ",
        ),
        (
            {"boxes": [Boxes([[0, 0, 9, 9]], PHOTO)] * 2, "frames": PHOTO.resize((512, 640))},
            errors.BatchIndexError,
            r"RA208: .*got 2 Boxes and 1 frames",
        ),
        (
            {"boxes": [Boxes([[0, 0, 9, 9]], PHOTO.resize((512, 640))), torch.ones(1, 4)]},
            errors.FrameError,
            r"RA107: .*got float32 tensor \[1, 4\] for image 1.*Boxes\(values, frame\)",
        ),
        (
            {"features": FEATURES[:, :, :-1]},
            errors.FeatureMapError,
            r"RA106: .*32 x 40 cells.*got \[2, 3, 31, 40\].*trace",
        ),
        ({"features": [FEATURES, FEATURES]}, errors.LevelError, r"RA401: .*got 2 maps and 1 grids"),
        (
            {"features": {"a": FEATURES}, "grids": {"b": GRID}},
            errors.LevelError,
            r"RA401: .*got none for 'a', only for 'b'",
        ),
        ({"features": FEATURES[0]}, errors.FeatureMapError, r"RA306: "),
        ({"output_size": 0}, errors.OutputSizeError, r"RA506: "),
        ({"boxes": torch.ones(3, 4)}, errors.BoxesShapeError, r"RA207: "),
        ({"levels": torch.tensor([7])}, errors.LevelError, r"RA401: .*levels\[0\] = 7"),
        ({"boxes": [torch.tensor([[0.0, 0, float("nan"), 9]])]}, errors.BoxesValueError, r"RA205: "),
    ],
)
def test_refused(change, error, message):
    good = {"features": FEATURES, "boxes": [torch.tensor([[0.0, 0, 90, 90]])], "output_size": 2, "grids": GRID}
    assert pool_regions(**good).shape == (1, 3, 2, 2)
    with pytest.raises(error, match=f"^{message}"):
        pool_regions(**{**good, **change})


def test_boxes_off_the_image_are_noticed_once_for_each_line():
    far = [torch.tensor([[3000.0, 3000, 3100, 3100]])]
    with pytest.warns(roialign.RoIWarning, match=r"RA107: 1 of 1 boxes lie off .*512 x 640.*boxes\[0\] = \[3000"):
        pool_regions(FEATURES, far, 2, GRID)
    with roialign.set_policy("raise"), pytest.raises(errors.CoverageError, match=r"^RA107: "):
        pool_regions(FEATURES, far, 2, GRID)
    with roialign.set_policy("ignore"):
        assert not pool_regions(FEATURES, far, 2, GRID).any()
