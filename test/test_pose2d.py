"""2D poses: each family's tensors decoded to known people, and the search around them."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disguisor_ros.core.pose2d import PoseDetector, load_detector, load_model, regions_of
from disguisor_ros.core.pose2d.detector import _tiles, merge, unexplained
from disguisor_ros.core.pose2d.face_detector import FaceDetector, add_faces
from disguisor_ros.core.pose2d.families import PoseModel
from disguisor_ros.core.pose2d.instant_queue import InstantQueue
from disguisor_ros.core.pose2d.onnx_session import Letterbox
from disguisor_ros.pose_models import default_face_model, default_model, reference_image

onnx = pytest.importorskip("onnx", reason="requirements-pose2d.txt is not installed")
pytest.importorskip("onnxruntime", reason="requirements-pose2d.txt is not installed")

needs_models = pytest.mark.skipif(
    not (default_model().exists() and default_face_model().exists()),
    reason="no models: run `make pose-model`",
)


def person(x=300.0, y=100.0, size=200.0, score=0.9):
    """A standing person, head up, shape (17, 3)."""
    template = np.array([
        [0, 0.1], [0.03, 0.08], [-0.03, 0.08], [0.06, 0.1], [-0.06, 0.1], [0.15, 0.25],
        [-0.15, 0.25], [0.2, 0.4], [-0.2, 0.4], [0.22, 0.52], [-0.22, 0.52], [0.1, 0.55],
        [-0.1, 0.55], [0.1, 0.77], [-0.1, 0.77], [0.1, 0.97], [-0.1, 0.97],
    ])  # fmt: skip
    return np.column_stack([template * size + (x, y), np.full(17, score)])


def network(path: Path, inputs: tuple, outputs: dict[str, np.ndarray], dtype="float") -> Path:
    """An ONNX model that answers every image of a given input shape with known tensors."""
    kind = {"float": onnx.TensorProto.FLOAT, "int32": onnx.TensorProto.INT32}[dtype]
    nodes, infos = [], []
    for name, value in outputs.items():
        tensor = onnx.numpy_helper.from_array(value.astype(np.float32), name)
        nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
        infos.append(onnx.helper.make_tensor_value_info(name, 1, value.shape))
    graph = onnx.helper.make_graph(
        nodes, "known", [onnx.helper.make_tensor_value_info("input", kind, inputs)], infos
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


# People in the network's input, 640 x 640; the image is 1280 x 720, so the scale is 1/2.
SCALE = np.array([2.0, 2.0, 1.0])
IMAGE = np.zeros((720, 1280, 3), np.uint8)
PEOPLE = np.stack([person(150, 50, 200, 0.9), person(400, 30, 250, 0.8)])
SCORES = np.array([0.9, 0.7])


def expected(pose):
    """The person in the image: twice as large, counted from pixel centres."""
    return pose * SCALE - (0.5, 0.5, 0.0)


def test_rtmo_layout(tmp_path):
    dets = np.zeros((1, 3, 5))
    dets[0, :, 4] = [*SCORES, 0.01]
    keypoints = np.stack([*PEOPLE, person()])[None]
    path = network(tmp_path / "m", (1, 3, 640, 640), {"dets": dets, "keypoints": keypoints})
    poses, scores = load_model("rtmo", path)(IMAGE)
    np.testing.assert_allclose(scores, SCORES, atol=1e-6)
    np.testing.assert_allclose(poses, expected(PEOPLE), atol=1e-3)


@pytest.mark.parametrize("end_to_end", [False, True])
def test_yolo_layouts(tmp_path, end_to_end):
    start = 6 if end_to_end else 5
    rows = np.zeros((8, start + 51))
    rows[:2, start:] = PEOPLE.reshape(2, 51)
    rows[:2, 4] = SCORES
    output = rows[None] if end_to_end else rows.T[None]
    path = network(tmp_path / "m", (1, 3, 640, 640), {"output0": output})
    poses, scores = load_model("yolo", path)(IMAGE)
    np.testing.assert_allclose(scores, SCORES, atol=1e-6)
    np.testing.assert_allclose(poses, expected(PEOPLE), atol=1e-3)


def test_movenet_decoded_layout(tmp_path):
    rows = np.zeros((1, 6, 56))
    rows[0, :2, :51] = (PEOPLE / (640, 640, 1))[..., [1, 0, 2]].reshape(2, 51)
    rows[0, :2, 55] = SCORES
    path = network(tmp_path / "m", (1, 640, 640, 3), {"Identity": rows}, "int32")
    poses, scores = load_model("movenet", path)(IMAGE)
    np.testing.assert_allclose(scores, SCORES, atol=1e-6)
    np.testing.assert_allclose(poses, expected(PEOPLE), atol=1e-3)


def heads(people, cells=160):
    """MoveNet's heads for people given in input pixels, four to a cell."""
    out = {
        "center": np.zeros((1, cells, cells, 1)),
        "box_size": np.zeros((1, cells, cells, 2)),
        "box_offset": np.zeros((1, cells, cells, 2)),
        "regression": np.zeros((1, cells, cells, 34)),
        "heatmap": np.zeros((1, cells, cells, 17)),
        "offset": np.zeros((1, cells, cells, 34)),
    }
    for pose, score in zip(people, SCORES, strict=True):
        joints = pose[:, 1::-1] / 4  # y, x in cells
        row, column = np.rint(joints.mean(axis=0)).astype(int)
        out["center"][0, row, column] = score
        out["box_size"][0, row, column] = np.ptp(joints, axis=0) + 8
        out["box_offset"][0, row, column] = (joints.max(0) + joints.min(0)) / 2 - (row, column)
        out["regression"][0, row, column] = (joints - (row, column) + 0.4).ravel()
        for k, (y, x) in enumerate(joints):
            cell = int(y), int(x)
            out["heatmap"][0, *cell, k] = pose[k, 2]
            out["offset"][0, *cell, 2 * k : 2 * k + 2] = (y - cell[0], x - cell[1])
    return out


