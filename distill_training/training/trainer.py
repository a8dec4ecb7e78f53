"""Distillation: a student learns what a reconstruction says, in a given time; resumes."""

import logging
import math
import os
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import nn

from distill_training.calibration.scales import (
    Calibration,
    covariance_scale,
    read_calibration,
    sigma_scale,
)
from distill_training.calibration.validation import (
    HeldOutError,
    measure_cells,
    measure_held_out,
    split_frames,
)
from distill_training.common.processes import processes, started_together
from distill_training.export.keyframe_selection import choose_keyframes
from distill_training.poses.drift_fit import fit_drift
from distill_training.reconstruction import Reconstruction
from distill_training.students import CellGrid, SceneNormalization, create_student
from distill_training.students.settings import Settings
from distill_training.training.batches import FrameStore, random_batches, scene_frame
from distill_training.training.checkpoint import TrainState, load_checkpoint, make_folder
from distill_training.training.identity import training_identity
from distill_training.training.journal import Journal
from distill_training.training.learner import Learner
from distill_training.training.losses import Optics, depth_range
from distill_training.training.train_config import TrainConfig
from mote_localization.drift import Drift
from mote_localization.map_file import MapInfo

_log = logging.getLogger(__name__)
_SAMPLED_FRAMES = 16  # frames trained with, about, that the student is measured on as well


def train(
    reconstruction: Reconstruction,
    folder: Path,
    family: str,
    settings: Settings,
    config: TrainConfig,
) -> tuple[nn.Module, MapInfo]:
    """Train a student, or go on where an interrupted training of the same settings stopped.

    Processes that `torchrun` or `fabric run` have started train together; the first one alone
    measures, writes and shows.

    Args:
        reconstruction: What the teacher says.
        folder: Where checkpoint, history and TensorBoard curves go.
        family: Name of the student.
        settings: Those of its family, see `student_settings`.
        config: How to train.

    Returns:
        The student, float32, in evaluation mode, on the CPU; and the description of its map, with
        the figures of the training in the first process.

    Raises:
        CheckpointError: The folder holds a damaged checkpoint or one of another training, or a
            pretrained file cannot be used.
        ReconstructionError: The reconstruction cannot be read, or holds no point.
        MoteError: There is no such student, or none of the reconstruction's stride; or the map to
            calibrate by is none of this place.
    """
    camera = reconstruction.camera
    cells = CellGrid(reconstruction.stride, camera.width, camera.height)
    training, held_out = split_frames(reconstruction, config)
    place, info = _describe(reconstruction, training, family)
    keyframes = choose_keyframes(reconstruction, training, config.keyframes)
    info = replace(info, keyframes=keyframes)
    given = read_calibration(config.calibration_from, info) if config.calibration_from else None
    torch.manual_seed(config.seed)
    fabric = _fabric(config.precision)
    network = create_student(family, place, cells, **settings)
    licences = dict.fromkeys(filter(None, (info.teacher_licence, network.licence)))
    info = replace(info, teacher_licence="; ".join(licences))
    K_33 = torch.from_numpy(camera.K_33).float().to(fabric.device)
    in_range_m = depth_range(info.bounds_min, info.bounds_max)
    optics = Optics(K_33, (camera.width, camera.height), in_range_m)
    learner = Learner(fabric, network, optics, config)
    state = learner.state
    fingerprint = training_identity(reconstruction, family, settings, config, fabric.world_size)
    make_folder(folder)
    load_checkpoint(folder, fingerprint, state)
    if state.step and fabric.is_global_zero:
        minutes = state.elapsed_s / 60
        _log.warning("%s: going on at step %d, after %.1f min", folder, state.step, minutes)

    store = FrameStore(reconstruction, training)
    sample = training[:: math.ceil(len(training) / _SAMPLED_FRAMES)]

    def measure(student: nn.Module) -> tuple[HeldOutError, float]:
        error = measure_held_out(student, info, reconstruction, store, held_out)
        return error, measure_cells(student, store, sample)

    done = _share_done(state, config)
    epoch = len(training) / (config.batch * fabric.world_size)
    journal = None
    if fabric.is_global_zero:
        journal = Journal(folder, fingerprint, state, measure, config, done, epoch)
    clock = time.perf_counter() - state.elapsed_s
    draw = random_batches(
        store,
        training,
        config.batch,
        config.augment,
        config.seed,
        state.step,
        fabric.global_rank,
        fabric.world_size,
    )
    with journal or nullcontext(), closing(draw) as batches:
        while done < 1:
            losses = learner.learn(next(batches), done)
            state.elapsed_s = time.perf_counter() - clock
            # the first process says when the time is over
            done = fabric.broadcast(_share_done(state, config))
            if journal:
                journal.note(done, losses)
    student = state.student.eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if journal:
        calibration = given or Calibration(sigma_scale(journal.error))
        student.head.scale_sigma(calibration.sigma)
        # covariances follow from sigmas
        error = measure_held_out(student, info, reconstruction, store, held_out)
        if not given:
            calibration = replace(calibration, covariance=covariance_scale(error))
        if calibration.covariance != info.covariance_scale:
            info = replace(info, covariance_scale=calibration.covariance)
            # what the map refuses with that covariance is lost
            told = measure_held_out(student, info, reconstruction, store, held_out)
            error = replace(told, covariance_scale=error.covariance_scale)
        figures = _figures(state, error, settings, config, len(training))
        if given or math.isfinite(journal.error.sigma_scale):
            figures["sigma_scale"] = calibration.sigma
        info = replace(info, training=figures)
    store.frame.cache_clear()  # a cycle of references would keep it until the collector comes by
    return student, info


