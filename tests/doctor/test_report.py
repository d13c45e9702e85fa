import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import torch
from rich.console import Console

from roialign.doctor.findings import Diagnosis, Finding, Fix, Report
from roialign.doctor.report.exhibit import MAX_OUTLINES, MAX_ROWS, MAX_SAMPLES, Exhibit, read_cells_xyxy
from roialign.doctor.report.page import as_html
from roialign.doctor.report.terminal import as_text, render
from roialign.ops.reference.sampling import AxisRule, AxisSamples
from roialign.ops.roi_align import as_call

PASTE = "roi_align(features, boxes, output_size=7, spatial_scale=1 / 16)"
HOSTILE = """<script>alert("1")</script>'&{{ 7 * 7 }}[bold]\x1b[31m\u202e"""
NAN, INF = float("nan"), float("inf")
OUR_SCRIPTS = [{"type": "application/json", "id": "figures"}, {"type": "module"}]
VOID = {"meta", "link", "img", "br", "hr", "input"}


def call_of(
    boxes=((100, 100, 200, 200), (300, 300, 400, 400)), shape=(1, 4, 64, 64), scale=1.0, ratio=-1, aligned=False
):
    generator = torch.Generator().manual_seed(0)
    boxes_xyxy = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return as_call(torch.rand(shape, generator=generator), [boxes_xyxy], 7, scale, ratio, aligned)


def fix_of(call, scale=1 / 16, code=PASTE):
    fixed = call.with_(spatial_scale=scale)
    return Fix("spatial_scale", scale, code, 0.0, 1.0, fixed)


def diagnosis_of(call=None, rows=(), fix=None, coverage="run", image=None, site="detector.py:12", **words):
    if call is not None and isinstance(coverage, str):
        coverage = call.coverage()
    finding = Finding("RA101", words.pop("evidence", "All samples are off the map."), tuple(rows), fix, **words)
    return Diagnosis((finding,), None if isinstance(coverage, str) else coverage, call).at(site, image)


def report_of(*args, **kwargs):
    return Report((diagnosis_of(*args, **kwargs),))


@pytest.fixture
def report():
    call = call_of()
    return report_of(call, (0, 1), fix_of(call), alternatives=(fix_of(call, 1 / 8, PASTE.replace("16", "8")),))


def exhibit_of(report):
    return Exhibit.of(report.problems[0])


