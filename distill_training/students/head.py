"""Input and output layers of all students: image normalization and coordinate head."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Bounds of the logarithm of sigma (m): sigma stays between 1 mm and 20 m.
LOG_SIGMA_RANGE = (-6.9, 3.0)
# Mean and standard deviation of the ImageNet images' RGB values, in [0, 1].
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class SceneNormalization:
    """Mean and spread of the points of a place; the network predicts (point - mean) / spread."""

    mean: tuple[float, float, float]  # m, map frame
    spread: float  # m, standard deviation of the points, the same for all axes


class ImageInput(nn.Module):
    """Converts image_bhw3 uint8 RGB to float (b, 3, h, w) of about unit range."""

    def __init__(self, scale: float = 64, offset: float = 2) -> None:
        super().__init__()
        self._scale, self._offset = scale, offset

    def forward(self, image_bhw3: Tensor) -> Tensor:
        """Return the normalized image; the cast comes first because TensorRT needs it for uint8."""
        return image_bhw3.float().permute(0, 3, 1, 2) / self._scale - self._offset


class ImageNetInput(nn.Module):
    """Normalizes image_bhw3 uint8 RGB with the colour statistics of ImageNet."""

    scale: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, deviation = (torch.tensor(rgb).view(3, 1, 1) for rgb in _IMAGENET)
        self.register_buffer("scale", 255 * deviation, persistent=False)
        self.register_buffer("offset", mean / deviation, persistent=False)

    def forward(self, image_bhw3: Tensor) -> Tensor:
        """Return the normalized image."""
        return image_bhw3.float().permute(0, 3, 1, 2) / self.scale - self.offset


class CoordinateHead(nn.Module):
    """Converts features of the last layer to points in the map frame and their expected error."""

    def __init__(self, channels: int, normalization: SceneNormalization) -> None:
        super().__init__()
        self.out = nn.Conv2d(channels, 4, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        self.out.bias = nn.Parameter(torch.zeros(4))
        self.register_buffer("mean", torch.tensor(normalization.mean))
        self.register_buffer("spread", torch.tensor(normalization.spread))

    def scale_sigma(self, scale: float) -> None:
        """Multiply all later expected errors by a factor."""
        with torch.no_grad():
            self.out.bias[3] += math.log(scale)  # type: ignore[index]

    def forward(self, features_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Return points_bhw3 (m, map frame) and sigma_bhw (m), computed in float32.

        In half precision, coordinates of a few metres have steps of centimetres.
        """
        with torch.autocast(features_bchw.device.type, enabled=False):
            out_bhw4 = self.out(features_bchw.float()).permute(0, 2, 3, 1)
            points_bhw3 = out_bhw4[..., :3] * self.spread + self.mean
            sigma_bhw = out_bhw4[..., 3].clamp(*LOG_SIGMA_RANGE).exp()
        return points_bhw3, sigma_bhw
