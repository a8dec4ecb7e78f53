"""A training step: forward pass, losses, gradient, new weights."""

import math

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distill_training.students import Student
from distill_training.training.checkpoint import TrainState
from distill_training.training.losses import (
    Optics,
    distillation_loss,
    neighbour_loss,
    reprojection_loss,
)
from distill_training.training.train_config import TrainConfig
from distill_training.training.training_views import Views

_FUSED_DEVICES = ("cpu", "cuda")  # where AdamW updates all weights in one operation


class Learner:
    """Trains a student, one batch at a time."""

    def __init__(
        self, fabric: Fabric, network: Student, optics: Optics, config: TrainConfig
    ) -> None:
        """Move the student to the device and create its optimizer."""
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(
            network.parameter_groups(),
            config.learning_rate,
            weight_decay=config.weight_decay,
            fused=fabric.device.type in _FUSED_DEVICES,
        )
        averaged = None
        if config.ema:  # of the weights and the batch norm statistics
            mean = get_ema_multi_avg_fn(config.ema)
            averaged = AveragedModel(network, fabric.device, multi_avg_fn=mean, use_buffers=True)
        self._student, optimizer = fabric.setup(network, optimizer)
        self.state = TrainState(network, optimizer, averaged)
        self._fabric, self._optics, self._config = fabric, optics, config

    def learn(self, views: Views, done: float) -> dict[str, Tensor]:
        """Make a training step; return each loss by name, and their sum as `total`.

        Nothing here waits for the device.

        Args:
            views: The batch.
            done: Fraction of the training that is over.
        """
        state, config = self.state, self._config
        state.network.train()
        if done >= config.freeze_batch_norm:
            for module in state.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        for group in state.optimizer.param_groups:
            group["lr"] = group["rate"] * config.learning_rate * one_cycle(done, config.warm_up)
        points_bhw3, sigma_bhw = self._student(views.image_bhw3)
        losses = _losses(points_bhw3, sigma_bhw, views, self._optics, config, done)
        state.optimizer.zero_grad()
        self._fabric.backward(losses["total"])
        # The next check finds values that are not finite; a check here would wait for the GPU.
        self._fabric.clip_gradients(
            self._student, state.optimizer, max_norm=1.0, error_if_nonfinite=False
        )
        state.optimizer.step()
        if state.averaged:
            state.averaged.update_parameters(state.network)
        state.step += 1
        return losses


def one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate over its maximum, where the fraction `done` of the training is over.

    It rises and falls along half cosines (Smith and Topin 2018, with cosine annealing).
    """
    if done < warm_up:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / warm_up)) / 2
    cosine = math.cos(math.pi * (min(done, 1) - warm_up) / (1 - warm_up))
    return 1e-4 + (1 - 1e-4) * (1 + cosine) / 2


def _losses(
    points_bhw3: Tensor,
    sigma_bhw: Tensor,
    views: Views,
    optics: Optics,
    config: TrainConfig,
    done: float,
) -> dict[str, Tensor]:
    """Return each loss by name, and their weighted sum as `total`."""
    target_bhw3, valid_bhw = views.points_bhw3, views.valid_bhw
    total = distillation_loss(points_bhw3, sigma_bhw, target_bhw3, valid_bhw, views.sigma_bhw)
    losses = {"distill": total}
    if config.loss == "distill+reprojection":
        first, last = config.reprojection_bound_px
        # The bound decreases along a quarter circle, slowly at first (ACE, CVPR 2023, section 3.3).
        bound_px = last + (first - last) * math.sqrt(1 - done**2)
        pixels_bhw2, inside_bhw = views.pixels_bhw2, views.inside_bhw
        T_cam_map, T_near_map = views.T_cam_map_b44, views.T_near_map_b44
        own = reprojection_loss(points_bhw3, pixels_bhw2, T_cam_map, optics, inside_bhw, bound_px)
        near = neighbour_loss(points_bhw3, target_bhw3, T_near_map, optics, valid_bhw, bound_px)
        losses |= {"reprojection_px": own, "neighbour_px": near}
        total = total + config.reprojection_weight * (own + near)
    return {**losses, "total": total}
