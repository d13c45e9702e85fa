"""What other libraries call RoIAlign: which options they fix, and which modes they have."""

from __future__ import annotations

from typing import NamedTuple

from roialign.errors import OptionError

MODES = ("avg", "max")


class Preset(NamedTuple):
    """How one library pools."""

    aligned: bool
    modes: tuple[str, ...] = ("avg",)
    corners: bool = False  # the largest product of a cell and its weight counts, not the largest sample


PRESETS = {
    "detectron2": Preset(aligned=True),
    "mmcv": Preset(aligned=True, modes=MODES),
    "onnx": Preset(aligned=True, modes=MODES, corners=True),
    "onnx-10": Preset(aligned=False, modes=MODES, corners=True),
}
"""By the value of `compat`. "torchvision" has none of its own: it is the default, and `aligned` is as given."""

_SAID_OTHERWISE = {
    "onnx-max": 'Use mode="max", compat="onnx".',
    "tensorflow": "Its crop_and_resize takes other boxes and one sample for each bin. Use "
    "roialign.crop_and_resize(image, boxes, box_indices, crop_size).",
}
"""What to type instead of a word that names no preset."""


def find(mode: str, compat: str | None, aligned: bool) -> Preset:
    """The options that `compat` stands for.

    Raises:
        OptionError: if there is no such mode or preset, or the arguments contradict it.
    """
    if mode not in MODES:
        raise OptionError(f'RA506: expected mode "avg" or "max"; got {mode!r}. Use mode="avg", the default.')
    if compat is None:
        return Preset(aligned, MODES)
    if isinstance(compat, str) and compat in _SAID_OTHERWISE:
        raise OptionError(f'RA506: expected compat, a library; got "{compat}". {_SAID_OTHERWISE[compat]}')
    known = PRESETS.get(compat) if isinstance(compat, str) else None
    preset = Preset(aligned) if compat == "torchvision" else known
    if preset is None:
        names = ", ".join(map(repr, ("torchvision", *PRESETS)))
        raise OptionError(
            f"RA506: expected compat, one of {names}, or None; got {compat!r}. Leave it out for the default."
        )
    if mode not in preset.modes:
        raise OptionError(
            f"RA506: expected a mode that {compat} has, {', '.join(map(repr, preset.modes))}; got {mode!r}. Leave "
            "compat out for the largest of roi_align's own samples."
        )
    if aligned and not preset.aligned:
        raise OptionError(
            f'RA506: expected aligned=False with compat="{compat}", which supports nothing else; got aligned=True. '
            'Leave aligned out, or use compat="onnx" for operator set 16 and later.'
        )
    return preset
