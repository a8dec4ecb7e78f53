"""Training frames on the training device, in a bounded number of slots.

A batch names its frames. Missing ones are read into the slots that were not used for the longest
time, so memory is bounded, and training begins at once.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from distill_training.training.frame_store import Frame
from distill_training.training.neighbours import MAX_NEIGHBOURS
from distill_training.training.novel_views import fill_holes
from mote_localization.camera import Camera

_HOST_BYTES = 1 << 30  # of all slots, where the training device is the CPU
_DEVICE_FRACTION = 0.5  # of the free memory of another training device
# What the host needs to choose random views of a frame.
SOURCE = np.dtype(
    [
        ("T_map_cam", np.float64, (4, 4)),
        ("T_near_map", np.float64, (MAX_NEIGHBOURS, 4, 4)),
        ("neighbours", np.int64),
        ("median_depth", np.float64),  # m; 0: no depth is known
    ]
)


class FrameBank:
    """Frames in slots s of tensors on the training device."""

    def __init__(
        self,
        read: Callable[[str], Frame],
        camera: Camera,
        stride: int,
        device: torch.device,
        slots: int,
        novel_views: bool = False,
    ) -> None:
        """Reserve the memory of all slots.

        Args:
            read: Reads a frame by its name.
            camera: Canonical camera.
            stride: Pixels per cell side.
            device: The training device.
            slots: Number of frames that are kept, at least those of a batch.
            novel_views: Also keep what the rendering of novel views needs.
        """
        self.camera, self.stride, self.device = camera, stride, device
        self._read, self._slots = read, slots
        self._slot_of: OrderedDict[str, int] = OrderedDict()  # least recently used first
        cells = (camera.height // stride, camera.width // stride)

        def reserve(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty((slots, *shape), dtype=dtype, device=device)

        self.image_s3hw = reserve(3, camera.height, camera.width, dtype=torch.uint8)
        self.depth_shw, self.sigma_shw = reserve(*cells), reserve(*cells)  # m; 0: unknown
        # depth without holes, m
        self.filled_shw = reserve(*cells) if novel_views else None
        self.sources_s = np.zeros(slots, SOURCE)  # on the host

    def load(self, names: Sequence[str]) -> np.ndarray:
        """Return the slots (B,) of the named frames; those that are in no slot are read.

        Raises:
            ReconstructionError: A frame cannot be read.
        """
        for name in names:
            if name in self._slot_of:
                self._slot_of.move_to_end(name)
        for name in names:
            if name not in self._slot_of:
                frame = self._read(name)
                full = len(self._slot_of) == self._slots
                slot = self._slot_of.popitem(last=False)[1] if full else len(self._slot_of)
                self._write(slot, frame)
                self._slot_of[name] = slot
        return np.array([self._slot_of[name] for name in names])

    def _write(self, slot: int, frame: Frame) -> None:
        """Move a frame to the device."""
        self.image_s3hw[slot] = torch.from_numpy(frame.image_hw3).permute(2, 0, 1)
        self.depth_shw[slot] = torch.from_numpy(frame.depth_hw)
        self.sigma_shw[slot] = torch.from_numpy(frame.sigma_hw)
        if self.filled_shw is not None:
            self.filled_shw[slot] = torch.from_numpy(fill_holes(frame.depth_hw))
        known = frame.depth_hw[frame.valid_hw]
        near_n44 = frame.T_near_map_n44
        source = self.sources_s[slot]
        source["T_map_cam"], source["neighbours"] = frame.T_map_cam, len(near_n44)
        source["T_near_map"][: len(near_n44)] = near_n44
        source["median_depth"] = np.median(known) if len(known) else 0


def slots_for(
    frames: int, batch: int, camera: Camera, stride: int, device: torch.device, novel_views: bool
) -> int:
    """Return how many frames of a training are kept on its device: all, if there is memory.

    Args:
        frames: Number of frames of the training.
        batch: Views per step.
        camera: Canonical camera.
        stride: Pixels per cell side.
        device: The training device.
        novel_views: Whether novel views are rendered.
    """
    cells = (camera.height // stride) * (camera.width // stride)
    frame_bytes = 3 * camera.width * camera.height + cells * (12 if novel_views else 8)
    budget = float(_HOST_BYTES)
    if device.type == "cuda":
        budget = _DEVICE_FRACTION * torch.cuda.mem_get_info(device)[0]
    return min(frames, max(batch, int(budget / frame_bytes)))
