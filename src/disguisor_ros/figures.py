"""Where ``--json`` goes: the figures of a command in one file."""

from __future__ import annotations

import json
from pathlib import Path

from disguisor_ros.errors import UserError


def write_figures(path: Path, figures: dict) -> None:
    """Write figures as JSON; folders that are missing are made.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error}") from error
