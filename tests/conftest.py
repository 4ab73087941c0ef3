"""What several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import cpu_threads  # noqa: F401 (before torch)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository, or the one that T5_SHARED_DATA names."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("T5_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set T5_SHARED_DATA to its place")
    return folder
