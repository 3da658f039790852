"""Registration of heads to synthetic depth: error, basin and time against probreg's FilterReg."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.core.alignment import head_scale
from disguisor_ros.core.depth_evidence import Evidence, gather
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.registration import HeadRegistrar, plausible
from disguisor_ros.core.rotations import angle_between
from disguisor_ros.core.types import Head
from disguisor_ros.errors import UserError
from disguisor_ros.eval.head_scenes import Scene, adult, displaced, make_scene
from disguisor_ros.figures import write_figures
from disguisor_ros.progress import track

#: Adults whose heads are rendered, and cameras of the scenes in turn.
ADULTS = 6
CAMERAS = (4, 4, 3, 2)

#: Typical offsets: standard deviations of shift, metres, and turn, degrees, and stated sigma.
TYPICAL = (0.03, 12.0, 0.03)

#: Shifts, metres, and turns, degrees, of the basin; a trial succeeds within the tolerances.
BASIN_SHIFTS_M = (0.02, 0.05, 0.08, 0.11)
BASIN_TURNS_DEG = (10.0, 25.0)
BASIN_SIGMA_M = 0.05
BASIN_TOLERANCE = (0.025, 12.0)

#: FilterReg: points of the template and of the depth, variance (the best of those tried, kept
#: fixed as updating it made it worse), iterations, and radius of the crop, metres.
FILTERREG_SOURCE = 700
FILTERREG_TARGET = 800
FILTERREG_SIGMA2 = 0.01**2
FILTERREG_MAX_ITERATIONS = 50
FILTERREG_RADIUS_M = 0.17


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``disguisor benchmark registration``."""
    parser.add_argument("--scenes", type=int, default=24, help="heads to render (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same scenes (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")


def main(args: argparse.Namespace) -> int:
    """Measure both methods on the same scenes, print and write the figures."""
    if args.scenes < 1:
        raise UserError(f"--scenes: must be positive, got {args.scenes}")
    rng = np.random.default_rng(args.seed)
    models = [adult(rng) for _ in range(ADULTS)]
    scenes = [
        make_scene(rng, models, CAMERAS[k % len(CAMERAS)], clutter=k % 2 == 0)
        for k in track(range(args.scenes), "scenes")
    ]
    template = HeadTemplate.load()
    registrar = HeadRegistrar(template)
    methods = {
        "ours": lambda head, evidence: _ours(registrar, head, evidence),
        "filterreg": lambda head, evidence: filter_reg(template, head, evidence),
    }
    if not _probreg():
        print("probreg is not installed: only our own method is measured", file=sys.stderr)
        del methods["filterreg"]
    figures = {"scenes": args.scenes, "seed": args.seed}
    for name, method in methods.items():
        figures[name] = measure(method, scenes, registrar, args.seed, name)
    _print(figures, methods)
    if args.json:
        write_figures(args.json, figures)
    return 0


def measure(method, scenes: list[Scene], registrar: HeadRegistrar, seed: int, name: str) -> dict:
    """Error from typical offsets, basin and time of one method.

    Parameters
    ----------
    method : callable
        ``(head, evidence) -> rotation, translation`` (world <- head).
    scenes : list of Scene
    registrar : HeadRegistrar
        Says how far around a head the depth is read.
    seed : int
    name : str
        Shown beside the progress bar.
    """
    rng = np.random.default_rng(seed + 1)
    typical, milliseconds = [], []
    basin = {(s, t): [] for s in BASIN_SHIFTS_M for t in BASIN_TURNS_DEG}
    for scene in track(scenes, name):
        shift, turn = np.abs(rng.normal(size=2)) * TYPICAL[:2]
        error, ms = _trial(method, scene, registrar, rng, shift, turn, TYPICAL[2])
        typical.append((*error, shift, turn))
        milliseconds.append(ms)
        for (shift, turn), row in basin.items():
            error, _ = _trial(method, scene, registrar, rng, shift, turn, BASIN_SIGMA_M)
            row.append(error[0] < BASIN_TOLERANCE[0] and error[1] < BASIN_TOLERANCE[1])
    shift_m, turn_deg, _, _ = np.array(typical).T
    return {
        "error_mm": _quantiles(1e3 * shift_m),
        "error_deg": _quantiles(turn_deg),
        "ms": _quantiles(milliseconds),
        "basin": [
            {"shift_m": s, "turn_deg": t, "converged": float(np.mean(row))}
            for (s, t), row in basin.items()
        ],
    }


