"""Figures in tables and files; files are whole or not at all, and refused before the work."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from disguisor_ros.errors import UserError


def make_folder(folder: Path) -> None:
    """Make a folder to write into.

    Raises
    ------
    UserError
        If it is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: cannot be written")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file; it gets its name when the ``with`` block ends without an error.

    Raises
    ------
    UserError
        If it cannot be written, for example to a full disk.
    """
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")  # its suffix tells its kind
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        why = error.strerror or str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be written ({why})") from error
    finally:
        partial.unlink(missing_ok=True)


def shown(value) -> str:
    """A figure with its four leading digits; a count or yes and no as they are."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, (bool, int)) else f"{value:.4g}"


def rounded(value: float | None, digits: int) -> str:
    """A figure with so many digits after the point."""
    return "-" if value is None else f"{value:.{digits}f}"


def write_figures(path: Path, figures: dict) -> None:
    """Write figures as JSON; :mod:`disguisor_ros.cli` has made the folder."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
