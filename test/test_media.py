"""Contact sheet and video: that they exist, can be played, and show before beside after."""

import argparse
import stat

import cv2
import numpy as np
import pytest
import tiny_recording as tiny

from disguisor_ros.errors import UserError
from disguisor_ros.eval import media
from disguisor_ros.eval.pairs import Pair


@pytest.fixture(scope="module")
def preview(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "SHEET_WIDTH", 320)
        patch.setattr(media, "VIDEO_WIDTH", 160)
        yield make_preview(tmp_path_factory)


def make_preview(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    room = tiny.write_recording(folder / "room")

    def change(image, faces, camera, index):
        if (camera, index) == ("cam2", 5):
            return None
        return tiny.cover(image, faces, camera, index)

    out = tiny.anonymize(room, folder / "out", change)
    parser = argparse.ArgumentParser()
    media.add_arguments(parser)
    options = ["--bag", room, "--anonymized", out, "--out", folder / "pictures"]
    assert media.main(parser.parse_args([str(o) for o in options])) == 0
    return folder


def test_contact_sheet_has_a_row_for_each_camera(preview):
    sheet = cv2.imread(str(preview / "pictures" / "contact_sheet.png"))
    height = media.SHEET_WIDTH * tiny.HEIGHT // tiny.WIDTH
    assert sheet.shape == (2 * height, 2 * media.SHEET_WIDTH + 3 * (height // 2), 3)


def test_contact_sheet_shows_faces_before_and_after(preview):
    sheet = cv2.imread(str(preview / "pictures" / "contact_sheet.png"))
    height = media.SHEET_WIDTH * tiny.HEIGHT // tiny.WIDTH
    side, left = height // 2, 2 * media.SHEET_WIDTH
    centre = slice(side // 2 - 10, side // 2 + 10)
    before = sheet[centre, left + side // 2 - 10 : left + side // 2 + 10]
    after = sheet[side : 2 * side][centre, left + side // 2 - 10 : left + side // 2 + 10]
    assert before.min() > 100  # faces of the recording are bright
    assert after.max() == 0  # and were filled with black


def played(preview):
    """Frames of the video, and how many there are a second."""
    video = cv2.VideoCapture(str(preview / "pictures" / "before_after.mp4"))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_video_plays_with_one_frame_an_instant(preview):
    frames, fps = played(preview)
    height = media.VIDEO_WIDTH * tiny.HEIGHT // tiny.WIDTH
    assert len(frames) == tiny.FRAMES
    assert frames[0].shape == (2 * height, 2 * media.VIDEO_WIDTH, 3)
    assert fps == pytest.approx(5)


def test_a_withheld_frame_is_shown_as_withheld(preview):
    frames, _ = played(preview)
    height, width = frames[0].shape[0] // 2, media.VIDEO_WIDTH
    shown, withheld = (np.median(frames[i][height:, width:]) for i in (4, 5))
    assert shown > 45 and withheld < 40


def test_cameras_of_different_shapes_share_a_contact_sheet():
    def shown(height, width):
        image = np.full((height, width, 3), 200, np.uint8)
        pair = Pair("cam", 0, image, image // 2, [])
        return media._Shown(pair, np.array([[10, 10, 40.0, 40.0]]))

    sheet = media.contact_sheet({"a": shown(120, 160), "b": shown(90, 160)})
    heights = [round(media.SHEET_WIDTH * h / 160) for h in (120, 90)]
    assert sheet.shape == (sum(heights), 2 * media.SHEET_WIDTH + 3 * (heights[0] // 2), 3)
    assert sheet[heights[0] + 30 :, : media.SHEET_WIDTH].min() == 200  # before, of the second
    assert sheet[-1, -1].max() < 100  # nothing there


def test_cameras_of_different_shapes_share_a_video(monkeypatch):
    """A portrait camera that started an instant later once changed the size of the frames."""
    def seen(camera, height, width):
        image = np.full((height, width, 3), 200, np.uint8)
        return Pair(camera, 0, image, image, [])

    monkeypatch.setattr(media, "VIDEO_WIDTH", 640)
    wide, tall = seen("a", 72, 128), seen("b", 128, 72)
    late, full = media._video_frames(iter([wide, wide, tall]), ["a", "b"])
    assert late.shape == full.shape == (2 * 360, 2 * media.VIDEO_WIDTH, 3)
    assert (late[360 + 180] < 40).all(), "not there yet"
    row = full[360 + 180, : media.VIDEO_WIDTH, 0] > 150
    assert 200 <= row.sum() <= 205 and row[320], "whole, upright, in the middle of its cell"


def test_nobody_else_may_read_pictures_of_original_faces(preview):
    folder = preview / "pictures"
    assert [stat.S_IMODE(f.stat().st_mode) & 0o077 for f in (folder, *folder.iterdir())] == [0] * 3


def test_a_folder_is_wanted(preview):
    with pytest.raises(UserError, match="is a file"):
        media.write_preview(preview / "room", preview / "out", preview / "room" / "metadata.yaml")


@pytest.mark.parametrize(("declares", "width"), [(True, 20), (False, tiny.WIDTH)])
def test_what_jpeg_changed_is_no_face(declares, width):
    """The whole image was once shown as one, small, among the enlarged faces."""
    before = tiny.image_of("cam1", 0)
    regions = [tiny.region((20, 30, 20, 24))] if declares else []
    shown = {}
    list(media._keep_best([Pair("cam1", 0, before, before + 1, regions)], shown, declares))
    assert [box[2] for box in shown["cam1"].boxes] == [width]


def test_on_a_full_disk_nothing_is_left_and_the_file_is_named(preview, tmp_path, monkeypatch):
    def write(path, frames, fps):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(media, "write_video", write)
    with pytest.raises(UserError, match=r"before_after.mp4: cannot be written \(No space left"):
        media.write_preview(preview / "room", preview / "out", tmp_path)
    assert not list(tmp_path.iterdir())
