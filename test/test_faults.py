"""The tools of the fault campaign: what they do to messages, and the supervisor."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, Image

from disguisor_msgs.msg import Head, Heads, Keypoints2D, PersonKeypoints2D
from disguisor_ros.bridge.bags import open_bag, raw_messages
from disguisor_ros.bridge.images import color_array
from disguisor_ros.bridge.messages import flat, read_keypoints
from disguisor_ros.eval import fault_tape as tape
from disguisor_ros.eval.fault_record import FaultRecord, recorded
from disguisor_ros.graph import Graph, stages


def sample(kind):
    if kind == "keypoints2d":
        person = PersonKeypoints2D(keypoints=flat(np.ones(51)))
        message = Keypoints2D(skeleton="coco17", persons=[person])
    elif kind.endswith("info"):
        message = CameraInfo(width=4, height=4, k=np.eye(3).ravel(), d=[0.0] * 5)
    else:
        message = Image(height=4, width=4, step=12, encoding="rgb8", data=bytes(48))
    message.header.stamp.sec = 7
    return tape.Sample("cam", kind, serialize_message(message))


@pytest.mark.parametrize("seed", range(20))
def test_malformed_messages_are_refused(seed):
    rng = random.Random(seed)
    for kind, read in (("color/image_raw", color_array), ("keypoints2d", read_keypoints)):
        ((_, raw),) = tape.malformed(sample(kind), rng)
        with pytest.raises(ValueError):
            read(deserialize_message(raw, tape.KINDS[kind]))


@pytest.mark.parametrize("change", [tape.flipped, tape.delayed, tape.duplicated, tape.reordered])
def test_the_stamp_stays_what_it_was(change):
    original = sample("keypoints2d")
    for seed in range(20):
        for _, raw in change(original, random.Random(seed)):
            assert raw[:12] == original.raw[:12][: len(raw)]


def test_nobody_and_no_depth():
    rng = random.Random(0)
    ((_, raw),) = tape.nobody(sample("keypoints2d"), rng)
    assert deserialize_message(raw, Keypoints2D).persons == []
    ((_, raw),) = tape.zero_depth(sample("depth/image_raw"), rng)
    assert set(deserialize_message(raw, Image).data) == {0}


def test_the_tape_plays_to_and_fro():
    player = tape.Tape.__new__(tape.Tape)
    player.count = 4
    assert [player.index(k) for k in range(-2, 8)] == [2, 1, 0, 1, 2, 3, 2, 1, 0, 1]


def test_the_supervisor_starts_anew_what_died(tmp_path, monkeypatch):
    graph = Graph(stages(["cam"], {}), tmp_path)
    started = []

    def start(name):
        started.append(name)
        code = "" if name == "pose3d" and started.count(name) == 1 else "input()"
        graph.processes[name] = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE
        )

    monkeypatch.setattr(graph, "start", start)
    with graph:
        graph.processes["pose3d"].wait()
        assert graph.restart_dead() == ["pose3d"]
        assert graph.restart_dead() == []
        assert set(graph.memory_by_stage()) == set(graph.stages)
    assert started.count("pose3d") == 2 and len(started) == len(graph.stages) + 1


def test_a_recorder_on_a_full_disk_leaves_nothing_behind(tmp_path):
    code = (
        "import resource, sys\n"
        "from disguisor_ros.bridge.bags import BagWriter\n"
        "from disguisor_ros.errors import UserError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "writer = BagWriter(sys.argv[1])\n"
        "try:\n"
        "    for k in range(100):\n"
        "        writer.write('/t', 'sensor_msgs/msg/Image', k, bytes(1_000_000))\n"
        "except UserError as error:\n"
        "    assert str(error).startswith(sys.argv[1] + ': cannot be written'), error\n"
        "    writer.discard()\n"
        "    sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "bag")], check=False)
    assert done.returncode == 3 and list(tmp_path.iterdir()) == []


def test_what_was_said_around_a_leak_is_kept(tmp_path):
    head = Head(track_id=3, vertices=[0.5] * 9)
    heads = serialize_message(Heads(heads=[head]))
    record = FaultRecord(recorded(["cam"]))
    bag = tmp_path / "faults.leaks"
    for k in range(10):
        record.add("/disguisor/heads", heads, now_ns=10**18 + k * 10**9)
        record.add("/cam/color/image_raw", b"", now_ns=10**18 + k * 10**9)
    record.write(bag)
    assert not bag.exists()
    record.keep(now_ns=10**18 + 9 * 10**9)
    damaged = sample("keypoints2d").raw[:30]
    record.add("/cam/keypoints2d", damaged, now_ns=10**18 + 19 * 10**8 + 8 * 10**9)
    record.add("/disguisor/heads", heads, now_ns=10**18 + 20 * 10**9)
    for _ in range(2):  # of the next campaign, too
        record.write(bag)
    with open_bag(bag) as reader:
        said = [(c.topic, bytes(raw)) for c, _, raw in raw_messages(reader)]
    assert [topic for topic, _ in said] == ["/disguisor/heads"] * 9 + ["/cam/keypoints2d"]
    (kept,) = deserialize_message(said[0][1], Heads).heads
    assert kept.track_id == 3 and not len(kept.vertices)
    assert said[-1][1] == damaged
