"""Options of the random changes that make a training view from a frame."""

import math
from dataclasses import dataclass

from mote_localization.errors import MoteError

_LEAST = {"zoom": 1, "stretch": 1, "gamma": 1}  # of the other options: 0
_MOST = {
    "tilt_deg": 45,
    "saturation": 1,
    "grey": 1,
    "swapped": 1,
    "vignette": 1,
    "bands": 1,
    "novel_view_fraction": 1,
}


@dataclass(frozen=True)
class AugmentConfig:
    """How views are augmented."""

    rotation_deg: float = 30.0  # largest rotation about the optical axis, degrees
    zoom: float = 1.5  # largest zoom factor, in or out
    shift: float = 0.1  # largest shift, fraction of the image width
    brightness: float = 0.2  # largest change of brightness, fraction of the full range
    contrast: float = 0.3  # largest relative change of contrast
    colour: float = 0.1  # largest relative change of each colour channel
    saturation: float = 0.3  # largest relative change of the saturation
    grey: float = 0.1  # fraction of views without colour, as of a grey camera
    swapped: float = 0.1  # fraction of views whose colour channels are in another order
    exposure: float = 0.5  # largest change of the exposure, stops
    gamma: float = 1.6  # largest gamma, or its inverse
    vignette: float = 0.3  # largest fraction by which the corners are darker than the centre
    # largest amplitude of bright and dark bands, as of flickering light, fraction of the brightness
    bands: float = 0.1
    noise: float = 0.02  # largest standard deviation of pixel noise, fraction of the full range
    # largest standard deviation of the blur, px; half of the views get a Gaussian blur, half a
    # motion blur
    blur: float = 1.0
    # largest ratio of the zooms along two perpendicular directions, as on slanted surfaces; 1: none
    stretch: float = 1.0
    # largest rotation of the camera about its x and about its y axis, degrees; 0: none
    tilt_deg: float = 0.0
    # largest side of a random rectangle that covers part of the image, fraction of the image
    # width; it is plain, or shows a part of the view upside down; 0: none
    cutout: float = 0.5
    # fraction of views that are rendered from a novel pose, one without a photograph
    novel_view_fraction: float = 0.0
    # standard deviation of a novel pose's shift along each axis, fraction of the median depth
    novel_view_shift: float = 0.06
    # standard deviation of a novel pose's rotation about the x and the y axis, degrees
    novel_view_rotation_deg: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least, most = _LEAST.get(name, 0), _MOST.get(name, math.inf)
            if not (least <= value <= most and math.isfinite(value)):
                option = f"--augment.{name.replace('_', '-')}"
                expected = f"{least} or more" if math.isinf(most) else f"{least} to {most}"
                raise MoteError(f"found {option} {value:g}, expected {expected}")
