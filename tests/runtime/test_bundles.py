"""Bundles: images are localized in the right submap, and ambiguous ones in none."""

import time
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
from make_bundle import COPY, copy_of, map_at, view, write_rooms
from make_map import CAMERA, room_points
from make_painted_room import photograph, shifted

from mote_localization.bundles import bundle_localizer, read_bundle, write_bundle
from mote_localization.bundles.bundle_localizer import BundleLocalizer, open_localizer
from mote_localization.bundles.place_poses import grouped
from mote_localization.errors import BackendError
from mote_localization.geometry import invert, local_coordinates, retract
from mote_localization.localizer import Localizer, RigImage, Status
from mote_localization.map_file import read_map, write_map
from mote_localization.map_transform import FrameChange, transform_map

REPAINTED_M = 1.8  # in the right quarter of the front view


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return write_rooms(tmp_path_factory.mktemp("rooms"))


@pytest.fixture(scope="module")
def without_copy(rooms):
    maps = {name: (rooms.parent / f"{name}.onnx").read_bytes() for name in ("front", "rear")}
    path = rooms.parent / "one_room.mote"
    write_bundle(path, "one room", maps)
    return path


@pytest.fixture
def localizer(rooms):
    found = open_localizer(rooms)
    yield found
    found.close()


def assert_at(found, T_map_cam):
    assert found.status is Status.LOCALIZED, found.reason
    assert np.abs(local_coordinates(T_map_cam, found.T_map_cam)).max() < 5e-3


def test_a_bundle_holds_the_maps_as_they_are(rooms):
    bundle = read_bundle(rooms)
    assert [submap.name for submap in bundle.submaps] == ["front", "rear", "copy"]
    for number, submap in enumerate(bundle.submaps):
        content = (rooms.parent / f"{submap.name}.onnx").read_bytes()
        assert bundle.map_file(number).model == content
    np.testing.assert_allclose(bundle.submaps[0].keyframe_poses_k44[1], view(0))
    assert len(bundle.index.owners_n) == 9


def test_the_same_maps_give_the_same_bytes(rooms, tmp_path):
    maps = {
        name: (rooms.parent / f"{name}.onnx").read_bytes() for name in ("front", "rear", "copy")
    }
    write_bundle(tmp_path / "again.mote", "rooms", maps)
    assert (tmp_path / "again.mote").read_bytes() == rooms.read_bytes()


@pytest.mark.parametrize("turn", [0.0, 0.9])
def test_without_a_last_pose_the_submap_is_found_by_the_image(without_copy, turn):
    localizer = open_localizer(without_copy)
    found = localizer.localize(photograph(view(turn)), CAMERA)
    assert_at(found, view(turn))
    assert found.tracking.submap == (0 if turn == 0 else 1)
    localizer.close()


def test_an_image_that_two_submaps_explain_is_ambiguous(localizer):
    found = localizer.localize(photograph(view(0.05)), CAMERA)
    assert found.status is Status.LOST and found.ambiguous
    assert found.T_map_cam is None and found.covariance_66 is None and found.tracking is None
    assert found.reason == "ambiguous: front and copy explain the image, 20.0 m apart"


def test_an_image_that_two_places_of_one_submap_explain_is_ambiguous(rooms, tmp_path):
    front, copy = (read_map(rooms.parent / f"{name}.onnx") for name in ("front", "copy"))
    both = replace(
        front.info,
        keyframes=front.info.keyframes + copy.info.keyframes,
        bounds_max=copy.info.bounds_max,
    )
    write_map(tmp_path / "both.onnx", onnx.load_model_from_string(front.model), both)
    maps = {"both": (tmp_path / "both.onnx").read_bytes()}
    write_bundle(tmp_path / "both.mote", "both", maps)
    localizer = open_localizer(tmp_path / "both.mote")
    found = localizer.localize(photograph(view(0.05)), CAMERA)
    assert found.status is Status.LOST and found.ambiguous
    assert found.reason == "ambiguous: two places of both explain the image, 20.0 m apart"
    near = localizer.tracking_at(COPY @ view(0.0))
    assert_at(localizer.localize(photograph(view(0.05)), CAMERA, near), COPY @ view(0.05))
    # a last pose from which tracking fails must not lead to one of the two places
    far = localizer.tracking_at(shifted(0, 0, -4.0, omega=(0, 0.8, 0)))
    assert localizer.localize(photograph(view(0.05)), CAMERA, far).ambiguous
    localizer.close()


