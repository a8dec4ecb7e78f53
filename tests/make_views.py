"""Batches of training views of frames in memory, for tests."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from make_wall import CAMERA, POSE, wall_frame

from distill_training.reconstruction import ReconstructedFrame
from distill_training.training.augment_config import AugmentConfig
from distill_training.training.frame_bank import FrameBank
from distill_training.training.frame_store import Frame, make_frame
from distill_training.training.training_views import ViewMaker, Views
from distill_training.training.view_parameters import Draws

CPU = torch.device("cpu")
NO_CHANGE = AugmentConfig(
    **{field.name: field.name in ("zoom", "stretch", "gamma") for field in fields(AugmentConfig)}
)
VIEWS = 20


class View:
    """One of a batch of views, as arrays."""

    def __init__(self, batch: Views, index: int) -> None:
        for field in fields(batch):
            name = field.name.replace("_b44", "").replace("_bhw", "_hw")
            setattr(self, name, getattr(batch, field.name)[index].numpy())


def maker(
    frames: Sequence[ReconstructedFrame],
    config: AugmentConfig,
    poses: Sequence[np.ndarray] = (POSE,),
    slots: int | None = None,
    read: list[str] | None = None,
) -> ViewMaker:
    """Makes views of frames that are named 0, 1, ...; names are added to `read` when read."""

    def read_frame(name: str) -> Frame:
        if read is not None:
            read.append(name)
        return make_frame(frames[int(name)], poses[int(name)], CAMERA, 8)

    novel = config.novel_view_fraction > 0
    bank = FrameBank(read_frame, CAMERA, 8, CPU, slots or len(frames), novel)
    return ViewMaker(bank, config)


def views(config: AugmentConfig, frame: ReconstructedFrame | None = None, pose=POSE) -> list[View]:
    """A batch of views of one frame."""
    made = maker([frame or wall_frame()], config, [pose]).make(["0"] * VIEWS, Draws((0,), VIEWS))
    return [View(made, index) for index in range(VIEWS)]
