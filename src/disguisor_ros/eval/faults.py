"""Break the real graph at random while it anonymizes, and hold what leaves to the truth.

A simulated room plays to and fro into the graph, over DDS and in real time. Processes are killed
and stopped, messages get lost, late, doubled, damaged; a supervisor restarts what died. Every
image that is published is compared with its input: a visible face of which less than half was
replaced has leaked. What the stages said around that is written beside the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from disguisor_ros.errors import UserError
from disguisor_ros.figures import write_figures
from disguisor_ros.graph import Graph, own_domain, set_environment, stages

#: The graph is played to without a fault for this long first, seconds: what leaks then is no
#: fault's doing.
CONTROL_S = 15.0
#: The graph must be up after this long, seconds.
START_S = 300.0
#: When a killed stage gives no image for this long the drivers are started anew, seconds.
STUCK_S = 20.0
#: What has not recovered after this long has not recovered, seconds.
LOST_S = 60.0
#: Instants that may be under way at once at full rate.
WINDOW = 2
#: How often each kind of fault is drawn, relative to the others.
WEIGHTS = {
    "kill": 8, "stop": 8, "delay": 8, "drop": 8, "duplicate": 8, "reorder": 8, "flip bytes": 10,
    "malform": 10, "unplug camera": 6, "no calibration": 4, "wrong intrinsics": 4,
    "wrong extrinsics": 3, "no depth": 3, "depth zero": 4, "keypoints empty": 4, "clock back": 3,
    "clock forward": 3, "slow subscriber": 3, "full disk": 1,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``disguisor benchmark faults``."""
    parser.add_argument("--n", type=int, default=500, help="faults to inject (500)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (0)")
    parser.add_argument(
        "--json", type=Path, metavar="FILE",
        help="write the result here, and beside it (.leaks, a rosbag2) what the stages said around"
        " faces that were not covered",
    )  # fmt: skip
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second, per camera (4)")
    parser.add_argument(
        "--every", type=float, default=1.2,
        help="mean time between faults, s (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="after the faults, play on without any, as fast as the graph keeps up, and watch"
        " the memory of each stage",
    )
    parser.add_argument("--only", nargs="+", choices=tuple(WEIGHTS), help="only these faults")
    parser.add_argument(
        "--on-failure", default="drop", choices=("drop", "blank"), help="of the renderers"
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep bag and logs here")


def main(args) -> int:
    """Run ``disguisor benchmark faults``; 0 when nothing leaked, 1 when something did."""
    if args.n < 0 or args.fps <= 0 or args.every <= 0:
        raise UserError("--n must not be negative, --fps and --every must be positive")
    with contextlib.ExitStack() as stack:
        stack.enter_context(own_domain())
        set_environment()
        work = args.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="disguisor-faults-"))
        )
        work.mkdir(parents=True, exist_ok=True)
        result = _run(args, work, stack)
    if args.json:
        write_figures(args.json, result)
    print(_summary(result) if args.json else json.dumps(result, indent=2))
    failed = result["leaked_face_views"] or result["ledger_errors"] or result["crashes"]
    return 1 if failed else 0


def _run(args, work: Path, stack: contextlib.ExitStack) -> dict:
    # ROS is imported when a graph is started, not when the command prints its help.
    from disguisor_ros.eval.fault_tape import Tape, simulated
    from disguisor_ros.eval.fault_watch import Watch
    from disguisor_ros.run.recording import inspect
    from disguisor_ros.sim.truth import load_truth, truth_folder

    bag = simulated(work)
    recording = inspect(bag)
    tape = Tape(recording, load_truth(truth_folder(bag)))
    parameters = {
        "synchronizer": {"slop": 0.05},
        "face_renderer": {"on_failure": args.on_failure},
    }
    graph = stack.enter_context(Graph(stages(recording.cameras, parameters), work))
    watch = Watch(recording, tape)
    stack.callback(watch.close)
    campaign = Campaign(args, graph, watch, tape, recording)
    stack.callback(campaign.close)
    result = campaign.run()
    if args.json:
        watch.record.write(args.json.with_suffix(".leaks"))
    return result


