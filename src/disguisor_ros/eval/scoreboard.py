"""Simulate, anonymize and score every scenario, and put the figures into one table."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from disguisor_ros.errors import UserError
from disguisor_ros.figures import shown
from disguisor_ros.sim.command import SCENARIOS

#: Rows of the table, and the keys of scores.json that they show.
_FIGURES = {
    "recall at IoU 0.4": "recall_iou40",
    "... by boxes alone": "recall_iou40_boxes_only",
    "holistic recall": "holistic_recall",
    "face pixels replaced, mean": "pixel_coverage",
    "face pixels replaced, worst 1 %": "pixel_coverage_worst_1pct",
    "face views >= 95 % replaced": "face_views_covered_95",
    "precision at IoU 0.4": "precision_iou40",
    "non-face pixels changed": "nonface_changed",
    "identical outside the regions": "outside_exact",
    "latency, ms (median)": "latency_ms",
}
_PEER_FIGURES = {
    "recall at IoU 0.4": "recall_iou40",
    "face pixels replaced, mean": "pixel_coverage",
    "recall, unmasked frontal faces over 40 px": "frontal_unmasked_recall",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``disguisor scoreboard``."""
    parser.add_argument("--out", required=True, type=Path, help="folder for reports and the table")
    parser.add_argument("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS)
    parser.add_argument("--seconds", type=float, default=20.0, help="(default: %(default)s)")
    parser.add_argument("--fps", type=float, default=3.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument(
        "--peer-images", type=int, default=60, metavar="N",
        help="images of each scenario that other tools see (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--keep-bags", action="store_true", help="do not delete the bags")


def main(args: argparse.Namespace) -> int:
    """Run ``disguisor scoreboard``."""
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out}: is a file; name a folder")
    scores, minutes = {}, {}
    for scenario in args.scenarios:
        start = time.monotonic()
        scores[scenario] = score_scenario(scenario, args)
        minutes[scenario] = (time.monotonic() - start) / 60
    board = {"minutes": minutes, "scenarios": scores}
    (args.out / "scoreboard.json").write_text(json.dumps(board, indent=2) + "\n")
    table = markdown(scores, minutes)
    (args.out / "scoreboard.md").write_text(table)
    print(table)
    return 0


def score_scenario(scenario: str, args: argparse.Namespace) -> dict:
    """Simulate, run and evaluate one scenario in ``<out>/<scenario>``; return its scores."""
    folder = args.out / scenario
    room, anonymized, report = folder / "room", folder / "anonymized", folder / "report"
    bags = room, Path(f"{room}.truth"), anonymized
    folder.mkdir(parents=True, exist_ok=True)
    _remove(bags)
    _disguisor(
        "simulate", "--scenario", scenario, "--seconds", args.seconds, "--fps", args.fps,
        "--seed", args.seed, room,
    )  # fmt: skip
    _disguisor("run", "--bag", room, "--out", anonymized)
    _disguisor(
        "evaluate", "--bag", room, "--anonymized", anonymized, "--report", report,
        "--peer-images", args.peer_images,
    )  # fmt: skip
    _disguisor("preview", "--bag", room, "--anonymized", anonymized, "--out", report)
    if not args.keep_bags:
        _remove(bags)
    return json.loads((report / "scores.json").read_text())


def markdown(scores: dict[str, dict], minutes: dict[str, float]) -> str:
    """Table of all scenarios, ours and the peers', as Markdown."""
    lines = ["| | " + " | ".join(scores) + " |", "|---|" + "---|" * len(scores)]

    def row(title, values):
        lines.append(f"| {title} | " + " | ".join(values) + " |")

    for title, key in _FIGURES.items():
        row(title, [shown(score[key]) for score in scores.values()])
    row("frames in / out", [
        f"{score['frames']['frames_in']} / {score['frames']['frames_out']}"
        for score in scores.values()
    ])  # fmt: skip
    names = {name: None for score in scores.values() for name in score["peers"]}
    for name in names:
        for title, key in _PEER_FIGURES.items():
            peers = [score["peers"].get(name, {}) for score in scores.values()]
            row(f"{name} (sample): {title}", [shown(peer.get(key)) for peer in peers])
    row("minutes", [f"{value:.1f}" for value in minutes.values()])
    return "\n".join(lines) + "\n"


def _disguisor(*arguments) -> None:
    command = [sys.executable, "-m", "disguisor_ros.cli", *map(str, arguments)]
    print(f"==> disguisor {' '.join(command[3:])}", file=sys.stderr, flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        why = "failed; see above" if code > 0 else f"was killed by signal {-code} (out of memory?)"
        raise UserError(f"`disguisor {' '.join(command[3:])}` {why}")


def _remove(folders) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
