"""Distillation: a student learns what a reconstruction says, in a given time; resumes."""

import logging
import math
import time
from contextlib import closing
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill_training.checkpoint import TrainState, identity, load_checkpoint, make_folder
from distill_training.config import TrainConfig
from distill_training.held_out import HeldOutError, measure_cells, measure_held_out, split_held_out
from distill_training.history import read_history
from distill_training.journal import Journal
from distill_training.losses import (
    Optics,
    depth_range,
    distillation_loss,
    neighbour_loss,
    reprojection_loss,
)
from distill_training.reconstruction import Reconstruction
from distill_training.settings import Settings, settings_identity
from distill_training.students import CellGrid, SceneFrame, create_student
from distill_training.views import FrameStore, random_batches, scene_frame
from mote_localization.map_file import MapInfo

__all__ = ["one_cycle", "read_history", "train"]

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

    Args:
        reconstruction: What the teacher says.
        folder: Where checkpoint, history and TensorBoard curves go.
        family: Name of the student.
        settings: Those of its family, see `student_settings`.
        config: How to train.

    Returns:
        The student, float32, in evaluation mode, on the CPU; and the description of its map.

    Raises:
        CheckpointError: The folder holds a damaged checkpoint or one of another training, or a
            pretrained file cannot be used.
        ReconstructionError: The reconstruction cannot be read, or holds no point.
        MoteError: There is no such student, or none of the reconstruction's stride.
    """
    camera = reconstruction.camera
    cells = CellGrid(reconstruction.stride, camera.width, camera.height)
    training, held_out = split_held_out(list(reconstruction.poses), config.held_out, config.margin)
    place, info = _describe(reconstruction, training, family)
    torch.manual_seed(config.seed)
    fabric = Fabric(devices=1, precision=_precision(config.precision))
    network = create_student(family, place, cells, **settings)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameter_groups(), config.learning_rate, weight_decay=config.weight_decay
    )
    averaged = _average(network, config.ema, fabric.device) if config.ema else None
    student, optimizer = fabric.setup(network, optimizer)
    fingerprint = identity(
        reconstruction=reconstruction.index(),
        student=family,
        settings=settings_identity(settings),
        # what is only said of the student may be said otherwise of one that is trained already
        config=asdict(replace(config, covariance_scale=None)),
    )
    make_folder(folder)
    state = TrainState(network, optimizer, averaged)
    load_checkpoint(folder, fingerprint, state)
    if state.step:
        minutes = state.elapsed_s / 60
        _log.warning("%s: going on at step %d, after %.1f min", folder, state.step, minutes)

    store = FrameStore(reconstruction, training)
    sample = training[:: math.ceil(len(training) / _SAMPLED_FRAMES)]

    def measure(student: nn.Module) -> tuple[HeldOutError, float]:
        error = measure_held_out(student, info, reconstruction, store, held_out)
        return error, measure_cells(student, store, sample)

    K_33 = torch.from_numpy(camera.K_33).float().to(fabric.device)
    in_range_m = depth_range(info.bounds_min, info.bounds_max)
    optics = Optics(K_33, (camera.width, camera.height), in_range_m)
    done = _share_done(state, config)
    epoch = len(training) / config.batch
    journal = Journal(folder, fingerprint, state, measure, config, done, epoch)
    clock = time.perf_counter() - state.elapsed_s
    draw = random_batches(store, training, config.batch, config.augment, config.seed, state.step)
    with journal, closing(draw) as batches:
        while done < 1:
            _train_mode(network, fix_statistics=done >= config.fix_statistics)
            batch = {key: value.to(fabric.device) for key, value in next(batches).items()}
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * config.learning_rate * one_cycle(done, config.warm_up)
            points_bhw3, sigma_bhw = student(batch["image_hw3"])
            losses = _losses(points_bhw3, sigma_bhw, batch, optics, config, done)
            optimizer.zero_grad()
            fabric.backward(losses["total"])
            fabric.clip_gradients(student, optimizer, max_norm=1.0)
            optimizer.step()
            if averaged:
                averaged.update_parameters(network)
            state.step += 1
            state.elapsed_s = time.perf_counter() - clock
            done = _share_done(state, config)
            journal.note(done, losses)
    figures: dict[str, float | int | str] = {
        "steps": state.step,
        "minutes": round(state.elapsed_s / 60, 2),
        "frames": len(training),
        "parameters": sum(p.numel() for p in network.parameters()),
        **({"settings": _told(settings)} if settings else {}),
        "precision": _precision(config.precision),
        "loss": config.loss,
        "seed": config.seed,
        **{f"held_out_{name}": value for name, value in journal.error.figures().items()},
    }
    state.student.eval().cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    scale = _covariance_scale(journal.error, config)
    return state.student, replace(info, training=figures, covariance_scale=scale)


def _average(network: nn.Module, decay: float, device: torch.device) -> AveragedModel:
    """Return the running average of a network's weights; batch statistics are averaged alike."""
    return AveragedModel(
        network, device, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
    )