def test_movenet_heads_layout(tmp_path):
    path = network(tmp_path / "m", (1, 640, 640, 3), heads(PEOPLE), "int32")
    poses, scores = load_model("movenet", path)(IMAGE)
    np.testing.assert_allclose(poses[..., :2], expected(PEOPLE)[..., :2], atol=1e-3)
    # A joint counts less the further it lies from where the person regresses it.
    assert (poses[..., 2] <= PEOPLE[..., 2]).all()
    assert (poses[..., 2] > 0.93 * PEOPLE[..., 2]).all()
    assert (scores < SCORES).all() and scores[0] > scores[1]


def test_dekr_layout(tmp_path):
    heatmaps, displacements = np.zeros((1, 18, 160, 160)), np.zeros((1, 34, 160, 160))
    for pose, score in zip(PEOPLE, SCORES, strict=True):
        joints = pose[:, :2] / 4
        x, y = np.rint(joints.mean(axis=0)).astype(int)
        heatmaps[0, 17, y, x] = score
        displacements[0, :, y, x] = (joints - (x, y)).ravel()
        column, row = np.rint(joints).astype(int).T
        heatmaps[0, np.arange(17), row, column] = pose[:, 2]
    path = network(tmp_path / "m", (1, 3, 640, 640), {"h": heatmaps, "d": displacements})
    poses, scores = load_model("dekr", path)(IMAGE)
    np.testing.assert_allclose(scores, SCORES, atol=1e-6)
    # Cells are counted from their centres: half an input pixel, one image pixel.
    np.testing.assert_allclose(poses, expected(PEOPLE) + (1, 1, 0), atol=1e-3)


def test_wrong_pair_is_a_clear_error(tmp_path):
    yolo = network(tmp_path / "y", (1, 3, 640, 640), {"output0": np.zeros((1, 56, 8))})
    for wrong in ("rtmo", "movenet", "dekr"):
        with pytest.raises(ValueError, match=r"expected input .* the file has input .*output0"):
            load_model(wrong, yolo)
    with pytest.raises(ValueError, match="not a CenterFace network"):
        FaceDetector.load(yolo)


def test_bad_files_and_names(tmp_path):
    with pytest.raises(ValueError, match="model_type must be one of .*'openpose'"):
        load_model("openpose", tmp_path / "m")
    with pytest.raises(ValueError, match="does not exist"):
        load_model("rtmo", tmp_path / "m")
    (tmp_path / "m").write_bytes(b"no network")
    with pytest.raises(ValueError, match="cannot be loaded as ONNX"):
        load_model("rtmo", tmp_path / "m")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        None,
    ],
)
def test_bad_images(image):
    with pytest.raises(ValueError, match="image must"):
        PoseDetector(Sees([]))(image)


