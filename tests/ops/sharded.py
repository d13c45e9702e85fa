"""One of two processes that pool DTensors: `python -m tests.ops.sharded RANK FILE`. Both print what went wrong."""

import sys
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DeviceMesh, Placement, Replicate, Shard, distribute_tensor, init_device_mesh

import roialign

BOXES, CHANNELS, WHOLE = Shard(0), Shard(1), Replicate()
torch.manual_seed(0)  # the same in both processes
FEATURES, MASKS = torch.rand(2, 6, 16, 18), torch.rand(5, 16, 18)
ROIS = torch.cat([torch.tensor([0.0, 1, 0, 1, 1])[:, None], torch.rand(5, 2) * 8, torch.rand(5, 2) * 8 + 9], 1)

CALLS: dict[str, Callable[..., Tensor]] = {
    "roi_align": lambda features, rois: roialign.roi_align(features, rois, 2, 0.5, 2),
    "roi_align, max": lambda features, rois: roialign.roi_align(features, rois, 2, 0.5, 2, mode="max"),
    "roi_pool": lambda features, rois: roialign.roi_pool(features, rois, 2, 0.5),
    "ps_roi_align": lambda features, rois: roialign.ps_roi_align(features, rois, (2, 1), 0.5),
    "ps_roi_pool": lambda features, rois: roialign.ps_roi_pool(features, rois, (2, 1), 0.5),
    "prroi_pool": lambda features, rois: roialign.prroi_pool(features, rois, 2, 0.5),
    "roi_align_rotated": lambda features, rois: roialign.roi_align_rotated(
        features, torch.cat([rois, rois[:, :1]], 1), 2, 0.5
    ),
    "masked_roi_align": lambda features, rois, masks: roialign.masked_roi_align(features, rois, masks, 2, 0.5),
}
OWN_CHANNELS = ("ps_roi_align", "ps_roi_pool")


def check(name: str, mesh: DeviceMesh, features: Placement, boxes: Placement) -> None:
    """The output's placement, its values and all gradients, against those of plain tensors."""
    tensors = (FEATURES, ROIS, MASKS)[: 3 if name == "masked_roi_align" else 2]
    plain = [one.clone().requires_grad_() for one in tensors]
    wanted = CALLS[name](*plain)
    wanted.square().sum().backward()
    placements = features, *[boxes] * (len(tensors) - 1)
    sharded = [distribute_tensor(one, mesh, [how]) for one, how in zip(tensors, placements, strict=True)]
    for one in sharded:
        one.requires_grad_()
    found = CALLS[name](*sharded)
    if (features, boxes) == (CHANNELS, WHOLE) and name not in OWN_CHANNELS:
        assert found.placements == (CHANNELS,)
    elif (features, boxes) == (WHOLE, BOXES):
        assert found.placements == (BOXES,)
    found.square().sum().backward()
    torch.testing.assert_close(found.full_tensor(), wanted)
    for one, other in zip(sharded, plain, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if other.grad is not None:
            torch.testing.assert_close(one.grad.full_tensor(), other.grad, atol=1e-4, rtol=1e-4)


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.linear = (
            nn.Conv2d(6, 4, 3, padding=1),
            roialign.RoIAlign(2, 0.5, 2),
            nn.Linear(16, 3),
        )

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return self.linear(self.pool(self.stem(features), rois).flatten(1))


def check_fully_sharded(mesh: DeviceMesh) -> None:
    """A head trains alike with its parameters sharded: what is pooled are plain tensors then."""
    torch.manual_seed(1)
    head, whole = Head(), Head()
    whole.load_state_dict(head.state_dict())
    fully_shard(head, mesh=mesh)
    head(FEATURES, ROIS).square().sum().backward()
    whole(FEATURES, ROIS).square().sum().backward()
    for one, other in zip(head.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad.full_tensor(), other.grad, atol=1e-4, rtol=1e-4)


def check_refusal(mesh: DeviceMesh) -> None:
    maps = {"0": distribute_tensor(FEATURES, mesh, [WHOLE])}
    pooler = roialign.MultiScaleRoIAlign(["0"], 2, 2, scales=[0.5])
    with pytest.raises(roialign.RoIError, match=r"^RA505: expected plain tensors"):
        pooler(maps, distribute_tensor(ROIS, mesh, [BOXES]), [(32, 36)])


def main() -> None:
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=int(sys.argv[1]), world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    roialign.set_policy("ignore")
    for name in CALLS:
        for features, boxes in ((WHOLE, BOXES), (CHANNELS, WHOLE), (CHANNELS, BOXES), (WHOLE, WHOLE), (BOXES, BOXES)):
            check(name, mesh, features, boxes)
    check_refusal(mesh)
    check_fully_sharded(mesh)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
