"""Trains a student on a reconstruction for a given time or number of steps; resumable."""

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal

import torch
from lightning_fabric import Fabric

from distill_training.common.processes import processes, started_together
from distill_training.reconstruction import Reconstruction
from distill_training.reconstruction.extent import SceneExtent
from distill_training.students import CellGrid, SceneNormalization, Student, create_student
from distill_training.students.settings import Settings
from distill_training.training.batches import random_batches
from distill_training.training.checkpoint import TrainState, load_checkpoint, make_folder
from distill_training.training.frame_bank import FrameBank, slots_for
from distill_training.training.frame_store import FrameStore
from distill_training.training.identity import training_identity
from distill_training.training.journal import Journal, Measure, Measured
from distill_training.training.learner import Learner
from distill_training.training.losses import Optics, depth_range
from distill_training.training.train_config import TrainConfig

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedStudent(Generic[Measured]):
    """A student after its last step, and what was measured of it then."""

    network: Student  # float32, in evaluation mode, on the CPU
    figures: dict[str, float | int | str]  # steps, minutes, settings ..., for the map's metadata
    measurement: Measured | None  # None in all processes of a distributed training but the first


def train(
    reconstruction: Reconstruction,
    frames: FrameStore,
    names: list[str],
    cells: CellGrid,
    extent: SceneExtent,
    family: str,
    settings: Settings,
    config: TrainConfig,
    folder: Path,
    measure: Measure[Measured],
) -> TrainedStudent[Measured]:
    """Train a student, or resume an interrupted training of the same settings.

    Processes that `torchrun` or `fabric run` started train one student together; only the first
    one measures, writes files and shows progress.

    Args:
        reconstruction: Camera, stride and identity of the training data.
        frames: Reads its frames.
        names: The frames to train with, in recording order.
        cells: Image size and stride of the student.
        extent: Of the frames' points.
        family: Name of the student's family.
        settings: Settings of the family, see `student_settings`.
        config: Options of the training.
        folder: For the checkpoint, the history and the TensorBoard curves.
        measure: Called with the student before the first step and at every check.

    Raises:
        CheckpointError: The folder holds a damaged checkpoint or one of another training, or a
            pretrained file cannot be used.
        ReconstructionError: A frame cannot be read.
        MoteError: The family is unknown, a setting does not fit, or the training diverged.
    """
    camera = reconstruction.camera
    torch.manual_seed(config.seed)
    fabric = _fabric(config.precision)
    config = config.with_batch_for(fabric.device.type)
    normalization = SceneNormalization(extent.mean, extent.spread)
    network = create_student(family, normalization, cells, **settings)
    K_33 = torch.from_numpy(camera.K_33).float().to(fabric.device)
    in_range_m = depth_range(extent.bounds_min, extent.bounds_max)
    optics = Optics(K_33, (camera.width, camera.height), in_range_m)
    learner = Learner(fabric, network, optics, config)
    state = learner.state
    identity = training_identity(reconstruction, family, settings, config, fabric.world_size)
    make_folder(folder)
    load_checkpoint(folder, identity, state)
    done = _fraction_done(state, config)
    if state.step and fabric.is_global_zero:
        what, minutes = "resuming" if done < 1 else "finished", state.elapsed_s / 60
        _log.warning("%s: %s at step %d, after %.1f min", folder, what, state.step, minutes)
    steps_per_epoch = len(names) / (config.batch * fabric.world_size)
    journal: Journal[Measured] | None = None
    if fabric.is_global_zero:
        journal = Journal(folder, identity, state, measure, config, done, steps_per_epoch)
    clock = time.perf_counter() - state.elapsed_s
    ranks = fabric.global_rank, fabric.world_size
    stride, novel_views = reconstruction.stride, config.augment.novel_view_fraction > 0
    slots = slots_for(len(names), config.batch, camera, stride, fabric.device, novel_views)
    bank = FrameBank(frames.read, camera, stride, fabric.device, slots, novel_views)
    batches = random_batches(bank, names, config, state.step, *ranks)
    with journal if journal and done < 1 else nullcontext():
        while done < 1:
            losses = learner.learn(next(batches), done)
            state.elapsed_s = time.perf_counter() - clock
            done = _fraction_done(state, config)
            if not config.steps:
                # All processes stop at the same step: the first one's clock decides.
                done = fabric.broadcast(done)
            if journal:
                journal.note(done, losses)
    student: Student = state.student.eval().cpu()  # type: ignore[assignment]
    student.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    figures = _figures(state, settings, config, len(names))
    return TrainedStudent(student, figures, journal.measurement if journal else None)


def _figures(
    state: TrainState, settings: Settings, config: TrainConfig, frames: int
) -> dict[str, float | int | str]:
    """Return the figures of a training that the map's metadata stores."""
    return {
        "steps": state.step,
        "minutes": round(state.elapsed_s / 60, 2),
        "frames": frames,
        "parameters": sum(p.numel() for p in state.student.parameters()),
        **({"settings": _settings_text(settings)} if settings else {}),
        "precision": _precision(config.precision),
        "loss": config.loss,
        "seed": config.seed,
    }


def _settings_text(settings: Settings) -> str:
    """Return settings as the command line takes them, files without their folders."""
    return " ".join(
        f"{name}={Path(str(value)).name if name == 'pretrained' else value}"
        for name, value in settings.items()
    )


def _fraction_done(state: TrainState, config: TrainConfig) -> float:
    """Return the fraction of the training that is over."""
    return state.step / config.steps if config.steps else state.elapsed_s / (60 * config.minutes)


def _fabric(precision: str) -> Fabric:
    """Return the Fabric of one device, or of all devices for which processes were started."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # INFO: the precision
    if "LT_CLI_USED" in os.environ:  # `fabric run` sets the devices
        return Fabric(precision=_precision(precision))
    nodes = int(os.environ["GROUP_WORLD_SIZE"]) if started_together() else 1
    fabric = Fabric(devices=processes() // nodes, num_nodes=nodes, precision=_precision(precision))
    if started_together():
        fabric.launch()
    return fabric


def _precision(name: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Fabric's name of a precision; auto is bf16 only where the hardware supports it."""
    if name == "auto":
        if torch.cuda.is_available():
            hardware = torch.cuda.is_bf16_supported()
        else:
            hardware = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        name = "bf16" if hardware else "fp32"
    return "bf16-mixed" if name == "bf16" else "32-true"
