"""A real Chromium for the tests that drive the report page; without one they are skipped."""

import os
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    chromium = os.environ.get("ROIALIGN_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("needs Chromium, on the path or named by ROIALIGN_TEST_CHROMIUM")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def show(browser, tmp_path):
    """Opens a report, and at the end holds that nothing was said, fetched, or asked."""
    contexts, heard = [], []

    def open_page(report, width=1280, **options):
        path = tmp_path / f"report-{len(contexts)}.html"
        report.save(path)
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}") or dialog.dismiss())
        own = path.as_uri()
        page.on("request", lambda request: request.url.startswith((own, "data:")) or heard.append(request.url))
        page.goto(own)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []
