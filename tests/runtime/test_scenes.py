"""Scene folders: reading them, and one clear error for each kind of damage."""

import cv2
import numpy as np
import pytest
from make_scene import View, write_scene
from PIL import Image

from mote_localization.camera import Camera
from mote_localization.errors import SceneError
from mote_localization.image_files import read_image
from mote_localization.scenes import RecordingOptions, open_scene
from mote_localization.scenes.folder import FolderScene

NAMES = ["frame-000003", "frame-000001", "frame-000002"]
POSE = np.array([[0.0, 0, 1, 0.5], [-1, 0, 0, 1.5], [0, -1, 0, 1.2], [0, 0, 0, 1]])
CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
COLOUR = np.array([200, 100, 50], np.uint8)  # RGB


@pytest.fixture
def folder(tmp_path):
    """A scene of three frames; the last one is the test frame."""
    views = {
        name: View(
            np.broadcast_to(COLOUR + np.uint8(number), (48, 64, 3)),
            POSE,
            np.full((48, 64), 1.5 + number / 1000),
        )
        for number, name in enumerate(NAMES)
    }
    return write_scene(tmp_path / "den", CAMERA, views, test=NAMES[2:])


def assert_scene_error(folder, message):
    with pytest.raises(SceneError, match=message) as caught:
        scene = open_scene(folder)
        for frame in scene.frames("all"):
            frame.image()
            frame.depth()
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_frames_are_sorted_by_name_and_split(folder):
    scene = open_scene(folder)
    assert scene.name == "den"
    assert [f.name for f in scene.frames("all")] == sorted(NAMES)
    assert [f.name for f in scene.frames("train")] == ["frame-000001", "frame-000003"]
    assert [f.name for f in scene.frames("test")] == ["frame-000002"]
    assert [scene.count(split) for split in ("train", "test", "all")] == [2, 1, 3]


def test_a_frame_has_image_depth_pose_and_camera(folder):
    frame = next(iter(open_scene(folder).frames("test")))
    assert np.array_equal(frame.image(), np.broadcast_to(COLOUR + 2, (48, 64, 3)))
    assert frame.image().flags["C_CONTIGUOUS"]
    assert frame.depth().dtype == np.float32 and np.allclose(frame.depth(), 1.502)
    assert np.array_equal(frame.T_map_cam, POSE)
    assert frame.camera == CAMERA


def test_stamps_increase_at_the_nominal_rate(folder):
    stamps = [f.stamp_s for f in open_scene(folder).frames("all")]
    assert np.allclose(np.diff(stamps), 1 / 30)


def test_test_frames_and_depth_are_optional(folder):
    (folder / "test.txt").unlink()
    for path in folder.glob("data/*.depth.png"):
        path.unlink()
    scene = open_scene(folder)
    assert scene.count("test") == 0
    assert all(frame.depth() is None for frame in scene.frames("train"))


def test_the_pose_is_optional_and_requesting_a_missing_one_is_an_error(folder):
    pose_file(folder).unlink()
    poses = {f.name: f.T_map_cam for f in open_scene(folder).frames("all")}
    assert {name for name, pose in poses.items() if pose is None} == {NAMES[1]}
    without_pose, with_pose, _ = open_scene(folder).frames("all")
    assert np.array_equal(with_pose.known_pose(), POSE)
    with pytest.raises(SceneError, match=f"frame {NAMES[1]}: has no pose.*remove frames without"):
        without_pose.known_pose()


def test_an_infinite_pose_is_a_missing_one(folder):
    np.savetxt(pose_file(folder), np.full((4, 4), -np.inf))  # 12Scenes writes these
    assert [f.T_map_cam is None for f in open_scene(folder).frames("all")] == [True, False, False]


def test_intrinsics_can_be_a_matrix_of_four_rows(folder):
    K_44 = np.eye(4)
    K_44[:3, :3] = CAMERA.K_33
    np.savetxt(folder / "camera-intrinsics.txt", K_44)
    assert next(open_scene(folder).frames("all")).camera == CAMERA


def test_all_frames_that_cannot_be_used_are_one_error(folder):
    pose_file(folder).write_text("tracking lost")
    (folder / "data" / f"{NAMES[2]}.color.png").unlink()
    assert_scene_error(
        folder,
        f"2 of 3 frames cannot be used \\({NAMES[1]}, {NAMES[2]}\\); the first: "
        f"data/{NAMES[1]}.pose.txt: could not convert",
    )


def test_without_intrinsics_images_can_have_different_sizes(folder):
    frame = next(open_scene(folder).frames("test"))
    assert frame.known_camera() is frame.camera
    (folder / "camera-intrinsics.txt").unlink()
    with_an_image_of_another_size(folder)
    frames = list(open_scene(folder).frames("all"))
    assert [f.image().shape[:2] for f in frames] == [(48, 64), (24, 32), (48, 64)]
    assert [f.size() for f in frames] == [(64, 48), (32, 24), (64, 48)]
    assert [f.camera for f in frames] == [None] * 3
    with pytest.raises(SceneError, match=f"frame {NAMES[1]}: its camera's intrinsics are not"):
        frames[0].known_camera()


def test_the_size_of_an_image_is_read_from_its_header_without_exif_rotation(folder):
    (folder / "camera-intrinsics.txt").unlink()
    path = folder / f"data/{NAMES[2]}.color.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a rotation by 90 degrees
    Image.new("RGB", (32, 24)).save(path, exif=exif)
    (frame,) = open_scene(folder).frames("test")
    assert frame.size() == frame.image().shape[1::-1] == (32, 24)
    path.write_bytes(path.read_bytes()[:-20])
    assert frame.size() == (32, 24)
    path.write_bytes(b"no image")
    with pytest.raises(SceneError, match="is damaged or no image"):
        frame.size()


def test_a_scene_folder_is_sequential(folder):
    assert open_scene(folder).sequential


def test_a_real_scene_is_read(kitchen):
    scene = FolderScene(kitchen)
    frame = next(iter(scene.frames("test")))
    assert (scene.count("train"), scene.count("test")) == (240, 100)
    assert frame.image().shape == (480, 640, 3)
    assert 0.3 < np.median(frame.depth()[frame.depth() > 0]) < 5


def pose_file(folder):
    return folder / "data" / f"{NAMES[1]}.pose.txt"


def with_a_scaled_pose(folder):
    np.savetxt(pose_file(folder), np.diag([2.0, 2, 2, 1]))


def with_a_mirrored_pose(folder):
    np.savetxt(pose_file(folder), np.diag([1.0, 1, -1, 1]))


def with_nan(folder):
    np.savetxt(pose_file(folder), POSE * np.nan)


def with_a_short_pose(folder):
    np.savetxt(pose_file(folder), POSE[:3])


def with_words_for_a_pose(folder):
    pose_file(folder).write_text("tracking lost")


def with_ragged_rows(folder):
    pose_file(folder).write_text("1 0 0 0\n0 1 0\n")


def with_bytes_for_a_pose(folder):
    pose_file(folder).write_bytes(b"\xff\xfe\x00")


def with_an_endless_pose(folder):
    pose_file(folder).write_text("1 0 0 0\n" * 10_000)


def without_an_image(folder):
    (folder / "data" / f"{NAMES[1]}.color.png").unlink()


def with_an_empty_image(folder):
    (folder / "data" / f"{NAMES[1]}.color.png").write_bytes(b"")


def with_a_damaged_image(folder):
    path = folder / "data" / f"{NAMES[1]}.color.png"
    path.write_bytes(path.read_bytes()[:60])


def with_an_image_of_another_size(folder):
    path = folder / "data" / f"{NAMES[2]}.color.png"
    cv2.imwrite(str(path), np.zeros((24, 32, 3), np.uint8))


def with_a_folder_for_an_image(folder):
    path = folder / "data" / f"{NAMES[2]}.color.png"
    path.unlink()
    path.mkdir()


def with_damaged_depth(folder):
    path = folder / "data" / f"{NAMES[2]}.depth.png"
    path.write_bytes(path.read_bytes()[:60])


def with_depth_of_8_bits(folder):
    path = folder / "data" / f"{NAMES[2]}.depth.png"
    cv2.imwrite(str(path), np.ones((48, 64), np.uint8))


def with_depth_of_another_size(folder):
    path = folder / "data" / f"{NAMES[2]}.depth.png"
    cv2.imwrite(str(path), np.ones((32, 24), np.uint16))


def with_zero_intrinsics(folder):
    np.savetxt(folder / "camera-intrinsics.txt", np.zeros((3, 3)))


