"""The report page as a whole, in a real Chromium: quiet, safe, sortable, readable."""

import pytest
import torch

from roialign.doctor.findings import Diagnosis, Finding, Fix, Report
from roialign.ops.roi_align import as_call
from tests.doctor.driven import BOXES, FEATURES, IMAGE, SCRIPTS, choose, part, report_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"{{ 7 * 7 }}"


def test_the_table_sorts_by_mouse_and_by_keyboard(show):
    page = show(report_of(boxes=torch.cat([BOXES, BOXES[:1] + 300])))
    table = page.locator("article table.sortable").first

    def column(place):
        return [float(text) for text in table.locator(f"tbody tr > :nth-child({place})").all_inner_texts()]

    header = table.get_by_role("columnheader", name="x1")
    assert column(1) == [0, 1, 2, 3]
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(3) == [4, 60, 250, 360]
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert column(3) == [360, 250, 60, 4]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    assert column(1) == [0, 1, 2, 3]
    assert header.get_attribute("aria-sort") == "none"


def test_words_and_unknown_numbers_sort_too(browser):
    page = browser.new_page()
    page.add_script_tag(content=(SCRIPTS / "table.js").read_text())
    script = "([values, way]) => values.sort((a, b) => compareCells(a, b, way))"
    assert page.evaluate(script, [["nan", "10", "9", "-Infinity", "0.5"], 1]) == ["-Infinity", "0.5", "9", "10", "nan"]
    assert page.evaluate(script, [["nan", "10", "9", "Infinity"], -1]) == ["Infinity", "10", "9", "nan"]
    assert page.evaluate(script, [["b.py:10", "b.py:9", "a.py:1"], 1]) == ["a.py:1", "b.py:9", "b.py:10"]
    page.close()


def test_nothing_is_wider_than_the_screen(show):
    page = show(report_of(site="/a/very/long/path/" * 8 + "detector.py:12"), width=360)
    for width in (360, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('.scroll')].every(box => box.tabIndex === 0)")


CONTRAST = """() => {
  const parse = text => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const shown = element.checkVisibility() && !element.closest("script, title");
    if (!shown || !walker.currentNode.data.trim()) continue;
    const svg = element.closest("svg") !== null;
    const style = getComputedStyle(element);
    let under = svg ? element.ownerSVGElement.querySelector(".canvas") : element;
    const fill = node => svg ? getComputedStyle(node).fill : getComputedStyle(node).backgroundColor;
    while (!svg && under && (parse(fill(under))[3] === 0)) under = under.parentElement;
    const [a, b] = [svg ? style.fill : style.color, fill(under ?? document.body)].map(text => light(parse(text)));
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.className, walker.currentNode.data.trim()]);
  }
  return found.sort((a, b) => a[0] - b[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_in_dark(show, scheme):
    features = FEATURES.clone()
    features[0, 2, 4:6, 6:9] = float("nan")
    page = show(report_of(features), color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    part(page, "spatial_scale").fill("none")
    lowest = page.evaluate(CONTRAST)
    choose(page, "With the fix")
    lowest += page.evaluate(CONTRAST)
    assert len(lowest) > 200
    assert {"NaN", "As called", "Type a number above zero, such as 0.0625 or 1/16."} <= {text for *_, text in lowest}
    assert min(lowest)[0] >= 4.5, min(lowest)


def test_focus_is_seen_and_the_skip_link_leads_to_the_problems(show):
    page = show(report_of())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for selector in ("header", "main", "footer", "h1"):
        assert page.locator(selector).count() == 1
    unnamed = "[...document.querySelectorAll('input, select')].filter(control => !control.labels.length).length"
    assert page.evaluate(unnamed) == 0


def test_nothing_from_the_program_runs(show):
    call = as_call(FEATURES, [BOXES], 7, 1.0, 2, False)
    fix = Fix("spatial_scale", 1 / 16, HOSTILE, 0.0, 1.0, call.with_(spatial_scale=1 / 16))
    finding = Finding("RA101", HOSTILE, (0,), fix, (fix,), HOSTILE)
    page = show(Report((Diagnosis((finding,), call.coverage(), call).at(HOSTILE, IMAGE),)))
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert part(page, "coverage").inner_text() == "Coverage 0.00"


def test_the_page_can_be_read_without_scripts(show):
    page = show(report_of(), java_script_enabled=False)
    assert page.get_by_text("With JavaScript there is an interactive figure here").is_visible()
    assert not page.locator(".playground").is_visible()
    assert page.locator("article tbody tr").count() > 3
    assert page.locator(".pick:visible").count() == 0


def test_many_problems_open_fast(show):
    first = report_of().calls[0]
    page = show(Report(tuple(first.at(f"model/head_{place}.py:{place}", IMAGE) for place in range(55))))
    assert page.locator("article").count() == 50
    assert page.get_by_role("region", name="Further problems").locator("tbody tr").count() == 5
    took = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert took < 10_000  # a second or two, on a machine with other work
    assert page.evaluate("performance.getEntriesByType('navigation')[0].decodedBodySize") < 4_000_000
    assert page.locator("defs image").count() == 1
