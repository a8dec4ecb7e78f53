"""`mote-distill building`: writes a building as a scene folder, test drives as recordings."""

import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from demo_room.building.lit_building import open_lit_building, plan_of, write_lit_building
from demo_room.building.look_alikes import EXPLAINED, Explanation, explain
from demo_room.building.portal_renderer import render_building
from demo_room.record import map_in_order, new_folder, write_bag, write_frames
from demo_room.room_camera import CAMERA
from mote_localization.errors import SceneError
from mote_localization.progress import track

PLACES_FILE = "places.txt"
_PLACES_CAMERA = CAMERA.resized(160, 120)


@dataclass(frozen=True)
class Building:
    """Write a synthetic building: drives through rooms and corridors, some of which look alike."""

    scene: Path  # scene folder to create: images, depth, poses; places.txt; floor_plan.png
    bags: Path | None = None  # folder to create for a rosbag2 recording (mcap) of each test drive
    rooms: Literal[3, 12] = 12  # rooms of the building
    frames: int = 3000  # training frames, of all drives together
    drives: int = 4  # training drives
    test_frames: int = 600  # frames of each test drive
    test_drives: int = 2
    seed: int = 0  # seed of the drives; the building is always the same
    # processes that render; each needs about 80 MB, and all share textures of 640 MB
    workers: int = min(os.cpu_count() or 1, 8)

    def run(self) -> None:
        """Paint and light the building, then write the scene folder and the recordings."""
        self.check()
        self.scene.parent.mkdir(parents=True, exist_ok=True)
        # beside the scene, as the textures take 640 MB
        with tempfile.TemporaryDirectory(prefix=".textures.", dir=self.scene.parent) as textures:
            write_lit_building(Path(textures), self.rooms, self.workers)
            self.write(Path(textures))

    def check(self) -> None:
        """Check the options.

        Raises:
            SceneError: There are no frames, or an output exists.
        """
        if min(self.drives, self.test_drives, self.workers) < 1:
            raise SceneError(
                f"found {self.drives} drives, {self.test_drives} test drives and {self.workers} "
                "workers; expected at least 1 of each"
            )
        if self.frames < 2 * self.drives or self.test_frames < 2:
            raise SceneError(
                f"found {self.frames} frames of {self.drives} drives and {self.test_frames} of a "
                "test drive; expected at least 2 of each drive"
            )
        for path in (self.scene, self.bags):
            if path is not None and os.path.lexists(path):
                raise SceneError(f"{path}: exists already; give another folder, or remove it")

    def write(self, textures: Path) -> None:
        """Write the scene folder and the recordings, with the textures of a lit building."""
        # These imports load scipy, which would delay the help of the command line.
        from demo_room.building.building_drives import FreeFloor, test_drive, training_drive
        from demo_room.building.floor_picture import floor_plan_picture

        floor = FreeFloor(plan_of(self.rooms))
        ends = np.linspace(0, self.frames, self.drives + 1).astype(int)
        train = [
            training_drive(floor, index, count, self.seed)[1]
            for index, count in enumerate(np.diff(ends).tolist())
        ]
        stamps_s, test = zip(
            *(
                test_drive(floor, index, self.test_frames, self.seed)
                for index in range(self.test_drives)
            ),
            strict=True,
        )
        with new_folder(self.scene) as folder:
            draw = partial(render_building, textures, self.rooms)
            every = [T_map_cam for drive in train for T_map_cam in drive]
            names = write_frames(folder, every, test, CAMERA, self.workers, draw, shown=self.scene)
            self._write_places(folder, names[self.frames :], test, textures)
            ways = [("training", np.array(every)[:, :3, 3])]
            ways += [
                (f"test {index + 1}", np.array(drive)[:, :3, 3]) for index, drive in enumerate(test)
            ]
            picture_hw3 = floor_plan_picture(floor.plan, floor, ways)
            encoded = cv2.imencode(".png", picture_hw3[..., ::-1])[1]
            (folder / "floor_plan.png").write_bytes(encoded.tobytes())
            if self.bags is not None:
                for index, (stamps, drive) in enumerate(zip(stamps_s, test, strict=True)):
                    path = self.bags / f"test_{index + 1}"
                    write_bag(path, stamps, drive, CAMERA, self.workers, draw=draw)

    def _write_places(
        self,
        folder: Path,
        names: list[str],
        test: tuple[list[np.ndarray], ...],
        textures: Path,
    ) -> None:
        """Write how many places explain each test frame."""
        poses = [T_map_cam for drive in test for T_map_cam in drive]
        found = map_in_order(partial(_explain, textures, self.rooms), poses, self.workers)
        lines = [
            explanation.line(name)
            for name, explanation in zip(
                names, track(found, "places that look alike", len(poses)), strict=True
            )
        ]
        header = (
            f"# frame, 'unique' or the number of places that explain at least {EXPLAINED:.0%} of "
            "its pixels, largest fraction that another place explains\n"
        )
        (folder / PLACES_FILE).write_text(header + "".join(lines))


def _explain(textures: Path, rooms: int, T_map_cam: np.ndarray) -> Explanation:
    return explain(open_lit_building(textures, rooms), _PLACES_CAMERA, T_map_cam)
