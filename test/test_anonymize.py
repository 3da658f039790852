"""Faces are replaced, nothing else is, and nothing of them stays."""

import copy
import time

import cv2
import numpy as np
import pytest
from head_scene import (
    HEIGHT,
    WIDTH,
    ball_template,
    depth_view,
    front_camera,
    head_at,
    keypoints_of,
    no_keypoints,
    room,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from disguisor_ros.core.anonymize import MODES, AnonymizedImage, FaceRenderer, blank
from disguisor_ros.core.cameras import Camera
from disguisor_ros.core.face_cover import outline_of
from disguisor_ros.core.head_template import HeadTemplate
from disguisor_ros.core.named_face import CAP_EDGE_M, CHIN_M, below_cap, named_box
from disguisor_ros.core.posed_head import pose_head
from disguisor_ros.core.rendering import EmbreeBackend, Window
from disguisor_ros.core.sightings import sight_heads
from disguisor_ros.core.types import Region
from disguisor_ros.eval.scores import fill_region

TEMPLATE = ball_template()
CAMERA = front_camera()
BACKEND = EmbreeBackend()


def face_pixels(head, camera=CAMERA):
    """Pixels of the visible face of a head."""
    hits = BACKEND(
        camera, camera.to_camera(head.vertices.astype(float)), TEMPLATE.faces,
        Window(0, 0, camera.width, camera.height),
    )  # fmt: skip
    front = TEMPLATE.face[TEMPLATE.faces].all(axis=1)
    return (hits.triangle >= 0) & front[hits.triangle]


def silhouette(head, camera=CAMERA):
    """Pixels of a whole head."""
    window = Window(0, 0, camera.width, camera.height)
    vertices = camera.to_camera(head.vertices.astype(float))
    return BACKEND(camera, vertices, TEMPLATE.faces, window).triangle >= 0


def replace(image, heads, depth=None, mode="mesh", keypoints=None, camera=CAMERA, **options):
    renderer = FaceRenderer(TEMPLATE, mode)
    keypoints = no_keypoints() if keypoints is None else keypoints
    return renderer(image, camera, heads, keypoints, depth, **options)


def changed(before, after):
    return (before != after.image).any(axis=-1)


def claims(result):
    return [region for region in result.regions if region.confidence >= 0.5]


@pytest.mark.parametrize("mode", MODES)
def test_face_is_replaced_and_the_rest_is_not(mode):
    image, head = room(), head_at(TEMPLATE)
    result = replace(image, [head], mode=mode)
    face, touched = face_pixels(head), changed(image, result)
    # A pixel may get its old value back by coincidence.
    assert touched[face].mean() > 0.99
    assert not touched[:, :120].any() and not touched[:, 200:].any()
    assert touched.sum() < 1.6 * face.sum()
    (region,) = result.regions
    assert region.method == "mesh" and region.track_id == 1


def claimed(head, depth=None, keypoints=None):
    """Confidence with which a head's region is declared."""
    (region,) = replace(room(), [head], depth, keypoints=keypoints).regions
    return region.confidence


def test_face_is_claimed_when_the_camera_itself_saw_it():
    """By keypoints or by depth on its surface; a head that others placed there is a precaution."""
    head = head_at(TEMPLATE)
    on_face, behind = (depth_view(CAMERA, np.full((HEIGHT, WIDTH), z)) for z in (1.95, 4.0))
    assert claimed(head) < 0.5 and claimed(head, behind) < 0.5
    assert claimed(head, on_face) > 0.8
    assert claimed(head, behind, keypoints_of(CAMERA, head, TEMPLATE)) > 0.8
    assert claimed(head_at(TEMPLATE, confidence=0.3), on_face) < 0.5


def test_how_far_away_a_face_is_does_not_matter_where_it_is_seen():
    """In rooms of one camera without depth no face was claimed at all."""
    head = head_at(TEMPLATE)
    head.covariance[:3, :3], head.confidence = np.diag([0.4**2, 0.01**2, 0.01**2]), 0.02
    keypoints = keypoints_of(CAMERA, head, TEMPLATE)
    assert len(claims(replace(room(), [head], keypoints=keypoints))) == 1
    assert claims(replace(room(), [head])) == []


def test_one_detection_stands_for_one_face():
    head, ghost = head_at(TEMPLATE), head_at(TEMPLATE, y=0.03, sigma_m=0.05, track_id=2)
    result = replace(room(), [ghost, head], keypoints=keypoints_of(CAMERA, head, TEMPLATE))
    assert [region.track_id for region in claims(result)] == [1]


@pytest.mark.parametrize("mode", MODES)
def test_all_changes_lie_within_the_polygons(mode):
    image, heads = room(), [head_at(TEMPLATE, y=0.3), head_at(TEMPLATE, y=-0.4, away_deg=60)]
    result = replace(image, heads, mode=mode)
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    for region in result.regions:
        cv2.fillPoly(inside, [region.polygon.astype(np.int32)], 1)
    assert not (changed(image, result) & (inside == 0)).any()


@settings(max_examples=25, deadline=None)
@given(
    mode=st.sampled_from(MODES),
    y=st.floats(-0.5, 0.5),
    away=st.floats(-100, 100),
    sigma=st.floats(0.001, 0.05),
    net=st.booleans(),
    noise=st.integers(0, 2**31),
)
def test_no_pixel_inside_a_region_has_any_influence(mode, y, away, sigma, net, noise):
    """Whatever is put in place of the faces, the output is the same, bit for bit."""
    heads = [head_at(TEMPLATE, 2.0, y, away_deg=away, sigma_m=sigma), head_at(TEMPLATE, 2.6, 0.1)]
    lost = head_at(TEMPLATE, 2.2, -0.4)
    keypoints = keypoints_of(CAMERA, lost, TEMPLATE) if net else no_keypoints()
    depth_m = np.full((HEIGHT, WIDTH), 4.0)
    depth_m[100:130] = 1.0
    depth = depth_view(CAMERA, depth_m)
    image = room()
    first = replace(image, heads, depth, mode, keypoints)
    # Find out which pixels are replaced, by two images that differ everywhere.
    second = replace(255 - image, heads, depth, mode, keypoints)
    kept = (first.image == image).all(axis=-1) & (second.image == 255 - image).all(axis=-1)
    other = room(noise, image.shape)
    other[kept] = image[kept]
    third = replace(other, heads, depth, mode, keypoints)
    assert (~kept).any()
    np.testing.assert_array_equal(third.image, first.image)


def test_input_is_not_modified():
    image, head = room(), head_at(TEMPLATE)
    before = image.copy()
    replace(image, [head])
    np.testing.assert_array_equal(image, before)


def test_only_the_renderer_makes_an_anonymized_image():
    with pytest.raises(TypeError, match="FaceRenderer"):
        AnonymizedImage(object(), room(), [])
    with pytest.raises(TypeError):
        AnonymizedImage(room(), [])
    result = replace(room(), [])
    with pytest.raises(ValueError, match="read-only"):
        result.image[0, 0] = 0
    with pytest.raises(AttributeError):
        result.image = room()
    assert len(np.unique(blank((4, 5, 3)).image)) == 1


def test_occluder_in_front_stays_untouched():
    image, head = room(), head_at(TEMPLATE)
    depth_m = np.full((HEIGHT, WIDTH), 4.0)
    depth_m[face_pixels(head)] = 1.9
    depth_m[:, 155:161] = 1.5
    touched = changed(image, replace(image, [head], depth_view(CAMERA, depth_m)))
    face = face_pixels(head)
    assert not touched[:, 156:160].any()
    face[:, 154:162] = False
    assert touched[face].mean() > 0.99


@pytest.mark.parametrize("measured_m", [0.0, 1.87, 1.95, 3.0])
def test_mask_nose_hole_or_background_is_no_occluder(measured_m):
    """The surface lies 1.9 m away: 3 cm in front of it, behind it and no depth are covered."""
    image, head = room(), head_at(TEMPLATE)
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), measured_m))
    assert changed(image, replace(image, [head], depth))[face_pixels(head)].mean() > 0.99


