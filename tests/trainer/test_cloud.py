"""Exports of a reconstruction's cloud."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from distill_training.reconstruction import ReconstructedFrame, Reconstruction
from distill_training.reconstruction.cloud_export import picture, save_ply, show_rerun
from mote_localization.camera import Camera, cell_pixels
from mote_localization.errors import ReconstructionError
from mote_localization.geometry import pose_from, transform

CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)
CELLS = 8 * 6
COLOURS = ((250, 10, 20), (30, 240, 60), (70, 90, 200))  # one per frame
DOTS = 8 * 24  # per camera


@pytest.fixture
def rooms(tmp_path: Path) -> Reconstruction:
    """Return three frames of a wall 2 m ahead, each of one colour; the first cell has no point."""
    q = np.array([-1.0, 0, 0, 1])  # view along y, z up
    poses = {f"f{i}": pose_from(np.array([i, 0, 1.5]), q) for i in range(len(COLOURS))}
    reconstruction = Reconstruction(tmp_path / "r", "wall", "rgbd", "", CAMERA, 8, {}, poses)
    reconstruction.begin()
    for (name, T), colour in zip(poses.items(), COLOURS, strict=True):
        points_hw3 = transform(T, 2 * CAMERA.rays(cell_pixels(64, 48, 8)))
        points_hw3[0, 0] = np.nan
        reconstruction.write_frame(
            name,
            ReconstructedFrame(
                np.full((48, 64, 3), colour, np.uint8),
                points_hw3.astype(np.float32),
                np.zeros((6, 8), np.float32),
            ),
        )
    return reconstruction


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    header, body = path.read_bytes().split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    kinds = {"float": "<f4", "uchar": "u1"}
    vertices = np.frombuffer(body, [(name, kinds[kind]) for kind, name in properties])
    assert f"element vertex {len(vertices)}" in lines
    return tuple(
        np.stack([vertices[name] for name in names], axis=1)
        for names in ("xyz", ("red", "green", "blue"))
    )


def test_a_ply_holds_every_point_in_the_colour_of_its_image(rooms, tmp_path: Path):
    save_ply(rooms, tmp_path / "cloud.ply")
    points_n3, colours_n3 = read_ply(tmp_path / "cloud.ply")
    frames = [rooms.read_frame(name).points_hw3.reshape(-1, 3)[1:] for name in rooms.poses]
    cloud = len(COLOURS) * (CELLS - 1)
    np.testing.assert_array_equal(points_n3[:cloud], np.concatenate(frames))
    np.testing.assert_array_equal(colours_n3[:cloud], np.repeat(COLOURS, CELLS - 1, axis=0))


def test_a_ply_shows_the_frustum_of_each_camera(rooms, tmp_path: Path):
    save_ply(rooms, tmp_path / "cloud.ply")
    dots_n3 = read_ply(tmp_path / "cloud.ply")[0][len(COLOURS) * (CELLS - 1) :]
    assert len(dots_n3) == len(COLOURS) * DOTS
    for T in rooms.poses.values():
        ahead = dots_n3[np.abs(dots_n3 - T[:3, 3]).max(axis=1) < 0.3] - T[:3, 3]
        assert len(ahead) == DOTS
        assert np.abs(ahead).min(axis=0).max() < 1e-6 and ahead[:, 1].max() > 0.02
        assert ahead[:, 1].min() > -1e-6  # none behind


@pytest.mark.parametrize("most", [1, 30, 100])
def test_a_large_cloud_is_sampled_evenly(rooms, tmp_path: Path, most: int):
    save_ply(rooms, tmp_path / "cloud.ply", most)
    colours_n3 = read_ply(tmp_path / "cloud.ply")[1][: -len(COLOURS) * DOTS]
    assert most - len(COLOURS) - 1 <= len(colours_n3) <= most
    counts = [(colours_n3 == colour).all(axis=1).sum() for colour in COLOURS]
    assert max(counts) - min(counts) <= 1


def test_a_damaged_frame_keeps_the_existing_file(rooms, tmp_path: Path):
    path = tmp_path / "cloud.ply"
    path.write_text("old")
    (rooms.folder / "frames/f1.npz").write_bytes(b"torn")
    with pytest.raises(ReconstructionError, match="f1.npz: missing or damaged"):
        save_ply(rooms, path)
    assert path.read_text() == "old"


@pytest.mark.parametrize("write", [save_ply, picture])
def test_a_path_that_cannot_be_written_is_one_clear_error(rooms, tmp_path: Path, write):
    with pytest.raises(ReconstructionError, match="r: cannot be written"):
        write(rooms, rooms.folder)


def test_a_reconstruction_without_points_is_refused(rooms, tmp_path: Path):
    for name in rooms.poses:
        frame = rooms.read_frame(name)
        frame.points_hw3[:] = np.nan
        rooms.write_frame(name, frame)
    with pytest.raises(ReconstructionError, match="holds no point"):
        save_ply(rooms, tmp_path / "cloud.ply")


def test_a_maximum_of_zero_points_is_refused(rooms, tmp_path: Path):
    with pytest.raises(ReconstructionError, match="expected 1 or more"):
        save_ply(rooms, tmp_path / "cloud.ply", 0)


def test_a_picture_shows_cloud_and_cameras(rooms, tmp_path: Path):
    picture(rooms, tmp_path / "wall.png")
    image_hw3 = cv2.imread(str(tmp_path / "wall.png"))[..., ::-1].astype(int)
    for colour in (*COLOURS, (213, 94, 0)):
        assert (np.abs(image_hw3 - colour).max(axis=-1) < 60).any()


def test_a_missing_rerun_is_an_error_with_the_install_command(rooms, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ReconstructionError, match="pip install rerun-sdk=="):
        show_rerun(rooms)


def test_a_rerun_recording_is_valid_and_holds_cloud_cameras_and_images(rooms, tmp_path: Path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    path = tmp_path / "new/wall.rrd"
    show_rerun(rooms, path)
    assert [file.name for file in path.parent.iterdir()] == ["wall.rrd"]
    command = [sys.executable, "-m", "rerun", "rrd"]
    subprocess.run([*command, "verify", path], check=True, capture_output=True)
    shown = subprocess.run([*command, "print", path], check=True, capture_output=True, text=True)
    for entity in ("/map/points", "/map/cameras", "/map/camera", "/map/camera/image"):
        assert entity in shown.stdout


def test_a_rerun_recording_that_cannot_be_written_is_one_clear_error(rooms):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    with pytest.raises(ReconstructionError, match="r: cannot be written"):
        show_rerun(rooms, rooms.folder)
