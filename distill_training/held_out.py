"""The error on frames kept from training, by the robot's own Localizer: models are chosen by it."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from distill_training.reconstruction import Reconstruction
from distill_training.views import FrameStore
from mote_localization.localizer import Localizer
from mote_localization.map_file import MapFile, MapInfo

_CHI2_6_MEDIAN = 5.348  # median of a chi-square variable of 6 degrees of freedom
_BLOCKS = 4  # contiguous pieces of the recording: a frame's neighbours would give it away


@dataclass(frozen=True)
class HeldOutError:
    """How well a student localizes frames it was not trained on; lost is infinitely wrong."""

    frames: int
    median_cm: float  # of the camera position
    median_deg: float
    within_5cm_5deg: float  # share of all frames
    cell_median_cm: float  # of the points, against the teacher's
    cells_within_2_sigma: float  # share of the points
    # median of e^T C^-1 e over its expectation: how much too small the poses' covariances are
    covariance_scale: float

    def figures(self) -> dict[str, float]:
        """Return what is finite of it, by name."""
        return {name: round(v, 4) for name, v in asdict(self).items() if math.isfinite(v)}

    def __str__(self) -> str:
        """Return the short form shown while training."""
        if not self.frames:
            return "-"
        return (
            f"{self.median_cm:.1f} cm {self.median_deg:.2f}°, {self.within_5cm_5deg:.0%} in 5 cm/5°"
        )


def split_held_out(names: list[str], share: float) -> tuple[list[str], list[str]]:
    """Split off contiguous blocks, a `share` of the frames in all: (to train with, held out)."""
    length = math.ceil(round(share * len(names)) / _BLOCKS)
    held_out: set[str] = set()
    for block in range(_BLOCKS if length else 0):
        middle = round((block + 0.5) * len(names) / _BLOCKS)
        held_out.update(names[middle - length // 2 :][:length])
    return [n for n in names if n not in held_out], [n for n in names if n in held_out]


def measure_held_out(
    network: nn.Module,
    info: MapInfo,
    reconstruction: Reconstruction,
    store: FrameStore,
    names: list[str],
) -> HeldOutError:
    """Localize held-out frames with a student in training; it is left in evaluation mode."""
    localizer = Localizer(MapFile(Path("training"), info, b""), _TorchBackend(network))
    centimetres, degrees, cells, honest, surprise = [], [], [], [], []
    for name in names:
        frame = store.frame(name)
        truth = frame.plain()
        found = localizer.localize(frame.image_hw3, reconstruction.camera)
        distance = np.linalg.norm(found.points_hw3 - truth.points_hw3, axis=-1)[truth.valid_hw]
        cells.append(100 * distance)
        honest.append(distance < 2 * found.sigma_hw[truth.valid_hw])
        if found.T_map_cam is None or found.covariance_66 is None:
            centimetres.append(math.inf)
            degrees.append(180.0)
            continue
        error_6 = _pose_error(found.T_map_cam, frame.T_map_cam)
        centimetres.append(100 * float(np.linalg.norm(error_6[:3])))
        degrees.append(math.degrees(np.linalg.norm(error_6[3:])))
        information_66 = np.linalg.pinv(found.covariance_66, hermitian=True)
        surprise.append(float(error_6 @ information_66 @ error_6))
    if not names:
        return HeldOutError(0, *[math.nan] * 6)
    within = (np.array(centimetres) < 5) & (np.array(degrees) < 5)
    return HeldOutError(
        len(names),
        float(np.median(centimetres)),
        float(np.median(degrees)),
        float(within.mean()),
        float(np.median(np.concatenate(cells))),
        float(np.concatenate(honest).mean()),
        float(np.median(surprise)) / _CHI2_6_MEDIAN if surprise else math.nan,
    )


def _pose_error(T_map_cam: np.ndarray, truth_44: np.ndarray) -> np.ndarray:
    """Return the error (6,) of a pose in the axes of its covariance: metres, radians, map frame."""
    rotation_3 = cv2.Rodrigues(T_map_cam[:3, :3] @ truth_44[:3, :3].T)[0][:, 0]
    return np.concatenate([T_map_cam[:3, 3] - truth_44[:3, 3], rotation_3])


class _TorchBackend:
    """A student in training behind the runtime's interface."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict as an exported map would; see `mote_localization.backends.Backend`."""
        points_bhw3, sigma_bhw = self._network(torch.from_numpy(image_hw3)[None].to(self._device))
        return points_bhw3[0].float().cpu().numpy(), sigma_bhw[0].float().cpu().numpy()