def test_flying_pixels_are_no_occluder():
    image, head = room(), head_at(TEMPLATE)
    depth_m = np.full((HEIGHT, WIDTH), 1.9)
    depth_m[::5, ::3] = 1.0
    touched = changed(image, replace(image, [head], depth_view(CAMERA, depth_m)))
    assert touched[face_pixels(head)].mean() > 0.99


def test_mixed_pixels_at_an_occluder_s_edge_do_not_cut_into_the_face():
    """Depth pixels at an edge report anything between occluder and face, each another mix."""
    image, head = room(), head_at(TEMPLATE)
    depth_m = np.full((HEIGHT, WIDTH), 1.9)
    depth_m[:, :155] = 1.0
    mixed = np.array([1.2, 1.5, 1.7])[np.arange(HEIGHT) % 3]
    depth_m[:, 155], depth_m[:, 156] = mixed, mixed[::-1]
    depth_m[:, 157] = np.roll(mixed, 1)
    touched = changed(image, replace(image, [head], depth_view(CAMERA, depth_m)))
    assert touched[110:130, 155:170].mean() > 0.98 and not touched[110:130, :152].any()


def test_breathing_mask_is_covered():
    """It stands out of a face in profile by 5 cm; from behind the head hides it."""
    camera = front_camera(width=640, height=480, focal=600)
    image = room(shape=(480, 640, 3))
    for away, reached in ((90, True), (180, False)):
        head = head_at(TEMPLATE, away_deg=away)
        nose = head.tf_world_head @ [0.1 + 0.035, 0, -0.03, 1]
        column, row = np.rint(camera.project(nose[:3])[0]).astype(int)
        touched = changed(image, replace(image, [head], camera=camera))
        assert touched[row - 1 : row + 2, column - 1 : column + 2].all() == reached


