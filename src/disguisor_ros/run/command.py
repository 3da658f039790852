"""Anonymize a bag: start the graph, replay the bag into it, record what comes out."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

from disguisor_ros.bridge.bags import BagWriter
from disguisor_ros.errors import UserError
from disguisor_ros.figures import write_figures
from disguisor_ros.graph import (
    Graph,
    check_parameters,
    own_domain,
    read_cameras,
    read_world_frame,
    set_environment,
    stages,
)
from disguisor_ros.paths import share
from disguisor_ros.run.recording import Recording, inspect
from disguisor_ros.run.replay import AHEAD, WINDOW, Replay, StageDied

#: What stages work on: live the newest alone, here everything.
_HANDED_ON = (
    "/disguisor/frame_set", "/disguisor/persons3d", "/disguisor/bodies", "/disguisor/heads",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor run``."""
    parser.add_argument("--bag", required=True, metavar="IN", help="rosbag2 to anonymize")
    parser.add_argument("--out", required=True, metavar="OUT", help="rosbag2 (MCAP) to write")
    parser.add_argument(
        "--rate",
        default="max",
        type=_rate,
        help="speed of the replay: 1 is real time, 0.5 half of it; max (the default) is as fast"
        " as the graph keeps up, dropping nothing",
    )
    parser.add_argument(
        "--cameras-file",
        metavar="FILE",
        type=Path,
        help="parameter file that names the cameras, like config/cameras.yaml (default: all)",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="parameter file (default: config/disguisor.yaml); docs/nodes.md tells what a run sets"
        " by itself",
    )
    parser.add_argument(
        "--mode",
        default=None,
        choices=("mesh", "solid", "pixelate", "blur"),
        help="how a replaced face looks (default: mesh)",
    )
    parser.add_argument(
        "--backend",
        default=None,
        choices=("open3d", "pytorch3d", "auto"),
        help="what draws the heads",
    )
    parser.add_argument(
        "--model-path",
        default=None,
        metavar="FILE",
        help="your own SMPL, SMPL-H or SMPL-X file (default: Anny, which needs none)",
    )
    parser.add_argument(
        "--pose2d",
        action="store_true",
        help="find the 2D keypoints too, by the model of `make pose-model`",
    )
    parser.add_argument(
        "--markers", action="store_true", help="also record the meshes for RViz (larger, slower)"
    )
    parser.add_argument(
        "--compressed",
        choices=("jpg", "png"),
        help="record compressed images, not raw ones (png keeps every pixel)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures of the run here"
    )
    parser.add_argument(
        "--domain-id", type=int, help="ROS domain (default: ROS_DOMAIN_ID, else a free one)"
    )
    parser.add_argument("--log-dir", type=Path, help="keep the logs of the stages here")


def main(args) -> int:
    """Run ``disguisor run``; 0 when every frame came out, 1 when not, 2 for bad input."""
    cameras = read_cameras(args.cameras_file) if args.cameras_file else None
    args.config = args.config or share("config/disguisor.yaml")
    check_parameters(args.config)
    world_frame = read_world_frame(args.config)
    if args.domain_id is not None and not 0 <= args.domain_id <= 232:
        raise UserError(f"--domain-id must lie between 0 and 232, is {args.domain_id}")
    recording = inspect(args.bag, cameras, not args.pose2d, world_frame)
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_domain(args.domain_id))
        set_environment()
        folder = args.log_dir or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="disguisor-"))
        )
        folder.mkdir(parents=True, exist_ok=True)
        writer = BagWriter(args.out)
        stack.callback(writer.discard)
        graph = stack.enter_context(
            Graph(
                stages(recording.cameras, _parameters(args, recording), args.pose2d),
                folder,
                args.config,
            )
        )
        transport = "compressed" if args.compressed else "raw"
        replay = stack.enter_context(Replay(recording, writer, graph, args.markers, transport))
        return _replay(replay, writer, args)


def _parameters(args, recording: Recording) -> dict[str, dict]:
    renderer = {"image_transport": recording.transport, "max_latency": 60.0}
    renderer |= {k: v for k in ("mode", "backend") if (v := getattr(args, k))}
    renderer |= {"compressed_output": args.compressed} if args.compressed else {}
    # A camera that starts late lets the others run ahead: all of that has to find room.
    reliable = {
        topic: {"subscription": {"reliability": "reliable", "depth": AHEAD + WINDOW}}
        for topic in recording.topics
    }
    work = {topic: {"subscription": {"depth": 100}} for topic in _HANDED_ON}
    slop = recording.slop_ns / 1e9
    return {
        # Nothing may be lost on the way: the bag waits, the graph does not hurry.
        "*": {"qos_overrides": reliable | work, "patience": 10.0},
        "synchronizer": {"slop": slop, "max_wait": 10.0, "in_flight": 100},
        # The beginning of a recording is wanted, too, and no instant of it gets lost.
        "pose3d": {"warm_up": 0.0},
        "smpl_fitter": {"model_path": args.model_path or ""},
        "face_renderer": renderer,
        "pose2d": {"image_transport": recording.transport, "slop": slop},
    }


def _replay(replay: Replay, writer: BagWriter, args) -> int:
    try:
        replay.wait_for_graph()
        replay.feed(args.rate)
    except KeyboardInterrupt:
        replay.close()
        if any(replay.got.values()):
            writer.close()
            got, total = (sum(n.values()) for n in (replay.got, replay.recording.frames))
            outcome = f"{got} of the bag's {total} frames anonymized -> {args.out}"
        else:
            outcome = "no bag was written"
        print(f"interrupted: {outcome}", file=sys.stderr)
        return 130
    except StageDied as error:
        print(f"disguisor run: {error}; no bag was written", file=sys.stderr)
        return 1
    replay.close()
    writer.close()
    print(f"{replay.summary()} -> {args.out}", file=sys.stderr)
    for line in replay.warnings():
        print(f"warning: {line}", file=sys.stderr)
    if replay.lost and args.rate is not None:
        print("warning: this machine may be too slow; --rate max waits for it", file=sys.stderr)
    if args.json:
        write_figures(args.json, replay.figures())
    return 1 if replay.lost else 0


def _rate(text: str) -> float | None:
    if text == "max":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor max")
    return rate
