"""The demonstration: simulate a room, anonymize it, score it, and make pictures to look at."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from disguisor_ros.errors import UserError
from disguisor_ros.sim.command import SCENARIOS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor demo``."""
    parser.add_argument("--out", required=True, metavar="DIR", type=Path, help="folder to write")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the recording (10)")
    parser.add_argument("--fps", type=float, default=5.0, help="multi-view frames a second (5)")
    parser.add_argument("--scenario", default="easy", choices=SCENARIOS)
    parser.add_argument("--seed", type=int, default=7, help="of the simulation (7)")


def main(args) -> int:
    """Run ``disguisor demo``."""
    from disguisor_ros.cli import main as disguisor

    room, anonymized = args.out / "room", args.out / "anonymized"
    _make_way(args.out)
    steps = (
        ["simulate", "--scenario", args.scenario, "--seconds", str(args.seconds),
         "--fps", str(args.fps), "--seed", str(args.seed), str(room)],
        ["run", "--bag", str(room), "--out", str(anonymized)],
        ["preview", "--bag", str(room), "--anonymized", str(anonymized), "--out", str(args.out)],
        ["evaluate", "--bag", str(room), "--anonymized", str(anonymized),
         "--report", str(args.out / "report"), "--peer-images", "0"],
    )  # fmt: skip
    for step in steps:
        print(f"$ disguisor {' '.join(step)}", file=sys.stderr)
        code = disguisor(step)
        if code:
            return code
    for name in ("contact_sheet.png", "before_after.mp4", "report/report.html"):
        print(f"look at {args.out / name}")
    return 0


def _make_way(out: Path) -> None:
    """Remove what an earlier demonstration left, and nothing else."""
    if out.exists() and any(out.iterdir()) and not (out / "room.truth").is_dir():
        raise UserError(
            f"{out}: is not empty and not an earlier demonstration; name another folder"
        )
    for name in ("room", "room.truth", "anonymized", "report"):
        shutil.rmtree(out / name, ignore_errors=True)
