"""Boxes: each format against torchvision and by hand, frames, indices, gradients, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from roialign.errors import BoxesShapeError, BoxesValueError, DtypeError, FrameError
from roialign.geometry import Boxes, Frame

PHOTO = Frame.image((480, 640), name="photo")
TENSOR = torch.tensor([[100.0, 50.0, 300.0, 250.0], [0.5, 0.25, 640.0, 480.0], [-7.0, 3.0, -7.0, 3.0]])


def random_boxes(rows: int = 50) -> torch.Tensor:
    corners = torch.rand(rows, 2, 2) * torch.tensor([640.0, 480.0])
    return torch.cat([corners.amin(1), corners.amax(1)], 1)


@pytest.mark.parametrize(("order", "fmt"), [("xywh", "xywh"), ("cxcywh", "cxcywh")])
def test_orders_against_torchvision(order, fmt):
    boxes = random_boxes()
    values = box_convert(boxes, "xyxy", fmt)
    torch.testing.assert_close(getattr(Boxes(boxes, PHOTO), f"to_{order}")(), values, rtol=0, atol=1e-4)
    made = getattr(Boxes, f"from_{order}")(values, PHOTO).boxes_xyxy
    torch.testing.assert_close(made, box_convert(values, fmt, "xyxy"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("order", ["xyxy", "xywh", "cxcywh", "yxyx"])
def test_normalized_in_every_order(order):
    boxes = random_boxes()
    values = Boxes(boxes, PHOTO).to_normalized(order)
    fractions = boxes / torch.tensor([640, 480, 640, 480])
    expected = fractions[:, [1, 0, 3, 2]] if order == "yxyx" else box_convert(fractions, "xyxy", order)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(Boxes.from_normalized(values, PHOTO, order).boxes_xyxy, boxes, rtol=0, atol=1e-4)


def test_y_first():
    assert Boxes.from_yxyx([[50, 100, 250, 300]], PHOTO).boxes_xyxy.tolist() == [[100, 50, 300, 250]]
    assert Boxes(TENSOR, PHOTO).to_yxyx().tolist() == TENSOR[:, [1, 0, 3, 2]].tolist()


def test_coco_by_hand():
    annotations = [{"bbox": [10.5, 20, 30, 40], "id": 1}, {"bbox": [0, 0, 640, 480], "id": 2}]
    boxes = Boxes.from_coco(annotations, PHOTO)
    assert boxes.boxes_xyxy.tolist() == [[10.5, 20, 40.5, 60], [0, 0, 640, 480]]
    assert boxes.to_coco() == [{"bbox": one["bbox"]} for one in annotations]
    assert Boxes.from_coco(np.array([[10.5, 20, 30, 40]]), PHOTO).boxes_xyxy.tolist() == [[10.5, 20, 40.5, 60]]
    assert len(Boxes.from_coco([], PHOTO)) == 0


def test_yolo_by_hand():
    boxes = Boxes.from_yolo([[0.5, 0.5, 1.0, 1.0], [0.25, 0.75, 0.125, 0.5]], PHOTO)
    assert boxes.boxes_xyxy.tolist() == [[0, 0, 640, 480], [120, 240, 200, 480]]
    assert boxes.to_yolo().tolist() == [[0.5, 0.5, 1.0, 1.0], [0.25, 0.75, 0.125, 0.5]]


def test_voc_by_hand():
    # the first pixel; the last one; the whole image; columns 2 to 4 of the first row
    values = [[1, 1, 1, 1], [640, 480, 640, 480], [1, 1, 640, 480], [2, 1, 4, 1]]
    boxes = Boxes.from_voc(values, PHOTO)
    assert boxes.boxes_xyxy.tolist() == [[0, 0, 1, 1], [639, 479, 640, 480], [0, 0, 640, 480], [1, 0, 4, 1]]
    assert boxes.to_voc().tolist() == values


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (TENSOR, torch.float32),
        (TENSOR.double(), torch.float64),
        (TENSOR.long(), torch.float32),
        (TENSOR.to(torch.int16), torch.float32),
        (np.ones((2, 4)), torch.float64),
        (np.ones((2, 4), dtype=np.int64), torch.float32),
        ([[1, 2, 3, 4]], torch.float32),
        (((1.0, 2.0, 3.0, 4.0),), torch.float32),
        ([], torch.float32),
        (torch.empty(0, 4), torch.float32),
    ],
)
def test_types_as_they_come(values, dtype):
    boxes = Boxes(values, PHOTO)
    assert boxes.dtype == dtype == boxes.boxes_xyxy.dtype
    assert boxes.boxes_xyxy.shape == (len(values), 4)


def test_a_float_tensor_is_not_copied():
    assert Boxes(TENSOR, PHOTO).boxes_xyxy is TENSOR


def test_to_moves_between_frames_types_and_devices():
    small = PHOTO.resize((240, 320))
    boxes = Boxes(TENSOR, PHOTO).to(small).to(torch.float64).to("cpu").to(torch.device("cpu"))
    assert (boxes.frame, boxes.dtype, boxes.device) == (small, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(boxes.boxes_xyxy, TENSOR.double() / 2)
    meta = Boxes(TENSOR, PHOTO).to("meta").to(small)
    assert meta.device.type == "meta"
    assert meta.boxes_xyxy.shape == (3, 4)


def test_clip():
    crop = PHOTO.crop(100, 200, 50, 60)
    boxes = Boxes([[0, 0, 640, 480], [210, 90, 230, 110], [0, 0, 5, 5]], PHOTO).to(crop).clip()
    assert boxes.boxes_xyxy.tolist() == [[0, 0, 60, 50], [10, 0, 30, 10], [0, 0, 0, 0]]
    assert boxes.to(PHOTO).boxes_xyxy.tolist()[0] == [200, 100, 260, 150]
    assert boxes.frame == crop


def test_indices_give_boxes():
    boxes = Boxes(TENSOR, PHOTO).to(PHOTO.flip_horizontal())
    rows = boxes.boxes_xyxy
    for index in (
        slice(1, None),
        [2, 0],
        torch.tensor([1]),
        torch.tensor([True, False, True]),
        np.array([0, 2]),
        slice(0, 0),
    ):
        assert torch.equal(boxes[index].boxes_xyxy, rows[index])
        assert boxes[index].frame == boxes.frame
    for index in (1, -1, np.int64(1), torch.tensor(1)):
        assert torch.equal(boxes[index].boxes_xyxy, rows[int(index)][None])
    assert [one.boxes_xyxy.tolist() for one in boxes] == [[row] for row in rows.tolist()]
    assert torch.equal(boxes[0].to(PHOTO).boxes_xyxy, TENSOR[:1])
    with pytest.raises(IndexError):
        boxes[3]


@pytest.mark.parametrize("index", [(slice(None), 0), (0, 1), None, torch.zeros(2, 2, dtype=torch.long)])
def test_columns_are_no_index(index):
    with pytest.raises(BoxesShapeError, match=r"^RA210: expected an index of rows.*of \[3, 4\].*boxes_xyxy\[:, 0\]"):
        Boxes(TENSOR, PHOTO)[index]


def test_cat():
    small = PHOTO.resize((240, 320))
    parts = [Boxes(TENSOR, PHOTO).to(small), Boxes([[1, 1, 2, 2]], PHOTO).to(small), Boxes([], small)]
    together = Boxes.cat(parts)
    assert len(together) == 4
    assert torch.equal(together.boxes_xyxy, torch.cat([part.boxes_xyxy for part in parts]))
    assert torch.equal(Boxes.cat(parts[:2]).to(PHOTO).boxes_xyxy[:3], TENSOR)
    with pytest.raises(
        FrameError, match=r"^RA107: .*\[photo 480x640\] at place 0 and .* at place 1\. Convert them first"
    ):
        Boxes.cat([Boxes([], PHOTO), parts[0]])
    with pytest.raises(FrameError, match=r"different images: keep one Boxes for each"):
        Boxes.cat([parts[0], Boxes([], Frame.image((240, 320)))])
    with pytest.raises(BoxesShapeError, match=r"^RA210: expected at least one Boxes"):
        Boxes.cat([])


def test_gradients_go_through_frames():
    leaf = TENSOR.double()[:2].requires_grad_()
    frame = PHOTO.crop(10, 20, 400, 500).resize((37, 53)).flip_horizontal().normalize()
    mapped = Boxes(leaf, PHOTO).to(frame)[torch.tensor([1, 0])].boxes_xyxy
    assert torch.autograd.gradcheck(lambda rows: Boxes(rows, PHOTO).to(frame).boxes_xyxy, leaf)
    assert torch.autograd.gradcheck(lambda rows: Boxes.from_cxcywh(rows, PHOTO).clip().to_xywh(), leaf)
    mapped.sum().backward()
    scale_y, scale_x = PHOTO.map_to(frame).scale_yx
    torch.testing.assert_close(leaf.grad, torch.tensor([[scale_x, scale_y] * 2] * 2, dtype=torch.float64))


def test_copies_are_in_the_same_frame():
    boxes = Boxes(TENSOR, PHOTO).to(PHOTO.normalize())
    for twin in (copy.deepcopy(boxes), pickle.loads(pickle.dumps(boxes))):
        assert twin.frame == boxes.frame
        assert torch.equal(twin.to(PHOTO).boxes_xyxy, TENSOR)


def test_words():
    assert repr(Boxes(TENSOR, PHOTO).to(PHOTO.normalize())) == "Boxes(3, float32, in photo 480x640 > normalize 1x1)"


NAN, INF = float("nan"), float("inf")
XYWH = [[100.0, 50.0, 200.0, 200.0], [500.0, 400.0, 30.0, 40.0]]
REFUSED = {
    "one box": (lambda: Boxes([1, 2, 3, 4], PHOTO), BoxesShapeError, r"RA210: .*int64 tensor \[4\].*values\[None\]"),
    "rois": (lambda: Boxes(torch.zeros(2, 5), PHOTO), BoxesShapeError, r"RA210: .*\[2, 5\].*values\[:, 1:\]"),
    "a batch": (lambda: Boxes(torch.zeros(2, 3, 4), PHOTO), BoxesShapeError, r"RA210: .*Boxes for each image"),
    "columns": (lambda: Boxes(torch.zeros(4, 3), PHOTO), BoxesShapeError, r"RA210: .*reshape\(-1, 4\)"),
    "ragged": (lambda: Boxes([[1, 2], [3]], PHOTO), BoxesShapeError, r"RA210: .*got a list\. Pass a tensor"),
    "a list of tensors": (lambda: Boxes([TENSOR[0]] * 2, PHOTO), BoxesShapeError, r"RA210: .*torch\.stack"),
    "half": (lambda: Boxes(TENSOR.half(), PHOTO), DtypeError, r"RA109: .*got float16.*past 2048"),
    "bfloat16": (lambda: Boxes(TENSOR.bfloat16(), PHOTO), DtypeError, r"RA109: .*got bfloat16.*past 256"),
    "float8": (lambda: Boxes(TENSOR.to(torch.float8_e5m2), PHOTO), DtypeError, r"RA109: .*got float8_e5m2.*past 16"),
    "to half": (lambda: Boxes(TENSOR, PHOTO).to(torch.float16), DtypeError, r"RA109: .*got float16"),
    "to integers": (lambda: Boxes(TENSOR, PHOTO).to(torch.int64), DtypeError, r"RA505: .*got int64"),
    "a mask": (lambda: Boxes(TENSOR > 0, PHOTO), DtypeError, r"RA505: .*got bool"),
    "complex": (lambda: Boxes(TENSOR.to(torch.complex64), PHOTO), DtypeError, r"RA505: .*got complex64"),
    "NaN": (
        lambda: Boxes([[0, 0, 1, 1], [0, NAN, 1, NAN]], PHOTO),
        BoxesValueError,
        r"RA205: .*y1 = nan in row 1 of 2, for \[photo 480x640\].*isfinite\(\)\.all\(1\)",
    ),
    "infinite": (
        lambda: Boxes.from_cxcywh([[0, 0, 1, INF], [0, 0, INF, 1]], PHOTO),
        BoxesValueError,
        r"RA205: .*h = inf in row 0 of 2 \(2 such\)",
    ),
    "xywh": (
        lambda: Boxes(XYWH, PHOTO),
        BoxesValueError,
        r"RA204: .*x1 = 500, y1 = 400, x2 = 30, y2 = 40 in row 1 of 2, .*RA201\): use Boxes\.from_xywh\(values, f",
    ),
    "y first": (
        lambda: Boxes([[400.0, 500.0, 40.0, 100.0]], PHOTO),
        BoxesValueError,
        r"RA204: .*y, x, height, width \(RA203\): use Boxes\.from_xywh\(values\[:, \[1, 0, 3, 2\]\], frame\)",
    ),
    "cxcywh": (
        lambda: Boxes([[630.0, 400.0, 20.0, 100.0]], PHOTO),
        BoxesValueError,
        r"RA204: .*\(RA202\): use Boxes\.from_cxcywh",
    ),
    "xxyy": (
        lambda: Boxes([[300.0, 620.0, 200.0, 470.0]], PHOTO),
        BoxesValueError,
        r"RA204: .*x1, x2, y1, y2: use Boxes\(values\[:, \[0, 2, 1, 3\]\], frame\)",
    ),
    "y upwards": (
        lambda: Boxes([[0.0, 900.0, 20.0, 800.0]], PHOTO),
        BoxesValueError,
        r"RA204: .*if y is measured upwards",
    ),
    "no idea": (lambda: Boxes([[900.0, 0, 800, -20]], PHOTO), BoxesValueError, r"RA204: .*sort them"),
    "inverted yxyx": (
        lambda: Boxes.from_yxyx([[400.0, 500.0, 40.0, 100.0]], PHOTO),
        BoxesValueError,
        r"RA204: .*got y1 = 400, x1 = 500, y2 = 40, x2 = 100 .*use Boxes\.from_xywh\(values\[:, \[1, 0, 3, 2\]\]",
    ),
    "negative width": (
        lambda: Boxes.from_xywh([[10, 20, -5, 5]], PHOTO),
        BoxesValueError,
        r"RA204: expected w >= 0 and h >= 0; got x = 10, y = 20, w = -5, h = 5 in row 0 of 1",
    ),
    "pixels as fractions": (
        lambda: Boxes.from_yolo([[0.5, 0.5, 1, 1], [320, 240, 64, 48]], PHOTO),
        BoxesValueError,
        r"RA107: .*from 0 to 1; got \[320\.0, 240\.0, 64\.0, 48\.0\] in row 1 of 2.*These are pixels",
    ),
    "an unknown order": (lambda: Boxes.from_normalized(TENSOR, PHOTO, "xyhw"), BoxesShapeError, r"RA210: .*'xyhw'"),
    "no frame": (lambda: Boxes(TENSOR, (480, 640)), FrameError, r"RA107: .*got \(480, 640\)\. .*Frame\.image"),
    "no frame for VOC": (lambda: Boxes.from_voc(TENSOR, None), FrameError, r"RA107: expected a Frame"),
}


@pytest.mark.parametrize(("call", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_with_the_row_and_the_likely_cause(call, error, words):
    with pytest.raises(error, match=f"^{words}") as raised:
        call()
    assert raised.value.code == str(raised.value)[:5]


def test_what_is_next_to_the_refused_is_taken():
    Boxes.from_xywh(XYWH, PHOTO)
    Boxes([[5.0, 5.0, 5.0, 5.0]], PHOTO)
    Boxes([[-900.0, -900.0, 9000.0, 9000.0]], PHOTO)
    Boxes.from_normalized([[-1.0, -0.5, 2.0, 1.5]], PHOTO)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_other_libraries_read_the_numbers(rows):
    given = torch.arange(4.0 * rows).reshape(rows, 4)
    boxes = Boxes(given, PHOTO).to(PHOTO.resize((960, 1280)))
    for array in (np.asarray(boxes), np.array(boxes), np.from_dlpack(boxes)):
        assert array.shape == (rows, 4)
        assert array.dtype == np.float32
        assert (array == 2 * given.numpy()).all()
    assert np.asarray(boxes, np.float64).dtype == np.float64
    for tensor in (torch.as_tensor(boxes), torch.asarray(boxes), torch.tensor(boxes)):
        assert torch.equal(tensor, 2 * given)
    assert [one.boxes_xyxy.tolist() for one in boxes] == [[row] for row in (2 * given).tolist()]


def test_an_array_is_of_the_frame_and_has_no_gradient():
    given = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    boxes = Boxes(given, PHOTO)
    assert np.asarray(boxes).tolist() == [[0, 0, 4, 4]]
    copied = np.array(boxes)
    copied[:] = 9
    assert given.tolist() == [[0, 0, 4, 4]]
    with pytest.raises((BufferError, RuntimeError), match="require"):
        torch.as_tensor(boxes)


def test_the_other_spelling_is_the_same():
    fractions = torch.tensor([[0.25, 0.5, 0.5, 1.0]])
    boxes = Boxes.from_normalised(fractions, PHOTO)
    assert boxes.boxes_xyxy.tolist() == [[160, 240, 320, 480]]
    assert torch.equal(boxes.to_normalised(), fractions)
    assert PHOTO.normalise() == PHOTO.normalize()


@pytest.mark.parametrize("target", [None, "x", "", float("nan"), [1], (1, 2), {}, -1, 10**30, Frame], ids=repr)
def test_nothing_but_frames_devices_and_types_is_a_target(target):
    with pytest.raises(
        DtypeError, match=r"^RA505: expected a Frame, a device or a type to convert boxes to; got .*cpu"
    ):
        Boxes([[0, 0, 1, 1]], PHOTO).to(target)


@pytest.mark.parametrize("order", ["x", "XYXY", None, ["xyxy"]], ids=repr)
def test_orders_that_there_are_not(order):
    for call in (Boxes([[0, 0, 1, 1]], PHOTO).to_normalized, lambda o: Boxes.from_normalized([[0, 0, 1, 1]], PHOTO, o)):
        with pytest.raises(BoxesShapeError, match=r"^RA210: expected order, one of xyxy, xywh, cxcywh, yxyx; got"):
            call(order)


@pytest.mark.parametrize("parts", [None, "x", 3, [1], [None], PHOTO], ids=repr)
def test_only_boxes_are_put_together(parts):
    with pytest.raises(BoxesShapeError, match=r"^RA210: expected a list of Boxes; got "):
        Boxes.cat(parts)


@pytest.mark.parametrize("index", [b"x", {}, 1.5, 1j], ids=repr)
def test_an_index_is_of_rows(index):
    with pytest.raises((BoxesShapeError, IndexError), match=r"index|indices"):
        Boxes([[0, 0, 1, 1]], PHOTO)[index]
