"""Changed views of held-out frames: from beside the recorded path, in other light, and covered.

A student is more accurate on frames of its recording, held out or not, than on a robot's images.
These views show what to expect there. They are made as the training's views are, but keep the
canonical camera.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from distill_training.training.augment_config import AugmentConfig
from distill_training.training.frame_bank import FrameBank
from distill_training.training.frame_store import FrameStore
from distill_training.training.training_views import ViewMaker
from distill_training.training.view_parameters import Draws
from mote_localization.camera import Camera
from mote_localization.geometry import invert
from mote_localization.progress import track_if_slow

_BATCH = 16  # views that are made at once
_FIXED_CAMERA = {"rotation_deg": 0.0, "zoom": 1.0, "shift": 0.0, "stretch": 1.0, "tilt_deg": 0.0}
# Light and colours change as in the training by default.
USUAL = AugmentConfig(**_FIXED_CAMERA, novel_view_fraction=1.0)
HARD = replace(
    USUAL, novel_view_shift=0.12, novel_view_rotation_deg=6.0, cutout=1.2, blur=2.0
)  # twice as far from the path, blurred twice as much, and up to all of the image covered


class ChangedView(NamedTuple):
    """An image and its true pose."""

    frame: str  # that it is made from
    image_hw3: np.ndarray  # RGB uint8, canonical camera
    T_map_cam: np.ndarray  # (4, 4)


def changed_views(
    frames: FrameStore,
    names: Sequence[str],
    camera: Camera,
    stride: int,
    config: AugmentConfig,
    count: int,
) -> Iterator[ChangedView]:
    """Yield changed views of frames, in turn; always the same ones.

    Args:
        frames: Source of the frames.
        names: The frames, one at least.
        camera: The canonical camera.
        stride: Pixels per cell side.
        config: Largest changes.
        count: Number of views.
    """
    bank = FrameBank(frames.read, camera, stride, torch.device("cpu"), _BATCH, novel_views=True)
    maker = ViewMaker(bank, config)
    starts = range(0, count, _BATCH)
    for start in track_if_slow(starts, "changed views", len(starts)):
        chosen = [names[i % len(names)] for i in range(start, min(start + _BATCH, count))]
        views = maker.make(chosen, Draws((0, start), len(chosen)))
        images = views.image_bhw3.contiguous().numpy()
        poses = views.T_cam_map_b44.numpy().astype(np.float64)
        for name, image_hw3, T_cam_map in zip(chosen, images, poses, strict=True):
            yield ChangedView(name, image_hw3, invert(T_cam_map))
