"""Body models: one interface over Anny and the SMPL family."""

import pickle

import numpy as np
import pytest

from disguisor_ros.core.body_models import (
    LIMB_ENDS,
    PARENTS,
    SEGMENTS,
    BodyModel,
    load_anny,
    load_smplx,
)
from disguisor_ros.core.rotations import yaw_matrix

#: Rest joints of a made-up SMPL body, y-up, looking along z, metres.
SMPL_JOINTS = np.array([
    [0, 0.0, 0], [0.07, -0.08, 0], [-0.07, -0.08, 0], [0, 0.12, -0.02], [0.1, -0.47, 0],
    [-0.1, -0.47, 0], [0, 0.26, 0], [0.09, -0.87, -0.03], [-0.09, -0.87, -0.03], [0, 0.32, 0],
    [0.12, -0.93, 0.1], [-0.12, -0.93, 0.1], [0, 0.52, -0.02], [0.08, 0.43, 0], [-0.08, 0.43, 0],
    [0, 0.6, 0], [0.17, 0.44, 0], [-0.17, 0.44, 0], [0.43, 0.43, 0], [-0.43, 0.43, 0],
    [0.68, 0.44, 0], [-0.68, 0.44, 0], [0.76, 0.43, 0], [-0.76, 0.43, 0],
], dtype=float)  # fmt: skip
SMPL_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
FACE_AT = {"nose": (0, 0.63, 0.11), "leye": (0.03, 0.66, 0.09), "reye": (-0.03, 0.66, 0.09),
           "lear": (0.075, 0.64, 0.0), "rear": (-0.075, 0.64, 0.0)}  # fmt: skip


def smpl_file(kind: str) -> dict:
    """Synthetic model data in the official layout: every vertex sits on a joint."""
    from smplx.vertex_ids import vertex_ids

    count = 10475 if kind == "smplx" else 6890
    joints, parents = SMPL_JOINTS.copy(), list(SMPL_PARENTS)
    if kind == "smplx":  # jaw and eyes
        joints, parents = np.vstack([joints[:22], np.tile(joints[15], (3, 1))]), parents[:22]
        parents += [15, 15, 15]
    if kind != "smpl":  # fifteen joints a hand
        keep = 22 if kind == "smplh" else 25
        joints, parents = joints[:keep], parents[:keep]
        for wrist in (20, 21):
            joints = np.vstack([joints, np.tile(joints[wrist], (15, 1))])
            parents += [wrist] * 15
    owner = np.arange(count) % len(joints)
    vertices = joints[owner]
    for name, at in FACE_AT.items():
        index = vertex_ids["smplx" if kind == "smplx" else "smplh"][name]
        vertices[index], owner[index] = np.array(at), 15
    regressor = np.zeros((len(joints), count))
    for joint in range(len(joints)):
        on_it = np.flatnonzero((vertices == joints[joint]).all(axis=1))
        regressor[joint, on_it] = 1 / len(on_it)
    table = np.array([parents, np.arange(len(parents))])
    table[0, 0] = 2**32 - 1
    return {
        "v_template": vertices, "f": np.array([[0, 1, 2], [2, 1, 3]]), "J_regressor": regressor,
        "kintree_table": table, "weights": np.eye(len(joints))[owner],
        "shapedirs": np.zeros((count, 3, 20)),
        "posedirs": np.zeros((count, 3, 9 * (len(joints) - 1))),
        "hands_componentsl": np.eye(45), "hands_componentsr": np.eye(45),
        "hands_meanl": np.zeros(45), "hands_meanr": np.zeros(45),
        "lmk_faces_idx": np.zeros(51, int), "lmk_bary_coords": np.ones((51, 3)) / 3,
    }  # fmt: skip


def write_model(folder, kind: str) -> str:
    """Write a synthetic model as its site ships it: SMPL as .pkl, the others as .npz."""
    data = smpl_file(kind)
    if kind == "smpl":
        path = folder / "SMPL_NEUTRAL.pkl"
        path.write_bytes(pickle.dumps(data))
    else:
        path = folder / f"{kind.upper()}_NEUTRAL.npz"
        np.savez(path, **data)
    return path


