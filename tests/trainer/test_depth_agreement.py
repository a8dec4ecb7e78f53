"""Given poses and depths in other conventions: found before any training."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from make_scene import write_plane_scene

from demo_room.record import write_scene
from demo_room.views import drive
from distill_training.poses.depth_agreement import check_conventions
from distill_training.poses.scene_poses import DEPTHS_M, find_poses
from mote_localization.errors import SceneError
from mote_localization.geometry import invert
from mote_localization.scenes import Frame, Scene, Split, open_scene
from mote_localization.scenes.folder import FolderScene

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
POSES = {
    "": lambda T: T,
    "the poses are map-to-camera \\(": invert,
    "the poses have OpenGL axes \\(": lambda T: T @ OPENGL,
    "the poses are map-to-camera with OpenGL axes \\(": lambda T: invert(T @ OPENGL),
}
DEPTHS = {
    5.0: "about 5 times too large",
    0.1: "about 10 times too small",
    1000.0: "times too large",
    0.001: "times too small",
}


@dataclass(frozen=True)
class Changed(Scene):
    """A scene with other depths."""

    scene: Scene
    factor: float
    name: str = "changed"

    def frames(self, split: Split) -> Iterator[Frame]:
        for frame in self.scene.frames(split):
            yield ChangedFrame(frame, self.factor)

    def count(self, split: Split) -> int:
        return self.scene.count(split)


class ChangedFrame(Frame):
    """A frame with other depths."""

    def __init__(self, frame: Frame, factor: float) -> None:
        self._frame, self._factor = frame, factor
        self.name, self.camera, self.T_map_cam = frame.name, frame.camera, frame.T_map_cam

    def image(self) -> np.ndarray:
        return self._frame.image()

    def depth(self) -> np.ndarray:
        return self._factor * self._frame.known_depth()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("room") / "scene"
    write_scene(folder, drive(6.0, 5.0, seed=1)[1])
    return folder


@pytest.fixture(scope="module", params=["kitchen", "lounge", "room"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return open_scene(request.getfixturevalue(request.param))


def poses(scene: Scene) -> dict[str, np.ndarray]:
    return {frame.name: frame.known_pose() for frame in scene.frames("train")}


@pytest.mark.parametrize("message", POSES)
def test_poses_of_another_convention_are_named(scene: Scene, message: str):
    changed = {name: POSES[message](T) for name, T in poses(scene).items()}
    if not message:
        check_conventions(scene, changed)
        return
    with pytest.raises(SceneError, match=message) as error:
        check_conventions(scene, changed)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("factor", DEPTHS)
def test_depths_of_another_unit_are_named(scene: Scene, factor: float):
    with pytest.raises(SceneError, match=DEPTHS[factor]):
        check_conventions(Changed(scene, factor), poses(scene))


def test_wrong_poses_stop_before_the_reconstruction(kitchen: Path, tmp_path: Path):
    for name in ("train.txt", "camera-intrinsics.txt"):
        (tmp_path / name).write_text((kitchen / name).read_text())
    (tmp_path / "data").mkdir()
    for frame in FolderScene(kitchen).frames("train"):
        for kind in ("color.jpg", "depth.png"):
            (tmp_path / f"data/{frame.name}.{kind}").symlink_to(
                kitchen / f"data/{frame.name}.{kind}"
            )
        np.savetxt(tmp_path / f"data/{frame.name}.pose.txt", invert(frame.known_pose()))
    with pytest.raises(SceneError, match="map-to-camera .*; write the inverse of each pose"):
        find_poses(FolderScene(tmp_path), depths_m=DEPTHS_M)


def test_poses_at_which_nothing_is_ahead_of_a_distorted_camera_are_named(lounge: Path):
    """Depths of one metre, at poses a kilometre apart."""
    lens = (-0.01, 0.01, 0.0, 0.0, 0.0)

    class Distorted(Changed):
        def frames(self, split: Split) -> Iterator[Frame]:
            for frame in super().frames(split):
                frame.camera = replace(frame.known_camera(), distortion=lens)
                yield frame

    scene = Distorted(FolderScene(lounge), 0.001)
    with pytest.raises(SceneError, match="about 1000 times too small"):
        check_conventions(scene, poses(scene))


def test_scenes_that_cannot_be_checked_pass(tmp_path: Path):
    """There is no other frame, no depth, or nothing that both frames show."""
    write_plane_scene(tmp_path / "few")
    write_plane_scene(tmp_path / "photographs", tuple("abcdefgh"), depth=False)
    write_plane_scene(tmp_path / "apart", tuple("abcdefgh"))
    for name in ("few", "photographs", "apart"):
        scene = FolderScene(tmp_path / name)
        check_conventions(scene, poses(scene))
