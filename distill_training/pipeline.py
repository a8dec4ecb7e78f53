"""From a reconstruction to a calibrated student: each stage is called once, in order."""

from dataclasses import replace
from pathlib import Path

from distill_training.calibration.map_description import describe_map
from distill_training.calibration.scales import CalibratedStudent, calibrate
from distill_training.calibration.validation import Validation
from distill_training.export.keyframe_depth import complete_keyframes
from distill_training.export.keyframe_refinement import refine_keyframes
from distill_training.export.keyframe_selection import choose_keyframes
from distill_training.reconstruction import Reconstruction
from distill_training.reconstruction.extent import measure_extent
from distill_training.students import CellGrid
from distill_training.students.settings import Settings
from distill_training.training.frame_split import split_frames
from distill_training.training.frame_store import FrameStore
from distill_training.training.train_config import TrainConfig
from distill_training.training.trainer import train


def train_student(
    reconstruction: Reconstruction,
    folder: Path,
    family: str,
    settings: Settings,
    config: TrainConfig,
) -> CalibratedStudent:
    """Train and calibrate a student, or resume an interrupted training of the same settings.

    Args:
        reconstruction: What the student learns.
        folder: For the training's files.
        family: Name of the student's family.
        settings: Settings of the family, see `student_settings`.
        config: Options of the training.

    Raises:
        MoteError: For the reasons of `train`; no student has the stride of the reconstruction; or
            too few frames are left to train with.
    """
    config = config.with_loss_for(reconstruction.teacher)
    camera = reconstruction.camera
    cells = CellGrid(reconstruction.stride, camera.width, camera.height)
    split = split_frames(reconstruction.poses, config)
    frames = FrameStore(reconstruction, split.training)
    extent = measure_extent(reconstruction, split.training)
    chosen = choose_keyframes(reconstruction, split.training, config.keyframes)
    info = describe_map(reconstruction, split.training, extent, family)
    student_alone = Validation(reconstruction, frames, split, info)
    trained = train(
        reconstruction,
        frames,
        split.training,
        cells,
        extent,
        family,
        settings,
        config,
        folder,
        student_alone.measure,
    )
    complete = complete_keyframes(trained.network, reconstruction, split.training, chosen)
    keyframes = tuple(refine_keyframes(reconstruction, split.untested, complete))
    validation = Validation(reconstruction, frames, split, replace(info, keyframes=keyframes))
    calibrated = calibrate(trained, validation, config)
    frames.clear()
    return calibrated
