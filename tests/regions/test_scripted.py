"""MultiScaleRoIAlign in TorchScript: alone, in torchvision's detectors, in an archive; and its name in a graph."""

import copy
import io

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import get_graph_node_names

import roialign
from roialign import FeatureGrid
from roialign.regions import MultiScaleRoIAlign

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*", "ignore::DeprecationWarning", "ignore::roialign.RoIWarning"
)

MAPS = {"a": torch.rand(2, 3, 32, 48), "b": torch.rand(2, 3, 16, 24), "unnamed": torch.rand(2, 3, 8, 8)}
BOXES = [torch.tensor([[20.0, 30, 120, 90], [0, 0, 700, 500]]), torch.tensor([[1.0, 2, 30, 40]])]
ROIS = torch.cat([torch.tensor([[0.0], [0], [1]]), torch.cat(BOXES)], 1)
FINE, COARSE = FeatureGrid((32, 48), (16.0, 16.0)), FeatureGrid((16, 24), (32.0, 32.0), (3.0, 4.0))

OPTIONS = {
    "inferred": {},
    "scales": {"scales": [1 / 16, 1 / 32]},
    "scales for each axis": {"scales": [(1 / 16, 1 / 17), 1 / 32]},
    "grids in order": {"grids": [FINE, COARSE]},
    "grids by name": {"grids": {"b": COARSE, "a": FINE}, "aligned": True},
    "other canon": {"aligned": True, "canonical_scale": 100, "canonical_level": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_scripted_module_gives_what_the_module_gives(options):
    pooler = MultiScaleRoIAlign(["a", "b"], 7, 2, **options)
    archive = io.BytesIO()
    torch.jit.save(torch.jit.script(pooler), archive)
    archive.seek(0)
    scripted = torch.jit.load(archive)
    for sizes in ([(512, 768)] * 2, [(500, 700), (512, 760)], [(300, 400)] * 2):
        for boxes in (BOXES, ROIS):
            assert torch.equal(scripted(MAPS, boxes, sizes), pooler(MAPS, boxes, sizes))


def test_a_single_map_and_wrong_names():
    scripted = torch.jit.script(MultiScaleRoIAlign(["a"], 7, 2))
    pooler = MultiScaleRoIAlign(["a"], 7, 2)
    assert torch.equal(scripted(MAPS, BOXES, [(512, 768)]), pooler(MAPS, BOXES, [(512, 768)]))
    with pytest.raises(torch.jit.Error, match="RA401: expected feature maps with the names"):
        torch.jit.script(MultiScaleRoIAlign(["c"], 7, 2))(MAPS, BOXES, [(512, 768)])


def with_ours(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for name in ("box_roi_pool", "mask_roi_pool"):
        theirs = getattr(model.roi_heads, name)
        ours = MultiScaleRoIAlign(theirs.featmap_names, theirs.output_size, theirs.sampling_ratio)
        setattr(model.roi_heads, name, ours)
    return model


def test_a_detector_scripts_with_it_in_place():
    options = {"min_size": 64, "max_size": 96, "box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 10}
    backbone = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d
    )
    theirs = torchvision.models.detection.MaskRCNN(backbone, 3, box_detections_per_img=4, **options).eval()
    ours = with_ours(theirs)
    images = [torch.rand(3, 64, 80), torch.rand(3, 64, 64)]  # of the size that they are resized to
    with torch.no_grad():
        expected, found, scripted = theirs(images), ours(images), torch.jit.script(ours)(images)[1]
    for one, other, third in zip(expected, found, scripted, strict=True):
        torch.testing.assert_close(other, one, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(third, other, atol=1e-3, rtol=1e-3)


class Head(nn.Module):
    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler, self.linear = pooler, nn.Linear(49, 3)

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        return self.linear(self.pooler(maps, boxes, sizes).flatten(2))


def test_as_a_leaf_its_node_is_called_as_torchvisions():
    theirs = get_graph_node_names(Head(torchvision.ops.MultiScaleRoIAlign(["a"], 7, 2)))
    ours = Head(MultiScaleRoIAlign(["a"], 7, 2))
    leaves = {"leaf_modules": [roialign.MultiScaleRoIAlign]}
    assert get_graph_node_names(ours, tracer_kwargs=leaves) == theirs
    assert "pooler.multi_scale_roi_align" in get_graph_node_names(ours)[0]
