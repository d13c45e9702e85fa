"""The operator tests pool boxes that lie off the map on purpose; `test_notice.py` tests what is said of those."""

from collections.abc import Iterator

import pytest

import roialign


@pytest.fixture(autouse=True)
def no_notice() -> Iterator[None]:
    with roialign.set_policy("ignore"):
        yield
