"""COLMAP models, text and binary: poses, cameras, images, and one error for each kind of damage."""

import struct

import numpy as np
import pytest
from make_map import room_points
from make_room_views import CAMERA, camera_poses, room_view, write_image

from mote_localization.errors import SceneError
from mote_localization.geometry import invert, quaternion_xyzw, transform
from mote_localization.scenes import RecordingOptions, open_scene

POSES = camera_poses(3)
NAMES = ("left/img2.jpg", "left/img10.jpg", "right/img1.jpg")  # in natural order
PINHOLE = (200.0, 208.0, 125.75, 99.0)  # CAMERA, with COLMAP's origin of pixels
MODEL_IDS = {"PINHOLE": 1, "FOV": 7, "unknown": 99}


def write_model(folder, kind, model="PINHOLE", parameters=PINHOLE, names=NAMES):
    """Write cameras and images in a folder; each image has two points."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = CAMERA.width, CAMERA.height
    images_text = ["# Image list with two lines of data per image:"]
    images_bytes = struct.pack("<Q", len(names))
    for i in [i for i in (2, 0, 1) if i < len(names)]:
        T_cam_map = invert(POSES[i])
        x, y, z, w = quaternion_xyzw(T_cam_map[:3, :3])
        pose = (w, x, y, z, *T_cam_map[:3, 3])
        numbers = " ".join(map(repr, map(float, pose)))
        images_text += [f"{i + 1} {numbers} 7 {names[i]}", "1.5 2.5 -1 3.5 4.5 63" if i else ""]
        images_bytes += struct.pack("<I7dI", i + 1, *pose, 7) + names[i].encode() + b"\0"
        images_bytes += struct.pack("<QddQddQ", 2, 1.5, 2.5, 2**64 - 1, 3.5, 4.5, 63)
    if kind == "txt":
        numbers = " ".join(map(repr, parameters))
        (folder / "cameras.txt").write_text(
            f"# Camera list\n7 {model} {width} {height} {numbers}\n"
        )
        (folder / "images.txt").write_text("\n".join(images_text) + "\n")
    else:
        camera = struct.pack("<QIiQQ", 1, 7, MODEL_IDS[model], width, height)
        (folder / "cameras.bin").write_bytes(
            camera + struct.pack(f"<{len(parameters)}d", *parameters)
        )
        (folder / "images.bin").write_bytes(images_bytes)


@pytest.fixture
def folder(tmp_path):
    """A folder with the images of a model."""
    for name, T_map_cam in zip(NAMES, POSES, strict=True):
        write_image(tmp_path / f"den/images/{name}", room_view(T_map_cam).image_hw3)
    return tmp_path / "den"


@pytest.mark.parametrize("kind", ["txt", "bin"])
@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
def test_a_model_gives_poses_cameras_and_images(folder, kind, place):
    write_model(folder / place, kind)
    scene = open_scene(folder)
    frames = list(scene.frames("train"))
    assert [f.name for f in frames] == ["left_img2", "left_img10", "right_img1"]
    assert scene.count("test") == 0 and not scene.sequential and not scene.metric
    for frame, T_map_cam in zip(frames, POSES, strict=True):
        assert frame.camera == CAMERA
        assert frame.image().shape == (192, 256, 3) and frame.depth() is None
        # the points that the true camera sees are seen at the centres of the pixels
        points_hw3 = transform(invert(frame.T_map_cam), room_points(T_map_cam, CAMERA, 1))
        pixels = np.stack(np.meshgrid(np.arange(256), np.arange(192)), axis=-1)
        assert np.abs(frame.camera.project(points_hw3) - pixels).max() < 1e-3


def test_a_known_unit_gives_positions_in_metres(folder):
    write_model(folder / "sparse/0", "bin")
    in_units = [frame.known_pose() for frame in open_scene(folder).frames("train")]
    scene = open_scene(folder, RecordingOptions(unit_m=0.25))
    assert scene.metric and "not in metres" not in scene.described()["poses"]
    for frame, T_map_cam in zip(scene.frames("train"), in_units, strict=True):
        assert np.array_equal(frame.T_map_cam[:3, 3], 0.25 * T_map_cam[:3, 3])
        assert np.array_equal(frame.T_map_cam[:3, :3], T_map_cam[:3, :3])


def test_a_unit_that_gives_no_finite_position_is_one_error(folder):
    write_model(folder / "sparse/0", "bin")
    with pytest.raises(SceneError, match=r"--unit-m 1.7e\+308: frame left_img2: .*infinity"):
        open_scene(folder, RecordingOptions(unit_m=1.7e308))


def test_images_may_be_in_the_folder_itself(folder):
    for path in list((folder / "images").iterdir()):
        path.rename(folder / path.name)
    (folder / "images").rmdir()
    write_model(folder / "sparse/0", "bin")
    assert next(open_scene(folder).frames("all")).image().shape == (192, 256, 3)


@pytest.mark.parametrize(
    ("model", "parameters", "expected"),
    [
        ("SIMPLE_PINHOLE", (50, 32, 24), ("plumb_bob", ())),
        ("SIMPLE_RADIAL", (50, 32, 24, 0.1), ("plumb_bob", (0.1, 0, 0, 0))),
        ("SIMPLE_RADIAL", (50, 32, 24, 0), ("plumb_bob", ())),
        ("RADIAL", (50, 32, 24, 0.1, -0.05), ("plumb_bob", (0.1, -0.05, 0, 0))),
        (
            "OPENCV",
            (50, 52, 32, 24, 0.1, -0.05, 0.01, 0.02),
            ("plumb_bob", (0.1, -0.05, 0.01, 0.02)),
        ),
        (
            "FULL_OPENCV",
            (50, 52, 32, 24, 0.1, -0.05, 0.01, 0.02, 0.03, 0.2, 0.1, 0.05),
            ("rational_polynomial", (0.1, -0.05, 0.01, 0.02, 0.03, 0.2, 0.1, 0.05)),
        ),
        ("OPENCV_FISHEYE", (50, 52, 32, 24, 0.1, 0, 0, 0.01), ("equidistant", (0.1, 0, 0, 0.01))),
        ("SIMPLE_RADIAL_FISHEYE", (50, 32, 24, 0.1), ("equidistant", (0.1, 0, 0, 0))),
        ("RADIAL_FISHEYE", (50, 32, 24, 0.1, 0.02), ("equidistant", (0.1, 0.02, 0, 0))),
        ("SIMPLE_FISHEYE", (50, 32, 24), ("equidistant", (0, 0, 0, 0))),
        ("FISHEYE", (50, 52, 32, 24), ("equidistant", (0, 0, 0, 0))),
    ],
)
def test_camera_models_are_those_of_colmap(folder, model, parameters, expected):
    write_model(folder, "txt", model, parameters)
    camera = next(open_scene(folder).frames("all")).camera
    assert (camera.distortion_model, camera.distortion) == expected
    assert (camera.fx, camera.fy) == (50, 52 if parameters[1] == 52 else 50)
    assert (camera.cx, camera.cy) == (31.5, 23.5)
    pycolmap = pytest.importorskip("pycolmap", reason="only the trainer installs COLMAP")
    theirs = pycolmap.Camera(
        model=model, width=CAMERA.width, height=CAMERA.height, params=np.array(parameters, float)
    )
    rays_n3 = np.random.default_rng(0).uniform((-0.5, -0.5, 1), (0.5, 0.5, 1), (50, 3))
    assert np.allclose(camera.project(rays_n3) + 0.5, theirs.img_from_cam(rays_n3), atol=1e-6)


def without_the_end(name, count):
    def change(folder):
        write_model(folder, "bin")
        path = folder / name
        path.write_bytes(path.read_bytes()[:-count])

    return change


def with_bytes(name, content):
    def change(folder):
        write_model(folder, "bin")
        (folder / name).write_bytes(content)

    return change


def with_text(name, content):
    def change(folder):
        write_model(folder, "txt")
        (folder / name).write_text(content)

    return change


def with_model(*arguments, **options):
    return lambda folder: write_model(folder, *arguments, **options)


def with_equal_names(folder):
    write_model(folder, "txt", names=("left/img2.jpg", "left_img2.png"))
    write_image(folder / "images/left_img2.png", np.zeros((192, 256, 3), np.uint8))


MANY = struct.pack("<Q", 2**63)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_the_end("cameras.bin", 1), "cameras.bin: is cut off: 32 bytes are missing"),
        (without_the_end("images.bin", 30), "images.bin: is cut off"),
        (with_bytes("cameras.bin", MANY), "cameras.bin: is cut off"),
        (with_bytes("images.bin", MANY + b"\1" * 64 + b"a\0" + MANY), "images.bin: is cut off"),
        (with_bytes("images.bin", MANY + b"\1" * 5000), "image name without end"),
        (with_model("bin", "unknown"), "camera model 99, which is not known"),
        (with_model("bin", "FOV", (*PINHOLE, 0.9)), "camera 7: found the camera model FOV"),
        (with_model("txt", "FOV", (*PINHOLE, 0.9)), "image_undistorter"),
        (with_model("txt", "PINHOLE", PINHOLE[:3]), "no camera with its parameters"),
        (with_model("txt", "PINHOLE", (-1.0, *PINHOLE[1:])), "focal lengths -1"),
        (with_model("txt", names=("../a.jpg",) * 3), r"found the path '\.\./a.jpg'"),
        (with_model("txt", names=(NAMES[0], "b.jpg", "c.jpg")), "2 of 3 .*first: images/b.jpg: is"),
        (with_text("cameras.txt", "a PINHOLE 1 1 1 1 1 1"), "cameras.txt: invalid literal"),
        (with_text("images.txt", "1 1 0 0 0 0 0 0 one a.jpg"), "no image with its pose"),
        (with_text("images.txt", "1 1 0 0 0 0 0 0 inf a.jpg"), "no image with its pose"),
        (
            with_text("images.txt", "1 1 0 0 0 0 0 0 8 left/img2.jpg"),
            "lacks camera 8 of image left",
        ),
        (with_text("images.txt", "1 0 0 0 0 0 0 0 7 left/img2.jpg"), "quaternion of left/img2.jpg"),
        (with_text("images.txt", "1 1 0 0 0 nan 0 0 7 left/img2.jpg"), "holds NaN"),
        (with_text("images.txt", "# no image"), "holds no frame"),
        (with_equal_names, "2 frames have the name left_img2, expected different names"),
    ],
)
def test_a_damaged_model_is_one_error(folder, change, message):
    change(folder)
    with pytest.raises(SceneError, match=message) as caught:
        open_scene(folder)
    text = str(caught.value)
    assert str(folder) in text and "\n" not in text
    assert len(text.replace(str(folder), "")) < 300