def test_what_cannot_be_a_head_is_left_alone_where_one_is_badly_known():
    """A wall far behind and a floor far below are no head; a hole in the depth may be one."""
    image, head = room(), head_at(TEMPLATE, sigma_m=0.17, confidence=0.3)
    everything = changed(image, replace(image, [head]))
    depth_m = np.full((HEIGHT, WIDTH), 5.0)
    depth_m[100:140, 170:200] = 2.1  # something in reach
    depth_m[100:140, 110:130] = 0.0  # nothing measured
    touched = changed(image, replace(image, [head], depth_view(CAMERA, depth_m)))
    assert everything[100:140, 112:200].mean() > 0.99
    assert touched[102:138, 172:198].mean() > 0.99 and touched[102:138, 112:128].mean() > 0.99
    assert not touched[100:140, 145:160].any() and not touched[:90].any()


def test_face_in_what_was_left_alone_is_covered_from_its_keypoints():
    image, head = room(), head_at(TEMPLATE, sigma_m=0.15, confidence=0.3)
    other = head_at(TEMPLATE, x=5.0, track_id=2)
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), 5.0))
    keypoints = keypoints_of(CAMERA, other, TEMPLATE)
    touched = changed(image, replace(image, [head], depth, keypoints=keypoints))
    assert touched[face_pixels(other)].mean() > 0.98


def test_somebody_tracked_twice_has_one_face():
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), 1.95))
    twice = [head_at(TEMPLATE, y=0.04, sigma_m=0.02, track_id=2), head_at(TEMPLATE)]
    result = replace(room(), twice, depth)
    assert len(result.regions) == 2 and [r.track_id for r in claims(result)] == [1]


def test_face_does_not_change_hands_between_two_tracks_that_are_as_sure():
    """The elder keeps it; only one that is much surer takes it."""
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), 1.95))
    for younger_m, owner in ((0.0045, 1), (0.0055, 1), (0.002, 2)):
        twice = [head_at(TEMPLATE, y=0.04, sigma_m=younger_m, track_id=2), head_at(TEMPLATE)]
        assert [r.track_id for r in claims(replace(room(), twice, depth))] == [owner]


def test_box_keeps_still_while_keypoints_tremble():
    """Keypoints that jump by 4 cm aside and back move the box a little; the cover follows."""
    renderer = FaceRenderer(TEMPLATE)
    head = head_at(TEMPLATE, sigma_m=0.04)
    head.method = "keypoints"
    middle, reach = [], []
    for k in range(60):
        keypoints = keypoints_of(CAMERA, head, TEMPLATE)
        keypoints[..., 0] += 6.0 * (-1) ** k + (6.0 if k >= 30 else 0.0)
        (region,) = renderer.regions(CAMERA, [head], keypoints, None, k * 33_000_000)
        middle.append(region.box[0] + region.box[2] / 2)
        reach.append(region.polygon[:, 0].max())
    assert np.abs(np.diff(middle[10:30])).max() < 0.7, "of 12 pixels"
    assert middle[-1] - np.mean(middle[10:30]) > 1.5, "what lasts is followed"
    assert np.abs(np.diff(reach)).min() > 1


def test_sliver_of_a_face_is_claimed_where_depth_shows_the_head():
    """From a tenth of its outline on; without depth people call no such thing a face."""
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), 2.0))
    assert claimed(head_at(TEMPLATE, away_deg=120), depth) > 0.8
    assert claimed(head_at(TEMPLATE, away_deg=120)) < 0.5
    assert claimed(head_at(TEMPLATE, away_deg=150), depth) < 0.5


def test_box_stays_on_a_measured_head_whose_keypoints_are_imagined():
    head = head_at(TEMPLATE, sigma_m=0.005)
    keypoints = keypoints_of(CAMERA, head, TEMPLATE, score=0.4)
    keypoints[0, :3, 0] += 10
    (alone,), (pulled,) = (replace(room(), [head], keypoints=k).regions
                           for k in (None, keypoints))  # fmt: skip
    assert abs(alone.box[0] - pulled.box[0]) < 1.5
    assert pulled.polygon[:, 0].max() > alone.polygon[:, 0].max() + 1  # covered all the same


def test_uncertain_head_needs_a_clearer_occluder():
    image = room()
    depth = depth_view(CAMERA, np.full((HEIGHT, WIDTH), 1.8))
    sure, unsure = (head_at(TEMPLATE, sigma_m=sigma) for sigma in (0.005, 0.05))
    middle = (slice(115, 125), slice(155, 165))
    assert not changed(image, replace(image, [sure], depth))[middle].any()
    assert changed(image, replace(image, [unsure], depth))[middle].mean() > 0.98


