"""Which detections of all views, and which tracks, are the same person."""

from __future__ import annotations

import numpy as np

from disguisor_ros.core.assignment import assign
from disguisor_ros.core.detections import Detections
from disguisor_ros.core.skeleton import (
    ANGLE_SIGMA,
    BONE_A,
    BONE_B,
    BONE_LENGTH_M,
    BONE_SIGMA_M,
    CORE,
    HEIGHT_SIGMA_M,
    MATCH_SIGMA_M,
    MIRROR,
    STANDING_M,
)

#: Residuals in standard deviations at which agreement turns to disagreement.
_NEUTRAL = 2.0
_WORST = 4.0

#: Affinity from which a track and a detection without rivals need no second opinion.
_CLEAR = 0.5

#: Affinity of a detection and a track below which it is nobody of that track's detections.
_FOREIGN = -0.4

#: Price of the assumption that a detector has confused left and right.
_MIRRORED = 0.2

#: Price of a track's uncertainty, per factor e of its standard deviation.
_VAGUE = 0.3

#: A track whose distance may be off by more, metres, was guessed, and its word counts for less:
#: two views that agree with each other know better.
_GUESSED_M = 0.1
_HEARSAY = 0.5

#: Times at most that all views are assigned anew.
_ROUNDS = 4

#: Variance of joints against where a track expects them, (joint, track, detection), square metres.
_MATCH_M2 = (MATCH_SIGMA_M**2)[:, None, None].astype(np.float32)

_EYE = np.eye(3, dtype=np.float32)


class RayPairs:
    """How the rays of pairs of detections of different views pass each other, K pairs.

    Parameters
    ----------
    detections : Detections
    first, second : ndarray, shape (K,), int
    mirrored : bool
        Whether left and right of the second are exchanged.

    Attributes
    ----------
    weight : ndarray, shape (K, 17)
        Geometric mean of the scores; 0 where either is missing.
    residual : ndarray, shape (K, 17)
        Closest distance of the rays in standard deviations; large when they meet behind a camera.
    points : ndarray, shape (K, 17, 3), metres, world
        Midpoints of their closest approach.
    """

    def __init__(
        self, detections: Detections, first: np.ndarray, second: np.ndarray, mirrored: bool = False
    ):
        a, b, score_b = detections.rays[first], detections.rays[second], detections.score[second]
        if mirrored:
            b, score_b = b[:, MIRROR], score_b[:, MIRROR]
        centers = detections.centers[detections.view]
        baseline = centers[first] - centers[second]
        cosine = np.einsum("kjc,kjc->kj", a, b)
        base_a, base_b = (np.einsum("kjc,kc->kj", ray, baseline) for ray in (a, b))
        self.sin2 = np.maximum(1.0 - cosine**2, 1e-6)
        depth_a = (cosine * base_b - base_a) / self.sin2
        depth_b = (base_b - cosine * base_a) / self.sin2
        self.sigma2 = 2.0 * MATCH_SIGMA_M**2 + ANGLE_SIGMA**2 * (depth_a**2 + depth_b**2)
        from_b = depth_b[..., None] * b
        apart = baseline[:, None] + depth_a[..., None] * a - from_b
        self.points = centers[second][:, None] + from_b + 0.5 * apart
        distance2 = np.einsum("kjc,kjc->kj", apart, apart)
        possible = np.minimum(depth_a, depth_b) > 0.2
        self.residual = np.where(possible, np.sqrt(distance2 / self.sigma2), 9.0)
        self.weight = np.sqrt(detections.score[first] * score_b)


