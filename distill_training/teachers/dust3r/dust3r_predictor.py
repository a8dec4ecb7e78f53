"""DUSt3R as a pair predictor: encodes each image once, decodes both orders of a pair together."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill_training.common import licences
from distill_training.common.file_hash import file_sha256
from distill_training.teachers.dust3r.network import DUSt3R, Grid, half_precision
from distill_training.teachers.dust3r.prepare import prepare, prepared_camera
from distill_training.teachers.dust3r.published_checkpoint import (
    describe_checkpoint,
    load_checkpoint,
)
from distill_training.teachers.pairwise.pair_predictor import Encoded, PairPointmaps, Pointmap
from mote_localization.camera import Camera
from mote_localization.errors import CameraError, MoteError, SceneError
from mote_localization.scenes import Frame


class Dust3r:
    """Pair predictor with a DUSt3R network.

    The features of an `Encoded` are its tokens (rows, columns, channels).
    """

    name = "dust3r"
    licence = licences.DUST3R

    def __init__(
        self,
        network: DUSt3R,
        checkpoint_sha256: str,
        device: str = "auto",
        load: Callable[[], DUSt3R] | None = None,
    ) -> None:
        """Create a predictor.

        Args:
            network: Moved to the device when it is first used.
            checkpoint_sha256: SHA-256 of the checkpoint file.
            device: Name of a torch device; auto: the GPU if there is one, else the CPU.
            load: Returns the network with its parameters, if those of `network` have no values.

        Raises:
            MoteError: The device does not exist.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._device = torch.device(device)
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            raise MoteError(
                f"found device '{device[:40]}' ({reason[:120]}), expected auto, cpu, or a GPU that "
                "torch can use"
            ) from error
        self._load = load or (lambda: network)
        self._size, self._patch = max(network.img_size), network.patch_size
        self.settings: dict[str, float | int | str] = {
            "checkpoint_sha256": checkpoint_sha256,
            "head": network.head_type,
            "input_px": self._size,
            "precision": _precision(self._device),  # it changes the features
        }

    @classmethod
    def open(cls, path: Path | str, device: str = "auto") -> "Dust3r":
        """Check a published checkpoint; its parameters are read when the first image is encoded.

        Raises:
            CheckpointError: As `load_checkpoint`; encoding the first image may raise it, too.
            MoteError: The device does not exist.
        """
        network = describe_checkpoint(path)
        return cls(network, file_sha256(path), device, lambda: load_checkpoint(path))

    @cached_property
    def _network(self) -> DUSt3R:
        return self._load().to(self._device).eval()

    def camera(self, live: Camera) -> Camera:
        """Return the camera of the network's input for an undistorted camera.

        Raises:
            CameraError: The image is too long and narrow: its short side is less than one patch.
        """
        return prepared_camera(live, self._size, self._patch)

    @torch.inference_mode()
    def encode(self, frame: Frame, image_hw3: np.ndarray, live: Camera) -> Encoded:
        """Return the features of an image, RGB uint8, undistorted, with the size of its camera.

        Raises:
            SceneError: The image cannot be prepared for the network.
        """
        if image_hw3.shape != (live.height, live.width, 3) or image_hw3.dtype != np.uint8:
            raise SceneError(
                f"frame {frame.name[:60]}: found an image of shape {image_hw3.shape} "
                f"{image_hw3.dtype}, expected {(live.height, live.width, 3)} uint8 as its camera"
            )
        try:
            camera = self.camera(live)
        except CameraError as error:
            raise SceneError(f"frame {frame.name[:60]}: {error}") from error
        image_b3hw = prepare(image_hw3, self._size, self._patch)[None].to(self._device)
        tokens_bnc, grid = self._network.encode(image_b3hw)
        return Encoded(tokens_bnc[0].half().unflatten(0, grid).cpu().numpy(), camera)

    def descriptor(self, encoded: Encoded) -> np.ndarray:
        """Return the direction (d,) float32 of the mean token."""
        mean = encoded.features.mean(axis=(0, 1), dtype=np.float32)
        return mean / np.linalg.norm(mean)

    @torch.inference_mode()
    def decode(
        self, ones: Sequence[Encoded], others: Sequence[Encoded]
    ) -> tuple[PairPointmaps, PairPointmaps]:
        """Predict the directed pairs (one, other) and (other, one); see `PairPredictor`."""
        one, grid = self._tokens(ones)
        other, other_grid = self._tokens(others)
        if grid != other_grid:
            return (
                _pair_pointmaps(self._network.decode(one, grid, other, other_grid)),
                _pair_pointmaps(self._network.decode(other, other_grid, one, grid)),
            )
        both = self._network.decode(torch.cat([one, other]), grid, torch.cat([other, one]), grid)
        forward, backward = zip(*(values.chunk(2) for values in both), strict=True)
        return _pair_pointmaps(forward), _pair_pointmaps(backward)

    def _tokens(self, images: Sequence[Encoded]) -> tuple[Tensor, Grid]:
        """Return the tokens (b, n, c) of a batch of images, float32, and their grid."""
        features_bhwc = torch.from_numpy(np.stack([image.features for image in images]))
        rows, columns = features_bhwc.shape[1:3]
        return features_bhwc.to(self._device).float().flatten(1, 2), (rows, columns)


def _pair_pointmaps(values: Sequence[Tensor]) -> PairPointmaps:
    """Return the predictions of the network, whose confidence 1 + exp(x) becomes its logarithm."""
    points1_bhw3, conf1_bhw, points2_bhw3, conf2_bhw = values
    return PairPointmaps(
        Pointmap(points1_bhw3, conf1_bhw.log()), Pointmap(points2_bhw3, conf2_bhw.log())
    )


def _precision(device: torch.device) -> str:
    """Return the precision of the network's blocks on a device: fp32, bf16 or fp16."""
    with half_precision(device):
        if not torch.is_autocast_enabled("cuda"):
            return "fp32"
        return "bf16" if torch.get_autocast_dtype("cuda") == torch.bfloat16 else "fp16"
