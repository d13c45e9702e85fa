"""The calls that are refused: for each the nearest that is not, the error, and what the message says."""

import warnings

import torch

from roialign import errors

NAN, INF = float("nan"), float("inf")
ASTRONOMICAL = 1e30  # adaptive sampling cannot count the cells of a box of this size
MAP = torch.rand(2, 3, 8, 8)
ROIS = torch.tensor([[0.0, 1, 1, 5, 5], [1, 2, 2, 6, 6]])
BOXES = ROIS[:1, 1:]
NESTED = torch.nested.nested_tensor([BOXES, ROIS[:, 1:]], layout=torch.jagged)


def rois_with(row: int, column: int, value: float, dtype=torch.float32) -> torch.Tensor:
    rois = ROIS.to(dtype, copy=True)
    rois[row, column] = value
    return rois


def quantized_map() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in torch
        return torch.quantize_per_tensor(MAP[:1], 0.1, 0, torch.qint8)


REFUSED = [
    # name, bad arguments, the nearest good ones, error, message
    (
        "no tensor",
        {"input": [[1.0]]},
        {"input": MAP},
        errors.FeatureMapError,
        r"RA306: .*\[N, C, H, W\].*got a list of 1\. Pass a torch",
    ),
    (
        "one image",
        {"input": MAP[0]},
        {"input": MAP[0][None], "boxes": [BOXES]},
        errors.FeatureMapError,
        r"RA306: .*float32 tensor \[3, 8, 8\].*input\[None\].*transpose\(1, 2\)\.unflatten",
    ),
    (
        "a vector",
        {"input": MAP[0, 0, 0]},
        {"input": MAP},
        errors.FeatureMapError,
        r"RA306: .*got float32 tensor \[8\]\. Look at the layer",
    ),
    ("five axes", {"input": MAP[None]}, {"input": MAP}, errors.FeatureMapError, r"RA306: .*\[1, 2, 3, 8, 8\]"),
    (
        "no rows",
        {"input": MAP[:, :, :0]},
        {"input": MAP[:, :, :1]},
        errors.FeatureMapError,
        r"RA306: .*H >= 1 and W >= 1.*\[2, 3, 0, 8\]",
    ),
    (
        "no columns",
        {"input": MAP[..., :0]},
        {"input": MAP[..., :1]},
        errors.FeatureMapError,
        r"RA306: .*\[2, 3, 8, 0\]",
    ),
    (
        "integer map",
        {"input": MAP.byte()},
        {"input": MAP.byte().float()},
        errors.DtypeError,
        r"RA505: .*floating-point features .*; got uint8 tensor.*input\.float\(\)",
    ),
    ("complex map", {"input": MAP.to(torch.complex64)}, {"input": MAP}, errors.DtypeError, r"RA505: .*complex64"),
    (
        "float8 map",
        {"input": MAP.to(torch.float8_e4m3fn), "boxes": ROIS.to(torch.float8_e4m3fn)},
        {"input": MAP.half()},
        errors.DtypeError,
        r"RA505: .*float8_e4m3fn",
    ),
    ("sparse map", {"input": MAP.to_sparse()}, {"input": MAP.to_sparse().to_dense()}, errors.RoIError, r"RA\d{3}: .*"),
    (
        "scale zero",
        {"spatial_scale": 0.0},
        {"spatial_scale": 1e-6},
        errors.ScaleError,
        r"RA105: .*got float 0\.0\. It is 1 / stride",
    ),
    (
        "scale negative",
        {"spatial_scale": -0.5},
        {"spatial_scale": 0.5},
        errors.ScaleError,
        r"RA105: .*finite number above zero; got float -0\.5",
    ),
    ("scale NaN", {"spatial_scale": NAN}, {"spatial_scale": 1}, errors.ScaleError, r"RA105: .*got float nan"),
    ("scale infinite", {"spatial_scale": INF}, {"spatial_scale": 100.0}, errors.ScaleError, r"RA105: .*got float inf"),
    ("scale past any float", {"spatial_scale": 10**400}, {"spatial_scale": 10}, errors.ScaleError, r"RA105: "),
    ("scale text", {"spatial_scale": "1/16"}, {"spatial_scale": 1 / 16}, errors.ScaleError, r"RA105: .*got str '1/16'"),
    (
        "ratio a float",
        {"sampling_ratio": 2.0},
        {"sampling_ratio": 2},
        errors.OutputSizeError,
        r"RA506: .*sampling_ratio, an integer.*got float 2\.0\. Use 2, or -1",
    ),
    (
        "ratio a bool",
        {"sampling_ratio": True},
        {"sampling_ratio": 1},
        errors.OutputSizeError,
        r"RA506: .*got bool True|RA506: .*got a bool",
    ),
    (
        "ratio too large",
        {"sampling_ratio": 4097},
        {"sampling_ratio": 64},
        errors.OutputSizeError,
        r"RA506: .*at most \d+; got int 4097",
    ),
    (
        "size zero",
        {"output_size": 0},
        {"output_size": 1},
        errors.OutputSizeError,
        r"RA506: expected output_size.*from 1 to.*got 0\. Use output_size=7",
    ),
    (
        "size negative",
        {"output_size": (2, -1)},
        {"output_size": (2, 1)},
        errors.OutputSizeError,
        r"RA506: .*got \(2, -1\)",
    ),
    (
        "size of three",
        {"output_size": (2, 2, 2)},
        {"output_size": (2, 2)},
        errors.OutputSizeError,
        r"RA506: .*pair \(height, width\).*got \(2, 2, 2\)",
    ),
    ("size a float", {"output_size": 7.0}, {"output_size": 7}, errors.OutputSizeError, r"RA506: .*got 7\.0"),
    (
        "more bins along an axis than float32 counts",
        {"output_size": (2**24 + 1, 1)},
        {"output_size": (2**10, 1)},
        errors.OutputSizeError,
        r"RA506: expected output_size, one integer from 1 to 16777216 .*got \(16777217, 1\)",
    ),
    (
        "more bins than an index has room for",
        {"output_size": 2**16},
        {"output_size": 2**6},
        errors.OutputSizeError,
        r"RA506: expected output_size of at most 2147483647 bins; got 65536",
    ),
    (
        "sparse boxes",
        {"boxes": ROIS.to_sparse()},
        {"boxes": ROIS.to_sparse().to_dense()},
        errors.DtypeError,
        r"RA505: expected dense boxes; got sparse_coo float32 tensor of 2 axes\. Use boxes\.to_dense\(\)",
    ),
    (
        "a list of sparse boxes",
        {"boxes": [BOXES, BOXES.to_sparse()]},
        {"boxes": [BOXES, BOXES]},
        errors.DtypeError,
        r"RA505: expected dense boxes; got sparse_coo",
    ),
    (
        "nested boxes",
        {"boxes": NESTED},
        {"boxes": list(NESTED.unbind())},
        errors.DtypeError,
        r"RA505: expected dense boxes; got nested float32 tensor of 3 axes\. Use list\(boxes\.unbind\(\)\)",
    ),
    (
        "a nested map",
        {"input": torch.nested.nested_tensor(list(MAP), layout=torch.jagged)},
        {"input": MAP},
        errors.DtypeError,
        r"RA505: expected dense features; got nested float32 tensor of 4 axes\. Use torch\.nested\.to_padded_tensor",
    ),
    (
        "a tensor of answers",
        {"aligned": torch.tensor([True, False])},
        {"aligned": torch.tensor(True)},
        errors.OptionError,
        r"RA506: expected aligned, True or False; got bool tensor \[2\]",
    ),
    (
        "a word for an answer",
        {"aligned": "False"},
        {"aligned": False},
        errors.OptionError,
        r"RA506: expected aligned, True or False; got str 'False'",
    ),
    ("size past any int64", {"output_size": 2**70}, {"output_size": 70}, errors.OutputSizeError, r"RA506: "),
    (
        "no boxes",
        {"boxes": None},
        {"boxes": []},
        errors.BoxesShapeError,
        r"RA210: .*\[K, 5\].*\[L, 4\].*got None",
    ),
    (
        "numpy boxes",
        {"boxes": ROIS.numpy()},
        {"boxes": torch.from_numpy(ROIS.numpy())},
        errors.BoxesShapeError,
        r"RA210: .*got a ndarray\. Use torch\.from_numpy\(boxes\)",
    ),
    (
        "numbers",
        {"boxes": [[1.0, 1, 5, 5]]},
        {"boxes": [torch.tensor([[1.0, 1, 5, 5]])]},
        errors.BoxesShapeError,
        r"RA210: .*got a list of 1\. Use torch\.tensor\(boxes\)",
    ),
    (
        "no image index",
        {"boxes": BOXES},
        {"boxes": [BOXES]},
        errors.BoxesShapeError,
        r"RA207: .*float32 tensor \[1, 4\]: the batch index column is missing.*\[boxes\]",
    ),
    (
        "one row",
        {"boxes": ROIS[0]},
        {"boxes": ROIS[0][None]},
        errors.BoxesShapeError,
        r"RA210: .*tensor \[5\]\. Use boxes\[None\] for a single row",
    ),
    (
        "three axes",
        {"boxes": ROIS[None]},
        {"boxes": ROIS[None].reshape(-1, 5)},
        errors.BoxesShapeError,
        r"RA210: .*\[1, 2, 5\]\. Flatten it to rows: boxes\.reshape\(-1, 5\)",
    ),
    (
        "six columns",
        {"boxes": ROIS[:, [0, 0, 1, 2, 3, 4]]},
        {"boxes": ROIS},
        errors.BoxesShapeError,
        r"RA210: .*\[2, 6\]",
    ),
    (
        "index in a list",
        {"boxes": [ROIS]},
        {"boxes": [ROIS[:, 1:]]},
        errors.BoxesShapeError,
        r"RA210: .*\[2, 5\] for image 0\. In a list the position is the batch index",
    ),
    (
        "empty without columns",
        {"boxes": [BOXES, torch.empty(0)]},
        {"boxes": [BOXES, torch.empty(0, 4)]},
        errors.BoxesShapeError,
        r"RA210: .*\[0\] for image 1.*torch\.empty\(0, 4\)",
    ),
    (
        "integer boxes",
        {"boxes": ROIS.long()},
        {"boxes": ROIS.long().float()},
        errors.DtypeError,
        r"RA505: expected floating-point boxes; got int64 tensor \[2, 5\]\. Use boxes\.float\(\)",
    ),
    ("integer list", {"boxes": [BOXES.int()]}, {"boxes": [BOXES]}, errors.DtypeError, r"RA505: .*int32"),
    (
        "wide boxes",
        {"boxes": ROIS.double()},
        {"boxes": ROIS},
        errors.DtypeError,
        r"RA505: expected float32 boxes for float32 features; got float64 tensor.*boxes\.to\(torch\.float32\)",
    ),
    (
        "narrow boxes",
        {"input": MAP.double()},
        {"input": MAP.double(), "boxes": ROIS.double()},
        errors.DtypeError,
        r"RA505: expected float64 boxes for float64 features",
    ),
    (
        "bfloat16 boxes for float16",
        {"input": MAP.half(), "boxes": ROIS.bfloat16()},
        {"input": MAP.half()},
        errors.DtypeError,
        r"RA505: expected float32 boxes for float16 features; got bfloat16",
    ),
    (
        "another device",
        {"boxes": ROIS.to("meta")},
        {"boxes": ROIS},
        errors.DtypeError,
        r'RA505: .*device of the features, cpu; got them on meta\. Use boxes\.to\("cpu"\)',
    ),
    (
        "lists for more images",
        {"boxes": [BOXES] * 3},
        {"boxes": [BOXES] * 2},
        errors.BatchIndexError,
        r"RA208: .*each of the 2 images in the batch; got 3 lists.*\[torch\.cat\(boxes\)\]",
    ),
    (
        "quantized map, float boxes",
        {"input": quantized_map()},
        {"input": quantized_map().dequantize(), "boxes": [BOXES]},
        errors.DtypeError,
        r"RA505: expected quantized boxes.*input\.dequantize\(\)",
    ),
]