def _summary(result: dict) -> str:
    return (
        f"{result['injected']} faults: {result['leaked_face_views']} of"
        f" {result['face_views']} face views leaked, recovery {result['recover_s_median']} s"
        f" (median), {result['frames_in']} frames in, {result['frames_out']} out,"
        f" {result['frames_withheld']} withheld"
    )


@dataclass(eq=False)
class Fault:
    """Something that goes wrong for a while.

    Parameters
    ----------
    name : str
    target : str
        Stage, camera or topic, for the record.
    cameras : list of str
        Whose output it may interrupt.
    seconds : float
        How long it lasts.
    change : callable, optional
        What becomes of the messages that :attr:`kinds` of :attr:`cameras` name.
    kinds : list of str
    undo : callable, optional
        Called at its end.
    over : callable
        Whether it has ended before its time.
    """

    name: str
    target: str
    cameras: list[str]
    seconds: float
    change: Callable | None = None
    kinds: Sequence[str] = ()
    undo: Callable | None = None
    over: Callable[[], bool] = lambda: False

    def __post_init__(self):
        self.ends = time.monotonic() + self.seconds

    def hits(self, sample) -> bool:
        """Whether the fault changes this message."""
        return self.change is not None and (
            sample.camera in self.cameras and sample.kind in self.kinds
        )


