"""The table of presets in docs/operators.md, the same box by every rule. The error shows the table to put there."""

from pathlib import Path

import torch

import roialign

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"
FEATURES = (torch.arange(6.0)[:, None] ** 2 + torch.arange(8.0) / 2)[None, None]
BOX = torch.tensor([[1.0, 1.0, 3.5, 4.0]])
CALLS = {  # arguments after output_size=1, and where the samples are along x and y
    'compat="torchvision"': "1.625, 2.875; 1.75, 3.25",
    'compat="torchvision", aligned=True': "1.125, 2.375; 1.25, 2.75",
    'compat="detectron2"': "the same",
    'compat="mmcv"': "the same",
    'compat="onnx"': "the same",
    'compat="onnx-10"': "1.625, 2.875; 1.75, 3.25",
    'mode="max"': "the same",
    'mode="max", compat="mmcv"': "1.125, 2.375; 1.25, 2.75",
    'mode="max", compat="onnx"': "the same",
    'mode="max", compat="onnx-10"': "1.625, 2.875; 1.75, 3.25",
}


def table() -> str:
    rows = [(f"`roi_align(..., {arguments})`", samples, roi_align(arguments)) for arguments, samples in CALLS.items()]
    scale = torch.tensor([5.0, 7.0, 5.0, 7.0])  # H - 1 and W - 1
    crop = roialign.crop_and_resize(FEATURES, BOX[:, [1, 0, 3, 2]] / scale, torch.tensor([0]), 1)
    rows.append(("`crop_and_resize(..., 1)`, the box over W - 1 and H - 1", "2.25; 2.5", crop))
    rows.append(("`prroi_pool(...)`", "none", roialign.prroi_pool(FEATURES, [BOX], 1)))
    head = ["| call | samples at x; y | result |", "|---|---|---|"]
    return "\n".join([*head, *(f"| {call} | {samples} | {float(value):.4f} |" for call, samples, value in rows)])


def roi_align(arguments: str) -> torch.Tensor:
    options = eval(f"dict({arguments})")
    return roialign.roi_align(FEATURES, [BOX], 1, sampling_ratio=2, **options)


def test_the_page_has_the_table_that_the_code_gives():
    expected = table()
    assert expected in PAGE.read_text(encoding="utf-8"), f"expected in {PAGE.name}:\n{expected}"


def test_samples_are_where_the_table_says():
    """On x alone, the average of all samples is that of the positions that are named; y likewise."""
    named = ""
    for arguments, samples in CALLS.items():
        named = named if samples == "the same" else samples
        if "max" in arguments:
            continue
        options = eval(f"dict({arguments})")
        for axis, positions in enumerate(named.split("; ")):
            ramp = torch.arange(8.0).expand(1, 1, 6, 8) if axis == 0 else torch.arange(6.0)[:, None].expand(1, 1, 6, 8)
            mean = sum(map(float, positions.split(", "))) / 2
            assert float(roialign.roi_align(ramp, [BOX], 1, sampling_ratio=2, **options)) == mean
