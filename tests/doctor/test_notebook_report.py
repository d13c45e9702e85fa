"""A report as a notebook shows it: its words, its size, strangers' strings, light and dark pages."""

import base64
import html
import re

import pytest
import torch

import roialign
from roialign.doctor.findings import Diagnosis, Finding, Fix, Report
from roialign.doctor.report.notebook import MOST_BYTES
from roialign.doctor.watch.log import CallLog, LiveReport
from roialign.ops.roi_align import as_call
from tests.doctor.driven import BOXES, FEATURES, IMAGE, report_of
from tests.doctor.test_page import HOSTILE

TAG = re.compile(r"<(/?)([a-z0-9]+)((?: [a-z]+=\"[^\"<>]*\")*)>")

CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    if (!walker.currentNode.data.trim()) continue;
    const styles = [];
    for (let node = walker.currentNode.parentElement; node !== document.documentElement; node = node.parentElement)
      styles.unshift(getComputedStyle(node));
    const under = styles.reduce((below, style) => over(parse(style.backgroundColor), below), [255, 255, 255]);
    const opacity = styles.reduce((product, style) => product * style.opacity, 1);
    const [a, b] = [over([...parse(styles.at(-1).color).slice(0, 3), opacity], under), under].map(light);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


def picture_in(shown):
    """The SVG of a report's only picture."""
    [uri] = re.findall(r'<img [^>]*src="data:image/svg\+xml;base64,([^"]*)"', shown)
    return base64.b64decode(uri).decode()


def with_strings(text, boxes=BOXES, features=FEATURES):
    """A diagnosis in which every string that a stranger could have written is `text`."""
    call = as_call(features, [boxes], 7, 1.0, 2, False)
    fix = Fix("spatial_scale", 1 / 16, text, 0.0, 1.0, call.with_(spatial_scale=1 / 16))
    finding = Finding("RA101", text, (0,), fix, (fix,) * 5, text)
    return Diagnosis((finding,), call.coverage(), call).at(text, IMAGE)


def test_words_line_and_picture():
    shown = report_of()._repr_html_()
    assert "1 RoI call examined: 1 error." in shown
    assert "RA101 error" in shown
    assert "detector.py:12" in shown
    assert "roi_align(features, boxes, output_size=7, spatial_scale=0.0625, sampling_ratio=2)" in shown
    svg = picture_in(shown)
    assert ">As called<" in svg
    assert ">With the fix<" in svg
    assert svg.count("data:image/jpeg;base64,") == 1  # the image, for both panels
    assert svg.count('<use href="#picture-0"') == 2
    alternative = html.unescape(re.search(r'<img alt="([^"]*)"', shown)[1])
    assert "As called: Reads cells (4, 8) to (310, 250); the map ends at cell (19, 15)." in alternative


def test_a_diagnosis_is_shown_as_a_report_of_one_call():
    [diagnosis] = report_of().calls
    assert diagnosis._repr_html_() == Report((diagnosis,))._repr_html_()


def test_what_is_healthy_is_said_in_a_line():
    with roialign.watch() as report:
        roialign.roi_align(FEATURES, [BOXES / 16], 7)
    shown = report._repr_html_()
    assert "1 RoI call examined, nothing wrong." in shown
    assert "<img" not in shown
    assert "none was seen" in Report(())._repr_html_()


def test_a_call_that_none_could_make_is_shown_too():
    diagnosis = roialign.diagnose(FEATURES, [torch.tensor([[0.0, 1.0, float("nan"), 3.0]])], 7, sampling_ratio=2)
    assert "RA205 error" in diagnosis._repr_html_()
    diagnosis = roialign.diagnose(FEATURES, "boxes", 7)
    assert not diagnosis.ok
    assert "<img" not in diagnosis._repr_html_()


@pytest.mark.parametrize("text", [HOSTILE, '"><script>alert(1)</script>', "\u202e\x00\x1b[31m\ud800&lt;"])
def test_strangers_strings_stay_strings(text):
    shown = Report((with_strings(text),))._repr_html_()
    shown.encode()  # no half characters, which no notebook could store
    tags = TAG.findall(shown)
    assert TAG.sub("", shown).count("<") == TAG.sub("", shown).count(">") == 0
    assert {name for _, name, _ in tags} <= {"div", "p", "span", "b", "pre", "code", "img"}
    attributes = {name for *_, given in tags for name in re.findall(r" ([a-z]+)=", given)}
    assert attributes <= {"style", "src", "alt"}
    said = html.unescape(TAG.sub("", shown))
    assert text.strip() in said or "\\u202e\\x00\\x1b[31m\\ud800&lt;" in said
    assert "<script" not in picture_in(shown)


@pytest.mark.parametrize("sign", ["a", "'", "\u00e9", "\U0001f600", "\n"])
def test_the_size_is_bounded(sign):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(20_000, 2, generator=generator) * 900
    boxes = torch.cat([corners, corners + 50], 1)
    features = torch.randn(1, 2, 900, 700, generator=generator)
    image = torch.rand(3, 1500, 1500, generator=generator)  # noise, which no format makes small
    first = with_strings(sign * 100_000, boxes, features)
    for seen in (None, image):
        calls = [first.at(sign * 50_000 + str(place), seen) for place in range(12)]
        shown = Report(tuple(calls))._repr_html_()
        assert 50_000 < len(shown.encode()) <= MOST_BYTES
        assert shown.count("RA101 error") == 5
        assert "7 more problems" in shown
        assert 'href="data:image/' in picture_in(shown)


def test_no_style_reaches_another_cell():
    shown = report_of()._repr_html_()
    assert not re.search(r"<(style|script|link|svg)|\b(id|class|on[a-z]+)=", shown)
    styles = " ".join(re.findall(r'style="([^"]*)"', shown))
    assert "position" not in styles
    colours = set(re.findall(r"(?<![\w-])color:([^;\"]*)", shown))
    assert colours <= {"inherit", "#fff"}  # white stands on the colour of a severity


@pytest.mark.parametrize("page", ["color: #212121; background: #fff", "color: #dedede; background: #111"])
def test_text_stands_out_in_light_and_in_dark_notebooks(browser, page):
    tab = browser.new_page(viewport={"width": 900, "height": 900})
    tab.set_content(f'<body style="{page}">{report_of()._repr_html_()}</body>')
    lowest = tab.evaluate(CONTRAST)
    assert len(lowest) > 10
    assert min(lowest)[0] >= 4.5, min(lowest)
    assert tab.evaluate("document.querySelector('img').naturalWidth") == 996
    assert tab.evaluate("document.documentElement.scrollWidth") <= 900
    tab.close()


def test_a_report_that_still_fills_is_shown_as_it_is_now():
    log, waits = CallLog(), []
    report = LiveReport(log, lambda: waits.append(1), lambda: None)
    assert "none was seen" in report._repr_html_()
    log.add(report_of().calls[0])
    waits.clear()
    assert "1 RoI call examined: 1 error." in report._repr_html_()
    assert len(waits) == 1  # one look: a program that goes on does not change the report halfway