class Tags(HTMLParser):
    """Collects start tags with their attributes and holds that all are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def of(self, tag, kind=None):
        return [attrs for name, attrs in self.seen if name == tag and kind in (None, attrs.get("class"))]


def test_text_says_what_is_wrong_how_it_is_known_and_what_to_type(report):
    lines = as_text(report).splitlines()
    assert lines[0] == "1 RoI call examined: 1 error."
    assert "RA101 error: boxes in image pixels, spatial_scale left at 1" in lines
    assert f"    {PASTE}" in lines
    text = " ".join(" ".join(lines).split())
    for words in (
        "where detector.py:12",
        "2 RoIs on features [1, 4, 64, 64], output_size=(7, 7), spatial_scale=1,",
        "evidence All samples are off the map.",
        "row 1: box (300, 300, 400, 400) of image 0, coverage 0.00",
        "coverage 0.00 -> 1.00 when run again with it",
        "also fits roi_align(features, boxes, output_size=7, spatial_scale=1 / 8) (coverage 0.00 -> 1.00)",
        "roialign explain RA101",
    ):
        assert words in text


@pytest.mark.parametrize("width", [40, 80, 100])
def test_text_keeps_to_the_width(width):
    call = call_of(torch.rand(100, 4) * 1e5)
    site = "/a/very/long/path/" * 8 + "detector.py:12"
    report = report_of(call, range(100), site=site, evidence="word " * 90, decide="longword" * 30)
    text = as_text(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert "and 97 more" in text


def test_text_counts_calls_of_one_problem(report):
    text = as_text(Report(report.calls * 3 + (Diagnosis((), None),)))
    assert text.count("RA101 error") == 1
    assert "detector.py:12, in 3 of 4 calls examined" in text


@pytest.mark.parametrize("length", [70, 79, 80])
def test_a_line_to_paste_that_fits_is_whole(length):
    code = "roi_align(features, " + "b" * (length - 21) + ")"
    assert code in [
        line.strip() for line in as_text(report_of(call_of(), fix=fix_of(call_of(), code=code))).splitlines()
    ]


def test_a_longer_line_to_paste_is_cut_between_arguments():
    code = f"roi_align(features, boxes, output_size=7, note='a, b', {'spatial_scale=1 / 16, ' * 1}{'x' * 30}=1)"
    text = as_text(report_of(call_of(), fix=fix_of(call_of(), code=code)))
    pasted = text.split("paste this, with your names for features and boxes:\n")[1].split("coverage")[0].strip()
    assert max(map(len, text.splitlines())) <= 80
    assert len(pasted.splitlines()) == 2
    assert "".join(pasted.split()) == "".join(code.split())


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("roi_align(features, boxes, output_size=7)", "paste this, with your names for features and boxes:"),
        ("boxes = [b / 16 for b in boxes]", "paste this, with your name for boxes:"),
        ("pooler.scales = None", "paste this:"),
    ],
)
def test_names_that_stand_for_others_are_said(code, words):
    report = report_of(call_of(), fix=fix_of(call_of(), code=code))
    assert words in as_text(report)
    assert f"<h3>{words.capitalize().removesuffix(':')}</h3>" in as_html(report)


def test_a_longer_line_that_cannot_be_cut_is_left_alone():
    code = "features = " + ", ".join(["features"] * 12)
    assert code in as_text(report_of(call_of(), fix=fix_of(call_of(), code=code)))


def test_text_of_nothing_wrong():
    assert as_text(Report((Diagnosis((), None),) * 3)) == "3 RoI calls examined, nothing wrong."
    assert as_text(Report((Diagnosis((), None),))) == "1 RoI call examined, nothing wrong."
    assert as_text(Report(())).startswith("0 RoI calls examined")


def test_text_holds_no_control_characters_and_reads_no_markup():
    text = str(report_of(evidence=HOSTILE, site=HOSTILE, decide=HOSTILE, fix=fix_of(call_of(), code=HOSTILE)))
    assert text.count("[bold]") == 4
    assert text.replace("\n", "").isprintable()


def test_render_colours_a_console(report, capsys):
    console = Console(force_terminal=True, color_system="truecolor", width=200)
    render(report, console)
    assert f"\x1b[1;32m    {PASTE}" in capsys.readouterr().out


def test_page_shows_the_problem(report):
    page = as_html(report)
    for words in ("RA101", "Boxes in image pixels, spatial_scale left at 1", "detector.py:12", PASTE, "0.00 → 1.00"):
        assert words in page
    tags = Tags(page)
    assert [attrs["aria-label"].split(":")[0] for attrs in tags.of("svg") if attrs.get("role") == "img"] == [
        "As called",
        "With the fix",
    ]
    assert len(tags.of("path", "called")) == 2 + 2  # the legends have one each
    assert len(tags.of("path", "meant")) == 2 + 1
    assert len(tags.of("figure", "panel")) == len(tags.of("use", "energy")) == 2


def test_page_is_self_contained(report, tmp_path):
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://(?!www.w3.org/2000/svg\b)|@import|url\((?!#)| style=| on[a-z]+=", page)
    for _, attrs in Tags(page).seen:
        for name, value in attrs.items():
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:", "#"))


def test_page_escapes_everything():
    call = call_of()
    fix = fix_of(call, code=HOSTILE)
    page = as_html(report_of(call, (0,), fix, evidence=HOSTILE, site=HOSTILE, decide=HOSTILE, alternatives=(fix,)))
    assert Tags(page).of("script") == OUR_SCRIPTS
    assert "49[bold]" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_page_of_an_undecodable_path(tmp_path):
    report_of(call_of(), site="caf\udce9.py:1").save(tmp_path / "report.html")
    assert "caf" in (tmp_path / "report.html").read_text(encoding="utf-8")


def picture_with_things():
    """An image [3, 256, 256], and the boxes of the things in it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 256, 256, generator=generator) / 4
    boxes = torch.tensor([[16.0, 32, 112, 64], [144, 16, 176, 96], [32, 112, 80, 224], [128, 176, 224, 208]])
    for x1, y1, x2, y2 in boxes.int().tolist():
        image[:, y1:y2, x1:x2] += 0.6
    return image, boxes


