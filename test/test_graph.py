"""The real graph: eight processes over DDS on a short bag."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_room

from disguisor_ros.bridge.bags import LATCHED, BagWriter, header_of, open_bag, raw_messages
from disguisor_ros.bridge.images import color_array, compressed_color_array
from disguisor_ros.eval.pairs import stage_ms

FRAMES = 8


def command(*args, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "disguisor_ros.cli", *map(str, args)],
        stderr=subprocess.PIPE, text=True, **kwargs,
    )  # fmt: skip


def run(bag, out, *options, within_s=240):
    """Exit code and errors of ``disguisor run``."""
    process = command("run", "--bag", bag, "--out", out, *options)
    _, errors = process.communicate(timeout=within_s)
    return process.returncode, errors


@pytest.fixture(scope="module")
def anonymized(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph")
    # Who is not found in the first images is known from the next ones, see run/rehearsal.py.
    bag = small_room.write(folder / "in", frames=FRAMES, unseen={0})
    code, errors = run(bag, folder / "out", "--log-dir", folder / "logs")
    logs = "".join(p.read_text() for p in (folder / "logs").glob("*.log"))
    assert code == 0, errors + logs
    return folder / "out"


def messages(bag, ending):
    with open_bag(bag) as reader:
        wanted = [c for c in reader.connections if c.topic.endswith(ending)]
        for connection, bag_ns, raw in raw_messages(reader, wanted):
            yield connection.topic, bag_ns, raw, reader.deserialize(raw, connection.msgtype)


def test_every_frame_comes_out_under_its_own_header(anonymized):
    seen = sorted((t.split("/")[1], *header_of(raw)) for t, _, raw, _ in
                  messages(anonymized, "/anonymized/image_raw"))  # fmt: skip
    expected = [(c, small_room.stamp(i), f"{c}_color_optical_frame")
                for c in small_room.cameras() for i in range(FRAMES)]  # fmt: skip
    assert seen == sorted(expected)


def test_every_image_has_its_regions_and_calibration(anonymized):
    stamps = [
        sorted((topic.split("/")[1], header_of(raw)) for topic, _, raw, _ in
               messages(anonymized, f"/anonymized/{kind}"))
        for kind in ("image_raw", "regions", "camera_info")
    ]  # fmt: skip
    assert stamps[0] == stamps[1] == stamps[2]


def test_the_output_plays_at_the_speed_of_the_room(anonymized):
    images = messages(anonymized, "/anonymized/image_raw")
    times = {header_of(raw)[0]: bag_ns for _, bag_ns, raw, _ in images}
    assert times == {stamp: stamp for stamp in times}


def test_faces_are_replaced_and_nothing_else_is_touched(anonymized):
    regions = {header_of(raw): m.regions for _, _, raw, m in messages(anonymized, "/regions")}
    rig = small_room.cameras()
    for topic, _, raw, message in messages(anonymized, "/anonymized/image_raw"):
        camera, (stamp, frame) = topic.split("/")[1], header_of(raw)
        index = (stamp - small_room.START_NS) // small_room.PERIOD_NS
        before, after = small_room.image(camera, index), color_array(message)
        changed = (before != after).any(axis=2)
        assert changed.mean() < 0.2
        covered = np.zeros_like(changed)
        for region in regions[stamp, frame]:
            x, y = region.polygon.reshape(-1, 2).T
            left, top = int(min(x)) - 2, int(min(y)) - 2
            covered[max(top, 0) : int(max(y)) + 3, max(left, 0) : int(max(x)) + 3] = True
        assert not (changed & ~covered).any()
        found = small_room.keypoints(rig, index)[camera][:, 0]
        for nose, body in zip(found, small_room.bodies(index), strict=True):
            if nose[2] > 0:
                x, y = nose[:2].astype(int)
                around = changed[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                _, depth = rig[camera].project(body[:5])
                hidden = depth[0] > depth[3:].mean()  # behind its own head, at whose edge it lies
                # Another head may be in front.
                assert changed[y, x] and around.mean() > (0.6 if hidden else 0.8)


def test_people_keep_their_numbers_and_meshes_are_recorded(anonymized):
    ids = [{p.track_id for p in m.persons} for *_, m in messages(anonymized, "/persons3d")]
    assert len(ids) == FRAMES and all(i == ids[0] for i in ids) and len(ids[0]) == 2
    heads = [m for *_, m in messages(anonymized, "/disguisor/heads")]
    (topology,) = [m for *_, m in messages(anonymized, "/head_topology")]
    assert all(len(h.vertices) == 3 * topology.vertex_count for m in heads for h in m.heads)
    assert max(topology.triangles) < topology.vertex_count


def test_what_is_latched_is_latched_when_the_output_is_played(anonymized):
    with open_bag(anonymized) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles for c in reader.connections}
    for topic in ("/tf_static", "/disguisor/skeleton", "/disguisor/head_topology"):
        assert offered[topic] == [LATCHED]
    assert not offered["/disguisor/heads"]


def test_frames_in_are_frames_out_and_withheld(anonymized):
    last = {}
    for *_, message in messages(anonymized, "/diagnostics"):
        for status in message.status:
            last[status.name] = {v.key: v.value for v in status.values}
    renderers = {n: v for n, v in last.items() if n.endswith("/face_renderer")}
    assert len(renderers) == 3
    for values in renderers.values():
        counts = [int(values.get(f"frames_{k}", 0)) for k in ("in", "out", "withheld", "waiting")]
        assert counts[0] == sum(counts[1:])


def test_the_output_tells_how_long_each_stage_works(anonymized):
    profile = {}
    for *_, message in messages(anonymized, "/diagnostics"):
        profile |= stage_ms(message)
    renderers = {f"{camera}/face_renderer" for camera in small_room.cameras()}
    assert set(profile) == {"synchronizer", "pose3d", "smpl_fitter", "head_registrar"} | renderers
    assert all(ms >= 0 for ms in profile.values())


def test_an_image_without_keypoints_is_withheld_and_holds_up_nothing(tmp_path):
    """... of cameras in a namespace, in a folder with a name that patterns and YAML know."""
    rig = {f"room/{name}": camera for name, camera in small_room.cameras(2).items()}

    def spoil(bag, camera, index):
        if camera == "room/cn01" and index in (2, 3, 5):
            bag.raw_color(camera, small_room.stamp(index), small_room.image(camera, index))
        return camera == "room/cn01" and index in (2, 3, 5)

    bag = small_room.write(tmp_path / "in", FRAMES, depth=False, spoil=spoil, rig=rig)
    out = tmp_path / "out: [1] Übung"
    begun = time.monotonic()
    code, errors = run(bag, out)
    assert code == 1 and time.monotonic() - begun < 60, errors
    assert "13 of 16 frames anonymized, 3 withheld" in errors
    assert "warning: room/cn01: 3 images withheld" in errors
    assert len(list(messages(out, "/anonymized/image_raw"))) == 13


def test_cameras_that_lost_images_lose_no_others(tmp_path):
    """The bag was held back for the sake of images that waited for what comes later in it."""
    gaps = {"cn01": (2, 3, 4), "cn02": (1, 5)}
    bag = small_room.write(
        tmp_path / "in", FRAMES, depth=False, rig=small_room.cameras(2),
        spoil=lambda _, camera, index: index in gaps[camera],
    )  # fmt: skip
    code, errors = run(bag, tmp_path / "out")
    assert code == 0 and "11 of 11 frames anonymized" in errors, errors


def test_a_camera_that_starts_late_costs_the_others_no_image(tmp_path):
    """They run ahead of it, faster than a stage takes their messages: queues must hold them."""
    bag = small_room.write(
        tmp_path / "in", 14, rig=small_room.cameras(2),
        spoil=lambda _, camera, index: camera == "cn02" and index < 10,
    )  # fmt: skip
    code, errors = run(bag, tmp_path / "out")
    assert code == 0 and "18 of 18 frames anonymized" in errors, errors


def test_keypoints_of_a_slow_detector_are_recorded_long_after_their_images(tmp_path):
    bag, late = tmp_path / "in", 4 * small_room.PERIOD_NS
    small_room.write(tmp_path / "prompt", FRAMES, depth=False, rig=small_room.cameras(2))
    with open_bag(tmp_path / "prompt") as reader, BagWriter(bag) as writer:
        played = [
            (time_ns + late * connection.topic.endswith("/keypoints2d"), connection, raw)
            for connection, time_ns, raw in raw_messages(reader)
        ]
        for time_ns, connection, raw in sorted(played, key=lambda one: one[0]):
            writer.write(connection.topic, connection.msgtype, time_ns, raw)
    code, errors = run(bag, tmp_path / "out")
    assert code == 0 and f"{2 * FRAMES} of {2 * FRAMES} frames anonymized" in errors, errors


def test_ctrl_c_leaves_a_readable_bag(tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells' background jobs ignore it
    bag = small_room.write(tmp_path / "in", frames=60)
    process = command("run", "--bag", bag, "--out", tmp_path / "out", "--rate", "0.5")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _grown(tmp_path / "out.partial"):
        time.sleep(0.5)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # Ended by the signal, which shells call 130: after a mere exit code their loops would go on.
    assert process.returncode == -signal.SIGINT and "interrupted" in errors, errors
    assert "of the bag's 180 frames anonymized" in errors and "withheld" not in errors
    assert list(messages(tmp_path / "out", "/image_raw"))


def test_compressed_images_are_recorded_instead_of_raw_ones(tmp_path):
    bag = small_room.write(tmp_path / "in", frames=2)
    code, errors = run(bag, tmp_path / "out", "--compressed", "png")
    assert code == 0, errors
    with open_bag(tmp_path / "out") as reader:
        assert "/cn01/anonymized/image_raw" not in reader.topics
    found = list(messages(tmp_path / "out", "/anonymized/image_raw/compressed"))
    assert len(found) == 6
    topic, _, raw, message = found[-1]
    image = compressed_color_array(message)
    index = (header_of(raw)[0] - small_room.START_NS) // small_room.PERIOD_NS
    before = small_room.image(topic.split("/")[1], index)[..., ::-1]
    assert 0.3 < (image == before).all(axis=2).mean() < 1


def test_a_stage_that_dies_ends_the_run_without_a_bag(tmp_path):
    bag = small_room.write(tmp_path / "in", frames=60)
    process = command("run", "--bag", bag, "--out", tmp_path / "out", "--rate", "0.5",
                      "--log-dir", tmp_path / "logs")  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _grown(tmp_path / "out.partial"):
        time.sleep(0.5)
    for pid in _children(process.pid):
        if "nodes.pose3d" in open(f"/proc/{pid}/cmdline").read():
            os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "pose3d died" in errors, errors
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("parameters", "line"),
    [
        ("{ros__parameters: {predict: 3}}", "Trying to set parameter 'predict' to '3' of type"),
        ("{predict: 3.0}", "Cannot have a value before ros__parameters"),
    ],
)
def test_a_stage_that_cannot_work_as_configured_is_wrong_input(tmp_path, parameters, line):
    bag, config = small_room.write(tmp_path / "in", frames=1), tmp_path / "my.yaml"
    config.write_text(f"/pose3d: {parameters}")
    code, errors = run(bag, tmp_path / "out", "--config", config, within_s=60)
    assert code == 2 and not list(tmp_path.glob("out*")), errors
    assert line in errors and "Traceback" not in errors and "[FATAL]" not in errors


def _grown(partial):
    return any(p.stat().st_size > 1_000_000 for p in partial.rglob("*.mcap"))


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