def test_occluder_is_cut_out_where_the_colour_camera_sees_it():
    """Depth comes from 10 cm aside and with other pixels: a bar at 1 m shifts by 10 cm there."""
    aside = front_camera("depth", shift_m=0.1, width=256, height=200, focal=220)
    depth_m = np.full((200, 256), 1.9)
    bar = 127.5 + 220 * (np.array([-0.02, 0.02]) - 0.1) / 1.0
    depth_m[:, round(bar[0]) : round(bar[1]) + 1] = 1.0
    image, head = room(), head_at(TEMPLATE)
    touched = changed(image, replace(image, [head], depth_view(aside, depth_m)))
    # In colour the bar spans 159.5 -+ 6 pixels.
    assert not touched[105:135, 156:164].any()
    face = face_pixels(head)
    face[:, 151:168] = False
    assert touched[face].mean() > 0.98


def test_near_head_is_drawn_over_far_head():
    """A far face beside a near one: where they cross, what is drawn is the near one."""
    image = room()
    near, far = head_at(TEMPLATE, 1.5, track_id=1), head_at(TEMPLATE, 2.5, 0.05, track_id=2)
    alone, both = replace(image, [near]), replace(image, [near, far])
    middle = face_pixels(near)
    middle = cv2.erode(middle.astype(np.uint8), np.ones((9, 9))) > 0
    assert np.abs(both.image[middle].astype(int) - alone.image[middle]).max() <= 25
    np.testing.assert_array_equal(both.image, replace(image, [far, near]).image)


def test_box_is_the_visible_face_from_chin_to_cap():
    head = head_at(TEMPLATE)
    (region,) = replace(room(), [head]).regions
    rows, columns = np.nonzero(face_pixels(head))
    x, y, width, height = region.box
    np.testing.assert_allclose([x, width], [columns.min(), np.ptp(columns) + 1], atol=2)
    px_per_m = 300 / 2.0
    assert rows.min() <= y and y + height <= rows.max() + 1
    assert height == pytest.approx((CAP_EDGE_M - CHIN_M) * px_per_m, rel=0.1)


def test_a_cap_hides_the_brow_from_above_and_nothing_from_in_front():
    nose, brow, forehead = [0.11, 0, 0], [0.095, 0, 0.04], [0.085, 0, 0.08]
    points = np.array([nose, brow, forehead])
    hidden = [below_cap(points, np.array(eye)) < 0 for eye in ([3.0, 0, 0], [0.5, 0, 3.0])]
    np.testing.assert_array_equal(hidden, [[False, False, True], [False, True, True]])
    assert (below_cap(points, np.array([3.0, 0, -2.0]))[:2] > 0).all()


def test_edges_of_a_box_lie_between_pixels():
    """Pixels 10 to 19 and 20 to 29 show the face; its corners reach a little beyond."""
    seen = np.stack(np.meshgrid(np.arange(10, 20), np.arange(20, 30)), axis=-1).reshape(-1, 2)
    size = np.array([320.0, 240.0])
    corners = np.array([[9.4, 25.0], [19.75, 25.0], [15.0, 19.2], [15.0, 29.5]])
    box = named_box(seen, corners, size)
    np.testing.assert_allclose(box, [9.9, 19.7, 10.35, 10.3])
    # A pixel whose middle shows no face holds at most half of one: more is hidden.
    box = named_box(seen, np.array([[5.0, 15.0], [25.0, 35.0]]), size)
    np.testing.assert_allclose(box, [9.5, 19.5, 11.0, 11.0])
    np.testing.assert_allclose(named_box(seen, np.zeros((0, 2)), size), [10, 20, 10, 10])


@pytest.mark.parametrize("distance_m", [0.4, 2.0])
def test_box_moves_by_less_than_a_pixel_when_the_face_does(distance_m):
    """A third of a pixel a step, far and so near that only some pixels are sampled."""
    step_m = distance_m / 300 / 3
    left = []
    for k in range(10):
        head = head_at(TEMPLATE, distance_m, y=-k * step_m, sigma_m=0.002)
        (region,) = replace(room(), [head]).regions
        left.append([region.box[0], region.box[0] + region.box[2]])
    np.testing.assert_allclose(np.diff(left, axis=0), 1 / 3, atol=0.05)


def test_face_cut_by_the_image_has_its_box_inside():
    camera = front_camera()
    head = head_at(TEMPLATE, 2.0, y=WIDTH / 2 / 300 * 2.0)
    (region,) = replace(room(), [head], camera=camera).regions
    assert region.box[0] == 0 and 0 < region.box[2] < 20


def test_back_of_a_head_is_left_alone():
    image = room()
    result = replace(image, [head_at(TEMPLATE, away_deg=180)])
    assert not claims(result) and not changed(image, result).any()


def test_profile_is_covered():
    image, head = room(), head_at(TEMPLATE, away_deg=90)
    result = replace(image, [head], keypoints=keypoints_of(CAMERA, head, TEMPLATE))
    assert len(claims(result)) == 1 and changed(image, result)[face_pixels(head)].mean() > 0.99


