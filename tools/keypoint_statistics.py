"""Statistics of 2D keypoints, for fitting the simulated detector to a real one.

Usage: keypoint_statistics.py {folder of or_holistic | simulated bag} [--frames N]

The same estimator associates detections between views on real and on simulated recordings, and
every residual is taken against the point that the *other* views triangulate, so that the figures
of both can be laid side by side.
"""

import argparse
from pathlib import Path

import numpy as np

from disguisor_ros.core.pose3d import PoseEstimator
from disguisor_ros.core.skeleton import MIRROR
from disguisor_ros.core.types import COCO17

BINS = (0.05, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0)


def load(path: Path):
    """Cameras and a list of (stamp_ns, keypoints by camera)."""
    if (path / "keypoints2d.json").exists():
        from disguisor_ros.eval.datasets import load_or_holistic

        data = load_or_holistic(path)
        return data.cameras, [
            (data.stamp_ns(f), {n: k.get(n, np.zeros((0, 17, 3))) for n in data.cameras})
            for f, k in data.keypoints.items()
        ]
    from disguisor_ros.eval.pose3d_bag import instants

    found = [(one.stamp_ns, one.cameras, one.keypoints) for one in instants(path)]
    cameras = {n: c for _, seeing, _ in found for n, c in seeing.items()}
    return cameras, [
        (stamp, {n: k.get(n, np.zeros((0, 17, 3))) for n in cameras}) for stamp, _, k in found
    ]


def triangulate(rays):
    """Point nearest to rays [(origin, direction), ...]."""
    a, b = np.zeros((3, 3)), np.zeros(3)
    for origin, direction in rays:
        m = np.eye(3) - np.outer(direction, direction)
        a, b = a + m, b + m @ origin
    return np.linalg.solve(a, b)


def size_of(k):
    """Diagonal of the box around the joints with a score of 0.3, pixels."""
    good = k[:, 2] > 0.3
    return np.linalg.norm(np.ptp(k[good, :2], axis=0)) if good.sum() > 3 else np.nan


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--frames", type=int, default=10**9)
    args = parser.parse_args()
    cameras, frames = load(args.path)
    estimator = PoseEstimator()
    everything, residual, matched, in_view, twice, swapped, limbs = [], [], 0, 0, 0, 0, 0
    for stamp, by_camera in frames[: args.frames]:
        everything += [k for view in by_camera.values() for k in view]
        for view in by_camera.values():
            for i in range(len(view)):
                for j in range(i):
                    size = np.nanmax([size_of(view[i]), size_of(view[j]), 1])
                    apart = np.linalg.norm(view[i][:, :2] - view[j][:, :2], axis=1)
                    twice += np.median(apart) < 0.08 * size
        for person in estimator(by_camera, cameras, stamp):
            if person.status != "multiview" or len(person.detections) < 2:
                continue
            for name, camera in cameras.items():
                pixels, depth = camera.project(person.joints)
                inside = camera.inside(np.nan_to_num(pixels, nan=-1e6)) & (depth > 0)
                in_view += inside.sum() >= 12
                matched += (inside.sum() >= 12) and name in person.detections
            residual += leave_one_out(person, by_camera, cameras)
            for name, index in person.detections.items():
                k = by_camera[name][index]
                if name in cameras and len(person.detections) >= 3:
                    pixels, _ = cameras[name].project(person.joints)
                    straight = np.linalg.norm(k[:, :2] - pixels, axis=1)
                    mirrored = np.linalg.norm(k[MIRROR, :2] - pixels, axis=1)
                    apart = np.linalg.norm(k[MIRROR, :2] - k[:, :2], axis=1)
                    test = (k[:, 2] > 0.3) & (apart > 0.08 * size_of(k)) & np.isfinite(straight)
                    limbs += test[5:].sum()
                    swapped += (test & (mirrored < 0.5 * straight))[5:].sum()
    report(np.array(everything), np.array(residual), matched, in_view, twice, swapped, limbs)


def leave_one_out(person, by_camera, cameras):
    """Residuals (joint, score, share of the person's size) against the other views."""
    out = []
    for joint in range(17):
        views = {n: by_camera[n][i][joint] for n, i in person.detections.items()}
        good = {n: k for n, k in views.items() if k[2] > 0.5}
        for name, k in views.items():
            others = [
                (cameras[n].center, cameras[n].rays(q[None, :2])[0])
                for n, q in good.items()
                if n != name
            ]
            size = size_of(by_camera[name][person.detections[name]])
            if len(others) < 3 or k[2] <= 0 or not size > 60:
                continue
            pixel, _ = cameras[name].project(triangulate(others))
            out.append((joint, k[2], np.linalg.norm(pixel - k[:2]) / size))
    return out


def report(detections, residual, matched, in_view, twice, swapped, limbs):
    """Print what was counted."""
    print(
        f"detections {len(detections)}; person-views detected {matched}/{in_view}"
        f" = {matched / max(in_view, 1):.3f}; duplicates {twice / len(detections):.3f};"
        f" swapped limb joints {swapped / max(limbs, 1):.3f}"
    )
    print("residual by score (median, 90 %, n):")
    for low, high in zip(BINS[:-1], BINS[1:]):
        part = residual[(residual[:, 1] > low) & (residual[:, 1] <= high)]
        if len(part):
            q = np.quantile(part[:, 2], (0.5, 0.9))
            print(f"  {low:.2f}-{high:.2f}  {q[0]:.4f} {q[1]:.4f} {len(part)}")
    print("scores: share < 0.2, quantiles 10 25 50 75 90")
    for k, name in enumerate(COCO17):
        s = detections[:, k, 2]
        q = " ".join(f"{v:.2f}" for v in np.quantile(s, (0.1, 0.25, 0.5, 0.75, 0.9)))
        print(f"  {name:15s} {np.mean(s < 0.2):.2f}  {q}")
    print(
        "mean score of detections, quantiles 5 25 50 75 95:",
        np.quantile(detections[:, :, 2].mean(axis=1), (0.05, 0.25, 0.5, 0.75, 0.95)).round(2),
    )


if __name__ == "__main__":
    main()
