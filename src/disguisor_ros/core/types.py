"""What the stages hand to each other, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.covariance import largest_sigma

#: COCO-17 joint names, in the order of every (17, ...) array of this project.
COCO17 = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip

#: Bones of the COCO-17 skeleton, pairs of joint indices.
COCO17_EDGES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
    (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip

#: Indices of nose, eyes and ears.
HEAD_JOINTS = (0, 1, 2, 3, 4)


@dataclass
class DepthView:
    """One depth image with the camera that took it.

    Parameters
    ----------
    camera : Camera
        Intrinsics and pose of the depth sensor (its own, or the colour camera's where the
        driver has already registered depth to colour).
    image : ndarray, shape (height, width), uint16 or float32
        Distance along the optical axis in units of ``unit_m``; 0 or NaN where nothing returned
        (REP-118).
    unit_m : float
        Metres per unit of ``image``: 0.001 for 16UC1, 1 for 32FC1.
    """

    camera: Camera
    image: np.ndarray
    unit_m: float = 0.001


@dataclass
class Person3D:
    """One tracked person at one instant.

    Parameters
    ----------
    track_id : int
        Constant for a person as long as the track lives; positive, and never given twice.
    joints : ndarray, shape (17, 3), metres, world
        COCO-17 order; NaN where nothing is known.
    covariance : ndarray, shape (17, 3, 3), square metres, world
        NaN where the joint is.
    confidence : ndarray, shape (17,)
        Detector score fused over views, 0 to 1; 0 for joints that were inferred, not seen.
    detections : dict of str to int
        Camera name -> index of this person's detection in that camera's keypoints of this
        instant. Empty when the person is predicted only.
    status : str
        ``multiview`` (triangulated), ``single_view`` (placed from one view) or ``predicted``
        (not seen at this instant).
    age : int
        Instants since the track was born, this one included.
    """

    track_id: int
    joints: np.ndarray
    covariance: np.ndarray
    confidence: np.ndarray
    detections: dict[str, int] = field(default_factory=dict)
    status: str = "multiview"
    age: int = 1


@dataclass
class Head:
    """A head in the world: the mesh that is drawn over the face, and how far to trust it.

    Parameters
    ----------
    track_id : int
        Of the person.
    tf_world_head : ndarray, shape (4, 4)
        Pose of the head frame: origin at the middle of the head between the ears, x forward out
        of the face, y to the person's left, z up out of the crown (REP-103 body axes), metres.
    vertices : ndarray, shape (V, 3), float32, metres, world
        Vertices of the head mesh; faces and face region are those of the head template.
    covariance : ndarray, shape (6, 6)
        Of the position (metres) and the rotation (radians) of the head about the world axes.
        Cover grows with it: in each image in the directions in which the head may be off there,
        and over the surface of the head as far as it may be turned.
    method : str
        How the pose was found: ``registered`` (to depth), ``keypoints``, ``body`` or
        ``predicted``.
    confidence : float
        0 to 1.
    """

    track_id: int
    tf_world_head: np.ndarray
    vertices: np.ndarray
    covariance: np.ndarray
    method: str
    confidence: float

    @property
    def sigma_m(self) -> float:
        """Standard deviation of the position in the direction that is known worst, metres."""
        return largest_sigma(self.covariance[:3, :3])


@dataclass
class Body:
    """A fitted parametric body.

    Parameters
    ----------
    track_id : int
        Of the person.
    vertices : ndarray, shape (V, 3), float32, metres, world
        Vertices of the body model.
    joints : ndarray, shape (17, 3), metres, world
        COCO-17 joints regressed from the model.
    head : Head
        The head as the body places it, before registration.
    """

    track_id: int
    vertices: np.ndarray
    joints: np.ndarray
    head: Head


@dataclass
class Region:
    """A part of one image that was replaced.

    Parameters
    ----------
    box : ndarray, shape (4,)
        x, y, width, height of the visible part of the face, pixels, as a person would draw it:
        from the chin to the edge of a cap, with mask and glasses.
    polygon : ndarray, shape (N, 2)
        Outline of the replaced pixels, pixels.
    track_id : int
        Of the person; -1 when the region belongs to no track.
    method : str
        ``mesh`` (a 3D head was drawn), ``keypoints`` (2D safety net) or ``held`` (carried over
        from an earlier instant).
    confidence : float
        Probability, 0 to 1, that the box shows a face. Below 0.5 the region is a precaution: its
        pixels are replaced all the same, but no face is claimed.
    """

    box: np.ndarray
    polygon: np.ndarray
    track_id: int
    method: str
    confidence: float
