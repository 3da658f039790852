"""One self-contained HTML page of an evaluation: figures, plots, tables, the worst faces."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from matplotlib.figure import Figure

from disguisor_ros.eval.pairs import Pair
from disguisor_ros.eval.scores import COVERED, FaceScore
from disguisor_ros.figures import whole_file
from disguisor_ros.paths import for_me_alone

if TYPE_CHECKING:
    from disguisor_ros.eval.evaluate import Evaluation

_CROP_PIXELS = 160
_BLUE, _RED, _GREY = "#2b6ca3", "#c2452d", "#9aa3ab"

_STYLE = """
:root { --ink: #1d2329; --soft: #5c6670; --line: #dfe3e7; --good: #1d7a46; --bad: #b3341d; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 1080px;
  margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p { max-width: 75ch; } .soft, figcaption { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .7rem;
  margin: 1.2rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: .82rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem; }
.plots img { width: 100%; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 1rem; }
figure { margin: 0; } .faces img { width: 160px; height: 160px; border-radius: 4px; }
figcaption { font-size: .82rem; }
"""

#: Rows of the table: title, key, and whether it is a share (shown in per cent).
_ROWS = (
    ("Recall at IoU 0.4 (or wholly covered)", "recall_iou40", True),
    ("Recall at IoU 0.4, boxes only", "recall_iou40_boxes_only", True),
    ("Holistic recall", "holistic_recall", True),
    ("Face pixels replaced, mean over faces", "pixel_coverage", True),
    ("… mean of the worst 1 % of faces", "pixel_coverage_worst_1pct", True),
    ("… of all visible face pixels", "face_pixels_covered", True),
    ("Faces with at least 95 % replaced", "face_views_covered_95", True),
    ("Fine detail of the original left", "detail_left", True),
    ("Precision at IoU 0.4", "precision_iou40", True),
    ("Non-face pixels changed", "nonface_changed", True),
    ("PSNR outside faces, dB", "psnr_nonface_db", False),
    ("SSIM outside faces", "ssim_nonface", False),
    ("Recall, unmasked frontal faces over 40 px", "frontal_unmasked_recall", True),
    ("ms per image", "ms_per_image", False),
    ("Images", "images", False),
    ("Face views", "face_views", False),
)


@dataclass
class Crop:
    """A face before and after, with what was measured."""

    title: str
    coverage: float
    iou: float
    before: np.ndarray
    after: np.ndarray


def cut(pair: Pair, index: int, score: FaceScore) -> Crop:
    """Square around a face, twice its size, before and after, of :data:`_CROP_PIXELS` pixels."""
    x, y, width, height = score.face.box_full
    side = max(2.0 * max(width, height), 24.0)
    corner = np.array([x + width / 2 - side / 2, y + height / 2 - side / 2])
    zoom = _CROP_PIXELS / side
    tf_crop_image = np.array([[zoom, 0, -zoom * corner[0]], [0, zoom, -zoom * corner[1]]])
    before, after = (
        cv2.warpAffine(image, tf_crop_image, (_CROP_PIXELS, _CROP_PIXELS), flags=cv2.INTER_AREA)
        for image in (pair.before, pair.after)
    )
    title = (
        f"{pair.camera}, frame {index}, person {score.face.person}: "
        f"{100 * score.coverage:.1f} % of {score.face.visible_pixels} px replaced,"
        f" IoU {score.iou:.2f}, {100 * score.face.visibility:.0f} % visible,"
        f" turned {score.face.yaw_deg:.0f}°"
    )
    return Crop(title, score.coverage, score.iou, before, after)


@for_me_alone()
def write_report(path: Path, evaluation: Evaluation) -> None:
    """Write the page. It shows original faces: only this user may read it."""
    result = evaluation.result
    sections = [
        _cards(result),
        "<h2>Beside other tools</h2>" + _comparison(result),
        "<h2>Where it is good, and where not</h2>" + _plots(evaluation),
        _breakdown(result),
        "<h2>The worst faces</h2>" + _faces(evaluation.worst),
        "<h2>Can the faces still be told?</h2>" + _identity(result),
        "<h2>What was measured</h2>" + _method(result),
    ]
    title = f"Disguisor scores: {result['scenario']}"
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>{escape(title)}</title>"
        "<meta name=viewport content='width=device-width'>"
        f"<style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><p class=soft>{_subtitle(result)}</p>"
        f"{''.join(sections)}</html>\n"
    )
    with whole_file(path) as partial:  # a new file: an old one would stay readable for whom it was
        partial.write_text(page)


def _subtitle(result: dict) -> str:
    return escape(
        f"{result['anonymized']} against {result['bag']} (bag {result['bag_id']}, seed"
        f" {result['seed']}), {len(result['cameras'])} cameras, scored {result['made']}"
    )


def _cards(result: dict) -> str:
    frames, jitter = result["frames"], result["jitter"]
    exact, leaking = result["outside_exact"], result["face_views_leaking"]
    ratio = f"{_number(jitter['replacement_px'])} / {_number(jitter['motion_px'])} px"
    cards = (
        (_percent(result["recall_iou40"]), "recall at IoU 0.4", ""),
        (_percent(result["holistic_recall"]), "found in every view that sees them", ""),
        (_percent(result["pixel_coverage"]), "face pixels replaced", ""),
        (_percent(result["pixel_coverage_worst_1pct"]), "… in the worst 1 % of faces", ""),
        (leaking, f"of {result['face_views']} face views under 95 % replaced",
         "bad" if leaking else "good"),
        ("yes" if exact else "no", "outside declared regions bit-identical",
         "good" if exact else "bad"),
        (f"{frames['frames_out']} / {frames['frames_in']}",
         f"frames published ({frames['frames_withheld']} withheld)", ""),
        ("yes" if frames["headers_preserved"] else "no", "stamps and frame ids preserved",
         "good" if frames["headers_preserved"] else "bad"),
        (f"{_number(result['latency_ms'])} ms", "latency, median", ""),
        (ratio, "jitter of replacements / motion of faces, a frame", ""),
    )  # fmt: skip
    return "<div class=cards>" + "".join(
        f"<div class=card><b class={kind or 'plain'}>{value}</b><span>{escape(text)}</span></div>"
        for value, text, kind in cards
    ) + "</div>"  # fmt: skip


def _comparison(result: dict) -> str:
    columns = {"all images": result} | {
        f"{name}, sample": peer for name, peer in result["peers"].items()
    }
    rows = [
        [title]
        + [(_percent if share else _number)(column.get(key)) for column in columns.values()]
        for title, key, share in _ROWS
    ]
    packages = "; ".join(escape(peer["package"]) for peer in result["peers"].values())
    realism = result["realism"]
    verdict = {None: "", True: "the faces are real enough", False: "the faces are not real enough"}
    recalls = ", ".join(f"{name} {_percent(v)}" for name, v in realism["peer_recall"].items())
    text = packages and f"<p class=soft>{packages}.</p>"
    if recalls:
        text += (
            f"<p>Realism: on {realism['frontal_unmasked_faces']} unmasked frontal faces over 40 px"
            f" the peers' recall is {recalls}: {verdict[realism['real_enough']]}.</p>"
        )
    notes = "".join(f"<p class=bad>{escape(note)}</p>" for note in result["notes"])
    return _table(["", *columns], rows) + text + notes


def _breakdown(result: dict) -> str:
    rows = [
        [f"{row['by']}: {row['value']}", row["face_views"]]
        + [_percent(row[k]) for k in ("recall_iou40", "pixel_coverage", "face_views_covered_95")]
        for row in result["breakdown"]
    ]
    return _table(["Face views", "number", "recall", "pixels replaced", "≥ 95 % replaced"], rows)


def _faces(worst: list[Crop]) -> str:
    if not worst:
        return "<p>No face was seen in a published image.</p>"
    return "<div class=faces>" + "".join(
        f"<figure><img src='{_png(crop.before)}' alt=before>"
        f" <img src='{_png(crop.after)}' alt=after>"
        f"<figcaption>{escape(crop.title)}</figcaption></figure>"
        for crop in worst
    ) + "</div>"  # fmt: skip


def _identity(result: dict) -> str:
    identity = result["identity"]
    rows = [
        [f"{name} finds a face there"]
        + [_percent(found[key]) for key in ("fires_before", "fires_after")]
        for name, found in identity["detectors"].items()
    ]
    embedding = identity["embedding"]
    text = ""
    if embedding and embedding["faces"]:
        rows.append([
            "nearest other face is the same person's", _percent(embedding["rank1_before"]),
            _percent(embedding["rank1_after"]),
        ])  # fmt: skip
        text = (
            f"<p>Embeddings ({escape(embedding['package'])}) of {embedding['faces']} faces of"
            f" {embedding['persons']} persons: a face and its replacement are"
            f" {_number(embedding['distance_before_after'])} apart, two views of a person"
            f" {_number(embedding['distance_same_person'])}, two persons"
            f" {_number(embedding['distance_other_persons'])}; below 0.6 the model takes two faces"
            f" for one person, which happens to {_percent(embedding['taken_for_same'])} of the"
            " replaced faces and to"
            f" {_percent(embedding['others_taken_for_same'])} of the pairs of different persons."
            f" Pointing at a random face is right in"
            f" {_percent(embedding['rank1_chance'])}.</p>"
        )
    return _table(["", "before", "after"], rows) + text if rows else "<p>Not measured.</p>"


def _method(result: dict) -> str:
    return (
        "<p>Every published image was compared pixel by pixel with its input. A face view counts"
        " when at least 10 % of the face and 20 pixels are visible. It is found when a replaced"
        " region overlaps its box with IoU ≥ 0.4, or when at least 95 % of its visible pixels were"
        " replaced; a person counts holistically when found in every view that counts. Pixels"
        " count as replaced when the image really changed there; regions that a tool declares are"
        " believed for their boxes only where the image changed. Frames that were withheld show"
        f" no face and are not scored ({result['frames']['frames_withheld']} here)."
        " docs/evaluation.md has every definition.</p><p class=bad>This page shows faces as they"
        " were recorded. Make it from simulated recordings only.</p>"
    )


def _plots(evaluation: Evaluation) -> str:
    plots = (_plot_coverage, _plot_time, _plot_recall, _plot_latency, _plot_stages)
    images = []
    for plot in plots:
        figure = Figure(figsize=(5.6, 3.2), dpi=130, layout="constrained")
        axes = figure.add_subplot()
        plot(axes, evaluation)
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        images.append(f"<img alt='' src='{_data_uri(buffer.getvalue())}'>")
    return f"<div class=plots>{''.join(images)}</div>"


def _plot_coverage(axes, evaluation: Evaluation) -> None:
    coverage = np.sort([
        score.coverage for image in evaluation.images for score in image.faces if score.face.scored
    ])  # fmt: skip
    share = (np.arange(len(coverage)) + 1) / max(len(coverage), 1)
    axes.plot(100 * coverage, 100 * share, color=_BLUE, drawstyle="steps-post")
    axes.axvline(100 * COVERED, color=_GREY, linestyle=":")
    axes.set(
        title="Face views by how much of them was replaced", xlabel="pixels replaced at most, %",
        ylabel="face views, % (log)", xlim=(-2, 102), yscale="log",
    )  # fmt: skip


def _plot_time(axes, evaluation: Evaluation) -> None:
    worst, missed = {}, {}
    for image in evaluation.images:
        for score in image.faces:
            if score.face.scored:
                worst[image.index] = min(worst.get(image.index, 1.0), score.coverage)
                missed[image.index] = missed.get(image.index, 0) + (not score.found)
    index = np.array(sorted(worst), dtype=int)
    axes.plot(index / evaluation.fps, [100 * worst[i] for i in index], color=_BLUE, linewidth=1)
    axes.set(
        title="Least covered face of each frame", xlabel="time, s", ylabel="pixels replaced, %",
        ylim=(-2, 104),
    )  # fmt: skip
    bad = np.array([i for i in index if missed[i]])
    if len(bad):
        axes.plot(bad / evaluation.fps, np.full(len(bad), -1.0), "|", color=_RED)
        axes.text(0.99, 0.04, "red: a face was not found", color=_RED, transform=axes.transAxes,
                  ha="right")  # fmt: skip


def _plot_recall(axes, evaluation: Evaluation) -> None:
    shown = ("visible", "turned", "size")
    rows = [row for row in evaluation.result["breakdown"] if row["by"] in shown]
    names = [f"{row['by']} {' '.join(row['value'].split())}" for row in rows]
    axes.barh(names, [100 * row["recall_iou40"] for row in rows], color=_BLUE)
    for y, row in enumerate(rows):
        axes.text(101, y, row["face_views"], va="center", fontsize=7, color=_GREY)
    axes.invert_yaxis()
    axes.tick_params(labelsize=7)
    axes.set(title="Recall by what makes faces hard", xlabel="recall, % (right: face views)",
             xlim=(0, 110))  # fmt: skip


def _plot_latency(axes, evaluation: Evaluation) -> None:
    latencies = {name: ms for name, ms in evaluation.latencies_ms.items() if len(ms)}
    axes.set(title="Latency by camera, input to output", ylabel="ms")
    if latencies:
        axes.boxplot(list(latencies.values()), tick_labels=list(latencies), whis=(0, 95),
                     showfliers=False, medianprops={"color": _BLUE})  # fmt: skip
        axes.set_ylim(bottom=0)
    else:
        axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes, color=_GREY)


def _plot_stages(axes, evaluation: Evaluation) -> None:
    profile = evaluation.result["stage_ms"]
    axes.set(title="Work of each stage on an instant", xlabel="ms (median)")
    if profile:
        bars = axes.barh(list(profile), list(profile.values()), color=_BLUE)
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
    else:
        axes.text(0.5, 0.5, "not recorded", ha="center", transform=axes.transAxes, color=_GREY)


def _table(head: list, rows: list) -> str:
    def line(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<div class=scroll><table><thead>{line('th', head)}</thead>{body}</table></div>"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.3g}"


def _png(image: np.ndarray) -> str:
    return _data_uri(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
