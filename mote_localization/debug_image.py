"""A picture of how an image was localized: its matches, and its status or the reason."""

import textwrap

import cv2
import numpy as np

from mote_localization.localizer import Localization, Status

_SCALE = 2  # of the canonical image
_AGREES, _DISAGREES = (0, 220, 0), (230, 60, 60)  # RGB
_LINE_PX, _MARGIN_PX = 18, 6
_LETTER_PX = 8.0  # width of a letter
_FONT = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def debug_image(found: Localization) -> np.ndarray:
    """Return a picture (H, W, 3), RGB uint8.

    Matches that agree with the pose are green, the others red. Below are the status and the number
    of inliers, or why the image is lost.
    """
    picture = cv2.resize(found.image_hw3, None, fx=_SCALE, fy=_SCALE)
    for (x, y), agrees in zip(found.pixels_n2, found.agree_n, strict=True):
        centre = round(_SCALE * (x + 0.5)), round(_SCALE * (y + 0.5))
        cv2.circle(picture, centre, 2, _AGREES if agrees else _DISAGREES, -1, cv2.LINE_AA)
    text = f"localized: {found.inliers} of {found.cells} inliers"
    if found.status is Status.LOST:
        text = f"lost: {found.reason}"
    width = picture.shape[1]
    lines = textwrap.wrap(text, int((width - 2 * _MARGIN_PX) / _LETTER_PX))
    strip = np.zeros((_LINE_PX * len(lines) + _MARGIN_PX, width, 3), np.uint8)
    for i, line in enumerate(lines):
        origin = _MARGIN_PX, _LINE_PX * (i + 1) - 4
        cv2.putText(strip, line, origin, *_FONT, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip])
