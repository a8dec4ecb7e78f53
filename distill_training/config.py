"""The settings of a training, free of torch, so that a command line shows them without it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distill_training.augment import AugmentConfig
from mote_localization.errors import MoteError

_MOST_HELD_OUT = 0.5  # of the frames: with fewer left there is little to train with


@dataclass(frozen=True)
class TrainConfig:
    """How a student is trained."""

    minutes: float = 25.0  # min of training; start-up and export come on top
    steps: int = 0  # train for so many steps instead; 0: for the minutes
    batch: int = 8  # views per step, of each process where several train together
    learning_rate: float = 3e-3  # AdamW, highest of the one-cycle schedule
    weight_decay: float = 1e-2  # AdamW
    warm_up: float = 0.05  # share of the training in which the learning rate rises
    # share of the training after which batch statistics stay as they are, so that what is trained
    # to the end is what the map will hold
    fix_statistics: float = 0.6
    # decay a step of the average of the weights that is measured and becomes the map; 0: the last
    # weights are
    ema: float = 0.0
    loss: Literal["distill", "distill+reprojection"] = "distill"  # what is minimized
    reprojection_weight: float = 0.1  # of the reprojection loss, per canonical px
    # canonical px, at the start and at the end
    reprojection_bound_px: tuple[float, float] = (30.0, 2.0)
    held_out: float = 0.05  # share of the frames kept from training to measure the error on
    margin: int = 0  # frames on either side of each held-out block that are not trained with either
    # an earlier map of the place, trained with frames held out, whose measured scales of sigmas and
    # covariances are taken; by default they are measured on this training's own
    calibrated_by: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    # auto: bf16 where the processor computes in it
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # of the first weights and of the views; with steps given, the training repeats exactly
    seed: int = 0
    # how views differ from their frames
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.steps < 0 or (self.steps == 0 and not self.minutes > 0):
            raise MoteError(
                f"found --minutes {self.minutes:g}, --steps {self.steps}, expected either above 0"
            )
        if self.batch < 1 or not self.learning_rate > 0:
            raise MoteError(
                f"found --batch {self.batch} and --learning-rate {self.learning_rate:g}, expected "
                "1 or more and above 0"
            )
        if not 0 <= self.ema < 1:
            raise MoteError(f"found --ema {self.ema:g}, expected a decay from 0 to below 1")
        if not 0 <= self.held_out <= _MOST_HELD_OUT or self.margin < 0:
            raise MoteError(
                f"found --held-out {self.held_out:g}, --margin {self.margin}, expected a share, at "
                f"most {_MOST_HELD_OUT}, and 0 frames or more"
            )
