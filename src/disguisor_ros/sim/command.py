"""Simulate a multi-view RGB-D recording of an operating room, with exact ground truth."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from disguisor_ros.errors import UserError

SCENARIOS = ("easy", "medium", "hard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``disguisor simulate``."""
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="bag to write; OUT.truth holds the truth"
    )
    parser.add_argument(
        "--scenario",
        default="medium",
        metavar="{easy,medium,hard}",
        help="3, 5 or 7 staff and a patient (default: medium)",
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="length (default: 20)")
    parser.add_argument("--fps", type=float, default=5.0, help="frames a second (default: 5)")
    parser.add_argument("--cameras", type=int, default=4, help="1 to 8 (default: 4)")
    parser.add_argument(
        "--resolution",
        default="1280x720",
        metavar="WxH",
        help="of colour (default: 1280x720); depth is 640x576",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    parser.add_argument(
        "--jpeg",
        type=int,
        default=0,
        metavar="QUALITY",
        help="compressed colour of this quality instead of raw images",
    )
    parser.add_argument(
        "--drop",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of frames that a camera loses",
    )
    parser.add_argument(
        "--calibration-error",
        default="0,0",
        metavar="MM,MRAD",
        help="standard deviation of the published camera poses",
    )


def main(args: argparse.Namespace) -> int:
    """Run ``disguisor simulate``; returns the exit code."""
    settings = settings_of(args)
    from disguisor_ros.progress import progress_bar
    from disguisor_ros.sim.recording import record

    with progress_bar() as bar:
        task = bar.add_task("simulating", total=None)

        def show(text: str, done: int, total: int) -> None:
            bar.update(task, description=text, completed=done, total=total)

        record(settings, args.out, progress=show)
    return 0


def settings_of(args: argparse.Namespace):
    """Check the arguments and make :class:`~disguisor_ros.sim.recording.Settings` of them.

    Raises
    ------
    UserError
        Naming the argument that cannot be and what can.
    """
    from disguisor_ros.sim.recording import Settings

    if args.scenario not in SCENARIOS:
        raise UserError(f"--scenario {args.scenario}: choose one of {', '.join(SCENARIOS)}")
    size = re.fullmatch(r"(\d+)x(\d+)", args.resolution)
    if not size:
        raise UserError(f"--resolution {args.resolution}: expected WIDTHxHEIGHT, like 1280x720")
    width, height = int(size[1]), int(size[2])
    for name, value, low, high in (
        ("--seconds", args.seconds, 0.01, 3600),
        ("--fps", args.fps, 0.1, 60),
        ("--cameras", args.cameras, 1, 8),
        ("--resolution", width, 64, 4096),
        ("--resolution", height, 64, 4096),
        ("--seed", args.seed, 0, 2**63 - 1),
        ("--jpeg", args.jpeg, 0, 100),
        ("--drop", args.drop, 0, 0.9),
    ):
        if not low <= value <= high:
            raise UserError(f"{name} {value}: must lie between {low} and {high}")
    try:
        mm, mrad = (float(part) for part in args.calibration_error.split(","))
    except ValueError:
        raise UserError(
            f"--calibration-error {args.calibration_error}: expected MM,MRAD, like 3,2"
        ) from None
    if not (0 <= mm <= 200 and 0 <= mrad <= 200):
        raise UserError(f"--calibration-error {mm},{mrad}: each must lie between 0 and 200")
    return Settings(
        args.scenario,
        args.seconds,
        args.fps,
        args.cameras,
        width,
        height,
        args.seed,
        args.jpeg,
        args.drop,
        (mm, mrad),
    )
