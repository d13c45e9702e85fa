"""What a calibration found: for each level and axis the offset, how sure it is, and the agreement at all three."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roialign.backbones.agreement_plot import draw
from roialign.backbones.axis_calibration import AxisCalibration, Verdict
from roialign.backbones.mirror import Sweep
from roialign.errors import MapNameError
from roialign.geometry import FeatureGrid

WIDEST_INTERVAL = 0.25  # in strides
LEAST_OVER_CHANCE = 0.1
_RESAMPLES = 1000


@dataclass(frozen=True)
class LevelCalibration:
    """The calibration of one level along both axes."""

    y: AxisCalibration
    x: AxisCalibration

    @property
    def offset_yx(self) -> tuple[float, float] | None:
        """The calibrated offset, where both axes have one."""
        return None if self.y.offset is None or self.x.offset is None else (self.y.offset, self.x.offset)


@dataclass(frozen=True)
class Calibration(Mapping[str, LevelCalibration]):
    """The calibration of each level, by name, and what it was made from.

    `print` shows the three offsets side by side; `save` draws agreement against offset.
    """

    levels: dict[str, LevelCalibration]
    image_size: tuple[int, int]
    images: int
    boxes_per_image: int
    seed: int
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> LevelCalibration:
        try:
            return self.levels[name]
        except (KeyError, TypeError):
            raise MapNameError.of(name, self.levels) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.levels)

    def __len__(self) -> int:
        return len(self.levels)

    def __str__(self) -> str:
        return _text(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything, curves included, in plain values for JSON."""
        return asdict(self)

    def save(self, path: str | Path) -> None:
        """Write the plot of agreement against offset, one panel for each level and axis, as an SVG image.

        Args:
            path: the file to write, usually with the ending .svg.
        """
        Path(path).write_text(draw({name: (level.x, level.y) for name, level in self.items()}), encoding="utf-8")


def judge(sweep: Sweep | str, grid: FeatureGrid, axis: int, seed: int) -> AxisCalibration:
    """The best offset of a sweep, its interval over images, and whether it decides."""
    stride = grid.stride_yx[axis]
    structural = None if grid.structural_offset_yx is None else grid.structural_offset_yx[axis]
    if isinstance(sweep, str):
        return AxisCalibration("not swept", sweep, stride, structural)
    mean = sweep.agreements.mean(0)
    best = float(peaks(sweep.offsets, mean[None])[0])
    interval = interval_of_peak(sweep, seed)
    chance = float(sweep.chance.mean())
    verdict, reason = _verdict(best, interval, float(mean.max()), chance, stride, sweep.offsets)
    return AxisCalibration(
        verdict,
        reason,
        stride,
        structural,
        offset=best if verdict == "measured" else None,
        best=best,
        interval=interval,
        agreement_at_best=float(mean.max()),
        agreement_at_structural=None if structural is None else value_at(sweep.offsets, mean, structural),
        agreement_at_convention=value_at(sweep.offsets, mean, stride / 2),
        agreement_by_chance=chance,
        offsets=tuple(sweep.offsets.tolist()),
        agreements=tuple(mean.tolist()),
    )


def interval_of_peak(sweep: Sweep, seed: int) -> tuple[float, float]:
    """The 95 % interval of the best offset, by drawing the images again with replacement."""
    images = len(sweep.agreements)
    drawn = torch.randint(images, (_RESAMPLES, images), generator=torch.Generator().manual_seed(seed))
    found = peaks(sweep.offsets, sweep.agreements[drawn].mean(1))
    low, high = torch.quantile(found, found.new_tensor([0.025, 0.975])).tolist()
    return low, high


def peaks(offsets: Tensor, curves: Tensor) -> Tensor:
    """Where each of `curves` [N, O] is highest: the vertex of the parabola through the best and its neighbours, [N]."""
    at = curves.argmax(1, keepdim=True)
    inner = at.clamp(1, len(offsets) - 2)
    left, middle, right = (curves.gather(1, inner + step)[:, 0] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = torch.where(bend < 0, (left - right) / (2 * bend), bend.new_zeros(()))
    return torch.where((at == inner)[:, 0], offsets[inner[:, 0]] + shift * (offsets[1] - offsets[0]), offsets[at[:, 0]])


def value_at(offsets: Tensor, curve: Tensor, offset: float) -> float:
    """The curve at `offset`, linear between the offsets that were tried."""
    place = (offset - float(offsets[0])) / float(offsets[1] - offsets[0])
    index = min(max(int(place), 0), len(offsets) - 2)
    return float(torch.lerp(curve[index], curve[index + 1], place - index))


def _verdict(
    best: float, interval: tuple[float, float], agreement: float, chance: float, stride: float, offsets: Tensor
) -> tuple[Verdict, str]:
    low, high = interval
    if agreement < chance + LEAST_OVER_CHANCE:
        return "no agreement", (
            f"a box agrees with its own mirror image ({agreement:.2f}) hardly more than with that of another box "
            f"({chance:.2f}): mirroring changes the map, as with weights that saw no mirrored images"
        )
    step = float(offsets[1] - offsets[0])
    if low < float(offsets[0]) + step or high > float(offsets[-1]) - step:
        return "undecided", "the agreement rises up to the last offset tried"
    if high - low > WIDEST_INTERVAL * stride:
        return "undecided", f"the images do not decide: the interval is {(high - low) / stride:.2f} strides wide"
    return "measured", f"best at {best:.2f}, between {low:.2f} and {high:.2f} in 95 % of resamplings of the images"


def _text(calibration: Calibration) -> str:
    height, width = calibration.image_size
    names_width = max(5, *map(len, calibration))
    lines = [
        f"Offsets in pixels by mirror agreement: {calibration.images} images of {height} x {width}, "
        f"{calibration.boxes_per_image} boxes each",
        "",
        f"{'':{names_width}}             {'structural':>13} {'convention':>13}    calibrated",
        f"{'level':{names_width}} axis stride  {'offset agrees':>13} {'offset agrees':>13}    offset (95 %) agrees",
    ]
    reasons: dict[str, list[str]] = {}
    for name, level in calibration.items():
        for label, axis in (("y", level.y), ("x", level.x)):
            lines.append(f"{name:{names_width}} {label:4} {_row(axis)}")
            if axis.verdict != "measured":
                reasons.setdefault(f"{axis.verdict}: {axis.reason}.", []).append(f"{name} {label}")
    remarks = [*(f"{', '.join(places)}: {reason}" for reason, places in reasons.items()), *calibration.notes]
    return "\n".join([*lines, *("\n" + textwrap.fill(remark, 80) for remark in remarks)])


def _row(axis: AxisCalibration) -> str:
    structural = f"{_number(axis.structural)} {_number(axis.agreement_at_structural)}"
    convention = f"{_number(axis.stride / 2)} {_number(axis.agreement_at_convention)}"
    found: str = axis.verdict
    if axis.offset is not None and axis.interval is not None:
        low, high = axis.interval
        found = f"{axis.offset:6.2f} ({low:.2f} to {high:.2f}) {axis.agreement_at_best:.2f}"
    return f"{axis.stride:6g}  {structural} {convention}    {found}"


def _number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.2f}"
