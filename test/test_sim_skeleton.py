"""Forward and inverse kinematics of the simulated people."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from disguisor_ros.sim.skeleton import BONES, Pose, bone_transforms

HEADS = {bone: np.zeros(3) for bone in BONES} | {
    "spine01": np.array([0, 0, 0.4]), "head": np.array([0, 0, 0.7]),
    "clavicle.L": np.array([0, 0.05, 0.5]), "clavicle.R": np.array([0, -0.05, 0.5]),
    "upperarm01.L": np.array([0, 0.2, 0.5]), "upperarm01.R": np.array([0, -0.2, 0.5]),
    "lowerarm01.L": np.array([0, 0.4, 0.3]), "lowerarm01.R": np.array([0, -0.4, 0.3]),
    "wrist.L": np.array([0.1, 0.55, 0.15]), "wrist.R": np.array([0.1, -0.55, 0.15]),
    "upperleg01.L": np.array([0, 0.1, 0.0]), "upperleg01.R": np.array([0, -0.1, 0.0]),
    "lowerleg01.L": np.array([0, 0.12, -0.4]), "lowerleg01.R": np.array([0, -0.12, -0.4]),
    "foot.L": np.array([0, 0.13, -0.8]), "foot.R": np.array([0, -0.13, -0.8]),
}  # fmt: skip


def placed(pose, bone):
    tf = bone_transforms(HEADS, pose)[BONES.index(bone)]
    return tf[:3, :3] @ HEADS[bone] + tf[:3, 3]


def test_rest_pose_moves_nothing():
    transforms = bone_transforms(HEADS, Pose(np.zeros(3), np.eye(3)))
    assert np.allclose(transforms, np.eye(4), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.15, 0.45), st.floats(-0.2, 0.3), st.floats(0.1, 0.6))
def test_hand_comes_to_a_target_within_reach(x, y, z):
    shoulder = HEADS["upperarm01.L"]
    target = np.array([x, y, z])
    if np.linalg.norm(target - shoulder) > 0.48:
        return
    wrists = np.array([target, [np.nan] * 3])
    assert np.allclose(
        placed(Pose(np.zeros(3), np.eye(3), wrists=wrists), "wrist.L"), target, atol=0.03
    )


def test_a_target_out_of_reach_stretches_the_arm_towards_it():
    target = np.array([3.0, 0.2, 0.5])
    wrists = np.array([target, [np.nan] * 3])
    wrist = placed(Pose(np.zeros(3), np.eye(3), wrists=wrists), "wrist.L")
    offset = wrist - HEADS["upperarm01.L"]
    assert offset[0] > 0.45
    assert abs(offset[1]) < 0.02 and abs(offset[2]) < 0.02


def test_transforms_are_rigid():
    pose = Pose(
        np.ones(3),
        np.eye(3),
        lean=0.4,
        head_yaw=0.5,
        ankles=np.array([[1, 1.1, 0.3], [1, 0.9, 0.3]]),
    )
    rotations = bone_transforms(HEADS, pose)[:, :3, :3]
    assert np.allclose(rotations @ np.swapaxes(rotations, 1, 2), np.eye(3), atol=1e-9)
