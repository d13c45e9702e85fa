"""The operator tests pool boxes that lie off the map on purpose; `test_notice.py` tests what is said of those."""

import shutil
from collections.abc import Iterator

import pytest

import roialign
from roialign.ops import backends


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests marked `kernels` need the C++ kernels: without them they fail, unless nothing could build them here."""
    marked = item.get_closest_marker("kernels") is not None
    if marked and backends.of_device("cpu") is None and shutil.which("g++") is None:
        pytest.skip("there is no g++ to build the C++ kernels with")


@pytest.fixture(autouse=True)
def no_notice() -> Iterator[None]:
    with roialign.set_policy("ignore"):
        yield
