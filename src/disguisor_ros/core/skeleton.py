"""What is known about any standing or sitting adult: bone lengths, heights, keypoint noise.

Lengths are between COCO-17 keypoints as detectors place them, metres; rounded from adult
anthropometry (Drillis & Contini 1966; ANSUR II). Spreads cover children of 1.5 m to 2 m men.
"""

from __future__ import annotations

import numpy as np

#: (joint, joint, length in metres, standard deviation in metres)
_BONES = (
    (1, 2, 0.065, 0.008), (0, 1, 0.055, 0.01), (0, 2, 0.055, 0.01), (3, 4, 0.155, 0.015),
    (0, 3, 0.132, 0.02), (0, 4, 0.132, 0.02), (1, 3, 0.10, 0.02), (2, 4, 0.10, 0.02),
    (3, 5, 0.22, 0.05), (4, 6, 0.22, 0.05), (0, 5, 0.29, 0.06), (0, 6, 0.29, 0.06),
    (5, 6, 0.35, 0.04), (11, 12, 0.23, 0.05), (5, 11, 0.52, 0.05), (6, 12, 0.52, 0.05),
    (5, 12, 0.59, 0.06), (6, 11, 0.59, 0.06),
    (5, 7, 0.28, 0.045), (6, 8, 0.28, 0.045), (7, 9, 0.235, 0.045), (8, 10, 0.235, 0.045),
    (11, 13, 0.42, 0.06), (12, 14, 0.42, 0.06), (13, 15, 0.41, 0.06), (14, 16, 0.41, 0.06),
)  # fmt: skip

BONE_A = np.array([bone[0] for bone in _BONES])
BONE_B = np.array([bone[1] for bone in _BONES])
BONE_LENGTH_M = np.array([bone[2] for bone in _BONES])
BONE_SIGMA_M = np.array([bone[3] for bone in _BONES])
BONE_VARIANCE_M2 = BONE_SIGMA_M**2

#: A person who stands and works with the hands, x forward, y left, z up from the floor,
#: shape (17, 3), metres.
STANDING_M = np.array([
    [0.17, 0.00, 1.56], [0.15, 0.032, 1.60], [0.15, -0.032, 1.60], [0.065, 0.077, 1.58],
    [0.065, -0.077, 1.58], [0.00, 0.175, 1.40], [0.00, -0.175, 1.40], [0.02, 0.25, 1.12],
    [0.02, -0.25, 1.12], [0.22, 0.15, 1.05], [0.22, -0.15, 1.05], [0.00, 0.115, 0.88],
    [0.00, -0.115, 0.88], [0.03, 0.115, 0.47], [0.03, -0.115, 0.47], [0.02, 0.12, 0.07],
    [0.02, -0.12, 0.07],
])  # fmt: skip

#: Standard deviation of people's size, as a share of the standing body's.
SIZE_SIGMA = 0.07

#: How much longer the bones of people are who are taller by a standard deviation, metres; variance
#: of the lengths beside that.
BONE_OF_SIZE_M = SIZE_SIGMA * BONE_LENGTH_M
BONE_OWN_M2 = BONE_VARIANCE_M2 - BONE_OF_SIZE_M**2

#: How far joints stray from their place in the frame of the trunk, metres.
POSE_SIGMA_M = np.array(
    [0.06] * 5 + [0.03] * 2 + [0.09] * 2 + [0.13] * 2 + [0.04] * 2 + [0.13] * 2 + [0.18] * 2
)

#: Elbow and wrist of the left arm from its shoulder in the frame of the trunk (x forward, y
#: outward, z up), metres: mean, standard deviations and correlations over arms of staff of two
#: operating rooms whose joints several views agree on (DEKR and OpenPose; no annotation).
ARM_MEAN_M = np.array([[0.045, 0.08, -0.24], [0.19, 0.04, -0.30]])
_ARM_SIGMA_M = np.array([0.075, 0.046, 0.047, 0.103, 0.097, 0.135])
_ARM_CORRELATION = np.array([
    [1.0, -0.3, 0.4, 0.8, -0.3, 0.35], [-0.3, 1.0, 0.25, -0.1, 0.55, 0.3],
    [0.4, 0.25, 1.0, 0.4, 0.0, 0.7], [0.8, -0.1, 0.4, 1.0, -0.2, 0.5],
    [-0.3, 0.55, 0.0, -0.2, 1.0, -0.1], [0.35, 0.3, 0.7, 0.5, -0.1, 1.0],
])  # fmt: skip
ARM_COVARIANCE_M2 = _ARM_CORRELATION * np.outer(_ARM_SIGMA_M, _ARM_SIGMA_M)

#: Spread of the heights of joints over standing people, metres.
HEIGHT_SIGMA_M = np.array(
    [0.12] * 5 + [0.10] * 2 + [0.2] * 2 + [0.3] * 2 + [0.10] * 4 + [0.06] * 2
)

#: Where a detector's keypoint of score 1 lies against the same joint seen from elsewhere, metres.
#: Lower scores come with errors in inverse proportion (seen with DEKR and with OpenPose).
KEYPOINT_SIGMA_M = np.array(
    [0.015] * 3 + [0.017] * 2 + [0.02] * 2 + [0.02] * 2 + [0.018] * 2 + [0.03] * 2 + [0.025] * 4
)

#: The same for the question whether two detections are one person: anatomy differs more from view
#: to view than a joint that has been agreed on.
MATCH_SIGMA_M = np.array(
    [0.03] * 3 + [0.035] * 2 + [0.04] * 2 + [0.045] * 2 + [0.05] * 2 + [0.06] * 2 + [0.05] * 4
)

#: Head and trunk.
CORE = np.array([0, 1, 2, 3, 4, 5, 6, 11, 12])

#: Joints that change places when left and right are confused.
MIRROR = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])

#: Left and right joints that a detector swaps together.
SWAP_GROUPS = tuple(
    np.array(group)
    for group in ((1, 2, 3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14, 15, 16))
)

#: Noise of a keypoint in the image and of the calibration, radians.
ANGLE_SIGMA = 0.004
