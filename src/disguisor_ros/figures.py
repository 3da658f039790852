"""Where ``--json`` goes: the figures of a command in one file."""

from __future__ import annotations

import json
from pathlib import Path


def write_figures(path: Path, figures: dict) -> None:
    """Write figures as JSON; :mod:`disguisor_ros.cli` has made the folder."""
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
