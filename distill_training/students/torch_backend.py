"""A student that is no map yet, behind the runtime's interface."""

import numpy as np
import torch
from torch import nn


class TorchBackend:
    """Runs a student as it is."""

    def __init__(self, network: nn.Module) -> None:
        """Take a student, and put it in evaluation mode."""
        self._network = network.eval()
        self._device = next(network.parameters()).device

    @torch.inference_mode()
    def predict(self, image_hw3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict as an exported map would; see `mote_localization.backends.Backend`."""
        points_bhw3, sigma_bhw = self._network(torch.from_numpy(image_hw3)[None].to(self._device))
        return points_bhw3[0].float().cpu().numpy(), sigma_bhw[0].float().cpu().numpy()
