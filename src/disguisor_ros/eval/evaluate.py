"""Score an anonymized bag against the truth of its simulated input: JSON and one HTML page."""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from disguisor_ros.errors import UserError
from disguisor_ros.eval.identity import FaceEmbedder, Identity, can_be_told
from disguisor_ros.eval.pairs import BagPair, Pair
from disguisor_ros.eval.peers import (
    REAL_ENOUGH,
    PeerScore,
    available_peers,
    frontal_found,
    is_frontal,
)
from disguisor_ros.eval.report import Crop, cut, write_report
from disguisor_ros.eval.scores import Face, ImageScore, score_image
from disguisor_ros.eval.summary import (
    breakdown,
    mean_or_none,
    percentile_or_none,
    summarize,
)
from disguisor_ros.figures import make_folder, shown, write_figures
from disguisor_ros.progress import track
from disguisor_ros.sim.truth import Truth, load_truth, truth_folder

#: Faces that the report shows before and after.
WORST = 12

#: Figures of the table on the terminal.
_SHOWN = (
    "images", "recall_iou40", "recall_iou40_boxes_only", "holistic_recall", "pixel_coverage",
    "pixel_coverage_worst_1pct", "face_views_covered_95", "precision_iou40", "nonface_changed",
    "outside_exact",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``disguisor evaluate``."""
    parser.add_argument("--bag", required=True, type=Path, help="simulated input bag")
    parser.add_argument(
        "--anonymized", required=True, type=Path,
        help="bag with /<cam>/anonymized/image_raw, of any tool",
    )  # fmt: skip
    parser.add_argument(
        "--truth", type=Path, help="truth folder of the input bag (default: <bag>.truth)"
    )
    parser.add_argument(
        "--report", required=True, type=Path,
        help="folder for report.html and scores.json (made when missing)",
    )  # fmt: skip
    parser.add_argument(
        "--peer-images", type=int, default=80, metavar="N",
        help="images that other tools and the face recogniser see, spread over the recording;"
        " 0 leaves them out (default: %(default)s)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Run ``disguisor evaluate``."""
    if args.peer_images < 0:
        raise UserError(f"--peer-images must not be negative, got {args.peer_images}")
    truth = load_truth(args.truth or truth_folder(args.bag))
    pairs = BagPair(args.bag, args.anonymized)
    check_truth(truth, pairs)
    make_folder(args.report)
    evaluation = evaluate(truth, pairs, args.peer_images)
    page, path = args.report / "report.html", args.report / "scores.json"
    write_figures(path, evaluation.result)
    write_report(page, evaluation)
    print_summary(evaluation.result, Console())
    print(f"wrote {page} and {path}")
    return 0


@dataclass
class Evaluation:
    """What a report is made of: figures, scores of each image, the worst faces."""

    result: dict
    images: list[ImageScore]
    latencies_ms: dict[str, np.ndarray]
    worst: list[Crop]
    fps: float


def check_truth(truth: Truth, pairs: BagPair) -> None:
    """Refuse a truth of another recording, or a recording that lacks frames of the truth.

    Raises
    ------
    UserError
        Saying which.
    """
    if pairs.bag_id != truth.bag_id:
        raise UserError(
            f"{truth.folder}: is the truth of bag {truth.bag_id}, but {pairs.input_bag} is bag"
            f" {pairs.bag_id or 'without a /disguisor/bag_id'}"
        )
    stamps = _truth_stamps(truth)
    missing = [key for key in stamps if key[1] not in pairs.stamps.get(key[0], {})]
    if missing:
        camera, stamp_ns = missing[0]
        raise UserError(
            f"{pairs.input_bag}: {len(missing)} of {len(stamps)} images that the truth lists are"
            f" missing (first: /{camera}/color/image_raw at {stamp_ns / 1e9:.6f} s);"
            " simulate it again"
        )
    extra = sum(len(found) for found in pairs.stamps.values()) - len(stamps)
    if extra:
        raise UserError(f"{truth.folder}: has no truth for {extra} images of {pairs.input_bag}")


def evaluate(truth: Truth, pairs: BagPair, peer_images: int) -> Evaluation:
    """Score every published image, and let the peers work on a sample of them.

    Parameters
    ----------
    truth : Truth
    pairs : BagPair
    peer_images : int
        Size of the sample; 0 for none.
    """
    stamps = _truth_stamps(truth)
    plan = _plan(truth, stamps, peer_images)
    notes: list[str] = []
    peers, identity = _others(truth, notes) if peer_images else ([], None)
    images, worst = [], {}
    for pair in track(pairs, "scoring"):
        if pair.after is None:
            continue
        key = pair.camera, pair.stamp_ns
        index, faces = stamps[key]
        labels = truth.mask(*key)
        score = score_image(
            pair.camera, index, pair.before, pair.after, labels, faces, pair.regions
        )
        images.append(score)
        _keep_worst(worst, score, pair)
        for peer in peers:
            if index in plan.sample:
                peer.add(pair.camera, index, pair.before, pair.after, labels, faces)
            elif key in plan.frontal:
                peer.add_frontal(pair.camera, index, pair.before, labels, faces)
        if identity:
            identity.add(pair.before, pair.after, plan.embedded.get(key, []))
    if pairs.jpeg:
        notes.append(
            "JPEG changed pixels everywhere, so that faces count as more replaced than they are:"
            " for scores record raw images, or `--compressed png`"
        )
    same = [image for image in images if image.index in plan.sample]
    result = _result(truth, pairs, images) | {
        "peers": _peers(truth, same, peers),
        "realism": _realism(peers),
        "identity": {
            "embedding": identity.summary() if identity else None,
            "detectors": {peer.peer.name: peer.detector_summary() for peer in peers},
        },
        "notes": notes,
    }
    ranked = sorted(worst.values(), key=lambda crop: (crop.coverage, crop.iou))
    return Evaluation(result, images, pairs.latencies_ms(), ranked[:WORST], truth.data["fps"])


def print_summary(result: dict, console: Console) -> None:
    """Print the figures that matter."""
    table = Table(
        title=f"{result['scenario']}: {result['face_views']} face views,"
        f" {result['images']} images"
    )
    peers = result["peers"]
    table.add_column("", no_wrap=True)
    for title in ("all images", *(f"{name}, sample" for name in peers)):
        table.add_column(title, justify="right")
    for row in _SHOWN:
        table.add_row(row, *(shown(figures[row]) for figures in (result, *peers.values())))
    console.print(table)
    frames = result["frames"]
    console.print(
        f"frames: {frames['frames_in']} in, {frames['frames_out']} out,"
        f" {frames['frames_withheld']} withheld; headers preserved: {frames['headers_preserved']};"
        f" latency (median): {shown(result['latency_ms'])} ms",
        soft_wrap=True,
    )
    realism = result["realism"]
    recalls = ", ".join(f"{name} {shown(value)}" for name, value in realism["peer_recall"].items())
    if recalls:
        console.print(
            f"realism: recall of peers on {realism['frontal_unmasked_faces']} unmasked frontal"
            f" faces over 40 px: {recalls} (from {REAL_ENOUGH} the faces are real enough)",
            soft_wrap=True,
        )
    for note in result["notes"]:
        console.print(f"note: {note}", soft_wrap=True)


def wears(person: dict) -> str:
    """Say what covers a person's face; ``nothing`` when it is bare."""
    mask, glasses = person.get("mask", "none"), person.get("glasses", "none")
    names = [f"{mask} mask".replace("_", " ")] if mask != "none" else []
    return ", ".join(names + [glasses] * (glasses != "none")) or "nothing"


def _result(truth: Truth, pairs: BagPair, images: list[ImageScore]) -> dict:
    latencies = np.concatenate(list(pairs.latencies_ms().values()))
    wearing = {person: wears(value) for person, value in truth.persons.items()}
    return {
        "schema": "disguisor-scores",
        "version": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "bag": str(pairs.input_bag),
        "anonymized": str(pairs.anonymized_bag),
        "bag_id": truth.bag_id,
        "scenario": truth.data["scenario"],
        "seed": truth.data["seed"],
        "cameras": pairs.cameras,
        **summarize(images),
        "frontal_unmasked_recall": mean_or_none(frontal_found(images, _bare(truth))),
        "latency_ms": percentile_or_none(latencies, 50),
        "latency_ms_p95": percentile_or_none(latencies, 95),
        "latency_ms_max": percentile_or_none(latencies, 100),
        "stage_ms": pairs.stage_ms,
        "frames": pairs.frames(),
        "breakdown": breakdown(images, wearing),
    }


def _peers(truth: Truth, same: list[ImageScore], peers: list[PeerScore]) -> dict:
    """Figures of this bag and of each peer on the same images."""
    if not peers:
        return {}
    ours = summarize(same) | {
        "package": "the anonymized bag itself",
        "frontal_unmasked_recall": mean_or_none(frontal_found(same, _bare(truth))),
    }
    return {"disguisor": ours} | {peer.peer.name: peer.summary() for peer in peers}


def _realism(peers: list[PeerScore]) -> dict:
    known = {peer.peer.name: mean_or_none(peer.frontal) for peer in peers if peer.frontal}
    return {
        "frontal_unmasked_faces": max((len(peer.frontal) for peer in peers), default=0),
        "peer_recall": known,
        "real_enough": max(known.values()) >= REAL_ENOUGH if known else None,
    }


def _bare(truth: Truth) -> set[int]:
    """Persons whose face nothing hides; spectacles do not."""
    return {
        person
        for person, look in truth.persons.items()
        if look.get("mask", "none") == "none" and look.get("glasses", "none") != "visor"
    }


def _others(truth: Truth, notes: list[str]) -> tuple[list[PeerScore], Identity | None]:
    """Peers and face recogniser that are installed; a note for each that is not."""
    peers, missing = available_peers()
    notes += missing
    identity = None
    try:
        identity = Identity(FaceEmbedder())
    except ImportError as error:
        notes.append(f"face embeddings were not compared ({error}); see requirements-eval.txt")
    return [PeerScore(peer, _bare(truth)) for peer in peers], identity


def _truth_stamps(truth: Truth) -> dict[tuple[str, int], tuple[int, list[Face]]]:
    """(camera, stamp) -> index of the frame and its faces, for every image that was recorded."""
    keys = {field.name for field in fields(Face)}
    return {
        (camera, view["stamp_ns"]): (
            frame["index"],
            [Face(**{key: face[key] for key in keys}) for face in view["faces"]],
        )
        for frame in truth.frames
        for camera, view in frame["cameras"].items()
        if view["stamp_ns"] is not None
    }


@dataclass
class _Plan:
    """Which images the peers see and which faces are embedded, spread over the recording."""

    sample: set[int]
    frontal: set[tuple[str, int]]
    embedded: dict[tuple[str, int], list[Face]]


def _plan(truth: Truth, stamps: dict, images: int) -> _Plan:
    """Choose about as many images as asked for, half as many for frontal faces, and as many faces.

    The sample holds whole frames (all cameras), as holistic recall needs them.
    """
    bare = _bare(truth)
    indices = [frame["index"] for frame in truth.frames]
    sample = _spread(indices, -(-images // max(len(truth.cameras), 1)))
    frontal = [
        key for key, (_, faces) in stamps.items() if any(is_frontal(f, bare) for f in faces)
    ]
    told = [(key, f) for key, (_, faces) in stamps.items() for f in faces if can_be_told(f)]
    embedded = defaultdict(list)
    for key, face in _spread(told, images):
        embedded[key].append(face)
    return _Plan(set(sample), set(_spread(frontal, images // 2)), embedded)


def _spread(items: list, count: int) -> list:
    """At most ``count`` of the items, evenly spaced."""
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[i] for i in chosen]


def _keep_worst(worst: dict, score: ImageScore, pair: Pair) -> None:
    """Keep the worst view of each person in each camera."""
    for face in score.faces:
        key = score.camera, face.face.person
        if not face.face.scored:
            continue
        kept = worst.get(key)
        if kept is None or (face.coverage, face.iou) < (kept.coverage, kept.iou):
            worst[key] = cut(pair, score.index, face)