@pytest.mark.parametrize("T_from_front", [np.eye(4), COPY], ids=["front", "copy"])
def test_the_last_pose_decides_between_places_that_look_alike(localizer, T_from_front):
    tracking = localizer.tracking_at(T_from_front @ view(0.0))
    found = localizer.localize(photograph(view(0.05)), CAMERA, tracking)
    assert_at(found, T_from_front @ view(0.05))


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("T_from_front", [np.eye(4), COPY], ids=["front", "copy"])
def test_a_last_pose_that_is_verified_still_decides(localizer, T_from_front, search):
    tracking = localizer.tracking_at(T_from_front @ view(0.0))._replace(verify=True)
    image_hw3 = photograph(view(0.05))
    found = localizer.localize(image_hw3, CAMERA, tracking, (), search)
    assert_at(found, T_from_front @ view(0.05))


def test_where_tracking_fails_keyframes_near_the_last_pose_decide(localizer, monkeypatch):
    monkeypatch.setattr(BundleLocalizer, "_tracked", lambda *_: None)
    near = localizer.tracking_at(COPY @ view(0.0))
    image_hw3 = photograph(view(0.05))
    assert_at(localizer.localize(image_hw3, CAMERA, near), COPY @ view(0.05))
    assert localizer.localize(image_hw3, CAMERA, near, search=False).status is Status.LOST


def test_where_nothing_verifies_the_last_pose_it_is_tracked(localizer, monkeypatch):
    tracked = []

    def only_tracked(one, number, rig, tracking):
        tracked.append(tracking is not None)
        found = in_submap(one, number, rig, tracking)
        return found if tracking else bundle_localizer._lost(found, "lost")

    in_submap = BundleLocalizer._localized_in
    monkeypatch.setattr(BundleLocalizer, "_localized_in", only_tracked)
    monkeypatch.setattr(Localizer, "pose_by_keyframes", lambda *_: None)
    near = localizer.tracking_at(COPY @ view(0.0))._replace(verify=True)
    for search in (True, False):
        tracked.clear()
        found = localizer.localize(photograph(view(0.05)), CAMERA, near, (), search)
        assert_at(found, COPY @ view(0.05))
        assert not tracked[0] and tracked[-1]  # it was first tried without


def test_a_last_pose_far_away_does_not_decide_between_them(localizer):
    far = COPY @ view(0.0)
    far[0, 3] -= 6.0
    tracking = localizer.tracking_at(far)
    assert tracking.submap == 2
    assert localizer.localize(photograph(view(0.05)), CAMERA, tracking).ambiguous


def test_views_from_one_point_in_opposite_directions_are_ambiguous(rooms, tmp_path):
    turned = np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:3, 3] = view(0)[:3, 3] - turned[:3, :3] @ view(0)[:3, 3]
    changed = transform_map(read_map(rooms.parent / "front.onnx"), FrameChange(turned), metric=True)
    write_map(tmp_path / "turned.onnx", *changed)
    paths = {"front": rooms.parent / "front.onnx", "turned": tmp_path / "turned.onnx"}
    write_bundle(tmp_path / "t.mote", "t", {name: p.read_bytes() for name, p in paths.items()})
    localizer = open_localizer(tmp_path / "t.mote")
    assert localizer.localize(photograph(view(0.05)), CAMERA).ambiguous
    localizer.close()


@pytest.fixture(scope="module")
def look_alikes(tmp_path_factory):
    """Two rooms, which differ in the paint to the right of the view."""
    folder = tmp_path_factory.mktemp("look_alikes")
    maps = {"front": map_at(folder / "front.onnx", 0.0)}
    map_at(folder / "repainted.onnx", 0.0, REPAINTED_M)
    maps["repainted"] = copy_of(folder / "repainted.onnx", folder / "copy.onnx")
    write_bundle(folder / "rooms.mote", "rooms", maps)
    localizer = open_localizer(folder / "rooms.mote")
    yield localizer
    localizer.close()


@pytest.mark.parametrize(
    ("repainted_m", "T_from_front"), [(-np.inf, np.eye(4)), (REPAINTED_M, COPY)]
)
def test_what_only_one_of_two_places_shows_decides_between_them(
    look_alikes, repainted_m, T_from_front
):
    found = look_alikes.localize(photograph(view(0.05), repainted_m), CAMERA)
    assert_at(found, T_from_front @ view(0.05))


