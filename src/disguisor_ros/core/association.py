"""Which detections of all views, and which tracks, are the same person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.skeleton import (
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_SIGMA_M,
    MATCH_SIGMA_M,
    MIRROR,
    PIXEL_SIGMA,
)

#: Keypoints with a lower score count as missing.
MIN_SCORE = 0.05

#: Residuals in standard deviations at which agreement turns to disagreement.
_NEUTRAL = 2.0
_WORST = 4.0

#: Price of the assumption that a detector has confused left and right.
_MIRRORED = 0.2

#: Price of a track's uncertainty, per factor e of its standard deviation.
_VAGUE = 0.3

#: Two detections of one view with a higher similarity are the same person.
_DUPLICATE_OKS = 0.75

#: OKS constants of COCO (2 sigma squared is the variance of the annotations over the area).
COCO_SIGMA = np.array(
    [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
) / 1000.0  # fmt: skip


@dataclass
class Detections:
    """Detections of all views as flat arrays; N detections, V views.

    Parameters
    ----------
    names : list of str
        Cameras of the views.
    centers : ndarray, shape (V, 3), metres, world
    view, index : ndarray, shape (N,), int
        View of a detection and its place in that camera's keypoints.
    pixels : ndarray, shape (N, 17, 2)
    score : ndarray, shape (N, 17)
        0 where a keypoint is missing.
    rays : ndarray, shape (N, 17, 3), world
        Unit directions; zero where a keypoint is missing.
    """

    names: list[str]
    centers: np.ndarray
    view: np.ndarray
    index: np.ndarray
    pixels: np.ndarray
    score: np.ndarray
    rays: np.ndarray

    def __len__(self) -> int:
        return len(self.view)


def gather_detections(
    keypoints_by_camera: dict[str, np.ndarray], cameras: dict[str, Camera]
) -> Detections:
    """Flatten the keypoints of all cameras, without duplicates within a view.

    Raises
    ------
    ValueError
        If keypoints are not (P, 17, 3), or a camera is not known.
    """
    names = list(keypoints_by_camera)
    parts = []
    for view, name in enumerate(names):
        if name not in cameras:
            raise ValueError(f"keypoints_by_camera: no calibration for camera {name!r}")
        keypoints = checked_keypoints(name, keypoints_by_camera[name])
        pixels, score = keypoints[..., :2], keypoints[..., 2]
        kept = _distinct(pixels, score)
        if len(kept):
            rays = cameras[name].rays(pixels[kept]) * (score[kept] > 0)[..., None]
            parts.append((np.full(len(kept), view), kept, pixels[kept], score[kept], rays))
    centers = np.array([cameras[name].center for name in names]).reshape(-1, 3)
    if not parts:
        empty = np.zeros(0, dtype=int)
        return Detections(
            names, centers, empty, empty,
            np.zeros((0, 17, 2)), np.zeros((0, 17)), np.zeros((0, 17, 3)),
        )  # fmt: skip
    return Detections(names, centers, *(np.concatenate(part) for part in zip(*parts, strict=True)))


def checked_keypoints(name: str, keypoints: np.ndarray) -> np.ndarray:
    """Keypoints of a camera as floats, missing ones with score 0 and pixels 0.

    Raises
    ------
    ValueError
        If the shape is not (P, 17, 3).
    """
    keypoints = np.asarray(keypoints, dtype=np.float64)
    if keypoints.size == 0:
        return np.zeros((0, 17, 3))
    if keypoints.ndim != 3 or keypoints.shape[1:] != (17, 3):
        raise ValueError(
            f"keypoints of camera {name!r} must have the shape (persons, 17, 3) in COCO-17 order,"
            f" got {keypoints.shape}"
        )
    good = np.isfinite(keypoints).all(axis=-1) & (keypoints[..., 2] >= MIN_SCORE)
    keypoints = np.where(good[..., None], keypoints, 0.0)
    keypoints[..., 2] = np.minimum(keypoints[..., 2], 1.0)
    return keypoints


def similarity(pixels_a, pixels_b, weight, area) -> np.ndarray:
    """Object keypoint similarity (COCO), weighted over joints.

    Parameters
    ----------
    pixels_a, pixels_b : ndarray, shape (..., 17, 2)
    weight : ndarray, shape (..., 17)
    area : ndarray, shape (...)
        Square pixels of the persons.

    Returns
    -------
    ndarray, shape (...), 0 to 1; 0 where no joint has a weight.
    """
    distance2 = ((pixels_a - pixels_b) ** 2).sum(axis=-1)
    exponent = distance2 / (8.0 * COCO_SIGMA**2 * np.maximum(area, 1.0)[..., None])
    agreement = np.exp(-np.where(weight > 0, exponent, 0.0)) * weight
    return agreement.sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-9)


def extent_area(pixels: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Area of the box around the keypoints that were found, square pixels, shape (...)."""
    found = score > 0
    low = np.where(found[..., None], pixels, np.inf).min(axis=-2)
    high = np.where(found[..., None], pixels, -np.inf).max(axis=-2)
    sides = np.where(np.isfinite(high - low), high - low, 0.0)
    # A thin box (a person from the side) still belongs to a body about a third as wide as tall.
    return np.maximum(sides[..., 0] * sides[..., 1], sides.max(axis=-1) ** 2 / 3.0)


