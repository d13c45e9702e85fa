"""RA305 and RA310: what the map was made of, as it was seen, beside the nearest sound call."""

from __future__ import annotations

import pytest
import torch

import roialign
from roialign.doctor.diagnose import examine
from roialign.doctor.findings import Finding
from roialign.doctor.surroundings import Surroundings, Tokens
from roialign.ops.roi_align import as_call

BOXES = torch.tensor([[20.0, 30.0, 150.0, 200.0], [40.0, 50.0, 90.0, 120.0], [5.0, 60.0, 210.0, 220.0]])


def found(features: torch.Tensor, boxes: list[torch.Tensor], scale: float, around: Surroundings) -> list[Finding]:
    return list(examine(as_call(features, boxes, 7, scale, 2, True), around=around).findings)


def test_features_that_were_pooled_already() -> None:
    pooled, around = torch.rand(5, 8, 14, 14), Surroundings(pooled_before=True)
    lists = [BOXES, BOXES[:2]]
    finding, other = found(pooled, lists, 1 / 16, around)
    assert other.code == "RA215", "fewer lists than maps"
    assert (finding.code, finding.severity) == ("RA310", "error")
    assert "5 maps of 14 x 14 bins" in finding.evidence
    assert "2 lists of boxes" in finding.evidence
    (finding, *_) = found(pooled[:2], lists, 1 / 16, around)
    assert (finding.code, finding.severity) == ("RA310", "warning"), "as many maps as lists: it may be meant"
    within = [torch.tensor([[1.0, 2.0, 9.0, 12.0]])] * 5
    assert found(pooled, within, 1.0, around) == [], "boxes within RoIs"
    codes = [finding.code for finding in found(torch.rand(2, 8, 14, 14), lists, 1 / 16, Surroundings())]
    assert codes == [], "the same call on a backbone's maps"


TOKENS = {  # what was seen of the map's tokens, and whether it is a fault
    "class token dropped": (Tokens(257, 1), False),
    "no other tokens": (Tokens(256, 0), False),
    "registers dropped": (Tokens(261, 5), False),
    "tokens of detections last": (Tokens(357, 1), False),
    "registers kept": (Tokens(261, 1), True),
    "class token kept": (Tokens(257, 0), True),
    "no transpose": (Tokens(257, 1, transposed=False), True),
    "neither": (Tokens(261, 1, transposed=False), True),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_are_not_the_patches_of_their_cells(name: str) -> None:
    tokens, is_fault = TOKENS[name]
    seen = found(torch.rand(1, 48, 16, 16), [BOXES], 1 / 14, Surroundings(tokens=tokens))
    assert [finding.code for finding in seen] == ["RA305"] * is_fault
    if not is_fault:
        return
    assert "register tokens" in seen[0].evidence
    line = (seen[0].decide or "").partition("C]: ")[2]
    t = torch.rand(1, tokens.count, 48)
    held = {"t": t}
    exec(line, held)
    assert torch.equal(held["features"].flatten(2).transpose(1, 2), t[:, tokens.count - 256 :])


def test_zeros_under_padding_are_no_fault_of_the_weights() -> None:
    """RoIs that are centred in the padding of their image read zeros of a network without biases."""
    network = torch.nn.Conv2d(3, 8, 16, 16, bias=False)
    batch = torch.zeros(2, 3, 256, 256)
    batch[0], batch[1, :, :128] = torch.rand(3, 256, 256), torch.rand(3, 128, 256)
    boxes = [torch.tensor([[32.0, 32.0, 200.0, 200.0]]), torch.tensor([[40.0, 150.0, 120.0, 240.0]])]
    with torch.no_grad(), roialign.watch() as report:
        features = network(batch)
        roialign.roi_align(features, boxes, 7, 1 / 16)
        batch.fill_(0.5)  # no padding any more, and the map is as dead
        roialign.roi_align(torch.zeros_like(features), boxes, 7, 1 / 16)
    assert [[finding.code for finding in call.findings if finding.code == "RA301"] for call in report.calls] == [
        [],
        ["RA301"],
    ]