def _trial(method, scene: Scene, registrar, rng, shift_m, turn_deg, sigma_m):
    """Error (metres, degrees) from one displaced start, and CPU milliseconds."""
    truth = scene.tf_world_head
    head = displaced(rng, registrar.template, truth, shift_m, turn_deg, sigma_m)
    started = time.process_time()
    evidence = gather(head.tf_world_head[:3, 3], registrar.radius(head), scene.depth, scene.heads)
    rotation, translation = head.tf_world_head[:3, :3], head.tf_world_head[:3, 3]
    if evidence is not None and len(evidence.points):
        rotation, translation = method(head, evidence)
    ms = 1e3 * (time.process_time() - started)
    error = (
        float(np.linalg.norm(translation - truth[:3, 3])),
        float(np.rad2deg(angle_between(rotation, truth[:3, :3]))),
    )
    return error, ms


def _ours(registrar: HeadRegistrar, head: Head, evidence: Evidence):
    """Registration with its gates: the prediction where they reject it."""
    found = registrar.register(head, evidence)
    if found is None or not plausible(head, found):
        return head.tf_world_head[:3, :3], head.tf_world_head[:3, 3]
    return found.rotation, found.translation


def filter_reg(template: HeadTemplate, head: Head, evidence: Evidence):
    """Rigid FilterReg (Gao and Tedrake, CVPR 2019) of probreg, point to point, on the same pixels.

    It gets the part of the template that faces a camera and the points around the prediction.
    As with ours, what fails the gate of shift is not used.
    """
    from probreg import filterreg

    rotation, center = head.tf_world_head[:3, :3], head.tf_world_head[:3, 3]
    facing = (template.normals @ rotation.T.astype(np.float32)) @ evidence.views[::50].T
    skull = np.flatnonzero((template.vertices[:, 2] > -0.12) & (facing.min(axis=1) < -0.1))
    every = max(1, len(skull) // FILTERREG_SOURCE)
    source = template.vertices[skull[::every]] * head_scale(head, template)
    target = evidence.points - center
    near = np.linalg.norm(target, axis=1) < FILTERREG_RADIUS_M
    target = target[near & ((target @ rotation)[:, 2] > -0.14)]
    if len(target) < 20 or len(source) < 20:
        return rotation, center
    target = target[:: max(1, len(target) // FILTERREG_TARGET)]
    found = filterreg.registration_filterreg(
        np.ascontiguousarray(source @ rotation.T, dtype=np.float64),
        np.ascontiguousarray(target, dtype=np.float64), sigma2=FILTERREG_SIGMA2,
        maxiter=FILTERREG_MAX_ITERATIONS, tol=1e-5,
    ).transformation  # fmt: skip
    if not np.isfinite(found.rot).all() or np.linalg.norm(found.t) > 0.15:
        return rotation, center
    return found.rot @ rotation, center + found.t


def _probreg() -> bool:
    try:
        import probreg  # noqa: F401
    except ImportError:
        return False
    return True


def _quantiles(values) -> dict[str, float]:
    median, high = np.percentile(values, [50, 95])
    return {"median": float(median), "p95": float(high)}


def _print(figures: dict, methods) -> None:
    table = Table(title=f"registration to synthetic depth, {figures['scenes']} heads")
    table.add_column("figure")
    for name in methods:
        table.add_column(name, justify="right")
    for key, label, form in (("error_mm", "error, mm", ".1f"), ("error_deg", "error, deg", ".1f"),
                             ("ms", "CPU time, ms", ".1f")):  # fmt: skip
        for quantile in ("median", "p95"):
            row = [format(figures[name][key][quantile], form) for name in methods]
            table.add_row(f"{label} ({quantile})", *row)
    for k, (shift, turn) in enumerate((s, t) for s in BASIN_SHIFTS_M for t in BASIN_TURNS_DEG):
        row = [f"{figures[name]['basin'][k]['converged']:.2f}" for name in methods]
        table.add_row(f"converged from {100 * shift:.0f} cm and {turn:.0f} deg", *row)
    Console().print(table)