class Sees(PoseModel):
    """A model that finds those people whose head is at least so many pixels high in its input."""

    def __init__(self, people, smallest=0.0):
        self.people, self.smallest, self.looks = people, smallest, []

    def __call__(self, image, side=None, min_score=None):
        self.looks.append((side, min_score))
        scale = side / max(image.shape[:2])
        low_x, low_y, high = image[0, 0].astype(int)
        corner = np.array([low_x + 256 * (high % 16), low_y + 256 * (high // 16)])
        found = []
        for pose in self.people:
            local = pose.copy()
            local[:, :2] -= corner
            inside = (local[:, :2] >= 0).all(1) & (local[:, :2] < image.shape[1::-1]).all(1)
            if inside[:5].all() and np.ptp(local[:, 1]) * scale >= self.smallest:
                local[~inside, 2] = 0.01
                found.append(local)
        found = np.array(found).reshape(-1, 17, 3)
        return found, found[..., 2].mean(axis=1)


def coordinates(width, height):
    """An image whose pixels tell where they are."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=-1).astype(np.uint8)


def test_one_look_when_nobody_is_missing():
    model = Sees([person()])
    found = PoseDetector(model)(
        coordinates(1280, 720), regions_of(person()[None, :, :2], 1280, 720)
    )
    assert len(found) == 1 and len(model.looks) == 1
    np.testing.assert_allclose(found[0], person())


def test_a_lost_person_is_looked_for_in_their_region():
    small = person(1000, 400, 60)
    model = Sees([person(), small], smallest=60)
    image = coordinates(1280, 720)
    assert len(PoseDetector(model)(image)) == 1
    found = PoseDetector(model)(image, regions_of(np.stack([person(), small])[..., :2], 1280, 720))
    assert len(found) == 2
    np.testing.assert_allclose(found[1, :, :2], small[:, :2])
    assert model.looks[-1] == (model.side // 2, model.min_score / 2)


def test_tiles_find_small_people_once():
    small = [person(x, y, 60) for x in (200, 640, 1100) for y in (100, 360, 560)]
    model = Sees(small, smallest=40)
    assert len(PoseDetector(model)(coordinates(1280, 720))) == 0
    assert len(PoseDetector(model, tiles=2)(coordinates(1280, 720))) == 9


@given(st.integers(8, 3000), st.integers(8, 3000), st.integers(1, 8))
def test_tiles_cover_the_image(width, height, count):
    image = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (height, width, 3), (0, 0, 0))
    tiles = np.array(_tiles(image, count))
    assert len(tiles) == count**2
    assert (tiles[:, :2] >= 0).all() and tiles[:, 2:].min() >= 1
    assert (tiles[:, :2] + tiles[:, 2:] <= (width, height)).all()
    for axis, size in ((0, width), (1, height)):
        covered = np.zeros(size, bool)
        for start, length in tiles[:, [axis, axis + 2]]:
            covered[start : start + length] = True
        assert covered.all()


def test_merge_keeps_the_better_head():
    blind, whole = person(score=0.8), person(x=301, score=0.6)
    blind[:5, 2] = 0.0
    poses, scores = merge(np.stack([blind, whole, person(x=600)]), np.array([0.9, 0.5, 0.3]))
    assert len(poses) == 2
    np.testing.assert_allclose(poses[0, :5], whole[:5])
    np.testing.assert_allclose(poses[0, 5:], blind[5:])
    np.testing.assert_allclose(scores, [0.9, 0.3])


def test_merge_of_nobody():
    poses, scores = merge(np.zeros((0, 17, 3)), np.zeros(0))
    assert poses.shape == (0, 17, 3) and scores.shape == (0,)


def test_two_regions_need_two_people():
    regions = np.array([[200, 100, 100, 200], [210, 105, 100, 200]], float)
    one = person(255, 100, 200)[None]
    assert len(unexplained(regions, one)) == 1
    assert len(unexplained(regions, np.concatenate([one, one]))) == 0
    assert len(unexplained(regions, np.zeros((0, 17, 3)))) == 2


def test_regions_of_leaves_out_who_is_not_in_view():
    inside, outside, behind = person()[:, :2], person(3000)[:, :2], np.full((17, 2), np.nan)
    regions = regions_of(np.stack([inside, outside, behind]), 1280, 720)
    assert len(regions) == 1
    np.testing.assert_allclose(regions[0], [256, 116, 88, 178])


@given(
    st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([64, 256, 512]),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_letterbox_round_trip(width, height, side, u, v):
    image = np.zeros((height, width, 3), np.uint8)
    box = Letterbox.fit_side(image, side, pad=0)
    assert all(n % 32 == 0 for n in box.image.shape[:2])
    assert max(box.image.shape[:2]) == side
    # A point at a part of the image is at the same part of what the network sees of it.
    inner = np.array([width, height]) * box.scale
    np.testing.assert_allclose(
        box.to_image(inner * (u, v)) + 0.5, np.array([width, height]) * (u, v), atol=1e-6
    )


def test_faces_without_a_pose_become_heads():
    face = np.array([100, 100, 40, 50, 0.8, 110, 120, 130, 120, 120, 130, 112, 140, 128, 140.0])
    far = face + [500, 0, 0, 0, 0, *([500, 0] * 5)]
    pose = person(620, 110, 200)  # its head lies in the second face
    out = add_faces(pose[None], np.stack([face, far]))
    assert len(out) == 2
    head = out[1]
    np.testing.assert_allclose(head[0], [120, 130, 0.8])  # nose
    assert head[1, 0] > head[2, 0]  # the left eye is on the image's right
    assert head[3, 0] == 140 and head[4, 0] == 100  # ears at the sides
    assert (head[5:, 2] == 0).all()


@needs_models
def test_movenet_finds_the_known_portrait():
    from disguisor_ros.pose_models import verify_movenet

    verify_movenet(load_model("movenet", default_model()))


@needs_models
def test_movenet_follows_the_image():
    """Shifted, scaled and mirrored images give shifted, scaled and mirrored people."""
    detector = load_detector("movenet", default_model())
    image = np.zeros((720, 1280, 3), np.uint8)
    image[60:660, 100:612] = reference_image()
    pose = detector(image)[0, :7]
    moved = detector(np.roll(image, (40, 400), axis=(0, 1)))[0, :7]
    np.testing.assert_allclose(moved[:, :2], pose[:, :2] + (400, 40), atol=12)
    large = detector(cv2.resize(image, (2560, 1440)))[0, :7]
    np.testing.assert_allclose((large[:, :2] + 0.5) / 2, pose[:, :2] + 0.5, atol=4)
    mirrored = detector(np.ascontiguousarray(image[:, ::-1]))[0, [0, 2, 1, 4, 3, 6, 5]]
    np.testing.assert_allclose(1279 - mirrored[:, 0], pose[:, 0], atol=12)


@needs_models
@pytest.mark.parametrize("shape", [(37, 53), (1, 1), (2000, 40), (31, 1025)])
def test_odd_sizes(shape):
    detector = load_detector("movenet", default_model(), face_model_path=default_face_model())
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    poses = detector(noise, np.array([[0, 0, 10, 10.0]]))
    assert poses.shape[1:] == (17, 3) and np.isfinite(poses).all()


@needs_models
def test_faces_are_found_where_the_pose_has_them():
    faces = FaceDetector.load(default_face_model())(reference_image())
    pose = load_detector("movenet", default_model())(reference_image())[0]
    assert len(faces) == 1
    np.testing.assert_allclose(faces[0, 9:11], pose[0, :2], atol=20)  # nose
    assert len(add_faces(pose[None], faces)) == 1


@needs_models
def test_real_people_in_five_views():
    """Every face that CenterFace is sure of has a head of a pose in it, in all real images."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "panoptic"
    images = sorted(folder.glob("*/*.jpg"))[::4]
    if not images:
        pytest.skip("no ../shared/data/panoptic")
    detector = load_detector("movenet", default_model())
    faces = FaceDetector.load(default_face_model())
    seen = 0
    for path in images:
        image = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        poses = detector(image)
        found = faces(image)
        found = found[found[:, 4] > 0.5]
        seen += len(found)
        assert len(add_faces(poses, found)) == len(poses), path
    assert seen >= 5


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
@settings(max_examples=100)
def test_queue_keeps_instants_whole(events):
    """However slow the stage: what leaves is in order, and an instant begun is finished."""
    queue = InstantQueue(capacity=3, slop_ns=5)
    sent, out, lost = [0, 0, 0], [], 0
    for camera, work in events:
        lost += queue.put(str(camera), 100 * sent[camera] + camera, camera)
        sent[camera] += 1
        if work and (entry := queue.pop()):
            out.append(entry[1] // 100)
    while entry := queue.pop():
        out.append(entry[1] // 100)
    assert len(out) + lost == sum(sent)
    assert len(queue) == 0


def test_queue_drops_the_oldest_instant_of_all_cameras():
    queue = InstantQueue(capacity=2, slop_ns=5)
    assert [queue.put(c, s, None) for s in (0, 100) for c in "ab"] == [0, 0, 0, 0]
    assert queue.pop()[:2] == ("a", 0)  # the instant 0 has begun: it stays
    assert queue.put("a", 200, None) == 0
    assert queue.put("b", 201, None) == 2  # 100 goes in both
    assert queue.put("b", 102, None) == 1  # and does not come back
    assert [queue.pop()[:2] for _ in range(3)] == [("b", 0), ("a", 200), ("b", 201)]
    assert queue.pop() is None
