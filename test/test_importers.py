import json
import os
import pickle

import cv2
import numpy as np
import pytest
from conftest import shared_data

from disguisor_ros.bridge.bags import header_of, open_bag, raw_messages
from disguisor_ros.cli import main
from disguisor_ros.errors import UserError
from disguisor_ros.importers import read_pickle
from disguisor_ros.run.recording import inspect

SIZE = (64, 48)


def contents(bag):
    out = {}
    with open_bag(bag) as reader:
        for connection, _, raw in raw_messages(reader):
            message = reader.deserialize(raw, connection.msgtype)
            out.setdefault(connection.topic, []).append((raw, message))
    return out


@pytest.fixture
def published(tmp_path):
    """Two frames of two cameras in the layout in which DisguisOR publishes its data."""
    root = tmp_path / "recording"
    keypoints = {}
    for number, name in enumerate(("cn01", "cn02")):
        folder = root / name
        folder.mkdir(parents=True)
        storage = cv2.FileStorage(
            str(folder / "camera_calibration.yml"), cv2.FILE_STORAGE_WRITE
        )
        matrix = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
        storage.write("color_image_width", SIZE[0])
        storage.write("color_image_height", SIZE[1])
        storage.write("depth2color_rotation", np.eye(3))
        storage.write("depth2color_translation", np.array([[32.0], [0], [0]]))
        storage.write("undistorted_color_camera_matrix", matrix)
        storage.write("color_camera_matrix", matrix)
        storage.write("color_distortion_coefficients", np.zeros((8, 1)))
        storage.release()
        pose = {
            "rotation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
            "translation": {"m00": float(number), "m10": 2.0, "m20": 3.0},
        }
        (folder / "world2camera.json").write_text(json.dumps(pose))
        for frame in (7, 8):
            color = np.full((SIZE[1], SIZE[0], 3), 40 * frame % 256, dtype=np.uint8)
            depth = np.full((SIZE[1], SIZE[0]), 1000 + frame, dtype=np.uint16)
            cv2.imwrite(str(folder / f"{frame:010d}_color.jpg"), color)
            cv2.imwrite(str(folder / f"{frame:010d}_rgbd.tiff"), depth)
            person = np.full((17, 3), [20.0, 20.0, 0.5])
            keypoints[f"{name}_{frame}"] = [person] * (number + 1)
    (root / "day1_2d_kps.pkl").write_bytes(pickle.dumps(keypoints))
    return root


def test_the_layout_of_the_reference_becomes_a_bag_that_the_graph_takes(published, tmp_path):
    assert main(["import", "disguisor", str(published), str(tmp_path / "bag")]) == 0
    recording = inspect(tmp_path / "bag")
    assert recording.cameras == ["cn01", "cn02"] and recording.frames == {"cn01": 2, "cn02": 2}
    found = contents(tmp_path / "bag")
    raw, depth = found["/cn01/depth/image_raw"][0]
    assert depth.encoding == "16UC1" and set(depth.data.view(np.uint16)) == {1007}
    assert header_of(raw) == header_of(found["/cn01/color/image_raw/compressed"][0][0])
    assert len(found["/cn02/keypoints2d"][0][1].persons) == 2
    # The JPEG is passed on byte for byte.
    original = (published / "cn01" / "0000000007_color.jpg").read_bytes()
    assert found["/cn01/color/image_raw/compressed"][0][1].data.tobytes() == original


def test_depth_of_another_size_than_colour_is_refused(published, tmp_path, capsys):
    path = published / "cn02" / "0000000008_rgbd.tiff"
    cv2.imwrite(str(path), np.zeros((10, 10), dtype=np.uint16))
    assert main(["import", "disguisor", str(published), str(tmp_path / "bag")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not list(tmp_path.glob("bag*"))


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = tmp_path / "x_2d_kps.pkl"
    path.write_bytes(pickle.dumps({"cn01_7": Evil()}))
    with pytest.raises(UserError, match="only arrays"):
        read_pickle(path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays_are_read_in_every_protocol(tmp_path, protocol):
    path = tmp_path / "kps.pkl"
    content = {"cn01_7": [np.arange(51.0).reshape(17, 3)], "cn01_8": np.zeros((2, 17, 3), "f4")}
    path.write_bytes(pickle.dumps(content, protocol))
    assert np.array_equal(read_pickle(path)["cn01_7"][0], content["cn01_7"][0])


def test_a_damaged_pickle_is_refused(tmp_path):
    path = tmp_path / "kps.pkl"
    path.write_bytes(pickle.dumps({"cn01_7": np.zeros((1, 17, 3))})[:40])
    with pytest.raises(UserError, match="kps.pkl"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("layout", "cameras"), [("or_holistic", 6), ("mvor", 3), ("panoptic", 5)]
)
def test_real_recordings_become_bags_that_the_graph_takes(layout, cameras, tmp_path):
    source = shared_data(layout)
    assert main(["import", layout, str(source), str(tmp_path / "bag")]) == 0
    recording = inspect(tmp_path / "bag", keypoints=layout != "panoptic")
    assert len(recording.cameras) == cameras and len(set(recording.frames.values())) == 1


@pytest.mark.parametrize("layout", ["or_holistic", "mvor", "panoptic", "disguisor"])
def test_a_folder_that_is_not_the_data_set_is_refused(layout, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["import", layout, str(tmp_path / "empty"), str(tmp_path / "bag")]) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err
    assert not list(tmp_path.glob("bag*"))
