"""Maps whose cells are not in the order of the image: found, said, put in order; and those that only look like it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from roialign.backbones import trace
from roialign.backbones.scrambled import Scrambled
from roialign.errors import FeatureMapError, TraceError

IMAGE_HW = (64, 96)  # in patches of 4: 16 x 24 cells


class Patches(nn.Conv2d):
    """A map of 16 x 24 cells of stride 4 and offset 2, and what a function makes of it."""

    def __init__(self, rearrange) -> None:
        super().__init__(3, 8, 4, stride=4)
        self.rearrange = rearrange
        self.wide = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image):
        return self.rearrange(self, super().forward(image))


def permuted(count, seed=0):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def exchanged(count, first):
    order = list(range(count))
    order[first : first + 2] = reversed(order[first : first + 2])
    return order


def two_cells_exchanged(features):
    copy = features.clone()
    copy[:, :, 3, 4], copy[:, :, 3, 5] = features[:, :, 3, 5], features[:, :, 3, 4]
    return copy


def in_windows(features):
    """Windows of 4 x 4 cells, one after the other."""
    images, channels, height, width = features.shape
    windows = features.view(images, channels, height // 4, 4, width // 4, 4).permute(0, 1, 2, 4, 3, 5)
    return windows.reshape(images, channels, height, width)


SCRAMBLED = {
    "permuted rows": (
        lambda m, x: x[:, :, permuted(16)],
        r"its rows are permuted: cell \(0, 0\) is at y 50, x 2 instead of y 2, x 2, and 383 more",
    ),
    "neighbouring columns exchanged": (
        lambda m, x: x[:, :, :, exchanged(24, 4)],
        r"its columns are permuted: cell \(0, 4\) is at y 2, x 22 instead of y 2, x 18, and 31 more are",
    ),
    "first rows exchanged": (
        lambda m, x: x[:, :, exchanged(16, 0)],
        r"its rows are permuted: cell \(0, 0\) is at y 6, x 2 instead of y 2, x 2, and 47 more are",
    ),
    "last columns exchanged": (
        lambda m, x: x[:, :, :, exchanged(24, 22)],
        r"its columns are permuted: cell \(0, 22\) is at y 2, x 94 instead of y 2, x 90",
    ),
    "two neighbouring cells exchanged": (
        lambda m, x: two_cells_exchanged(x),
        r"0: cell \(3, 4\) is at y 14, x 22 instead of y 14, x 18, and 1 more is misplaced",
    ),
    "exchanged, then elementwise": (
        lambda m, x: functional.gelu(x[:, :, :, exchanged(24, 4)]) * 2 + 1,
        r"cell \(0, 4\) is at y 2, x 22 instead of y 2, x 18",
    ),
    "halves exchanged along x": (
        lambda m, x: x.roll(12, 3),
        r"its halves along x are swapped: cell \(0, 0\) is at y 2, x 50 instead of y 2, x 2",
    ),
    "halves exchanged along y, by hand": (
        lambda m, x: torch.cat([x[:, :, 8:], x[:, :, :8]], 2),
        r"its halves along y are swapped: cell \(0, 0\) is at y 34, x 2 instead of y 2, x 2",
    ),
    "rolled": (lambda m, x: x.roll((3, -5), (2, 3)), r"it is rolled by 3 rows and it is rolled by -5 columns: cell"),
    "windows": (
        lambda m, x: in_windows(x),
        r"0: cell \(0, 4\) is at y 6, x 2 instead of y 2, x 18, and 351 more",
    ),
    "windows, channels last": (lambda m, x: in_windows(x).permute(0, 2, 3, 1), r"cell \(0, 4\) is at y 6, x 2"),
    "columns read as rows": (
        lambda m, x: x.transpose(2, 3).reshape(x.shape),
        r"cell \(0, 1\) is at y 6, x 2 instead of y 2, x 6",
    ),
    "height and width confused in a reshape": (
        lambda m, x: x.flatten(2).unflatten(2, (24, 16)),
        r"its 24 x 16 cells are those of a map of 16 x 24",
    ),
    "any permutation": (
        lambda m, x: x.flatten(2)[:, :, permuted(384)].unflatten(2, (16, 24)),
        r"cell \(0, 0\) is at y 6, x 82 instead of y 2, x 2, and 382 more",
    ),
}


def refused(backbone, size=IMAGE_HW, **options):
    with pytest.raises(TraceError) as raised:
        trace(backbone, size, **options)
    assert raised.value.code == "RA311"
    return raised.value


@pytest.mark.parametrize("name", SCRAMBLED)
def test_scrambled_maps_are_refused_and_put_in_order(name):
    rearrange, said = SCRAMBLED[name]
    backbone = Patches(rearrange)
    error = refused(backbone)
    assert error.args[0].startswith(
        "RA311: expected maps whose cells are in the order of the image; got from Patches: 0: "
    )
    with pytest.raises(TraceError, match=said):
        raise error
    image = torch.rand(2, 3, *IMAGE_HW)
    with torch.no_grad():
        scrambled = backbone(image)
        backbone.rearrange = lambda m, x: functional.gelu(x) * 2 + 1 if "elementwise" in name else x
        expected = backbone(image)
    found = error.scrambled["0"]
    assert torch.equal(found.in_order(scrambled), expected)
    assert (found.grid.size_hw, found.grid.stride_yx) == ((16, 24), (4, 4))
    assert (found.grid.structural_offset_yx, found.grid.receptive_field_hw) == ((2, 2), (4, 4))
    if found.line is not None:
        names = {"features": scrambled}
        exec(found.line, names)
        assert torch.equal(names["features"], expected)
        assert found.line in str(error)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("halves exchanged along x", "features = features.roll(-12, 3)"),
        ("rolled", "features = features.roll(-3, 2).roll(5, 3)"),
        ("height and width confused in a reshape", "features = features.flatten(2).unflatten(2, (16, 24))"),
        (
            "windows",
            "features = features.flatten(2).unflatten(2, (4, 6, 4, 4)).permute(0, 1, 2, 4, 3, 5).flatten(2)"
            ".unflatten(2, (16, 24))",
        ),
        ("any permutation", None),
    ],
)
def test_the_line_that_mends_a_map(name, line):
    assert refused(Patches(SCRAMBLED[name][0]), measured=False).scrambled["0"].line == line


@pytest.mark.parametrize(
    ("rearrange", "said"),
    [
        (
            lambda m, x: m.wide(x.roll(12, 3)),
            r"cell \(0, 10\) is at x 90, and cell \(0, 13\), which is further right, at x 6",
        ),
        (
            lambda m, x: m.wide(x[:, :, permuted(16)]),
            r"cell \(0, 0\) is at y 48.3111, and cell \(1, 0\), which is further down, at y 43.3333",
        ),
        (
            lambda m, x: x.flatten(2).unflatten(2, (4, 96)).amax(2).unflatten(2, (4, 24)),
            r"each cell combines places far apart, cell \(0, 0\) from y 2 to 50",
        ),
    ],
)
def test_what_no_permutation_mends(rearrange, said):
    error = refused(Patches(rearrange), measured=False)
    with pytest.raises(TraceError, match=said):
        raise error
    found = error.scrambled["0"]
    assert (found.index, found.grid, found.line) == (None, None, None)
    with pytest.raises(FeatureMapError, match="RA311: expected a map that a permutation puts in order; got one where"):
        found.in_order(torch.rand(1, 8, 16, 24))


IN_ORDER = {
    "transposed": lambda m, x: x.transpose(2, 3),
    "channels last": lambda m, x: x.permute(0, 2, 3, 1),
    "rolled and back": lambda m, x: m.wide(x.roll(3, 2)).roll(-3, 2),
    "windows and back": lambda m, x: in_windows(x).view(2, 8, 4, 6, 4, 4).transpose(3, 4).reshape(2, 8, 16, 24),
    "circular padding": lambda m, x: m.wide(functional.pad(x, (1, 1, 1, 1), mode="circular")),
    "mirrored padding": lambda m, x: functional.pad(x, (5, 5, 5, 5), mode="reflect"),
    "adaptive pooling": lambda m, x: functional.adaptive_avg_pool2d(x, (5, 7)),
    "adaptive pooling to more": lambda m, x: functional.adaptive_max_pool2d(x, (19, 31)),
    "enlarged": lambda m, x: functional.interpolate(x, scale_factor=4),
    "enlarged, then smoothly": lambda m, x: functional.interpolate(
        functional.interpolate(x, scale_factor=8), scale_factor=2, mode="bicubic"
    ),
    "resized by no whole number": lambda m, x: functional.interpolate(x, size=(11, 37), mode="bilinear"),
    "nearest of no whole number": lambda m, x: functional.interpolate(x, size=(11, 37)),
    "branches": lambda m, x: x + functional.interpolate(m.wide(x)[..., ::4, ::4], scale_factor=4),
    "row": lambda m, x: x[:, :, 3:4],
    "one cell": lambda m, x: x[:, :, 3:4, 3:4],
    "crowded by a large kernel": lambda m, x: functional.avg_pool2d(x, (14, 22), stride=1),
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_cells_that_lie_unevenly_are_in_order(name):
    traced = trace(Patches(IN_ORDER[name]), IMAGE_HW, measured=False)
    assert list(traced) == ["0"]
    assert traced.scrambled == {}


def test_a_mirrored_map_is_said_to_be_mirrored():
    with pytest.raises(TraceError, match=r"RA308: .* it is mirrored: its cells run opposite to the image"):
        trace(Patches(lambda m, x: x.flip(3)), IMAGE_HW, measured=False)


def test_maps_in_order_are_kept_beside_scrambled_ones():
    traced = trace(Patches(lambda m, x: {"fine": x.roll(12, 3), "good": x}), IMAGE_HW)
    assert list(traced) == ["good"]
    assert list(traced.scrambled) == ["fine"]
    assert traced.left_out["fine"].startswith("RA311: its halves along x are swapped: cell (0, 0) is at")
    assert "left out: fine: RA311: its halves" in " ".join(str(traced).split())
    assert isinstance(traced.scrambled["fine"], Scrambled)


def sampled(features):
    """The map as it is, by operators that the structure has no rule for."""
    return torch.fft.irfft(torch.fft.rfft(features), features.shape[3])


@pytest.mark.parametrize(
    ("rearrange", "said"),
    [
        (
            lambda m, x: sampled(x)[:, :, :, exchanged(24, 4)],
            r"cell \(2, 4\) is at x 22, and cell \(2, 5\), which is further right, at x 18",
        ),
        (lambda m, x: sampled(two_cells_exchanged(x)), r"cell \(3, 4\) is at x 22, and cell \(2, 4\)"),
        (lambda m, x: sampled(m.wide(x[:, :, permuted(16)])), r"which is further down, at y"),
        (lambda m, x: in_windows(sampled(x)), r"RA311"),
    ],
)
def test_maps_of_unknown_structure_are_held_against_the_gradient_of_all_cells(rearrange, said):
    with pytest.raises(TraceError, match=said):
        trace(Patches(rearrange), IMAGE_HW)


@pytest.mark.parametrize("name", ["rolled and back", "circular padding", "enlarged", "branches"])
def test_maps_of_unknown_structure_in_order_are_kept(name):
    traced = trace(Patches(lambda m, x: IN_ORDER[name](m, sampled(x))), IMAGE_HW)
    assert (list(traced), traced.scrambled) == (["0"], {})
    assert "fft" in traced.methods["0"]["structure"]


def test_a_map_of_another_size_is_not_put_in_order():
    found = refused(Patches(SCRAMBLED["windows"][0]), measured=False).scrambled["0"]
    with pytest.raises(
        FeatureMapError, match=r"RA305: expected the map as \[N, C, 16, 24\]; got shape \[1, 8, 16, 16\]"
    ):
        found.in_order(torch.rand(1, 8, 16, 16))


def test_hieras_backbone_is_refused():
    """Windows are put back that the backbone never made, so that stages pool cells far apart."""
    transformers = pytest.importorskip("transformers")
    config = transformers.HieraConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    torch.manual_seed(0)
    backbone = transformers.HieraBackbone(config).eval()
    with torch.no_grad():  # so that the cell in whose middle the patch is answers strongest
        weight = backbone.embeddings.patch_embeddings.projection.weight
        weight.copy_(weight.mean((2, 3), keepdim=True).expand_as(weight))
    error = refused(backbone, (224, 224), measured=False)
    for number, said in enumerate(
        (
            "cell (0, 1) is at y 56.5, x 0.5 instead of y 0.5, x 4.5, and 3131 more are misplaced",
            "each cell combines places far apart, cell (0, 0) from y 0.5 to 168.5",
            "each cell combines places far apart, cell (0, 0) from y 20.5 to 188.5",
            "each cell combines places far apart, cell (0, 0) from y 20.5 to 198.5",
        )
    ):
        assert f"feature_maps.{number}: {said}" in str(error)
    first = error.scrambled["feature_maps.0"]
    assert strongest(lambda image: first.in_order(backbone(image).feature_maps[0]), (224, 224), (111, 55), 3) == (
        28,
        14,
    )
    assert strongest(lambda image: backbone(image).feature_maps[0], (224, 224), (111, 55), 3) != (28, 14)


def test_rf_detrs_backbone_is_refused_where_the_image_is_not_square():
    transformers = pytest.importorskip("transformers", "5.23")
    config = transformers.RfDetrDinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14, num_windows=4,
        window_block_indexes=[0], out_features=["stage1"],
    )  # fmt: skip
    torch.manual_seed(0)
    backbone = transformers.models.rf_detr.modeling_rf_detr.RfDetrDinov2Backbone(config).eval()
    assert list(trace(backbone, (224, 224), measured=False)) == ["feature_maps.0"]
    found = refused(backbone, (224, 336), measured=False).scrambled["feature_maps.0"]
    assert found.reason.startswith("cell (0, 4) is at y 7, x 231 instead of y 7, x 63, and 319 more")
    assert strongest(lambda image: found.in_order(backbone(image).feature_maps[0]), (224, 336), (112, 56), 14) == (8, 4)
    assert strongest(lambda image: backbone(image).feature_maps[0], (224, 336), (112, 56), 14) == (8, 6)


def strongest(run, image_hw, corner_yx, patch):
    """The cell that answers strongest when one patch of the image changes."""
    image = torch.rand(1, 3, *image_hw, generator=torch.Generator().manual_seed(0))
    changed = image.clone()
    changed[:, :, corner_yx[0] : corner_yx[0] + patch, corner_yx[1] : corner_yx[1] + patch] += 0.05
    with torch.no_grad():
        answer = (run(changed) - run(image)).abs().sum(1)[0]
    row, column = divmod(int(answer.argmax()), answer.shape[1])
    return row, column