def test_panels_say_that_the_boxes_with_the_fix_follow_the_picture():
    image, boxes = picture_with_things()
    called = call_of(boxes[:, [1, 0, 3, 2]], (1, 4, 64, 64), 1 / 4, aligned=True)
    right = call_of(boxes, (1, 4, 64, 64), 1 / 4, aligned=True)
    fix = Fix("boxes", None, "boxes = boxes[:, [1, 0, 3, 2]]", 1.0, 1.0, right)
    panels = exhibit_of(report_of(called, (0,), fix, image=image)).panels
    assert [panel.name for panel in panels] == ["As called", "With the fix, as they follow the picture"]
    assert panels[0].likelier is None
    assert panels[1].likelier > 20
    assert "These boxes follow the edges of the image" in as_html(report_of(called, (0,), fix, image=image))


def test_panels_say_nothing_of_the_picture_where_it_tells_nothing():
    image, boxes = picture_with_things()
    called, right = (call_of(some, (1, 4, 64, 64), 1 / 4, aligned=True) for some in (boxes, boxes[:, [1, 0, 3, 2]]))
    wrong_fix = Fix("boxes", None, "boxes = boxes[:, [1, 0, 3, 2]]", 1.0, 1.0, right)
    for shown in (image, torch.full((3, 256, 256), 0.5)):
        panels = exhibit_of(report_of(called, (0,), wrong_fix, image=shown)).panels
        assert [(panel.name, panel.likelier) for panel in panels] == [("As called", None), ("With the fix", None)]


def test_page_of_nothing_wrong():
    page = as_html(Report((Diagnosis((), torch.ones(2), call_of()),) * 2))
    assert "2 RoI calls examined, nothing wrong." in page
    assert not Tags(page).of("article")
    assert "0 RoI calls examined" in as_html(Report(()))


def test_page_of_arguments_that_make_no_call():
    tags = Tags(as_html(report_of(None, (3,), decide="Pass a list: [boxes].")))
    assert not tags.of("figure")
    assert len(tags.of("article")) == 1


def test_page_of_arguments_that_make_no_call_with_a_fix():
    panels = exhibit_of(report_of(None, (0,), fix_of(call_of()))).panels
    assert [panel.name for panel in panels] == ["With the fix"]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("aligned", [False, True])
def test_boxes_that_cannot_be_sampled_are_told_not_drawn(bad, aligned):
    call = call_of([(bad, 0, 10, 10), (1, 1, 9, 9)], aligned=aligned)
    report = report_of(call, (0,), fix_of(call), coverage=None)
    exhibit = exhibit_of(report)
    assert [panel.undrawable for panel in exhibit.panels] == [1, 1]
    assert [outline.row for outline in exhibit.panels[0].reads] == [1]
    assert exhibit.rows[0].coverage_after is None
    page = as_html(report)
    assert not any(re.search("nan|inf", attrs["d"]) for attrs in Tags(page).of("path"))
    assert "1 RoI without finite coordinates cannot be drawn." in page
    assert f"row 0: box ({bad}, 0, 10, 10)" in as_text(report)


@pytest.mark.parametrize("aligned", [False, True])
def test_astronomic_boxes_are_pointed_at(aligned):
    call = call_of([(1e30, 0, 2e30, 10), (1, 1, 9, 9)], aligned=aligned)
    report = report_of(call, (0,), fix_of(call), coverage=None)
    assert "lies off the picture" in as_html(report)
    assert not any("e+" in attrs["d"] for attrs in Tags(as_html(report)).of("path"))


