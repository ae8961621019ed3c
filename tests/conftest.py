"""The tests that need a GPU are collected where MMK_GPU says that there is one (tests/gpu_places.py)."""

import os
from collections.abc import Iterator

import pytest

collect_ignore_glob = [] if os.environ.get("MMK_GPU") else ["test_gpu*.py"]

if os.environ.get("MMK_GPU") == "1":

    @pytest.fixture(autouse=True)
    def device_is_well() -> Iterator[None]:
        """A kernel that faults is told in its own test. The fault stays in the process, where nothing more can be
        learnt: a worker of pytest-xdist ends and is replaced."""
        yield
        from gpu_places import synchronize

        try:
            synchronize()
        except Exception:
            if "PYTEST_XDIST_WORKER" in os.environ:
                os._exit(1)
            raise


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MMK_PART=i/n keeps every n-th test: processes that share a run where pytest-xdist is not installed."""
    if part := os.environ.get("MMK_PART"):
        i, n = map(int, part.split("/"))
        items[:] = items[i::n]