def test_cover_grows_with_uncertainty():
    image = room()
    sizes = [changed(image, replace(image, [head_at(TEMPLATE, sigma_m=s)])).sum()
             for s in (0.0, 0.01, 0.03)]  # fmt: skip
    assert sizes[0] < sizes[1] < sizes[2]


def reached(covariance, **place):
    """Box (left, top, right, bottom) of what is covered for a head that is so uncertain."""
    head = head_at(TEMPLATE, **place)
    head.covariance[:3, :3] = np.diag(np.square(covariance))
    touched = changed(room(), replace(room(), [head]))
    rows, columns = np.flatnonzero(touched.any(axis=1)), np.flatnonzero(touched.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]])


def test_cover_grows_where_the_head_may_be():
    """The camera looks along x; 300 pixels are a metre at 1 m, 150 at the head."""
    at_all = reached((0.07, 0.07, 0.07))  # whole head, the same all around
    aside = reached((0.07, 0.12, 0.07)) - at_all
    np.testing.assert_allclose(aside, [-1.7 * 0.05 * 150, 0, 1.7 * 0.05 * 150, 0], atol=3)
    above = reached((0.07, 0.07, 0.12)) - at_all
    np.testing.assert_allclose(above, [0, -1.7 * 0.05 * 150, 0, 1.7 * 0.05 * 150], atol=3)


def test_who_may_be_nearer_or_farther_is_not_covered_the_wider():
    np.testing.assert_array_equal(reached((0.4, 0.01, 0.01)), reached((0.01, 0.01, 0.01)))


def test_a_head_that_may_be_half_a_metre_off_is_covered_there():
    """Whom one camera sees may be far nearer or farther: another's image showed his face."""
    at_all = reached((0.07, 0.07, 0.07))
    aside = reached((0.07, 0.32, 0.07)) - at_all
    np.testing.assert_allclose(aside[[0, 2]], [-1.7 * 0.25 * 150, 1.7 * 0.25 * 150], atol=3)


def unsure_head(place, way):
    """Head at a place (3,), known to 1 cm except along a way (3,): to that standard deviation."""
    head = head_at(TEMPLATE, *place)
    head.covariance[:3, :3] = np.outer(way, way) + 0.01**2 * np.eye(3)
    return head


@given(
    true=st.tuples(st.floats(0.3, 2.0), st.floats(-0.4, 0.4), st.floats(-0.3, 0.3)),
    way=st.tuples(*[st.floats(-0.2, 0.2)] * 3),
    sigmas=st.floats(-1.7, 1.7),
)
@example(true=(0.56, 0.17, -0.3), way=(0.3, 0.1, 0.0), sigmas=1.7)
@settings(max_examples=200, deadline=None)
def test_a_head_is_covered_all_along_the_way_that_it_may_be_off(true, way, sigmas):
    """Also where it comes nearer to the camera on that way, or only then before it."""
    place = np.subtract(true, sigmas * np.array(way))
    across = np.cross(way, place / np.linalg.norm(place))
    assume(np.linalg.norm(across) > 0.1)
    touched = changed(room(), replace(room(), [unsure_head(place, way)]))
    face = face_pixels(head_at(TEMPLATE, *true))
    assert not face.any() or touched[face].mean() > 0.97


def test_no_face_is_drawn_where_nobody_may_be():
    """A stray detection put the face of nobody over a surgical field: now a smooth patch."""
    image = np.full((240, 320, 3), 90, np.uint8)
    result = replace(image, [unsure_head((2.0, 0.0, 0.0), (0.1, 0.3, 0.1))])
    assert result.regions and np.ptp(result.image) <= 1
    assert np.ptp(replace(image, [head_at(TEMPLATE)]).image) > 20


def test_no_hair_is_drawn_over_a_cap():
    """Above the forehead, 7.5 cm over the ears, what surrounds the face goes on."""
    image, template = np.full((240, 320, 3), 200, np.uint8), HeadTemplate.load()
    head = head_at(template, 0.8)
    result = FaceRenderer(template)(image, CAMERA, [head], no_keypoints())
    drawn = np.flatnonzero((np.ptp(result.image, axis=2) > 5).any(axis=1))
    forehead = template.vertices[template.face]
    forehead = forehead[forehead[:, 2].argmax()]
    row = CAMERA.matrix[1, 2] - 300 * forehead[2] / (0.8 - forehead[0])
    assert result.regions[0].polygon[:, 1].min() < row - 4 and row - 1 < drawn[0] < row + 4


def test_who_may_stand_right_under_a_camera_costs_little_of_its_image():
    """Just out of view, 0.3 m before the camera: 12 cm off along its axis, 28 cm to the right."""
    touched = changed(room(), replace(room(), [unsure_head((0.4, 0, -0.35), (0.25, -0.25, 0))]))
    assert touched[-1].any() and touched.mean() < 0.1


