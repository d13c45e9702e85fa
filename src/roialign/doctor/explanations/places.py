"""In which frame the numbers of the boxes may have been meant: as called, or in any of those that people mix up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from roialign.doctor.explanations import table
from roialign.doctor.explanations.lattice import Lattice
from roialign.doctor.explanations.scene import Place, Scene, moves
from roialign.geometry import AxisMap, Frame

_MOST_FRACTION = 1.5
_FAR_BEYOND = 4.0  # sizes of the image
_FURTHEST_WINDOW = 40.0
_NO_DIFFERENCE = 0.1


def places(scene: Scene) -> list[Place]:
    """All frames that are worth weighing for this call."""
    by_scale = list(_by_scale(scene))
    called = by_scale[0]
    frames = [*_fractions(scene, called), *_seen(scene, called.lattice), *_of_the_padding(scene, called)]
    frames += [*_not_seen(scene, called), *_no_frame(scene, [*by_scale, *frames]), *_wrong_clip(scene, called)]
    if called.lattice.shifted and scene.known.call.cells is None:  # as rare as it is to be careful about the offset
        rare = table.OFFSET_TAKEN_OFF[scene.known.call.aligned]
        frames = [replace(place, share=place.share * rare) for place in frames]
    return by_scale + frames


def _fractions(scene: Scene, called: Place) -> Iterator[Place]:
    """Fractions of the photograph, or of the image that entered; also ones that were resized and padded."""
    content, extent, boxes = called.content, scene.extent(called.lattice), scene.boxes
    turns = [(AxisMap((1.0, 1.0), (0.0, 0.0)), boxes)]
    if scene.maps and len(content) == 1:
        done = scene.maps[0][1][0]
        scale, shift = done.scale_yx[::-1] * 2, done.shift_yx[::-1] * 2
        turns.append((done, (boxes - boxes.new_tensor(shift)) / boxes.new_tensor(scale)))
    for done, fractions in turns:
        if float(fractions.abs().max()) > _MOST_FRACTION:
            continue
        wholes = [content] if bool((content == extent).all()) else [content, extent]
        for whole in wholes:
            size = torch.cat([whole[:, 2:] - whole[:, :2]] * 2, 1) / boxes.new_tensor(done.scale_yx[::-1] * 2)
            near = torch.cat([whole[:, :2]] * 2, 1) - size * boxes.new_tensor(done.shift_yx[::-1] * 2)
            yield replace(
                called,
                name="fractions",
                code="RA103",
                share=table.FRACTIONS / len(wholes),
                scale=size,
                shift=near,
                common=True,
            )
        return


def _by_scale(scene: Scene) -> Iterator[Place]:
    """As called, and with the other scales that the map may need; the first is as called."""
    known, scale = scene.known, scene.scale
    options = scene.lattices
    total = sum(lattice.weight for lattice in options)
    fitting = [lattice for lattice in options if scene.fits(lattice)]
    first = fitting[0] if fitting else options[0]
    as_called = Place(
        "as called", None, 1.0, scene.boxes.new_full((1, 4), scale), scene.boxes.new_zeros(1, 4), first,
        scene.content(first), common=True,
    )  # fmt: skip
    if known.call.cells is not None:
        yield replace(as_called, share=table.SCALE_FITS, scale=scene.per_pixel(first), shift=scene.lead(first))
        return
    if first.shifted and not known.call.aligned:
        as_called = replace(as_called, shift=as_called.shift + 0.5)
    ignoring = table.OFFSET_TAKEN_OFF[known.call.aligned] if first.shifted else 1.0
    by_ratio = known.scale_is_ratio
    near_one = scale == 1.0 and max(first.stride_yx) < 2 and not fitting
    if fitting:
        yield replace(as_called, share=table.SCALE_FITS * ignoring)
    elif scale == 1.0:
        yield replace(as_called, share=(table.OWN_UNITS if near_one else table.IN_CELLS) * ignoring)
    else:
        yield replace(as_called, share=(table.RATIO_OF_SIZES if by_ratio else table.OWN_UNITS) * ignoring)
    for lattice in options:
        place = replace(
            as_called, name="pixels", scale=scene.per_pixel(lattice), shift=scene.lead(lattice), lattice=lattice,
            content=scene.content(lattice),
        )  # fmt: skip
        if lattice.shifted and (lattice in fitting or by_ratio):
            yield replace(place, code="RA108", share=table.OFFSET_IGNORED)
            continue
        if lattice in fitting:
            continue
        weight = lattice.weight / total
        if not lattice.even:
            yield replace(place, code="RA110", share=table.WRONG_STRIDE * weight)
        elif near_one:
            yield replace(place, code="RA106", share=table.NEAR_ONE * weight)
        elif scale == 1.0:
            yield replace(place, code="RA101", share=table.LEFT_AT_ONE * weight)
        elif scale >= 2 and abs(scale / lattice.stride_yx[0] - 1) < 0.02:
            yield replace(place, code="RA104", share=table.INVERSE)
        else:
            share = table.OTHER_STRIDE if fitting else table.WRONG_STRIDE
            yield replace(place, code="RA106", share=share * weight)
    if scale == 1.0 and first.shifted and known.image_size_hw is not None:  # fractions times the size of the map
        ratio_yx = known.ratios_yx or first.stride_yx
        ratios = scene.boxes.new_tensor([[ratio_yx[1], ratio_yx[0]] * 2])
        by_size = ratios * scene.per_pixel(first)
        yield replace(
            as_called, name="cells by the ratio of sizes", code="RA108", share=table.OFFSET_IGNORED, scale=by_size,
            shift=scene.lead(first),
        )  # fmt: skip
    if scale != 1.0:
        yield replace(
            as_called, name="cells", code="RA102", share=table.SCALED_TWICE, scale=torch.ones_like(as_called.scale),
            shift=scene.boxes.new_zeros(1, 4),
        )  # fmt: skip


def _seen(scene: Scene, lattice: Lattice) -> Iterator[Place]:
    """Frames that were seen on the way from the photograph to the network, and products of some of their steps."""
    known, content = scene.known, scene.content(lattice)
    for index, maps in scene.maps:
        place = scene.mapped(lattice, maps, content)
        share = table.BETWEEN if index else table.SEEN_FRAME
        yield replace(place, name="seen frame", share=share, frame=scene.chains[0][index], common=True)
    if scene.maps:
        yield from _in_proportion(scene, lattice, content)
    if scene.chains:
        yield from _turned(scene, lattice, content)
        yield from _partly_resized(scene, lattice, content)
    if known.mosaic is not None:
        moved = _mosaic(scene, lattice)
        if moved is not None:
            yield Place(
                "mosaic",
                "RA107",
                table.MOSAIC,
                scene.per_pixel(lattice),
                scene.lead(lattice),
                lattice,
                content,
                at=moved,
            )


def _turned(scene: Scene, lattice: Lattice, content: Tensor) -> Iterator[Place]:
    """Boxes of the picture as its file stores it where the network got it upright, or the other way round."""
    pairs = list(zip(scene.turned, scene.known.frames, strict=True))
    first = next((turned for turned in scene.turned if turned), None)
    if first is None:
        return
    whole = [(turned.other if turned else frame.chain[0]).map_to(frame) for turned, frame in pairs]
    left = [(turned.left_out(frame) if turned else frame).map_to(frame) for turned, frame in pairs]
    for name, maps in (("turned", whole), ("turn left out", left)):
        if name == "turned" or left != whole:
            place = scene.mapped(lattice, maps, content)
            yield replace(place, name=name, code="RA218", share=table.TURNED_FILE, frame=first.other, common=True)


def _partly_resized(scene: Scene, lattice: Lattice, content: Tensor) -> Iterator[Place]:
    """Boxes of an earlier frame with only some of the resizes after it, with all of them twice, or undone."""
    chain = scene.chains[0]
    if any(one[-1].map_to(one[0]) != chain[-1].map_to(chain[0]) for one in scene.chains):
        return
    turns = [index for index, (a, b) in enumerate(pairwise(chain), 1) if a.map_to(b).transposed]
    for start in range(turns[-1] if turns else 0, len(chain) - 1):
        steps = [_resized(chain[index], chain[index + 1]) for index in range(start, len(chain) - 1)]
        steps = [step for step in steps if step != (1.0, 1.0)]
        whole = (math.prod(step[0] for step in steps), math.prod(step[1] for step in steps))
        done = [("one resize of two", step) for step in steps if len(steps) > 1]
        done.append(("resized twice", (whole[0] ** 2, whole[1] ** 2)))
        done.append(("resized the wrong way", (1 / whole[0], 1 / whole[1])))
        for name, ratio in done:
            left = (whole[0] / ratio[0], whole[1] / ratio[1])
            if max(abs(left[0] - 1), abs(left[1] - 1)) > _NO_DIFFERENCE:
                place = scene.mapped(lattice, [AxisMap(left, (0.0, 0.0))] * len(scene.chains), content)
                yield replace(place, name=name, share=table.PARTLY_RESIZED, frame=chain[start], ratio=left[1])


def _in_proportion(scene: Scene, lattice: Lattice, content: Tensor) -> Iterator[Place]:
    """The photograph's boxes by one ratio for both sides, or as if all of it had been squeezed into what entered."""
    chains, (index, maps) = scene.chains, scene.maps[0]
    whole = [_from_fractions(chain[0], chain[-1]) for chain in chains]
    if any(map(moves, whole)):
        yield replace(
            scene.mapped(lattice, whole, content), name="squeezed", share=table.IN_PROPORTION, frame=chains[0][-1]
        )
    scale_y, scale_x = maps[0].scale_yx
    if min(scale_y, scale_x) > 0 and abs(math.log(scale_y / scale_x)) > _NO_DIFFERENCE:
        for ratio in (scale_y, scale_x):
            left = [AxisMap((one.scale_yx[0] / ratio, one.scale_yx[1] / ratio), one.shift_yx) for one in maps]
            place = scene.mapped(lattice, left, content)
            yield replace(place, name="one ratio for both", share=table.IN_PROPORTION, frame=chains[0][index])