def without_train(folder):
    (folder / "train.txt").unlink()


def with_empty_splits(folder):
    (folder / "train.txt").write_text("\n")
    (folder / "test.txt").write_text("")


def with_a_frame_in_both(folder):
    (folder / "test.txt").write_text(NAMES[0])


def with_a_path_for_a_name(folder):
    (folder / "train.txt").write_text("../../secret")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_a_scaled_pose, f"{NAMES[1]}.pose.txt: .*not a rotation"),
        (with_a_mirrored_pose, "not a rotation"),
        (with_nan, "NaN"),
        (with_a_short_pose, r"\(3, 4\), expected \(4, 4\)"),
        (with_words_for_a_pose, "4x4 matrix as text"),
        (with_ragged_rows, "4x4 matrix as text"),
        (with_bytes_for_a_pose, "cannot be read as text"),
        (with_an_endless_pose, "pose.txt: cannot be read as text .*is larger than 64 KiB"),
        (without_an_image, f"{NAMES[1]}.color.*is missing"),
        (with_an_empty_image, "is damaged or no image"),
        (with_a_damaged_image, "is damaged or no image"),
        (with_an_image_of_another_size, "32x24 px.*64x48"),
        (with_a_folder_for_an_image, "cannot be read"),
        (with_damaged_depth, "depth.png: is damaged"),
        (with_depth_of_8_bits, "uint8.*16-bit"),
        (with_depth_of_another_size, "depth.png: .*24x32.*64x48"),
        (with_zero_intrinsics, "camera-intrinsics.txt: .*calibrat"),
        (without_train, "train.txt: is missing"),
        (with_empty_splits, "name no frame"),
        (with_a_frame_in_both, "in train.txt and in test.txt"),
        (with_a_path_for_a_name, "expected plain names"),
    ],
)
def test_a_damaged_scene_is_one_error_that_names_the_file(folder, damage, message):
    damage(folder)
    assert_scene_error(folder, message)


@pytest.mark.parametrize("place", ["none", "empty", "notes.txt"])
def test_the_error_for_a_path_that_is_no_scene_names_all_layouts(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no scene")
    assert_scene_error(tmp_path / place, "rosbag2 recording.*scene folder.*photographs")


def test_a_path_that_the_system_refuses_is_one_error(tmp_path):
    assert_scene_error(tmp_path / ("a" * 300), "cannot be read .File name too long")


def test_depth_smaller_than_colour_is_scaled_by_the_nearest_pixel(folder):
    path = folder / "data" / f"{NAMES[2]}.depth.png"
    small_hw = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    cv2.imwrite(str(path), small_hw)
    (frame,) = open_scene(folder).frames("test")
    assert np.allclose(frame.depth(), np.kron(small_hw, np.ones((2, 2))) / 1000)


def test_frames_without_padded_numbers_are_in_the_order_of_their_numbers(folder, tmp_path):
    view = View(np.zeros((48, 64, 3), np.uint8), POSE)
    write_scene(tmp_path / "plain", CAMERA, {name: view for name in ("108", "0", "12")})
    assert [f.name for f in open_scene(tmp_path / "plain").frames("all")] == ["0", "12", "108"]


@pytest.mark.parametrize(
    ("values", "flag"), [({"image_topic": "/camera"}, "--image-topic"), ({"unit_m": 1}, "--unit-m")]
)
def test_options_of_other_layouts_are_refused(folder, values, flag):
    with pytest.raises(SceneError, match=f"found {flag} with a scene folder"):
        open_scene(folder, RecordingOptions(**values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"test_from": "soon"}, "'soon', expected seconds"),
        ({"test_from": "9s", "test_to": "3"}, "from 9 s and --test-to 3 s"),
        ({"test_every": 1}, "--test-every 1, expected"),
        ({"test_every": 3, "test_to": "9"}, "--test-every with"),
        ({"max_frames": 1}, "--max-frames 1"),
        ({"unit_m": 0.0}, "--unit-m 0, expected the length of the unit"),
        ({"unit_m": -1.0}, "--unit-m -1, expected"),
        ({"unit_m": float("nan")}, "--unit-m nan, expected"),
        ({"unit_m": float("inf")}, "--unit-m inf, expected"),
    ],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(SceneError, match=message):
        RecordingOptions(**values)


def test_images_are_read_as_stored(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
