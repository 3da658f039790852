"""Where the files that are not Python lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from disguisor_ros.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]


def source_tree() -> Path | None:
    """The source tree that this package runs from, or None where it was installed."""
    return _ROOT if (_ROOT / "package.xml").exists() else None


def share(relative: str) -> Path:
    """A file beside ``src/``, by its path there: of the source tree, else of the installation.

    Raises
    ------
    UserError
        If there is neither.
    """
    path = _ROOT / relative
    if path.exists():
        return path
    from ament_index_python.packages import get_package_share_directory

    try:
        return Path(get_package_share_directory("disguisor_ros")) / relative
    except (LookupError, OSError) as error:
        raise UserError(
            f"{relative} of disguisor_ros is not found: source the setup.bash of the workspace in"
            " which it was built"
        ) from error


@contextmanager
def for_me_alone() -> Iterator[None]:
    """Let nobody but this user read what is written in here: it shows faces."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