def check_body(model: BodyModel) -> None:
    """What the fitter relies on, for any model."""
    assert model.faces.max() < len(model.vertices)
    np.testing.assert_allclose(model.weights.sum(axis=1), 1, atol=1e-5)
    nose, left, right = model.keypoints[0], model.keypoints[5], model.keypoints[6]
    assert left[1] > 0.1 > -0.1 > right[1], "left is +y"
    assert nose[0] > model.keypoints[3, 0] + 0.05, "the nose points along +x"
    assert nose[2] > left[2] > model.keypoints[11, 2] > model.keypoints[15, 2], "up is +z"
    np.testing.assert_allclose(model.keypoints[[11, 12]].mean(axis=0), 0, atol=1e-9)
    for segment, end in LIMB_ENDS.items():
        limb = model.keypoints[end] - model.pivots[segment]
        assert limb[2] < -0.8 * np.linalg.norm(limb), f"{SEGMENTS[segment]} hangs down at ease"


def test_anny_stands_at_ease_in_the_body_frame():
    model = load_anny()
    check_body(model)
    assert 1.6 < np.ptp(model.vertices[:, 2]) < 1.9
    # Wrists hang below the hips' height and the mesh's hands are near them.
    hands = model.vertices[model.weights[:, SEGMENTS.index("left_forearm")] > 0.9]
    assert np.linalg.norm(hands - model.keypoints[9], axis=1).min() < 0.04


@pytest.mark.parametrize("kind", ["smpl", "smplh", "smplx"])
def test_smpl_family_from_the_official_layout(tmp_path, kind):
    model = load_smplx(write_model(tmp_path, kind))
    check_body(model)
    thigh = np.linalg.norm(model.keypoints[13] - model.keypoints[11])
    assert thigh == pytest.approx(np.linalg.norm(SMPL_JOINTS[4] - SMPL_JOINTS[1]), abs=1e-5)


def test_a_file_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_smplx(tmp_path / "missing.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.npz: not a SMPL"):
        load_smplx(tmp_path / "junk.npz")
    np.savez(tmp_path / "odd.npz", weights=np.zeros((100, 24)))
    with pytest.raises(ValueError, match="6890 or 10475 vertices, got 100"):
        load_smplx(tmp_path / "odd.npz")


def test_skin_moves_rigidly_and_bends_at_the_pivot():
    model = load_anny()
    count = len(SEGMENTS)
    turned = np.tile(yaw_matrix(0.5), (1, count, 1, 1))
    pivots = (model.pivots @ yaw_matrix(0.5).T + [1, 2, 3])[None]
    moved = model.skin(turned, pivots, np.ones((1, count, 3)))[0]
    expected = model.vertices @ yaw_matrix(0.5).T + [1, 2, 3]
    np.testing.assert_allclose(moved, expected, atol=1e-4)
    head = SEGMENTS.index("head")
    rotations = np.tile(np.eye(3), (1, count, 1, 1))
    rotations[0, head] = yaw_matrix(1.0)
    bent = model.skin(rotations, model.pivots[None], np.ones((1, count, 3)))[0]
    only = model.weights[:, head] > 0.999
    expected = (model.vertices[only] - model.pivots[head]) @ yaw_matrix(1.0).T + model.pivots[head]
    np.testing.assert_allclose(bent[only], expected, atol=1e-4)
    still = model.weights[:, head] == 0
    np.testing.assert_allclose(bent[still], model.vertices[still], atol=1e-5)


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"weights must have shape \(4, 11\)"):
        BodyModel(np.zeros((4, 3)), np.zeros((1, 3), int), np.zeros((4, 2)), np.zeros((11, 3)),
                  np.zeros((17, 3)))  # fmt: skip


def test_parents_come_before_their_children():
    assert all(parent < segment for segment, parent in enumerate(PARENTS))
