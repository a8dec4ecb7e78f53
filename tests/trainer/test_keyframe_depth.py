"""Keyframes of sparse teachers get the student's depth where other images confirm it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from make_wall import CAMERA

torch = pytest.importorskip("torch", reason="torch is not installed")
from distill_training.export.keyframe_depth import complete_keyframes  # noqa: E402
from distill_training.export.keyframe_selection import choose_keyframes  # noqa: E402
from distill_training.reconstruction import ReconstructedFrame, Reconstruction  # noqa: E402
from mote_localization.geometry import rigid  # noqa: E402

pytestmark = pytest.mark.train
POSES = {f"f{i}": rigid(np.eye(3), [0.2 * i, 0.0, 0.0]) for i in range(5)}
WALL_M = 2.0  # z of the wall, map frame
KNOWN = np.zeros((6, 8), bool)
KNOWN[:, :2] = True  # cells in which the teacher has a point
WRONG = (3, 5)  # cell in which the student is wrong about f2
BESIDE = (1, 4)  # cell in which its point is beside the cell's ray


class Student(torch.nn.Module):
    """Predicts the wall; the first pixel of an image is the number of its frame."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))  # a backend asks for its device

    def forward(self, image_bhw3):
        number = int(image_bhw3[0, 0, 0, 0])
        points_hw3 = POSES[f"f{number}"][:3, 3] + WALL_M * CAMERA.cell_rays(8)
        if number == 2:
            points_hw3[WRONG] = POSES["f2"][:3, 3] + 1.5 * CAMERA.cell_rays(8)[WRONG]
            points_hw3[BESIDE] += (0.3, 0, 0)
        return torch.from_numpy(points_hw3[None].astype(np.float32)), torch.full((1, 6, 8), 0.02)


@pytest.fixture
def sparse(tmp_path: Path) -> Reconstruction:
    made = Reconstruction(tmp_path / "r", "wall", "sfm", "", CAMERA, 8, {}, POSES)
    made.begin()
    for i, (name, T) in enumerate(POSES.items()):
        points_hw3 = T[:3, 3] + WALL_M * CAMERA.cell_rays(8)
        points_hw3[~KNOWN] = np.nan
        image_hw3 = np.full((48, 64, 3), i, np.uint8)
        sigma_hw = np.where(KNOWN, 0.01, np.inf).astype(np.float32)
        made.write_frame(
            name, ReconstructedFrame(image_hw3, points_hw3.astype(np.float32), sigma_hw)
        )
    return made


def test_confirmed_cells_get_the_depth_of_the_student(sparse: Reconstruction):
    names = list(POSES)
    chosen = choose_keyframes(sparse, names, 5)
    completed = complete_keyframes(Student().eval(), sparse, names, chosen)
    before = chosen["f2"].depth_m().reshape(6, 8)
    after = completed[2].depth_m().reshape(6, 8)
    assert np.array_equal(np.isfinite(before), KNOWN)
    assert np.array_equal(after[KNOWN], before[KNOWN])
    assert np.isnan(after[WRONG]) and np.isnan(after[BESIDE])
    added = np.isfinite(after) & ~KNOWN
    assert added.sum() > 25
    np.testing.assert_allclose(after[added], WALL_M, atol=2e-3)


def test_points_that_one_other_image_confirms_are_not_used(sparse: Reconstruction):
    names = ["f1", "f2"]
    chosen = choose_keyframes(sparse, names, 2)
    completed = complete_keyframes(Student().eval(), sparse, names, chosen)
    assert np.array_equal(np.isfinite(completed[1].depth_m()).reshape(6, 8), KNOWN)


def test_keyframes_of_a_dense_teacher_stay_as_they_are(sparse: Reconstruction):
    dense = replace(sparse, teacher="rgbd")
    chosen = choose_keyframes(dense, list(POSES), 5)
    assert complete_keyframes(Student().eval(), dense, list(POSES), chosen) == (*chosen.values(),)
