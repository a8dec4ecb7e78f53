"""How similar an image is to a rendered view, in each cell; and which of two views explains it.

A view of a place that only looks like the right one differs from the image somewhere: a picture
hangs on one wall, and not on the other. Only cells that both places show are compared, so that a
place with more keyframes has no advantage. Cells without texture are like no other: much of a blank
wall never explains an image.
"""

import cv2
import numpy as np

_WINDOW_PX = 17  # side of the compared windows
_SHIFT_PX = 1.5  # a view may be so far beside the image, in each direction
_LEAST_VARIANCE = 30.0  # grey levels squared; below, a window is like no other
_SIMILAR = 0.7  # correlation from which a window shows the same surface
_DIFFERENT = 0.3  # correlation below which it shows another one
_MOST_DIFFERENT = 0.1  # of the cells that a view shows, if it explains an image
_LEAST_SHOWN = 0.8  # of the image's cells, by a view that explains it
_LEAST_COMPARED = 0.5  # of the image's cells, by both of two compared views
_LEAST_BETTER = 0.06  # of the compared cells, in which a view is similar and the other different
_LEAST_RATIO = 4.0  # of these to the cells for which the opposite is true


def similarity(image_hw: np.ndarray, view_hw: np.ndarray, centres_hw2: np.ndarray) -> np.ndarray:
    """Return the correlation (rows, columns) of an image with a view, float32 in -1 to 1.

    The largest normalized cross-correlation of the window of each cell over small shifts.

    Args:
        image_hw: Uint8, the local contrast normalized.
        view_hw: The same of the view.
        centres_hw2: Pixels (rows, columns, 2) of the centres of the cells.
    """
    columns_hw, rows_hw = np.moveaxis(np.asarray(centres_hw2, np.float32), -1, 0)
    image_hw, view_hw = image_hw.astype(np.float32), view_hw.astype(np.float32)
    mean_hw, deviation_hw = _statistics(image_hw)
    best_hw = np.full(columns_hw.shape, -1, np.float32)
    for x in (-_SHIFT_PX, 0.0, _SHIFT_PX):
        for y in (-_SHIFT_PX, 0.0, _SHIFT_PX):
            moved_hw = cv2.warpAffine(
                view_hw,
                np.array([[1, 0, x], [0, 1, y]]),
                view_hw.shape[::-1],
                borderMode=cv2.BORDER_REFLECT,
            )
            moved_mean_hw, moved_deviation_hw = _statistics(moved_hw)
            covariance_hw = _mean(image_hw * moved_hw) - mean_hw * moved_mean_hw
            correlation_hw = covariance_hw / (deviation_hw * moved_deviation_hw)
            of_cells_hw = cv2.remap(correlation_hw, columns_hw, rows_hw, cv2.INTER_LINEAR)
            best_hw = np.maximum(best_hw, of_cells_hw)
    return best_hw


def is_explained_better(one_hw: np.ndarray, other_hw: np.ndarray, covered: int) -> bool:
    """Return whether a view explains an image, and another one clearly does not.

    A paired comparison, as of McNemar's test: only cells count in which the views differ. The
    bounds are fractions of cells and no significance, because neighbouring cells are not
    independent.

    Args:
        one_hw: Correlations (rows, columns) with the view; NaN in cells that it does not show.
        other_hw: Those with the other view.
        covered: Number of cells of the image that the camera sees.
    """
    shown_hw, both_hw = np.isfinite(one_hw), np.isfinite(one_hw + other_hw)
    if shown_hw.sum() < _LEAST_SHOWN * covered or both_hw.sum() < _LEAST_COMPARED * covered:
        return False
    if (one_hw[shown_hw] < _DIFFERENT).mean() > _MOST_DIFFERENT:
        return False
    one_n, other_n = one_hw[both_hw], other_hw[both_hw]
    better = float(((one_n > _SIMILAR) & (other_n < _DIFFERENT)).mean())
    worse = float(((other_n > _SIMILAR) & (one_n < _DIFFERENT)).mean())
    return better - worse >= _LEAST_BETTER and better >= _LEAST_RATIO * worse


def _statistics(image_hw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the window around each pixel."""
    mean_hw = _mean(image_hw)
    variance_hw = _mean(image_hw * image_hw) - mean_hw * mean_hw
    return mean_hw, np.sqrt(np.maximum(variance_hw, _LEAST_VARIANCE))


def _mean(image_hw: np.ndarray) -> np.ndarray:
    return cv2.boxFilter(image_hw, cv2.CV_32F, (_WINDOW_PX, _WINDOW_PX))