def _from_fractions(photograph: Frame, entered: Frame) -> AxisMap:
    """From pixels of `entered`, had the photograph been squeezed into it, to where they are."""
    done = photograph.map_to(entered)
    upright_hw = photograph.size_hw[::-1] if done.transposed else photograph.size_hw
    pairs = list(zip(upright_hw, entered.size_hw, done.scale_yx, strict=True))
    scale_y, scale_x = (scale * old / new for old, new, scale in pairs)
    return AxisMap((scale_y, scale_x), done.shift_yx)


def _is_on_its_side(scene: Scene) -> bool:
    """Whether a resize was seen to turn a landscape into a portrait, or a portrait into a landscape."""
    steps = pairwise(scene.chains[0]) if scene.chains else ()
    return any(
        (a.size_hw[0] - a.size_hw[1]) * (b.size_hw[0] - b.size_hw[1]) < 0 and not a.map_to(b).transposed
        for a, b in steps
    )


def _resized(before: Frame, after: Frame) -> tuple[float, float]:
    scale_y, scale_x = before.map_to(after).scale_yx
    return abs(scale_y), abs(scale_x)


def _of_the_padding(scene: Scene, called: Place) -> Iterator[Place]:
    """Boxes that take the padded image for the photograph, or leave out the bars before it."""
    content, extent = called.content, scene.extent(called.lattice)
    if scene.known.pictures is None:
        return
    ratio = (content[:, 2:] - content[:, :2]) / (extent[:, 2:] - extent[:, :2])
    ratio = torch.cat([ratio, ratio], 1)
    near, start = torch.cat([content[:, :2]] * 2, 1), torch.cat([extent[:, :2]] * 2, 1)
    yield replace(
        called, name="padded size", code="RA107", share=table.PADDED_SIZE, scale=called.scale * ratio,
        shift=near + (called.shift - start) * ratio, common=False,
    )  # fmt: skip
    if bool((content[:, :2] > extent[:, :2] + 1e-6).any()):
        yield replace(
            called, name="bars left out", code="RA107", share=table.BARS_LEFT_OUT, shift=called.shift + near - start,
            common=False,
        )  # fmt: skip