def _figures(
    state: TrainState, error: HeldOutError, settings: Settings, config: TrainConfig, frames: int
) -> dict[str, float | int | str]:
    """Return what a map tells of its training."""
    return {
        "steps": state.step,
        "minutes": round(state.elapsed_s / 60, 2),
        "frames": frames,
        "parameters": sum(p.numel() for p in state.student.parameters()),
        **({"settings": _told(settings)} if settings else {}),
        "precision": _precision(config.precision),
        "loss": config.loss,
        "seed": config.seed,
        **{f"held_out_{name}": value for name, value in error.figures().items()},
    }


def _describe(
    reconstruction: Reconstruction, training: list[str], family: str
) -> tuple[SceneNormalization, MapInfo]:
    """Return where the place lies, and its map's description without figures."""
    place, bounds_min, bounds_max = scene_frame(reconstruction, training)
    info = MapInfo(
        scene=reconstruction.scene,
        camera=reconstruction.camera,
        stride=reconstruction.stride,
        bounds_min=tuple(bounds_min.round(3).tolist()),
        bounds_max=tuple(bounds_max.round(3).tolist()),
        teacher=reconstruction.teacher,
        teacher_licence=reconstruction.teacher_licence,
        student=family,
        metric=reconstruction.metric,
        drift=_drift(reconstruction, training),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return place, info


def _drift(reconstruction: Reconstruction, training: list[str]) -> Drift | None:
    """Return how the given poses drift against the adjusted ones; None where none were adjusted."""
    if not reconstruction.given_poses:
        return None
    return fit_drift(
        {name: reconstruction.given_pose(name) for name in training},
        {name: reconstruction.poses[name] for name in training},
    ).drift


def _told(settings: Settings) -> str:
    """Return settings as a command line takes them, files without their folders."""
    return " ".join(
        f"{name}={Path(str(value)).name if name == 'pretrained' else value}"
        for name, value in settings.items()
    )


def _share_done(state: TrainState, config: TrainConfig) -> float:
    """Return the share of the training that is over."""
    return state.step / config.steps if config.steps else state.elapsed_s / (60 * config.minutes)


def _fabric(precision: str) -> Fabric:
    """Return what trains: on one device, or on all for which processes have been started."""
    if "LT_CLI_USED" in os.environ:  # by `fabric run`, which tells Fabric the rest
        return Fabric(precision=_precision(precision))
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if started_together() else 1
    fabric = Fabric(devices=processes() // nodes, num_nodes=nodes, precision=_precision(precision))
    if started_together():
        fabric.launch()
    return fabric


def _precision(name: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Fabric's name of the precision; auto is bf16 only where hardware computes in it."""
    if name == "auto":
        if torch.cuda.is_available():
            hardware = torch.cuda.is_bf16_supported()
        else:
            hardware = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        name = "bf16" if hardware else "fp32"
    return "bf16-mixed" if name == "bf16" else "32-true"