class Campaign:
    """Plays the tape, injects faults, supervises the stages."""

    def __init__(self, args, graph: Graph, watch, tape, recording):
        self.args, self.graph, self.watch, self.tape = args, graph, watch, tape
        self.cameras = recording.cameras
        self.random = random.Random(args.seed)
        self.active: list[Fault] = []
        self.injected = Counter()
        self.crashes: list[str] = []
        self.killed: dict[str, Fault] = {}
        self.k = 0
        self._next_instant = time.monotonic()
        self._due: list[tuple[float, int, str, bytes]] = []
        self._memory: dict[str, list[tuple[float, int]]] = {}
        self._restarts = 0
        self._full_rate = False

    def close(self) -> None:
        """End the faults that last."""
        for fault in self.active:
            if fault.undo:
                fault.undo()
        self.active = []

    def run(self) -> dict:
        """Wait for the graph, play without and with faults, and return the result."""
        started = time.monotonic()
        console = Console(stderr=True)
        self._until(lambda: self.watch.connected >= set(self.graph.stages), START_S, "start")
        console.print(f"the graph is up after {time.monotonic() - started:.0f} s")
        self._until(lambda: self.watch.images > 0, 60.0, "give an image")
        self._for(CONTROL_S)
        control = self.watch.begin_faults()
        # Interrupted, it reports what there is (also where a shell made it deaf to that).
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt), console.status("") as status:
            while sum(self.injected.values()) < self.args.n:
                self._inject()
                status.update(f"{sum(self.injected.values())} faults, {self.watch.line()}")
                self._for(self.random.expovariate(1 / self.args.every))
                self._wait_for_stages()
        self._until(lambda: not (self.active or self.watch.recovering()), LOST_S, None)
        if self.args.minutes:
            self._soak(60 * self.args.minutes, console)
        self._drain()
        return {
            "injected": sum(self.injected.values()),
            "injected_by_fault": dict(self.injected),
            **self.watch.result(),
            "control": control,
            "crashes": self.crashes,
            "restarts": self._restarts,
            "soak_minutes": self.args.minutes,
            "memory_growth_percent": self._growth(),
            "seconds": round(time.monotonic() - started),
            "seed": self.args.seed,
            "fps": self.args.fps,
        }

    def _wait_for_stages(self) -> None:
        """Play on until every stage that was killed or stopped is back."""
        since = time.monotonic()
        while self.killed or any(f.name == "stop" for f in self.active):
            self._for(0.1)
            if time.monotonic() - since > STUCK_S:
                self.watch.restart_drivers()
                since = time.monotonic()

    # Playing.

    def _for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while True:
            self._step()
            if time.monotonic() >= end:
                return

    def _until(self, condition, limit_s: float, what: str | None) -> None:
        end = time.monotonic() + limit_s
        while not condition():
            self._step()
            if time.monotonic() > end:
                if what is None:
                    return
                raise UserError(f"the graph did not {what} within {limit_s:.0f} s")

    def _drain(self) -> None:
        """Let what is under way come out, without playing on."""
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            self._step(play=False)

    def _step(self, play: bool = True) -> None:
        now = time.monotonic()
        due = now >= self._next_instant
        if self._full_rate:
            due = self.watch.under_way() < WINDOW * len(self.cameras)
        if play and due:
            self._next_instant = max(self._next_instant + 1 / self.args.fps, now)
            for sample in self.tape.play(self.k):
                self._send(sample, now)
            self.k += 1
        self._due.sort()
        while self._due and self._due[0][0] <= now:
            _, _, topic, raw = self._due.pop(0)
            self.watch.publish(topic, raw)
        for fault in [f for f in self.active if f.ends <= now or f.over()]:
            self.active.remove(fault)
            if fault.undo:
                fault.undo()
            if fault.name != "kill":
                self.watch.recover(fault.name, fault.cameras)
        self._supervise()
        time.sleep(0.01)

    def _send(self, sample, now: float) -> None:
        """Queue a message, as the active faults leave it; the first that changes it decides."""
        fault = next((f for f in self.active if f.hits(sample)), None)
        sent = fault.change(sample, self.random) if fault else [(0.0, sample.raw)]
        for delay_s, raw in sent:
            self._due.append((now + delay_s, len(self._due), sample.topic, raw))

    def _supervise(self) -> None:
        for name in self.graph.restart_dead():
            self._restarts += 1
            fault = self.killed.get(name)
            if fault is None:
                self.crashes.append(f"{name}: {self.graph.why(name)}")
            else:
                done = lambda n=name: self.killed.pop(n, None)  # noqa: E731
                self.watch.recover("kill", fault.cameras, done, stage=name)

    # Breaking.

    def _inject(self) -> None:
        names = self.args.only or list(WEIGHTS)
        name = self.random.choices(names, [WEIGHTS[n] for n in names])[0]
        seconds = self.random.uniform(0.5, 2.0)
        fault = self._make(name, seconds)
        self.injected[name] += 1
        self.watch.note(f"{name} {fault.target}")
        if name == "kill":
            self.killed[fault.target] = fault
        self.active.append(fault)

    def _make(self, name: str, seconds: float) -> Fault:
        from disguisor_ros.eval import fault_tape as tape

        camera = self.random.choice(self.cameras)
        kinds = [k for k in tape.KINDS if "depth" not in k or self.random.random() < 0.7]
        kind = self.random.choice(kinds)
        changes = {
            "delay": tape.delayed, "drop": tape.dropped, "duplicate": tape.duplicated,
            "reorder": tape.reordered, "flip bytes": tape.flipped, "malform": tape.malformed,
        }  # fmt: skip
        if name in changes:
            # Half of the time a link suffers in one camera, half of the time in all.
            cameras = self.cameras if self.random.random() < 0.5 else [camera]
            where = f"{kind} of {camera if len(cameras) == 1 else 'all'}"
            return Fault(name, where, cameras, seconds, changes[name], [kind])
        one_camera = {
            "unplug camera": (tape.lost, list(tape.KINDS)),
            "no calibration": (tape.lost, ["color/camera_info", "depth/camera_info"]),
            "wrong intrinsics": (tape.wrong_calibration, ["color/camera_info"]),
            "no depth": (tape.lost, ["depth/image_raw"]),
            "depth zero": (tape.zero_depth, ["depth/image_raw"]),
            "keypoints empty": (tape.nobody, ["keypoints2d"]),
        }
        if name in one_camera:
            change, kinds = one_camera[name]
            return Fault(name, camera, [camera], seconds, change, kinds)
        others = {
            "kill": self._kill, "stop": self._stop, "wrong extrinsics": self._wrong_extrinsics,
            "clock back": self._clock_jump, "clock forward": self._clock_jump,
            "slow subscriber": self._slow_subscriber, "full disk": self._full_disk,
        }  # fmt: skip
        return others[name](name, camera, seconds)

    def _cameras_of(self, stage: str) -> list[str]:
        return [stage.split("/")[0]] if "/" in stage else self.cameras

    def _kill(self, name, camera, seconds):
        stage = self.random.choice(list(self.graph.stages))
        self.graph.processes[stage].kill()
        return Fault(name, stage, self._cameras_of(stage), 0.0)

    def _stop(self, name, camera, seconds):
        stage = self.random.choice(list(self.graph.stages))
        process = self.graph.processes[stage]
        process.send_signal(signal.SIGSTOP)
        return Fault(
            name, stage, self._cameras_of(stage), 2 * seconds,
            undo=lambda: process.send_signal(signal.SIGCONT),
        )  # fmt: skip

    def _wrong_extrinsics(self, name, camera, seconds):
        self.watch.publish_transforms(camera, 0.3, self.random)
        return Fault(name, camera, [camera], seconds, undo=self.watch.publish_transforms)

    def _clock_jump(self, name, camera, seconds):
        self.k += self.random.randint(10, 100) * (1 if name == "clock forward" else -1)
        return Fault(name, "all", self.cameras, 0.0)

    def _slow_subscriber(self, name, camera, seconds):
        return Fault(name, camera, [camera], seconds, undo=self.watch.slow_subscriber(camera))

    def _full_disk(self, name, camera, seconds):
        out = Path(tempfile.mkdtemp(prefix="disguisor-full-")) / "bag"
        code = "import sys; from disguisor_ros.eval.faults import record_to_full_disk as r; r(*sys.argv[1:])"  # noqa: E501
        recorder = subprocess.Popen(
            [sys.executable, "-c", code, str(out), *self.cameras],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def undo():
            if recorder.poll() is None:
                recorder.kill()
            recorder.wait()
            left = list(out.parent.iterdir())
            if recorder.returncode != 3 or left:
                self.crashes.append(f"recorder on a full disk: {recorder.returncode}, {left}")
            shutil.rmtree(out.parent)

        over = lambda: recorder.poll() is not None  # noqa: E731
        return Fault(name, "recorder", self.cameras, 120.0, undo=undo, over=over)

    # Soaking.

    def _soak(self, seconds: float, console: Console) -> None:
        self._full_rate = True
        end = time.monotonic() + seconds
        with console.status("") as status:
            while (left := end - time.monotonic()) > 0:
                for name, used in self.graph.memory_by_stage().items():
                    self._memory.setdefault(name, []).append((time.monotonic(), used))
                status.update(f"{left / 60:.0f} minutes to go, {self.watch.line()}")
                self._for(min(5.0, left))

    def _growth(self) -> dict[str, float]:
        """Growth of the memory of each stage after the first two minutes, percent."""
        out = {}
        for name, samples in self._memory.items():
            late = [used for at, used in samples if at > samples[0][0] + 120.0]
            if len(late) >= 6:
                few = max(3, len(late) // 10)
                first, last = np.median(late[:few]), np.median(late[-few:])
                out[name] = round(float(100 * (last / first - 1)), 2)
        return out


def record_to_full_disk(out: str, *cameras: str) -> None:
    """Record the graph's output until the disk is full (1 MB); exits with 3, leaving nothing."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from disguisor_ros.bridge.bags import BagWriter

    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    rclpy.init()
    node = rclpy.create_node("recorder")
    writer = BagWriter(out)
    for camera in cameras:
        topic = f"/{camera}/anonymized/image_raw"
        node.create_subscription(
            Image, topic,
            lambda raw, t=topic: writer.write(t, "sensor_msgs/msg/Image", time.time_ns(), raw),
            10, raw=True,
        )  # fmt: skip
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except UserError:
        writer.discard()
        os._exit(3)
