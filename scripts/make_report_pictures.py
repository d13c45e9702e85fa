"""Takes the pictures of the demo in docs/assets: its report, the figure in it, and its trees. Needs Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "docs" / "assets"
WINDOW_PX = {"width": 1100, "height": 1300}
REPORT_HEIGHT_PX = 1124  # down to the legend below the two panels


def take_report(page: Page, path: Path) -> None:
    box = page.locator("article").first.bounding_box()
    assert box is not None
    clip = {"x": box["x"], "y": box["y"], "width": box["width"], "height": REPORT_HEIGHT_PX}
    page.screenshot(path=path, clip=clip, full_page=True)
    shrink(path)


def shrink(path: Path) -> None:
    """To 256 colours: a third of the size."""
    Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path, optimize=True)


def take_figure(page: Page, path: Path) -> None:
    """With the fix, and near by: `aligned=False` reads half a cell off the box."""
    figure = page.locator(".playground").first
    figure.get_by_role("button", name="With the fix").click()
    figure.locator("[data-part=row]").select_option(label="row 24")
    figure.locator("[data-part=zoom]").check()
    page.wait_for_timeout(500)
    figure.screenshot(path=path, type="jpeg", quality=85)


def main() -> None:
    chromium = os.environ.get("ROIALIGN_TEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("expected Chromium, on the path or named by ROIALIGN_TEST_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        demo = [sys.executable, "examples/demo/run.py", "--out", folder]
        subprocess.run(demo, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WINDOW_PX)
        page.goto((Path(folder) / "report.html").as_uri())
        take_report(page, ASSETS / "report.png")
        take_figure(page, ASSETS / "playground.jpg")
        shutil.copy(Path(folder) / "trees.png", ASSETS / "trees.png")
        shrink(ASSETS / "trees.png")
        browser.close()
    print("docs/assets: report.png, playground.jpg, trees.png")


if __name__ == "__main__":
    main()
