"""Checks of the feature map by what is seen of it: RA301, RA302, RA305, RA310 and RA311.

Each is a pure function of the evidence.
"""

from __future__ import annotations

from math import prod

import torch

from roialign.doctor.evidence import Evidence, call_line, number, rows_where
from roialign.doctor.findings import Finding

_MOST_EXTRA_TOKENS = 16  # class, distillation and register tokens, which come first; others, as of YOLOS, come last


def not_finite(known: Evidence) -> Finding | None:
    """RA302: NaN or infinite features."""
    cells = known.facts.not_finite_cells
    if cells is None:
        return None
    reads = _reads(known, cells)
    image, _, row, column = cells.nonzero()[0].tolist()
    evidence = (
        f"{known.facts.not_finite} of {prod(known.call.features_shape)} features are NaN or infinite, the first in "
        f"image {image} at row {row}, column {column}; {int(reads.sum())} of {len(reads)} RoIs read one."
    )
    decide = "Look for the layer that made them: torch.autograd.detect_anomaly(), or a forward hook with isfinite()."
    return Finding("RA302", evidence, rows_where(reads), decide=decide)


def zero(known: Evidence) -> Finding | None:
    """RA301: the map itself is zero where it is read."""
    alive = known.facts.live_cells if known.call.features_shape[1] > 1 else None  # one channel is a mask
    if alive is None:
        return None
    dead = ~_reads(known, alive) & (known.coverage > 0) & ~known.in_padding  # where zeros are no fault of the weights
    if not bool(dead.any()):
        return None
    share = 1 - float(alive.float().mean())
    evidence = (
        f"{int(dead.sum())} of {len(dead)} RoIs read only cells that are zero in every channel; {100 * share:.0f} % of "
        f"all cells of the map are."
    )
    decide = (
        "The boxes are fine: look at the map (features.abs().amax()), at dead ReLUs before it, and whether weights "
        "and input were loaded and normalized."
    )
    return Finding("RA301", evidence, rows_where(dead), decide=decide)


def pooled_before(known: Evidence) -> Finding | None:
    """RA310: features that are the output of an earlier RoI call."""
    if known.around is None or not known.around.pooled_before:
        return None
    maps, channels, height, width = known.call.features_shape
    named = known.call.lists if known.call.lists is not None else int(known.call.rois[:, 0].max()) + 1
    if named == maps and known.call.spatial_scale == 1 and not bool(known.low.any()):
        return None  # boxes within RoIs, a list for each
    what = "lists of boxes" if known.call.lists is not None else "images, by column 0 of the boxes"
    evidence = (
        f"The features [{maps}, {channels}, {height}, {width}] were pooled already: they are the output of an earlier "
        f"RoI call, {maps} maps of {height} x {width} bins, one for each of its boxes. This call has {named} {what}, "
        f"and spatial_scale={number(known.call.spatial_scale)}."
    )
    decide = "Pass the backbone's map, from which the first call pooled, or use what that call returned as it is."
    return Finding("RA310", evidence, tuple(range(len(known.call.rois))), decide=decide, doubtful=named == maps)


def other_tokens(known: Evidence) -> Finding | None:
    """RA305: a map made of tokens that are not the patches of its cells, as was seen when it was made."""
    tokens = known.around.tokens if known.around is not None else None
    height, width = known.call.map_size_hw
    if tokens is None or tokens.count < height * width:
        return None
    extra = tokens.count - height * width
    extra = extra if extra <= _MOST_EXTRA_TOKENS else tokens.first
    late = extra - tokens.first
    if late <= 0 and tokens.transposed:
        return None
    evidence = (
        f"The map of {height} x {width} cells was made from a module's {tokens.count} tokens, of which "
        f"{height * width} are patches, after {extra} class and register tokens. "
    )
    if late > 0:
        evidence += (
            f"Its first cell is token {tokens.first} instead of token {extra}: every cell is {late} "
            f"place{'s' * (late > 1)} late, and the first {late} hold no patch. "
        )
    if not tokens.transposed:
        evidence += "Tokens and channels were not transposed before the reshape, so each cell holds parts of many."
    line = f"features = t[:, {extra}:].transpose(1, 2).unflatten(2, ({height}, {width}))"
    decide = f"Of the module's tokens t [N, {tokens.count}, C]: {line}"
    return Finding("RA305", evidence.strip(), tuple(range(len(known.call.rois))), decide=decide)


def scrambled(known: Evidence) -> Finding | None:
    """RA311: a map whose cells are not in the order of the image, as the module that made it was traced."""
    found = known.around.scrambled if known.around is not None else None
    if found is None:
        return None
    height, width = known.call.map_size_hw
    evidence = f"The module that made the map of {height} x {width} was traced: {found.reason}."
    rows = tuple(range(len(known.call.rois)))
    if found.grid is None:
        decide = "No permutation repairs this map: look at how the module orders its cells, or use another module."
        return Finding("RA311", evidence, rows, decide=decide)
    if found.line is None:
        decide = (
            "roialign.trace(module, image_size) has the permutation that repairs it, in `scrambled` of the trace or "
            "of the error: features = scrambled[name].in_order(features)"
        )
        return Finding("RA311", evidence, rows, decide=decide)
    call = known.call.with_(input=found.in_order(known.call.input))
    return Finding("RA311", evidence, rows, known.fix("input", None, f"{found.line}\n{call_line(call)}", call))


def _reads(known: Evidence, cells: torch.Tensor) -> torch.Tensor:
    """Whether each RoI reads one of the marked `cells`, bool [N, 1, H, W] -> [K]."""
    pooled, _ = known.call.with_(input=cells.to(known.call.rois.dtype)).run()
    return (pooled > 0).flatten(1).any(1)