def affinities(
    detections: Detections, floor_z_m: float | None, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Affinities of all pairs of detections, as they are and with left and right exchanged.

    Seen from behind or above, detectors confuse left and right of whole bodies. That is tried only
    for pairs that do not fit as they are, and are not far apart either.

    Parameters
    ----------
    detections : Detections
    floor_z_m : float, optional
    drawn : ndarray, shape (N, T)
        How much speaks for each detection being each track (:func:`track_affinity`). Where
        tracks leave no doubt, pairs are not looked at.

    Returns
    -------
    straight, mirrored : ndarray, shape (N, N), symmetric
        0 within a view; ``mirrored`` is the worst there is where it was not tried.
    """
    count, view = len(detections), detections.view
    straight, mirrored = np.zeros((count, count)), np.full((count, count), -_WORST)
    owner = settled_owners(drawn, view)
    known = np.nonzero(owner >= 0)[0]
    strangers = np.zeros((count, count), dtype=bool)
    against = np.where(owner >= 0, 0.0, _FOREIGN)
    strangers[:, known] = drawn[:, owner[known]] < against[:, None]
    strangers |= strangers.T
    together = (owner[:, None] == owner) & (owner >= 0)
    straight[strangers], straight[together] = -1.5, 1.0
    straight[view[:, None] == view] = 0.0
    wanted = (view[:, None] < view) & ~strangers & ~together
    first, second = np.nonzero(wanted)
    if len(first) == 0:
        return straight, mirrored
    pairs = RayPairs(detections, first, second)
    value = pair_affinity(pairs, floor_z_m)
    straight[first, second] = straight[second, first] = value
    close = (pairs.residual < _WORST).sum(axis=1) > 4
    doubtful = (value < 0.4) & close
    if doubtful.any():
        first, second = first[doubtful], second[doubtful]
        pairs = RayPairs(detections, first, second, mirrored=True)
        value = pair_affinity(pairs, floor_z_m) - _MIRRORED
        mirrored[first, second] = mirrored[second, first] = value
    return straight, mirrored


def pair_affinity(pairs: RayPairs, floor_z_m: float | None) -> np.ndarray:
    """How much speaks for (> 0) or against (< 0) each pair being one person, shape (K,).

    Agreement of rays alone is blind along epipolar lines; the size of the body that a pair
    makes, and its height over the floor, tell most of the rest.
    """
    affinity = _mean(_agreement2(pairs.residual**2), pairs.weight)
    near = np.nonzero(affinity > -0.3)[0]
    # Where the rays of a joint pass each other is no place to measure bones from.
    points = pairs.points[near]
    weight = pairs.weight[near] * (pairs.residual[near] < _WORST)
    bones = points[:, BONE_A] - points[:, BONE_B]
    bones = np.sqrt(np.einsum("kbc,kbc->kb", bones, bones))
    spread2 = pairs.sigma2[near] / np.maximum(pairs.sin2[near], 0.0025)
    variance = (1.5 * BONE_SIGMA_M) ** 2 + 0.5 * (spread2[:, BONE_A] + spread2[:, BONE_B])
    bone_weight = np.minimum(weight[:, BONE_A], weight[:, BONE_B])
    strange = np.clip(np.abs(bones - BONE_LENGTH_M) / np.sqrt(variance) - 1.0, 0.0, 4.0)
    affinity[near] -= 0.5 * _mean(strange, bone_weight)
    if floor_z_m is not None:
        affinity[near] -= _off_the_floor(points, weight, floor_z_m)
    return affinity * np.minimum(1.0, pairs.weight.sum(axis=1) / 2.0)


def track_affinity(
    detections: Detections, joints: np.ndarray, covariance: np.ndarray, drift: np.ndarray
) -> np.ndarray:
    """How much speaks for each detection being each predicted track, shape (N, T).

    Parameters
    ----------
    detections : Detections
    joints : ndarray, shape (T, 17, 3), metres, world
    covariance : ndarray, shape (T, 17, 3, 3), square metres
        Of each joint of the prediction.
    drift : ndarray, shape (T, 17, 3), metres
        See :class:`~disguisor_ros.core.tracking.Prediction`.
    """
    # Laid out as (joint, track, axis, detection), the long axis last: most of the time goes here.
    # In single precision, from the middle of the cameras: that is micrometres.
    middle = detections.centers.sum(axis=0) / max(len(detections.centers), 1)
    rays = detections.rays.transpose(1, 2, 0).astype(np.float32, order="C")
    centers = (detections.centers - middle)[detections.view].T.astype(np.float32, order="C")
    total = covariance + drift[..., :, None] * drift[..., None, :]
    total = total.swapaxes(0, 1).astype(np.float32)
    joints = (joints - middle).swapaxes(0, 1).astype(np.float32)
    along = (rays * centers).sum(axis=1, keepdims=True)
    depth = joints @ rays - along
    # From the nearest point of each ray, as one product: (joint, track, axis and detection).
    across = _EYE[..., None] - rays[:, :, None] * rays[:, None]
    aside = joints @ across.reshape(17, 3, -1) - (centers - along * rays).reshape(17, 1, -1)
    aside = aside.reshape(*joints.shape, len(detections))
    aside2 = np.einsum("jtan,jtan->jtn", aside, aside)
    sigma2 = np.einsum("jtan,jtan->jtn", total @ aside, aside)
    sigma2 /= np.maximum(aside2, 1e-12)
    sigma2 += _MATCH_M2 + (ANGLE_SIGMA * depth) ** 2
    residual2 = aside2 / sigma2
    residual2[depth <= 0.1] = _WORST**2
    weight = detections.score.T.astype(np.float32)
    # A vague prediction agrees with much; that must not beat a sharp one that agrees as well.
    evidence = _agreement2(residual2)
    evidence -= 0.5 * _VAGUE * np.log(sigma2 / _MATCH_M2)
    total = weight.sum(axis=0)
    mean = np.einsum("jtn,jn->tn", evidence, weight) / np.maximum(total, 1e-9)
    guessed = np.linalg.norm(drift, axis=-1).mean(axis=-1) > _GUESSED_M
    return (mean * np.minimum(1.0, total / 2.0)).T * np.where(guessed, _HEARSAY, 1.0)


def settled_owners(affinity: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Track of each detection that is clearly its own and nobody else's, else -1, shape (N,).

    Parameters
    ----------
    affinity : ndarray, shape (N, T)
        See :func:`track_affinity`.
    view : ndarray, shape (N,), int
    """
    owner = np.full(len(affinity), -1)
    if affinity.size == 0:
        return owner
    clear = affinity > _CLEAR
    rival = affinity > 0.0
    same_view = 1.0 * (view[:, None] == view[None])
    alone = clear & (rival.sum(axis=1, keepdims=True) == 1) & (same_view @ rival == 1)
    found, track = np.nonzero(alone)
    owner[found] = track
    return owner


def _agreement2(residual2: np.ndarray) -> np.ndarray:
    """1 for no squared residual, 0 at the neutral one, at worst -1.5."""
    return np.maximum(1.0 - residual2 / _NEUTRAL**2, -1.5)


def _off_the_floor(points: np.ndarray, weight: np.ndarray, floor_z_m: float) -> np.ndarray:
    """Penalty for bodies under the floor or higher than people stand, shape (K,)."""
    height = points[..., 2] - floor_z_m
    outside = np.clip(np.maximum(-0.25 - height, height - 2.2) / 0.2, 0.0, 3.0)
    # Head and trunk: patients lie with their legs as high as they are.
    taller = (height - STANDING_M[:, 2]) / HEIGHT_SIGMA_M
    taller = _mean(taller[:, CORE], weight[:, CORE])
    return _mean(outside, weight) + 0.5 * np.clip(taller - 1.9, 0.0, 5.0)


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted means over joints or bones, shapes (K, J) to (K,); 0 without weight."""
    return (values * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)


def cluster(
    view: np.ndarray, affinity: np.ndarray, seeds: np.ndarray | None = None
) -> np.ndarray:
    """Partition nodes into persons, at most one node of a view in each.

    Maximises the sum of affinities within persons by block coordinate ascent: all nodes of a
    view are assigned anew to the groups of the other views by the Hungarian method, which is
    optimal for that view, until nothing changes. Groups that agree on the whole are joined in
    between, the most alike first.

    Parameters
    ----------
    view : ndarray, shape (N,), int
        View of a node; tracks are the nodes of one more view.
    affinity : ndarray, shape (N, N), symmetric
    seeds : ndarray of int, optional
        Nodes (the tracks) that the search starts from: first each view is assigned to them.

    Returns
    -------
    ndarray, shape (N,), int
        Person of each node, numbered from 0.
    """
    label = np.arange(len(view))
    if len(view) == 0:
        return label
    affinity = np.where(view[:, None] == view[None], 0.0, affinity)
    members = [np.nonzero(view == v)[0] for v in sorted(set(view.tolist()))]
    if seeds is not None:
        gain = np.maximum(affinity[:, seeds], 0.0)
        for nodes in members:
            row, column = assign(-gain[nodes])
            drawn = gain[nodes[row], column] > 0
            label[nodes[row[drawn]]] = seeds[column[drawn]]
    label = _joined(label, view, affinity)
    for _ in range(_ROUNDS):
        if _content(label, affinity):
            break
        before = label.copy()
        for nodes in members:
            _reassign(label, nodes, affinity)
        if np.array_equal(before[:, None] == before, label[:, None] == label):
            break
        label = _joined(label, view, affinity)
    return _numbered(label)


def _numbered(label: np.ndarray) -> np.ndarray:
    """The labels that there are, numbered from 0 in their order."""
    return (np.bincount(label) > 0).cumsum()[label] - 1


def _joined(label: np.ndarray, view: np.ndarray, affinity: np.ndarray) -> np.ndarray:
    """Join groups without a common view, highest mean affinity first, while that is positive."""
    label = _numbered(label)
    count = label.max() + 1
    member = np.eye(count)[label]
    total = member.T @ affinity @ member
    views = np.zeros((count, view.max() + 1))
    views[label, view] = 1.0
    size = member.sum(axis=0)
    mean = np.where(views @ views.T > 0, -np.inf, total / (size[:, None] * size))
    while True:
        i, j = divmod(int(mean.argmax()), count)
        if not mean[i, j] > 0:
            return label
        label[label == j] = i
        total[i] += total[j]
        total[:, i] += total[:, j]
        views[i] += views[j]
        size[i] += size[j]
        views[j] = 1.0
        row = np.where(views @ views[i] > 0, -np.inf, total[i] / (size * size[i]))
        mean[i] = mean[:, i] = row
        mean[j] = mean[:, j] = -np.inf


def _content(label: np.ndarray, affinity: np.ndarray) -> bool:
    """Whether no node is drawn to another group, or to be alone, more than to its own."""
    gain = affinity @ (label[:, None] == np.arange(label.max() + 1))
    return bool((gain[np.arange(len(label)), label] >= np.maximum(gain.max(axis=1), 0.0)).all())


def _reassign(label: np.ndarray, nodes: np.ndarray, affinity: np.ndarray) -> None:
    """Assign the nodes of one view optimally to the groups that the other views make."""
    groups = np.arange(label.max() + 1 + len(nodes))  # with some that they may found
    gain = affinity[nodes] @ (label[:, None] == groups)
    label[nodes] = assign(-gain)[1]


def mirrored_members(
    detections: Detections, members: np.ndarray, floor_z_m: float | None
) -> np.ndarray:
    """Which of M detections of one person have left and right confused, shape (M,), bool.

    Turns one detection after the other while that raises the sum of affinities; the fewer are
    taken to be wrong.
    """
    count = len(members)
    first, second = np.triu_indices(count, 1)
    gain = np.zeros((count, count))
    for sign, mirrored in ((1.0, True), (-1.0, False)):
        pairs = RayPairs(detections, members[first], members[second], mirrored)
        gain[first, second] += sign * pair_affinity(pairs, floor_z_m)
    gain += gain.T
    turned = np.zeros(count, dtype=bool)
    for _ in range(count):
        change = np.where(turned[:, None] == turned[None], gain, -gain).sum(axis=1)
        best = int(change.argmax())
        if change[best] <= _MIRRORED:
            break
        turned[best] = ~turned[best]
    return ~turned if 2 * turned.sum() > count else turned