def test_the_window_of_who_may_be_anywhere_near_a_camera_is_no_larger_than_the_image():
    """It was 80 times as large, and one such head took a minute: its camera fell silent."""
    head = head_at(TEMPLATE, x=0.3, y=0.1, sigma_m=0.5)
    (sighting,) = sight_heads(CAMERA, [head], no_keypoints(), TEMPLATE)
    window = pose_head(CAMERA, head, sighting, TEMPLATE).window
    assert window.x >= 0 and window.columns * window.step < WIDTH + window.step
    assert window.y >= 0 and window.rows * window.step < HEIGHT + window.step


FISHEYE = Camera(
    "cn01", WIDTH, HEIGHT, front_camera(focal=110).matrix, CAMERA.tf_camera_world,
    np.array([1e-3, 0.0, 0.0, 0.0]), "equidistant",
)  # fmt: skip


def beside(angle_deg, distance_m, sigma_m=0.005):
    """Head so far from the axis of a camera, that looks at it."""
    angle = np.deg2rad(angle_deg)
    place = distance_m * np.array([np.cos(angle), np.sin(angle), 0.0])
    return head_at(TEMPLATE, *place, away_deg=angle_deg, sigma_m=sigma_m)


@pytest.mark.parametrize("angle_deg, distance_m", [(70, 1.0), (82, 0.6), (84, 0.9), (80, 2.0)])
@pytest.mark.parametrize("sigma_m", [0.0, 0.1])
def test_a_fisheye_shows_a_face_right_beside_the_camera(angle_deg, distance_m, sigma_m):
    """At 84 degrees it is 9 cm before the camera's plane, where other lenses show nothing."""
    head = beside(angle_deg, distance_m, sigma_m)
    image = room()
    touched = changed(image, replace(image, [head], camera=FISHEYE))
    facing = (TEMPLATE.normals @ head.tf_world_head[:3, :3].T) @ -head.tf_world_head[:3, 3] > 0.3
    pixels, _ = FISHEYE.project(head.vertices[facing & TEMPLATE.face].astype(float))
    column, row = np.rint(pixels[FISHEYE.inside(pixels)]).astype(int).T
    assert len(row) > 100 and touched[row, column].mean() > 0.97
    # It is no larger there than before the camera.
    plain = changed(image, replace(image, [beside(0, distance_m, sigma_m)], camera=FISHEYE))
    assert touched.sum() < 2 * plain.sum()


def test_a_head_at_the_rim_of_a_fisheye_does_not_stand_for_one_in_the_middle():
    """It was taken for so large that shoulders anywhere in the image were its own."""
    keypoints = keypoints_of(FISHEYE, head_at(TEMPLATE), TEMPLATE)
    keypoints[0, :5, 2] = 0.0
    image = room()
    touched = changed(
        image, replace(image, [beside(86, 2.0)], keypoints=keypoints, camera=FISHEYE)
    )
    assert touched[119, 159]


