"""A stage that was killed: its successor hears the others soon, on ports of its own."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from disguisor_msgs.msg import FrameSet, Keypoints2D
from disguisor_ros import shared_memory
from disguisor_ros.graph import Graph, set_environment, stages
from disguisor_ros.nodes.common.diagnostics import DEAF_REPORTS, Deaf
from disguisor_ros.nodes.pose3d import Pose3DNode
from disguisor_ros.nodes.synchronizer import SynchronizerNode


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """Makes lock files as Fast DDS does, and returns the discovery port beside each."""
    monkeypatch.setattr(shared_memory, "FOLDER", tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "149")
    held = []

    def make(number: int, alive: bool = False, domain: int = 149) -> int:
        discovery = 7400 + 250 * domain + 10 + 2 * number
        (tmp_path / f"fastdds_port{discovery + 1}").write_text("")
        lock = tmp_path / f"fastdds_port{discovery + 1}_el"
        lock.write_text("")
        if alive:
            held.append(lock.open("rb"))
            fcntl.flock(held[-1], fcntl.LOCK_EX)
        return discovery

    yield make
    for file in held:
        file.close()


def is_free(port: int) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def test_ports_of_the_dead_are_occupied_while_a_node_is_made(locks):
    dead, elsewhere = locks(3), locks(3, domain=148)
    with shared_memory.avoiding_dead_ports():
        assert [is_free(p) for p in (dead, elsewhere)] == [False, True]
    assert is_free(dead)


def test_files_that_lie_about_do_not_use_up_the_ports(locks):
    ports = [locks(number) for number in range(40)]
    with shared_memory.avoiding_dead_ports():
        assert sum(is_free(p) for p in ports) == 40 - shared_memory.MOST


def test_a_port_that_somebody_else_has_is_left_to_him(locks):
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("", locks(3)))
        with shared_memory.avoiding_dead_ports():
            assert not is_free(other.getsockname()[1])


def test_shared_memory_of_the_dead_alone_is_freed(locks, tmp_path):
    dead, alive = locks(3), locks(4, alive=True)
    shared_memory.free_shared_memory()
    left = {f"fastdds_port{alive + 1}", f"fastdds_port{alive + 1}_el"}
    assert {p.name for p in tmp_path.iterdir()} == left, dead


def test_shared_memory_of_a_killed_player_is_nobody_else_s_and_freed_by_the_next_run(tmp_path):
    """Raw images were left there for every user of the machine to read."""
    code = (
        "import os, signal, disguisor_ros.graph as g; g.set_environment()\n"
        "from disguisor_ros.bridge.bags import BagWriter\n"
        "from disguisor_ros.run.recording import Recording\n"
        "from disguisor_ros.run.replay import Replay\n"
        f"Replay(Recording('', {{}}, [], 'raw'), BagWriter('{tmp_path}/out'), None, False)\n"
        "print(*{line.split()[5] for line in open('/proc/self/maps') if 'fastdds_' in line})\n"
        "os.sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    left = [f for f in map(Path, out.stdout.split()) if f.exists() and f.stat().st_size > 2**20]
    assert left and all(f.stat().st_mode & 0o077 == 0 for f in left), out.stderr
    with Graph([], tmp_path):
        assert not any(f.exists() for f in left)


@pytest.mark.parametrize(
    "begin",
    ["from disguisor_ros.graph import set_environment as begin",
     "from disguisor_ros.nodes.common.process import run_node as begin"],
)  # fmt: skip
def test_what_crashes_writes_no_core_dump(tmp_path, begin):
    """Under systemd they are kept by default: all raw images that the process had."""
    code = (
        f"{begin}\n"
        "import resource\nlimit = resource.RLIMIT_CORE\n"
        "resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)\n"
        "def end():\n    print(*resource.getrlimit(limit), flush=True)\n    raise SystemExit\n"
        "begin(end) if begin.__code__.co_argcount else (begin(), end())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.split() == ["0", "0"], out.stderr


@pytest.fixture
def room(monkeypatch):
    """A node that publishes the small topics of a camera, and notes the frame sets."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(150 + os.getpid() % 50))
    set_environment()
    context = rclpy.Context()
    context.init()
    node = rclpy.create_node("room", context=context)
    node.sent, node.heard = {}, {}
    queue = QoSProfile(depth=10)
    publishers = [node.create_publisher(CameraInfo, "/cam/color/camera_info", queue),
                  node.create_publisher(Keypoints2D, "/cam/keypoints2d", queue)]  # fmt: skip

    def send():
        stamp = node.get_clock().now()
        node.sent[stamp.nanoseconds] = time.monotonic()
        for publisher in publishers:
            message = publisher.msg_type()
            message.header.stamp = stamp.to_msg()
            publisher.publish(message)

    def hear(message):
        stamp = message.header.stamp
        node.heard[stamp.sec * 10**9 + stamp.nanosec] = time.monotonic()

    node.create_timer(0.05, send)
    node.create_subscription(FrameSet, "/disguisor/frame_set", hear, queue)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def spin_until(condition, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        return condition()

    node.spin_until = spin_until
    yield node
    executor.shutdown()
    node.destroy_node()
    context.try_shutdown()


def test_a_stage_that_was_killed_works_again_and_again(room, tmp_path):
    graph = Graph({"synchronizer": stages(["cam"], {})["synchronizer"]}, tmp_path)
    with graph:
        assert room.spin_until(lambda: room.heard, 30), graph.why("synchronizer")
        took = []
        for _ in range(3):
            process = graph.processes["synchronizer"]
            process.kill()
            process.wait()
            assert graph.restart_dead() == ["synchronizer"]
            since = time.monotonic()
            room.heard.clear()
            assert room.spin_until(
                lambda t=since: any(room.sent.get(s, 0) > t for s in room.heard), 20
            )
            took.append(time.monotonic() - since)
        # 0.8 s on a machine with nothing else to do; 2.5 s before dead ports were avoided.
        assert sorted(took)[1] < 5, took


def test_a_stage_that_hears_nothing_of_the_others_ends_to_be_started_anew(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "148")
    rclpy.init(args=["--ros-args", "-p", "cameras:=[cn01]"])
    try:
        node, other = SynchronizerNode(), rclpy.create_node("pose3d")  # who reports nothing
        other.create_publisher(DiagnosticArray, "/diagnostics", 10)
        deadline = time.monotonic() + 10
        while len(node.get_publishers_info_by_topic("/diagnostics")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(DEAF_REPORTS):
            node.diagnostics.report()
        node.diagnostics.hear(b"... disguisor: synchronizer ...")  # its own report says nothing
        with pytest.raises(Deaf, match="synchronizer hears none of the other stages"):
            node.diagnostics.report()
        node.diagnostics.hear(b"... disguisor: pose3d ...")
        node.diagnostics.report()
        node.destroy_node()
        other.destroy_node()
    finally:
        rclpy.shutdown()


class Busy(Pose3DNode):
    """A stage that notes what it is given to do."""

    def connect(self):
        self.given = []
        super().connect()

    def _on_frame_set(self, message):
        self.given.append(message.header.stamp.sec)


@pytest.mark.parametrize("depth, given", [(None, [8, 9]), (100, list(range(10)))])
def test_a_stage_that_has_fallen_behind_goes_on_with_the_newest(monkeypatch, depth, given):
    """Once it worked off all that waited, and what it made came too late for ever.

    ``disguisor run`` has the graph keep more: of a recording nothing is left out.
    """
    monkeypatch.setenv("ROS_DOMAIN_ID", "149")
    override = f"qos_overrides./disguisor/frame_set.subscription.depth:={depth}"
    rclpy.init(args=["--ros-args", *(["-p", override] if depth else [])])
    try:
        stage, synchronizer = Busy(), rclpy.create_node("synchronizer")
        stage.trigger_configure()
        stage.trigger_activate()
        publisher = synchronizer.create_publisher(FrameSet, "/disguisor/frame_set", 10)
        deadline = time.monotonic() + 10
        while not publisher.get_subscription_count():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for second in range(10):
            publisher.publish(FrameSet(header=Header(stamp=Time(sec=second))))
        time.sleep(0.5)  # at work
        end = time.monotonic() + 5
        while stage.given[-1:] != [9] and time.monotonic() < end:
            rclpy.spin_once(stage, timeout_sec=0.05)
        assert stage.given == given
        stage.destroy_node()
        synchronizer.destroy_node()
    finally:
        rclpy.shutdown()
