"""The MVOR benchmark and its reader, on a made-up data set in the same layout."""

import json
from pathlib import Path

import numpy as np
import pytest
from room import camera_ring, person, seen

from disguisor_ros.cli import main
from disguisor_ros.core.cameras import invert_rigid
from disguisor_ros.errors import UserError
from disguisor_ros.eval import mvor
from disguisor_ros.eval.datasets import MVOR_COCO, load_mvor
from disguisor_ros.eval.detected_views import detected_views

REAL = Path(__file__).resolve().parents[2] / "shared/data/mvor"
NAMES = ["head", "neck", "left_shoulder", "right_shoulder", "left_hip", "right_hip",
         "left_elbow", "right_elbow", "left_wrist", "right_wrist"]  # fmt: skip
RIG = camera_ring(3)
BODIES = [person(0, 0), person(1.2, 0.5, 2.0)]


def millimetres(transform):
    out = transform.copy()
    out[:3, 3] *= 1000
    return out.ravel().tolist()


@pytest.fixture
def directory(tmp_path):
    """Two instants with two people each; the second instant lacks a detector in cam3."""
    cameras = list(RIG.values())
    tf_first_world = cameras[0].tf_camera_world
    images, annotations, detections = [], [], []
    for instant in range(2):
        ids = [10 * (instant + 1) + number for number in (1, 2, 3)]
        name = "_".join(map(str, ids))
        images.append({
            "id": name,
            "images": [
                {"id": i, "cam_id": n, "day_id": 1, "file_name": f"cam{n}/{instant}.png",
                 "date_captured": f"2015-04-01 06:4{instant}:00.25"}
                for n, i in enumerate(ids, start=1)
            ],
        })  # fmt: skip
        keypoints = seen(BODIES, RIG)
        for number, found in enumerate(keypoints.values()):
            if instant == 1 and number == 2:
                continue
            detections += [
                {"image_id": ids[number], "coco_keypoints": one.ravel().tolist()} for one in found
            ]
        for body in BODIES:
            first = 1000 * (body @ tf_first_world[:3, :3].T + tf_first_world[:3, 3])
            joints = np.zeros((12, 4))
            joints[2:10, :3], joints[2:10, 3] = first[MVOR_COCO], 1
            annotations.append(
                {"ref_camera": 1, "image_ids": name, "keypoints3D": joints.ravel().tolist()}
            )
    parameters = {
        "firstCamToRoomRef": millimetres(cameras[0].tf_world_camera),
        "extrinsics": [millimetres(tf_first_world @ c.tf_world_camera) for c in cameras],
        "intrinsics": [
            {"focallength": [600, 600], "principalpoint": [640, 360], "imagesize": [1280, 720]}
        ] * 3,
    }  # fmt: skip
    data = {
        "cameras_info": {"camParams": parameters},
        "categories": [{"keypoints": NAMES}],
        "multiview_images": images,
        "annotations3D": annotations,
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    (tmp_path / "openpose_kps.json").write_text(json.dumps(detections))
    return tmp_path


def test_reader_gives_cameras_people_and_times(directory):
    data = load_mvor(directory)
    assert list(data.cameras) == ["cam1", "cam2", "cam3"]
    for name, camera in RIG.items():
        assert np.allclose(data.cameras[name].tf_camera_world, camera.tf_camera_world, atol=1e-6)
    first, second = data.frames
    assert second.stamp_ns - first.stamp_ns == 60 * 10**9
    assert first.stamp_ns % 10**9 == 250_000_000
    assert np.allclose(first.persons[0], BODIES[0][MVOR_COCO], atol=1e-6)
    assert [len(k) for k in second.keypoints.values()] == [2, 2, 0]
    assert np.allclose(invert_rigid(data.cameras["cam1"].tf_camera_world)[2, 3], 2.5)


def test_perfect_detections_give_hardly_any_error(directory, tmp_path):
    out = tmp_path / "new" / "out.json"
    assert main(["benchmark", "mvor", "--data", str(directory), "--json", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["recall"] == figures["recall_multiview"] == 1.0
    assert figures["persons"] == {"0": 0, "1": 0, "2": 2, "3": 2}
    assert figures["mpjpe_cm"]["1"] is None
    assert max(figures["mpjpe_cm"]["2"], figures["mpjpe_cm_multiview"]) < 1.0


def test_figures_that_cannot_be_written_are_one_line(directory, capsys):
    assert main(["benchmark", "mvor", "--data", str(directory), "--json", str(directory)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(directory) in error and "Traceback" not in error


def test_views_count_only_detections_that_meet_the_person():
    keypoints = seen([BODIES[0]], RIG)
    keypoints["cam2"][:, :, 0] += 150.0
    keypoints["cam3"] = keypoints["cam3"][:0]
    assert list(detected_views(np.array(BODIES), keypoints, RIG)) == [1, 0]


def test_figures_are_means_by_number_of_views():
    rows = [
        (1, np.full(8, 0.2)),
        (1, None),
        (2, np.full(8, 0.1)),
        (3, np.full(8, 0.06)),
        (0, None),
    ]
    figures = mvor._figures(rows)
    assert figures["mpjpe_cm"] == pytest.approx({"1": 20.0, "2": 10.0, "3": 6.0})
    assert figures["mpjpe_cm_multiview"] == pytest.approx(8.0)
    assert figures["recall"] == pytest.approx(0.75) and figures["recall_multiview"] == 1.0


@pytest.mark.parametrize("name", ["annotations.json", "openpose_kps.json"])
@pytest.mark.parametrize("content", [None, "{", "{}", '[{"image_id": 1}]', "3"])
def test_missing_and_malformed_files_are_named(directory, name, content, capsys):
    if content == "{}" and name == "openpose_kps.json":
        pytest.skip("an empty collection of detections is valid")
    path = directory / name
    path.unlink() if content is None else path.write_text(content)
    assert main(["benchmark", "mvor", "--data", str(directory)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and name in error[0]


def test_no_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_mvor(tmp_path / "nowhere")


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/mvor")
def test_real_recordings():
    data = load_mvor(REAL)
    data.frames[:] = data.frames[::8]
    figures = mvor.evaluate(data)
    assert figures["recall_multiview"] >= 0.9 and figures["mpjpe_cm_multiview"] < 14
