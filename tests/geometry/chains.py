"""Random chains of frames for hypothesis, and the one rule they are held against."""

from hypothesis import strategies as st

from roialign.geometry import Frame

LARGEST = 4000
SIDES = st.integers(1, LARGEST)
SIZES = st.tuples(SIDES, SIDES)
PADS = st.integers(0, 500)


@st.composite
def steps(draw, frame: Frame) -> Frame:
    """A frame that is one step of any kind further than `frame`."""
    height, width = frame.size_hw
    kind = draw(
        st.sampled_from(
            ["resize", "shorter", "letterbox", "pad", "crop", "horizontal", "vertical", "normalize", "turn"]
        )
    )
    if kind == "resize":
        return frame.resize(draw(SIZES))
    if kind == "shorter" and max(height, width) <= 20 * min(height, width):
        return frame.resize_shorter(draw(st.integers(32, 1000)), max_size=draw(st.none() | st.integers(1001, 2000)))
    if kind == "letterbox":
        return frame.letterbox(draw(SIZES), draw(st.sampled_from(["center", "bottom_right"])))
    if kind == "pad":
        return frame.pad(draw(PADS), draw(PADS), draw(PADS), draw(PADS))
    if kind == "crop":  # partly or wholly outside too
        return frame.crop(draw(st.integers(-99, height)), draw(st.integers(-99, width)), draw(SIDES), draw(SIDES))
    if kind == "turn":
        return frame.exif_transpose(draw(st.integers(5, 8)))
    if kind == "vertical":
        return frame.flip_vertical()
    return frame.normalize() if kind == "normalize" else frame.flip_horizontal()


@st.composite
def chains(draw, root: Frame, longest: int = 8) -> Frame:
    """A frame up to `longest` steps away from `root`."""
    frame = root
    for _ in range(draw(st.integers(0, longest))):
        frame = draw(steps(frame))
    return frame


@st.composite
def boxes_in(draw, frame: Frame) -> list[list[float]]:
    """Boxes of `frame` as float32 numbers, some reaching outside."""
    height, width = frame.size_hw
    xs = st.floats(-50, width + 50, width=32)
    ys = st.floats(-50, height + 50, width=32)
    pairs = draw(st.lists(st.tuples(xs, ys, xs, ys), min_size=1, max_size=4))
    return [[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in pairs]
