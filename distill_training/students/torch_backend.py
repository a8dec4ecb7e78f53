"""A student behind the runtime's backend interface, without an export."""

import numpy as np
import torch
from torch import nn


class TorchBackend:
    """Runs a student with torch."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return points and sigma of an image; see `mote_localization.backends.Backend`."""
        points_bhw3, sigma_bhw = self._network(torch.from_numpy(image_hw3)[None].to(self._device))
        return points_bhw3[0].float().cpu().numpy(), sigma_bhw[0].float().cpu().numpy()