def test_an_image_without_what_only_one_of_two_places_shows_is_ambiguous(look_alikes):
    assert look_alikes.localize(photograph(view(-0.4)), CAMERA).ambiguous


def test_an_image_that_shows_something_else_there_is_ambiguous(look_alikes):
    image_hw3 = photograph(view(0.05))
    image_hw3[:, 230:] = photograph(view(0.9))[:, 230:]
    found = look_alikes.localize(image_hw3, CAMERA)
    assert found.ambiguous, found.T_map_cam


def test_where_keyframes_do_not_decide_all_students_are_asked(rooms, monkeypatch):
    maps = {name: (rooms.parent / f"{name}.onnx").read_bytes() for name in ("front", "copy")}
    write_bundle(rooms.parent / "two.mote", "two", maps)
    localizer = open_localizer(rooms.parent / "two.mote")
    blurred_hw3 = cv2.GaussianBlur(photograph(view(0.05)), (0, 0), 6)
    monkeypatch.setattr(Localizer, "pose_by_keyframes", lambda *_: None)
    students = [localizer._submap(n).localize(blurred_hw3, CAMERA, search=False) for n in (0, 1)]
    assert all(found.status is Status.LOCALIZED for found in students)
    assert localizer.localize(blurred_hw3, CAMERA).ambiguous
    localizer.close()


@pytest.mark.parametrize("metres", [0.5, 2.8])
def test_rooms_that_look_alike_may_be_near_each_other(rooms, tmp_path, metres):
    beside = np.eye(4)
    beside[1, 3] = -metres
    front = rooms.parent / "front.onnx"
    changed = transform_map(read_map(front), FrameChange(beside), metric=True)
    write_map(tmp_path / "beside.onnx", *changed)
    maps = {"front": front.read_bytes(), "beside": (tmp_path / "beside.onnx").read_bytes()}
    write_bundle(tmp_path / "two.mote", "two", maps)
    localizer = open_localizer(tmp_path / "two.mote")
    assert localizer.localize(photograph(view(0.05)), CAMERA).ambiguous
    localizer.close()


def test_of_several_cameras_the_one_that_shows_most_is_searched(localizer, without_copy):
    image_hw3 = photograph(view(0.05))
    second = RigImage(image_hw3, CAMERA, invert(view(0.9)) @ view(0.05), "the second")
    blank_hw3 = np.full_like(image_hw3, 128)
    assert localizer.localize(blank_hw3, CAMERA, None, [second]).ambiguous
    one_room = open_localizer(without_copy)
    assert_at(one_room.localize(blank_hw3, CAMERA, None, [second]), view(0.9))
    one_room.close()


def test_a_pose_that_the_nearest_submap_contradicts_is_not_given(without_copy, monkeypatch):
    localizer = open_localizer(without_copy)
    by_keyframes = Localizer.pose_by_keyframes

    def beside(*arguments):
        found = by_keyframes(*arguments)
        return replace(found, T_map_cam=retract(found.T_map_cam, np.array([0.3, 0, 0, 0, 0, 0])))

    monkeypatch.setattr(Localizer, "pose_by_keyframes", beside)
    monkeypatch.setattr(BundleLocalizer, "_by_students", lambda *_: [])
    found = localizer.localize(photograph(view(0.05)), CAMERA)
    assert found.status is Status.LOST and "disagree" in found.reason
    localizer.close()


def test_a_submap_that_cannot_run_does_not_stop_the_others(without_copy):
    bundle = read_bundle(without_copy)
    loaded = []

    def load(map_file):
        loaded.append(map_file.info.scene)
        if map_file.info.scene == "rear":
            raise BackendError("cannot run it")
        return TrueStudent()

    localizer = BundleLocalizer(bundle, load)
    noise = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
    for _ in range(2):
        assert localizer.localize(noise, CAMERA).status is Status.LOST
        assert_at(localizer.localize(photograph(view(0.0)), CAMERA), view(0.0))
        with pytest.raises(BackendError, match="cannot run it"):
            localizer.localize(photograph(view(0.9)), CAMERA)
    assert sorted(loaded) == ["front", "rear"]  # it is not tried again
    localizer.close()


class TrueStudent:
    """A backend that predicts the points that the camera sees, in every submap."""

    def __init__(self):
        self.T_map_cam = view(0)

    def predict(self, image_hw3):
        points_hw3 = room_points(self.T_map_cam, CAMERA, 8)
        return points_hw3, np.full(points_hw3.shape[:2], 0.02, np.float32)