def _covariance_scale(error: HeldOutError, config: TrainConfig) -> float:
    """Return the scale of the poses' covariances, as given, else measured, else 1."""
    if config.covariance_scale is not None:
        return config.covariance_scale
    if math.isfinite(error.covariance_scale):
        return round(max(error.covariance_scale, 1.0), 2)
    _log.warning(
        "no held-out frame tells how far the poses' covariances can be trusted: they are not "
        "calibrated; run again with --covariance-scale as a training with --held-out measures it"
    )
    return 1.0


def _describe(
    reconstruction: Reconstruction, training: list[str], family: str
) -> tuple[SceneFrame, MapInfo]:
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
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    return place, info


def _told(settings: Settings) -> str:
    """Return settings as a command line takes them, files without their folders."""
    return " ".join(
        f"{name}={Path(str(value)).name if name == 'pretrained' else value}"
        for name, value in settings.items()
    )


def one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate, as a share of its highest, at a share `done` of the training.

    Rises and falls along half cosines (Smith and Topin 2018, with cosine annealing).
    """
    if done < warm_up:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm_up)) / 2
    return (
        1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (min(done, 1) - warm_up) / (1 - warm_up))) / 2
    )


def _train_mode(network: nn.Module, fix_statistics: bool) -> None:
    """Put a student in training mode, batch normalization in evaluation mode where it is fixed."""
    network.train()
    if fix_statistics:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


def _losses(
    points_bhw3: Tensor,
    sigma_bhw: Tensor,
    batch: dict[str, Tensor],
    optics: Optics,
    config: TrainConfig,
    done: float,
) -> dict[str, Tensor]:
    """Return each loss by name, and their sum as `total`."""
    target_bhw3, valid_bhw = batch["points_hw3"], batch["valid_hw"]
    total = distillation_loss(points_bhw3, sigma_bhw, target_bhw3, valid_bhw, batch["sigma_hw"])
    losses = {"distill": total}
    if config.loss == "distill+reprojection":
        first, last = config.reprojection_bound_px
        # The bound narrows along a quarter circle, slowly at first (ACE, CVPR 2023, section 3.3).
        bound_px = last + (first - last) * math.sqrt(1 - done**2)
        own = reprojection_loss(
            points_bhw3,
            batch["pixels_hw2"],
            batch["T_cam_map"],
            optics,
            batch["inside_hw"],
            bound_px,
        )
        near = neighbour_loss(
            points_bhw3, target_bhw3, batch["T_near_map"], optics, valid_bhw, bound_px
        )
        losses |= {"reprojection_px": own, "neighbour_px": near}
        total = total + config.reprojection_weight * (own + near)
    return {**losses, "total": total}


def _share_done(state: TrainState, config: TrainConfig) -> float:
    """Return the share of the training that is over."""
    return state.step / config.steps if config.steps else state.elapsed_s / (60 * config.minutes)


def _precision(name: str) -> Literal["32-true", "bf16-mixed"]:
    """Return Fabric's name of the precision; auto is bf16 only where hardware computes in it."""
    if name == "auto":
        if torch.cuda.is_available():
            hardware = torch.cuda.is_bf16_supported()
        else:
            hardware = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        name = "bf16" if hardware else "fp32"
    return "bf16-mixed" if name == "bf16" else "32-true"
