"""The options of a training; imports no torch, so that --help is fast and works without it."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from distill_training.training.augment_config import AugmentConfig
from mote_localization.errors import MoteError
from mote_localization.keyframes import MAX_KEYFRAMES

_CPU_BATCH = 8  # views per step
_BATCHES = {"cuda": 64}  # of other training devices
_MAX_HELD_OUT = 0.5  # fraction of the frames; the others are needed for training


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training."""

    minutes: float = 5.0  # minutes of training; start-up and export take extra time
    steps: int = 0  # number of training steps; 0: train for --minutes
    batch: int = 0  # views per step, in each process; 0: 8 on a CPU, 64 on a GPU
    # highest learning rate (AdamW, one-cycle schedule); a backbone uses a fraction of it
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2  # weight decay (AdamW)
    warm_up: float = 0.05  # fraction of the training in which the learning rate rises
    # fraction of the training after which batch normalization uses its running statistics, as the
    # exported map does
    freeze_batch_norm: float = 0.6
    # decay per step of the running average of the weights, which is measured and exported; 0: no
    # average, the last weights are exported
    ema: float = 0.0
    # what is minimized: the distance to the teacher's points, or that and reprojection errors;
    # auto: both where the teacher is sfm, which measures only some of the cells; else the distance
    loss: Literal["auto", "distill", "distill+reprojection"] = "auto"
    reprojection_weight: float = 0.1  # weight of the reprojection losses, per canonical px
    # bound of reprojection errors at the start and at the end, canonical px
    reprojection_bound_px: tuple[float, float] = (30.0, 2.0)
    # measure the errors of poses, which calibrates the covariances; --no-validation saves seconds,
    # and the covariances are large
    validation: bool = True
    # largest number of keyframes in the map: photographs of the place, at most 8 kB each, which
    # refine correct poses and reject wrong ones; 0: none
    keyframes: int = 100
    # fraction of the frames that are kept from training to measure the error on; 0: none, but a
    # tenth where the validation has no keyframes to measure with
    held_out: float = 0.0
    # number of contiguous blocks of held-out frames; fewer and longer blocks are harder
    held_out_blocks: int = 4
    margin: int = 0  # frames left out of training on either side of each held-out block
    # numeric precision; auto: bf16 where the hardware supports it
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # seed of initial weights and views; with --steps, a training on a CPU is reproducible
    seed: int = 0
    # how training views are augmented
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    @property
    def held_out_by_default(self) -> bool:
        """Whether frames are held out only because there are no keyframes to measure with."""
        return self.validation and not self.keyframes and not self.held_out

    def with_loss_for(self, teacher: str) -> "TrainConfig":
        """Return the options with the loss that auto stands for."""
        if self.loss != "auto":
            return self
        return replace(self, loss="distill+reprojection" if teacher == "sfm" else "distill")

    def with_batch_for(self, device: str) -> "TrainConfig":
        """Return the options with the batch of a type of device, unless they give one."""
        return self if self.batch else replace(self, batch=_BATCHES.get(device, _CPU_BATCH))

    def __post_init__(self) -> None:
        first_px, last_px = self.reprojection_bound_px
        for name, fits, expected in (
            ("steps", self.steps >= 0, "a whole number"),
            ("minutes", self.steps or 0 < self.minutes < math.inf, "a time above 0, or --steps"),
            ("batch", self.batch >= 0, "0 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warm_up", 0 <= self.warm_up < 1, "a fraction below 1"),
            ("freeze_batch_norm", self.freeze_batch_norm >= 0, "0 or more"),
            ("ema", 0 <= self.ema < 1, "a decay from 0 to below 1"),
            ("reprojection_weight", 0 <= self.reprojection_weight < math.inf, "0 or more"),
            ("reprojection_bound_px", math.inf > first_px >= last_px > 0, "above 0 and not rising"),
            ("held_out", 0 <= self.held_out <= _MAX_HELD_OUT, f"at most {_MAX_HELD_OUT}"),
            ("held_out_blocks", self.held_out_blocks >= 1, "1 or more"),
            ("margin", self.margin >= 0, "0 frames or more"),
            ("keyframes", 0 <= self.keyframes <= MAX_KEYFRAMES, f"at most {MAX_KEYFRAMES}"),
            ("seed", 0 <= self.seed < 1 << 32, "0 or more, below 2^32"),
        ):
            if not fits:
                option = "--" + name.replace("_", "-")
                raise MoteError(f"found {option} {getattr(self, name)}, expected {expected}")