BAD_VALUES = [
    # name, bad rois, nearest good ones, error, message, also in a direct call: RA code
    (
        "NaN",
        rois_with(1, 2, NAN),
        ROIS,
        errors.BoxesValueError,
        r"RA205: .*1 unusable rows of 2, the first boxes\[1\] = \[1, 2, nan, 6, 6\]\. Look at",
    ),
    (
        "minus infinite on the far side, which a box of one cell would hide",
        rois_with(1, 3, -INF),
        rois_with(1, 3, -1e6),
        errors.BoxesValueError,
        r"RA205: .*boxes\[1\] = \[1, 2, 2, -inf, 6\]",
    ),
    (
        "infinite",
        rois_with(0, 3, INF),
        rois_with(0, 3, 1e6),
        errors.BoxesValueError,
        r"RA205: .*boxes\[0\] = \[0, 1, 1, inf, 5\].*boxes\[boxes\.isfinite\(\)\.all\(dim=1\)\]",
    ),
    (
        "minus infinity",
        rois_with(0, 1, -INF),
        rois_with(0, 1, -1e6),
        errors.BoxesValueError,
        r"RA205: .*boxes\[0\] = \[0, -inf, 1, 5, 5\]",
    ),
    ("astronomical", rois_with(0, 4, ASTRONOMICAL), rois_with(0, 4, 1e7), errors.BoxesValueError, r"RA205: .*1e\+30"),
    (
        "index too large",
        rois_with(1, 0, 2),
        rois_with(1, 0, 1),
        errors.BatchIndexError,
        r"RA206: .*whole number from 0 to 1; got 1 of 2 rows with another value, the first boxes\[1\] = \[2, 2, 2, 6",
    ),
    (
        "index negative",
        rois_with(0, 0, -1),
        rois_with(0, 0, -0.0),
        errors.BatchIndexError,
        r"RA206: .*boxes\[0\] = \[-1, 1, 1, 5, 5\]",
    ),
    (
        "index a fraction",
        rois_with(0, 0, 0.5),
        rois_with(0, 0, 1.0),
        errors.BatchIndexError,
        r"RA206: .*\[0\.5, 1, 1, 5, 5\]",
    ),
    ("index NaN", rois_with(0, 0, NAN), ROIS, errors.BatchIndexError, r"RA206: .*\[nan, 1, 1, 5, 5\]"),
    ("index enormous", rois_with(0, 0, 1e9), ROIS, errors.BatchIndexError, r"RA206: .*\[1e\+09, 1, 1, 5, 5\]"),
]


BAD_DIRECT = [
    ("scale zero", {"scale": 0.0}, "RA105"),
    ("scale negative", {"scale": -1.0}, "RA105"),
    ("scale NaN", {"scale": NAN}, "RA105"),
    ("ratio too large", {"ratio": 5000, "rois": ROIS + torch.tensor([0.0, 99, 99, 99, 99])}, "RA506"),
    ("size zero", {"size": (0, 2)}, "RA506"),
    ("no rows in the map", {"input": MAP[:, :, :0]}, "RA306"),
    ("four columns", {"rois": ROIS[:, 1:]}, "RA2"),
    ("another type", {"rois": ROIS.double()}, "RA505"),
]