@pytest.mark.parametrize("image", [NAN, -1.0, 5.0, 0.5])
def test_a_bad_image_index_is_told(image):
    call = call_of()
    rois = call.rois.clone()
    rois[0, 0] = image
    report = report_of(call.with_(rois=rois), (0,), fix_of(call), coverage=None)
    assert Tags(as_html(report)).of("article")
    assert as_text(report)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 4, 1, 300), (1, 4, 300, 1), (1, 0, 5, 5), (1, 3, 700, 900)])
def test_maps_of_all_shapes(shape):
    call = call_of(shape=shape)
    x1, y1, x2, y2 = exhibit_of(report_of(call, (0, 1), fix_of(call))).panels[0].view_xyxy
    assert 0.25 <= (y2 - y1) / (x2 - x1) <= 1.34
    Tags(as_html(report_of(call, (0, 1), fix_of(call))))


def test_no_boxes():
    call = call_of([])
    page = as_html(report_of(call, (), fix_of(call)))
    assert not Tags(page).of("table", "rois")


def test_thousands_of_rois_are_cut_and_counted():
    boxes = torch.rand(3000, 4) * 900
    rois = torch.cat([torch.arange(3000)[:, None] % 2, boxes], dim=1)
    call = as_call(torch.rand(2, 3, 50, 60), rois, 7, 1.0, 2, True)
    report = report_of(call, range(1, 3000), fix_of(call))
    exhibit = exhibit_of(report)
    assert len(exhibit.panels[0].reads) == MAX_OUTLINES
    assert {outline.row % 2 for outline in exhibit.panels[0].reads} == {1} == {exhibit.panels[0].image}
    assert (len(exhibit.rows), exhibit.rows_left_out) == (MAX_ROWS, 2999 - MAX_ROWS)
    assert sum(bar.before for bar in exhibit.histogram) == 3000
    page = as_html(report)
    assert "Drawn: 60 of 3000 RoIs, all of image 1." in page
    assert "2899 more are left out." in page


def test_concerned_rois_come_first():
    panel = exhibit_of(report_of(call_of(torch.rand(100, 4) * 64), (90, 7))).panels[0]
    assert [outline.row for outline in panel.reads][:3] == [90, 7, 0]
    assert [outline.concerned for outline in panel.reads][:3] == [True, True, False]


def test_rows_that_the_call_does_not_have_are_left_out(report):
    call = call_of()
    assert [row.row for row in exhibit_of(report_of(call, (1, 99, -1))).rows] == [1]


@pytest.mark.parametrize("aligned", [False, True])
def test_outlines_and_samples_are_those_of_the_operator(aligned):
    call = call_of([(8, 16, 200, 100), (40, 40, 41, 41)], scale=1 / 8, ratio=2, aligned=aligned)
    panel = exhibit_of(report_of(call, (0,))).panels[0]
    offset = 0.5 if aligned else 0.0
    assert panel.reads[0].cells_xyxy == (1 - offset, 2 - offset, 25 - offset, 12.5 - offset)
    least = 1 / 8 if aligned else 1.0
    assert read_cells_xyxy(call)[1].tolist() == [5 - offset, 5 - offset, 5 - offset + least, 5 - offset + least]
    rule = AxisRule.of_scale(1 / 8, 2, aligned)
    samples = AxisSamples.of_boxes(call.rois[:1, 1], call.rois[:1, 3], 7, rule)
    x = samples.positions(torch.arange(2))
    assert sorted({point[0] for point in panel.samples_xy}) == x.flatten().tolist()
    assert len(panel.samples_xy) == 14 * 14


def test_too_many_samples_are_not_drawn():
    call = call_of([(0, 0, 64, 64)], ratio=8)
    assert MAX_SAMPLES < 56 * 56
    assert exhibit_of(report_of(call, (0,))).panels[0].samples_xy == ()