def _not_seen(scene: Scene, called: Place) -> Iterator[Place]:
    """Frames of which nothing was seen: a thousand to the page, another size of the image, a larger picture."""
    boxes, content = scene.boxes, called.content
    size = torch.cat([content[:, 2:] - content[:, :2]] * 2, 1)
    near = torch.cat([content[:, :2]] * 2, 1)
    most = float(boxes.max())
    for parts in (100, 1000, 1024):
        differs = float((size / parts / called.scale).log().abs().max()) > _NO_DIFFERENCE
        fits = parts / 2 < most <= parts and float(boxes.min()) >= 0 and len(boxes) > 1
        if fits and differs and (parts == 100 or _are_whole(boxes)):
            yield replace(
                called,
                name="parts of the image",
                code="RA107",
                share=table.PARTS,
                scale=size / parts,
                shift=near,
                ratio=parts,
            )
    if float((size[:, 0] / size[:, 1]).log().abs().max()) > _NO_DIFFERENCE:
        sides = size[:, [0, 1, 0, 1]] / size[:, [1, 0, 1, 0]]
        share = table.SIDES_EXCHANGED * (table.ON_ITS_SIDE if _is_on_its_side(scene) else 1.0)
        yield replace(
            called,
            name="sides swapped",
            code="RA107",
            share=share,
            scale=called.scale * sides,
            common=False,
        )
    unseen = called.share * (table.UNSEEN if scene.maps else 1.0)
    in_cells = scene.scale == 1.0 and not scene.fits(called.lattice)  # of any other size they would need a scale first
    for ratio in () if in_cells else table.RATIOS:
        if abs(math.log(ratio)) > 0.05:
            share = unseen * (table.LARGER if ratio < 1 else table.SMALLER) / len(table.RATIOS)
            yield replace(
                called,
                name="another size",
                code="RA107",
                share=share,
                scale=called.scale * ratio,
                ratio=ratio,
                common=False,
            )
    cells = boxes * scene.of_rows(called.scale) + scene.of_rows(called.shift)
    low, high = cells[:, :2].amin(0), cells[:, 2:].amax(0)
    beyond = bool((high > content[0, 2:]).any()) and bool((high - low <= content[0, 2:] - content[0, :2]).all())
    near_by = float(cells.abs().max()) < _FURTHEST_WINDOW * float(content[0].abs().max())
    if beyond and near_by and len(content) == 1:
        middle = (content[0, :2] + content[0, 2:]) / 2 - (low + high) / 2
        shift = called.shift + torch.cat([middle, middle])
        yield replace(called, name="window", code="RA107", share=unseen * table.WINDOW, shift=shift, common=False)


