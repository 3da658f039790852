"""The reader of recordings in the layout of or_holistic."""

import json
from pathlib import Path

import numpy as np
import pytest

from disguisor_ros.errors import UserError
from disguisor_ros.eval.datasets import load_or_holistic

CALIBRATION = """%YAML:1.0
---
color_image_width: 2048
color_image_height: 1536
undistorted_color_camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: f
   data: [ 1000., 0., 1024., 0., 1000., 768., 0., 0., 1. ]
depth2color_translation: !!opencv-matrix
   rows: 3
   cols: 1
   dt: f
   data: [ -32., 0., 0. ]
depth2color_rotation: !!opencv-matrix
   rows: 3
   cols: 3
   dt: f
   data: [ 1., 0., 0., 0., 1., 0., 0., 0., 1. ]
"""


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "calibration" / "cn01"
    folder.mkdir(parents=True)
    (folder / "camera_calibration.yml").write_text(CALIBRATION)
    pose = {
        "rotation": {"w": 1.0, "x": 0.0, "y": 0.0, "z": 0.0},
        "translation": {"m00": 0.5, "m10": 2.0, "m20": 3.0},
    }
    (folder / "world2camera.json").write_text(json.dumps(pose))
    person = [[1.0, 2.0, 0.5]] * 17
    (tmp_path / "keypoints2d.json").write_text(json.dumps({"7": {"cn01": [person]}, "3": {}}))
    (tmp_path / "face_boxes.json").write_text(json.dumps({"7": {"cn01": [[1, 2, 3, 4]]}}))
    return tmp_path


def test_world_is_z_up_and_in_metres(directory):
    recording = load_or_holistic(directory)
    camera = recording.cameras["cn01"]
    # Depth is 2 m up and looks along -z of the y-up world (+y here); colour is 32 mm right of it.
    assert np.allclose(camera.center, [0.532, -3.0, 2.0])
    assert np.allclose(camera.tf_world_camera[:3, 2], [0, 1, 0], atol=1e-9)
    assert list(recording.keypoints) == [3, 7]
    assert recording.keypoints[7]["cn01"].shape == (1, 17, 3)
    assert recording.face_boxes[7]["cn01"].tolist() == [[1, 2, 3, 4]]
    assert recording.stamp_ns(15) == 500_000_000


@pytest.mark.parametrize(
    "name",
    [
        "calibration/cn01/camera_calibration.yml", "calibration/cn01/world2camera.json",
        "keypoints2d.json", "face_boxes.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "content", [None, "{", '{"7": {"cn01": 5}}', "[1]", "%YAML:1.0\n---\na: 1"]
)
def test_missing_and_malformed_files_are_named(directory, name, content):
    path = directory / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=Path(name).name) as caught:
        load_or_holistic(directory)
    assert "\n" not in str(caught.value)


def test_keypoints_of_an_unknown_camera_are_named(directory):
    (directory / "keypoints2d.json").write_text('{"7": {"cn09": []}}')
    with pytest.raises(UserError, match="cn09"):
        load_or_holistic(directory)
