"""The settings of a training, free of torch, so that a command line shows them without it."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distill_training.training.augmentation import AugmentConfig
from mote_localization.errors import MoteError
from mote_localization.keyframes import MAX_KEYFRAMES

_MOST_HELD_OUT = 0.5  # of the frames: with fewer left there is little to train with


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained."""

    minutes: float = 25.0  # min of training; start-up and export come on top
    steps: int = 0  # train for so many steps instead; 0: for the minutes
    batch: int = 8  # views per step, of each process where several train together
    learning_rate: float = 3e-3  # AdamW, highest of the one-cycle schedule; families take a share
    weight_decay: float = 1e-2  # AdamW
    warm_up: float = 0.05  # share of the training in which the learning rate rises
    # share of the training after which batch statistics stay as they are, so that what is trained
    # to the end is what the map will hold
    freeze_batch_norm: float = 0.6
    # decay a step of the average of the weights that is measured and becomes the map; 0: the last
    # weights are
    ema: float = 0.0
    loss: Literal["distill", "distill+reprojection"] = "distill"  # what is minimized
    reprojection_weight: float = 0.1  # of the reprojection loss, per canonical px
    # canonical px, at the start and at the end
    reprojection_bound_px: tuple[float, float] = (30.0, 2.0)
    held_out: float = 0.05  # share of the frames kept from training to measure the error on
    # contiguous pieces of the recording in which they are; fewer are longer, and harder
    held_out_blocks: int = 4
    margin: int = 0  # frames on either side of each held-out block that are not trained with either
    # an earlier map of the place, trained with frames held out, whose measured scales of sigmas and
    # covariances are taken; by default they are measured on this training's own
    calibration_from: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # photographs, at most, that the map carries: each pose is refined by them, or not believed; 10
    # kB each, 0: none
    keyframes: int = 0
    # auto: bf16 where the processor computes in it
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # of the first weights and of the views; with steps, on a CPU, the training repeats exactly
    seed: int = 0
    # how views differ from their frames
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        finite = math.isfinite
        first_px, last_px = self.reprojection_bound_px
        for name, fits, expected in (
            ("steps", self.steps >= 0, "a whole number"),
            ("minutes", self.steps or 0 < self.minutes < math.inf, "a time above 0, or --steps"),
            ("batch", self.batch >= 1, "1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("warm_up", 0 <= self.warm_up < 1, "a share below 1"),
            ("freeze_batch_norm", self.freeze_batch_norm >= 0, "0 or more"),
            ("ema", 0 <= self.ema < 1, "a decay from 0 to below 1"),
            ("reprojection_weight", 0 <= self.reprojection_weight < math.inf, "0 or more"),
            ("reprojection_bound_px", finite(first_px) and first_px >= last_px > 0, "falling"),
            ("held_out", 0 <= self.held_out <= _MOST_HELD_OUT, f"at most {_MOST_HELD_OUT}"),
            ("held_out_blocks", self.held_out_blocks >= 1, "1 or more"),
            ("margin", self.margin >= 0, "0 frames or more"),
            ("keyframes", 0 <= self.keyframes <= MAX_KEYFRAMES, f"at most {MAX_KEYFRAMES}"),
            ("seed", 0 <= self.seed < 1 << 32, "0 or more, below 2^32"),
        ):
            if not fits:
                option = "--" + name.replace("_", "-")
                raise MoteError(f"found {option} {getattr(self, name)}, expected {expected}")