def _wrong_clip(scene: Scene, called: Place) -> list[Place]:
    """Boxes that end at the other side's length, which is within the image: what was cut off cannot be said."""
    content = called.content[0]
    if called.code is not None or len(called.content) > 1:
        return []
    width, height = ((content[2:] - called.shift[0, 2:]) / called.scale[0, 2:]).tolist()
    short, axis = (width, 1) if width < height else (height, 0)
    ends = scene.boxes[:, [axis, axis + 2]]
    clipped = ((ends - short).abs() < 1e-3 * short).any(1)
    if abs(width - height) < 0.02 * short or int(clipped.sum()) < 2 or float(ends.max()) > short * 1.001:
        return []
    cells = scene.boxes * scene.of_rows(called.scale) + scene.of_rows(called.shift)
    low, end = content[axis], content[axis + 2]
    cells[clipped, axis + 2] = low + 0.97 * (end - low)
    cells[clipped, axis] = cells[clipped, axis].minimum(low + 0.7 * (end - low))
    return [replace(called, name="clipped to the wrong side", code="RA213", share=table.WRONG_CLIP, at=cells)]


def _are_whole(boxes: Tensor) -> bool:
    return bool((boxes == boxes.round()).all())


def _no_frame(scene: Scene, found: Sequence[Place]) -> list[Place]:
    """Coordinates that none of these frames brings anywhere near the image."""
    ruled = [place for place in found if place.at is None and place.name not in ("another size", "window")]
    for place in ruled:
        content = scene.of_rows(place.content)
        size = torch.cat([content[:, 2:] - content[:, :2]] * 2, 1)
        shares = (
            scene.boxes * scene.of_rows(place.scale) + scene.of_rows(place.shift) - content[:, [0, 1, 0, 1]]
        ) / size
        if float(((shares - 0.5).abs().amin(1) > _FAR_BEYOND).double().mean()) <= 0.9:
            return []
    corners = scene.boxes.new_tensor([[0.02, 0.02, 0.3, 0.3], [0.7, 0.7, 0.98, 0.98]])[
        torch.arange(len(scene.boxes)) % 2
    ]
    content = scene.of_rows(found[0].content)
    typical = content[:, [0, 1, 0, 1]] + torch.cat([content[:, 2:] - content[:, :2]] * 2, 1) * corners
    return [replace(found[0], name="no frame", code="RA209", share=table.NO_FRAME, at=typical, common=False)]


def _mosaic(scene: Scene, lattice: Lattice) -> Tensor | None:
    """Boxes of tiles that were moved by the tile's height in x and by its width in y."""
    mosaic = scene.known.mosaic
    if mosaic is None or mosaic.tile_hw[0] == mosaic.tile_hw[1]:
        return None
    height, width = mosaic.tile_hw
    boxes = scene.boxes
    column = _tile(boxes[:, 0], boxes[:, 2], height, width, mosaic.columns)
    row = _tile(boxes[:, 1], boxes[:, 3], width, height, mosaic.rows)
    moved = torch.stack([column * (width - height), row * (height - width)] * 2, 1)
    return scene.to_cells(boxes + moved, lattice)


def _tile(low: Tensor, high: Tensor, moved_by: int, side: int, count: int) -> Tensor:
    """Which tile a box is of, if the tiles are `side` long and its numbers were moved by `moved_by` for each."""
    first = torch.zeros_like(low)
    for index in range(1, count):
        within = (low >= index * moved_by - 1) & (high > (index - 1) * moved_by + side + 1)
        first = torch.where(within, float(index), first)
    return first