def test_a_camera_that_moves_to_another_submap_is_tracked_without_a_jump(rooms):
    student = TrueStudent()
    localizer = BundleLocalizer(read_bundle(rooms), lambda _: student)
    tracking, submaps = localizer.tracking_at(view(-0.3)), []
    for turn in np.arange(-0.3, 1.2, 0.1):
        student.T_map_cam = view(turn)
        found = localizer.localize(photograph(view(turn)), CAMERA, tracking)
        assert_at(found, view(turn))
        tracking = found.tracking
        submaps.append(tracking.submap)
    assert submaps == sorted(submaps) and set(submaps) == {0, 1}
    localizer.close()


def test_the_time_of_an_answer_counts_all_that_was_computed_for_it(localizer):
    for image_hw3 in (photograph(view(0.0)), np.zeros_like(photograph(view(0.0)))):
        started = time.perf_counter()
        found = localizer.localize(image_hw3, CAMERA)
        elapsed_s = time.perf_counter() - started
        assert found.status is Status.LOST and 0 < found.search_s < elapsed_s
        assert found.search_s < sum(found.seconds.values()) <= elapsed_s


def test_without_a_search_only_the_last_pose_counts(localizer):
    image_hw3 = photograph(view(0.05))
    found = localizer.localize(image_hw3, CAMERA, search=False)
    assert found.status is Status.LOST and not found.ambiguous and "not searched" in found.reason
    assert np.isnan(found.points_hw3).all() and found.covered_hw.all()
    near = localizer.tracking_at(COPY @ view(0.0))
    assert_at(localizer.localize(image_hw3, CAMERA, near, search=False), COPY @ view(0.05))


def test_a_camera_near_another_submap_has_it_loaded_ahead(without_copy):
    localizer = open_localizer(without_copy)
    tracking = localizer.tracking_at(view(0.0))
    assert 0 in localizer._submaps and 1 not in localizer._submaps
    assert_at(localizer.localize(photograph(view(0.05)), CAMERA, tracking), view(0.05))
    deadline = time.monotonic() + 10
    while 1 not in localizer._submaps and time.monotonic() < deadline:
        time.sleep(0.01)
    while localizer._submaps[1]._backend._backend is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert localizer._submaps[1]._backend._backend is not None  # with its network
    localizer.close()


def test_a_submap_in_use_survives_that_others_take_its_place(rooms, monkeypatch):
    monkeypatch.setattr(bundle_localizer, "_MOST_LOADED", 1)
    localizer = open_localizer(rooms)
    used = localizer._submap(0)
    localizer.tracking_at(view(0.9))
    assert 0 not in localizer._submaps
    assert used.localize(photograph(view(0)), CAMERA).status is Status.LOCALIZED
    localizer.localize(photograph(view(0.9)), CAMERA)  # closes those that are not in memory
    with pytest.raises(RuntimeError):
        used.localize(photograph(view(0)), CAMERA)
    localizer.close()


def test_places_are_groups_of_keyframes_that_are_far_from_each_other():
    poses = np.array([shifted(x, 0, 0) for x in (0, 0.5, 20, 20.5, 1.0, 40, 60)])
    submap_n, keyframe_n = np.array([0, 1, 2, 2, 0, 3, 4]), np.arange(7) + 10
    places = [(0, [10, 14]), (1, [11]), (2, [12, 13]), (3, [15]), (4, [16])]
    assert grouped(poses, submap_n, keyframe_n, 9, 9) == places
    assert grouped(poses, submap_n, keyframe_n, 2, 1) == [(0, [10]), (1, [11])]
    assert grouped(poses[2:], np.zeros(5, int), keyframe_n[2:], 9, 1) == [
        (0, [12]), (0, [14]), (0, [15]), (0, [16])
    ]  # fmt: skip
    assert grouped(poses[:0], submap_n[:0], keyframe_n[:0], 9, 9) == []


def test_an_image_of_another_place_is_lost(localizer):
    noise = np.random.default_rng(0).integers(0, 255, (CAMERA.height, CAMERA.width, 3), np.uint8)
    for image_hw3 in (noise, np.zeros_like(noise)):
        found = localizer.localize(image_hw3, CAMERA)
        assert found.status is Status.LOST and not found.ambiguous and found.reason


def test_the_description_is_that_of_the_whole_place(localizer):
    info = localizer.info
    assert info.scene == "rooms" and info.bounds_max[0] == pytest.approx(26.0)
