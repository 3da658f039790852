"""What all tests share."""

import os
from pathlib import Path

import pytest

#: The body model's cache lies beside the source tree, as with make.
os.environ.setdefault("ANNY_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache/anny"))


def shared_data(name: str) -> Path:
    """Folder of a real data set; the test is skipped where there is none."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / name
    if not path.is_dir():
        pytest.skip(f"needs real data: ../shared/data/{name} is not there")
    return path