def test_the_view_holds_map_and_rois():
    call = call_of([(-30, 500, 1000, 700)])
    left, top, right, bottom = exhibit_of(report_of(call, (0,), fix_of(call))).panels[0].view_xyxy
    assert left <= -30
    assert top <= -0.5
    assert right >= 1000
    assert bottom >= 700


def test_rois_far_off_are_pointed_at():
    call = call_of([(4800, 3200, 6000, 3300), (10, 10, 20, 20)])
    report = report_of(call, (0,), fix_of(call))
    panel = exhibit_of(report).panels[0]
    assert panel.view_xyxy[2] < 200
    assert [outline.row for outline in panel.far] == [0]
    page = as_html(report)
    assert "Reads cells (10, 10) to (6000, 3300); the map ends at cell (63, 63)." in page
    assert "Row 0, at cells (4800, 3200) to (6000, 3300), lies off the picture, where the arrow points." in page
    assert "marker-end" in page


def test_a_fix_that_drops_rows_or_changes_the_map_is_drawn_on_its_own():
    call = call_of()
    dropped = Fix("boxes", None, "boxes = boxes[:1]", 0.0, 1.0, call.with_(rois=call.rois[:1]))
    other_map = Fix("input", None, "features.mT", 0.0, 1.0, call.with_(input=call.input[:, :, :32]))
    for fix in (dropped, other_map):
        exhibit = exhibit_of(report_of(call, (1,), fix))
        assert exhibit.panels[0].meant == ()
        assert len(exhibit.panels[1].reads) == len(fix.call.rois)


def test_the_histogram_sets_zero_and_one_apart():
    call = call_of(torch.zeros(6, 4))
    coverage = torch.tensor([0.0, 1e-3, 0.2, 0.999, 1.0, 1.0])
    histogram = exhibit_of(report_of(call, coverage=coverage)).histogram
    assert [bar.before for bar in histogram] == [1, 1, 1, 0, 0, 1, 2]
    assert {bar.after for bar in histogram} == {None}


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 300, 200, dtype=torch.uint8),
        torch.rand(3, 1300, 900) * 5 - 2,
        torch.full((1, 8, 8), NAN),
        torch.rand(3, 1, 4000).half(),
    ],
)
def test_the_image_lies_under_the_map(image):
    report = report_of(call_of(), (0,), fix_of(call_of()), image=image)
    panels = exhibit_of(report).panels
    assert all(panel.shows_image and panel.picture.startswith("data:image/jpeg;base64,") for panel in panels)
    tags = Tags(as_html(report))
    assert len(tags.of("image")) == 1
    assert len(tags.of("use", "photo")) == 2


@pytest.mark.parametrize("image", [torch.rand(4, 8, 8), torch.rand(8, 8), torch.rand(3, 0, 8)])
def test_what_is_no_image_gives_way_to_the_features(image):
    panel = exhibit_of(report_of(call_of(), (0,), image=image)).panels[0]
    assert not panel.shows_image
    assert panel.picture.startswith("data:image/png;base64,")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_types_of_features(dtype):
    features = torch.rand(1, 4, 8, 8, dtype=dtype).index_fill(3, torch.tensor(2), NAN)
    call = as_call(features, [torch.rand(2, 4, dtype=dtype) * 99], 7, 1.0, -1, False)
    assert exhibit_of(report_of(call, (0,), fix_of(call))).panels[0].picture


def test_importing_the_library_imports_nothing_for_reports():
    code = "import sys, roialign; print([name for name in ('jinja2', 'PIL', 'rich') if name in sys.modules])"
    plain = "import sys, torch; print([name for name in ('jinja2', 'PIL', 'rich') if name in sys.modules])"
    runs = [subprocess.run([sys.executable, "-c", line], capture_output=True, text=True) for line in (code, plain)]
    assert runs[0].stdout == runs[1].stdout != ""