@pytest.mark.parametrize(
    "place, guess", [((1.1, 0.8, -0.2), (0.8, 0.7, -0.2)), ((0.8, 0.5, 0.0), (0.7, 0.6, -0.1))]
)
def test_what_depth_rules_out_is_left_alone_where_a_fisheye_has_it(place, guess):
    """The wall behind was cut out of the cover where it is not, and all of the face was left."""
    away = np.rad2deg(np.arctan2(place[1], place[0]))
    true, head = head_at(TEMPLATE, *place, away_deg=away), head_at(TEMPLATE, *guess, sigma_m=0.2)
    face = face_pixels(true, FISHEYE)
    hits = EmbreeBackend()(
        FISHEYE, FISHEYE.to_camera(true.vertices.astype(float)), TEMPLATE.faces,
        Window(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    depth = depth_view(FISHEYE, np.where(np.isfinite(hits.depth_m), hits.depth_m, 6.0))
    image = room()
    assert changed(image, replace(image, [head], depth, camera=FISHEYE))[face].mean() > 0.97


@pytest.mark.parametrize("angle_deg, ahead_m", [(89, 0.0), (91, 0.0), (90, 0.3), (91, 0.3)])
def test_a_face_half_behind_the_plane_of_a_fisheye_is_covered(angle_deg, ahead_m):
    """The lens shows the half before it; nothing was covered of a head whose middle is behind."""
    matrix = front_camera(focal=98).matrix
    camera = Camera(
        "cn01", WIDTH, HEIGHT, matrix, CAMERA.tf_camera_world, np.zeros(4), "equidistant"
    )
    head = beside(angle_deg, 0.8)
    head.covariance[0, 0] += ahead_m**2
    touched = changed(room(), replace(room(), [head], camera=camera))
    facing = (TEMPLATE.normals @ head.tf_world_head[:3, :3].T) @ -head.tf_world_head[:3, 3] > 0.3
    pixels, _ = camera.project(head.vertices[facing & TEMPLATE.face].astype(float))
    column, row = np.rint(pixels[camera.inside(pixels)]).astype(int).T
    assert len(row) > 50 and touched[row, column].mean() > 0.97


@pytest.mark.parametrize("sigma_m", [0.005, 0.08])
@pytest.mark.parametrize("x, y", [(0.08, 0.2), (0.05, 0.16), (-0.01, 0.112)])
def test_a_face_beside_a_camera_that_reaches_into_its_image_is_covered(x, y, sigma_m):
    """Who is that near fills a corner of the image; depth has only the wall behind."""
    camera = front_camera(focal=150)
    head = head_at(TEMPLATE, x, y, away_deg=np.rad2deg(np.arctan2(y, x)), sigma_m=sigma_m)
    depth = depth_view(camera, np.full((HEIGHT, WIDTH), 3.0))
    touched = changed(room(), replace(room(), [head], depth, camera=camera))
    face = face_pixels(head, camera)
    assert face.sum() > 100 and touched[face].mean() > 0.97
    apart = head_at(TEMPLATE, x, y + 0.5, sigma_m=0.02)
    assert not changed(room(), replace(room(), [apart], depth, camera=camera)).any()


def test_what_is_behind_a_face_does_not_cut_into_it_where_depth_sees_past_it():
    """The depth camera hangs 8 cm beside: it saw the wall where this one has half of the face."""
    true, head = head_at(TEMPLATE, 0.6), head_at(TEMPLATE, 0.65, sigma_m=0.15)
    camera = front_camera(shift_m=0.08)
    hits = EmbreeBackend()(
        camera, camera.to_camera(true.vertices.astype(float)), TEMPLATE.faces,
        Window(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    depth = depth_view(camera, np.where(np.isfinite(hits.depth_m), hits.depth_m, 6.0))
    touched = changed(room(), replace(room(), [head], depth))
    assert touched[face_pixels(true)].mean() > 0.97 and not touched.all()


def test_an_ear_alone_does_not_keep_the_cover_from_where_it_shows_the_head():
    """Nose and eyes lay out of the image: the cover stayed 30 cm beside the face."""
    true, head = head_at(TEMPLATE, y=0.3), head_at(TEMPLATE, sigma_m=0.3)
    keypoints = keypoints_of(CAMERA, true, TEMPLATE)
    keypoints[0, [0, 1, 2, 4, 5, 6], 2] = 0.0
    touched = changed(room(), replace(room(), [head], keypoints=keypoints))
    assert touched[face_pixels(true)].mean() > 0.97


def test_a_face_that_fills_the_image_is_blurred_in_time():
    """The kernel alone was as large as the image: 2 to 15 seconds for one frame."""
    camera = front_camera(width=1280, height=720, focal=900)
    spent = []
    for mode in ("mesh", "blur"):
        start = time.process_time()
        replace(room(shape=(720, 1280, 3)), [head_at(TEMPLATE, 0.3)], camera=camera, mode=mode)
        spent.append(time.process_time() - start)
    assert spent[1] < 1.5 * spent[0] + 0.1


def test_light_follows_the_surroundings():
    head, face = head_at(TEMPLATE), face_pixels(head_at(TEMPLATE))
    dark, bright = (replace(np.full((HEIGHT, WIDTH, 3), v, np.uint8), [head]) for v in (40, 150))
    assert dark.image[face].mean() < 0.6 * bright.image[face].mean()


def test_a_cap_goes_on_within_the_head_and_the_wall_beside_it():
    """The wall was smeared over what is between a face in profile and its cap."""
    head = head_at(TEMPLATE, away_deg=100.0)
    inside = silhouette(head).astype(np.uint8)
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    image[inside > 0] = 200, 60, 40
    result = replace(image, [head])
    redder = result.image[..., 0].astype(int) - result.image[..., 2]
    region = np.zeros_like(inside)
    fill_region(region, result.regions[0])
    edge = np.ones((5, 5), np.uint8)
    within = (region > 0) & (cv2.erode(inside, edge) > 0)
    beside = (region > 0) & (cv2.dilate(inside, edge) == 0)
    assert np.quantile(redder[within], 0.9) > 150 and redder[beside].max() < 3


def test_encodings_are_the_same_picture():
    image, head = room(), head_at(TEMPLATE)
    rgb = replace(image, [head]).image
    bgr = replace(np.ascontiguousarray(image[..., ::-1]), [head], encoding="bgr8").image
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    bgra = np.dstack([image[..., ::-1], np.full(image.shape[:2], 7, np.uint8)])
    result = replace(bgra, [head], encoding="bgra8").image
    np.testing.assert_array_equal(rgb, result[..., 2::-1])
    assert result[0, 0, 3] == 7


@pytest.mark.parametrize(
    ("image", "encoding", "message"),
    [
        (room(shape=(10, 10, 3)), "rgb8", "shape"),
        (room().astype(np.float32), "rgb8", "uint8"),
        (room(), "rgba8", "shape"),
        (room(), "yuv422", "encoding must be one of"),
    ],
)
def test_wrong_images_are_named(image, encoding, message):
    with pytest.raises(ValueError, match=message):
        replace(image, [], encoding=encoding)


def test_unknown_options_are_named():
    with pytest.raises(ValueError, match="mode must be one of"):
        FaceRenderer(TEMPLATE, "pixelated")
    with pytest.raises(ValueError, match="mask must be one of"):
        FaceRenderer(TEMPLATE, mask="maybe")


def person(head, masked):
    """Image of a head with skin all over, or blue cloth over its lower half."""
    image = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    face = face_pixels(head)
    image[face] = 190, 140, 110
    if masked:
        face[:120] = False
        image[face] = 120, 160, 190
    return image


@pytest.mark.parametrize("masked", [True, False])
def test_mask_is_drawn_where_one_is_worn(masked):
    """The ball is darker with a mask: people wear one until seen otherwise, in five images."""
    head, renderer = head_at(TEMPLATE), FaceRenderer(TEMPLATE)
    image, values = person(head, masked), []
    for _ in range(7):
        result = renderer(image, CAMERA, [head], no_keypoints())
        values.append(result.image[120, 160].astype(int).sum())
    assert values[0] == values[4]
    assert (values[6] == values[0]) == masked


def malformed():
    head = head_at(TEMPLATE)
    nan_vertices, few_vertices, nan_sigma = (copy.deepcopy(head) for _ in range(3))
    nan_vertices.vertices[7] = np.nan
    few_vertices.vertices = head.vertices[:10]
    nan_sigma.covariance[0, 0] = nan_sigma.confidence = float("nan")
    return [nan_vertices, few_vertices, nan_sigma]


@pytest.mark.parametrize("head", malformed())
def test_malformed_head_is_covered_all_the_same(head):
    image = room()
    touched = changed(image, replace(image, [head]))
    assert touched[face_pixels(head_at(TEMPLATE))].mean() > 0.99


def test_head_without_a_pose_is_left_to_the_net():
    image, head = room(), head_at(TEMPLATE)
    keypoints = keypoints_of(CAMERA, head, TEMPLATE)
    head.tf_world_head = np.full((4, 4), np.nan)
    result = replace(image, [head], keypoints=keypoints)
    assert result.regions[0].method == "keypoints"
    assert changed(image, result)[face_pixels(head_at(TEMPLATE))].mean() > 0.99


@settings(max_examples=40, deadline=None)
@given(
    place=st.tuples(*[st.floats(-8, 8)] * 3),
    yaw=st.floats(-180, 180),
    sigma=st.floats(0, 10),
    width=st.integers(2, 400),
)
def test_heads_anywhere_never_crash(place, yaw, sigma, width):
    camera = front_camera(distortion=(-0.3, 0.1, 0, 0, 0), width=width)
    image = room(shape=(HEIGHT, width, 3))
    depth = depth_view(front_camera(shift_m=0.05), np.full((HEIGHT, WIDTH), 1.0))
    head = head_at(TEMPLATE, *place, away_deg=yaw, sigma_m=sigma)
    result = replace(image, [head], depth, camera=camera)
    assert all(np.isfinite(region.box).all() for region in result.regions)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (2, 2), (5, 7)])
def test_an_outline_tells_the_smallest_cover_exactly(size):
    mask = np.zeros((20, 30), bool)
    mask[6 : 6 + size[0], 9 : 9 + size[1]] = True
    filled = np.zeros(mask.shape, np.uint8)
    region = Region(np.zeros(4), outline_of(mask), 1, "mesh", 0.0)
    assert len(region.polygon) >= 3
    fill_region(filled, region)
    np.testing.assert_array_equal(filled.astype(bool), mask)


def test_two_runs_are_identical():
    heads = [head_at(TEMPLATE), head_at(TEMPLATE, 2.5, 0.3, away_deg=50)]
    np.testing.assert_array_equal(replace(room(), heads).image, replace(room(), heads).image)


def test_a_head_that_may_be_turned_less_is_covered_from_the_side():
    """In the fault campaign a head was taken to be turned 30 degrees further than it was."""
    image = room()
    sure, doubtful = (
        changed(image, replace(image, [head_at(TEMPLATE, 2.0, away_deg=150.0, sigma_m=sigma)]))
        for sigma in (0.005, 0.02)
    )
    there = head_at(TEMPLATE, 2.0, away_deg=120.0, sigma_m=0.005)
    cheek = changed(image, replace(image, [there]))
    assert (sure & cheek).sum() < 0.7 * cheek.sum()
    assert (doubtful & cheek).sum() > 0.95 * cheek.sum()
