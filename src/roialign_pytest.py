"""The pytest plugin: `pytest --roialign` fails the tests that make faulty RoI calls.

pytest imports the plugins of all installed packages at each start. This module is therefore next to the package,
whose import loads torch, and loads the rest only with the option.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("roialign", "RoI calls")
    group.addoption(
        "--roialign",
        action="store_true",
        default=False,
        help="examine every RoI call; tests whose calls have errors fail, warnings are listed at the end",
    )
    group.addoption(
        "--roialign-strict",
        action="store_true",
        default=False,
        help="like --roialign, but warnings fail the test, too",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        'roi_ok(*codes, reason=""): under --roialign, RoI calls of this test may have these codes of roialign, or '
        "codes with these prefixes; all codes if none is given.",
    )
    strict = bool(config.getoption("--roialign-strict"))
    if strict or config.getoption("--roialign"):
        from roialign.integrations.pytest_plugin import SuiteWatch

        config.pluginmanager.register(SuiteWatch(strict), "roialign-watch")