def _distinct(pixels: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Indices of detections that show something and are no duplicate of a better one."""
    total = score.sum(axis=1)
    order = [i for i in np.argsort(-total, kind="stable") if (score[i] > 0).sum() >= 3]
    if len(order) < 2:
        return np.array(order, dtype=int)
    area = extent_area(pixels, score)
    weight = np.minimum(score[:, None], score[None])
    alike = similarity(
        pixels[:, None], pixels[None], weight, np.minimum(area[:, None], area[None])
    )
    kept: list[int] = []
    for i in order:
        if not any(alike[i, j] > _DUPLICATE_OKS for j in kept):
            kept.append(i)
    return np.array(sorted(kept), dtype=int)


@dataclass
class RayPairs:
    """Where the rays of pairs of detections come closest, K pairs.

    Parameters
    ----------
    first, second : ndarray, shape (K,), int
        Detections.
    points : ndarray, shape (K, 17, 3), metres, world
        Midpoints of the closest approach.
    weight : ndarray, shape (K, 17)
        Geometric mean of the scores; 0 where either is missing.
    distance_m, sigma_m : ndarray, shape (K, 17)
        Closest distance of the rays, and what noise explains.
    """

    first: np.ndarray
    second: np.ndarray
    points: np.ndarray
    weight: np.ndarray
    distance_m: np.ndarray
    sigma_m: np.ndarray
    depths: np.ndarray
    sin_angle: np.ndarray


def ray_pairs(
    detections: Detections, first: np.ndarray, second: np.ndarray, mirrored: bool = False
) -> RayPairs:
    """Closest points of the rays of pairs of detections.

    Parameters
    ----------
    detections : Detections
    first, second : ndarray, shape (K,), int
        Detections of different views.
    mirrored : bool
        Whether left and right of the second are exchanged.
    """
    view = detections.view
    baseline = detections.centers[view[first]] - detections.centers[view[second]]
    a, b = detections.rays[first], detections.rays[second]
    score_b = detections.score[second]
    if mirrored:
        b, score_b = b[:, MIRROR], score_b[:, MIRROR]
    cosine = np.einsum("kjc,kjc->kj", a, b)
    along_a = np.einsum("kjc,kc->kj", a, baseline)
    along_b = np.einsum("kjc,kc->kj", b, baseline)
    sin2 = np.maximum(1.0 - cosine**2, 1e-6)
    depth_a = (cosine * along_b - along_a) / sin2
    depth_b = (along_b - cosine * along_a) / sin2
    closest_a = detections.centers[view[first]][:, None] + depth_a[..., None] * a
    closest_b = detections.centers[view[second]][:, None] + depth_b[..., None] * b
    gap = closest_a - closest_b
    variance = 2.0 * MATCH_SIGMA_M**2 + PIXEL_SIGMA**2 * (depth_a**2 + depth_b**2)
    return RayPairs(
        first, second,
        0.5 * (closest_a + closest_b),
        np.sqrt(detections.score[first] * score_b),
        np.sqrt(np.einsum("kjc,kjc->kj", gap, gap)),
        np.sqrt(variance),
        np.stack([depth_a, depth_b]),
        np.sqrt(sin2),
    )  # fmt: skip


def affinities(
    detections: Detections, floor_z_m: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Affinities of all pairs of detections, as they are and with left and right exchanged.

    Seen from behind or above, detectors confuse left and right of whole bodies. That is tried only
    for pairs that do not fit as they are, and are not far apart either.

    Returns
    -------
    straight, mirrored : ndarray, shape (N, N), symmetric
        0 within a view; ``mirrored`` is the worst there is where it was not tried.
    """
    count = len(detections)
    straight, mirrored = np.zeros((count, count)), np.full((count, count), -_WORST)
    first, second = np.nonzero(detections.view[:, None] < detections.view[None])
    pairs = ray_pairs(detections, first, second)
    straight[first, second] = straight[second, first] = pair_affinity(pairs, floor_z_m)
    apart = np.sort(pairs.distance_m / pairs.sigma_m, axis=1)[:, 4]
    doubtful = (straight[first, second] < 0.4) & (apart < _WORST)
    if doubtful.any():
        first, second = first[doubtful], second[doubtful]
        pairs = ray_pairs(detections, first, second, mirrored=True)
        value = pair_affinity(pairs, floor_z_m) - _MIRRORED
        mirrored[first, second] = mirrored[second, first] = value
    return straight, mirrored


def pair_affinity(pairs: RayPairs, floor_z_m: float | None) -> np.ndarray:
    """How much speaks for (> 0) or against (< 0) each pair being one person, shape (K,).

    Agreement of rays alone is blind along epipolar lines; the size of the body that a pair
    makes, and its height over the floor, tell most of the rest.
    """
    in_front = (pairs.depths > 0.2).all(axis=0) & (pairs.depths < 12.0).all(axis=0)
    residual = np.where(in_front, pairs.distance_m / pairs.sigma_m, _WORST)
    evidence = _agreement(residual)
    weight = pairs.weight
    total = weight.sum(axis=1)
    mean = (evidence * weight).sum(axis=1) / np.maximum(total, 1e-9)
    bones = np.linalg.norm(pairs.points[:, BONE_A] - pairs.points[:, BONE_B], axis=-1)
    spread = pairs.sigma_m / np.maximum(pairs.sin_angle, 0.05)
    sigma = np.sqrt(
        (1.5 * BONE_SIGMA_M) ** 2 + 0.5 * (spread[:, BONE_A] ** 2 + spread[:, BONE_B] ** 2)
    )
    bone_weight = np.minimum(weight[:, BONE_A], weight[:, BONE_B])
    strange = np.clip(np.abs(bones - BONE_LENGTH_M) / sigma - 1.0, 0.0, 4.0)
    size = (strange * bone_weight).sum(axis=1) / np.maximum(bone_weight.sum(axis=1), 1e-9)
    affinity = mean - 0.5 * size
    if floor_z_m is not None:
        affinity -= _off_the_floor(pairs.points, weight, floor_z_m)
    return affinity * np.minimum(1.0, total / 2.0)


def track_affinity(
    detections: Detections, joints: np.ndarray, sigma_m: np.ndarray
) -> np.ndarray:
    """How much speaks for each detection being each predicted track, shape (N, T).

    Parameters
    ----------
    detections : Detections
    joints : ndarray, shape (T, 17, 3), metres, world
    sigma_m : ndarray, shape (T, 17)
        Standard deviation of the prediction.
    """
    offset = joints[None] - detections.centers[detections.view][:, None, None]
    rays = detections.rays[:, None]
    depth = np.einsum("ntjc,ntjc->ntj", offset, np.broadcast_to(rays, offset.shape))
    aside = np.einsum("ntjc,ntjc->ntj", offset, offset) - depth**2
    sigma = np.sqrt(MATCH_SIGMA_M**2 + sigma_m[None] ** 2 + (PIXEL_SIGMA * depth) ** 2)
    residual = np.where(depth > 0.1, np.sqrt(np.maximum(aside, 0.0)) / sigma, _WORST)
    weight = detections.score[:, None] * np.isfinite(joints).all(axis=-1)[None]
    # A vague prediction agrees with much; that must not beat a sharp one that agrees as well.
    evidence = _agreement(residual) - _VAGUE * np.log(sigma / MATCH_SIGMA_M)
    total = weight.sum(axis=-1)
    mean = np.where(weight > 0, evidence * weight, 0.0).sum(axis=-1) / np.maximum(total, 1e-9)
    return mean * np.minimum(1.0, total / 2.0)


def _agreement(residual: np.ndarray) -> np.ndarray:
    """1 for no residual, 0 at the neutral one, at worst -1.5."""
    return np.maximum(1.0 - (np.minimum(residual, _WORST) / _NEUTRAL) ** 2, -1.5)


def _off_the_floor(points: np.ndarray, weight: np.ndarray, floor_z_m: float) -> np.ndarray:
    """Penalty for bodies under the floor or over two metres up, shape (K,)."""
    height = points[..., 2] - floor_z_m
    outside = np.clip(np.maximum(-0.25 - height, height - 2.2) / 0.2, 0.0, 3.0)
    return (outside * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)


def cluster(view: np.ndarray, affinity: np.ndarray, rounds: int = 4) -> np.ndarray:
    """Partition nodes into persons, at most one node of a view in each.

    Maximises the sum of affinities within persons. Starts from agglomeration (the pair of groups
    with the highest mean affinity first) and improves it view by view: all nodes of a view are
    assigned anew to the groups of the other views by the Hungarian method, which is optimal for
    that view, until nothing changes.

    Parameters
    ----------
    view : ndarray, shape (N,), int
        View of a node; tracks are the nodes of one more view.
    affinity : ndarray, shape (N, N), symmetric

    Returns
    -------
    ndarray, shape (N,), int
        Person of each node, numbered from 0.
    """
    count = len(view)
    if count == 0:
        return np.zeros(0, dtype=int)
    same_view = view[:, None] == view[None]
    affinity = np.where(same_view, 0.0, affinity)
    label = _agglomerate(affinity, same_view)
    members = {v: np.nonzero(view == v)[0] for v in np.unique(view)}
    for _ in range(rounds):
        before = label.copy()
        for nodes in members.values():
            label = _reassign(label, nodes, affinity)
        if _same_partition(before, label):
            break
    return np.unique(label, return_inverse=True)[1]


def mirrored_members(straight: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Which of M detections of one person have left and right confused, shape (M,), bool.

    Turns one detection after the other while that raises the sum of affinities; the fewer are
    taken to be wrong.

    Parameters
    ----------
    straight, mirrored : ndarray, shape (M, M)
        See :func:`affinities`.
    """
    gain = mirrored - straight
    np.fill_diagonal(gain, 0.0)
    turned = np.zeros(len(straight), dtype=bool)
    for _ in range(len(straight)):
        same = np.where(turned[:, None] == turned[None], gain, -gain)
        change = same.sum(axis=1)
        best = int(change.argmax())
        if change[best] <= 1e-9:
            break
        turned[best] = ~turned[best]
    return ~turned if 2 * turned.sum() > len(turned) else turned


def _agglomerate(affinity: np.ndarray, conflict: np.ndarray) -> np.ndarray:
    count = len(affinity)
    label = np.arange(count)
    total = affinity.copy()
    conflict = conflict.copy()
    size = np.ones(count)
    while True:
        mean = np.where(conflict, -np.inf, total / (size[:, None] * size[None]))
        best = int(np.argmax(mean))
        i, j = divmod(best, count)
        if not mean[i, j] > 0:
            return label
        label[label == j] = i
        total[i] += total[j]
        total[:, i] += total[:, j]
        conflict[i] |= conflict[j]
        conflict[:, i] |= conflict[:, j]
        conflict[j] = conflict[:, j] = True
        size[i] += size[j]


def _reassign(label: np.ndarray, nodes: np.ndarray, affinity: np.ndarray) -> np.ndarray:
    """Assign the nodes of one view optimally to the groups that the other views make."""
    label = label.copy()
    label[nodes] = -1
    others = np.nonzero(label >= 0)[0]
    groups, inverse = np.unique(label[others], return_inverse=True)
    member = np.zeros((len(others), len(groups)))
    member[np.arange(len(others)), inverse] = 1.0
    gain = affinity[np.ix_(nodes, others)] @ member
    gain = np.concatenate([gain, np.zeros((len(nodes), len(nodes)))], axis=1)
    rows, columns = linear_sum_assignment(-gain)
    fresh = len(label) + np.arange(len(nodes))
    for row, column in zip(rows, columns, strict=True):
        alone = column >= len(groups)
        label[nodes[row]] = fresh[row] if alone else groups[column]
    return np.unique(label, return_inverse=True)[1]


def _same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a[:, None] == a[None], b[:, None] == b[None])
